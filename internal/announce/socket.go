// SPDX-License-Identifier: MIT

package announce

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/packet"
	"github.com/shunt-lvs/shunt/internal/link"
	"golang.org/x/sys/unix"
)

// socket sends and receives ARP on one interface. The kernel gives it frames of
// ARP's ethertype only, and none that this host sent.
type socket struct {
	conn  *packet.Conn
	iface string
	mac   net.HardwareAddr
}

func open(iface string) (*socket, error) {
	i, err := link.InterfaceByName(iface)
	if err != nil {
		return nil, err
	}
	switch {
	case len(i.MAC) != macLen:
		return nil, fmt.Errorf("interface %s: %w: it has no Ethernet address; name the interface that faces the clients and real servers", iface, ErrLink)
	case !i.Up:
		return nil, fmt.Errorf("interface %s: %w: it is down; 'ip link set %s up'", iface, ErrLink, iface)
	}
	c, err := packet.Listen(&net.Interface{Index: i.Index, Name: i.Name, MTU: i.MTU, HardwareAddr: i.MAC},
		packet.Datagram, unix.ETH_P_ARP, nil)
	if err != nil {
		return nil, fmt.Errorf("interface %s: ARP socket: %w", iface, err)
	}
	return &socket{conn: c, iface: i.Name, mac: i.MAC}, nil
}

func (s *socket) send(p Packet, to net.HardwareAddr) error {
	b, err := p.AppendBinary(make([]byte, 0, packetLen))
	if err != nil {
		return err
	}
	if _, err := s.conn.WriteTo(b, &packet.Addr{HardwareAddr: to}); err != nil {
		return fmt.Errorf("interface %s: send ARP: %w", s.iface, err)
	}
	return nil
}

// receive returns the next ARP packet of someone else, or os.ErrDeadlineExceeded.
func (s *socket) receive(buf []byte) (Packet, error) {
	for {
		n, _, err := s.conn.ReadFrom(buf)
		if err != nil {
			// A link that goes down says so once to each socket, which works
			// again when the link comes back, unless the link is no more.
			if errors.Is(err, unix.ENETDOWN) && s.bound() {
				continue
			}
			return Packet{}, err
		}
		p, err := ParsePacket(buf[:n])
		if err != nil || string(p.SenderMAC) == string(s.mac) {
			continue
		}
		return p, nil
	}
}

// bound tells whether the interface still exists.
func (s *socket) bound() bool {
	index := -1
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		if sa, err := unix.Getsockname(int(fd)); err == nil {
			if ll, ok := sa.(*unix.SockaddrLinklayer); ok {
				index = ll.Ifindex
			}
		}
	})
	return err == nil && index > 0
}

// await reads packets until one is wanted (true) or the time is up (false).
func (s *socket) await(until time.Time, wanted func(Packet) bool) (Packet, bool, error) {
	if err := s.conn.SetReadDeadline(until); err != nil {
		return Packet{}, false, err
	}
	buf := make([]byte, 128)
	for {
		p, err := s.receive(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return Packet{}, false, nil
		}
		if err != nil {
			return Packet{}, false, fmt.Errorf("interface %s: receive ARP: %w", s.iface, err)
		}
		if wanted(p) {
			return p, true, nil
		}
	}
}

func (s *socket) close() error { return s.conn.Close() }

func speakable(addrs ...netip.Addr) error {
	for _, a := range addrs {
		if !a.Is4() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
			return fmt.Errorf("address %v: %w; it takes an IPv4 unicast address", a, ErrFamily)
		}
	}
	return nil
}

var (
	everyone = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	nobody   = net.HardwareAddr{0, 0, 0, 0, 0, 0}
)
