// SPDX-License-Identifier: MIT

package main

import (
	"net/netip"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// datagrams: UDP, known and new.
func datagrams(s *session) error {
	f, err := s.field(lvs.UDP, usualConnections, false, s.fieldTable("UDP", ""))
	if err != nil {
		return err
	}
	defer f.Close()
	for _, flows := range s.flowCounts() {
		if err := f.prime(flows, datagram(web), datagram(web)); err != nil {
			return err
		}
		known := step{traffic: traffic{frame: datagram(web), flows: flows}, reason: "forward_connection", packets: usual}
		if err := f.measure(s, []string{"UDP established, " + flowCount(flows)}, known); err != nil {
			return err
		}
	}
	if err := f.director.forget(s.ctx); err != nil {
		return err
	}
	if err := f.crowd(datagram(web), datagram(web)); err != nil {
		return err
	}
	opens := s.opening(step{traffic: traffic{frame: datagram(web)}, reason: "forward_new"})
	return f.measure(s, []string{"UDP new"}, opens)
}

// strangers: packets that no service is for, which the host's own stack gets.
func strangers(s *session) error {
	f, err := s.field(lvs.TCP, usualConnections, false, s.fieldTable("Not for us", "Left to the host. `floor_tx` asks nobody whether a packet is for it, and takes all but ARP."))
	if err != nil {
		return err
	}
	defer f.Close()
	for _, c := range []struct {
		name, reason string
		frame        []byte
	}{
		{"another port", "pass_not_served", ack(netip.AddrPortFrom(vip, webPort+1))},
		{"another address", "pass_not_served", ack(netip.AddrPortFrom(elsewhere, webPort))},
		{"ARP", "pass_not_ip", arp()},
	} {
		left := step{traffic: traffic{frame: c.frame}, pass: true, reason: c.reason, packets: usual}
		if err := f.measure(s, []string{"not for us: " + c.name}, left); err != nil {
			return err
		}
	}
	return nil
}
