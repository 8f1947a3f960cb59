// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// mustEnd decides about a server's connections, in all services that are known.
func mustEnd(t *testing.T, p *Plane, r lvs.RealServer, fate lvs.Fate, want int) {
	t.Helper()
	ended := 0
	for id := range p.known() {
		n, err := p.End(id, r.ServerID, fate)
		if err != nil {
			t.Fatal(err)
		}
		ended += n
	}
	if ended != want {
		t.Errorf("%v of %v: %d connections, want %d", fate, r.ServerID, ended, want)
	}
}

// known are the services that are installed or were.
func (p *Plane) known() map[lvs.ServiceID]bool {
	all := map[lvs.ServiceID]bool{}
	for id := range p.installed {
		all[id] = true
	}
	for id := range p.gone {
		all[id] = true
	}
	return all
}

// onServer counts the connections and templates of a real server.
func onServer(t *testing.T, p *Plane, addr netip.Addr) (connections, templates int) {
	t.Helper()
	now, err := p.seconds()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.each(now, func(e entry, template bool) {
		switch {
		case p.addrOf(e.word.server()) != addr:
		case template:
			templates++
		default:
			connections++
		}
	}); err != nil {
		t.Fatal(err)
	}
	return connections, templates
}

// fateKind is a kind of service, and its clients' packets.
type fateKind struct {
	name  string
	rules func(weight int32) *lvs.Table // with that weight of the first server, and 1 of the second
	rip   func(int) netip.Addr
	frame func(n int, flags string) []byte
}

func fateKinds() []fateKind {
	at := func(n int) netip.AddrPort { return netip.MustParseAddrPort(client(n)) }
	four := func(protocol lvs.Protocol) func(int32) *lvs.Table {
		return func(w int32) *lvs.Table { return table(protocol, lvs.RoundRobin, server(0, w), server(1, 1)) }
	}
	six := func(w int32) *lvs.Table { return table6(lvs.TCP, lvs.RoundRobin, server(0, w), server(1, 1)) }
	return []fateKind{
		{"TCP", four(lvs.TCP), rip, func(n int, f string) []byte { return tcpFrame(client(n), f) }},
		{"persistent", func(w int32) *lvs.Table { return persistent(four(lvs.TCP)(w), 300) }, rip, func(n int, f string) []byte { return tcpFrame(client(n), f) }},
		{"IPv6", six, rip6, func(n int, f string) []byte {
			return tcpFrame6(netip.AddrPortFrom(rip6(1000+n), at(n).Port()).String(), f)
		}},
		{"persistent IPv6", func(w int32) *lvs.Table { return persistent(six(w), 300) }, rip6, func(n int, f string) []byte {
			a := rip6(1000 + n).As16()
			a[6] = byte(n) // of networks of their own
			return tcpFrame6(netip.AddrPortFrom(netip.AddrFrom16(a), at(n).Port()).String(), f)
		}},
		{"UDP", four(lvs.UDP), rip, func(n int, _ string) []byte { return udpFrame(client(n)) }},
	}
}

// server is the first one of a kind, as rules name it.
func (k fateKind) server() lvs.RealServer {
	return lvs.RealServer{ServerID: lvs.ServerID{Addr: k.rip(0), Port: 80}}
}

// open makes connections, a third of which stay embryonic, and tells how many are the
// first server's.
func (k fateKind) open(t *testing.T, p *Plane, n int) (first []int) {
	t.Helper()
	for i := range n {
		o := send(t, p, k.frame(i, "S"))
		if carryChosen(o).As4()[3] == rip(0).As4()[3] {
			first = append(first, i)
		}
		if i%3 != 0 {
			send(t, p, k.frame(i, "A"))
		}
	}
	if len(first) == 0 || len(first) == n {
		t.Fatalf("%s: %d of %d connections at the first server: nothing is tested", k.name, len(first), n)
	}
	return first
}

