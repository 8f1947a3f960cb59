// SPDX-License-Identifier: MIT

package main

import "github.com/shunt-lvs/shunt/internal/lvs"

// throughTC: the program for tc against the yardsticks' for tc.
func throughTC(s *session) error {
	t := s.fieldTable("tc mode", "Everything through tc, the yardsticks too.")
	f, err := s.field(lvs.TCP, usualConnections, true, t)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, flows := range s.flowCounts() {
		if err := f.prime(flows, syn(web), ack(web)); err != nil {
			return err
		}
		known := step{traffic: traffic{frame: ack(web), flows: flows, tc: true}, reason: "forward_connection", packets: usual}
		if err := f.measure(s, []string{"tc: TCP established, " + flowCount(flows)}, known); err != nil {
			return err
		}
	}
	if err := f.director.forget(s.ctx); err != nil {
		return err
	}
	if err := f.crowd(syn(web), ack(web)); err != nil {
		return err
	}
	opens := s.opening(step{traffic: traffic{frame: syn(web), tc: true}, reason: "forward_new"})
	follows := s.opening(step{traffic: traffic{frame: ack(web), tc: true}, reason: "forward_connection"})
	return f.measure(s, []string{"tc: TCP new, SYN", "tc: TCP new, the ACK after it"}, opens, follows)
}
