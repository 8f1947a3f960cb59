// SPDX-License-Identifier: MIT

package dataplane

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

func cpus(t testing.TB) int {
	t.Helper()
	n, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func client(n int) string {
	return fmt.Sprintf("10.%d.%d.%d:%d", n>>16&0xff, n>>8&0xff, n&0xff, 1024+n%60000)
}

// oneBucket makes a table of a single bucket: it is full with as many connections.
func oneBucket(o *Options) { o.Connections = uint32(ways) }

func open(t *testing.T, p *Plane, from, to int) (servers []netip.Addr) {
	t.Helper()
	for n := from; n < to; n++ {
		addr, _ := send(t, p, tcpFrame(client(n), "S")).chosen()
		if again := send(t, p, tcpFrame(client(n), "A")); again.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
			t.Fatalf("client %d: its ACK: %v", n, again.verdict)
		}
		servers = append(servers, addr)
	}
	return servers
}

func wantTotals(t *testing.T, p *Plane, active, inactive uint32) {
	t.Helper()
	var a, i uint32
	status, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range status {
		for _, s := range service.Servers {
			a, i = a+s.Active, i+s.Inactive
		}
	}
	if a != active || i != inactive {
		t.Errorf("ActiveConn %d, InActConn %d in all; want %d, %d", a, i, active, inactive)
	}
}

// TestFullBucket: a SYN flood and forged ACKs cost no established connection,
// new clients are served all the same, and the counters stay exact.
func TestFullBucket(t *testing.T) { eachProgram(t, testFullBucket, oneBucket) }

func testFullBucket(t *testing.T, p *Plane) {
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1), server(2, 1)))
	const full = int(ways)
	servers := open(t, p, 0, full/2)
	for n := 100; n < 100+full/2; n++ { // the rest of the bucket: SYNs only
		if o := send(t, p, tcpFrame(client(n), "S")); o.verdict != bpfVerdictVERDICT_FORWARD_NEW {
			t.Fatalf("SYN %d: %v", n, o.verdict)
		}
	}
	wantTotals(t, p, uint32(ways), 0)

	// One more client finds no room for its SYN, and goes by the hash...
	syn := send(t, p, tcpFrame(client(200), "S"))
	if syn.verdict != bpfVerdictVERDICT_FORWARD_UNTRACKED {
		t.Fatalf("SYN on a full bucket: %v", syn.verdict)
	}
	wantTotals(t, p, uint32(ways), 0)
	// ...and its ACK, of higher rank, takes the place of one that only sent SYNs.
	ack := send(t, p, tcpFrame(client(200), "A"))
	if ack.verdict != bpfVerdictVERDICT_FORWARD_ADOPTED {
		t.Fatalf("its ACK: %v", ack.verdict)
	}
	first, _ := syn.chosen()
	if second, _ := ack.chosen(); second != first {
		t.Errorf("SYN went to %v, ACK to %v", first, second)
	}
	wantTotals(t, p, uint32(ways), 0)

	// Forged ACKs take the remaining embryonic places and not one more.
	for n := 300; n < 300+2*full; n++ {
		send(t, p, tcpFrame(client(n), "A"))
	}
	wantTotals(t, p, uint32(ways), 0)
	for n, want := range servers {
		o := send(t, p, tcpFrame(client(n), "A"))
		if got, _ := o.chosen(); got != want || o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
			t.Errorf("established client %d: %v to %v, was at %v", n, o.verdict, got, want)
		}
	}

	// When their time is up their places are free, without any sweep's help.
	if err := p.AdvanceClock(901 * time.Second); err != nil {
		t.Fatal(err)
	}
	if o := send(t, p, tcpFrame(client(400), "S")); o.verdict != bpfVerdictVERDICT_FORWARD_NEW {
		t.Errorf("SYN after all have expired: %v", o.verdict)
	}
	sweepAll(t, p)
	wantTotals(t, p, 1, 0)
}

// TestUDPRank: a flood of single datagrams does not displace a flow.
func TestUDPRank(t *testing.T) { eachProgram(t, testUDPRank, oneBucket) }

