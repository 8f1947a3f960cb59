// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// TestTakeOver: a second Open finds all that the first one left: connections,
// counters, whose turn it is, the way to the servers.
func TestTakeOver(t *testing.T) { eachMode(t, testTakeOver) }

func testTakeOver(t *testing.T, mode Mode) {
	for _, scheduler := range []lvs.Scheduler{"rr", "wrr", "wlc"} {
		t.Run(string(scheduler), func(t *testing.T) {
			labtest.InNamespace(t)
			o := Options{Instance: "test", PinDir: bpffs(t), Interfaces: []string{"lo"}, Mode: mode, Connections: 1 << 12}
			p, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			rules := table(lvs.TCP, scheduler, server(0, 3), server(1, 2), server(2, 1))
			mustChange(rules, lvs.Change{Operation: lvs.SetTimeouts, Timeouts: lvs.Timeouts{TCP: 800}})
			install(t, p, rules)
			servers := open(t, p, 0, 7)
			before, err := p.Status()
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Close(); err != nil { // what kill -9 does
				t.Fatal(err)
			}

			if p, err = Open(o); err != nil {
				t.Fatal(err)
			}
			if !p.TookOver() {
				t.Error("did not take over")
			}
			after, err := p.Status()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(before, after, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
				t.Errorf("status changed:\n%s", d)
			}
			if err := p.Apply(rules); err != nil {
				t.Fatal(err)
			}
			for n, want := range servers {
				o := send(t, p, tcpFrame(client(n), "A"))
				if got, _ := o.chosen(); got != want || o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
					t.Errorf("client %d: %v to %v, was at %v", n, o.verdict, got, want)
				}
			}
			// The next choices are those that one uninterrupted plane makes.
			got := open(t, p, 7, 14)
			if err := p.Remove(); err != nil {
				t.Fatal(err)
			}
			whole, err := Open(Options{Instance: "whole", PinDir: o.PinDir, Interfaces: o.Interfaces, Mode: Generic, Connections: 1 << 12})
			if err != nil {
				t.Fatal(err)
			}
			install(t, whole, rules)
			if want := open(t, whole, 0, 14)[7:]; !slices.Equal(got, want) {
				t.Errorf("after the take-over %v, without one %v", got, want)
			}
			if err := whole.Remove(); err != nil {
				t.Fatal(err)
			}
			if Pinned(o.PinDir, "test") || Pinned(o.PinDir, "whole") {
				t.Error("pins are left")
			}
		})
	}
}

// TestRemovedServerComesBack: its connections go on and its counters are the
// old ones, if it comes back before they end.
func TestRemovedServerComesBack(t *testing.T) { eachProgram(t, testRemovedServerComesBack) }

func testRemovedServerComesBack(t *testing.T, p *Plane) {
	keep := lvs.Policy{KeepNodest: true} // IPVS's way: the connections of a removed server wait
	both := withPolicy(table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1)), keep)
	install(t, p, both)
	open(t, p, 0, 4)
	before, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	install(t, p, withPolicy(table(lvs.TCP, lvs.RoundRobin, server(1, 1)), keep))
	without, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	if without[0].Counters != before[0].Counters || len(without[0].Servers) != 1 {
		t.Errorf("with the server gone the service has %+v, had %+v", without[0], before[0])
	}
	install(t, p, both)
	after, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, after, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("after its return:\n%s", d)
	}
	// With shunt's default a removed server's clients are served by another.
	install(t, p, table(lvs.TCP, lvs.RoundRobin))
	install(t, p, withPolicy(both, lvs.Policy{}))
	servers := open(t, p, 10, 12)
	gone := servers[0]
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(1-int(gone.As4()[3]-177), 1)))
	if o := send(t, p, tcpFrame(client(10), "S")); o.verdict != bpfVerdictVERDICT_FORWARD_NEW {
		t.Errorf("SYN for a removed server's connection: %v", o.verdict)
	}
}

// TestApplyIsAllOrNothing: if the second of two services cannot be installed,
// the first is as it was.
func TestApplyIsAllOrNothing(t *testing.T) { eachProgram(t, testApplyIsAllOrNothing) }

