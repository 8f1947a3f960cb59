// SPDX-License-Identifier: MIT

package announce

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// RFC 5227 asks for three probes, one to two seconds apart, RFC 4862 for one
// and a second of waiting; on the switched links of a cluster three in a tenth
// of that are plenty, and a director that takes over must not wait.
const (
	probes   = 3
	probeGap = 100 * time.Millisecond
)

// Probe asks who else has the VIP, without claiming it: the sender's address is
// unspecified (RFC 5227, and RFC 4862's duplicate address detection). It returns
// the MAC address of the first that answers, or that uses or probes for the VIP
// meanwhile; nil if there is none, after 0.3 s.
func Probe(ctx context.Context, iface string, vip netip.Addr) (net.HardwareAddr, error) {
	if err := speakable(vip); err != nil {
		return nil, err
	}
	source := netip.IPv4Unspecified()
	if vip.Is6() {
		source = netip.IPv6Unspecified()
	}
	st, ok, err := ask(ctx, iface, source, vip, func(s statement) bool { return s.claims == vip || s.probes == vip })
	if !ok {
		return nil, err
	}
	return st.sender(), nil
}

// Resolve asks who has target, from the address source, and returns the MAC
// address of the first that answers. The error is ErrNoAnswer if nobody did
// within 0.3 s. The source of a question for an IPv6 address is best the
// interface's link-local address: everyone on the link can answer that.
func Resolve(ctx context.Context, iface string, source, target netip.Addr) (net.HardwareAddr, error) {
	if err := askable(source, target); err != nil {
		return nil, err
	}
	st, ok, err := ask(ctx, iface, source, target, func(s statement) bool { return s.claims == target && s.mac != nil })
	if err == nil && !ok {
		return nil, fmt.Errorf("interface %s: who has %v: %w", iface, target, ErrNoAnswer)
	}
	return st.mac, err
}

func ask(ctx context.Context, iface string, source, target netip.Addr, wanted func(statement) bool) (statement, bool, error) {
	s, err := open(iface, protocolOf(target))
	if err != nil {
		return statement{}, false, err
	}
	defer s.close()
	if target.Is6() && source.IsUnspecified() {
		// Others may be probing for it, too, and the kernel does not listen to
		// the group of an address that it does not have yet.
		if err := s.conn.JoinGroup(groupMAC(solicitedNode(target))); err != nil {
			return statement{}, false, fmt.Errorf("interface %s: listen to the group of %v: %w", iface, target, err)
		}
	}
	for range probes {
		if err := ctx.Err(); err != nil {
			return statement{}, false, err
		}
		if err := s.request(source, target, nil); err != nil {
			return statement{}, false, err
		}
		if st, ok, err := s.await(time.Now().Add(probeGap), wanted); ok || err != nil {
			return st, ok, err
		}
	}
	return statement{}, false, nil
}
