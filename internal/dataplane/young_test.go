// SPDX-License-Identifier: MIT

package dataplane

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

func mustYoung(t *testing.T, p *Plane) map[lvs.ServiceID][]lvs.Young {
	t.Helper()
	all, err := p.Young()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// youngOfAll sums up the only service's servers.
func youngOfAll(t *testing.T, p *Plane) (sum lvs.Young) {
	t.Helper()
	for _, all := range mustYoung(t, p) {
		for _, y := range all {
			sum.Began += y.Began
			sum.Unanswered += y.Unanswered
			sum.Retransmitted += y.Retransmitted
			sum.Resets += y.Resets
		}
	}
	return sum
}

// numbers are those of a lvs.Young, to be printed.
func numbers(y lvs.Young) [4]uint64 {
	return [4]uint64{y.Began, y.Unanswered, y.Retransmitted, y.Resets}
}

// TestYoung: what a client's packets count. A number among them is so many seconds
// that go by; then what has expired is swept.
func TestYoung(t *testing.T) { eachMode(t, testYoung) }

func testYoung(t *testing.T, mode Mode) {
	type step any
	rows := []struct {
		name  string
		steps []step
		want  lvs.Young
	}{
		{"established", []step{"S", "A", 1, "A", "FA", 1000}, lvs.Young{Began: 1}},
		{"one SYN", []step{"S"}, lvs.Young{Began: 1}},
		{"one SYN, expired", []step{"S", 70}, lvs.Young{Began: 1, Unanswered: 1}},
		{"its SYN again", []step{"S", "S"}, lvs.Young{Began: 1, Retransmitted: 1}},
		{"again and again", []step{"S", 1, "S", 2, "S", "S", 4, "S"}, lvs.Young{Began: 1, Retransmitted: 1}},
		{"again, then established", []step{"S", 1, "S", "A", 3, "A", 1000}, lvs.Young{Began: 1, Retransmitted: 1}},
		{"again, then expired", []step{"S", 1, "S", 70}, lvs.Young{Began: 1, Retransmitted: 1, Unanswered: 1}},
		{"SYN in an established one", []step{"S", "A", "S", 2, "S"}, lvs.Young{Began: 1}},
		{"reset at once", []step{"S", "R", 70}, lvs.Young{Began: 1, Resets: 1}},
		{"reset twice", []step{"S", "R", "R", "RA", 70}, lvs.Young{Began: 1, Resets: 1}},
		{"again, then reset", []step{"S", "S", "R", 70}, lvs.Young{Began: 1, Retransmitted: 1, Resets: 1}},
		{"reset when established", []step{"S", "A", "PA", "R", 1000}, lvs.Young{Began: 1, Resets: 1}},
		{"reset after silence", []step{"S", "A", 5, "R", 1000}, lvs.Young{Began: 1, Resets: 1}},
		{"reset later", []step{"S", "A", 2, "PA", "R", 1000}, lvs.Young{Began: 1}},
		{"reset after a FIN", []step{"S", "A", "FA", "R", 1000}, lvs.Young{Began: 1}},
		{"stray", []step{"A", 1, "PA", "R", 1000}, lvs.Young{}},
		{"stray, then SYN", []step{"A", "S", 1000}, lvs.Young{}},
		{"stray RST", []step{"R"}, lvs.Young{}},
		{"expired, found by the next SYN", []step{"S", -70, "S"}, lvs.Young{Began: 2, Unanswered: 1}},
	}
	p := newPlane(t, inMode(mode))
	testYoungOfAnother(t, p)
	for n, kind := range []struct {
		name   string
		rules  *lvs.Table
		to     netip.Addr
		client string
	}{
		{"IPv4", table(lvs.TCP, lvs.RoundRobin, server(0, 1)), vip, "10.0.0.1:1000"},
		{"persistent", persistent(table(lvs.TCP, lvs.RoundRobin, server(0, 1)), 50), vip, "10.0.0.1:1000"},
		{"IPv6", table6(lvs.TCP, lvs.RoundRobin, server(0, 1)), vip6, "[2001:db8:99::1]:1000"},
		{"secure", withPolicy(table(lvs.TCP, lvs.RoundRobin, server(0, 1)), lvs.Policy{SecureTCP: true}), vip, "10.0.0.1:1000"},
	} {
		if mode == TC && n > 0 {
			break
		}
		install(t, p, kind.rules)
		for i, r := range rows {
			before := youngOfAll(t, p)
			from := netip.MustParseAddrPort(kind.client)
			from = netip.AddrPortFrom(from.Addr(), from.Port()+uint16(i))
			want, secure := r.want, kind.rules.Services[0].Policy.SecureTCP
			if secure && want.Unanswered > 0 && want.Began == 1 { // there an embryonic one has 120 s
				r.steps = append(slices.Clone(r.steps), 61)
			}
			if secure && want.Began == 2 {
				r.steps = []step{"S", -130, "S"}
			}
			for _, s := range r.steps {
				switch s := s.(type) {
				case string:
					send(t, p, newFrame(lvs.TCP, from, netip.AddrPortFrom(kind.to, 80)).flags(s).bytes())
				case int:
					if err := p.AdvanceClock(time.Duration(max(s, -s)) * time.Second); err != nil {
						t.Fatal(err)
					}
					if s > 60 {
						sweepAll(t, p)
					}
				}
			}
			got := youngOfAll(t, p)
			got.Began -= before.Began
			got.Unanswered -= before.Unanswered
			got.Retransmitted -= before.Retransmitted
			got.Resets -= before.Resets
			if got != want {
				t.Errorf("%s: %s, %v: %d, want %d", kind.name, r.name, r.steps, numbers(got), numbers(want))
			}
			if _, err := p.End(onlyID(p), kind.rules.Services[0].Servers[0].ServerID, lvs.FateExpire); err != nil {
				t.Fatal(err) // so that nothing of it is left to expire
			}
		}
	}
}

// TestYoungGaveWay: an embryonic connection whose place is taken was not answered
// either; and those of UDP and SCTP are nobody's SYNs.
func TestYoungGaveWay(t *testing.T) {
	p := newPlane(t, oneBucket)
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 1)))
	for n := range int(ways) {
		send(t, p, tcpFrame(client(n), "S"))
	}
	for n := range 5 {
		send(t, p, tcpFrame(client(100+n), "A"))
	}
	if y := youngOfAll(t, p); y != (lvs.Young{Began: uint64(ways), Unanswered: 5}) {
		t.Error(numbers(y))
	}
	// Zero is not about this.
	if err := p.ZeroAll(); err != nil {
		t.Fatal(err)
	}
	if y := youngOfAll(t, p); y != (lvs.Young{Began: uint64(ways), Unanswered: 5}) {
		t.Error("after Zero:", numbers(y))
	}
	for _, other := range []lvs.Protocol{lvs.UDP, lvs.SCTP} {
		install(t, p, table(other, lvs.RoundRobin, server(0, 1)))
		if all := mustYoung(t, p); len(all) != 0 {
			t.Errorf("%v: %v", other, all)
		}
	}
}

