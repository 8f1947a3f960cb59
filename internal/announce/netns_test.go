// SPDX-License-Identifier: MIT

package announce

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/packet"
)

// listen reads packets from a socket until one ends it.
func listen(t *testing.T, s *socket, last func(packet []byte, from net.HardwareAddr) bool) {
	t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, bufferLen)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if last(buf[:n], from.(*packet.Addr).HardwareAddr) {
			return
		}
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
