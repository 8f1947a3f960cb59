// SPDX-License-Identifier: MIT

package dataplane

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// cost is what the schedulers that look for the least compare by weight
// (net/netfilter/ipvs/ip_vs_{wlc,sed,nq,fo,ovf}.c); false: not this server.
func cost(s lvs.Scheduler, weight int32, l lvs.ServerStatus) (uint64, uint64, bool) {
	w := uint64(weight)
	active, inactive := uint64(l.Active), uint64(l.Inactive)
	switch s {
	case lvs.LeastConnection:
		return active*257 + inactive, 1, w > 0
	case lvs.ShortestExpectedDelay:
		return active + 1, w, w > 0
	case lvs.NeverQueue:
		if active == 0 {
			return 0, 1, w > 0
		}
		return active + 1, w, w > 0
	case lvs.WeightedFailover:
		return 1, w, w > 0
	case lvs.WeightedOverflow:
		return 1, w, w > 0 && active <= w
	}
	return active*257 + inactive, w, w > 0
}

// TestLongList: in a list of several groups every scheduler that looks for the
// least one still finds it, the first of equals, whatever opened, closed, expired
// or was edited in between.
func TestLongList(t *testing.T) {
	const servers = 3*int(groupSize) + 5
	for _, scheduler := range []lvs.Scheduler{lvs.WeightedLeastConnection, lvs.LeastConnection, lvs.ShortestExpectedDelay,
		lvs.NeverQueue, lvs.WeightedFailover, lvs.WeightedOverflow} {
		t.Run(string(scheduler), func(t *testing.T) {
			eachProgram(t, func(t *testing.T, p *Plane) { testLongList(t, p, scheduler, servers) })
		})
	}
}

func testLongList(t *testing.T, p *Plane, scheduler lvs.Scheduler, servers int) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var list []lvs.RealServer
	for n := range servers {
		list = append(list, server(n, 1+r.Int32N(3)))
	}
	clients := 0
	for round := range 6 {
		for range 4 { // some change, come and go; in the third round few are left, then many again
			list[r.IntN(len(list))].Weight = r.Int32N(4)
		}
		some := slices.Clone(list)
		switch round {
		case 2:
			some = some[:5]
		case 4:
			some = slices.Delete(some, 7, 20)
		}
		rules := table(lvs.TCP, scheduler, some...)
		install(t, p, rules)
		for range 60 {
			switch r.IntN(8) {
			case 0:
				send(t, p, tcpFrame(client(r.IntN(clients+1)), "FA"))
			case 1:
				send(t, p, tcpFrame(client(r.IntN(clients+1)), "R"))
			case 2:
				if err := p.AdvanceClock(time.Duration(r.IntN(12)) * time.Second); err != nil {
					t.Fatal(err)
				}
				sweepAll(t, p)
			}
			want := leastOf(t, p, rules.Services[0])
			clients++
			o := send(t, p, tcpFrame(client(clients), "S"))
			if got, _ := o.chosen(); got != want {
				t.Fatalf("round %d, connection %d: %v to %v, want %v", round, clients, o.verdict, got, want)
			}
			send(t, p, tcpFrame(client(clients), "A"))
		}
	}
}

func leastOf(t *testing.T, p *Plane, s *lvs.VirtualService) (least netip.Addr) {
	t.Helper()
	status, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	var cheapest, weight uint64
	for i, l := range status[0].Servers {
		l.Active += s.Servers[i].Seed
		c, w, ok := cost(s.Scheduler, s.Servers[i].Weight, l)
		if ok && (!least.IsValid() || cheapest*w > c*weight) {
			least, cheapest, weight = l.Addr, c, w
		}
	}
	return least
}
