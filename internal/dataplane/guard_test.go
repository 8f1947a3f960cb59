// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// denying puts prefixes on the deny lists of all services of their family.
func denying(t *lvs.Table, prefixes ...string) *lvs.Table {
	for _, s := range t.Services {
		s.Deny = nil
		for _, text := range prefixes {
			if p := netip.MustParsePrefix(text); p.Addr().Is6() == s.Is6() {
				mustChange(t, lvs.Change{Operation: lvs.AddDeny, Service: lvs.VirtualService{ServiceID: s.ServiceID}, Deny: p})
			}
		}
	}
	return t
}

// TestDenyList: whoever is on the list is not served, in any way, and an edit
// counts from the next packet on, also for connections that there are.
func TestDenyList(t *testing.T) { eachProgram(t, testDenyList) }

func testDenyList(t *testing.T, p *Plane) {
	rules := func(prefixes ...string) *lvs.Table {
		all := table(lvs.TCP, lvs.WeightedLeastConnection, server(0, 1), server(1, 1))
		for _, other := range []*lvs.Table{table(lvs.UDP, lvs.RoundRobin, server(0, 1)), table(lvs.SCTP, lvs.RoundRobin, server(0, 1)),
			persistent(table6(lvs.TCP, lvs.RoundRobin, server(0, 1)), 50)} {
			all.Services = append(all.Services, other.Services...)
		}
		all = &lvs.Table{Services: all.Services, Timeouts: all.Timeouts}
		return denying(all, prefixes...)
	}
	other := func(t *lvs.Table) *lvs.Table { // the same address, and no list
		s := table(lvs.TCP, lvs.RoundRobin, server(0, 1)).Services[0]
		s.Port, s.Servers[0].Port = 81, 81
		t.Services = append(t.Services, s)
		return t
	}
	from := func(protocol lvs.Protocol, client string, change func(*frame)) []byte {
		f := newFrame(protocol, netip.MustParseAddrPort(client), netip.AddrPortFrom(vip, 80)).flags("S")
		change(f)
		return f.bytes()
	}
	fragments := pieces(from(lvs.TCP, "10.1.2.3:1000", func(f *frame) { f.payload = make([]byte, 100) }), 64)
	router := func(in []byte, addr byte) []byte { return edit(in, func(b []byte) { b[26] = addr; ipSum(b) }) } // the sender: 198.51.100.1

	install(t, p, other(rules()))
	open(t, p, 1, 4) // 10.0.0.1 to 3
	send(t, p, tcpFrame("10.1.2.3:999", "S"))
	send(t, p, tcpFrame6("[2001:db8:99:1::1]:999", "S"))
	install(t, p, other(rules("10.1.0.0/16", "10.1.2.0/24", "10.2.0.1/32", "198.0.0.0/8", "2001:db8:99:1::/64", "10.128.0.0/9")))
	denied, fresh, connection := bpfVerdictVERDICT_DROP_DENIED, bpfVerdictVERDICT_FORWARD_NEW, bpfVerdictVERDICT_FORWARD_CONNECTION
	for _, r := range []struct {
		name string
		in   []byte
		want bpfVerdict
	}{
		{"SYN", tcpFrame("10.1.2.3:1000", "S"), denied},
		{"of a connection that there is", tcpFrame("10.1.2.3:999", "A"), denied},
		{"no SYN", tcpFrame("10.1.255.255:1000", "A"), denied},
		{"RST", tcpFrame("10.1.255.255:1000", "R"), denied},
		{"TTL 1", from(lvs.TCP, "10.1.0.1:1000", func(f *frame) { f.ip.TTL = 1 }), denied},
		{"UDP", udpFrame("10.1.0.0:1000"), denied},
		{"SCTP", sctpFrame(netip.MustParseAddrPort("10.1.0.0:1000"), chunk(chunkInit, 16)), denied},
		{"a host", tcpFrame("10.2.0.1:1000", "S"), denied},
		{"a half of a network", tcpFrame("10.200.3.4:1000", "S"), denied},
		{"first fragment", fragments[0], denied},
		{"later fragment", fragments[1], bpfVerdictVERDICT_DROP_FRAGMENT},
		{"ICMP error of a denied router", icmpError(3, 4, "10.0.0.1:1025", 8), denied},
		{"ICMP error of another router", router(icmpError(3, 4, "10.0.0.1:1025", 8), 99), bpfVerdictVERDICT_FORWARD_RELATED},
		{"ICMP error of another router about a denied client", router(icmpError(3, 4, "10.1.2.3:999", 8), 99), bpfVerdictVERDICT_FORWARD_RELATED},
		{"IPv6", tcpFrame6("[2001:db8:99:1:ffff::1]:1000", "S"), denied},
		{"IPv6, of a connection that there is", tcpFrame6("[2001:db8:99:1::1]:999", "A"), denied},

		{"below the network", tcpFrame("10.0.255.255:1000", "S"), fresh},
		{"above the network", tcpFrame("10.2.0.0:1000", "S"), fresh},
		{"beside the host", tcpFrame("10.2.0.2:1000", "S"), fresh},
		{"beside the half of a network", tcpFrame("10.127.255.255:1000", "S"), fresh},
		{"IPv6, beside the network", tcpFrame6("[2001:db8:99:2::1]:1000", "S"), fresh},
		{"another's connection", tcpFrame("10.0.0.1:1025", "A"), connection},
		{"a service without a list", from(lvs.TCP, "10.1.2.3:1000", func(f *frame) { f.tcp.DstPort = 81 }), fresh},
		{"no service", from(lvs.TCP, "10.1.2.3:1000", func(f *frame) { f.tcp.DstPort = 82 }), bpfVerdictVERDICT_PASS_NOT_SERVED},
		{"another host's frame", from(lvs.TCP, "10.1.2.3:1000", func(f *frame) { f.eth.DstMAC = routerMAC }), bpfVerdictVERDICT_PASS_NOT_HOST},
		{"ping", from(lvs.Protocol(1), "10.1.2.3:0", func(f *frame) { f.payload = make([]byte, 40) }), bpfVerdictVERDICT_PASS_PROTOCOL},
	} {
		if o := send(t, p, r.in); o.verdict != r.want || r.want == denied && !o.did(p, xdpDrop) {
			t.Errorf("%s: %v, want %v", r.name, o.verdict, r.want)
		}
	}
	// A connection is there when its client is denied no more, if that is in time.
	install(t, p, other(rules("10.2.0.0/16")))
	for client, want := range map[string]bpfVerdict{"10.1.2.3:999": connection, "10.2.0.2:1000": denied, "10.1.2.3:1001": bpfVerdictVERDICT_FORWARD_ADOPTED} {
		if o := send(t, p, tcpFrame(client, "A")); o.verdict != want {
			t.Errorf("after an edit, %s: %v, want %v", client, o.verdict, want)
		}
	}
	install(t, p, other(rules("0.0.0.0/0")))
	if o := send(t, p, tcpFrame("10.0.0.1:1025", "A")); o.verdict != denied {
		t.Errorf("nobody is served: %v", o.verdict)
	}
	install(t, p, other(rules()))
	if o := send(t, p, tcpFrame("10.2.0.2:1000", "A")); o.verdict != connection {
		t.Errorf("without a list: %v", o.verdict)
	}
	if n := deniedElements(t, p); n != 0 {
		t.Errorf("without lists there are %d elements of lists", n)
	}
}

