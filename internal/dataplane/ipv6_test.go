// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// withExtensions puts extension headers between the IPv6 header and the rest.
func withExtensions(in []byte, types ...byte) []byte {
	out := bytes.Clone(in[:54])
	next := in[20]
	at := 20 // where the next header's number goes
	for _, t := range types {
		out[at] = t
		at = len(out)
		h := make([]byte, 8)
		if t == 51 { // AH: its length is in words of 4, less 2
			h = make([]byte, 24)
			h[1] = 4
		}
		out = append(out, h...)
	}
	out[at] = next
	out = append(out, in[54:]...)
	binary.BigEndian.PutUint16(out[18:], uint16(len(out)-54))
	return out
}

// TestVerdicts6 is TestVerdicts for IPv6.
func TestVerdicts6(t *testing.T) {
	const client = "[2001:db8:99::1]:1000"
	syn := tcpFrame6(client, "S")
	with := func(change func(*frame)) []byte {
		f := newFrame(lvs.TCP, netip.MustParseAddrPort(client), netip.AddrPortFrom(vip6, 80)).flags("S")
		change(f)
		return f.bytes()
	}
	fragment := func(offset byte, types ...byte) []byte { // and the bit for "more"
		return edit(withExtensions(syn, types...), func(b []byte) { b[57] = offset })
	}
	after := func(in []byte) func(*testing.T, *Plane) { return func(t *testing.T, p *Plane) { send(t, p, in) } }
	noServer := func(t *testing.T, p *Plane) {
		install(t, p, table6(lvs.TCP, lvs.WeightedLeastConnection, server(0, 0)))
	}
	reset6 := func(t *testing.T, p *Plane) {
		install(t, p, withPolicy(table6(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1)), lvs.Policy{Stray: lvs.StrayReset}))
	}
	rows := []verdictRow{
		{"new connection", nil, syn, bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"known connection", func(t *testing.T, p *Plane) { send(t, p, syn) }, tcpFrame6(client, "A"), bpfVerdictVERDICT_FORWARD_CONNECTION, xdpTX},
		{"in the middle", nil, tcpFrame6(client, "A"), bpfVerdictVERDICT_FORWARD_ADOPTED, xdpTX},
		{"stray RST", nil, tcpFrame6(client, "R"), bpfVerdictVERDICT_FORWARD_UNTRACKED, xdpTX},
		{"hop-by-hop options", nil, withExtensions(syn, 0), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"many extension headers", nil, withExtensions(syn, 0, 60, 43, 60), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"authentication header", nil, withExtensions(syn, 51), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"traffic class and flow label", nil, with(func(f *frame) { f.ip6.TrafficClass, f.ip6.FlowLabel = 0xb8, 0xfffff }), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"another interface", func(t *testing.T, p *Plane) {
			for n := range 2 {
				if err := p.SetNeighbour(Neighbour{Addr: rip6(n), Interface: 77, MAC: serverMAC(rip6(n)), Source: ownMAC}); err != nil {
					t.Fatal(err)
				}
			}
		}, syn, bpfVerdictVERDICT_FORWARD_NEW, xdpRedirect},

		{"too many extension headers", nil, withExtensions(syn, 0, 60, 60, 60, 60, 60, 60, 60, 60), bpfVerdictVERDICT_PASS_PROTOCOL, xdpPass},
		{"fragment header, in one piece", nil, withExtensions(syn, 44), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"first fragment", nil, fragment(1, 44), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"first fragment, options on both sides", nil, edit(withExtensions(syn, 0, 44, 60), func(b []byte) { b[65] = 1 }), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"first fragment, two headers behind", nil, edit(withExtensions(syn, 44, 60, 60), func(b []byte) { b[57] = 1 }), bpfVerdictVERDICT_PASS_PROTOCOL, xdpPass},
		{"last fragment", after(fragment(1, 44)), fragment(8, 44), bpfVerdictVERDICT_FORWARD_FRAGMENT, xdpTX},
		{"fragment between", after(fragment(1, 44)), fragment(9, 44), bpfVerdictVERDICT_FORWARD_FRAGMENT, xdpTX},
		{"last fragment, options in front", after(fragment(1, 44)), edit(withExtensions(syn, 0, 44), func(b []byte) { b[65] = 8 }), bpfVerdictVERDICT_FORWARD_FRAGMENT, xdpTX},
		{"last fragment that names what the first one's options do", after(fragment(1, 44)), edit(fragment(8, 44), func(b []byte) { b[54] = 60 }), bpfVerdictVERDICT_FORWARD_FRAGMENT, xdpTX},
		{"last fragment first", nil, fragment(8, 44), bpfVerdictVERDICT_DROP_PARKED, xdpDrop},
		{"last fragment of another datagram", after(fragment(1, 44)), edit(fragment(8, 44), func(b []byte) { b[61] = 1 }), bpfVerdictVERDICT_DROP_PARKED, xdpDrop},
		{"last fragment, no server", func(t *testing.T, p *Plane) { noServer(t, p); send(t, p, fragment(1, 44)) }, fragment(8, 44), bpfVerdictVERDICT_DROP_FRAGMENT, xdpDrop},
		{"last fragment with hop limit 1", after(fragment(1, 44)), edit(fragment(8, 44), func(b []byte) { b[21] = 1 }), bpfVerdictVERDICT_DROP_TTL, xdpDrop},
		{"last fragment to another address", nil, edit(fragment(8, 44), func(b []byte) { b[53]++ }), bpfVerdictVERDICT_PASS_FRAGMENT, xdpPass},
		{"first fragment of a ping", nil, edit(fragment(1, 44), func(b []byte) { b[54] = 58 }), bpfVerdictVERDICT_PASS_FRAGMENT, xdpPass},
		{"last fragment of a ping", nil, edit(fragment(8, 44), func(b []byte) { b[54] = 58 }), bpfVerdictVERDICT_PASS_FRAGMENT, xdpPass},
		{"fragment header beyond the frame", nil, edit(fragment(8, 44)[:58], func(b []byte) { b[18], b[19] = 0, 4 }), bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"extension header beyond the frame", nil, edit(withExtensions(syn, 60), func(b []byte) { b[55] = 255 }), bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"neighbour solicitation", nil, with(func(f *frame) { f.ip6.NextHeader = layers.IPProtocolICMPv6 }), bpfVerdictVERDICT_PASS_PROTOCOL, xdpPass},
		{"version 4 in an IPv6 frame", nil, edit(syn, func(b []byte) { b[14] = 0x45 }), bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"length beyond the frame", nil, edit(syn, func(b []byte) { b[18] = 1 }), bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"no room for a TCP header", nil, edit(syn, func(b []byte) { b[19] = 19 }), bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"no room for an IPv6 header", nil, syn[:53], bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"another port", nil, with(func(f *frame) { f.tcp.DstPort = 81 }), bpfVerdictVERDICT_PASS_NOT_SERVED, xdpPass},
		{"another address", nil, with(func(f *frame) { f.ip6.DstIP[7] = 9 }), bpfVerdictVERDICT_PASS_NOT_SERVED, xdpPass},
		{"another host's frame", nil, with(func(f *frame) { f.eth.DstMAC = net.HardwareAddr{2, 9, 9, 9, 9, 9} }), bpfVerdictVERDICT_PASS_NOT_HOST, xdpPass},

		{"no server", noServer, syn, bpfVerdictVERDICT_REPLY_NO_SERVER, xdpTX},
		{"no server, options", noServer, withExtensions(syn, 0), bpfVerdictVERDICT_REPLY_NO_SERVER, xdpTX},
		{"stray, policy reset", reset6, tcpFrame6(client, "A"), bpfVerdictVERDICT_REPLY_RESET, xdpTX},
		{"stray behind options, policy reset", reset6, withExtensions(tcpFrame6(client, "FA"), 0, 60), bpfVerdictVERDICT_REPLY_RESET, xdpTX},
		{"stray RST, policy reset", reset6, tcpFrame6(client, "RA"), bpfVerdictVERDICT_DROP_STRAY, xdpDrop},
		{"stray first fragment, policy reset", reset6, edit(withExtensions(tcpFrame6(client, "A"), 44), func(b []byte) { b[57] = 1 }), bpfVerdictVERDICT_DROP_STRAY, xdpDrop},
		{"hop limit 1", nil, with(func(f *frame) { f.ip6.HopLimit = 1 }), bpfVerdictVERDICT_REPLY_TTL, xdpTX},
		{"longer than the way takes", narrowWay, with(func(f *frame) { f.payload = make([]byte, 1000) }), bpfVerdictVERDICT_REPLY_TOO_BIG, xdpTX},
		{"hop limit 1, too often", func(t *testing.T, p *Plane) { exhaustReplies(t, p) }, with(func(f *frame) { f.ip6.HopLimit = 1 }), bpfVerdictVERDICT_DROP_TTL, xdpDrop},
	}
	eachProgram(t, func(t *testing.T, p *Plane) { verdictRows6(t, p, rows) })
}

