// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"net/netip"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// growServices: packets of 64 Ki connections to one of many services, and to
// all of them by turns.
func growServices(s *session) error {
	const flows = 1 << 16
	t := s.report.table("Services", "64 Ki established connections: all of one service, while others are there; and of all services by turns.",
		"services", "ns, one is used", "÷ 1 service", "ns, all are used", "÷ 1 service")
	one, err := openDirector(tableOf(web, lvs.TCP, lvs.WeightedLeastConnection, 1, usualServers), 0, false)
	if err != nil {
		return err
	}
	defer one.Close()
	known := func(services uint32) step {
		return step{traffic: traffic{frame: ack(web), flows: flows, services: services}, reason: "forward_connection", packets: usual}
	}
	if err := prime(&one.contender, flows, syn(web), ack(web)); err != nil {
		return err
	}
	counts := []int{100, 1000, 10_000}
	if s.quick {
		counts = counts[1:2]
	}
	for _, n := range counts {
		err := func() error {
			many, err := openDirector(tableOf(web, lvs.TCP, lvs.WeightedLeastConnection, n, usualServers), 0, false)
			if err != nil {
				return err
			}
			defer many.Close()
			if err := prime(&many.contender, flows, syn(web), ack(web)); err != nil {
				return err
			}
			for _, frame := range [][]byte{syn(web), ack(web)} {
				if err := primeWith(&many.contender, traffic{frame: frame, flows: flows, services: uint32(n)}); err != nil {
					return err
				}
			}
			found, err := s.compare(subject{contender: &one.contender, step: known(1)}, subject{contender: &many.contender, step: known(1)},
				subject{contender: &many.contender, step: known(uint32(n))})
			if err != nil {
				return err
			}
			alone, spread := ratio(found[1][0], found[0][0]), ratio(found[2][0], found[0][0])
			t.row(fmt.Sprint(n), ns(found[1][0]), times(alone), ns(found[2][0]), times(spread))
			s.report.figure(fmt.Sprintf("%d services, one used ÷ 1 service", n), median(alone))
			s.report.figure(fmt.Sprintf("%d services, all used ÷ 1 service", n), median(spread))
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// growServers: established connections of a service with more and more
// servers. (New ones: see schedulers.)
func growServers(s *session) error {
	const flows = 1 << 16
	counts := []int{1, 10, 100, 1000}
	if s.quick {
		counts = []int{1, 1000}
	}
	d, err := openDirector(tableOf(web, lvs.TCP, lvs.WeightedLeastConnection, len(counts), counts...), 0, false)
	if err != nil {
		return err
	}
	defer d.Close()
	var subjects []subject
	for i := range counts {
		at := netip.AddrPortFrom(vip, webPort+uint16(i))
		if err := prime(&d.contender, flows, syn(at), ack(at)); err != nil {
			return err
		}
		subjects = append(subjects, subject{contender: &d.contender,
			step: step{traffic: traffic{frame: ack(at), flows: flows}, reason: "forward_connection", packets: usual}})
	}
	found, err := s.compare(subjects...)
	if err != nil {
		return err
	}
	t := s.report.table("Servers", "64 Ki established connections.", "servers", "ns", "÷ 1 server")
	for i, n := range counts {
		t.row(fmt.Sprint(n), ns(found[i][0]), times(ratio(found[i][0], found[0][0])))
	}
	return nil
}

// growConnections: in a table that fits, a quarter full, and in the default one.
func growConnections(s *session) error {
	t := s.report.table("Connections", "In a table of which they fill a quarter, and in the default one of 1 Mi places. New: SYNs while those are there.",
		"connections", "places", "ns, established", "ns, SYN", "established, in the default table", "SYN, in the default table")
	counts := []uint64{1 << 13, 1 << 16, 1 << 18, 1 << 20, 1 << 23}
	if s.quick {
		counts = counts[:1]
	}
	for _, n := range counts {
		cells := []string{flowCount(n), fmt.Sprintf("%d Ki", 4*n>>10)}
		for i, room := range []uint32{uint32(4 * n), usualConnections} {
			if i == 1 && 4*n >= usualConnections {
				cells = append(cells, "", "")
				continue
			}
			known, opened, err := s.growTo(n, room)
			if err != nil {
				return fmt.Errorf("%d connections: %w", n, err)
			}
			cells = append(cells, ns(known), ns(opened))
		}
		t.row(cells...)
	}
	return nil
}

func (s *session) growTo(flows uint64, room uint32) (known, opened series, err error) {
	d, err := openDirector(tableOf(web, lvs.TCP, lvs.WeightedLeastConnection, 1, usualServers), room, false)
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	if err := prime(&d.contender, flows, syn(web), ack(web)); err != nil {
		return nil, nil, err
	}
	opens := s.opening(step{traffic: traffic{frame: syn(web)}, reason: "forward_new"})
	opens.packets = min(fewNew, int(room)/10/s.rounds) // in all at most a tenth of the table
	found, err := s.compare(
		subject{contender: &d.contender, step: step{traffic: traffic{frame: ack(web), flows: flows}, reason: "forward_connection", packets: usual}},
		subject{contender: &d.contender, step: opens})
	if err != nil {
		return nil, nil, err
	}
	return found[0][0], found[1][0], nil
}
