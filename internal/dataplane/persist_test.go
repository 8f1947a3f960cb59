// SPDX-License-Identifier: MIT

package dataplane

import (
	"net/netip"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

func persistent(t *lvs.Table, seconds uint32) *lvs.Table {
	for _, s := range t.Services {
		s.Flags |= lvs.FlagPersistent
		s.Timeout = seconds
		s.Netmask = 0xffffffff
		if s.Is6() {
			s.Netmask = 64
		}
	}
	return t
}

// TestPersistenceSwitched: connections made before -p is given, or taken back,
// are still found, although they are in the other table.
func TestPersistenceSwitched(t *testing.T) { eachProgram(t, testPersistenceSwitched) }

func testPersistenceSwitched(t *testing.T, p *Plane) {
	servers := []lvs.RealServer{server(0, 1), server(1, 1), server(2, 1)}
	plain := func() *lvs.Table { return table(lvs.TCP, lvs.RoundRobin, servers...) }
	install(t, p, plain())
	at := open(t, p, 0, 3)
	install(t, p, persistent(plain(), 100))
	at = append(at, open(t, p, 3, 6)...)
	install(t, p, plain())
	at = append(at, open(t, p, 6, 9)...)
	for n, want := range at {
		o := send(t, p, tcpFrame(client(n), "A"))
		if got, _ := o.chosen(); got != want || o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
			t.Errorf("client %d: %v to %v, was at %v", n, o.verdict, got, want)
		}
	}
	status, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range status[0].Servers {
		if s.Active != 3 || s.Persistent != 1 {
			t.Errorf("%+v; want 3 active, 1 persistent", s)
		}
	}
	if err := p.AdvanceClock(2000 * time.Second); err != nil {
		t.Fatal(err)
	}
	sweepAll(t, p)
	sweepAll(t, p) // templates end after the connections that held them
	compareBooks(t, p)
	wantTotals(t, p, 0, 0)
}

// TestPersistence6: of IPv6 clients, all of a prefix stay together, and only
// those.
func TestPersistence6(t *testing.T) { eachProgram(t, testPersistence6) }

func testPersistence6(t *testing.T, p *Plane) {
	install(t, p, persistent(table6(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1), server(2, 1)), 100))
	from := func(prefix string) netip.Addr {
		addr, _ := send(t, p, tcpFrame6("["+prefix+"]:1000", "S")).chosen()
		return addr
	}
	a, b := from("2001:db8:1:1::1"), from("2001:db8:1:2::1")
	if a == b {
		t.Fatal("two networks, one after the other, went to one server under rr")
	}
	if got := from("2001:db8:1:1:ffff::9"); got != a {
		t.Errorf("another client of the first network went to %v, the first to %v", got, a)
	}
	if got := from("2001:db8:1:2::ffff"); got != b {
		t.Errorf("another client of the second network went to %v, the first to %v", got, b)
	}
}

// TestFTP: a persistent service on port 21 gets the data connections too
// (passive FTP), and another host's active ones are never scheduled.
func TestFTP(t *testing.T) { eachProgram(t, testFTP) }

func testFTP(t *testing.T, p *Plane) {
	rules := persistent(table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1)), 100)
	s := rules.Services[0]
	s.Port = 21
	for i := range s.Servers {
		s.Servers[i].Port = 21
	}
	install(t, p, &lvs.Table{Services: rules.Services, Timeouts: rules.Timeouts})
	to := func(from string, port uint16) outcome {
		return send(t, p, newFrame(lvs.TCP, netip.MustParseAddrPort(from), netip.AddrPortFrom(vip, port)).flags("S").bytes())
	}
	for _, from := range []string{"10.0.0.1:1000", "10.0.0.2:1000"} {
		want, _ := to(from, 21).chosen()
		if got, _ := to(from, 40000).chosen(); got != want || !want.IsValid() {
			t.Errorf("%s: control to %v, data to %v", from, want, got)
		}
	}
	if o := to("10.0.0.1:1000", 80); o.verdict != bpfVerdictVERDICT_PASS_NOT_SERVED {
		t.Errorf("port 80: %v", o.verdict)
	}
	if o := to("10.0.0.3:20", 21); o.verdict != bpfVerdictVERDICT_REPLY_NO_SERVER {
		t.Errorf("from port 20: %v", o.verdict)
	}
}

// TestTemplateHeld: with connections a template does not end, and with none it
// does; a removed server's is replaced.
func TestTemplateHeld(t *testing.T) { eachProgram(t, testTemplateHeld) }

func testTemplateHeld(t *testing.T, p *Plane) {
	rules := func(n ...int) *lvs.Table {
		var servers []lvs.RealServer
		for _, i := range n {
			servers = append(servers, server(i, 1))
		}
		return persistent(table(lvs.TCP, lvs.RoundRobin, servers...), 10)
	}
	install(t, p, rules(0, 1))
	templates := func() (n int) {
		all, err := p.Connections()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			if c.Client.Port() == 0 {
				n++
			}
		}
		return n
	}
	at := open(t, p, 0, 1)
	for range 5 {
		if err := p.AdvanceClock(50 * time.Second); err != nil {
			t.Fatal(err)
		}
		sweepAll(t, p)
		if templates() != 1 {
			t.Fatal("the template ended while it had a connection")
		}
	}
	install(t, p, rules(1-int(at[0].As4()[3]-177)))
	if o := send(t, p, tcpFrame("10.0.0.0:9999", "S")); o.verdict != bpfVerdictVERDICT_FORWARD_NEW || templates() != 1 {
		t.Errorf("after its server was removed: %v, %d templates", o.verdict, templates())
	}
	if err := p.AdvanceClock(2000 * time.Second); err != nil {
		t.Fatal(err)
	}
	sweepAll(t, p)
	sweepAll(t, p)
	if n := templates(); n != 0 {
		t.Errorf("%d templates in the end", n)
	}
	compareBooks(t, p)
}
