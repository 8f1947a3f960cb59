// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// group makes a table with one service by mark, rr over two servers.
func group(rules ...lvs.MarkRule) *lvs.Table {
	t := lvs.NewTable()
	for _, r := range rules {
		mustChange(t, lvs.Change{Operation: lvs.AddMark, Mark: r})
	}
	s := lvs.VirtualService{ServiceID: lvs.ServiceID{Mark: 7}, Scheduler: lvs.RoundRobin}
	mustChange(t, lvs.Change{Operation: lvs.AddService, Service: s})
	for n := range 2 {
		r := server(n, 1)
		r.Port = 0
		mustChange(t, lvs.Change{Operation: lvs.AddServer, Service: s, Server: r})
	}
	return t
}

func markRule(p lvs.Protocol, addr netip.Addr, first, last uint16) lvs.MarkRule {
	return lvs.MarkRule{Mark: 7, Protocol: p, Addr: addr, First: first, Last: last}
}

// TestGroup: one service over two VIPs, a range of ports and two protocols. Equal
// ports of another VIP or protocol are another connection.
func TestGroup(t *testing.T) { eachMode(t, testGroup) }

func testGroup(t *testing.T, mode Mode) {
	labtest.InNamespace(t)
	o := Options{Instance: "group", PinDir: bpffs(t), Interfaces: []string{"lo"}, Mode: mode, Connections: 1 << 10}
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { p.Remove() }()
	vip2 := netip.MustParseAddr("172.16.16.171")
	rules := group(markRule(lvs.TCP, vip, 80, 82), markRule(lvs.TCP, vip2, 80, 80), markRule(lvs.UDP, vip, 80, 80))
	install(t, p, rules)
	from := netip.MustParseAddrPort("10.0.0.1:1000")
	frames := map[string][]byte{
		"first":         newFrame(lvs.TCP, from, netip.AddrPortFrom(vip, 80)).flags("S").bytes(),
		"another port":  newFrame(lvs.TCP, from, netip.AddrPortFrom(vip, 82)).flags("S").bytes(),
		"another VIP":   newFrame(lvs.TCP, from, netip.AddrPortFrom(vip2, 80)).flags("S").bytes(),
		"another proto": newFrame(lvs.UDP, from, netip.AddrPortFrom(vip, 80)).bytes(),
	}
	at := map[string]netip.Addr{}
	share := map[netip.Addr]int{}
	for name, f := range frames {
		o := send(t, p, f)
		at[name], _ = o.chosen()
		share[at[name]]++
		if o.verdict != bpfVerdictVERDICT_FORWARD_NEW {
			t.Errorf("%s: %v", name, o.verdict)
		}
	}
	if share[rip(0)] != 2 || share[rip(1)] != 2 {
		t.Errorf("rr over the whole group: %v", at)
	}
	if o := send(t, p, newFrame(lvs.TCP, from, netip.AddrPortFrom(vip, 83)).flags("S").bytes()); o.verdict != bpfVerdictVERDICT_PASS_NOT_SERVED {
		t.Errorf("a port that no rule names: %v", o.verdict)
	}

	// A successor finds all of it.
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err = Open(o); err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(rules); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		for name, f := range frames {
			o := send(t, p, f)
			if got, _ := o.chosen(); got != at[name] || o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
				t.Errorf("%s, %s: %v to %v, was at %v", when, name, o.verdict, got, at[name])
			}
		}
	}
	check("taken over")

	// Rules come and go; what they do not name stays.
	more := group(markRule(lvs.TCP, vip, 80, 82), markRule(lvs.TCP, vip2, 80, 80), markRule(lvs.UDP, vip, 80, 80), markRule(lvs.TCP, vip, 443, 443))
	install(t, p, more)
	check("with another rule")
	install(t, p, group(markRule(lvs.TCP, vip, 80, 82), markRule(lvs.UDP, vip, 80, 80)))
	if o := send(t, p, frames["another VIP"]); o.verdict != bpfVerdictVERDICT_PASS_NOT_SERVED {
		t.Errorf("after its rule went: %v", o.verdict)
	}
	install(t, p, more)
	check("with the rule back")

	if err := p.AdvanceClock(2000 * time.Second); err != nil {
		t.Fatal(err)
	}
	sweepAll(t, p)
	compareBooks(t, p)
	wantTotals(t, p, 0, 0)
}

// TestListenerChangesHands: an address and port goes from a service to a group
// and back; a failure on the way leaves it where it was.
func TestListenerChangesHands(t *testing.T) { eachProgram(t, testListenerChangesHands) }

func testListenerChangesHands(t *testing.T, p *Plane) {
	plain := table(lvs.TCP, lvs.RoundRobin, server(0, 1))
	install(t, p, plain)
	syn := func(n int) bpfVerdict { return send(t, p, tcpFrame(client(n), "S")).verdict }
	if v := syn(0); v != bpfVerdictVERDICT_FORWARD_NEW {
		t.Fatal(v)
	}
	whole := p.hashSpans
	p.hashSpans = newArena(10, nil)
	if err := p.Apply(group(markRule(lvs.TCP, vip, 80, 80))); !errors.Is(err, ErrFull) {
		t.Fatalf("%v, want ErrFull", err)
	}
	p.hashSpans = whole
	if v := syn(1); v != bpfVerdictVERDICT_FORWARD_NEW || len(p.installed) != 1 {
		t.Errorf("after a failed change: %v", v)
	}
	install(t, p, group(markRule(lvs.TCP, vip, 80, 80)))
	if v := syn(2); v != bpfVerdictVERDICT_FORWARD_NEW || len(p.installed) != 1 {
		t.Errorf("as a group: %v", v)
	}
	install(t, p, plain)
	if v := syn(3); v != bpfVerdictVERDICT_FORWARD_NEW || len(p.listening) != 1 {
		t.Errorf("as a service again: %v", v)
	}
	install(t, p, lvs.NewTable())
	if v := syn(4); v != bpfVerdictVERDICT_PASS_NOT_SERVED || len(p.listening) != 0 {
		t.Errorf("in the end: %v", v)
	}
	// The ids are free again once no connection has them.
	if err := p.AdvanceClock(2000 * time.Second); err != nil {
		t.Fatal(err)
	}
	sweepAll(t, p)
	time.Sleep(grace)
	p.mu.Lock()
	p.reaped = time.Time{}
	err := errors.Join(p.reap(), p.reapIDs())
	p.mu.Unlock()
	if err != nil || len(p.gone) != 0 || len(p.leaving) != 0 {
		t.Errorf("gone %v, leaving %v: %v", p.gone, p.leaving, err)
	}
}
