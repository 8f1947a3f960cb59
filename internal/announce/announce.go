// SPDX-License-Identifier: MIT

package announce

import (
	"context"
	"net/netip"
	"time"
)

// A frame may be lost, and a neighbour may take ARP's request form or its reply
// form only, so all are sent more than once.
const (
	rounds   = 3
	roundGap = 100 * time.Millisecond
)

// Announce tells everyone on the interface's link that the VIP is at the
// interface's MAC address: by gratuitous ARP in the request and the reply form,
// or by an unsolicited neighbour advertisement. It sends at once and then twice
// again, which takes 0.2 s in all.
func Announce(ctx context.Context, iface string, vip netip.Addr) error {
	if err := speakable(vip); err != nil {
		return err
	}
	s, err := open(iface, protocolOf(vip))
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