func verdictRows6(t *testing.T, p *Plane, rows []verdictRow) {
	for _, r := range rows {
		if !p.takes(r.in) {
			continue
		}
		reset(t, p)
		install(t, p, table6(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1)))
		for n := range 2 {
			resolve(t, p, rip6(n))
		}
		if r.setup != nil {
			r.setup(t, p)
		}
		o := send(t, p, r.in)
		if o.verdict != r.want || !o.did(p, r.action) {
			t.Errorf("%s: verdict %v, action %d; want %v, %d", r.name, o.verdict, o.action, r.want, r.action)
			continue
		}
		switch {
		case verdictTexts()[o.verdict].action == actionForward:
			want := bytes.Clone(r.in)
			copy(want, o.out[:6])
			copy(want[6:12], ownMAC)
			want[21]--
			if addr, ok := o.chosen(); !ok || (addr != rip(0) && addr != rip(1)) || !bytes.Equal(o.out, want) {
				t.Errorf("%s: sent\n% x, want\n% x", r.name, o.out, want)
			}
		case o.verdict == bpfVerdictVERDICT_REPLY_RESET:
			checkReset(t, r.name, r.in, o)
		case o.action == xdpTX:
			checkReply6(t, r.name, r.in, o)
		case !bytes.Equal(o.out, r.in):
			t.Errorf("%s: the frame was changed", r.name)
		}
	}
}

