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

// NeighbourState is the kernel's state of a neighbour entry (NUD_*).
type NeighbourState uint16

// The states.
const (
	NeighbourNone       NeighbourState = unix.NUD_NONE
	NeighbourIncomplete NeighbourState = unix.NUD_INCOMPLETE
	NeighbourReachable  NeighbourState = unix.NUD_REACHABLE
	NeighbourStale      NeighbourState = unix.NUD_STALE
	NeighbourDelay      NeighbourState = unix.NUD_DELAY
	NeighbourProbe      NeighbourState = unix.NUD_PROBE
	NeighbourFailed     NeighbourState = unix.NUD_FAILED
	NeighbourNoARP      NeighbourState = unix.NUD_NOARP
	NeighbourPermanent  NeighbourState = unix.NUD_PERMANENT
)

// String gives the name that 'ip neigh' prints.
func (s NeighbourState) String() string {
	switch s {
	case NeighbourNone:
		return "NONE"
	case NeighbourIncomplete:
		return "INCOMPLETE"
	case NeighbourReachable:
		return "REACHABLE"
	case NeighbourStale:
		return "STALE"
	case NeighbourDelay:
		return "DELAY"
	case NeighbourProbe:
		return "PROBE"
	case NeighbourFailed:
		return "FAILED"
	case NeighbourNoARP:
		return "NOARP"
	case NeighbourPermanent:
		return "PERMANENT"
	}
	return fmt.Sprintf("0x%x", uint16(s))
}

// Valid tells whether the kernel would send to the entry's MAC: it is
// confirmed, or was once and nothing says that it is wrong.
func (s NeighbourState) Valid() bool {
	return s&(NeighbourReachable|NeighbourStale|NeighbourDelay|NeighbourProbe|NeighbourNoARP|NeighbourPermanent) != 0
}

// Neighbour is one entry of the kernel's neighbour table.
type Neighbour struct {
	Addr    netip.Addr
	Index   int              // the interface's
	MAC     net.HardwareAddr // nil: not known
	State   NeighbourState
	Managed bool // the kernel keeps resolving it by itself
}

// Neighbours lists the entries of one interface, or of all with index 0, for
// IPv4 and IPv6.
func Neighbours(index int) ([]Neighbour, error) {
	var all []Neighbour
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(index, family) })
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		for _, n := range list {
			if n, ok := neighbour(n); ok {
				all = append(all, n)
			}
		}
	}
	return all, nil
}

// NeighbourOf returns the entry for an address on an interface, or
// ErrNoNeighbour.
func NeighbourOf(index int, addr netip.Addr) (Neighbour, error) {
	all, err := Neighbours(index)
	if err != nil {
		return Neighbour{}, err
	}
	for _, n := range all {
		if n.Addr == addr && n.Index == index {
			return n, nil
		}
	}
	return Neighbour{}, fmt.Errorf("neighbour %v on interface %d: %w", addr, index, ErrNoNeighbour)
}

// ProxiesOf names the interfaces that are told to answer for an address of other
// machines ('ip neigh add proxy').
func ProxiesOf(addr netip.Addr) ([]string, error) {
	list, err := whole(func() ([]netlink.Neigh, error) {
		return netlink.NeighProxyList(0, message(Neighbour{Addr: addr}).Family)
	})
	if err != nil {
		return nil, fmt.Errorf("list proxied neighbours: %w", err)
	}
	var names []string
	for _, n := range list {
		if a, _ := netip.AddrFromSlice(n.IP); a.Unmap() != addr {
			continue
		}
		i, err := InterfaceByIndex(n.LinkIndex)
		if errors.Is(err, ErrNoInterface) {
			continue
		}
		if err != nil {
			return nil, err
		}
		names = append(names, i.Name)
	}
	return names, nil
}

// Resolve asks the kernel to resolve an address now: an unknown one by
// broadcast, a known one by asking its last MAC at once, whatever its age. It
// returns without waiting; the answer comes as an Event. When the last MAC does
// not answer, the kernel gives the entry up after three tries (3 s unless
// neigh/*/retrans_time_ms says otherwise) and asks everyone only when it is
// asked again or the entry is managed. A permanent entry is left alone.
func Resolve(index int, addr netip.Addr) error {
	n, err := NeighbourOf(index, addr)
	switch {
	case errors.Is(err, ErrNoNeighbour):
		n = Neighbour{Addr: addr, Index: index}
	case err != nil:
		return err
	}
	msg := message(n)
	switch {
	case n.State&(NeighbourPermanent|NeighbourNoARP) != 0:
		return nil
	case n.State.Valid() && n.MAC != nil:
		msg.State, msg.HardwareAddr = unix.NUD_PROBE, n.MAC
	default:
		msg.State, msg.Flags = unix.NUD_NONE, netlink.NTF_USE
	}
	if err := setNeighbour(msg); err != nil {
		return fmt.Errorf("resolve %v on interface %d: %w", addr, index, err)
	}
	return nil
}

// manage makes the kernel resolve an address now and keep it resolved.
func manage(index int, addr netip.Addr) error {
	msg := message(Neighbour{Addr: addr, Index: index, Managed: true})
	msg.State = unix.NUD_NONE
	msg.Flags = netlink.NTF_USE // leaves the state and MAC of an entry as they are
	if err := setNeighbour(msg); err != nil {
		return fmt.Errorf("have the kernel keep %v on interface %d resolved: %w", addr, index, err)
	}
	return nil
}

// setNeighbour says what ENOBUFS means here: every entry that is not permanent
// counts (net/core/neighbour.c, neigh_alloc), also those that are managed.
func setNeighbour(msg *netlink.Neigh) error {
	err := netlink.NeighSet(msg)
	if !errors.Is(err, unix.ENOBUFS) {
		return err
	}
	family := "ipv4"
	if msg.Family == unix.AF_INET6 {
		family = "ipv6"
	}
	return fmt.Errorf("%w: raise the sysctl net.%s.neigh.default.gc_thresh3 in the host's own network namespace (it counts the entries of all)", ErrNeighboursFull, family)
}

func message(n Neighbour) *netlink.Neigh {
	m := &netlink.Neigh{LinkIndex: n.Index, IP: n.Addr.AsSlice(), Family: unix.AF_INET, Type: unix.RTN_UNICAST}
	if n.Addr.Is6() {
		m.Family = unix.AF_INET6
	}
	if n.Managed {
		m.FlagsExt = netlink.NTF_EXT_MANAGED
	}
	return m
}

func neighbour(n netlink.Neigh) (Neighbour, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok || n.Flags&netlink.NTF_PROXY != 0 {
		return Neighbour{}, false
	}
	out := Neighbour{Addr: a.Unmap(), Index: n.LinkIndex, State: NeighbourState(n.State),
		Managed: n.FlagsExt&netlink.NTF_EXT_MANAGED != 0}
	if len(n.HardwareAddr) > 0 {
		out.MAC = n.HardwareAddr
	}
	return out, true
}
