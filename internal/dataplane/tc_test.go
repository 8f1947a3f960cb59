// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// long is a frame with so much payload, as GSO makes them.
func long(protocol lvs.Protocol, to netip.Addr, payload int) []byte {
	from := netip.MustParseAddrPort("10.0.0.1:1000")
	if to.Is6() {
		from = netip.MustParseAddrPort("[2001:db8:99::1]:1000")
	}
	f := newFrame(protocol, from, netip.AddrPortFrom(to, 80)).flags("A")
	f.payload = make([]byte, payload)
	return f.bytes()
}

// TestGSO: a packet that stands for several goes on whole; what the way takes,
// and what is counted, are the packets on the wire.
func TestGSO(t *testing.T) {
	unsaid := func(in []byte) []byte { // BIG TCP: too long for the header to say
		return edit(in, func(b []byte) { b[16], b[17] = 0, 0; ipSum(b) })
	}
	unsaid6 := func(in []byte) []byte { return edit(in, func(b []byte) { b[18], b[19] = 0, 0 }) }
	p := newPlane(t, inMode(TC))
	rules := table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1))
	rules.Services = append(rules.Services, table(lvs.UDP, lvs.RoundRobin, server(0, 1), server(1, 1)).Services...)
	rules.Services = append(rules.Services, table6(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1)).Services...)
	install(t, p, rules)
	narrowWay(t, p)
	for _, r := range []struct {
		name    string
		in      []byte
		segment int
		want    bpfVerdict
		packets uint64
	}{
		{"TCP, segments that just fit", long(lvs.TCP, vip, 2900), 960, bpfVerdictVERDICT_FORWARD_ADOPTED, 4},
		{"TCP, segments too long", long(lvs.TCP, vip, 2900), 961, bpfVerdictVERDICT_REPLY_TOO_BIG, 4},
		{"TCP, a whole number of segments", long(lvs.TCP, vip, 2700), 900, bpfVerdictVERDICT_FORWARD_ADOPTED, 3},
		{"TCP, one segment", long(lvs.TCP, vip, 900), 900, bpfVerdictVERDICT_FORWARD_ADOPTED, 1},
		{"UDP, segments that just fit", long(lvs.UDP, vip, 2900), 972, bpfVerdictVERDICT_FORWARD_NEW, 3},
		{"UDP, segments too long", long(lvs.UDP, vip, 2900), 973, bpfVerdictVERDICT_REPLY_TOO_BIG, 3},
		{"IPv6, segments that just fit", long(lvs.TCP, vip6, 2900), 940, bpfVerdictVERDICT_FORWARD_ADOPTED, 4},
		{"IPv6, segments too long", long(lvs.TCP, vip6, 2900), 941, bpfVerdictVERDICT_REPLY_TOO_BIG, 4},
		{"length unsaid", unsaid(long(lvs.TCP, vip, 2900)), 960, bpfVerdictVERDICT_FORWARD_ADOPTED, 4},
		{"length unsaid, IPv6", unsaid6(long(lvs.TCP, vip6, 2900)), 940, bpfVerdictVERDICT_FORWARD_ADOPTED, 4},
		{"length unsaid, no GSO", unsaid(long(lvs.TCP, vip, 900)), 0, bpfVerdictVERDICT_PASS_MALFORMED, 1},
		{"no GSO and too long", long(lvs.TCP, vip, 2900), 0, bpfVerdictVERDICT_REPLY_TOO_BIG, 1},
		{"TTL 1", edit(long(lvs.TCP, vip, 2900), func(b []byte) { b[22] = 1; ipSum(b) }), 960, bpfVerdictVERDICT_REPLY_TTL, 4},
	} {
		t.Run(r.name, func(t *testing.T) {
			if err := p.AdvanceClock(2000 * time.Second); err != nil { // the last row's connection ends
				t.Fatal(err)
			}
			verdicts, before := verdictCounts(t, p), total(t, p)
			o := runGSO(t, p, r.in, r.segment)
			o.verdict = r.want
			if n := verdictCounts(t, p)[r.want] - verdicts[r.want]; n != r.packets {
				t.Fatalf("%v was counted %d times, want %d; before %v, now %v", r.want, n, r.packets, verdicts, verdictCounts(t, p))
			}
			switch {
			case verdictTexts()[r.want].action == actionForward:
				if _, ok := o.chosen(); !ok || len(o.out) != len(r.in) || !bytes.Equal(o.out[34:], r.in[34:]) {
					t.Errorf("forwarded % x", o.out)
				}
				want := lvs.Counters{Connections: 1, Packets: r.packets, Bytes: uint64(len(r.in) - 14)}
				if got := subCounters(total(t, p), before); got != want {
					t.Errorf("counted %+v, want %+v", got, want)
				}
			case binary.BigEndian.Uint16(r.in[12:]) == 0x86dd:
				checkReply6(t, r.name, r.in, o)
			case verdictTexts()[r.want].action == actionReply:
				checkReply(t, r.name, r.in, o)
			}
		})
	}
}

