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
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// protocol is one of the two ways in which neighbours find each other.
type protocol struct {
	name      string
	ethertype int
	filter    []bpf.Instruction // what of the ethertype the kernel is to give us
	parse     func(packet []byte, from net.HardwareAddr) (statement, error)
}

// statement is what matters of a packet: that somebody has an address, or asks
// whether it may have it.
type statement struct {
	claims netip.Addr // the sender has it; invalid: it claims none
	probes netip.Addr // the sender is about to have it (RFC 5227, RFC 4862)
	// mac is where claims is, nil if the packet does not say.
	mac  net.HardwareAddr
	from net.HardwareAddr // the frame's sender
}

// sender is the best that is known of who made the statement.
func (s statement) sender() net.HardwareAddr {
	if s.mac != nil {
		return s.mac
	}
	return s.from
}

// protocolOf returns the protocol that finds an address.
func protocolOf(a netip.Addr) protocol {
	if a.Is4() {
		return arp()
	}
	return ndp()
}

func arp() protocol {
	return protocol{name: "ARP", ethertype: unix.ETH_P_ARP, parse: func(b []byte, from net.HardwareAddr) (statement, error) {
		p, err := ParsePacket(b)
		if err != nil {
			return statement{}, err
		}
		s := statement{mac: p.SenderMAC, from: from}
		if !p.SenderAddr.IsUnspecified() {
			s.claims = p.SenderAddr
		} else if p.Operation == Request {
			s.probes = p.TargetAddr
		}
		return s, nil
	}}
}

func ndp() protocol {
	return protocol{name: "NDP", ethertype: unix.ETH_P_IPV6, filter: onlyDiscovery(), parse: func(b []byte, from net.HardwareAddr) (statement, error) {
		d, err := ParseDiscovery(b)
		if err != nil {
			return statement{}, err
		}
		s := statement{mac: d.MAC, from: from}
		switch {
		case d.Type == Advertisement:
			s.claims = d.Target
		case d.Source.IsUnspecified():
			s.probes = d.Target
		default:
			s.claims = d.Source
		}
		return s, nil
	}}
}

// onlyDiscovery keeps the rest of IPv6, which is a director's whole work, out
// of our socket.
func onlyDiscovery() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: offNextHeader, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocolICMPv6, SkipTrue: 3},
		bpf.LoadAbsolute{Off: headerLen + offType, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(Solicitation), SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(Advertisement), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: bufferLen},
	}
}

// bufferLen is more than any packet that we understand needs; RFC 4861 has
// options that make one longer.
const bufferLen = 256

// socket sends and receives one protocol on one interface. The kernel gives it
// frames of that protocol only, and none that this host sent.
type socket struct {
	protocol
	conn  *packet.Conn
	iface string
	mac   net.HardwareAddr
}

func open(iface string, p protocol) (*socket, error) {
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
	filter, err := bpf.Assemble(p.filter)
	if err != nil {
		return nil, fmt.Errorf("%s filter: %w", p.name, err)
	}
	c, err := packet.Listen(&net.Interface{Index: i.Index, Name: i.Name, MTU: i.MTU, HardwareAddr: i.MAC},
		packet.Datagram, p.ethertype, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("interface %s: %s socket: %w", iface, p.name, err)
	}
	return &socket{protocol: p, conn: c, iface: i.Name, mac: i.MAC}, nil
}

// message is a packet of either protocol.
type message interface{ AppendBinary([]byte) ([]byte, error) }

func (s *socket) send(m message, to net.HardwareAddr) error {
	b, err := m.AppendBinary(make([]byte, 0, bufferLen))
	if err != nil {
		return err
	}
	if _, err := s.conn.WriteTo(b, &packet.Addr{HardwareAddr: to}); err != nil {
		return fmt.Errorf("interface %s: send %s: %w", s.iface, s.name, err)
	}
	return nil
}

