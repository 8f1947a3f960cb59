// SPDX-License-Identifier: MIT

package link

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Route is how the kernel would send packets to an address on the link.
type Route struct {
	Interface string     // name of the interface to send by
	Index     int        // its index
	Source    netip.Addr // the address the kernel sends from; invalid if it has none
	MTU       int        // the route's, else the interface's; bytes from the IP header on
}

// OnLink asks the kernel for the route to a real server and returns it if it is
// a direct one. The error is ErrNotOnLink if a router is in between or there is
// no route, and ErrLocal if the address is one of this host's own. An IPv6
// link-local address, which means another machine on each link, is not taken.
func OnLink(rip netip.Addr) (Route, error) {
	if !rip.IsValid() || rip.IsUnspecified() || rip.IsMulticast() {
		return Route{}, fmt.Errorf("real server %v: %w: it is not a unicast address", rip, ErrNotOnLink)
	}
	if rip.Is6() && (rip.IsLinkLocalUnicast() || rip.Zone() != "") {
		return Route{}, fmt.Errorf("real server %v: %w: a link-local address does not say on which link;"+
			" use a global (or unique local) address of the real server", rip, ErrNotOnLink)
	}
	routes, err := netlink.RouteGet(rip.AsSlice())
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH),
		errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL), err == nil && len(routes) == 0:
		return Route{}, fmt.Errorf("real server %v: %w: this host has no route to it; give an interface on the real server's"+
			" network an address of that network, or add 'ip route add %v dev INTERFACE'", rip, ErrNotOnLink, hostPrefix(rip))
	case err != nil:
		return Route{}, fmt.Errorf("route to real server %v: %w", rip, err)
	}
	r := routes[0]
	switch {
	case r.Type == unix.RTN_LOCAL:
		return Route{}, fmt.Errorf("real server %v: %w", rip, ErrLocal)
	case r.Type != unix.RTN_UNICAST:
		return Route{}, fmt.Errorf("real server %v: %w: its route is of type %d, not unicast; use the real server's own address",
			rip, ErrNotOnLink, r.Type)
	case len(r.Gw) > 0 && !r.Gw.IsUnspecified(), r.Via != nil, len(r.MultiPath) > 0:
		return Route{}, fmt.Errorf("real server %v: %w: packets to it go through the router %s; direct routing changes the MAC"+
			" address only, so put the director and the real server on one layer-2 network, and if they are on one, add"+
			" 'ip route add %v dev INTERFACE'", rip, ErrNotOnLink, gateway(r), hostPrefix(rip))
	}
	i, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return Route{}, interfaceError(fmt.Sprintf("of index %d", r.LinkIndex), err)
	}
	src, _ := netip.AddrFromSlice(r.Src)
	mtu := i.Attrs().MTU
	if r.MTU > 0 {
		mtu = r.MTU
	}
	return Route{Interface: i.Attrs().Name, Index: r.LinkIndex, Source: src.Unmap(), MTU: mtu}, nil
}

func gateway(r netlink.Route) string {
	switch {
	case len(r.Gw) > 0:
		return r.Gw.String()
	case r.Via != nil:
		if v, ok := r.Via.(*netlink.Via); ok {
			return v.Addr.String() // of IPv6, for an IPv4 address
		}
		return r.Via.String()
	}
	return "of a multipath route"
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
