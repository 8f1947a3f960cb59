// SPDX-License-Identifier: MIT

package announce

import (
	"context"
	"net/netip"
	"time"
)

// A frame may be lost, and a neighbour may take the request form or the reply
// form only, so both are sent more than once.
const (
	rounds   = 3
	roundGap = 100 * time.Millisecond
)

// Announce tells everyone on the interface's link, by gratuitous ARP in the
// request and the reply form, that the VIP is at the interface's MAC address.
// It sends at once and then twice again, which takes 0.2 s in all.
func Announce(ctx context.Context, iface string, vip netip.Addr) error {
	if err := speakable(vip); err != nil {
		return err
	}
	s, err := open(iface)
	if err != nil {
		return err
	}
	defer s.close()
	for i := range rounds {
		if i > 0 {
			select {
			case <-time.After(roundGap):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := s.announce(vip); err != nil {
			return err
		}
	}
	return nil
}

func (s *socket) announce(vip netip.Addr) error {
	p := Packet{Operation: Request, SenderMAC: s.mac, SenderAddr: vip, TargetMAC: nobody, TargetAddr: vip}
	if err := s.send(p, everyone); err != nil {
		return err
	}
	// Linux takes a reply for gratuitous only if both MACs are the sender's.
	p.Operation, p.TargetMAC = Reply, s.mac
	return s.send(p, everyone)
}
