// SPDX-License-Identifier: MIT

package announce

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// Operation is what an ARP packet is for.
type Operation uint16

// The operations of RFC 826.
const (
	Request Operation = 1
	Reply   Operation = 2
)

// Packet is an ARP packet for IPv4 over Ethernet.
type Packet struct {
	Operation  Operation
	SenderMAC  net.HardwareAddr // 6 bytes
	SenderAddr netip.Addr       // IPv4; 0.0.0.0 in a probe
	TargetMAC  net.HardwareAddr // 6 bytes; zero in a request
	TargetAddr netip.Addr       // IPv4
}

// Where the fields are, in bytes, and what the first four hold (RFC 826).
const (
	offHardware   = 0 // 1, Ethernet
	offProtocol   = 2 // 0x0800, IPv4
	offHardLen    = 4
	offProtoLen   = 5
	offOperation  = 6
	offSenderMAC  = 8
	offSenderAddr = 14
	offTargetMAC  = 18
	offTargetAddr = 24
	packetLen     = 28

	hardwareEthernet = 1
	protocolIPv4     = 0x0800
	macLen           = 6
	addrLen          = 4
)

// AppendBinary appends the packet's 28 bytes to b.
func (p Packet) AppendBinary(b []byte) ([]byte, error) {
	if len(p.SenderMAC) != macLen || len(p.TargetMAC) != macLen || !p.SenderAddr.Is4() || !p.TargetAddr.Is4() {
		return b, fmt.Errorf("%v %v to %v %v: %w", p.SenderMAC, p.SenderAddr, p.TargetMAC, p.TargetAddr, ErrPacket)
	}
	b = binary.BigEndian.AppendUint16(b, hardwareEthernet)
	b = binary.BigEndian.AppendUint16(b, protocolIPv4)
	b = append(b, macLen, addrLen)
	b = binary.BigEndian.AppendUint16(b, uint16(p.Operation))
	b = append(b, p.SenderMAC...)
	b = append(b, p.SenderAddr.AsSlice()...)
	b = append(b, p.TargetMAC...)
	return append(b, p.TargetAddr.AsSlice()...), nil
}

// ParsePacket reads an ARP packet; bytes after the first 28 are padding. The
// result shares no memory with b.
func ParsePacket(b []byte) (Packet, error) {
	if len(b) < packetLen {
		return Packet{}, fmt.Errorf("%w: %d bytes", ErrPacket, len(b))
	}
	b = append([]byte(nil), b[:packetLen]...)
	if h, p := binary.BigEndian.Uint16(b[offHardware:]), binary.BigEndian.Uint16(b[offProtocol:]); h != hardwareEthernet || p != protocolIPv4 ||
		b[offHardLen] != macLen || b[offProtoLen] != addrLen {
		return Packet{}, fmt.Errorf("%w: hardware type %d, protocol 0x%04x, lengths %d and %d", ErrPacket, h, p, b[offHardLen], b[offProtoLen])
	}
	return Packet{
		Operation:  Operation(binary.BigEndian.Uint16(b[offOperation:])),
		SenderMAC:  net.HardwareAddr(b[offSenderMAC:offSenderAddr:offSenderAddr]),
		SenderAddr: netip.AddrFrom4([4]byte(b[offSenderAddr:offTargetMAC])),
		TargetMAC:  net.HardwareAddr(b[offTargetMAC:offTargetAddr:offTargetAddr]),
		TargetAddr: netip.AddrFrom4([4]byte(b[offTargetAddr:packetLen])),
	}, nil
}
