// SPDX-License-Identifier: MIT

package health

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

var passive = Passive{Window: 5 * time.Second, Minimum: 10, Unanswered: 0.5, Resets: 0.5, Hold: 10 * time.Second, MostOut: 0.5}

// fleet is a service whose servers are sampled once a second.
type fleet struct {
	*Outliers
	p       Passive
	begun   time.Time
	now     time.Time
	samples []Sample
	events  []string
	out     map[int]bool
}

func newFleet(p Passive, servers int) *fleet {
	f := &fleet{Outliers: NewOutliers(), p: p, begun: time.Unix(1e9, 0), now: time.Unix(1e9, 0), out: map[int]bool{}}
	for n := range servers {
		f.samples = append(f.samples, Sample{Server: lvs.ServerID{Addr: rip(n), Port: 80}})
	}
	f.observe()
	return f
}

func (f *fleet) observe() {
	eject, restore := f.Observe(f.now, web(80), f.p, slices.Clone(f.samples))
	n := func(id lvs.ServerID) int {
		return slices.IndexFunc(f.samples, func(s Sample) bool { return s.Server == id })
	}
	for _, e := range eject {
		f.out[n(e.Server)] = true
		f.events = append(f.events, fmt.Sprintf("%v eject %d", f.now.Sub(f.begun), n(e.Server)))
	}
	for _, id := range restore {
		f.out[n(id)] = false
		f.events = append(f.events, fmt.Sprintf("%v restore %d", f.now.Sub(f.begun), n(id)))
	}
}

// seconds has what happens to each server in a second happen so often.
func (f *fleet) seconds(times int, happens func(n int, s *Sample)) {
	for range times {
		f.now = f.now.Add(time.Second)
		for n := range f.samples {
			if !f.out[n] {
				happens(n, &f.samples[n])
			}
		}
		f.observe()
	}
}

func (f *fleet) take() []string {
	e := f.events
	f.events = nil
	return e
}

