// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// The director's own addresses.
var (
	dip  = netip.MustParseAddr("172.16.16.173")
	dip6 = netip.MustParseAddr("2001:db8:16::173")
)

// checkBench is a CheckPath in a namespace of its own whose programs are run by
// hand.
type checkBench struct {
	*CheckPath
	t     *testing.T
	marks map[netip.Addr]uint32
}

func newCheckBench(t *testing.T) *checkBench {
	t.Helper()
	labtest.InNamespace(t)
	c, err := OpenCheckPath(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &checkBench{c, t, map[netip.Addr]uint32{}}
	for _, a := range []netip.Addr{vip, vip6} {
		if b.marks[a], err = c.Mark(a); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// How the test run tells a program about an skb (BPF_F_TEST_SKB_CHECKSUM_COMPLETE,
// struct __sk_buff): with the sum of all of it, which it compares in the end.
const testRunChecksumComplete = 1 << 2

type markedSKB [48]uint32

const (
	tcxNext = 0xffffffff
	tcxDrop = 2
)

// run runs a program. It returns what that said, the frame it left, and which
// counter moved; "" if none did.
func (b *checkBench) run(p *ebpf.Program, in []byte, mark uint32) (action uint32, out []byte, counted string) {
	b.t.Helper()
	var what [2]string
	for i, flags := range []uint32{0, testRunChecksumComplete} {
		before := b.counts()
		// As a driver has it: 14 bytes of Ethernet header do not count.
		o := ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256), Context: &markedSKB{2: mark}, Flags: flags}
		var err error
		if action, err = p.Run(&o); err != nil {
			b.t.Fatalf("test run, flags %d: %v\n% x", flags, err, in)
		}
		if i == 1 && !bytes.Equal(out, o.DataOut) {
			b.t.Errorf("not the same with the sum of the whole:\n% x\n% x", out, o.DataOut)
		}
		out = o.DataOut
		for name, n := range b.counts() {
			if n != before[name] {
				what[i] += name
			}
		}
	}
	if what[0] != what[1] {
		b.t.Errorf("counted %q, and with the sum of the whole %q", what[0], what[1])
	}
	return action, out, what[0]
}

func (b *checkBench) counts() map[string]uint64 {
	b.t.Helper()
	all, err := b.Counts()
	if err != nil {
		b.t.Fatal(err)
	}
	out := map[string]uint64{}
	for _, c := range all {
		out[c.Name] = c.Packets
	}
	return out
}

// expect runs a program and compares all that it did.
func (b *checkBench) expect(what string, p *ebpf.Program, in []byte, mark uint32, action uint32, want []byte, counted string) {
	b.t.Helper()
	gotAction, out, gotCounted := b.run(p, in, mark)
	if gotAction != action || gotCounted != counted {
		b.t.Errorf("%s: said %d, counted %q; want %d, %q", what, int32(gotAction), gotCounted, int32(action), counted)
	}
	if want != nil && !bytes.Equal(out, want) {
		b.t.Errorf("%s: left\n% x, want\n% x", what, out, want)
	}
}

func (b *checkBench) sent(what string, in, want []byte, mark uint32) {
	b.t.Helper()
	b.expect(what, b.objects.CheckOut, in, mark, tcxNext, want, "check_sent")
}

func (b *checkBench) dropped(what string, in []byte, mark uint32, counted string) {
	b.t.Helper()
	b.expect(what, b.objects.CheckOut, in, mark, tcxDrop, nil, counted)
}

func (b *checkBench) came(what string, in, want []byte, counted string) {
	b.t.Helper()
	b.expect(what, b.objects.CheckIn, in, 0, tcxNext, want, counted)
}

// builder makes a check's packet.
type builder func(from, to netip.AddrPort, hops uint8) []byte

func checkTCP(from, to netip.AddrPort, hops uint8) []byte {
	return checkFrame(lvs.TCP, from, to, hops).flags("PA").bytes()
}

func checkUDP(from, to netip.AddrPort, hops uint8) []byte {
	return checkFrame(lvs.UDP, from, to, hops).bytes()
}

func checkFrame(protocol lvs.Protocol, from, to netip.AddrPort, hops uint8) *frame {
	f := newFrame(protocol, from, to)
	f.ip.TTL, f.ip6.HopLimit, f.payload = hops, hops, []byte("odd")
	return f
}

// checkEcho is a request from the director's address, an answer to it. The port of
// that end is the identifier, the other the sequence number.
func checkEcho(from, to netip.AddrPort, hops uint8) []byte {
	own := from.Addr() == dip || from.Addr() == dip6
	id, number := to.Port(), from.Port()
	kind := byte(0)
	if own {
		id, number, kind = number, id, 8
	}
	if to.Addr().Is6() {
		kind = map[bool]byte{true: 128, false: 129}[own]
	}
	return icmpFrame(from.Addr(), to.Addr(), hops, []byte{kind, 0, 0, 0, byte(id >> 8), byte(id), byte(number >> 8), byte(number), 'x', 'y', 'z'})
}

// icmpFrame fills in the checksum of an ICMP or ICMPv6 message.
func icmpFrame(from, to netip.Addr, hops uint8, message []byte) []byte {
	protocol, sum := lvs.Protocol(layers.IPProtocolICMPv4), uint32(0)
	if to.Is6() {
		protocol, sum = lvs.Protocol(layers.IPProtocolICMPv6), uint32(len(message)+58)
		sum += wordSum(from.AsSlice()) + wordSum(to.AsSlice())
	}
	message = bytes.Clone(message)
	message[2], message[3] = 0, 0
	sum += wordSum(message)
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	binary.BigEndian.PutUint16(message[2:], ^uint16(sum))
	f := checkFrame(protocol, netip.AddrPortFrom(from, 0), netip.AddrPortFrom(to, 0), hops)
	f.payload = message
	return f.bytes()
}

func wordSum(b []byte) (sum uint32) {
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i%2))
	}
	return sum
}