// TestEnd: End, with one data plane for all.
func TestEnd(t *testing.T) {
	p := newPlane(t)
	testEndExpire(t, p)
	testEndResetOthers(t, p)
	testEndResetNotTold(t, p)
}

// clear ends all that is left of both servers.
func (k fateKind) clear(t *testing.T, p *Plane) {
	t.Helper()
	for n := range 2 {
		r := lvs.RealServer{ServerID: lvs.ServerID{Addr: k.rip(n), Port: 80}}
		left, _ := onServer(t, p, r.Addr)
		mustEnd(t, p, r, lvs.FateExpire, left)
		if c, n := onServer(t, p, r.Addr); c != 0 || n != 0 {
			t.Errorf("%s: %d connections and %d templates are left", k.name, c, n)
		}
	}
	compareBooks(t, p)
	install(t, p, lvs.NewTable())
}

// testEndExpire: all of a server's entries are gone at once, whether it is quiesced,
// removed, or all of its service is; and nobody else's.
func testEndExpire(t *testing.T, p *Plane) {
	for _, k := range fateKinds() {
		for _, how := range []string{"quiesced", "removed", "with its weight", "service removed"} {
			install(t, p, k.rules(1))
			first := k.open(t, p, 30)
			switch how {
			case "quiesced":
				install(t, p, k.rules(0))
			case "removed":
				rules := k.rules(1)
				mustChange(rules, lvs.Change{Operation: lvs.DeleteServer, Service: *rules.Services[0], Server: k.server()})
				install(t, p, rules)
			case "service removed":
				install(t, p, lvs.NewTable())
			}
			mustEnd(t, p, k.server(), lvs.FateKeep, 0)
			mustEnd(t, p, k.server(), lvs.FateExpire, len(first))
			mustEnd(t, p, k.server(), lvs.FateExpire, 0)
			if c, n := onServer(t, p, k.rip(0)); c != 0 || n != 0 {
				t.Errorf("%s, %s: %d connections and %d templates are left", k.name, how, c, n)
			}
			if c, _ := onServer(t, p, k.rip(1)); c != 30-len(first) {
				t.Errorf("%s, %s: the other server has %d, had %d", k.name, how, c, 30-len(first))
			}
			compareBooks(t, p)
			if how == "quiesced" && k.name != "UDP" { // what comes of them is a stray
				for _, i := range first {
					if o := send(t, p, k.frame(i, "A")); o.verdict != bpfVerdictVERDICT_FORWARD_ADOPTED {
						t.Errorf("%s: its packet: %v", k.name, o.verdict)
					}
				}
			}
			k.clear(t, p)
		}
	}
	if n := spilled(t, p); n != 0 {
		t.Errorf("%d words of spills are left", n)
	}
	unknown := lvs.ServerID{Addr: netip.MustParseAddr("172.16.16.99"), Port: 80}
	k := fateKinds()[0]
	install(t, p, k.rules(1))
	for _, fate := range []lvs.Fate{lvs.FateKeep, lvs.FateExpire, lvs.FateReset} {
		if n, err := p.End(p.installed[onlyID(p)].service.ServiceID, unknown, fate); n != 0 || err != nil {
			t.Errorf("%v of a server that is not there: %d, %v", fate, n, err)
		}
	}
	if _, err := p.End(onlyID(p), server(0, 1).ServerID, 9); !errors.Is(err, lvs.ErrInvalid) {
		t.Errorf("fate 9: %v", err)
	}
	k.clear(t, p)
}

func onlyID(p *Plane) lvs.ServiceID {
	for id := range p.installed {
		return id
	}
	return lvs.ServiceID{}
}

// TestEndReset: what each packet of such a connection gets, and that the entry is gone
// after it.
func TestEndReset(t *testing.T) { eachProgram(t, testEndReset) }