func TestOutliersEjectAndTryAgain(t *testing.T) {
	f := newFleet(passive, 4)
	dead := func(n int, s *Sample) {
		s.Began += 20
		if n == 2 {
			s.Retransmitted += 20
		}
	}
	f.seconds(5, func(_ int, s *Sample) { s.Began += 20 })
	diff(t, "all are well", f.take(), []string(nil))
	f.seconds(3, dead)
	diff(t, "one is dead", f.take(), []string{"8s eject 2"})
	got := f.Servers(web(80))[2]
	diff(t, "its state", got, Outlier{Server: f.samples[2].Server, Out: true, Until: f.now.Add(10 * time.Second), Last: f.now, Times: 1,
		Reason: "60 of 100 connections within 5s got no answer, or a late one (elsewhere 0 of 300)", Began: 100, Failed: 60})
	// 10, 20, 40, 80, 100, 100 seconds, and a second to see that it is still dead.
	f.seconds(370, dead)
	diff(t, "it stays dead", f.take(), []string{"18s restore 2", "19s eject 2", "39s restore 2", "40s eject 2", "1m20s restore 2", "1m21s eject 2",
		"2m41s restore 2", "2m42s eject 2", "4m22s restore 2", "4m23s eject 2", "6m3s restore 2", "6m4s eject 2"})

	// Now they are counted as unanswered, much later: that says nothing new.
	f.samples[2].Unanswered += f.samples[2].Retransmitted
	f.seconds(230, func(_ int, s *Sample) { s.Began += 20 })
	diff(t, "it is well again", f.take(), []string{"7m44s restore 2"})
	if got := f.Servers(web(80))[2]; got.Out || got.Times != 0 || !got.Until.IsZero() || got.Reason == "" {
		t.Errorf("forgiven: %+v", got)
	}
	f.seconds(13, dead)
	diff(t, "it dies as if for the first time", f.take(), []string{"10m11s eject 2", "10m21s restore 2"})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestOutliersCountAConnectionOnce: that it timed out is counted a minute later.
// Its server is back by then, and may not be ejected for it.
func TestOutliersCountAConnectionOnce(t *testing.T) {
	f := newFleet(passive, 2)
	f.seconds(3, func(n int, s *Sample) {
		s.Began += 20
		if n == 1 {
			s.Retransmitted += 20
		}
	})
	diff(t, "dead", f.take(), []string{"1s eject 1"})
	f.seconds(59, func(_ int, s *Sample) { s.Began += 20 })
	f.samples[1].Unanswered += 20
	f.seconds(20, func(_ int, s *Sample) { s.Began += 4 })
	diff(t, "well again", f.take(), []string{"11s restore 1"})
}

func TestOutliersCompareWithOthers(t *testing.T) {
	for _, test := range []struct {
		name    string
		p       func(*Passive)
		servers int
		happens func(n int, s *Sample)
		out     []int
	}{
		{"a flood that nobody answers", nil, 4, func(n int, s *Sample) { s.Began += 1000; s.Unanswered += 950 + uint64(n) }, nil},
		{"a flood, and one that is dead", nil, 4, func(n int, s *Sample) {
			s.Began += 1000
			s.Unanswered += 950
			if n == 1 {
				s.Retransmitted += 50
			}
		}, nil}, // its checks find it
		{"a flood to one server, which serves the others all the same", nil, 4, func(n int, s *Sample) {
			s.Began += 20
			if n == 0 {
				s.Began += 1000
				s.Unanswered += 1000
			}
		}, nil},
		{"half of the clients get no answer", nil, 4, func(n int, s *Sample) {
			s.Began += 20
			if n == 3 {
				s.Retransmitted += 12
			}
		}, []int{3}},
		{"less than the limit", nil, 4, func(n int, s *Sample) {
			s.Began += 20
			if n == 3 {
				s.Retransmitted += 9
			}
		}, nil},
		{"clients reset", nil, 3, func(n int, s *Sample) {
			s.Began += 20
			if n == 0 {
				s.Resets += 19
			}
		}, []int{0}},
		{"clients reset, and nobody cares", func(p *Passive) { p.Resets = 0 }, 3, func(n int, s *Sample) {
			s.Began += 20
			if n == 0 {
				s.Resets += 19
			}
		}, nil},
		{"the last one", nil, 1, func(_ int, s *Sample) { s.Began += 20; s.Unanswered += 20 }, nil},
		{"too many: the worst", nil, 5, func(n int, s *Sample) {
			s.Began += 20
			if n < 3 {
				s.Retransmitted += 18 + uint64(n)
			}
		}, []int{2, 1}},
		{"none may", func(p *Passive) { p.MostOut = 0.2 }, 4, func(n int, s *Sample) { s.Began += 20; s.Retransmitted += 20 * uint64(btoi(n == 0)) }, nil},
		{"all but one may", func(p *Passive) { p.MostOut = 1 }, 3, func(n int, s *Sample) { s.Began += 20; s.Retransmitted += 20 * uint64(btoi(n > 0)) }, []int{1, 2}},
		{"too few connections", nil, 3, func(n int, s *Sample) { s.Began++; s.Retransmitted += uint64(btoi(n == 0)) }, nil},
		{"a dead one that gets nearly all, as with wlc", func(p *Passive) { p.Minimum = 20 }, 4, func(n int, s *Sample) {
			s.Began++
			if n == 1 {
				s.Began += 30
				s.Retransmitted += 31
			}
		}, []int{1}},
		{"others are away", nil, 3, func(n int, s *Sample) {
			s.Away = n > 0
			s.Began += 20
			s.Retransmitted += 20 * uint64(btoi(n == 0))
		}, nil},
	} {
		p := passive
		if test.p != nil {
			test.p(&p)
		}
		f := newFleet(p, test.servers)
		f.seconds(8, test.happens)
		var out []int
		for _, s := range f.Servers(web(80)) {
			if s.Out {
				out = append(out, slices.IndexFunc(f.samples, func(x Sample) bool { return x.Server == s.Server }))
			}
		}
		want := slices.Sorted(slices.Values(test.out))
		if !slices.Equal(out, want) {
			t.Errorf("%s: %v are out, want %v (%q)", test.name, out, want, f.events)
		}
	}
}

// TestOutliersLeaveSomebody when the checks find the others dead.
func TestOutliersLeaveSomebody(t *testing.T) {
	f := newFleet(passive, 3)
	dead := func(n int, s *Sample) { s.Began += 20; s.Retransmitted += 20 * uint64(btoi(n == 0)) }
	f.seconds(2, dead)
	diff(t, "dead", f.take(), []string{"1s eject 0"})
	f.samples[1].Away, f.samples[2].Away = true, true
	f.seconds(3, dead)
	diff(t, "the others, too", f.take(), []string{"3s restore 0"})
	// One that is forgotten, or begins to count anew, is new.
	f.samples[1].Away, f.samples[2].Away = false, false
	f.seconds(1, dead)
	diff(t, "again", f.take(), []string{"6s eject 0"})
	diff(t, "forgotten", f.Forget(web(80)), []lvs.ServerID{f.samples[0].Server})
	if got := f.Servers(web(80)); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	f.out[0] = false
	f.seconds(1, dead)
	f.samples[0].Began = 0
	f.seconds(1, dead)
	diff(t, "one sample says nothing", f.take(), []string(nil))
	f.seconds(1, dead)
	diff(t, "two do", f.take(), []string{"9s eject 0"})
}

// TestOutliersKeepTheirBounds whatever servers do.
func TestOutliersKeepTheirBounds(t *testing.T) {
	ejections := 0
	property := func(t *rapid.T) {
		p := passive
		p.Minimum = rapid.IntRange(0, 30).Draw(t, "minimum")
		p.MostOut = float64(rapid.IntRange(0, 100).Draw(t, "most out")) / 100
		f := newFleet(p, rapid.IntRange(1, 8).Draw(t, "servers"))
		kinds := rapid.SliceOfN(rapid.IntRange(0, 3), len(f.samples), len(f.samples)).Draw(t, "kinds")
		for range 40 {
			away := rapid.IntRange(0, 3*len(f.samples)).Draw(t, "away")
			was := map[int]bool{}
			for n, out := range f.out {
				was[n] = out
			}
			f.seconds(1, func(n int, s *Sample) {
				s.Away = n == away || away == 2*len(f.samples) && n > 0
				s.Began += 20
				s.Retransmitted += []uint64{0, 20, 0, 11}[kinds[n]]
				s.Resets += []uint64{0, 0, 15, 0}[kinds[n]]
			})
			out, serving, canServe := 0, 0, 0
			for n := range f.samples {
				if f.out[n] {
					out++
				}
				if !f.samples[n].Away {
					canServe++
					serving += 1 - btoi(f.out[n])
				}
			}
			if float64(out) > p.MostOut*float64(len(f.samples))+1e-9 {
				t.Fatalf("%d of %d are out, %.2f may", out, len(f.samples), p.MostOut)
			}
			if serving == 0 && canServe > 0 {
				t.Fatalf("nobody is left of %d", canServe)
			}
			for n := range f.samples {
				if f.out[n] && !was[n] {
					ejections++
					if kinds[n] == 0 {
						t.Fatalf("%d is well and was ejected", n)
					}
					if !slices.ContainsFunc(kinds, func(k int) bool { return k != kinds[n] }) {
						t.Fatalf("all are alike and %d was ejected", n)
					}
				}
			}
			for _, s := range f.Servers(web(80)) {
				if s.Out && (!s.Until.After(f.now) || s.Until.Sub(f.now) > 10*p.Hold) {
					t.Fatalf("%+v at %v", s, f.now)
				}
			}
		}
	}
	for range 3 {
		rapid.Check(t, property)
	}
	if ejections == 0 {
		t.Error("nobody was ejected")
	}
}