// inlineTags puts VLAN tags into a frame, as a device leaves them whose reorder_hdr is off.
func inlineTags(build builder, tags ...byte) builder {
	return func(from, to netip.AddrPort, hops uint8) []byte {
		in := build(from, to, hops)
		out := bytes.Clone(in[:12])
		for _, t := range tags {
			out = append(out, 0x81, 0, 0, t)
		}
		return append(out, in[12:]...)
	}
}

func fragmented(build builder, n int) builder {
	return func(from, to netip.AddrPort, hops uint8) []byte { return pieces(build(from, to, hops), 8)[n] }
}

func extended(types ...byte) builder {
	return func(from, to netip.AddrPort, hops uint8) []byte {
		return withExtensions(checkTCP(from, to, hops), types...)
	}
}

// TestCheckPathPackets: whatever a packet looks like, it goes to the VIP with two
// hops to go, and its answer comes from the RIP; both are as if made so.
func TestCheckPathPackets(t *testing.T) {
	b := newCheckBench(t)
	four := map[string]builder{
		"UDP without a checksum": func(from, to netip.AddrPort, hops uint8) []byte {
			return edit(checkUDP(from, to, hops), func(b []byte) { b[40], b[41] = 0, 0 })
		},
		"IP options": func(from, to netip.AddrPort, hops uint8) []byte {
			f := checkFrame(lvs.TCP, from, to, hops)
			f.ip.Options = []layers.IPv4Option{{OptionType: 7, OptionLength: 39, OptionData: make([]byte, 37)}, {OptionType: 0}}
			return f.bytes()
		},
	}
	six := map[string]builder{
		"extension headers":               extended(0, 60, 43, 60),
		"as many extension headers as go": extended(0, 60, 60, 60, 60, 60, 60),
	}
	both := map[string]builder{
		"TCP": checkTCP, "UDP": checkUDP, "echo": checkEcho,
		"a tag in the frame": inlineTags(checkTCP, 5), "two tags in the frame": inlineTags(checkUDP, 5, 6),
		"first fragment": fragmented(checkUDP, 0),
	}
	for _, own := range []netip.AddrPort{netip.AddrPortFrom(dip, 40000), netip.AddrPortFrom(dip6, 40000)} {
		at, rip, special := vip, rip(0), four
		if own.Addr().Is6() {
			at, rip, special = vip6, rip6(0), six
		}
		VIP, RIP := netip.AddrPortFrom(at, 80), netip.AddrPortFrom(rip, 80)
		all := maps.Clone(both)
		maps.Copy(all, special)
		for name, build := range all {
			name = at.String() + ": " + name
			for _, hops := range []uint8{64, 255, 3, 2, 1} {
				b.sent(name, build(own, RIP, hops), build(own, VIP, min(hops, 2)), b.marks[at])
			}
			b.came(name, build(VIP, own, 64), build(RIP, own, 64), "check_answer")
			// The device below: it has become one to the VIP, or from the RIP, by then.
			b.expect(name, b.objects.CheckOut, build(own, VIP, 2), b.marks[at], tcxNext, build(own, VIP, 2), "")
			b.came(name, build(RIP, own, 64), build(RIP, own, 64), "")
		}
		// A later fragment out needs no note; in it has to have had a first one.
		later := fragmented(checkUDP, 1)
		b.sent("later fragment", later(own, RIP, 64), later(own, VIP, 2), b.marks[at])
		b.came("later fragment", later(VIP, own, 64), later(RIP, own, 64), "check_answer")
		other := edit(later(VIP, own, 64), func(b []byte) {
			if b[12] == 0x86 {
				b[61]++ // its id
			} else {
				b[19]++
				ipSum(b)
			}
		})
		b.came("later fragment of another datagram", other, other, "")
	}
}

