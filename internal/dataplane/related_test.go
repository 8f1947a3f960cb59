// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// fillRing leaves no room for what the program tells; emptyRing reads all of it.
func fillRing(t *testing.T, p *Plane) {
	t.Helper()
	install(t, p, table(lvs.UDP, lvs.RoundRobin, server(0, 1)))
	f := newFrame(lvs.UDP, netip.MustParseAddrPort("10.9.9.9:1000"), netip.AddrPortFrom(vip, 80))
	f.payload = make([]byte, 100)
	early := pieces(f.bytes(), 24)[1]
	for n := 0; send(t, p, early).verdict != bpfVerdictVERDICT_DROP_PARK_FULL; n++ {
		if n > 1000 {
			t.Fatal("the ring takes any number")
		}
	}
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1)))
}

func emptyRing(t *testing.T, p *Plane) (all [][]byte) {
	t.Helper()
	ring, err := ringbuf.NewReader(p.maps.Arrivals)
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	for {
		ring.SetDeadline(time.Now())
		rec, err := ring.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rec.RawSample)
	}
}

// icmpError6 is icmpError for IPv6: a packet too big.
func icmpError6(client string, quoted int) []byte {
	inner := newFrame(lvs.TCP, netip.AddrPortFrom(vip6, 80), netip.MustParseAddrPort(client)).flags("A").bytes()[14:]
	f := newFrame(lvs.Protocol(58), netip.MustParseAddrPort("[2001:db8:77::1]:0"), netip.AddrPortFrom(vip6, 0))
	f.payload = append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, inner[:40+quoted]...)
	return f.bytes()
}

// TestRelatedTold: of an error about an unknown connection the daemon gets the
// frame as it came, with who has it already and when that was.
func TestRelatedTold(t *testing.T) { eachProgram(t, testRelatedTold) }

func testRelatedTold(t *testing.T, p *Plane) {
	rules := table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1), server(2, 1))
	rules.Services = append(rules.Services, table6(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1), server(2, 1)).Services...)
	install(t, p, rules)
	for name, in := range map[string][]byte{
		"IPv4": icmpError(3, 4, "10.0.0.1:1000", 8),
		"IPv6": icmpError6("[2001:db8:99::1]:1000", 4),
	} {
		emptyRing(t, p)
		now, err := p.seconds()
		if err != nil {
			t.Fatal(err)
		}
		o := send(t, p, in)
		to, ok := o.chosen()
		if !ok || o.verdict != bpfVerdictVERDICT_FORWARD_RELATED_TO_ALL {
			t.Fatalf("%s: %v", name, o.verdict)
		}
		told := emptyRing(t, p)
		if len(told) != 1 {
			t.Fatalf("%s: the daemon was told %d things", name, len(told))
		}
		var a bpfArrival
		number := func(at uintptr) uint32 { return binary.NativeEndian.Uint32(told[0][at:]) }
		frame := told[0][unsafe.Sizeof(a):][:number(unsafe.Offsetof(a.Length))]
		if kind := number(unsafe.Offsetof(a.Kind)); bpfArrivalKind(kind) != bpfArrivalKindARRIVAL_RELATED || string(frame) != string(in) {
			t.Errorf("%s: told %d with % x", name, kind, frame)
		}
		if had := p.addrOf(number(unsafe.Offsetof(a.Server))).As16(); netip.AddrFrom4([4]byte(had[12:])) != to {
			t.Errorf("%s: %v has it, and the daemon was told %v", name, to, had)
		}
		if second := number(unsafe.Offsetof(a.Second)); second-now > 1 {
			t.Errorf("%s: it came at %d, and the daemon was told %d", name, now, second)
		}
	}
}

