// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"math/rand/v2"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

const (
	usualServers     = 4
	usualConnections = 1 << 20 // the director's default
	bigTable         = 1 << 23
)

// field is the director and the yardsticks, with the same service of the same
// servers.
type field struct {
	*yardsticks
	director *director
	table    *table
	report   *report
}

// field opens them, with room for so many connections each.
func (s *session) field(protocol lvs.Protocol, connections uint32, tc bool, t *table) (*field, error) {
	d, err := openDirector(tableOf(web, protocol, lvs.WeightedLeastConnection, 1, usualServers), connections, tc)
	if err != nil {
		return nil, err
	}
	y, err := openYardsticks(connections, usualServers, tc)
	if err != nil {
		d.Close()
		return nil, err
	}
	return &field{yardsticks: y, director: d, table: t, report: s.report}, nil
}

func (f *field) Close() {
	f.yardsticks.Close()
	f.director.Close()
}

func (f *field) all() []*contender { return append([]*contender{&f.director.contender}, f.list()...) }

// prime makes flows known to all.
func (f *field) prime(flows uint64, frames ...[]byte) error {
	for _, c := range f.all() {
		if err := prime(c, flows, frames...); err != nil {
			return err
		}
	}
	return nil
}

// fieldTable is a table for field.rows.
func (s *session) fieldTable(title, about string) *table {
	return s.report.table(title, about, "ns a packet", "director", "floor_tx", "floor_full", "floor_assoc", "÷ floor_tx", "÷ floor_full", "÷ floor_assoc")
}

// measure compares all with the same packets, and adds a row for each step.
func (f *field) measure(s *session, names []string, steps ...step) error {
	var subjects []subject
	for _, c := range f.all() {
		subjects = append(subjects, subject{c, steps[0], steps[1:]})
	}
	found, err := s.compare(subjects...)
	if err != nil {
		return fmt.Errorf("%s: %w", names[0], err)
	}
	for k, name := range names {
		cells, ratios := []string{name}, []string{}
		for i, c := range f.all() {
			cells = append(cells, ns(found[i][k]))
			if i > 0 {
				r := ratio(found[0][k], found[i][k])
				ratios = append(ratios, times(r))
				f.report.figure(name+" ÷ "+c.name, median(r))
			}
		}
		f.table.row(append(cells, ratios...)...)
	}
	return nil
}

// established: packets of known TCP connections.
func established(s *session) error {
	t := s.fieldTable("Established TCP connections", "uniform: each flow in its turn; Zipf: some much more often than others (s = 1.1).")
	err := s.establishedIn(t, usualConnections, s.flowCounts()...)
	if err != nil || s.quick {
		return err
	}
	return s.establishedIn(t, bigTable, 1<<22)
}

// flowCounts are for how many flows tables are drawn up: a quick look is not for
// the last, which takes the longest to prepare.
func (s *session) flowCounts() []uint64 {
	if s.quick {
		return []uint64{1, 1 << 16}
	}
	return []uint64{1, 1 << 16, 1 << 19}
}

func (s *session) establishedIn(t *table, room uint32, counts ...uint64) error {
	f, err := s.field(lvs.TCP, room, false, t)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, flows := range counts {
		if err := f.prime(flows, syn(web), ack(web)); err != nil {
			return err
		}
		known := step{traffic: traffic{frame: ack(web), flows: flows}, reason: "forward_connection", packets: usual}
		name := "TCP established, " + flowCount(flows)
		if err := f.measure(s, []string{name}, known); err != nil {
			return err
		}
		if flows == 1 || s.quick {
			continue
		}
		known.traffic.order = zipf(flows)
		if err := f.measure(s, []string{name + ", Zipf"}, known); err != nil {
			return err
		}
	}
	return nil
}

// flowCount names a power of two.
func flowCount(n uint64) string {
	switch {
	case n == 1:
		return "1 flow"
	case n >= 1<<20:
		return fmt.Sprintf("%d Mi flows", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d Ki flows", n>>10)
	}
	return fmt.Sprintf("%d flows", n)
}

// zipf is an order in which flows come, few of them often.
func zipf(flows uint64) []uint32 {
	const exponent = 1.1
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), exponent, 1, flows-1)
	order := make([]uint32, orderSize)
	for i := range order {
		order[i] = uint32(z.Uint64() * stride & (flows - 1))
	}
	return order
}