func checkReply6(t *testing.T, name string, in []byte, o outcome) {
	t.Helper()
	got := gopacket.NewPacket(o.out, layers.LayerTypeEthernet, gopacket.Default)
	eth, _ := got.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	ip, _ := got.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	icmp, _ := got.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	if icmp == nil {
		t.Errorf("%s: not ICMPv6: % x", name, o.out)
		return
	}
	want := layers.CreateICMPv6TypeCode(1, 4)
	switch o.verdict {
	case bpfVerdictVERDICT_REPLY_TTL:
		want = layers.CreateICMPv6TypeCode(3, 0)
	case bpfVerdictVERDICT_REPLY_TOO_BIG:
		want = layers.CreateICMPv6TypeCode(2, 0)
		if mtu := binary.BigEndian.Uint32(o.out[58:]); mtu != 1000 {
			t.Errorf("%s: says that %d bytes would pass", name, mtu)
		}
	}
	if !bytes.Equal(eth.DstMAC, in[6:12]) || !bytes.Equal(eth.SrcMAC, in[0:6]) || icmp.TypeCode != want ||
		!ip.DstIP.Equal(net.IP(in[22:38])) || !ip.SrcIP.Equal(net.IP(in[38:54])) || int(ip.Length) != len(o.out)-54 {
		t.Errorf("%s: answered %v", name, got)
	}
	header := 40
	for n := in[20]; n == 0 || n == 60; n = in[14+header-8] {
		header += 8
	}
	if quoted := o.out[62:]; !bytes.Equal(quoted, in[14:14+header+8]) {
		t.Errorf("%s: quotes % x", name, quoted)
	}
	sum := uint32(ip.Length) + 58
	for i := 22; i < len(o.out); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(o.out[i:]))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	if sum != 0xffff {
		t.Errorf("%s: ICMPv6 checksum is wrong", name)
	}
}

// TestBothFamilies: services of both families beside each other, taken over by a
// second Open, listed, and their counters back at zero in the end.
func TestBothFamilies(t *testing.T) { eachMode(t, testBothFamilies) }

func testBothFamilies(t *testing.T, mode Mode) {
	labtest.InNamespace(t)
	o := Options{Instance: "six", PinDir: bpffs(t), Interfaces: []string{"lo"}, Mode: mode, Connections: 1 << 10}
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	rules := table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1))
	rules.Services = append(rules.Services, table6(lvs.TCP, lvs.SourceHashing, server(0, 1), server(1, 2), server(2, 1)).Services...)
	install(t, p, rules)
	client6 := func(n int) string {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 9, 15: byte(n)}), uint16(2000+n)).String()
	}
	var servers []netip.Addr
	for n := range 20 {
		send(t, p, tcpFrame(client(n), "S"))
		addr, _ := send(t, p, tcpFrame6(client6(n), "S")).chosen()
		servers = append(servers, addr)
	}
	list := func() []string {
		all, err := p.Connections()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, c := range all {
			out = append(out, c.Protocol.String()+" "+c.Client.String()+" "+c.Virtual.String()+" "+c.Server.String())
		}
		slices.Sort(out)
		return out
	}
	before := list()
	if len(before) != 40 || !slices.Contains(before, "TCP [2001:db8:900::5]:2005 [2001:db8:16::172]:80 ["+rip6(int(servers[5].As4()[3])-177).String()+"]:80") {
		t.Errorf("%d connections listed: %v", len(before), before)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err = Open(o); err != nil {
		t.Fatal(err)
	}
	defer p.Remove()
	if err := p.Apply(rules); err != nil {
		t.Fatal(err)
	}
	if after := list(); !slices.Equal(before, after) {
		t.Errorf("taken over: %v, were %v", after, before)
	}
	for n, want := range servers {
		o := send(t, p, tcpFrame6(client6(n), "A"))
		if got, _ := o.chosen(); got != want || o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
			t.Errorf("client %d: %v to %v, was at %v", n, o.verdict, got, want)
		}
	}
	if err := p.AdvanceClock(2000 * time.Second); err != nil {
		t.Fatal(err)
	}
	sweepAll(t, p)
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
}
