// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// localNode makes the servers of both families this host's own.
func localNode(t *testing.T, p *Plane) {
	t.Helper()
	for n := range 2 {
		makeLocal(t, p, rip(n), rip6(n))
	}
}

func makeLocal(t *testing.T, p *Plane, all ...netip.Addr) {
	t.Helper()
	for _, a := range all {
		if err := p.SetNeighbour(Neighbour{Addr: a, Local: true}); err != nil {
			t.Fatal(err)
		}
	}
}

// family is a service of rr, and a client of it.
type family struct {
	name   string
	rules  func() *lvs.Table
	vip    netip.Addr
	client netip.Addr
	rips   [2]netip.Addr
}

func families() []family {
	servers := []lvs.RealServer{server(0, 1), server(1, 1)}
	return []family{
		{"IPv4", func() *lvs.Table { return table(lvs.TCP, lvs.RoundRobin, servers...) }, vip,
			netip.MustParseAddr("10.0.0.1"), [2]netip.Addr{rip(0), rip(1)}},
		{"IPv6", func() *lvs.Table { return table6(lvs.TCP, lvs.RoundRobin, servers...) }, vip6,
			netip.MustParseAddr("2001:db8:99::1"), [2]netip.Addr{rip6(0), rip6(1)}},
	}
}

func (f family) frame(port uint16, flags string, change ...func(*frame)) []byte {
	b := newFrame(lvs.TCP, netip.AddrPortFrom(f.client, port), netip.AddrPortFrom(f.vip, 80)).flags(flags)
	for _, c := range change {
		c(b)
	}
	return b.bytes()
}

// TestLocalNode: a server that is the director itself has its turn like any, and
// its packets are left as they came to the own stack; it is counted like any.
func TestLocalNode(t *testing.T) {
	eachProgram(t, func(t *testing.T, p *Plane) {
		for _, f := range families() {
			t.Run(f.name, func(t *testing.T) { testLocalNode(t, p, f) })
		}
	})
}

func testLocalNode(t *testing.T, p *Plane, f family) {
	install(t, p, lvs.NewTable())
	if err := p.AdvanceClock(2000 * time.Second); err != nil {
		t.Fatal(err)
	}
	install(t, p, f.rules())
	makeLocal(t, p, f.rips[1])
	stays := func(what string, in []byte) {
		t.Helper()
		if o := send(t, p, in); o.verdict != bpfVerdictVERDICT_FORWARD_LOCAL || o.action != xdpPass || !bytes.Equal(o.out, in) {
			t.Errorf("%s: %v, action %d, and the frame is % x", what, o.verdict, o.action, o.out)
		}
	}
	goes := func(what string, in []byte, want bpfVerdict) {
		t.Helper()
		if o := send(t, p, in); o.verdict != want || !o.did(p, xdpTX) {
			t.Errorf("%s: %v, action %d", what, o.verdict, o.action)
		}
	}
	// The list has the newest server first, and rr begins behind its head.
	for n := range uint16(10) {
		syn, ack := f.frame(1000+n, "S"), f.frame(1000+n, "A")
		if n%2 == 0 {
			stays("SYN", syn)
			stays("ACK", ack)
		} else {
			goes("SYN to the other", syn, bpfVerdictVERDICT_FORWARD_NEW)
			goes("ACK to the other", ack, bpfVerdictVERDICT_FORWARD_CONNECTION)
		}
	}
	stays("without hops left", f.frame(1000, "A", func(b *frame) { b.ip.TTL, b.ip6.HopLimit = 1, 1 }))
	whole := f.frame(1000, "A", func(b *frame) { b.payload = make([]byte, 3000) })
	stays("a long one", whole)
	for n, piece := range pieces(whole, 1400) {
		stays("fragment "+string(rune('0'+n)), piece)
	}
	stays("an ICMP error about it", f.related(1000))
	goes("an ICMP error about the other's", f.related(1001), bpfVerdictVERDICT_FORWARD_RELATED)
	stays("FIN", f.frame(1000, "FA"))

	status, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	servers := status[0].Servers
	if l := servers[0]; !l.Local || l.Addr != f.rips[1] || l.Active != 4 || l.Inactive != 1 || l.Counters.Connections != 5 || l.Counters.Packets != 17 {
		t.Errorf("local: %+v", l)
	}
	if o := servers[1]; o.Local || o.Active != 5 || o.Inactive != 0 || o.Counters.Connections != 5 || o.Counters.Packets != 11 {
		t.Errorf("the other: %+v", o)
	}

	// The address goes to another host, and comes back: connections follow it.
	resolve(t, p, f.rips[1])
	goes("after it moved away", f.frame(1002, "A"), bpfVerdictVERDICT_FORWARD_CONNECTION)
	makeLocal(t, p, f.rips[1])
	stays("after it came back", f.frame(1002, "A"))

	// Persistence, and thresholds.
	install(t, p, persistent(f.rules(), 50))
	makeLocal(t, p, f.rips[0])
	first := send(t, p, f.frame(2000, "S"))
	for n := range uint16(4) {
		stays("of a persistent client", f.frame(2001+n, "S"))
	}
	if first.verdict != bpfVerdictVERDICT_FORWARD_LOCAL {
		t.Errorf("the first of a persistent client: %v", first.verdict)
	}
	resolve(t, p, f.rips[0])
	limited := f.rules()
	limited.Services[0].Servers[0].Upper = 1
	install(t, p, limited)
	for n := range uint16(4) {
		goes("with the local one at its threshold", f.frame(3000+n, "S"), bpfVerdictVERDICT_FORWARD_NEW)
	}

	if err := p.AdvanceClock(2000 * time.Second); err != nil {
		t.Fatal(err)
	}
	sweepAll(t, p)
	wantTotals(t, p, 0, 0)
}

