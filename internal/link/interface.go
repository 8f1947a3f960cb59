// SPDX-License-Identifier: MIT

package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interface is a network interface as the kernel shows it at one moment.
type Interface struct {
	Index    int              `json:"index"`
	Name     string           `json:"name"`
	MAC      net.HardwareAddr `json:"-"`   // nil if the link has none
	MTU      int              `json:"mtu"` // bytes of layer 3
	Up       bool             `json:"up"`  // administratively
	Loopback bool             `json:"loopback,omitempty"`
	NoARP    bool             `json:"noarp,omitempty"` // the link does not resolve addresses
	// VLAN is what a VLAN device is; zero for all others.
	VLAN VLAN `json:"-"`
	// Addresses are its IPv4 and IPv6 addresses with their prefix lengths,
	// in the kernel's order (primary ones first).
	Addresses []netip.Prefix `json:"addresses"`
}

// Has tells whether addr is one of the interface's addresses, whatever the
// prefix length.
func (i *Interface) Has(addr netip.Addr) bool {
	for _, p := range i.Addresses {
		if p.Addr() == addr {
			return true
		}
	}
	return false
}

// InterfaceByName looks an interface up. The error is ErrNoInterface if there
// is none of this name.
func InterfaceByName(name string) (*Interface, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, interfaceError(name, err)
	}
	return describe(l)
}

// InterfaceByIndex looks an interface up. The error is ErrNoInterface if there
// is none of this index.
func InterfaceByIndex(index int) (*Interface, error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, interfaceError(fmt.Sprintf("of index %d", index), err)
	}
	return describe(l)
}

// Interfaces lists all interfaces, loopback included, by ascending index.
func Interfaces() ([]*Interface, error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var all []*Interface
	for _, l := range links {
		i, err := describe(l)
		if errors.Is(err, ErrNoInterface) {
			continue // gone since the list was made
		}
		if err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	return all, nil
}

func describe(l netlink.Link) (*Interface, error) {
	a := l.Attrs()
	i := &Interface{
		Index: a.Index, Name: a.Name, MTU: a.MTU,
		Up:       a.Flags&net.FlagUp != 0,
		Loopback: a.Flags&net.FlagLoopback != 0,
		NoARP:    a.RawFlags&unix.IFF_NOARP != 0,
		VLAN:     vlanOf(l),
	}
	if len(a.HardwareAddr) > 0 {
		i.MAC = a.HardwareAddr
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, interfaceError(a.Name, err)
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			i.Addresses = append(i.Addresses, p)
		}
	}
	return i, nil
}

func interfaceError(name string, err error) error {
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("interface %s: %w; 'ip link' lists those there are", name, ErrNoInterface)
	}
	return fmt.Errorf("interface %s: %w", name, err)
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), true
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// whole repeats a listing that changes while it is made cut short.
func whole[T any](list func() ([]T, error)) ([]T, error) {
	for range 10 {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return list()
}
