// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// pieces cuts a frame into fragments that carry so many bytes each (a multiple
// of 8; the last takes the rest).
func pieces(frame []byte, size int) (out [][]byte) {
	header, six := 14+20, frame[12] == 0x86
	if six {
		header = 14 + 40
	}
	data := frame[header:]
	for at := 0; at < len(data); at += size {
		part := data[at:min(at+size, len(data))]
		more := at+size < len(data)
		b := append([]byte{}, frame[:header]...)
		if six {
			f := []byte{b[20], 0, byte(at >> 8), byte(at), 0, 0, 0, 7}
			if more {
				f[3] |= 1
			}
			b[20] = 44
			b = append(append(b, f...), part...)
			binary.BigEndian.PutUint16(b[18:], uint16(len(b)-54))
		} else {
			b = append(b, part...)
			binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
			binary.BigEndian.PutUint16(b[20:], uint16(at/8))
			if more {
				b[20] |= 0x20
			}
			ipSum(b)
		}
		out = append(out, b)
	}
	return out
}

// identify gives fragments another identification.
func identify(id byte, in [][]byte) (out [][]byte) {
	for _, b := range in {
		out = append(out, edit(b, func(b []byte) {
			if b[12] == 0x86 {
				b[61] = id
			} else {
				b[19] = id
				ipSum(b)
			}
		}))
	}
	return out
}

// TestFragments: the rest of a datagram goes where its first fragment went,
// whatever comes between, and is counted there; all protocols and both families.
func TestFragments(t *testing.T) { eachProgram(t, testFragments) }

func testFragments(t *testing.T, p *Plane) {
	for _, protocol := range []lvs.Protocol{lvs.TCP, lvs.UDP, lvs.SCTP} {
		for _, family := range []struct {
			name    string
			rules   *lvs.Table
			vip     netip.Addr
			clients [2]netip.Addr
		}{
			{"IPv4", table(protocol, lvs.RoundRobin, server(0, 1), server(1, 1)), vip,
				[2]netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}},
			{"IPv6", table6(protocol, lvs.RoundRobin, server(0, 1), server(1, 1)), vip6,
				[2]netip.Addr{netip.MustParseAddr("2001:db8:99::1"), netip.MustParseAddr("2001:db8:99::2")}},
		} {
			install(t, p, lvs.NewTable())
			if err := p.AdvanceClock(2000 * time.Second); err != nil {
				t.Fatal(err)
			}
			install(t, p, family.rules)
			datagram := func(client int, port uint16) [][]byte {
				f := newFrame(protocol, netip.AddrPortFrom(family.clients[client], port), netip.AddrPortFrom(family.vip, 80)).flags("S")
				f.payload = make([]byte, 4000)
				if protocol == lvs.SCTP {
					f.payload = sctpPacket(port, 80, chunk(chunkInit, 4000))
				}
				return pieces(f.bytes(), 1400)
			}
			expect := func(what string, in []byte, want bpfVerdict, to netip.Addr) netip.Addr {
				t.Helper()
				o := send(t, p, in)
				got, _ := o.chosen()
				if o.verdict != want || (to.IsValid() && got != to) {
					t.Errorf("%v %s: %s: %v to %v, want %v to %v", protocol, family.name, what, o.verdict, got, want, to)
				}
				return got
			}
			// Two clients, one identification; a client's two datagrams; all mixed.
			a, b, c := datagram(0, 1000), datagram(1, 1000), identify(8, datagram(0, 1001))
			toA := expect("first", a[0], bpfVerdictVERDICT_FORWARD_NEW, netip.Addr{})
			expect("another client's, early", b[1], bpfVerdictVERDICT_DROP_PARKED, netip.Addr{})
			toB := expect("another client's first", b[0], bpfVerdictVERDICT_FORWARD_NEW, netip.Addr{})
			expect("another datagram's, early", c[2], bpfVerdictVERDICT_DROP_PARKED, netip.Addr{})
			toC := expect("another datagram's first", c[0], bpfVerdictVERDICT_FORWARD_NEW, netip.Addr{})
			if toA == toB || toC != toA {
				t.Fatalf("rr chose %v, %v, %v: the test shows nothing", toA, toB, toC)
			}
			for _, n := range []int{2, 1} {
				expect("the rest", a[n], bpfVerdictVERDICT_FORWARD_FRAGMENT, toA)
				expect("the rest of another client's", b[n], bpfVerdictVERDICT_FORWARD_FRAGMENT, toB)
				expect("the rest of another datagram", c[n], bpfVerdictVERDICT_FORWARD_FRAGMENT, toC)
			}
			status, err := p.Status()
			if err != nil {
				t.Fatal(err)
			}
			size := uint64(0)
			for _, piece := range a {
				size += uint64(len(piece) - 14)
			}
			for n, times := range []uint64{2, 1} {
				if got, want := status[0].Servers[n].Counters, (lvs.Counters{Connections: times, Packets: 3 * times, Bytes: size * times}); got != want {
					t.Errorf("%v %s: server %d counted %+v, want %+v", protocol, family.name, n, got, want)
				}
			}

			// The identification comes again: for another server, and too late.
			d := identify(8, datagram(1, 1002))
			toD := expect("another client's with that identification", d[0], bpfVerdictVERDICT_FORWARD_NEW, netip.Addr{})
			expect("its rest", d[1], bpfVerdictVERDICT_FORWARD_FRAGMENT, toD)
			expect("one between", identify(12, datagram(1, 1004))[0], bpfVerdictVERDICT_FORWARD_NEW, netip.Addr{})
			again := datagram(0, 1003)
			toAgain := expect("the identification used again", again[0], bpfVerdictVERDICT_FORWARD_NEW, netip.Addr{})
			if toAgain == toA {
				t.Fatalf("rr chose %v again: the test shows nothing", toA)
			}
			expect("its rest", again[1], bpfVerdictVERDICT_FORWARD_FRAGMENT, toAgain)
			if err := p.AdvanceClock(6 * time.Second); err != nil {
				t.Fatal(err)
			}
			expect("six seconds later", again[2], bpfVerdictVERDICT_DROP_PARKED, netip.Addr{})
			if protocol == lvs.SCTP {
				continue // an INIT without an answer is forgotten by now, too
			}
			expect("all once more", again[0], bpfVerdictVERDICT_FORWARD_CONNECTION, toAgain)
			expect("all once more", again[2], bpfVerdictVERDICT_FORWARD_FRAGMENT, toAgain)
		}
	}
}