// related is an ICMP error about a reply to the client's port.
func (f family) related(port uint16) []byte {
	inner := newFrame(lvs.TCP, netip.AddrPortFrom(f.vip, 80), netip.AddrPortFrom(f.client, port)).flags("A").bytes()[14:]
	kind, protocol, quoted := []byte{3, 4, 0, 0, 0, 0, 5, 0}, layers.IPProtocolICMPv4, 28
	if f.vip.Is6() {
		kind, protocol, quoted = []byte{2, 0, 0, 0, 0, 0, 5, 0}, layers.IPProtocolICMPv6, 48
	}
	b := newFrame(lvs.Protocol(protocol), netip.AddrPortFrom(f.client, 0), netip.AddrPortFrom(f.vip, 0))
	b.payload = append(kind, inner[:quoted]...)
	return b.bytes()
}

// TestLocalNodeIsTakenOver: the next daemon knows which servers are local before
// anyone tells it, so not one packet leaves the host.
func TestLocalNodeIsTakenOver(t *testing.T) {
	o := Options{Instance: "test", PinDir: bpffs(t), Interfaces: []string{"lo"}, Mode: Generic, Connections: 1 << 10}
	labtest.InNamespace(t)
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 1)))
	makeLocal(t, p, rip(0))
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err = Open(o); err != nil {
		t.Fatal(err)
	}
	defer p.Remove()
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 2)))
	if o := send(t, p, tcpFrame("10.0.0.1:1000", "S")); o.verdict != bpfVerdictVERDICT_FORWARD_LOCAL {
		t.Errorf("after a takeover: %v", o.verdict)
	}
}

// TestOwnSource: what this host sends to itself from an address that a real
// server has, too, is left to the own stack.
func TestOwnSource(t *testing.T) {
	p := newPlane(t, inMode(TC))
	for _, f := range families() {
		install(t, p, f.rules())
		for _, from := range []string{"172.16.16.172", "127.0.0.1", "127.9.9.9", "2001:db8:16::172", "::1"} {
			client := netip.MustParseAddr(from)
			if client.Is6() != f.vip.Is6() {
				continue
			}
			f.client = client
			if o := send(t, p, f.frame(1000, "S")); o.verdict != bpfVerdictVERDICT_PASS_OWN_SOURCE || o.action != xdpPass {
				t.Errorf("from %s: %v", from, o.verdict)
			}
		}
		for _, from := range []string{"172.16.16.173", "128.0.0.1", "2001:db8:16::173", "::2", "2001:db8:17::172"} {
			client := netip.MustParseAddr(from)
			if client.Is6() != f.vip.Is6() {
				continue
			}
			f.client = client
			if o := send(t, p, f.frame(1000, "S")); o.verdict != bpfVerdictVERDICT_FORWARD_NEW {
				t.Errorf("from %s: %v", from, o.verdict)
			}
		}
	}
}