func testUDPRank(t *testing.T, p *Plane) {
	install(t, p, table(lvs.UDP, lvs.RoundRobin, server(0, 1), server(1, 1)))
	var flows []netip.Addr
	for n := range int(ways) {
		addr, _ := send(t, p, udpFrame(client(n))).chosen()
		send(t, p, udpFrame(client(n)))
		flows = append(flows, addr)
	}
	for n := 100; n < 140; n++ {
		if o := send(t, p, udpFrame(client(n))); o.verdict != bpfVerdictVERDICT_FORWARD_UNTRACKED {
			t.Fatalf("datagram %d: %v", n, o.verdict)
		}
	}
	for n, want := range flows {
		if got, _ := send(t, p, udpFrame(client(n))).chosen(); got != want {
			t.Errorf("flow %d moved from %v to %v", n, want, got)
		}
	}
	wantTotals(t, p, 0, uint32(ways))
}

// TestCountersReturnToZero: whatever is sent and edited, from two threads at
// once, in a table that overflows: when all is over, nothing is counted.
func TestCountersReturnToZero(t *testing.T) {
	eachProgram(t, testCountersReturnToZero, func(o *Options) { o.Connections = 4 * uint32(ways) })
}

func testCountersReturnToZero(t *testing.T, p *Plane) {
	servers := []lvs.RealServer{server(0, 1), server(1, 2), server(2, 3)}
	servers[1].Upper, servers[2].Upper, servers[2].Lower = 20, 10, 4
	all := func(scheduler func() lvs.Scheduler, servers func() []lvs.RealServer) *lvs.Table {
		rules := lvs.NewTable()
		for _, protocol := range []lvs.Protocol{lvs.TCP, lvs.UDP, lvs.SCTP} {
			rules.Services = append(rules.Services, table(protocol, scheduler(), servers()...).Services[0],
				table6(protocol, scheduler(), servers()...).Services[0])
		}
		return rules
	}
	same := func() *lvs.Table {
		return all(func() lvs.Scheduler { return lvs.WeightedLeastConnection }, func() []lvs.RealServer { return servers })
	}
	install(t, p, same())
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)

	var wg sync.WaitGroup
	for thread := range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := rand.New(rand.NewPCG(seed, uint64(thread)))
			for range 2000 {
				run(t, p, anyFrame(r, r.IntN(100)))
			}
		}()
	}
	r := rand.New(rand.NewPCG(seed, 99))
	for range 40 {
		rules := all(func() lvs.Scheduler { return Schedulers()[r.IntN(len(Schedulers()))] }, func() (some []lvs.RealServer) {
			for _, s := range servers {
				if r.IntN(4) > 0 {
					s.Weight = r.Int32N(4)
					some = append(some, s)
				}
			}
			return some
		})
		for _, s := range rules.Services {
			switch r.IntN(4) {
			case 0, 1:
				s.Flags, s.Timeout, s.Netmask = lvs.FlagPersistent, uint32(5+r.IntN(60)), 0xfffffff0
				if s.Is6() {
					s.Netmask = 120
				}
			case 2:
				if s.Protocol == lvs.UDP {
					s.Flags = lvs.FlagOnePacket
				}
			}
		}
		if err := p.Apply(rules); err != nil {
			t.Fatal(err)
		}
		if err := p.AdvanceClock(time.Duration(r.IntN(30)) * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()

	// In the middle of it all, the books and the table agree.
	install(t, p, same())
	sweepAll(t, p)
	compareBooks(t, p)
	if err := p.AdvanceClock(3000 * time.Second); err != nil {
		t.Fatal(err)
	}
	sweepAll(t, p)
	wantTotals(t, p, 0, 0)
	compareBooks(t, p)
	use, err := p.TableUse()
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range use {
		if u.Used != 0 {
			t.Errorf("left in the table: %+v", u)
		}
	}
	if n := spilled(t, p); n != 0 {
		t.Errorf("%d words say that entries are in other lines than their own, and there are no entries", n)
	}
}

// spilled counts the buckets that have entries in other lines than their own.
func spilled(t *testing.T, p *Plane) (n int) {
	t.Helper()
	for _, m := range []*ebpf.Map{p.maps.Spills, p.maps.WideSpills} {
		all, err := readArray[bpfSpillCounts](m)
		if err != nil {
			t.Fatal(err)
		}
		for _, counts := range all {
			for _, w := range counts.Word {
				if w != 0 {
					n++
				}
			}
		}
	}
	return n
}

// TestSpilled: who finds no room in its own line of a bucket is found in another,
// and when it goes the line is as if it had never been.
func TestSpilled(t *testing.T) {
	eachProgram(t, func(t *testing.T, p *Plane) {
		for name, frame := range map[string]func(string, string) []byte{"IPv4": tcpFrame, "IPv6": tcpFrame6} {
			rules := table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1))
			from := client
			if name == "IPv6" {
				rules = table6(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1))
				from = func(n int) string { return fmt.Sprintf("[2001:db8:99::1]:%d", 1000+n) }
			}
			install(t, p, rules)
			const clients = int(ways) - 3 // some line has more than its share
			most := 0
			for round := range 20 {
				for n := range clients {
					if o := send(t, p, frame(from(100*round+n), "S")); o.verdict != bpfVerdictVERDICT_FORWARD_NEW {
						t.Fatalf("%s, client %d: %v", name, n, o.verdict)
					}
				}
				most = max(most, spilled(t, p))
				for n := range clients {
					if o := send(t, p, frame(from(100*round+n), "A")); o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
						t.Fatalf("%s, client %d: %v", name, n, o.verdict)
					}
				}
				if err := p.AdvanceClock(901 * time.Second); err != nil {
					t.Fatal(err)
				}
				sweepAll(t, p)
				if n := spilled(t, p); n != 0 {
					t.Fatalf("%s: %d words are left", name, n)
				}
			}
			if most == 0 {
				t.Errorf("%s: nobody was in another line than its own: the test shows nothing", name)
			}
		}
	}, oneBucket)
}

