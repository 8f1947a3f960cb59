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

// WhoHas sends one broadcast ARP request for an IPv4 address, whatever the
// kernel's neighbour table may know of it. The answers are for a Tap to see.
func (n *Node) WhoHas(target netip.Addr) error {
	if !target.Is4() || !n.addr.Is4() {
		return fmt.Errorf("%s cannot ask for %v by ARP: not IPv4", n.name, target)
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