// TestCheckPathLeavesAlone: what is not a check's passes as it is, and what has
// a check's mark never reaches a RIP.
func TestCheckPathLeavesAlone(t *testing.T) {
	b := newCheckBench(t)
	own, to, from := netip.AddrPortFrom(dip, 40000), netip.AddrPortFrom(rip(0), 80), netip.AddrPortFrom(vip, 80)
	own6, to6 := netip.AddrPortFrom(dip6, 40000), netip.AddrPortFrom(rip6(0), 80)
	tcp := checkTCP(own, to, 64)
	for _, mark := range []uint32{0, 1, 0x53490001, 0x53470001} {
		b.expect("another mark", b.objects.CheckOut, tcp, mark, tcxNext, tcp, "")
	}
	for _, mark := range []uint32{0x53480000, 0x53487fff, 0x5348ffff} {
		b.dropped("a mark that is no VIP's", tcp, mark, "check_drop_unknown")
	}
	gone := netip.MustParseAddr("172.16.16.171")
	mark, err := b.Mark(gone)
	if err != nil {
		t.Fatal(err)
	}
	b.Forget(gone)
	b.dropped("a VIP that was forgotten", tcp, mark, "check_drop_unknown")

	ext := extended(0, 60, 43, 60)(own6, to6, 64)
	for _, r := range []struct {
		name string
		in   []byte
		mark uint32
	}{
		{"the other family", checkTCP(own6, to6, 64), b.marks[vip]},
		{"the other family, IPv4", tcp, b.marks[vip6]},
		{"from the VIP", checkTCP(netip.AddrPortFrom(vip, 40000), to, 64), b.marks[vip]},
		{"from the VIP, IPv6", checkTCP(netip.AddrPortFrom(vip6, 40000), to6, 64), b.marks[vip6]},
		{"SCTP", checkFrame(lvs.SCTP, own, to, 64).bytes(), b.marks[vip]},
		{"ARP", edit(tcp, func(b []byte) { b[12], b[13] = 8, 6 }), b.marks[vip]},
		{"three tags", inlineTags(checkTCP, 1, 2, 3)(own, to, 64), b.marks[vip]},
		{"IP version 5", edit(tcp, func(b []byte) { b[14] = 0x55 }), b.marks[vip]},
		{"IP version 4 in IPv6", edit(checkTCP(own6, to6, 64), func(b []byte) { b[14] = 0x40 }), b.marks[vip6]},
		{"header length below 20", edit(tcp, func(b []byte) { b[14] = 0x44 }), b.marks[vip]},
		{"options beyond the frame", edit(checkUDP(own, to, 64), func(b []byte) { b[14] = 0x4f }), b.marks[vip]},
		{"no ports", tcp[:37], b.marks[vip]},
		{"no header", tcp[:34], b.marks[vip]},
		{"half a header", edit(tcp, func(b []byte) { b[12], b[13] = 0x81, 0 })[:34], b.marks[vip]},
		{"IPv6, no ports", checkTCP(own6, to6, 64)[:57], b.marks[vip6]},
		{"IPv6, half an extension header", ext[:55], b.marks[vip6]},
		{"IPv6, extension headers beyond the frame", edit(ext, func(b []byte) { b[55] = 255 }), b.marks[vip6]},
		{"IPv6, half a fragment header", fragmented(checkUDP, 0)(own6, to6, 64)[:60], b.marks[vip6]},
		{"IPv6, too many extension headers", extended(0, 60, 60, 60, 60, 60, 60, 60, 60)(own6, to6, 64), b.marks[vip6]},
		{"IPv6, authenticated", extended(51)(own6, to6, 64), b.marks[vip6]},
		{"half an echo", checkEcho(own, to, 64)[:41], b.marks[vip]},
		{"an answer to an echo", icmpFrame(dip, to.Addr(), 64, make([]byte, 8)), b.marks[vip]},
		{"an ICMP error", icmpFrame(dip, to.Addr(), 64, append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, tcp[14:]...)), b.marks[vip]},
		{"ICMPv6 in IPv4", edit(tcp, func(b []byte) { b[23] = 58 }), b.marks[vip]},
		{"ICMP in IPv6", edit(checkTCP(own6, to6, 64), func(b []byte) { b[20] = 1 }), b.marks[vip6]},
	} {
		b.dropped(r.name, r.in, r.mark, "check_drop_unsupported")
		// And what comes in so is nobody's answer.
		b.came(r.name, r.in, r.in, "")
	}

	b.sent("asked", tcp, nil, b.marks[vip])
	for name, in := range map[string][]byte{
		"another port of the VIP": checkTCP(netip.AddrPortFrom(vip, 81), own, 64),
		"another port here":       checkTCP(from, netip.AddrPortFrom(dip, 40001), 64),
		"another address here":    checkTCP(from, netip.AddrPortFrom(rip(3), 40000), 64),
		"another VIP":             checkTCP(netip.AddrPortFrom(gone, 80), own, 64),
		"another protocol":        checkUDP(from, own, 64),
		"an echo of nobody's":     checkEcho(from, own, 64),
	} {
		b.came(name, in, in, "")
	}
}

