// SPDX-License-Identifier: MIT

package dataplane

import (
	"fmt"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// TestAddressAndPortDoNotCancel: a client that chooses both must not be able to
// have its connections all in one bucket, whatever the secret.
func TestAddressAndPortDoNotCancel(t *testing.T) {
	const clients = 200
	p := newPlane(t)
	four := table(lvs.TCP, lvs.RoundRobin, server(0, 1))
	six := table6(lvs.TCP, lvs.RoundRobin, server(0, 1))
	four.Services = append(four.Services, six.Services...)
	install(t, p, four)
	for i := 1; i <= clients; i++ {
		for _, frame := range [][]byte{
			tcpFrame(fmt.Sprintf("10.%d.0.1:%d", i, 0x8000|i), "S"),
			tcpFrame6(fmt.Sprintf("[2001:db8:1::%x:1]:%d", i, 0x8000|i), "S"),
			tcpFrame6(fmt.Sprintf("[2001:db8:1:0:%x::1]:%d", i, 0x8000|i), "S"),
		} {
			if o := send(t, p, frame); o.verdict != bpfVerdictVERDICT_FORWARD_NEW {
				t.Fatalf("client %d: %v: %d connections are enough to fill a bucket", i, o.verdict, i)
			}
		}
	}
}