func deniedElements(t *testing.T, p *Plane) (n int) {
	t.Helper()
	var k bpfDeniedKey
	var v bpfDenial
	each := p.maps.Denied.Iterate()
	for each.Next(&k, &v) {
		n++
	}
	if err := each.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDenyListsAreKept: a restart finds the lists and the limits, an edit of
// something else leaves them alone, what a predecessor died over goes, and so does a
// removed service's list. What there is no room for changes nothing.
func TestDenyListsAreKept(t *testing.T) {
	labtest.InNamespace(t)
	o := Options{Instance: "test", PinDir: bpffs(t), Interfaces: []string{"lo"}, Mode: Generic, Connections: 1 << 10}
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	}()
	var many []string
	for n := range 1000 {
		many = append(many, fmt.Sprintf("10.%d.%d.0/%d", 100+n/250, n%250, 24+n%2))
	}
	rules := func(prefixes ...string) *lvs.Table {
		r := table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1))
		r.Services = append(r.Services, table6(lvs.TCP, lvs.RoundRobin, server(0, 1)).Services...)
		r = denying(&lvs.Table{Services: r.Services, Timeouts: r.Timeouts}, append(prefixes, "2001:db8:99::/48", "::1/128")...)
		return withPolicy(r, lvs.Policy{SourceLimit: lvs.SourceLimit{Rate: 10000, Burst: 9999}})
	}
	wanted := rules(many...)
	install(t, p, wanted)
	send(t, p, tcpFrame("10.100.0.1:1000", "S"))
	weighted := rules(many...)
	weighted.Services[0].Servers[0].Weight = 7
	before := p.installed[weighted.Services[0].ServiceID].denied
	install(t, p, weighted)
	if now := p.installed[weighted.Services[0].ServiceID].denied; now != before {
		t.Errorf("a change of a weight wrote the list anew")
	}
	// Somebody was killed when half of a list was written.
	for _, k := range (denyList{77, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}).keys() {
		if err := p.maps.Denied.Put(k, bpfDenial{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err = Open(o); err != nil {
		t.Fatal(err)
	}
	if n := deniedElements(t, p); n != len(many)+2 {
		t.Errorf("after a restart there are %d prefixes, want %d", n, len(many)+2)
	}
	for _, s := range weighted.Services {
		got := p.installed[s.ServiceID].service
		if !slices.Equal(got.Deny, s.Deny) || got.Policy != s.Policy {
			t.Errorf("after a restart %v has %d prefixes and %q; %d and %q before", s.ServiceID, len(got.Deny), got.Policy, len(s.Deny), s.Policy)
		}
	}
	if o := send(t, p, tcpFrame("10.100.0.1:1000", "A")); o.verdict != bpfVerdictVERDICT_DROP_DENIED {
		t.Errorf("after a restart: %v", o.verdict)
	}
	over := rules(many...)
	for n := range uint32(maxDenied) {
		over.Services[0].Deny = append(over.Services[0].Deny, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(n >> 16), byte(n >> 8), byte(n)}), 32))
	}
	if err := p.Apply(over); !errors.Is(err, ErrFull) {
		t.Errorf("more than there is room for: %v", err)
	}
	full := rules()
	full.Services[0].Deny = over.Services[0].Deny[len(many)+2 : len(over.Services[0].Deny)-2*len(many)]
	for range 3 { // each written beside the one before
		install(t, p, full)
		full.Services[0].Deny = full.Services[0].Deny[1:]
	}
	install(t, p, rules(many...))
	if n := deniedElements(t, p); n != len(many)+2 {
		t.Errorf("after edits there are %d prefixes, want %d", n, len(many)+2)
	}
	install(t, p, &lvs.Table{Services: rules().Services[1:], Timeouts: lvs.DefaultTimeouts()})
	if n := deniedElements(t, p); n != 2 {
		t.Errorf("after the removal of a service there are %d prefixes, want 2", n)
	}
}

