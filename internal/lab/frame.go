// SPDX-License-Identifier: MIT

package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// MAC is a hardware address that can be compared with ==.
type MAC [6]byte

// String is the usual notation.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Is says whether m is that address.
func (m MAC) Is(a net.HardwareAddr) bool { return len(a) == len(m) && MAC(a) == m }

// Broadcast says whether m is ff:ff:ff:ff:ff:ff.
func (m MAC) Broadcast() bool { return m == MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// The EtherTypes that are decoded.
const (
	EtherTypeIPv4 = 0x0800
	EtherTypeARP  = 0x0806
	EtherTypeIPv6 = 0x86dd
)

// The protocols that are decoded: ports, and of ICMPv6 neighbour discovery.
const (
	ProtocolTCP    = 6
	ProtocolUDP    = 17
	ProtocolICMPv6 = 58
)

// TCP flags, as in the header.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// ARP operations.
const (
	ARPRequest = 1
	ARPReply   = 2
)

// The types of neighbour discovery that are decoded.
const (
	NeighbourSolicitation  = 135
	NeighbourAdvertisement = 136
)

// Frame is one frame that a Tap saw at a port of the switch.
type Frame struct {
	Port      string // the node at that port
	FromNode  bool   // sent by the node; else on its way to it
	Length    int    // in bytes, with the Ethernet header, without FCS
	Src, Dst  MAC
	EtherType uint16
	ARP       *ARP    // nil if it is none, or a malformed one
	IP        *Packet // nil if it is neither IPv4 nor IPv6, or malformed
	NDP       *NDP    // nil if IP is neither a neighbour's solicitation nor advertisement
}

// ARP is the content of an ARP frame for IPv4 over Ethernet.
type ARP struct {
	Operation uint16
	SenderMAC MAC
	Sender    netip.Addr
	TargetMAC MAC
	Target    netip.Addr
}

// NDP is the content of a neighbour solicitation or advertisement; who sends it
// to whom is in the frame's IP.
type NDP struct {
	Type   uint8
	Target netip.Addr
	// MAC is where a solicitation's sender, or an advertisement's target, says
	// it is; zero if it does not.
	MAC MAC
	// The flags of an advertisement.
	Router, Solicited, Override bool
}

// Packet is what is known of an IP packet. The ports are 0 if it has none:
// neither TCP nor UDP, a later fragment, or behind IPv6 extension headers.
type Packet struct {
	Src, Dst netip.AddrPort
	Protocol uint8
	TTL      uint8  // or hop limit
	ID       uint16 // IPv4 only
	Length   int    // of the packet in bytes, header included, as the header says
	Payload  int    // of TCP or UDP in bytes, else 0
	Seq      uint32 // TCP only
	Flags    uint8  // TCP only
}

// TCP says whether it is a TCP segment whose header was there.
func (p *Packet) TCP() bool { return p.Protocol == ProtocolTCP && p.Src.Port() != 0 }

// String is one line in the manner of tcpdump, and is not for parsing.
func (f Frame) String() string {
	dir := "to"
	if f.FromNode {
		dir = "from"
	}
	s := fmt.Sprintf("%-4s %-9s %v > %v", dir, f.Port, f.Src, f.Dst)
	switch {
	case f.ARP != nil && f.ARP.Operation == ARPRequest:
		return fmt.Sprintf("%s ARP who-has %v tell %v", s, f.ARP.Target, f.ARP.Sender)
	case f.ARP != nil:
		return fmt.Sprintf("%s ARP %v is-at %v", s, f.ARP.Sender, f.ARP.SenderMAC)
	case f.NDP != nil && f.NDP.Type == NeighbourSolicitation:
		return fmt.Sprintf("%s NDP who-has %v tell %v", s, f.NDP.Target, f.IP.Src.Addr())
	case f.NDP != nil:
		return fmt.Sprintf("%s NDP %v is-at %v", s, f.NDP.Target, f.NDP.MAC)
	case f.IP == nil:
		return fmt.Sprintf("%s type %#04x length %d", s, f.EtherType, f.Length)
	}
	s = fmt.Sprintf("%s IP %v > %v ttl %d", s, f.IP.Src, f.IP.Dst, f.IP.TTL)
	switch f.IP.Protocol {
	case ProtocolTCP:
		return fmt.Sprintf("%s TCP [%s] payload %d", s, flagNames(f.IP.Flags), f.IP.Payload)
	case ProtocolUDP:
		return fmt.Sprintf("%s UDP payload %d", s, f.IP.Payload)
	}
	return fmt.Sprintf("%s protocol %d length %d", s, f.IP.Protocol, f.IP.Length)
}

func flagNames(flags uint8) string {
	var b strings.Builder
	for i, name := range []byte("FSRP.U") {
		if flags&(1<<i) != 0 {
			b.WriteByte(name)
		}
	}
	return b.String()
}

const etherLen = 14

// decode reads what it can of a frame; b may be cut off at the end.
func decode(b []byte) Frame {
	f := Frame{Length: len(b)}
	if len(b) < etherLen {
		return f
	}
	f.Dst, f.Src = MAC(b[0:6]), MAC(b[6:12])
	f.EtherType = binary.BigEndian.Uint16(b[12:14])
	b = b[etherLen:]
	switch f.EtherType {
	case EtherTypeARP:
		f.ARP = decodeARP(b)
	case EtherTypeIPv4:
		f.IP = decodeIPv4(b)
	case EtherTypeIPv6:
		f.IP = decodeIPv6(b)
		if f.IP != nil && f.IP.Protocol == ProtocolICMPv6 {
			f.NDP = decodeNDP(b[40:min(len(b), f.IP.Length)])
		}
	}
	return f
}

func decodeARP(b []byte) *ARP {
	// Hardware Ethernet, protocol IPv4, address lengths 6 and 4.
	if len(b) < 28 || string(b[:6]) != "\x00\x01\x08\x00\x06\x04" {
		return nil
	}
	return &ARP{
		Operation: binary.BigEndian.Uint16(b[6:8]),
		SenderMAC: MAC(b[8:14]),
		Sender:    netip.AddrFrom4([4]byte(b[14:18])),
		TargetMAC: MAC(b[18:24]),
		Target:    netip.AddrFrom4([4]byte(b[24:28])),
	}
}

func decodeIPv4(b []byte) *Packet {
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil
	}
	header := int(b[0]&15) * 4
	p := &Packet{
		Protocol: b[9],
		TTL:      b[8],
		ID:       binary.BigEndian.Uint16(b[4:6]),
		Length:   int(binary.BigEndian.Uint16(b[2:4])),
	}
	if header < 20 || len(b) < header || p.Length < header {
		return nil
	}
	src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	rest := b[header:]
	if binary.BigEndian.Uint16(b[6:8])&0x1fff != 0 {
		rest = nil // not the first fragment: what follows is no header
	}
	p.transport(src, dst, rest, p.Length-header)
	return p
}