// TestCheckPathErrors: an ICMP error about a check names the RIP, in the packet
// that it quotes too, and nobody else's error is changed.
func TestCheckPathErrors(t *testing.T) {
	b := newCheckBench(t)
	router, router6 := netip.MustParseAddr("172.16.16.1"), netip.MustParseAddr("2001:db8:16::1")
	for _, f := range []struct {
		own, at, rip, router netip.Addr
		kinds                [][2]byte // type, code
		redirect             byte
	}{
		{dip, vip, rip(0), router, [][2]byte{{3, 3}, {3, 4}, {3, 13}, {4, 0}, {11, 0}, {12, 0}}, 5},
		{dip6, vip6, rip6(0), router6, [][2]byte{{1, 4}, {1, 1}, {2, 0}, {3, 0}, {4, 1}}, 137},
	} {
		own, at, to := netip.AddrPortFrom(f.own, 40000), netip.AddrPortFrom(f.at, 80), netip.AddrPortFrom(f.rip, 80)
		message := func(kind, code byte, quoted []byte) []byte {
			return append([]byte{kind, code, 0, 0, 0, 0, 5, 0}, quoted...)
		}
		builders := map[string]builder{"TCP": checkTCP, "UDP": checkUDP, "echo": checkEcho, "first fragment": fragmented(checkUDP, 0)}
		if f.at.Is6() {
			builders["extension headers"] = extended(0, 60)
		}
		for name, build := range builders {
			b.sent(name, build(own, to, 64), nil, b.marks[f.at])
			asVIP, asRIP := build(own, at, 2)[14:], quoteTo(build(own, at, 2), f.rip)[14:]
			for _, k := range f.kinds {
				for _, from := range []netip.Addr{f.at, f.rip, f.router} {
					wantFrom := from
					if from == f.at {
						wantFrom = f.rip
					}
					b.came(name, icmpFrame(from, f.own, 64, message(k[0], k[1], asVIP)),
						icmpFrame(wantFrom, f.own, 64, message(k[0], k[1], asRIP)), "check_error")
				}
			}
			for what, in := range map[string][]byte{
				"a redirect":     icmpFrame(f.rip, f.own, 64, message(f.redirect, 0, asVIP)),
				"cut":            icmpFrame(f.at, f.own, 64, message(f.kinds[0][0], 0, asVIP[:22])),
				"quotes nothing": icmpFrame(f.at, f.own, 64, message(f.kinds[0][0], 0, nil)),
				"about another port": icmpFrame(f.at, f.own, 64, message(f.kinds[0][0], 0,
					build(netip.AddrPortFrom(f.own, 40001), at, 2)[14:])),
				"about a packet to here": icmpFrame(f.at, f.own, 64, message(f.kinds[0][0], 0, build(at, own, 2)[14:])),
			} {
				b.came(name+": "+what, in, in, "")
			}
		}
		later := icmpFrame(f.at, f.own, 64, message(f.kinds[0][0], 0, fragmented(checkUDP, 1)(own, at, 2)[14:]))
		b.came("about a later fragment", later, later, "")
	}
}