// testYoungOfAnother: a server that gets an id that another
// had begins with nothing.
func testYoungOfAnother(t *testing.T, p *Plane) {
	rules := table(lvs.TCP, lvs.RoundRobin, server(0, 1))
	install(t, p, rules)
	send(t, p, tcpFrame(client(0), "S"))
	send(t, p, tcpFrame(client(0), "S"))
	send(t, p, tcpFrame(client(0), "R"))
	want := lvs.Young{Began: 1, Retransmitted: 1, Resets: 1}
	if y := youngOfAll(t, p); y != want {
		t.Errorf("%d, want %d", numbers(y), numbers(want))
	}
	id := p.installed[rules.Services[0].ServiceID].servers[0]
	install(t, p, table(lvs.TCP, lvs.RoundRobin))
	mustEnd(t, p, server(0, 0), lvs.FateExpire, 1)
	for key, d := range p.leaving {
		d.since = d.since.Add(-time.Hour)
		p.leaving[key] = d
	}
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(5, 1)))
	if now := p.installed[rules.Services[0].ServiceID].servers[0]; now != id {
		t.Fatalf("id %d, not %d again: nothing is tested", now, id)
	}
	if y := youngOfAll(t, p); y != (lvs.Young{}) {
		t.Error("another server has", numbers(y))
	}
	install(t, p, lvs.NewTable())
}
