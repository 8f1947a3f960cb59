// SPDX-License-Identifier: MIT

package link

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// routeProtocol marks shunt's routes, as 'ip route show table local' prints it.
const routeProtocol = 115

// PreferSource makes the kernel choose source, instead of addr itself, as the
// source of this host's connections to addr, an address of the interface. To
// the host's own stack addr stays what it is; sockets that are bound to a source
// keep it. Packets on the way to addr have at most mtu bytes (from the IP header
// on).
//
// It is done by routes of table local. An IPv4 one is put before the kernel's.
// Before the kernel's IPv6 one (metric 0) nothing can be put, but a route that is
// for one source counts before it: that of connections that have none yet, "::".
// As soon as there is such a route the kernel looks at no other for the address
// (fib6_node_lookup_1 goes back past it), so two more are for all other sources.
//
// What is there already is fine: restored tells whether something was missing
// that this journal had made before.
func (j *Journal) PreferSource(owner, iface string, addr, source netip.Addr, mtu int) (restored bool, err error) {
	i, err := InterfaceByName(iface)
	if err != nil {
		return false, err
	}
	e := Entry{Owner: owner, Kind: AddedRoute, Interface: i.Name, Index: i.Index, Prefix: hostPrefix(addr), MTU: mtu}
	var all []Entry
	if addr.Is4() {
		e.Addr = source
		all = append(all, e)
	} else {
		// The half with the global addresses first: without the other one it is
		// link-local and unique local sources that are lost for a moment.
		for _, from := range []string{"::/1", "8000::/1"} {
			e.From = netip.MustParsePrefix(from)
			all = append(all, e)
		}
		e.From, e.Addr = netip.MustParsePrefix("::/128"), source
		all = append(all, e)
	}
	for _, e := range all {
		known := j.find(e) != nil
		if known {
			there, err := e.addRoute()
			if err != nil {
				return restored, fmt.Errorf("%v: %w", e, err)
			}
			restored = restored || !there
			continue
		}
		if err := j.do(e, false); err != nil {
			return restored, err
		}
	}
	return restored, nil
}

// SourceTo is the address that the kernel gives a connection of this host to
// addr, if nobody asks for another.
func SourceTo(addr netip.Addr) (netip.Addr, error) {
	routes, err := netlink.RouteGet(addr.AsSlice())
	if err != nil || len(routes) == 0 {
		return netip.Addr{}, fmt.Errorf("route to %v: %w", addr, err)
	}
	src, _ := netip.AddrFromSlice(routes[0].Src)
	return src.Unmap(), nil
}

// addRoute makes an AddedRoute, and tells whether it was there.
func (e Entry) addRoute() (there bool, err error) {
	err = e.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE)
	if errors.Is(err, unix.EEXIST) {
		return true, nil
	}
	if errors.Is(err, unix.EINVAL) && e.From.IsValid() {
		err = fmt.Errorf("%w: does this kernel have CONFIG_IPV6_SUBTREES, and the host %v?", err, e.Addr)
	}
	return false, err
}

func (e Entry) deleteRoute() error {
	err := e.route(unix.RTM_DELROUTE, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func (e Entry) route(kind, flags int) error {
	to := e.Prefix.Addr()
	msg := nl.NewRtMsg()
	msg.Family = uint8(nl.GetIPFamily(to.AsSlice()))
	msg.Dst_len = uint8(e.Prefix.Bits())
	msg.Table = unix.RT_TABLE_LOCAL
	msg.Type = unix.RTN_LOCAL
	msg.Scope = unix.RT_SCOPE_HOST
	msg.Protocol = routeProtocol
	req := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, to.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(e.Index))))
	if e.From.IsValid() {
		msg.Src_len = uint8(e.From.Bits())
		req.AddData(nl.NewRtAttr(unix.RTA_SRC, e.From.Addr().AsSlice()))
	}
	// The kernel takes the source off an IPv6 route when the address goes.
	if e.Addr.IsValid() && (kind == unix.RTM_NEWROUTE || to.Is4()) {
		req.AddData(nl.NewRtAttr(unix.RTA_PREFSRC, e.Addr.AsSlice()))
	}
	if e.MTU > 0 && kind == unix.RTM_NEWROUTE {
		metrics := nl.NewRtAttr(unix.RTA_METRICS, nil)
		metrics.AddRtAttr(unix.RTAX_MTU, nl.Uint32Attr(uint32(e.MTU)))
		req.AddData(metrics)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