// limited gives all services of a table a limit.
func limited(t *lvs.Table, rate, burst uint32) *lvs.Table {
	return withPolicy(t, lvs.Policy{SourceLimit: lvs.SourceLimit{Rate: rate, Burst: burst}})
}

// beginning is a kind of packet that begins a connection: the n-th of a client
// with that number.
type beginning struct {
	name  string
	rules *lvs.Table
	in    func(client, n int) []byte
	want  bpfVerdict
}

func beginnings() []beginning {
	four := func(client, n int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 7, byte(client >> 8), byte(client)}), uint16(1024+n))
	}
	six := func(client, n int) netip.AddrPort { // of one /64 each
		a := netip.MustParseAddr("2001:db8:77::").As16()
		a[6], a[7], a[14], a[15] = byte(client>>8), byte(client), byte(n>>8), byte(n)
		return netip.AddrPortFrom(netip.AddrFrom16(a), 1024)
	}
	tcp := func(flags string) func(client, n int) []byte {
		return func(client, n int) []byte { return tcpFrame(four(client, n).String(), flags) }
	}
	udp := func(client, n int) []byte { return udpFrame(four(client, n).String()) }
	onePacket := table(lvs.UDP, lvs.RoundRobin, server(0, 1))
	onePacket.Services[0].Flags = lvs.FlagOnePacket
	fresh, adopted := bpfVerdictVERDICT_FORWARD_NEW, bpfVerdictVERDICT_FORWARD_ADOPTED
	return []beginning{
		{"SYN", table(lvs.TCP, lvs.WeightedLeastConnection, server(0, 1), server(1, 1)), tcp("S"), fresh},
		{"SYN, lblc", table(lvs.TCP, lvs.LocalityLeastConnection, server(0, 1), server(1, 1)), tcp("S"), fresh},
		{"ACK that is adopted", table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1)), tcp("A"), adopted},
		{"UDP", table(lvs.UDP, lvs.RoundRobin, server(0, 1)), udp, fresh},
		{"UDP, one packet", onePacket, udp, bpfVerdictVERDICT_FORWARD_ONE_PACKET},
		{"SCTP", table(lvs.SCTP, lvs.RoundRobin, server(0, 1)), func(client, n int) []byte {
			return sctpFrame(four(client, n), chunk(chunkInit, 16))
		}, fresh},
		{"persistent", persistent(table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1)), 50), tcp("S"), fresh},
		{"IPv6", table6(lvs.TCP, lvs.RoundRobin, server(0, 1)), func(client, n int) []byte { return tcpFrame6(six(client, n).String(), "S") }, fresh},
		{"first fragment", table(lvs.UDP, lvs.RoundRobin, server(0, 1)), func(client, n int) []byte {
			f := newFrame(lvs.UDP, four(client, n), netip.AddrPortFrom(vip, 80))
			f.ip.Id, f.ip.Flags = uint16(n), layers.IPv4MoreFragments
			return f.bytes()
		}, fresh},
	}
}

