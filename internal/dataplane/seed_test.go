// SPDX-License-Identifier: MIT

package dataplane

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// reseeded applies a table that differs in its only service's seeds. That must be an
// edit of the version that is in use.
func reseeded(t *testing.T, p *Plane, rules *lvs.Table, change func(*lvs.VirtualService)) *lvs.Table {
	t.Helper()
	s := rules.Services[0].Clone()
	change(s)
	now := rules.With(map[lvs.ServiceID]*lvs.VirtualService{s.ServiceID: s})
	was := *p.installed[s.ServiceID]
	if err := p.Apply(now); err != nil {
		t.Fatal(err)
	}
	i := p.installed[s.ServiceID]
	if i.slot != was.slot || i.generation != was.generation || i.members != was.members {
		t.Fatalf("another seed made another version: slot %v, was %v", i.slot, was.slot)
	}
	for n, r := range s.Servers {
		if got := p.members[i.members.first+uint32(n)].Seed; got != r.Seed || p.seeds[i.servers[n]].Active != r.Seed {
			t.Fatalf("%v: seed %d in the list and %d by its id, want %d", r.ServerID, got, p.seeds[i.servers[n]].Active, r.Seed)
		}
	}
	return now
}

// TestSeeds: whatever a server counts as having beyond its connections counts for the
// schedulers that compare loads, in short lists and long ones, from the next
// connection on.
func TestSeeds(t *testing.T) {
	p := newPlane(t)
	testSeedAndTurn(t, p)
	testSeedOfTwo(t, p)
	testSeedOfLocality(t, p)
	clients := 2000
	for _, scheduler := range []lvs.Scheduler{lvs.WeightedLeastConnection, lvs.LeastConnection, lvs.ShortestExpectedDelay,
		lvs.NeverQueue, lvs.WeightedFailover, lvs.WeightedOverflow} {
		for _, servers := range []int{9, 3*int(groupSize) + 5} {
			r := rand.New(rand.NewPCG(uint64(servers), 1))
			var list []lvs.RealServer
			for n := range servers {
				list = append(list, seeded(server(n, r.Int32N(4)), r.Uint32N(3)))
			}
			rules := table(lvs.TCP, scheduler, list...)
			install(t, p, rules)
			for range 80 {
				if r.IntN(3) == 0 {
					rules = reseeded(t, p, rules, func(s *lvs.VirtualService) {
						s.Servers[r.IntN(servers)].Seed = r.Uint32N(5)
					})
				}
				want := leastOf(t, p, rules.Services[0])
				clients++
				o := send(t, p, tcpFrame(client(clients), "S"))
				if got, _ := o.chosen(); got != want {
					t.Fatalf("%s of %d, connection %d: %v to %v, want %v", scheduler, servers, clients, o.verdict, got, want)
				}
			}
		}
	}
}

// seeded gives a server a seed.
func seeded(r lvs.RealServer, seed uint32) lvs.RealServer { r.Seed = seed; return r }

// testSeedOfTwo: of two that are drawn the one with fewer connections, its seed
// included, is taken. The first in the list is drawn twice in 4 of 9 cases, the second
// in 1 of 9; otherwise both are.
func testSeedOfTwo(t *testing.T, p *Plane) {
	clients := 1000
	for _, c := range []struct {
		first, second uint32
		want          int // that go to the first, of 450
	}{{1 << 20, 0, 200}, {0, 1 << 20, 400}} {
		install(t, p, table(lvs.TCP, lvs.TwoChoices, seeded(server(0, 1), c.second), seeded(server(1, 1), c.first)))
		got := 0
		for range 450 {
			clients++
			if addr, _ := run(t, p, tcpFrame(client(clients), "S")).chosen(); addr == rip(1) {
				got++
			}
		}
		if got < c.want-50 || got > c.want+50 {
			t.Errorf("seeds %d and %d: %d of 450 to the first, want about %d", c.first, c.second, got, c.want)
		}
	}
}

// testSeedOfLocality: a server that has more connections than weight, its seed
// included, loses an address to one that is half idle; and among an address's servers
// the least loaded is taken.
func testSeedOfLocality(t *testing.T, p *Plane) {
	for _, scheduler := range []lvs.Scheduler{lvs.LocalityLeastConnection, lvs.LocalityReplicated} {
		fateKinds()[0].clear(t, p)
		rules := table(lvs.TCP, scheduler, server(0, 10), server(1, 10))
		install(t, p, rules)
		next := 0
		goesTo := func(want netip.Addr, why string) {
			t.Helper()
			next++
			if got, _ := send(t, p, tcpFrame(client(next), "S")).chosen(); got != want {
				t.Errorf("%s: %s: to %v, want %v", scheduler, why, got, want)
			}
		}
		goesTo(rip(1), "first")
		goesTo(rip(1), "it keeps its server")
		of := func(second, first uint32) {
			rules = reseeded(t, p, rules, func(s *lvs.VirtualService) { s.Servers[0].Seed, s.Servers[1].Seed = second, first })
		}
		of(8, 0)
		goesTo(rip(1), "10 connections are not too many")
		of(9, 5)
		goesTo(rip(1), "they are, but the other one is not half idle")
		of(9, 0)
		goesTo(rip(0), "too many")
		if scheduler == lvs.LocalityReplicated { // both are its servers now
			of(0, 4)
			goesTo(rip(1), "the least loaded of the set")
			of(4, 0)
			goesTo(rip(0), "the least loaded of the set")
		}
	}
}

// testSeedAndTurn: rr and wrr know nothing of seeds, and their turn goes on.
func testSeedAndTurn(t *testing.T, p *Plane) {
	for round, scheduler := range []lvs.Scheduler{lvs.RoundRobin, lvs.WeightedRoundRobin} {
		rules := table(lvs.TCP, scheduler, server(0, 1), server(1, 3), server(2, 2))
		plain := rules.Services[0].Clone()
		plain.Port = 81
		for i := range plain.Servers {
			plain.Servers[i].Port = 81
		}
		rules.Services = append(rules.Services, plain)
		install(t, p, rules)
		for n := range 20 {
			if n%3 == 1 {
				rules = reseeded(t, p, rules, func(s *lvs.VirtualService) { s.Servers[n%2].Seed = uint32(100*round + n) })
			}
			if n == 11 { // an edit of a weight, with a seed beside it, is that and no more
				changed := map[lvs.ServiceID]*lvs.VirtualService{}
				for i, s := range rules.Services {
					s = s.Clone()
					s.Servers[0].Weight, s.Edits = 5, s.Edits+1
					if i == 0 {
						s.Servers[2].Seed = 77
					}
					changed[s.ServiceID] = s
				}
				rules = rules.With(changed)
				install(t, p, rules)
			}
			if n == 15 { // and one that changes nothing begins a round anew, seed or not
				changed := map[lvs.ServiceID]*lvs.VirtualService{}
				for i, s := range rules.Services {
					s = s.Clone()
					s.Edits++
					if i == 0 {
						s.Servers[1].Seed += 3
					}
					changed[s.ServiceID] = s
				}
				rules = rules.With(changed)
				install(t, p, rules)
			}
			at := netip.MustParseAddrPort(client(100*round + n))
			with, _ := send(t, p, newFrame(lvs.TCP, at, netip.AddrPortFrom(vip, 80)).flags("S").bytes()).chosen()
			without, _ := send(t, p, newFrame(lvs.TCP, at, netip.AddrPortFrom(vip, 81)).flags("S").bytes()).chosen()
			if with != without || !with.IsValid() {
				t.Errorf("%s, connection %d: with seeds to %v, without to %v", scheduler, n, with, without)
			}
		}
	}
}
