// SPDX-License-Identifier: MIT

package announce

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// DiscoveryType tells the messages of neighbour discovery apart: ICMPv6's type.
type DiscoveryType uint8

// The types of RFC 4861 that are about where an address is.
const (
	Solicitation  DiscoveryType = 135
	Advertisement DiscoveryType = 136
)

// Discovery is a neighbour solicitation or advertisement (RFC 4861) in the IPv6
// packet that carries it.
type Discovery struct {
	Type DiscoveryType
	// Source is an address of the sender; :: in a probe (RFC 4862).
	Source      netip.Addr
	Destination netip.Addr
	// Target is the address that is asked for, or that is advertised.
	Target netip.Addr
	// MAC is where a solicitation's Source, or an advertisement's Target, is: 6
	// bytes, or nil if the message does not say.
	MAC net.HardwareAddr

	// The flags of an advertisement.
	Router, Solicited, Override bool
}

// Where things are, in bytes: in the IPv6 header (RFC 8200), then in the
// message behind it (RFC 4861, 4.3 and 4.4).
const (
	offVersion     = 0
	offPayloadLen  = 4
	offNextHeader  = 6
	offHopLimit    = 7
	offSource      = 8
	offDestination = 24
	headerLen      = 40

	offType     = 0
	offCode     = 1
	offChecksum = 2
	offFlags    = 4
	offTarget   = 8
	messageLen  = 24 // without options

	// An option is its type, its length in units of 8 bytes, and the rest.
	optionUnit      = 8
	optionSourceMAC = 1
	optionTargetMAC = 2

	version6       = 6
	protocolICMPv6 = 58
	// No router has passed it on: whoever sent it is on the link.
	hopLimit = 255

	flagRouter    = 0x80
	flagSolicited = 0x40
	flagOverride  = 0x20
)

// AppendBinary appends the IPv6 packet to b: 64 bytes, 72 with a MAC.
func (d Discovery) AppendBinary(b []byte) ([]byte, error) {
	if d.Type != Solicitation && d.Type != Advertisement || !is6(d.Source) || !is6(d.Destination) || !is6(d.Target) ||
		d.MAC != nil && len(d.MAC) != macLen || d.Type == Solicitation && (d.Router || d.Solicited || d.Override) {
		return b, fmt.Errorf("%+v: %w", d, ErrPacket)
	}
	length := messageLen
	if d.MAC != nil {
		length += optionUnit
	}
	start := len(b)
	b = append(b, version6<<4, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = append(b, protocolICMPv6, hopLimit)
	b = append(b, d.Source.AsSlice()...)
	b = append(b, d.Destination.AsSlice()...)
	b = append(b, byte(d.Type), 0, 0, 0, d.flags(), 0, 0, 0)
	b = append(b, d.Target.AsSlice()...)
	if d.MAC != nil {
		b = append(b, d.option(), 1)
		b = append(b, d.MAC...)
	}
	binary.BigEndian.PutUint16(b[start+headerLen+offChecksum:], checksum(b[start:]))
	return b, nil
}

func (d Discovery) flags() (f byte) {
	if d.Router {
		f |= flagRouter
	}
	if d.Solicited {
		f |= flagSolicited
	}
	if d.Override {
		f |= flagOverride
	}
	return f
}

// option is the type of the option that has the MAC.
func (d Discovery) option() byte {
	if d.Type == Solicitation {
		return optionSourceMAC
	}
	return optionTargetMAC
}

// ParseDiscovery reads an IPv6 packet, with or without padding behind it, and
// refuses what RFC 4861, 7.1, says must not be believed. The result shares no
// memory with b.
func ParseDiscovery(b []byte) (Discovery, error) {
	bad := func(why string) (Discovery, error) { return Discovery{}, fmt.Errorf("%w: %s", ErrPacket, why) }
	if len(b) < headerLen+messageLen || b[offVersion]>>4 != version6 || b[offNextHeader] != protocolICMPv6 {
		return bad("no neighbour discovery in IPv6")
	}
	length := int(binary.BigEndian.Uint16(b[offPayloadLen:]))
	if length < messageLen || length > len(b)-headerLen {
		return bad("cut off")
	}
	b = append([]byte(nil), b[:headerLen+length]...)
	m := b[headerLen:]
	d := Discovery{
		Type:        DiscoveryType(m[offType]),
		Source:      netip.AddrFrom16([16]byte(b[offSource:offDestination])),
		Destination: netip.AddrFrom16([16]byte(b[offDestination:headerLen])),
		Target:      netip.AddrFrom16([16]byte(m[offTarget:messageLen])),
	}
	switch {
	case d.Type != Solicitation && d.Type != Advertisement, m[offCode] != 0:
		return bad("not a neighbour's solicitation or advertisement")
	case b[offHopLimit] != hopLimit:
		return bad("it has passed a router")
	case checksum(b) != 0:
		return bad("its checksum is wrong")
	case !is6(d.Source), !is6(d.Destination), !is6(d.Target), d.Target.IsMulticast(), d.Source.IsMulticast():
		return bad("addresses that cannot be")
	}
	if d.Type == Advertisement {
		f := m[offFlags]
		d.Router, d.Solicited, d.Override = f&flagRouter != 0, f&flagSolicited != 0, f&flagOverride != 0
	}
	for o := m[messageLen:]; len(o) > 0; {
		if len(o) < optionUnit || o[1] == 0 || int(o[1])*optionUnit > len(o) {
			return bad("a damaged option")
		}
		if o[0] == d.option() && o[1] == 1 && d.MAC == nil {
			d.MAC = net.HardwareAddr(o[2:optionUnit:optionUnit])
		}
		o = o[int(o[1])*optionUnit:]
	}
	switch {
	case d.Type == Solicitation && d.Source.IsUnspecified() && (d.MAC != nil || d.Destination != solicitedNode(d.Target)):
		return bad("a probe that is none")
	case d.Type == Advertisement && d.Source.IsUnspecified(), d.Type == Advertisement && d.Solicited && d.Destination.IsMulticast():
		return bad("an advertisement to nobody, or from nobody")
	}
	return d, nil
}

// checksum computes ICMPv6's over an IPv6 packet and the pseudo header; of a
// packet that has its checksum in it, it is 0.
func checksum(b []byte) uint16 {
	sum := uint32(len(b)-headerLen) + protocolICMPv6
	for b = b[offSource:]; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// allNodes is everyone on the link.
var allNodes = netip.MustParseAddr("ff02::1")

// solicitedNode is the group that the owner of an address listens to.
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// groupMAC is the Ethernet address of an IPv6 multicast group (RFC 2464, 7).
func groupMAC(group netip.Addr) net.HardwareAddr {
	b := group.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

func is6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() && a.Zone() == "" }
