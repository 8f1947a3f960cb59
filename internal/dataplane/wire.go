// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"net/netip"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

func listenerOf(id lvs.ServiceID) bpfListener {
	a := id.Addr.As4()
	return bpfListener{
		Addr:     binary.NativeEndian.Uint32(a[:]),
		Port:     networkOrder(id.Port),
		Protocol: uint8(id.Protocol),
	}
}

func listener6Of(id lvs.ServiceID) bpfListener6 {
	return bpfListener6{Addr: wireWords(id.Addr), Port: networkOrder(id.Port), Protocol: uint8(id.Protocol)}
}

func serviceIDOf(l bpfListener) lvs.ServiceID {
	return lvs.ServiceID{Protocol: lvs.Protocol(l.Protocol), Addr: addrOf(l.Addr), Port: networkOrder(l.Port)}
}

func serviceIDOf6(l bpfListener6) lvs.ServiceID {
	return lvs.ServiceID{Protocol: lvs.Protocol(l.Protocol), Addr: addrOfWords(l.Addr), Port: networkOrder(l.Port)}
}

// addrOf reads an IPv4 address that is in memory as on the wire.
func addrOf(wire uint32) netip.Addr {
	var a [4]byte
	binary.NativeEndian.PutUint32(a[:], wire)
	return netip.AddrFrom4(a)
}

// wireWords is an address of 16 bytes as the program has it, IPv4 behind ::ffff.
func wireWords(a netip.Addr) (words [4]uint32) {
	b := a.As16()
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(b[i*4:])
	}
	return words
}

func addrOfWords(words [4]uint32) netip.Addr {
	var b [16]byte
	for i, w := range words {
		binary.NativeEndian.PutUint32(b[i*4:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}

// networkOrder turns a port from host to network byte order, or back.
func networkOrder(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}