// receive returns the next statement of someone else, or os.ErrDeadlineExceeded.
func (s *socket) receive(buf []byte) (statement, error) {
	for {
		n, addr, err := s.conn.ReadFrom(buf)
		if err != nil {
			// A link that goes down says so once to each socket, which works
			// again when the link comes back, unless the link is no more.
			if errors.Is(err, unix.ENETDOWN) && s.bound() {
				continue
			}
			return statement{}, err
		}
		var from net.HardwareAddr
		if a, ok := addr.(*packet.Addr); ok {
			from = a.HardwareAddr
		}
		st, err := s.parse(buf[:n], from)
		if err != nil || string(st.sender()) == string(s.mac) {
			continue
		}
		return st, nil
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

// await reads until a statement is wanted (true) or the time is up (false).
func (s *socket) await(until time.Time, wanted func(statement) bool) (statement, bool, error) {
	if err := s.conn.SetReadDeadline(until); err != nil {
		return statement{}, false, err
	}
	buf := make([]byte, bufferLen)
	for {
		st, err := s.receive(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return statement{}, false, nil
		}
		if err != nil {
			return statement{}, false, fmt.Errorf("interface %s: receive %s: %w", s.iface, s.name, err)
		}
		if wanted(st) {
			return st, true, nil
		}
	}
}

func (s *socket) close() error { return s.conn.Close() }

// announce says once, in each form there is, that the VIP is here.
func (s *socket) announce(vip netip.Addr) error {
	if vip.Is6() {
		// RFC 4861, 7.2.6: to all nodes, and what they know of it is wrong. The
		// VIP is one of the interface's addresses, so it may be the sender.
		return s.send(Discovery{Type: Advertisement, Source: vip, Destination: allNodes, Target: vip, MAC: s.mac, Override: true},
			groupMAC(allNodes))
	}
	p := Packet{Operation: Request, SenderMAC: s.mac, SenderAddr: vip, TargetMAC: nobody, TargetAddr: vip}
	if err := s.send(p, everyone); err != nil {
		return err
	}
	// Linux takes a reply for gratuitous only if both MACs are the sender's.
	p.Operation, p.TargetMAC = Reply, s.mac
	return s.send(p, everyone)
}

// request asks who has target: everyone, or (to) one MAC address. From an
// unspecified source it is a probe.
func (s *socket) request(source, target netip.Addr, to net.HardwareAddr) error {
	if target.Is6() {
		d := Discovery{Type: Solicitation, Source: source, Destination: target, Target: target}
		if !source.IsUnspecified() {
			d.MAC = s.mac // where to answer to
		}
		if to == nil {
			d.Destination = solicitedNode(target)
			to = groupMAC(d.Destination)
		}
		return s.send(d, to)
	}
	if to == nil {
		to = everyone
	}
	return s.send(Packet{Operation: Request, SenderMAC: s.mac, SenderAddr: source, TargetMAC: nobody, TargetAddr: target}, to)
}

// speakable refuses addresses that no link can be asked for.
func speakable(addrs ...netip.Addr) error {
	for _, a := range addrs {
		switch {
		case is6(a) && a.IsLinkLocalUnicast():
			return fmt.Errorf("address %v: %w: a link-local address means another machine on each link; it takes a global one", a, ErrFamily)
		case !a.Is4() && !is6(a), a.IsUnspecified(), a.IsMulticast(), a.IsLoopback():
			return fmt.Errorf("address %v: %w; it takes a unicast address", a, ErrFamily)
		}
	}
	return nil
}

// askable refuses a question that cannot be asked from that source.
func askable(source, target netip.Addr) error {
	if err := speakable(target); err != nil {
		return err
	}
	if is6(source) && source.IsLinkLocalUnicast() && target.Is6() {
		return nil
	}
	if err := speakable(source); err != nil {
		return err
	}
	if source.Is4() != target.Is4() {
		return fmt.Errorf("address %v: %w from %v, which is of another family", target, ErrFamily, source)
	}
	return nil
}

var (
	everyone = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	nobody   = net.HardwareAddr{0, 0, 0, 0, 0, 0}
)
