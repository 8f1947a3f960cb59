// SPDX-License-Identifier: MIT

package link

import (
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

// TestTooManyNeighbours: the kernel refuses what is beyond its limit, and the
// error says which sysctl that is.
func TestTooManyNeighbours(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/neigh/default/gc_thresh3") // not in the namespaces of tests
	if err != nil {
		t.Skipf("this machine does not say how many neighbours it takes: %v", err)
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if limit > 4096 {
		t.Skipf("this machine takes %d neighbours: too many to try", limit)
	}
	labtest.InNamespace(t)
	labtest.IP(t, "link add a0 type veth peer name b0")
	labtest.IP(t, "link set a0 up")
	labtest.IP(t, "link set b0 up")
	labtest.IP(t, "addr add 10.1.0.1/16 dev a0")
	i, err := InterfaceByName("a0")
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for n := range limit + 1 {
		a := netip.AddrFrom4([4]byte{10, 1, byte(1 + n/250), byte(1 + n%250)})
		if err = manage(i.Index, a); err != nil {
			break
		}
		kept++
	}
	labtest.IP(t, "link del a0") // at once: the entries of all namespaces are counted together
	if !errors.Is(err, ErrNeighboursFull) || !strings.Contains(err.Error(), "net.ipv4.neigh.default.gc_thresh3") {
		t.Errorf("%d neighbours of %d, and then %v", kept, limit, err)
	}
}