// TestFragmentsForgotten: a flood of datagrams that never end does not keep the
// next one from being noted.
func TestFragmentsForgotten(t *testing.T) { eachProgram(t, testFragmentsForgotten) }

func testFragmentsForgotten(t *testing.T, p *Plane) {
	install(t, p, table(lvs.UDP, lvs.RoundRobin, server(0, 1)))
	f := newFrame(lvs.UDP, netip.MustParseAddrPort("10.0.0.1:1000"), netip.AddrPortFrom(vip, 80))
	f.payload = make([]byte, 40)
	ours := pieces(f.bytes(), 16)
	send(t, p, ours[0])
	keys, words := make([]bpfFragmentKey, 3*maxFragmented), make([]uint64, 3*maxFragmented)
	for i := range keys {
		keys[i] = bpfFragmentKey{Datagram: uint32(i), Protocol: 17}
	}
	if _, err := p.maps.Fragments.BatchUpdate(keys, words, nil); err != nil {
		t.Fatal(err)
	}
	if o := send(t, p, ours[1]); o.verdict != bpfVerdictVERDICT_DROP_PARKED {
		t.Errorf("%v: more is remembered than there is room for", o.verdict)
	}
	send(t, p, ours[0])
	if o := send(t, p, ours[1]); o.verdict != bpfVerdictVERDICT_FORWARD_FRAGMENT {
		t.Errorf("%v: not noted", o.verdict)
	}
}

// TestFragmentsOfAVIP: fragments are ours as long as a service has their address,
// for whoever takes the data plane over, too.
func TestFragmentsOfAVIP(t *testing.T) { eachMode(t, testFragmentsOfAVIP) }

func testFragmentsOfAVIP(t *testing.T, mode Mode) {
	labtest.InNamespace(t)
	o := Options{Instance: "vips", PinDir: bpffs(t), Interfaces: []string{"lo"}, Mode: mode, Connections: 1 << 10}
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	last := pieces(tcpFrame("10.0.0.1:1000", "S"), 16)[1]
	last6 := pieces(tcpFrame6("[2001:db8:99::1]:1000", "S"), 16)[1]
	expect := func(what string, four, six bpfVerdict) {
		t.Helper()
		if v := send(t, p, last).verdict; v != four {
			t.Errorf("%s: IPv4: %v, want %v", what, v, four)
		}
		if v := send(t, p, last6).verdict; v != six {
			t.Errorf("%s: IPv6: %v, want %v", what, v, six)
		}
	}
	const ours, theirs = bpfVerdictVERDICT_DROP_PARKED, bpfVerdictVERDICT_PASS_FRAGMENT
	expect("no service", theirs, theirs)
	both := table(lvs.TCP, lvs.RoundRobin, server(0, 1))
	mustChange(both, lvs.Change{Operation: lvs.AddService, Service: lvs.VirtualService{ServiceID: lvs.ServiceID{Protocol: lvs.UDP, Addr: vip, Port: 53}, Scheduler: lvs.RoundRobin}})
	one := &lvs.Table{Services: both.Services[1:], Timeouts: both.Timeouts}
	both.Services = append(both.Services, table6(lvs.TCP, lvs.RoundRobin, server(0, 1)).Services...)
	install(t, p, both)
	expect("three services", ours, ours)
	install(t, p, one)
	expect("one service", ours, theirs)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err = Open(o); err != nil {
		t.Fatal(err)
	}
	defer p.Remove()
	expect("taken over", ours, theirs)
	install(t, p, lvs.NewTable())
	expect("no service any more", theirs, theirs)
}

// TestFragmentsGivenUp: what was parked is put in again as soon as the first
// fragment is noted; what waits in vain is counted.
func TestFragmentsGivenUp(t *testing.T) { eachProgram(t, testFragmentsGivenUp) }