// TestRelatedLimits: a copy costs; a service of many servers reaches the limit
// with few errors, and one of more than 1001 has no copies made.
func TestRelatedLimits(t *testing.T) {
	p := newPlane(t)
	many := func(n int) *lvs.Table {
		var all []lvs.RealServer
		for i := range n {
			all = append(all, lvs.RealServer{ServerID: lvs.ServerID{Addr: netip.AddrFrom4([4]byte{172, 17, byte(i / 256), byte(i)}), Port: 80},
				Forward: lvs.DirectRouting, Weight: 1})
		}
		return table(lvs.TCP, lvs.RoundRobin, all...)
	}
	in := icmpError(3, 4, "10.0.0.1:1000", 8)
	expect := func(what string, want bpfVerdict) {
		t.Helper()
		if o := send(t, p, in); o.verdict != want {
			t.Errorf("%s: %v, want %v", what, o.verdict, want)
		}
	}
	install(t, p, many(1002))
	expect("1002 servers", bpfVerdictVERDICT_FORWARD_RELATED_BY_HASH)
	install(t, p, many(1001))
	exhaust(t, p, 2, 0) // at a second's beginning
	for range 4 {
		expect("1001 servers", bpfVerdictVERDICT_FORWARD_RELATED_TO_ALL)
	}
	expect("1001 servers, a fifth time in a second", bpfVerdictVERDICT_FORWARD_RELATED_BY_HASH)
}

// TestCopies: what the daemon's program does not send, and why. (What it sends,
// e2e's TestErrorsForEveryServer sees.)
func TestCopies(t *testing.T) {
	p := newPlane(t)
	rules := table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1), server(2, 0))
	in := icmpError(3, 4, "10.0.0.1:1000", 8)
	nowhere := func(mtu int) func() {
		return func() {
			for n := range 3 {
				if err := p.SetNeighbour(Neighbour{Addr: rip(n), Interface: 77, MAC: serverMAC(rip(n)), Source: ownMAC, MTU: mtu}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, r := range []struct {
		name  string
		setup func()
		in    []byte
		age   uint32
		want  map[bpfVerdict]uint64
	}{
		{"no such interface", nowhere(0), in, 0, map[bpfVerdict]uint64{bpfVerdictVERDICT_DROP_COPY: 2}},
		{"as long as the way takes", nowhere(len(in) - 14), in, 2, map[bpfVerdict]uint64{bpfVerdictVERDICT_DROP_COPY: 2}},
		{"longer", nowhere(len(in) - 15), in, 0, map[bpfVerdict]uint64{bpfVerdictVERDICT_DROP_TOO_BIG: 2}},
		{"MAC unknown", func() {
			if err := p.SetNeighbour(Neighbour{Addr: rip(2)}); err != nil {
				t.Fatal(err)
			}
		}, in, 0, map[bpfVerdict]uint64{bpfVerdictVERDICT_DROP_COPY: 1, bpfVerdictVERDICT_DROP_UNRESOLVED: 1}},
		{"too old", nil, in, 4, nil},
		{"TTL 1", nil, edit(in, func(b []byte) { b[22] = 1; ipSum(b) }), 0, nil},
		{"the service is gone", func() { install(t, p, lvs.NewTable()) }, in, 0, nil},
		{"no error", nil, tcpFrame("10.0.0.1:1000", "A"), 0, nil},
	} {
		install(t, p, rules)
		nowhere(0)()
		if r.setup != nil {
			r.setup()
		}
		now, err := p.seconds()
		if err != nil {
			t.Fatal(err)
		}
		had, before := uint32(0), verdictCounts(t, p)
		for id := range uint32(maxServers) {
			if p.addrOf(id) == rip(0) {
				had = id
			}
		}
		newResumer(p).copy(r.in, had, now-r.age)
		for v, n := range verdictCounts(t, p) {
			if n-before[v] != r.want[bpfVerdict(v)] {
				t.Errorf("%s: %v counted %d times, want %d", r.name, bpfVerdict(v), n-before[v], r.want[bpfVerdict(v)])
			}
		}
	}
}
