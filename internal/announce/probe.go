// SPDX-License-Identifier: MIT

package announce

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// RFC 5227 asks for three probes, one to two seconds apart; on the switched
// links of a cluster a tenth of that is plenty, and a director that takes over
// must not wait.
const (
	probes   = 3
	probeGap = 100 * time.Millisecond
)

// Probe asks who else has the VIP, without claiming it (RFC 5227: the sender
// address is 0.0.0.0). It returns the MAC address of the first that answers, or
// that uses or probes for the VIP meanwhile; nil if there is none, after 0.3 s.
func Probe(ctx context.Context, iface string, vip netip.Addr) (net.HardwareAddr, error) {
	if err := speakable(vip); err != nil {
		return nil, err
	}
	return ask(ctx, iface, netip.IPv4Unspecified(), vip, func(p Packet) bool {
		return p.SenderAddr == vip ||
			p.Operation == Request && p.SenderAddr.IsUnspecified() && p.TargetAddr == vip
	})
}

// Resolve asks who has target, from the address source, and returns the MAC
// address of the first that answers. The error is ErrNoAnswer if nobody did
// within 0.3 s.
func Resolve(ctx context.Context, iface string, source, target netip.Addr) (net.HardwareAddr, error) {
	if err := speakable(source, target); err != nil {
		return nil, err
	}
	mac, err := ask(ctx, iface, source, target, func(p Packet) bool { return p.SenderAddr == target })
	if err == nil && mac == nil {
		return nil, fmt.Errorf("interface %s: who has %v: %w", iface, target, ErrNoAnswer)
	}
	return mac, err
}

func ask(ctx context.Context, iface string, source, target netip.Addr, wanted func(Packet) bool) (net.HardwareAddr, error) {
	s, err := open(iface)
	if err != nil {
		return nil, err
	}
	defer s.close()
	for range probes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.request(source, target, nil); err != nil {
			return nil, err
		}
		p, ok, err := s.await(time.Now().Add(probeGap), wanted)
		if err != nil {
			return nil, err
		}
		if ok {
			return p.SenderMAC, nil
		}
	}
	return nil, nil
}

func (s *socket) request(source, target netip.Addr, to net.HardwareAddr) error {
	if to == nil {
		to = everyone
	}
	return s.send(Packet{Operation: Request, SenderMAC: s.mac, SenderAddr: source, TargetMAC: nobody, TargetAddr: target}, to)
}