func testApplyIsAllOrNothing(t *testing.T, p *Plane) {
	rules := table(lvs.TCP, lvs.RoundRobin, server(0, 1))
	install(t, p, rules)
	more := rules.Clone()
	more.Services[0].Scheduler = lvs.WeightedLeastConnection
	second := lvs.ServiceID{Protocol: lvs.TCP, Addr: vip, Port: 443}
	mustChange(more, lvs.Change{Operation: lvs.AddService, Service: lvs.VirtualService{ServiceID: second, Scheduler: "rr"}})
	mustChange(more, lvs.Change{Operation: lvs.AddServer, Service: lvs.VirtualService{ServiceID: second},
		Server: lvs.RealServer{ServerID: lvs.ServerID{Addr: rip(0), Port: 443}, Forward: lvs.DirectRouting, Weight: 1}})
	whole := p.hashSpans
	p.hashSpans = newArena(300, nil) // room for one table of 251
	err := p.Apply(more)
	if !errors.Is(err, ErrFull) {
		t.Fatalf("Apply: %v, want ErrFull", err)
	}
	p.hashSpans = whole
	status, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	if len(status) != 1 || p.installed[rules.Services[0].ServiceID].service.Scheduler != lvs.RoundRobin {
		t.Errorf("half of it was installed: %+v", status)
	}
	if o := send(t, p, tcpFrame("10.0.0.1:1000", "S")); o.verdict != bpfVerdictVERDICT_FORWARD_NEW {
		t.Errorf("the old service: %v", o.verdict)
	}
	if err := p.Apply(more); err != nil {
		t.Errorf("with room it must go: %v", err)
	}
}

// TestApplySharedTables: whatever a table shares with the one before, what is
// installed is what it says.
func TestApplySharedTables(t *testing.T) {
	p := newPlane(t)
	rng := rand.New(rand.NewPCG(1, 2))
	now := lvs.NewTable()
	for step := range 60 {
		var changes []lvs.Change
		for range 1 + rng.IntN(4) {
			id := lvs.ServiceID{Protocol: lvs.TCP, Addr: vip, Port: uint16(80 + rng.IntN(6))}
			s := lvs.VirtualService{ServiceID: id, Scheduler: []lvs.Scheduler{"rr", "wlc", "mh"}[rng.IntN(3)]}
			r := server(rng.IntN(4), int32(rng.IntN(3)))
			r.Port = id.Port
			op := []lvs.Operation{lvs.AddService, lvs.AddService, lvs.EditService, lvs.DeleteService, lvs.AddServer, lvs.AddServer,
				lvs.AddServer, lvs.EditServer, lvs.DeleteServer, lvs.SetTimeouts, lvs.Clear}[rng.IntN(11)]
			if op == lvs.Clear && rng.IntN(4) > 0 {
				continue
			}
			c := lvs.Change{Operation: op, Service: s, Server: r, Timeouts: lvs.Timeouts{TCP: uint32(1 + rng.IntN(100))}}
			if _, err := now.Changed(append(changes, c)); err == nil {
				changes = append(changes, c)
			}
		}
		next, err := now.Changed(changes)
		if err != nil {
			t.Fatal(err)
		}
		if step%7 == 3 { // a plan that fails on the way leaves nothing
			whole := p.hashSpans
			p.hashSpans = newArena(0, nil)
			p.Apply(next)
			p.hashSpans = whole
		}
		install(t, p, next)
		now = next
		if len(p.installed) != len(now.Services) || p.parameters.Timeouts != timeoutsOf(now.Timeouts) {
			t.Fatalf("step %d: %d services are installed, want %d", step, len(p.installed), len(now.Services))
		}
		slot := map[lvs.ServiceID]uint32{}
		if err := p.eachListener(func(l listener, at uint32) { slot[l.ServiceID] = at }); err != nil {
			t.Fatal(err)
		}
		for _, s := range now.Services {
			at, ok := slot[s.ServiceID]
			if !ok {
				t.Fatalf("step %d: nobody listens for %v", step, s.ServiceID)
			}
			if got := p.recoverService(s.ServiceID, at).service; got.Scheduler != s.Scheduler || !slices.Equal(got.Servers, s.Servers) {
				t.Fatalf("step %d: %v is %+v in the maps, want %+v", step, s.ServiceID, got, s)
			}
		}
		if len(slot) != len(now.Services) {
			t.Fatalf("step %d: %d listeners, want %d", step, len(slot), len(now.Services))
		}
	}
}

// TestNeighbourChange: a new MAC address counts from the next packet on.
func TestNeighbourChange(t *testing.T) { eachProgram(t, testNeighbourChange) }

func testNeighbourChange(t *testing.T, p *Plane) {
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 1)))
	open(t, p, 0, 1)
	mac := serverMAC(rip(9))
	if err := p.SetNeighbour(Neighbour{Addr: rip(0), Interface: loopback, MAC: mac, Source: ownMAC}); err != nil {
		t.Fatal(err)
	}
	if got, _ := send(t, p, tcpFrame(client(0), "A")).chosen(); got != rip(9) {
		t.Errorf("went to %v's MAC", got)
	}
}