// total is what all services were counted for.
func total(t *testing.T, p *Plane) (sum lvs.Counters) {
	t.Helper()
	status, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range status {
		sum = addCounters(sum, s.Counters)
	}
	return sum
}

// TestAttachTC: beside others of tc and in front of them; taken over; changed to
// XDP and back without a moment in which neither is there; gone in the end.
func TestAttachTC(t *testing.T) {
	labtest.InNamespace(t)
	o := Options{Instance: "tc", PinDir: bpffs(t), Interfaces: []string{"lo"}, Mode: TC, Connections: 1 << 10}
	other, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	l, err := link.AttachTCX(link.TCXOptions{Program: other, Interface: loopback, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, step := range []struct {
		mode     Mode
		want     Mode
		reason   string
		programs int // of tc on lo
	}{
		{TC, TC, "asked for", 2},
		{TC, TC, "asked for", 2}, // taken over
		{Auto, Generic, "native XDP is not possible", 1},
		{TC, TC, "asked for", 2},
	} {
		o.Mode = step.mode
		p, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		a := p.Attachments()
		if len(a) != 1 || a[0].Mode != step.want || !strings.Contains(a[0].Reason, step.reason) {
			t.Errorf("asked for %s: attached %+v", step.mode, a)
		}
		programs := tcPrograms(t)
		if len(programs) != step.programs || (step.want == TC && programs[0] != programID(t, p.programs.Director)) {
			t.Errorf("asked for %s: %d programs of tc, want %d: %v", step.mode, len(programs), step.programs, programs)
		}
		if xdp := hasXDP(t); xdp != (step.want != TC) {
			t.Errorf("asked for %s: XDP is there: %v", step.mode, xdp)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemovePins(o.PinDir, o.Instance); err != nil {
		t.Fatal(err)
	}
	// The kernel ends a link a moment after its last reference.
	for end := time.Now().Add(10 * time.Second); len(tcPrograms(t)) != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("left at the end: %v", tcPrograms(t))
		}
	}
	if programs := tcPrograms(t); programs[0] != programID(t, other) {
		t.Errorf("left at the end: %v", programs)
	}
}

func hasXDP(t *testing.T) bool {
	t.Helper()
	l, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached
}

func tcPrograms(t *testing.T) (ids []ebpf.ProgramID) {
	t.Helper()
	q, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range q.Programs {
		ids = append(ids, p.ID)
	}
	return ids
}

func programID(t *testing.T, p *ebpf.Program) ebpf.ProgramID {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}

// TestScattered: the kernel may have only a few bytes of a packet in one piece:
// the Ethernet header, that of IP, a part of the next. The program gets all
// headers all the same. (A test run makes no such packets: these are sent, on lo.)
func TestScattered(t *testing.T) {
	p := newPlane(t, inMode(TC))
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	rules := table(lvs.TCP, lvs.RoundRobin, server(0, 1))
	rules.Services = append(rules.Services, table(lvs.UDP, lvs.RoundRobin, server(0, 1)).Services...)
	rules.Services = append(rules.Services, table6(lvs.TCP, lvs.RoundRobin, server(0, 1)).Services...)
	install(t, p, rules)
	wire := newScatterer(t)
	syn6 := tcpFrame6("[2001:db8:99::1]:1000", "S")
	for _, r := range []struct {
		name string
		in   []byte
		want bpfVerdict
	}{
		{"SYN", tcpFrame("10.0.0.1:1000", "S"), bpfVerdictVERDICT_FORWARD_NEW},
		{"a lot of payload", long(lvs.TCP, vip, 1400), bpfVerdictVERDICT_FORWARD_CONNECTION},
		{"ICMP error", icmpError(3, 4, "10.0.0.1:1000", 8), bpfVerdictVERDICT_FORWARD_RELATED},
		{"UDP", udpFrame("10.0.0.1:1000"), bpfVerdictVERDICT_FORWARD_NEW},
		{"IPv6", syn6, bpfVerdictVERDICT_FORWARD_NEW},
		{"IPv6 with extension headers", withExtensions(tcpFrame6("[2001:db8:99::1]:1000", "A"), 0, 60, 43, 60), bpfVerdictVERDICT_FORWARD_CONNECTION},
		{"TTL 1", edit(tcpFrame("10.0.0.1:1000", "A"), func(b []byte) { b[22] = 1; ipSum(b) }), bpfVerdictVERDICT_REPLY_TTL},
	} {
		for _, piece := range []int{14, 33, 34, 42, 53, 54} {
			if r.want == bpfVerdictVERDICT_FORWARD_NEW { // also the next time
				if err := p.AdvanceClock(2000 * time.Second); err != nil {
					t.Fatal(err)
				}
			}
			before := verdictCounts(t, p)
			wire.send(t, r.in, min(piece, len(r.in)))
			for end := time.Now().Add(10 * time.Second); verdictCounts(t, p)[r.want] == before[r.want]; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s, %d bytes in one piece: no %v: before %v, now %v", r.name, piece, r.want, before, verdictCounts(t, p))
				}
			}
		}
	}
}