// quoteTo writes another destination into a packet, as an error quotes it: only
// the IP header is made right.
func quoteTo(in []byte, to netip.Addr) []byte {
	return edit(in, func(b []byte) {
		if to.Is6() {
			copy(b[14+24:], to.AsSlice())
			return
		}
		copy(b[14+16:], to.AsSlice())
		ipSum(b)
	})
}

// TestCheckPathTaken: two servers of a VIP are not asked from one port at once,
// and one after the other they are.
func TestCheckPathTaken(t *testing.T) {
	b := newCheckBench(t)
	// Nobody answers there, so TCP goes on asking.
	labtest.IP(t, "link add v0 type veth peer name v1")
	labtest.IP(t, "link set v1 up")
	labtest.IP(t, "addr add 172.16.16.173/16 dev v0")
	labtest.IP(t, "addr add 2001:db8:16::173/64 dev v0 nodad")
	labtest.IP(t, "link set v0 up")
	labtest.Carrier(t, "v0")
	labtest.Delivers(t, "2001:db8:16::173")
	for _, f := range []struct {
		network  string
		at       netip.Addr
		own      netip.Addr
		one, two netip.Addr
		build    builder
	}{
		{"udp4", vip, dip, rip(0), rip(1), checkUDP},
		{"udp6", vip6, dip6, rip6(0), rip6(1), checkUDP},
		{"tcp4", vip, dip, rip(0), rip(1), checkTCP},
		{"tcp6", vip6, dip6, rip6(0), rip6(1), checkTCP},
	} {
		fd, port := connecting(t, f.network, f.own, netip.AddrPortFrom(f.one, 80))
		own := netip.AddrPortFrom(f.own, port)
		first, second := f.build(own, netip.AddrPortFrom(f.one, 80), 64), f.build(own, netip.AddrPortFrom(f.two, 80), 64)
		b.sent(f.network, first, nil, b.marks[f.at])
		b.dropped(f.network+", another server from the same port", second, b.marks[f.at], "check_drop_taken")
		b.sent(f.network+", again", first, nil, b.marks[f.at])
		unix.Close(fd)
		answer := f.build(netip.AddrPortFrom(f.at, 80), own, 64)
		b.sent(f.network+", the first is gone", second, nil, b.marks[f.at])
		b.came(f.network+", the first is gone", answer, f.build(netip.AddrPortFrom(f.two, 80), own, 64), "check_answer")
		b.sent(f.network+", the other one is no socket", first, nil, b.marks[f.at])
	}
	for _, f := range [][4]netip.Addr{{vip, dip, rip(0), rip(1)}, {vip6, dip6, rip6(0), rip6(1)}} {
		own := netip.AddrPortFrom(f[1], 7)
		first, second := checkEcho(own, netip.AddrPortFrom(f[2], 0), 64), checkEcho(own, netip.AddrPortFrom(f[3], 0), 64)
		b.sent("echo", first, nil, b.marks[f[0]])
		b.dropped("an echo of the same numbers", second, b.marks[f[0]], "check_drop_taken")
		b.sent("another number", checkEcho(own, netip.AddrPortFrom(f[3], 1), 64), nil, b.marks[f[0]])
		b.expect("its answer", b.objects.CheckIn, checkEcho(netip.AddrPortFrom(f[0], 0), own, 64), 0, tcxNext,
			checkEcho(netip.AddrPortFrom(f[2], 0), own, 64), "check_answer")
		b.sent("an echo after that", second, nil, b.marks[f[0]])
	}
}