func testEndReset(t *testing.T, p *Plane) {
	wants := []struct {
		flags string
		want  bpfVerdict
	}{
		{"A", bpfVerdictVERDICT_REPLY_ENDED},
		{"PA", bpfVerdictVERDICT_REPLY_ENDED},
		{"FA", bpfVerdictVERDICT_REPLY_ENDED},
		{"P", bpfVerdictVERDICT_REPLY_ENDED},
		{"", bpfVerdictVERDICT_REPLY_ENDED},
		{"S", bpfVerdictVERDICT_FORWARD_NEW},
		{"R", bpfVerdictVERDICT_FORWARD_CONNECTION},
		{"RA", bpfVerdictVERDICT_FORWARD_CONNECTION},
	}
	for _, k := range fateKinds()[:4] {
		install(t, p, k.rules(1))
		first := k.open(t, p, 6*len(wants))
		if len(first) < len(wants) {
			t.Fatalf("%s: %d connections at the first server", k.name, len(first))
		}
		install(t, p, k.rules(0))
		mustEnd(t, p, k.server(), lvs.FateReset, len(first))
		if _, n := onServer(t, p, k.rip(0)); n != 0 {
			t.Errorf("%s: %d templates of it are left", k.name, n)
		}
		for n, i := range first {
			c := wants[n%len(wants)]
			in := k.frame(i, c.flags)
			o := send(t, p, in)
			if o.verdict != c.want {
				t.Errorf("%s: %q: %v, want %v", k.name, c.flags, o.verdict, c.want)
			}
			if c.want == bpfVerdictVERDICT_REPLY_ENDED {
				checkReset(t, fmt.Sprintf("%s: %q", k.name, c.flags), in, o)
				if o := send(t, p, k.frame(i, "A")); o.verdict != bpfVerdictVERDICT_FORWARD_ADOPTED || carryChosen(o).As4()[3] != rip(1).As4()[3] {
					t.Errorf("%s: after its end: %v to %v", k.name, o.verdict, carryChosen(o))
				}
			}
			if c.want == bpfVerdictVERDICT_FORWARD_CONNECTION && carryChosen(o).As4()[3] != rip(0).As4()[3] {
				t.Errorf("%s: a RST to %v", k.name, carryChosen(o))
			}
		}
		if c, _ := onServer(t, p, k.rip(0)); c != 0 {
			t.Errorf("%s: %d connections are left", k.name, c)
		}
		compareBooks(t, p)
		k.clear(t, p)
	}
}

