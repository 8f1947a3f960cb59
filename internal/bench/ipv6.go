// SPDX-License-Identifier: MIT

package main

import (
	"net/netip"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// ipv6: the director with IPv6 against itself with IPv4. Its table for IPv6 has
// half as many places as that for IPv4.
func ipv6(s *session) error {
	var d [2]*director
	for i, at := range []netip.AddrPort{web, web6} {
		var err error
		if d[i], err = openDirector(tableOf(at, lvs.TCP, lvs.WeightedLeastConnection, 1, usualServers), usualConnections, false); err != nil {
			return err
		}
		defer d[i].Close()
	}
	t := s.report.table("IPv6", "", "ns a packet", "IPv4", "IPv6", "IPv6 ÷ IPv4")
	add := func(names []string, steps func(netip.AddrPort) []step) error {
		four, six := steps(web), steps(web6)
		found, err := s.compare(subject{&d[0].contender, four[0], four[1:]}, subject{&d[1].contender, six[0], six[1:]})
		if err != nil {
			return err
		}
		for k, name := range names {
			r := ratio(found[1][k], found[0][k])
			t.row(name, ns(found[0][k]), ns(found[1][k]), times(r))
			s.report.figure("IPv6 ÷ IPv4: "+name, median(r))
		}
		return nil
	}
	for _, flows := range []uint64{1, 1 << 16} {
		for i, at := range []netip.AddrPort{web, web6} {
			if err := prime(&d[i].contender, flows, syn(at), ack(at)); err != nil {
				return err
			}
		}
		err := add([]string{"established, " + flowCount(flows)}, func(at netip.AddrPort) []step {
			return []step{{traffic: traffic{frame: ack(at), flows: flows}, reason: "forward_connection", packets: usual}}
		})
		if err != nil {
			return err
		}
	}
	return add([]string{"new, SYN", "new, the ACK after it"}, func(at netip.AddrPort) []step {
		opens := s.opening(step{traffic: traffic{frame: syn(at)}, reason: "forward_new"})
		follows := s.opening(step{traffic: traffic{frame: ack(at)}, reason: "forward_connection"})
		opens.packets, follows.packets = fewNew/2, fewNew/2
		return []step{opens, follows}
	})
}