// TestSourceLimit: each source begins as many connections as it may, and others
// begin theirs meanwhile; connections that there are go on; and with the time
// there may be more.
func TestSourceLimit(t *testing.T) { eachProgram(t, testSourceLimit) }

func testSourceLimit(t *testing.T, p *Plane) {
	const rate, burst = 1, 5
	refused := bpfVerdictVERDICT_DROP_SOURCE_LIMIT
	for client, b := range beginnings() {
		install(t, p, table(lvs.TCP, lvs.RoundRobin)) // another one begins with nothing
		install(t, p, limited(b.rules, rate, burst))
		next, began := 0, time.Now()
		// begin tries often, and demands that n are let in, and one more for each
		// second that has passed meanwhile.
		begin := func(when string, n int) {
			t.Helper()
			let := 0
			for range 3 * burst {
				switch o := send(t, p, b.in(client, next)); o.verdict {
				case b.want:
					let++
				case refused:
					if !o.did(p, xdpDrop) {
						t.Errorf("%s: refused, and not dropped", b.name)
					}
				default:
					t.Fatalf("%s: %v", b.name, o.verdict)
				}
				next++
			}
			most := min(n+int(time.Since(began)/time.Second)*rate+1, 3*burst)
			if let < n || let > most {
				t.Errorf("%s, %s: %d connections, want %d to %d", b.name, when, let, n, most)
			}
		}
		begin("at first", burst)
		if o := send(t, p, b.in(client+100, next)); o.verdict != b.want {
			t.Errorf("%s: another client: %v", b.name, o.verdict)
		}
		if b.want != bpfVerdictVERDICT_FORWARD_ONE_PACKET {
			if o := send(t, p, b.in(client, 0)); o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
				t.Errorf("%s: a connection that there is: %v", b.name, o.verdict)
			}
		}
		began = time.Now()
		if err := p.AdvanceClock(3 * time.Second); err != nil {
			t.Fatal(err)
		}
		began = began.Add(-time.Second) // since the last one before
		begin("3 seconds later", 3*rate)
		if err := p.AdvanceClock(1000 * time.Second); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		begin("much later", burst)
	}
}