// connecting makes a socket that is bound to a port and connected, or about to be.
func connecting(t *testing.T, network string, own netip.Addr, to netip.AddrPort) (fd int, port uint16) {
	t.Helper()
	kind, family := unix.SOCK_DGRAM, unix.AF_INET
	if network[0] == 't' {
		kind = unix.SOCK_STREAM
	}
	var from, at unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte(own.AsSlice())}, &unix.SockaddrInet4{Addr: [4]byte(to.Addr().AsSlice()), Port: int(to.Port())}
	if own.Is6() {
		family = unix.AF_INET6
		from, at = &unix.SockaddrInet6{Addr: own.As16()}, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, from)
	}
	if err == nil {
		err = unix.Connect(fd, at)
	}
	if err != nil && !errors.Is(err, syscall.EINPROGRESS) {
		t.Fatalf("%s: connecting to %v: %v", network, to, err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	switch n := name.(type) {
	case *unix.SockaddrInet4:
		return fd, uint16(n.Port)
	case *unix.SockaddrInet6:
		return fd, uint16(n.Port)
	}
	t.Fatalf("%T", name)
	return fd, 0
}

// TestCheckMarks: a VIP keeps its mark, and a mark that was given back rests before
// it is another VIP's.
func TestCheckMarks(t *testing.T) {
	m, now := newMarks(), time.Now()
	seen := map[uint32]bool{}
	for range 0x3fff {
		mark, err := m.take(now)
		if err != nil || seen[mark] || mark&0xffffc000 != 0x53480000 || mark == 0x53480000 {
			t.Fatalf("%#x, %v", mark, err)
		}
		seen[mark] = true
	}
	m.giveBack(0x53480007, now)
	m.giveBack(0x53480005, now.Add(time.Second))
	if mark, err := m.take(now.Add(markRest - 1)); err == nil {
		t.Errorf("%#x was given to another VIP at once", mark)
	}
	for _, want := range []uint32{0x53480007, 0x53480005} {
		if mark, err := m.take(now.Add(markRest + time.Second)); err != nil || mark != want {
			t.Errorf("got %#x, %v; want %#x", mark, err, want)
		}
	}
	if mark, err := m.take(now.Add(24 * time.Hour)); err == nil {
		t.Errorf("%#x is somebody's already", mark)
	}
}

func TestCheckPathMark(t *testing.T) {
	b := newCheckBench(t)
	mapped := netip.AddrFrom16(vip.As16())
	if again, err := b.Mark(mapped); err != nil || again != b.marks[vip] {
		t.Errorf("%v: %#x, %v; before it was %#x", mapped, again, err, b.marks[vip])
	}
	b.Forget(vip)
	b.Forget(vip)
	if again, err := b.Mark(vip); err != nil || again == b.marks[vip] {
		t.Errorf("a mark that was forgotten is used again at once: %#x, %v", again, err)
	}
	for _, a := range []netip.Addr{{}, netip.IPv4Unspecified(), netip.MustParseAddr("ff02::1")} {
		if mark, err := b.Mark(a); !errors.Is(err, ErrCheckPath) {
			t.Errorf("%v: %#x, %v", a, mark, err)
		}
	}
	// A few thousand.
	for n := range 5000 {
		if _, err := b.Mark(netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)})); err != nil {
			t.Fatal(err)
		}
	}
	for i, text := range checkCountTexts() {
		if (text.name == "" || text.help == "" || text.action == "") != (i == int(checkPathCheckCountCHECK_PASS)) {
			t.Errorf("count %d is called %+v", i, text)
		}
	}
}

