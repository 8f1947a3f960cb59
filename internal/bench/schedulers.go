// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"net/netip"

	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// schedulers: new connections by each, with few and many servers.
func schedulers(s *session) error {
	counts := []int{4, 100, 1000}
	d, err := openDirector(lvs.NewTable(), usualConnections, false)
	if err != nil {
		return err
	}
	defer d.Close()
	t := s.report.table("New connections by scheduler", "SYNs; connections a second of one CPU in brackets.",
		"ns a packet", "4 servers", "100 servers", "1000 servers", "100 ÷ 4", "1000 ÷ 4")
	for _, scheduler := range dataplane.Schedulers() {
		if scheduler == lvs.Unscheduled || s.quick && scheduler != lvs.WeightedLeastConnection && scheduler != lvs.RoundRobin {
			continue
		}
		if err := d.carryOut(tableOf(web, lvs.TCP, scheduler, len(counts), counts...)); err != nil {
			return err
		}
		var subjects []subject
		for i := range counts {
			at := netip.AddrPortFrom(vip, webPort+uint16(i))
			opens := s.opening(step{traffic: traffic{frame: syn(at)}, reason: "forward_new"})
			opens.packets = 10_000 // times rounds, times 3: a fifth of the table
			subjects = append(subjects, subject{contender: &d.contender, step: opens})
		}
		found, err := s.compare(subjects...)
		if err != nil {
			return fmt.Errorf("%s: %w", scheduler, err)
		}
		cells := []string{string(scheduler)}
		for i := range counts {
			v := found[i][0]
			cells = append(cells, fmt.Sprintf("%s (%.2f M/s)", ns(v), 1e3/median(v)))
		}
		for i := range counts[1:] {
			r := ratio(found[i+1][0], found[0][0])
			cells = append(cells, times(r))
			s.report.figure(fmt.Sprintf("new, %s: %d servers ÷ %d servers", scheduler, counts[i+1], counts[0]), median(r))
		}
		t.row(cells...)
		if err := d.forget(s.ctx); err != nil {
			return err
		}
	}
	return nil
}
