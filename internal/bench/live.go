// SPDX-License-Identifier: MIT

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

const (
	liveFlows  = 1 << 16
	liveNew    = 1 << 17 // SYNs of a burst: an eighth of the director's table
	liveBurst  = 150 * time.Millisecond
	liveMost   = 1 << 21 // packets of a burst
	tolerated  = 0.01    // of packets that go another way
	attempts   = 3
	liveWarmup = liveFlows
	usedCPUs   = 2 // at most
)

// live: packets a second over a wire, from the generator through a director back
// to the sink; on one CPU and on two.
func live(s *session) error {
	w, err := s.openWire("bench-live-")
	if err != nil {
		return err
	}
	defer w.Close()
	columns := []string{"million packets a second", "generator alone"}
	for _, r := range w.racers {
		columns = append(columns, r.name)
	}
	for _, r := range w.racers[1:] {
		columns = append(columns, "director ÷ "+r.name)
	}
	t := s.report.table("Live", "Packets that arrived: of ratios, more is better.", columns...)
	lanes := w.lanes()
	for _, known := range []bool{true, false} {
		if !known {
			if err := w.brim(lanes[len(lanes)-1]); err != nil {
				return err
			}
		}
		for _, cpus := range lanes {
			if err := w.race(t, known, cpus); err != nil {
				return err
			}
		}
	}
	return nil
}

// lanes are on which CPUs the generator runs, each time.
func (w *wire) lanes() [][]int {
	all := [][]int{w.cpus[:1]}
	if len(w.cpus) >= usedCPUs {
		all = append(all, w.cpus[:usedCPUs])
	}
	return all
}

// race measures all in turn in each of many rounds, and adds a row.
func (w *wire) race(t *table, known bool, cpus []int) error {
	frame, reason, what := syn(web), "forward_new", "new"
	if known {
		frame, reason, what = ack(web), "forward_connection", "established"
	}
	g, err := w.generator(traffic{frame: frame, flows: liveFlows, fresh: !known}, cpus)
	if err != nil {
		return err
	}
	defer g.Close()
	name := fmt.Sprintf("%s, %d CPUs", what, len(cpus))
	if len(cpus) == 1 {
		name = what + ", 1 CPU"
	}
	if known {
		if err := w.populate(liveFlows, cpus); err != nil {
			return err
		}
	}
	if err := w.sinkOf(g); err != nil {
		return err
	}
	rates := make([]series, len(w.racers))
	var alone series
	rounds := w.rounds
	if w.quick {
		rounds = 1
	}
	for round := range rounds {
		b, err := w.repeat(g.sendNowhere, 1<<20)
		if err != nil {
			return err
		}
		alone = append(alone, b.rate)
		for i := range w.racers {
			if err := w.ctx.Err(); err != nil {
				return err
			}
			i = (i + round) % len(w.racers)
			rate, err := w.heat(g, w.racers[i], reason)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", name, w.racers[i].name, err)
			}
			rates[i] = append(rates[i], rate)
		}
	}
	cells := []string{name, millions(alone)}
	for _, r := range rates {
		cells = append(cells, millions(r))
	}
	for i, r := range w.racers[1:] {
		v := ratio(rates[0], rates[i+1])
		cells = append(cells, times(v))
		w.report.figure(fmt.Sprintf("live %s: director ÷ %s", name, r.name), median(v))
	}
	t.row(cells...)
	return nil
}

func millions(s series) string { return fmt.Sprintf("%.2f", median(s)/1e6) }

// brim fills the yardsticks' tables, with what is not used any more: in the end
// all sets overflow. Each CPU has a table of its own in floor_assoc.
func (w *wire) brim(cpus []int) error {
	const full = 3 * usualConnections
	t := traffic{frame: ack(web), fresh: true}
	return errors.Join(w.flood(racer{contender: w.yardsticks.full}, t, cpus, allFlows/2, full),
		w.flood(racer{contender: w.yardsticks.assoc}, t, cpus, allFlows/2, full*len(cpus)))
}

// populate makes connections known to the director.
func (w *wire) populate(flows uint64, cpus []int) error {
	for _, f := range [][]byte{syn(web), ack(web)} {
		t := traffic{frame: f, flows: flows, inOrder: true}
		if err := w.flood(w.racers[0], t, cpus, 0, int(flows)); err != nil {
			return err
		}
	}
	return nil
}

// heat measures one of them once.
func (w *wire) heat(g *generator, r racer, reason string) (float64, error) {
	if r.tracks {
		if err := w.command("conntrack -F"); err != nil {
			return 0, err
		}
	}
	if g.traffic.fresh && r.counted != nil {
		if err := errors.Join(w.director.forget(w.ctx), w.populate(population, g.cpus), w.sinkOf(g)); err != nil {
			return 0, err
		}
	}
	if err := w.enter(r); err != nil {
		return 0, err
	}
	packets := liveNew
	if r.tracks {
		most, err := trackable()
		if err != nil {
			return 0, err
		}
		packets = min(packets, most/2)
	}
	if !g.traffic.fresh {
		b, err := w.repeat(g.send, liveWarmup)
		if err != nil {
			return 0, err
		}
		packets = min(int(b.rate*liveBurst.Seconds()), liveMost)
	}
	b, err := w.burst(g, r, reason, packets)
	if err != nil {
		return 0, err
	}
	switch {
	case b.lost() > tolerated:
		return 0, fmt.Errorf("%.1f %% of %d packets got lost", 100*b.lost(), b.sent)
	case r.rules == "" && float64(b.moved) > tolerated*float64(b.sent):
		return 0, fmt.Errorf("%d of %d packets came back on another CPU: the interfaces have not a queue for each", b.moved, b.sent)
	case b.servers != r.servers:
		return 0, fmt.Errorf("packets came for %d servers, not %d", b.servers, r.servers)
	}
	return b.rate, nil
}

// trackable is how many connections the kernel remembers before it drops packets.
func trackable() (int, error) {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// burst sends packets and looks whether the director did with them what was meant.
func (w *wire) burst(g *generator, r racer, reason string, packets int) (burst, error) {
	if r.counted == nil {
		return w.repeat(g.send, packets)
	}
	var sent uint64
	before, err := r.counted()
	if err != nil {
		return burst{}, err
	}
	b, err := w.repeat(func(n *lab.Node, index int, first uint64, packets int) (burst, error) {
		b, err := g.send(n, index, first, packets)
		sent += b.sent
		return b, err
	}, packets)
	if err != nil {
		return b, err
	}
	after, err := r.counted()
	if err != nil {
		return b, err
	}
	if got := after.since(before); got[reason] < sent-sent/200 || got.sum()-got[reason] > sent/200 {
		return b, fmt.Errorf("not all of %d packets were %s: %v", sent, reason, got)
	}
	return b, nil
}

// repeat sends so many packets, and does it again if the CPUs did not send
// together.
func (w *wire) repeat(send func(*lab.Node, int, uint64, int) (burst, error), packets int) (b burst, err error) {
	for range attempts {
		b, err = send(w.cluster.Switch, w.port, w.fresh, packets)
		w.fresh += 2 * uint64(packets)
		if !errors.Is(err, errNotTogether) {
			break
		}
	}
	return b, err
}