// TestSourceLimitSparesOthers: what begins no connection is not counted, nor
// refused.
func TestSourceLimitSparesOthers(t *testing.T) { eachProgram(t, testSourceLimitSparesOthers) }

func testSourceLimitSparesOthers(t *testing.T, p *Plane) {
	const other = "10.7.0.1:999"
	rules := func(s lvs.Stray) *lvs.Table {
		return withPolicy(table(lvs.TCP, lvs.RoundRobin, server(0, 1)), lvs.Policy{Stray: s, SourceLimit: lvs.SourceLimit{Rate: 1, Burst: 1}})
	}
	try := func(name string, in []byte, want bpfVerdict) {
		t.Helper()
		if o := send(t, p, in); o.verdict != want {
			t.Errorf("%s: %v, want %v", name, o.verdict, want)
		}
	}
	for s, want := range map[lvs.Stray]bpfVerdict{lvs.StrayPass: bpfVerdictVERDICT_PASS_STRAY, lvs.StrayDrop: bpfVerdictVERDICT_DROP_STRAY, lvs.StrayReset: bpfVerdictVERDICT_REPLY_RESET} {
		install(t, p, table(lvs.TCP, lvs.RoundRobin))
		install(t, p, rules(s))
		reset(t, p)
		install(t, p, rules(s))
		if err := p.AdvanceClock(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			try("stray", tcpFrame(other, "A"), want)
		}
		try("SYN after strays that began nothing", tcpFrame("10.7.0.1:1000", "S"), bpfVerdictVERDICT_FORWARD_NEW)
		for range 3 {
			try("stray of one that is used up", tcpFrame(other, "A"), want)
		}
	}
	install(t, p, rules(lvs.StrayAdopt))
	if err := p.AdvanceClock(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		try("RST", tcpFrame(other, "R"), bpfVerdictVERDICT_FORWARD_UNTRACKED)
		try("ICMP error", icmpError(3, 4, other, 8), bpfVerdictVERDICT_FORWARD_RELATED_ONLY)
	}
	try("SYN after RSTs and ICMP errors", tcpFrame("10.7.0.1:1001", "S"), bpfVerdictVERDICT_FORWARD_NEW)
	// The same client at another service.
	both := rules(lvs.StrayAdopt)
	second := rules(lvs.StrayAdopt).Services[0]
	second.Port, second.Servers[0].Port = 81, 81
	both.Services = append(both.Services, second)
	install(t, p, both)
	f := newFrame(lvs.TCP, netip.MustParseAddrPort("10.7.0.1:1002"), netip.AddrPortFrom(vip, 81)).flags("S")
	try("another service", f.bytes(), bpfVerdictVERDICT_FORWARD_NEW)
	// An edit of the limit counts from the next packet on, and no limit is none.
	install(t, p, limited(table(lvs.TCP, lvs.RoundRobin, server(0, 1)), 1, 4))
	try("more at once", tcpFrame("10.7.0.1:1003", "S"), bpfVerdictVERDICT_FORWARD_NEW)
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 1)))
	for n := range 20 {
		try("no limit", tcpFrame(fmt.Sprintf("10.7.0.1:%d", 2000+n), "S"), bpfVerdictVERDICT_FORWARD_NEW)
	}
}

// TestSourceLimitFullTable: a client whose connection found no place in the table
// is not slowed down to the limit by it; its SYNs count.
func TestSourceLimitFullTable(t *testing.T) { eachProgram(t, testSourceLimitFullTable, oneBucket) }