// scatterer sends frames from memory that it shares with the kernel, which
// copies no more of them than it is told to.
type scatterer struct {
	fd   int
	ring []byte
}

func newScatterer(t *testing.T) *scatterer {
	t.Helper()
	const size = 4096
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		t.Fatal(err)
	}
	req := unix.TpacketReq{Block_size: size, Block_nr: 1, Frame_size: size, Frame_nr: 1}
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_TX_RING, &req); err != nil {
		t.Fatal(err)
	}
	ring, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(ring) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0, Ifindex: loopback}); err != nil {
		t.Fatal(err)
	}
	return &scatterer{fd, ring}
}

func (s *scatterer) send(t *testing.T, frame []byte, piece int) {
	t.Helper()
	h := (*unix.Tpacket2Hdr)(unsafe.Pointer(&s.ring[0]))
	for end := time.Now().Add(10 * time.Second); atomic.LoadUint32(&h.Status) != unix.TP_STATUS_AVAILABLE; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the frame before is still on its way: status %#x", h.Status)
		}
	}
	virtio := make([]byte, 10) // struct virtio_net_hdr, of which only hdr_len is used
	binary.LittleEndian.PutUint16(virtio[2:], uint16(piece))
	h.Len = uint32(copy(s.ring[unsafe.Sizeof(*h):], append(virtio, frame...)))
	atomic.StoreUint32(&h.Status, unix.TP_STATUS_SEND_REQUEST)
	if err := unix.Sendto(s.fd, nil, 0, &unix.SockaddrLinklayer{Ifindex: loopback}); err != nil {
		t.Fatal(err)
	}
}