func testFragmentsGivenUp(t *testing.T, p *Plane) {
	install(t, p, table(lvs.UDP, lvs.RoundRobin, server(0, 1), server(1, 1)))
	ring, err := ringbuf.NewReader(p.maps.Arrivals)
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	r, now := newResumer(p), time.Now()
	tell := func(want int) {
		t.Helper()
		for n := 0; ; n++ {
			ring.SetDeadline(time.Now())
			rec, err := ring.Read()
			if err != nil {
				if n != want {
					t.Fatalf("the program told of %d arrivals, want %d", n, want)
				}
				return
			}
			r.arrive(rec.RawSample, now)
		}
	}
	counts := func(want map[bpfVerdict]uint64) {
		t.Helper()
		got := verdictCounts(t, p)
		for v, n := range want {
			if got[v] != n {
				t.Errorf("%v counted %d times, want %d", v, got[v], n)
			}
		}
	}
	f := newFrame(lvs.UDP, netip.MustParseAddrPort("10.0.0.1:1000"), netip.AddrPortFrom(vip, 80))
	f.payload = make([]byte, 100)
	a := pieces(f.bytes(), 24)
	b := identify(8, a)
	for _, in := range [][]byte{a[3], b[1], a[1]} {
		send(t, p, in)
	}
	tell(3)
	r.giveUp(now)
	if n := r.parked.all.Len(); n != 3 {
		t.Fatalf("%d fragments parked, want 3", n)
	}
	send(t, p, a[0])
	tell(1)
	if n := r.parked.all.Len(); n != 1 {
		t.Errorf("%d fragments parked, want 1", n)
	}
	counts(map[bpfVerdict]uint64{bpfVerdictVERDICT_DROP_PARKED: 3, bpfVerdictVERDICT_FORWARD_NEW: 1,
		bpfVerdictVERDICT_FORWARD_FRAGMENT: 2, bpfVerdictVERDICT_DROP_PARK_LOST: 0})
	r.giveUp(now.Add(parkTime))
	counts(map[bpfVerdict]uint64{bpfVerdictVERDICT_FORWARD_FRAGMENT: 2, bpfVerdictVERDICT_DROP_PARK_LOST: 1})

	// The first comes between the program's look and ours: it told, and we had nothing yet.
	c := identify(9, a)
	send(t, p, c[2])
	send(t, p, c[0])
	tell(2)
	counts(map[bpfVerdict]uint64{bpfVerdictVERDICT_FORWARD_FRAGMENT: 3, bpfVerdictVERDICT_DROP_PARK_LOST: 1})
	if n := r.parked.all.Len(); n != 0 {
		t.Errorf("%d fragments parked, want none", n)
	}

	// Nobody listens: the program is told that there is no room, and in order all works.
	for n, full := 0, false; !full; n++ {
		if n > 1000 {
			t.Fatal("the ring takes any number")
		}
		full = send(t, p, identify(10, a)[1]).verdict == bpfVerdictVERDICT_DROP_PARK_FULL
	}
	d := identify(11, a)
	send(t, p, d[0])
	if o := send(t, p, d[1]); o.verdict != bpfVerdictVERDICT_FORWARD_FRAGMENT {
		t.Errorf("in order, with a full ring: %v", o.verdict)
	}
}

// TestParking: fragments leave in the order in which they came, by datagram or
// when their time is up; the oldest makes room.
func TestParking(t *testing.T) {
	p, start := newParking(), time.Now()
	at := func(n int) time.Time { return start.Add(time.Duration(n) * time.Millisecond) }
	for n := range parkMax {
		if lost := p.park(&fragment{of: datagram{byte(n % 3)}, index: n, until: at(n)}); lost != nil {
			t.Fatalf("number %d lost", n)
		}
	}
	if lost := p.park(&fragment{of: datagram{9}, index: parkMax, until: at(parkMax)}); lost == nil || lost.index != 0 {
		t.Errorf("lost %v, want the oldest", lost)
	}
	if f := p.overdue(at(0)); f != nil {
		t.Errorf("overdue: %v", f.index)
	}
	if f := p.overdue(at(1)); f == nil || f.index != 1 || !p.next().Equal(at(2)) {
		t.Errorf("overdue: %v, next %v", f, p.next())
	}
	last := -1
	for _, f := range p.take(datagram{0}) {
		if f.index%3 != 0 || f.index <= last || f.index == 0 {
			t.Fatalf("%d behind %d", f.index, last)
		}
		last = f.index
	}
	if last < parkMax-3 || len(p.take(datagram{0})) != 0 {
		t.Errorf("took up to %d, and then more", last)
	}
	n := 0
	for f := p.overdue(at(2 * parkMax)); f != nil; f = p.overdue(at(2 * parkMax)) {
		n++
	}
	if want := parkMax + 1 - 2 - (parkMax-1)/3; n != want || !p.next().IsZero() || len(p.of) != 0 {
		t.Errorf("%d left, want %d; next %v, %d datagrams", n, want, p.next(), len(p.of))
	}
}