func decodeIPv6(b []byte) *Packet {
	if len(b) < 40 || b[0]>>4 != 6 {
		return nil
	}
	payload := int(binary.BigEndian.Uint16(b[4:6]))
	p := &Packet{Protocol: b[6], TTL: b[7], Length: 40 + payload}
	p.transport(netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[40:], payload)
	return p
}

// decodeNDP reads an ICMPv6 message.
func decodeNDP(b []byte) *NDP {
	if len(b) < 24 || b[0] != NeighbourSolicitation && b[0] != NeighbourAdvertisement {
		return nil
	}
	n := &NDP{Type: b[0], Target: netip.AddrFrom16([16]byte(b[8:24]))}
	own := byte(1) // the option that has the MAC
	if n.Type == NeighbourAdvertisement {
		own = 2
		n.Router, n.Solicited, n.Override = b[4]&0x80 != 0, b[4]&0x40 != 0, b[4]&0x20 != 0
	}
	for b = b[24:]; len(b) >= 8 && b[1] > 0 && int(b[1])*8 <= len(b); b = b[int(b[1])*8:] {
		if b[0] == own && b[1] == 1 {
			n.MAC = MAC(b[2:8])
		}
	}
	return n
}

// transport reads the TCP or UDP header in b; length is how much the IP header
// says there is from there on.
func (p *Packet) transport(src, dst netip.Addr, b []byte, length int) {
	var sport, dport uint16
	header := 0
	switch {
	case p.Protocol == ProtocolTCP && len(b) >= 20:
		p.Seq = binary.BigEndian.Uint32(b[4:8])
		p.Flags = b[13]
		header = int(b[12]>>4) * 4
	case p.Protocol == ProtocolUDP && len(b) >= 8:
		header = 8
	}
	if header > 0 {
		sport, dport = binary.BigEndian.Uint16(b[0:2]), binary.BigEndian.Uint16(b[2:4])
		p.Payload = max(0, length-header)
	}
	p.Src, p.Dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
}