// anyFrame is any packet of TCP, UDP or SCTP, of either family, from the n-th client.
func anyFrame(r *rand.Rand, n int) []byte {
	from, to := netip.MustParseAddrPort(client(n)), netip.AddrPortFrom(vip, 80)
	if r.IntN(2) == 0 {
		from, to = netip.AddrPortFrom(netip.MustParseAddr("2001:db8:99::1"), from.Port()), netip.AddrPortFrom(vip6, 80)
	}
	switch r.IntN(3) {
	case 0:
		return newFrame(lvs.UDP, from, to).bytes()
	case 1:
		kinds := append(allChunks(), chunkInit, chunkInit, chunkCookieEcho, chunkCookieEcho, chunkShutdown, chunkAbort)
		return sctpFrame(from, chunk(kinds[r.IntN(len(kinds))], 20))
	}
	return newFrame(lvs.TCP, from, to).flags([]string{"S", "S", "A", "A", "FA", "R", "SF", "", "SR"}[r.IntN(9)]).bytes()
}

// compareBooks counts the table's entries by server and compares with the
// counters, for every server id there is.
func compareBooks(t *testing.T, p *Plane) {
	t.Helper()
	want := map[uint32]uint64{}
	now, err := p.seconds()
	if err != nil {
		t.Fatal(err)
	}
	templates := map[uint32]uint32{}
	err = p.each(now, func(e entry, template bool) {
		if template {
			templates[e.word.server()]++
			return
		}
		switch e.word.state() {
		case bpfStateSTATE_ESTABLISHED, bpfStateSTATE_SYN_RECV, bpfStateSTATE_SYN_SENT, bpfStateSTATE_SYNACK:
			want[e.word.server()]++
		default:
			want[e.word.server()] += 1 << 32
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := readArray[bpfLoad](p.maps.Loads)
	if err != nil {
		t.Fatal(err)
	}
	for id, l := range got {
		if l.Connections != want[uint32(id)] || l.Templates != templates[uint32(id)] {
			t.Errorf("server %d: counted %#x and %d templates, in the tables %#x and %d",
				id, l.Connections, l.Templates, want[uint32(id)], templates[uint32(id)])
		}
	}
}

// TestExpiryWithoutDaemon: connections end by the kernel's timer alone.
func TestExpiryWithoutDaemon(t *testing.T) { eachProgram(t, testExpiryWithoutDaemon) }

func testExpiryWithoutDaemon(t *testing.T, p *Plane) {
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 1)))
	open(t, p, 0, 5)
	send(t, p, tcpFrame(client(0), "FA"))
	wantTotals(t, p, 4, 1)
	if err := p.AdvanceClock(125 * time.Second); err != nil {
		t.Fatal(err)
	}
	sweepAll(t, p)
	wantTotals(t, p, 4, 0)
	// --set 0 0 0 keeps, and a change is for packets to come.
	now := p.parameters
	now.Timeouts[bpfStateSTATE_ESTABLISHED] = 10
	if err := p.setParameters(now); err != nil {
		t.Fatal(err)
	}
	send(t, p, tcpFrame(client(1), "A"))
	if err := p.AdvanceClock(12 * time.Second); err != nil {
		t.Fatal(err)
	}
	sweepAll(t, p)
	wantTotals(t, p, 3, 0)
}