// testEndResetOthers: what is not TCP expires, a fragment is a stray, who has a weight
// is refused, a removed server's clients are told, too, and all goes on once it has a
// weight again.
func testEndResetOthers(t *testing.T, p *Plane) {
	kinds := fateKinds()
	udp, tcp := kinds[4], kinds[0]
	install(t, p, udp.rules(1))
	first := udp.open(t, p, 10)
	install(t, p, udp.rules(0))
	mustEnd(t, p, udp.server(), lvs.FateReset, len(first))
	if c, _ := onServer(t, p, rip(0)); c != 0 {
		t.Errorf("UDP: %d connections are left", c)
	}
	if o := send(t, p, udp.frame(first[0], "")); o.verdict != bpfVerdictVERDICT_FORWARD_NEW {
		t.Errorf("UDP: the next datagram: %v", o.verdict)
	}

	install(t, p, tcp.rules(1))
	first = tcp.open(t, p, 20)
	if len(first) < 6 {
		t.Fatalf("%d connections at the first server", len(first))
	}
	if n, err := p.End(onlyID(p), tcp.server().ServerID, lvs.FateReset); n != 0 || !errors.Is(err, lvs.ErrInvalid) {
		t.Errorf("with a weight: %d, %v", n, err)
	}
	install(t, p, tcp.rules(0))
	mustEnd(t, p, tcp.server(), lvs.FateReset, len(first))
	f := newFrame(lvs.TCP, netip.MustParseAddrPort(client(first[0])), netip.AddrPortFrom(vip, 80)).flags("A")
	f.ip.Flags = layers.IPv4MoreFragments
	if o := send(t, p, f.bytes()); o.verdict != bpfVerdictVERDICT_FORWARD_ADOPTED {
		t.Errorf("a fragment: %v", o.verdict)
	}
	install(t, p, tcp.rules(1)) // it lives again
	if o := send(t, p, tcp.frame(first[1], "A")); o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION || carryChosen(o) != rip(0) {
		t.Errorf("enabled again: %v to %v", o.verdict, carryChosen(o))
	}
	install(t, p, tcp.rules(0))
	if o := send(t, p, tcp.frame(first[1], "A")); o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
		t.Errorf("quiesced again: %v", o.verdict)
	}
	mustEnd(t, p, tcp.server(), lvs.FateReset, len(first)-1)
	mustEnd(t, p, tcp.server(), lvs.FateKeep, 0)
	if o := send(t, p, tcp.frame(first[1], "A")); o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
		t.Errorf("taken back: %v", o.verdict)
	}

	// Removed, then to be reset, and the other way round; then it comes back, quiesced.
	without := func() *lvs.Table { return table(lvs.TCP, lvs.RoundRobin, server(1, 1)) }
	install(t, p, without())
	mustEnd(t, p, tcp.server(), lvs.FateReset, len(first)-1)
	if o := send(t, p, tcp.frame(first[1], "A")); o.verdict != bpfVerdictVERDICT_REPLY_ENDED {
		t.Errorf("removed, then to be reset: %v", o.verdict)
	}
	if o := send(t, p, tcp.frame(first[2], "R")); o.verdict != bpfVerdictVERDICT_DROP_REMOVED {
		t.Errorf("a RST to a removed server: %v", o.verdict)
	}
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(1, 1), server(0, 0)))
	if o := send(t, p, tcp.frame(first[3], "A")); o.verdict != bpfVerdictVERDICT_REPLY_ENDED {
		t.Errorf("removed, to be reset, and back without a weight: %v", o.verdict)
	}
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(1, 1), server(0, 1)))
	if o := send(t, p, tcp.frame(first[4], "A")); o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
		t.Errorf("and back with a weight: %v", o.verdict)
	}
	tcp.clear(t, p)
}

// testEndResetNotTold: clients that do not answer keep a connection where strays are
// dropped, and lose it elsewhere.
func testEndResetNotTold(t *testing.T, p *Plane) {
	tcp := fateKinds()[0]
	for _, stray := range []lvs.Stray{lvs.StrayAdopt, lvs.StrayDrop} {
		policy := lvs.Policy{Stray: stray}
		install(t, p, withPolicy(tcp.rules(1), policy))
		first := tcp.open(t, p, 10)
		install(t, p, withPolicy(tcp.rules(0), policy))
		mustEnd(t, p, tcp.server(), lvs.FateReset, len(first))
		id, _ := p.serverOf(onlyID(p), tcp.server().ServerID)
		n, err := p.finishReset(id)
		if err != nil {
			t.Fatal(err)
		}
		want := bpfVerdictVERDICT_FORWARD_ADOPTED
		if stray == lvs.StrayDrop {
			want, first = bpfVerdictVERDICT_REPLY_ENDED, first[:1]
			if n != 0 {
				t.Errorf("%d ended without being told", n)
			}
		} else if n != len(first) {
			t.Errorf("%d ended, want %d", n, len(first))
		}
		if o := send(t, p, tcp.frame(first[0], "A")); o.verdict != want {
			t.Errorf("stray %v: %v, want %v", stray, o.verdict, want)
		}
		left, _ := onServer(t, p, rip(0))
		mustEnd(t, p, tcp.server(), lvs.FateExpire, left)
		compareBooks(t, p)
	}
}

// TestEndWhilePacketsFlow: whatever packets do at the same time, the books are right,
// and after the last End nothing is left.
func TestEndWhilePacketsFlow(t *testing.T) {
	p := newPlane(t, func(o *Options) { o.Connections = 1 << 9 }) // some give way, too
	for _, k := range fateKinds()[:4] {
		for _, fate := range []lvs.Fate{lvs.FateExpire, lvs.FateReset} {
			testEndWhilePacketsFlow(t, p, k, fate)
		}
	}
}