func testSourceLimitFullTable(t *testing.T, p *Plane) {
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1)))
	open(t, p, 0, int(ways))
	install(t, p, limited(table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1)), 1, 2))
	for _, flags := range []string{"S", "A", "A", "A", "A", "A", "FA"} {
		if o := send(t, p, tcpFrame("10.7.0.1:1000", flags)); o.verdict != bpfVerdictVERDICT_FORWARD_UNTRACKED {
			t.Errorf("%s: %v", flags, o.verdict)
		}
	}
	let := 0
	began := time.Now()
	for n := range 20 {
		if o := send(t, p, tcpFrame(fmt.Sprintf("10.7.0.1:%d", 2000+n), "S")); o.verdict == bpfVerdictVERDICT_FORWARD_UNTRACKED {
			let++
		}
	}
	if most := 2 + int(time.Since(began)/time.Second); let < 1 || let > most {
		t.Errorf("%d connections without a place, want 1 to %d", let, most)
	}
}

// TestSourceLimitFlood: sources without number, all where an attacker's state is,
// neither make room for it nor are refused.
func TestSourceLimitFlood(t *testing.T) { eachProgram(t, testSourceLimitFlood) }

func testSourceLimitFlood(t *testing.T, p *Plane) {
	const burst = 100
	install(t, p, limited(table(lvs.TCP, lvs.RoundRobin, server(0, 1)), 1, burst))
	id := p.installed[lvs.ServiceID{Protocol: lvs.TCP, Addr: vip, Port: 80}].id
	attacker := netip.MustParseAddr("10.7.0.1")
	from := func(a netip.Addr, port int) []byte {
		return tcpFrame(netip.AddrPortFrom(a, uint16(port)).String(), "S")
	}
	for n := range 2 * burst {
		send(t, p, from(attacker, 1024+n))
	}
	set := sourceSet(attacker, id, p.parameters.Seed)
	var at bpfSourceSet
	if err := p.maps.Sources.Lookup(set, &at); err != nil || at.Way == ([8]uint64{}) {
		t.Fatalf("the attacker is not where it was looked for: %x, %v", at.Way, err)
	}
	beside := 0
	for n := 0; beside < 200; n++ {
		a := netip.AddrFrom4([4]byte{20 + byte(n>>24), byte(n >> 16), byte(n >> 8), byte(n)})
		if sourceSet(a, id, p.parameters.Seed) != set {
			continue
		}
		beside++
		for port := range 3 {
			if o := send(t, p, from(a, 1024+port)); o.verdict != bpfVerdictVERDICT_FORWARD_NEW {
				t.Fatalf("source %d beside the attacker: %v", beside, o.verdict)
			}
		}
	}
	if err := p.maps.Sources.Lookup(set, &at); err != nil || slices.Contains(at.Way[:], 0) {
		t.Errorf("the set was not full: %x, %v", at.Way, err)
	}
	let := 0
	began := time.Now()
	for n := range 50 {
		if o := send(t, p, from(attacker, 5000+n)); o.verdict == bpfVerdictVERDICT_FORWARD_NEW {
			let++
		}
	}
	// What the test has taken so far is for it, too: much less than its burst.
	if let > 40+int(time.Since(began)/time.Second) {
		t.Errorf("behind a flood the attacker began %d connections of 50", let)
	}
}

// sourceSet is where the program looks for a source: see source_find, hash_mix.
func sourceSet(a netip.Addr, service uint32, seed uint64) uint32 {
	four := a.As4()
	low := uint64(four[0])<<32 | uint64(four[1])<<40 | uint64(four[2])<<48 | uint64(four[3])<<56
	seed = ^seed
	h := (low ^ seed) * 0x9E3779B97F4A7C15
	h ^= h >> 32
	h = (h + uint64(service) + seed>>17) * 0xD6E8FEB86659FD93
	return uint32(h^h>>29) & (1<<14 - 1)
}