// TestAttach: auto prefers native XDP, and says why it is not.
func TestAttach(t *testing.T) {
	labtest.InNamespace(t)
	dir := bpffs(t)
	p, err := Open(Options{Instance: "a", PinDir: dir, Interfaces: []string{"lo"}, Mode: Auto, Connections: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	a := p.Attachments()[0]
	if a.Mode != Generic || a.Reason == "" {
		t.Errorf("lo has no native XDP, and it is attached as %+v", a)
	}
	// A second program has no place there, and says so.
	_, err = Open(Options{Instance: "b", PinDir: dir, Interfaces: []string{"lo"}, Connections: 1 << 10})
	if !errors.Is(err, ErrAttach) {
		t.Errorf("second on the same interface: %v", err)
	}
	if Pinned(dir, "b") {
		t.Error("the failed one left pins")
	}
	_, err = Open(Options{Instance: "c", PinDir: dir, Interfaces: []string{"lo"}, Mode: Native, Connections: 1 << 10})
	if !errors.Is(err, ErrAttach) {
		t.Errorf("native on lo: %v", err)
	}
	if _, err = Open(Options{Instance: "d", PinDir: dir, Interfaces: []string{"nosuch0"}}); err == nil {
		t.Error("an interface that does not exist was taken")
	}
	if err := p.Remove(); err != nil {
		t.Fatal(err)
	}
}

func TestCheck(t *testing.T) {
	p := &Plane{}
	bad := map[string]func(*lvs.VirtualService, *lvs.Table){
		"family":    func(s *lvs.VirtualService, _ *lvs.Table) { s.Addr = netip.MustParseAddr("2001:db8::1") },
		"ESP":       func(s *lvs.VirtualService, _ *lvs.Table) { s.Protocol = 50 },
		"scheduler": func(s *lvs.VirtualService, _ *lvs.Table) { s.Scheduler = "fastest" },
		"NAT":       func(s *lvs.VirtualService, _ *lvs.Table) { s.Servers[0].Forward = lvs.Masquerade },
		"timeout":   func(_ *lvs.VirtualService, t *lvs.Table) { t.Timeouts.TCP = 2000000 },
	}
	for name, change := range bad {
		rules := table(lvs.TCP, lvs.RoundRobin, server(0, 1))
		change(rules.Services[0], rules)
		if err := p.Check(rules); !errors.Is(err, lvs.ErrUnsupported) {
			t.Errorf("%s: %v, want ErrUnsupported", name, err)
		}
	}
	rules := table(lvs.TCP, lvs.RoundRobin, server(0, 1))
	rules.Services[0].Servers[0].Port = 81
	if err := p.Check(rules); !errors.Is(err, lvs.ErrPortMapping) {
		t.Errorf("another port: %v", err)
	}
}

// TestCheckListeners: marks without a service take no room, but one that no
// service could have is refused at once.
func TestCheckListeners(t *testing.T) {
	p := &Plane{}
	rule := func(mark uint32, first, last uint16) lvs.MarkRule {
		return lvs.MarkRule{Mark: mark, Protocol: lvs.TCP, Addr: vip, First: first, Last: last}
	}
	marked := func(mark uint32) *lvs.VirtualService {
		return &lvs.VirtualService{ServiceID: lvs.ServiceID{Mark: mark}, Scheduler: lvs.RoundRobin}
	}
	half := []lvs.MarkRule{rule(7, 1, 20000), rule(8, 20001, 40000)}
	for name, c := range map[string]struct {
		table lvs.Table
		says  string // empty: there is room
	}{
		"every port":                {lvs.Table{Marks: []lvs.MarkRule{rule(7, 0, 0)}, Services: []*lvs.VirtualService{marked(7)}}, ""},
		"as many as there is room":  {lvs.Table{Marks: []lvs.MarkRule{rule(7, 1, maxListeners)}}, ""},
		"one more":                  {lvs.Table{Marks: []lvs.MarkRule{rule(7, 1, maxListeners+1)}}, "FWM 7"},
		"two rules of one mark":     {lvs.Table{Marks: []lvs.MarkRule{rule(7, 1, 20000), rule(7, 20001, 40000)}}, "FWM 7"},
		"of two marks":              {lvs.Table{Marks: half}, ""},
		"of two marks, one served":  {lvs.Table{Marks: half, Services: []*lvs.VirtualService{marked(7)}}, ""},
		"of two marks, both served": {lvs.Table{Marks: half, Services: []*lvs.VirtualService{marked(7), marked(8)}}, "40000 addresses and ports of services"},
	} {
		err := p.Check(&c.table)
		if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, ErrFull) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

func TestZero(t *testing.T) { eachProgram(t, testZero) }

func testZero(t *testing.T, p *Plane) {
	rules := table(lvs.TCP, lvs.RoundRobin, server(0, 1))
	install(t, p, rules)
	open(t, p, 0, 3)
	status, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	want := lvs.Counters{Connections: 3, Packets: 6, Bytes: 6 * 40}
	if status[0].Counters != want || status[0].Servers[0].Counters != want {
		t.Errorf("counted %+v, want %+v", status[0], want)
	}
	if err := p.Zero(rules.Services[0].ServiceID); err != nil {
		t.Fatal(err)
	}
	send(t, p, tcpFrame(client(1), "A"))
	if status, err = p.Status(); err != nil {
		t.Fatal(err)
	}
	if want = (lvs.Counters{Packets: 1, Bytes: 40}); status[0].Counters != want || status[0].Servers[0].Counters != want {
		t.Errorf("after zeroing and a packet %+v, want %+v", status[0], want)
	}
	if err := p.Zero(lvs.ServiceID{}); !errors.Is(err, lvs.ErrNoService) {
		t.Errorf("zeroing what is not there: %v", err)
	}
	if err := p.ZeroAll(); err != nil {
		t.Fatal(err)
	}
}

// TestRates: IPVS's estimator, by hand: 100 packets a second for a while.
func TestRates(t *testing.T) {
	var e estimator
	var c lvs.Counters
	e = e.next(c)
	for i, want := range []uint64{25, 44, 58, 68} { // a quarter of the rest each time
		c.Packets += 200
		c.Bytes += 200 * 60
		e = e.next(c)
		if got := e.rates(); got.Packets != want || got.Connections != 0 {
			t.Errorf("sample %d: %+v, want %d packets", i, got, want)
		}
	}
	for range 60 {
		e = e.next(c)
	}
	if got := e.rates(); got.Packets != 0 || got.Bytes != 0 {
		t.Errorf("long after: %+v", got)
	}
}

func TestArena(t *testing.T) {
	now := time.Unix(0, 0)
	a := newArena(100, []span{{10, 5}, {20, 10}})
	settled := 0
	a.now, a.settle = func() time.Time { return now }, func() { settled++ }
	take := func(n uint32, want span, ok bool) span {
		t.Helper()
		got, have := a.take(n)
		if got != want || have != ok {
			t.Fatalf("take(%d) = %v, %v; want %v, %v", n, got, have, want, ok)
		}
		return got
	}
	take(0, span{}, true)
	take(10, span{0, 10}, true)
	take(6, span{30, 6}, true)
	x := take(5, span{15, 5}, true)
	take(64, span{36, 64}, true)
	take(1, span{}, false)
	a.give(x)
	a.give(span{10, 5})
	now = now.Add(grace)
	take(10, span{10, 10}, true) // they have rested, and grown together
	take(1, span{}, false)
	if settled > 0 {
		t.Error("it waited for what nothing reads any more")
	}
	a.give(span{10, 10})
	a.give(span{40, 5})
	take(3, span{10, 3}, true) // there is nothing else, so it waits
	if settled != 1 {
		t.Errorf("it used what may still be read: waited %d times", settled)
	}
	take(5, span{13, 5}, true)
	take(5, span{40, 5}, true)
	take(1, span{18, 1}, true)
	if settled != 1 {
		t.Errorf("it waited %d times", settled)
	}
}

func TestIDPool(t *testing.T) {
	p := newIDPool(4, map[uint32]bool{1: true})
	var got []uint32
	for {
		id, ok := p.take()
		if !ok {
			break
		}
		got = append(got, id)
	}
	if !slices.Equal(got, []uint32{0, 2, 3}) {
		t.Errorf("took %v", got)
	}
	p.give(1)
	if id, ok := p.take(); !ok || id != 1 {
		t.Errorf("took %d, %v", id, ok)
	}
}

// TestMaglev: places go by weight, and few clients move when a server goes.
func TestMaglev(t *testing.T) {
	servers := []lvs.RealServer{server(0, 1), server(1, 2), server(2, 0), server(3, 1), server(4, 4)}
	places := maglev(servers)
	share := map[uint32]int{}
	for _, s := range places {
		share[s]++
	}
	for i, s := range servers {
		want := float64(len(places)) * float64(s.Weight) / 8
		if got := float64(share[uint32(i)]); got < want*0.95-1 || got > want*1.05+1 {
			t.Errorf("server %d has %v of %d places, want about %v", i, got, len(places), want)
		}
	}
	if d := cmp.Diff(places, maglev(servers), cmpopts.EquateEmpty()); d != "" {
		t.Error("not the same twice")
	}
	less := slices.Clone(servers)
	less[3].Weight = 0
	moved := 0
	for i, s := range maglev(less) {
		if places[i] != 3 && places[i] != s {
			moved++
		}
	}
	if moved > len(places)/10 {
		t.Errorf("%d of %d clients of other servers moved", moved, len(places))
	}
	if got := maglev(nil); len(got) != 0 {
		t.Errorf("no servers: %d places", len(got))
	}
}