// TestCheckPathUnsupported: an old kernel is told from other reasons, by its name.
func TestCheckPathUnsupported(t *testing.T) {
	err := unsupportedCheckPath(ebpf.ErrNotSupported)
	if !errors.Is(err, ErrCheckPath) || !strings.Contains(err.Error(), kernelRelease()) || !strings.Contains(err.Error(), "target: rip") {
		t.Error(err)
	}
}

// TestCheckPathInterfaces: the programs are where they were asked for, all or
// nothing, beside others; also after an interface was made anew.
func TestCheckPathInterfaces(t *testing.T) {
	b := newCheckBench(t)
	labtest.IP(t, "link add v0 type veth peer name v1")
	labtest.IP(t, "link add t0 type veth peer name t1")
	index := func(name string) int {
		i, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return i.Index
	}
	v0, t0 := index("v0"), index("t0")
	set := func(on ...int) {
		t.Helper()
		if err := b.Interfaces(on); err != nil {
			t.Fatal(err)
		}
	}
	want := func(on map[int]int) {
		t.Helper()
		for _, i := range []int{v0, t0, loopback} {
			for _, where := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				awaitPrograms(t, i, where, on[i])
			}
			if b.Attached(i) != (on[i] > 0) {
				t.Errorf("interface %d is told to be attached: %v", i, on[i] == 0)
			}
		}
	}
	set(v0, v0)
	want(map[int]int{v0: 1})
	set(t0, loopback)
	want(map[int]int{t0: 1, loopback: 1})
	if err := b.Interfaces([]int{v0, 4711}); !errors.Is(err, ErrCheckPath) {
		t.Errorf("an interface that is not there: %v", err)
	}
	want(map[int]int{t0: 1, loopback: 1})
	set(t0)
	labtest.IP(t, "link del t0")
	labtest.IP(t, "link add t0 index "+itoa(t0)+" type veth peer name t1")
	want(nil)
	set(t0)
	want(map[int]int{t0: 1})
	set()
	want(nil)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Interfaces([]int{t0}); !errors.Is(err, ErrCheckPath) {
		t.Errorf("closed: %v", err)
	}
	if _, err := b.Mark(vip); !errors.Is(err, ErrCheckPath) {
		t.Errorf("closed: %v", err)
	}
}