func testEndWhilePacketsFlow(t *testing.T, p *Plane, k fateKind, fate lvs.Fate) {
	install(t, p, k.rules(1))
	stop := make(chan struct{})
	var senders sync.WaitGroup
	for worker := range 3 {
		senders.Go(func() {
			for i := worker; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				in := k.frame(i%200, []string{"S", "A", "PA", "FA", "R", "A"}[i*7%6])
				if _, err := p.programs.Director.Run(&ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 3 {
		install(t, p, k.rules(0))
		if _, err := p.End(onlyID(p), k.server().ServerID, fate); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Millisecond)
		if fate == lvs.FateExpire {
			if c, n := onServer(t, p, k.rip(0)); c != 0 || n != 0 {
				t.Errorf("%s: %d connections and %d templates came after it", k.name, c, n)
			}
		}
		install(t, p, k.rules(1))
		time.Sleep(5 * time.Millisecond)
	}
	close(stop)
	senders.Wait()
	compareBooks(t, p)
	k.clear(t, p)
}

// TestFateTakenOver: a successor goes on with resets, seeds and what young connections
// count, also if it carries the connections over to tables of another size.
func TestFateTakenOver(t *testing.T) {
	next := succession(t)
	p := next(1 << 10)
	k := fateKinds()[0]
	rules := func(weight int32) *lvs.Table {
		return table(lvs.TCP, lvs.LeastConnection, seeded(server(0, weight), 2), seeded(server(1, 1), 1<<31))
	}
	install(t, p, rules(1))
	want := lvs.Young{Began: 30}
	var first []int
	for n := range 30 {
		send(t, p, k.frame(n, "S"))
		switch n % 5 {
		case 0:
			send(t, p, k.frame(n, "S"))
			want.Retransmitted++
		case 1:
			send(t, p, k.frame(n, "R"))
			want.Resets++
		case 2:
			send(t, p, k.frame(n, "A"))
			first = append(first, n)
		}
	}
	install(t, p, rules(0))
	mustEnd(t, p, k.server(), lvs.FateReset, 30) // the other one has a large seed
	for n, size := range []uint32{1 << 12} {
		p = next(size)
		if s := p.installed[onlyID(p)].service.Servers; s[1].Seed != 2 || s[0].Seed != lvs.MaxSeed {
			t.Errorf("start %d: seeds %d and %d", n, s[1].Seed, s[0].Seed)
		}
		if y := youngOfAll(t, p); y != want {
			t.Errorf("start %d: %d, want %d", n, numbers(y), numbers(want))
		}
		if o := send(t, p, k.frame(first[n], "A")); o.verdict != bpfVerdictVERDICT_REPLY_ENDED {
			t.Errorf("start %d: %v", n, o.verdict)
		}
		install(t, p, rules(0))
		if c, _ := onServer(t, p, rip(0)); c != 30-n-1 {
			t.Errorf("start %d: %d are left of 30", n, c)
		}
		compareBooks(t, p)
		// What packets and the timer count goes on from there.
		send(t, p, k.frame(100+n, "S"))
		send(t, p, k.frame(100+n, "S"))
		want.Began, want.Retransmitted = want.Began+1, want.Retransmitted+1
	}
	reseeded(t, p, rules(0), func(s *lvs.VirtualService) { s.Servers[0].Seed, s.Servers[1].Seed = 0, 0 })

	// A version that knows nothing of it leaves the mark when the server gets a weight.
	i := p.installed[onlyID(p)]
	r := p.record(i.servers[1])
	r.Flags &^= uint16(bpfServerFlagsSERVER_QUIESCED)
	p.writeServer(i.servers[1], r)
	p = next(0)
	if o := send(t, p, k.frame(first[5], "A")); o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
		t.Errorf("after a version that does not know the mark: %v", o.verdict)
	}
}
