// SPDX-License-Identifier: MIT

package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Send puts an Ethernet frame on the node's wire as it is, without FCS.
func (n *Node) Send(frame []byte) error {
	err := n.Do(func() error {
		link, err := netlink.LinkByName(nic)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index})
	})
	if err != nil {
		return fmt.Errorf("%s: cannot send a frame: %w", n.name, err)
	}
	return nil
}

// WhoHas sends one broadcast ARP request for an IPv4 address, or one neighbour
// solicitation to the group of an IPv6 address, whatever the kernel's neighbour
// table may know of it. The answers are for a Tap to see.
func (n *Node) WhoHas(target netip.Addr) error {
	if target.Is6() && n.addr6.IsValid() {
		return n.Send(n.solicitation(target))
	}
	if !target.Is4() || !n.addr.Is4() {
		return fmt.Errorf("%s cannot ask for %v by ARP or NDP: it has no address of that family", n.name, target)
	}
	b := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	b = append(b, n.mac...)
	b = binary.BigEndian.AppendUint16(b, EtherTypeARP)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, ARPRequest)
	b = append(b, n.mac...)
	b = append(b, n.addr.AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	b = append(b, target.AsSlice()...)
	return n.Send(b)
}

// solicitation is a neighbour solicitation (RFC 4861, 4.3) in its frame.
func (n *Node) solicitation(target netip.Addr) []byte {
	t := target.As16()
	group := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]}).AsSlice()
	b := append([]byte{0x33, 0x33}, group[12:]...)
	b = append(b, n.mac...)
	b = binary.BigEndian.AppendUint16(b, EtherTypeIPv6)
	ip := len(b)
	b = append(b, 6<<4, 0, 0, 0, 0, 32, ProtocolICMPv6, 255)
	b = append(b, n.addr6.AsSlice()...)
	b = append(b, group...)
	b = append(b, NeighbourSolicitation, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, target.AsSlice()...)
	b = append(b, 1, 1) // the sender's MAC, in one unit of 8 bytes
	b = append(b, n.mac...)
	sum := uint32(32 + ProtocolICMPv6)
	for i := ip + 8; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[ip+42:], ^uint16(sum>>16+sum))
	return b
}
