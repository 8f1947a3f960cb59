// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// edit changes bytes of a frame behind the back of the layers.
func edit(b []byte, f func([]byte)) []byte {
	b = bytes.Clone(b)
	f(b)
	return b
}

// ipSum makes an IP header's checksum right again.
func ipSum(b []byte) {
	h := b[14 : 14+int(b[14]&0xf)*4]
	h[10], h[11] = 0, 0
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
}

// verdictRow is a packet and what has to become of it.
type verdictRow struct {
	name   string
	setup  func(t *testing.T, p *Plane)
	in     []byte
	want   bpfVerdict
	action uint32 // of XDP
}

// TestVerdicts has a row for every way out of the program. The one verdict
// counter that moves is checked by send; a verdict that no row shows fails.
func TestVerdicts(t *testing.T) {
	syn := tcpFrame("10.0.0.1:1000", "S")
	with := func(change func(*frame)) []byte {
		f := newFrame(lvs.TCP, netip.MustParseAddrPort("10.0.0.1:1000"), netip.AddrPortFrom(vip, 80)).flags("S")
		change(f)
		return f.bytes()
	}
	stray := func(s lvs.Stray) func(*testing.T, *Plane) {
		return func(t *testing.T, p *Plane) {
			install(t, p, withPolicy(table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1)), lvs.Policy{Stray: s}))
		}
	}
	first := with(func(f *frame) { f.ip.Flags = layers.IPv4MoreFragments })
	firstElsewhere := with(func(f *frame) { f.ip.Flags, f.tcp.DstPort = layers.IPv4MoreFragments, 81 })
	last := with(func(f *frame) { f.ip.FragOffset = 185 })
	after := func(in []byte) func(*testing.T, *Plane) { return func(t *testing.T, p *Plane) { send(t, p, in) } }
	noServer := func(t *testing.T, p *Plane) { install(t, p, table(lvs.TCP, lvs.WeightedLeastConnection, server(0, 0))) }
	exhausted := func(t *testing.T, p *Plane) { exhaustReplies(t, p) }
	rows := []verdictRow{
		{"new connection", nil, syn, bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"known connection", func(t *testing.T, p *Plane) { send(t, p, syn) }, tcpFrame("10.0.0.1:1000", "A"), bpfVerdictVERDICT_FORWARD_CONNECTION, xdpTX},
		{"SYN+ACK opens, as in IPVS", nil, tcpFrame("10.0.0.1:1000", "SA"), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"in the middle of a connection", nil, tcpFrame("10.0.0.1:1000", "A"), bpfVerdictVERDICT_FORWARD_ADOPTED, xdpTX},
		{"stray RST", nil, tcpFrame("10.0.0.1:1000", "R"), bpfVerdictVERDICT_FORWARD_UNTRACKED, xdpTX},
		{"another interface", func(t *testing.T, p *Plane) {
			if err := p.SetNeighbour(Neighbour{Addr: rip(0), Interface: 77, MAC: serverMAC(rip(0)), Source: ownMAC}); err != nil {
				t.Fatal(err)
			}
			install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 1)))
		}, syn, bpfVerdictVERDICT_FORWARD_NEW, xdpRedirect},
		{"IP options", nil, with(func(f *frame) {
			f.ip.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
		}), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"IP options, as many as there can be", nil, with(func(f *frame) {
			f.ip.Options = []layers.IPv4Option{{OptionType: 7, OptionLength: 39, OptionData: make([]byte, 37)}, {OptionType: 0}}
		}), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"DF set", nil, with(func(f *frame) { f.ip.Flags = layers.IPv4DontFragment }), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"padding after the packet", nil, append(bytes.Clone(syn), make([]byte, 10)...), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"large packet", nil, with(func(f *frame) { f.payload = make([]byte, 1460) }), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},

		{"one-packet scheduling", func(t *testing.T, p *Plane) {
			rules := table(lvs.UDP, lvs.RoundRobin, server(0, 1))
			rules.Services[0].Flags = lvs.FlagOnePacket
			install(t, p, rules)
		}, udpFrame("10.0.0.1:1000"), bpfVerdictVERDICT_FORWARD_ONE_PACKET, xdpTX},

		{"local node", localNode, syn, bpfVerdictVERDICT_FORWARD_LOCAL, xdpPass},
		{"local node, TTL 1", localNode, with(func(f *frame) { f.ip.TTL = 1 }), bpfVerdictVERDICT_FORWARD_LOCAL, xdpPass},
		{"local node, quiesced", func(t *testing.T, p *Plane) { localNode(t, p); noServer(t, p) }, syn, bpfVerdictVERDICT_REPLY_NO_SERVER, xdpTX},
		{"local node, another host's frame", localNode, with(func(f *frame) { f.eth.DstMAC = net.HardwareAddr{2, 9, 9, 9, 9, 9} }), bpfVerdictVERDICT_PASS_NOT_HOST, xdpPass},

		{"ARP", nil, edit(syn, func(b []byte) { b[12], b[13] = 8, 6 }), bpfVerdictVERDICT_PASS_NOT_IP, xdpPass},
		{"VLAN tag", nil, edit(syn, func(b []byte) { b[12], b[13] = 0x81, 0 }), bpfVerdictVERDICT_PASS_VLAN, xdpPass},
		{"frame without room for an IP header", nil, syn[:33], bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"another host's frame", nil, with(func(f *frame) { f.eth.DstMAC = net.HardwareAddr{2, 9, 9, 9, 9, 9} }), bpfVerdictVERDICT_PASS_NOT_HOST, xdpPass},
		{"broadcast frame", nil, with(func(f *frame) { f.eth.DstMAC = layers.EthernetBroadcast }), bpfVerdictVERDICT_PASS_NOT_HOST, xdpPass},
		{"another port", nil, with(func(f *frame) { f.tcp.DstPort = 81 }), bpfVerdictVERDICT_PASS_NOT_SERVED, xdpPass},
		{"another address", nil, with(func(f *frame) { f.ip.DstIP = net.IP{172, 16, 16, 173} }), bpfVerdictVERDICT_PASS_NOT_SERVED, xdpPass},
		{"another protocol at the same port", nil, udpFrame("10.0.0.1:1000"), bpfVerdictVERDICT_PASS_NOT_SERVED, xdpPass},
		{"ping", nil, with(func(f *frame) { f.ip.Protocol = layers.IPProtocolICMPv4; f.payload = make([]byte, 40) }), bpfVerdictVERDICT_PASS_PROTOCOL, xdpPass},
		{"first fragment", nil, first, bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"last fragment", after(first), last, bpfVerdictVERDICT_FORWARD_FRAGMENT, xdpTX},
		{"fragment between", after(first), with(func(f *frame) { f.ip.FragOffset, f.ip.Flags = 185, layers.IPv4MoreFragments }), bpfVerdictVERDICT_FORWARD_FRAGMENT, xdpTX},
		{"last fragment first", nil, last, bpfVerdictVERDICT_DROP_PARKED, xdpDrop},
		{"last fragment first, too often", func(t *testing.T, p *Plane) { exhaust(t, p, 1, 10000) }, last, bpfVerdictVERDICT_DROP_PARK_FULL, xdpDrop},
		{"last fragment first, too long to keep", nil, with(func(f *frame) { f.ip.FragOffset, f.payload = 185, make([]byte, 2000) }), bpfVerdictVERDICT_DROP_PARK_FULL, xdpDrop},
		{"last fragment first, as long as can be", nil, with(func(f *frame) { f.ip.FragOffset, f.payload = 185, make([]byte, 2048-54) }), bpfVerdictVERDICT_DROP_PARKED, xdpDrop},
		{"last fragment, no server", func(t *testing.T, p *Plane) { noServer(t, p); send(t, p, first) }, last, bpfVerdictVERDICT_DROP_FRAGMENT, xdpDrop},
		{"last fragment, server removed", func(t *testing.T, p *Plane) {
			send(t, p, first)
			install(t, p, table(lvs.TCP, lvs.RoundRobin))
		}, last, bpfVerdictVERDICT_DROP_REMOVED, xdpDrop},
		{"last fragment with TTL 1", after(first), edit(last, func(b []byte) { b[22] = 1; ipSum(b) }), bpfVerdictVERDICT_DROP_TTL, xdpDrop},
		{"last fragment, longer than the way takes", func(t *testing.T, p *Plane) { narrowWay(t, p); send(t, p, first) },
			with(func(f *frame) { f.ip.FragOffset, f.payload = 185, make([]byte, 1000) }), bpfVerdictVERDICT_DROP_TOO_BIG, xdpDrop},
		{"last fragment to another host", after(first), edit(last, func(b []byte) { b[0] = 2 }), bpfVerdictVERDICT_PASS_NOT_HOST, xdpPass},
		{"first fragment to another port", nil, firstElsewhere, bpfVerdictVERDICT_PASS_NOT_SERVED, xdpPass},
		{"last fragment to another port", after(firstElsewhere), last, bpfVerdictVERDICT_PASS_FRAGMENT, xdpPass},
		{"last fragment behind one without room for a TCP header", after(edit(first, func(b []byte) { b[17] = 39; ipSum(b) })), last, bpfVerdictVERDICT_PASS_FRAGMENT, xdpPass},
		{"last fragment to another address", nil, with(func(f *frame) { f.ip.FragOffset, f.ip.DstIP = 185, net.IP{172, 16, 16, 173} }), bpfVerdictVERDICT_PASS_FRAGMENT, xdpPass},
		{"fragment of a ping", nil, with(func(f *frame) { f.ip.FragOffset, f.ip.Protocol = 185, layers.IPProtocolICMPv4 }), bpfVerdictVERDICT_PASS_FRAGMENT, xdpPass},
		{"IP version 5", nil, edit(syn, func(b []byte) { b[14] = 0x55; ipSum(b) }), bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"header length below 20", nil, edit(syn, func(b []byte) { b[14] = 0x44 }), bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"header longer than the packet", nil, edit(syn, func(b []byte) { b[14], b[17] = 0x4f, 40 }), bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"length beyond the frame", nil, edit(syn, func(b []byte) { b[16] = 1; ipSum(b) }), bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"length below the header", nil, edit(syn, func(b []byte) { b[17] = 19; ipSum(b) }), bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"no room for a TCP header", nil, edit(syn, func(b []byte) { b[17] = 39; ipSum(b) }), bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"no room for a UDP header", nil, edit(udpFrame("10.0.0.1:1000"), func(b []byte) { b[17] = 27; ipSum(b) }), bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"stray, policy pass", stray(lvs.StrayPass), tcpFrame("10.0.0.1:1000", "A"), bpfVerdictVERDICT_PASS_STRAY, xdpPass},
		{"stray, policy drop", stray(lvs.StrayDrop), tcpFrame("10.0.0.1:1000", "A"), bpfVerdictVERDICT_DROP_STRAY, xdpDrop},
		{"stray, policy reset", stray(lvs.StrayReset), tcpFrame("10.0.0.1:1000", "A"), bpfVerdictVERDICT_REPLY_RESET, xdpTX},
		{"stray without flags, policy reset", stray(lvs.StrayReset), tcpFrame("10.0.0.1:1000", ""), bpfVerdictVERDICT_REPLY_RESET, xdpTX},
		{"stray RST, policy reset", stray(lvs.StrayReset), tcpFrame("10.0.0.1:1000", "R"), bpfVerdictVERDICT_DROP_STRAY, xdpDrop},
		{"stray RST with SYN, policy reset", stray(lvs.StrayReset), tcpFrame("10.0.0.1:1000", "RS"), bpfVerdictVERDICT_DROP_STRAY, xdpDrop},
		{"stray first fragment, policy reset", stray(lvs.StrayReset), with(func(f *frame) { f.ip.Flags, f.tcp.SYN, f.tcp.ACK = layers.IPv4MoreFragments, false, true }), bpfVerdictVERDICT_DROP_STRAY, xdpDrop},
		{"stray with a TCP header too short, policy reset", stray(lvs.StrayReset), edit(tcpFrame("10.0.0.1:1000", "A"), func(b []byte) { b[46] = 0x40 }), bpfVerdictVERDICT_DROP_STRAY, xdpDrop},
		{"stray with a TCP header beyond its end, policy reset", stray(lvs.StrayReset), edit(tcpFrame("10.0.0.1:1000", "A"), func(b []byte) { b[46] = 0x60 }), bpfVerdictVERDICT_DROP_STRAY, xdpDrop},
		{"SYN, policy reset", stray(lvs.StrayReset), syn, bpfVerdictVERDICT_FORWARD_NEW, xdpTX},

		{"stray while connections are carried over", moving(5), tcpFrame("10.0.0.1:1000", "A"), bpfVerdictVERDICT_DROP_MOVING, xdpDrop},
		{"stray of a connection that has ended, then", func(t *testing.T, p *Plane) {
			send(t, p, syn)
			send(t, p, tcpFrame("10.0.0.1:1000", "A"))
			send(t, p, tcpFrame("10.0.0.1:1000", "FA"))
			moving(5)(t, p)
		}, tcpFrame("10.0.0.1:1000", "A"), bpfVerdictVERDICT_DROP_MOVING, xdpDrop},
		{"known connection, then", func(t *testing.T, p *Plane) { send(t, p, syn); moving(5)(t, p) },
			tcpFrame("10.0.0.1:1000", "A"), bpfVerdictVERDICT_FORWARD_CONNECTION, xdpTX},
		{"new connection, then", moving(5), syn, bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"stray after a daemon that died at it", moving(-1), tcpFrame("10.0.0.1:1000", "A"), bpfVerdictVERDICT_FORWARD_ADOPTED, xdpTX},

		{"ICMP error about a connection", func(t *testing.T, p *Plane) { send(t, p, syn) }, icmpError(3, 4, "10.0.0.1:1000", 8), bpfVerdictVERDICT_FORWARD_RELATED, xdpTX},
		{"ICMP error about no connection", nil, icmpError(11, 0, "10.0.0.1:1000", 20), bpfVerdictVERDICT_FORWARD_RELATED_TO_ALL, xdpTX},
		{"ICMP error about no connection, too often", func(t *testing.T, p *Plane) { exhaust(t, p, 2, 4000) },
			icmpError(11, 0, "10.0.0.1:1000", 20), bpfVerdictVERDICT_FORWARD_RELATED_BY_HASH, xdpTX},
		{"ICMP error about no connection, no daemon", fillRing, icmpError(11, 0, "10.0.0.1:1000", 20), bpfVerdictVERDICT_FORWARD_RELATED_UNHEARD, xdpTX},
		{"ICMP error about no connection, one server", noServer, icmpError(3, 1, "10.0.0.1:1000", 8), bpfVerdictVERDICT_FORWARD_RELATED_ONLY, xdpTX},
		{"ICMP error, no server", func(t *testing.T, p *Plane) { install(t, p, table(lvs.TCP, lvs.RoundRobin)) },
			icmpError(3, 1, "10.0.0.1:1000", 8), bpfVerdictVERDICT_PASS_PROTOCOL, xdpPass},
		{"ICMP error about another port", nil, edit(icmpError(3, 4, "10.0.0.1:1000", 8), func(b []byte) { b[63]++ }), bpfVerdictVERDICT_PASS_NOT_SERVED, xdpPass},
		{"ICMP error about somebody else's packet", nil, edit(icmpError(3, 4, "10.0.0.1:1000", 8), func(b []byte) { b[54]++ }), bpfVerdictVERDICT_PASS_PROTOCOL, xdpPass},
		{"ICMP error about a fragment without ports", nil, edit(icmpError(3, 4, "10.0.0.1:1000", 8), func(b []byte) { b[49] = 9 }), bpfVerdictVERDICT_PASS_PROTOCOL, xdpPass},
		{"ICMP error that is cut", nil, icmpError(3, 4, "10.0.0.1:1000", 3), bpfVerdictVERDICT_PASS_PROTOCOL, xdpPass},
		{"ICMP redirect", nil, icmpError(5, 1, "10.0.0.1:1000", 8), bpfVerdictVERDICT_PASS_PROTOCOL, xdpPass},
		{"ICMP error with TTL 1", nil, edit(icmpError(3, 4, "10.0.0.1:1000", 8), func(b []byte) { b[22] = 1; ipSum(b) }), bpfVerdictVERDICT_DROP_TTL, xdpDrop},
		{"denied", func(t *testing.T, p *Plane) {
			install(t, p, denying(table(lvs.TCP, lvs.RoundRobin, server(0, 1)), "10.0.0.0/24"))
		}, syn, bpfVerdictVERDICT_DROP_DENIED, xdpDrop},
		{"source limit", func(t *testing.T, p *Plane) {
			install(t, p, limited(table(lvs.TCP, lvs.RoundRobin, server(0, 1)), 1, 100))
			for n := range 110 { // so that no pause gives one back
				run(t, p, tcpFrame(fmt.Sprintf("10.0.0.1:%d", 2000+n), "S"))
			}
		}, syn, bpfVerdictVERDICT_DROP_SOURCE_LIMIT, xdpDrop},
		{"longer than the way takes", narrowWay, with(func(f *frame) { f.payload = make([]byte, 1000) }), bpfVerdictVERDICT_REPLY_TOO_BIG, xdpTX},
		{"as long as the way takes", narrowWay, with(func(f *frame) { f.payload = make([]byte, 960) }), bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"longer than the way takes, too often", func(t *testing.T, p *Plane) { narrowWay(t, p); exhaustReplies(t, p) },
			with(func(f *frame) { f.payload = make([]byte, 1000) }), bpfVerdictVERDICT_DROP_TOO_BIG, xdpDrop},
		{"no server", func(t *testing.T, p *Plane) { install(t, p, table(lvs.TCP, lvs.RoundRobin)) }, syn, bpfVerdictVERDICT_REPLY_NO_SERVER, xdpTX},
		{"all servers quiesced", noServer, syn, bpfVerdictVERDICT_REPLY_NO_SERVER, xdpTX},
		{"all servers quiesced, no SYN", noServer, tcpFrame("10.0.0.1:1000", "A"), bpfVerdictVERDICT_REPLY_NO_SERVER, xdpTX},
		{"no server, too often", func(t *testing.T, p *Plane) { noServer(t, p); exhausted(t, p) }, syn, bpfVerdictVERDICT_DROP_NO_SERVER, xdpDrop},
		{"TTL 1", nil, with(func(f *frame) { f.ip.TTL = 1 }), bpfVerdictVERDICT_REPLY_TTL, xdpTX},
		{"TTL 0", nil, with(func(f *frame) { f.ip.TTL = 0 }), bpfVerdictVERDICT_REPLY_TTL, xdpTX},
		{"TTL 1, too often", exhausted, with(func(f *frame) { f.ip.TTL = 1 }), bpfVerdictVERDICT_DROP_TTL, xdpDrop},
		{"MAC unknown", func(t *testing.T, p *Plane) {
			for n := range 2 {
				if err := p.SetNeighbour(Neighbour{Addr: rip(n)}); err != nil {
					t.Fatal(err)
				}
			}
		}, syn, bpfVerdictVERDICT_DROP_UNRESOLVED, xdpDrop},
		{"server removed, as IPVS has it", func(t *testing.T, p *Plane) {
			keep := lvs.Policy{KeepNodest: true}
			install(t, p, table(lvs.TCP, lvs.RoundRobin))
			install(t, p, withPolicy(table(lvs.TCP, lvs.RoundRobin, server(0, 1)), keep))
			send(t, p, syn)
			install(t, p, withPolicy(table(lvs.TCP, lvs.RoundRobin, server(1, 1)), keep))
		}, tcpFrame("10.0.0.1:1000", "A"), bpfVerdictVERDICT_DROP_REMOVED, xdpDrop},
		{"server failed, its clients to be told", func(t *testing.T, p *Plane) {
			install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 1)))
			send(t, p, syn)
			install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 0)))
			mustEnd(t, p, server(0, 0), lvs.FateReset, 1)
		}, tcpFrame("10.0.0.1:1000", "A"), bpfVerdictVERDICT_REPLY_ENDED, xdpTX},
	}
	eachProgram(t, func(t *testing.T, p *Plane) { verdictRows(t, p, rows) })
	seen := map[bpfVerdict]bool{bpfVerdictVERDICT_CONTINUE: true, bpfVerdictVERDICT_ABORTED: true,
		bpfVerdictVERDICT_PASS_OWN_SOURCE: true, // tc's only: see TestOwnSource
		bpfVerdictVERDICT_DROP_PARK_LOST:  true, // Go's: see TestFragmentsGivenUp
		// The daemon's program's: see TestCopies.
		bpfVerdictVERDICT_FORWARD_RELATED_COPY: true, bpfVerdictVERDICT_DROP_COPY: true}
	for _, r := range rows {
		seen[r.want] = true
	}
	for v := range bpfVerdictVERDICT_MAX {
		if !seen[v] {
			t.Errorf("no row shows %v", v)
		}
		if text := verdictTexts()[v]; text.name == "" || text.help == "" || text.action == "" {
			t.Errorf("verdict %d has no text", v)
		}
	}
}

// moving makes the plane as it is for some seconds while connections are carried
// over.
func moving(seconds int) func(*testing.T, *Plane) {
	return func(t *testing.T, p *Plane) {
		now, err := p.seconds()
		if err == nil {
			err = p.setMoving((now + uint32(seconds)) & deadlineMask)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func verdictRows(t *testing.T, p *Plane, rows []verdictRow) {
	for _, r := range rows {
		if !p.takes(r.in) {
			continue
		}
		reset(t, p)
		if r.setup != nil {
			r.setup(t, p)
		}
		o := send(t, p, r.in)
		if o.verdict != r.want || !o.did(p, r.action) {
			t.Errorf("%s: verdict %v, action %d; want %v, %d", r.name, o.verdict, o.action, r.want, r.action)
		}
		switch {
		case verdictTexts()[o.verdict].action == actionForward:
			checkForwarded(t, r.name, r.in, o.out)
		case o.action == xdpPass || o.action == xdpDrop:
			if !bytes.Equal(o.out, r.in) {
				t.Errorf("%s: the frame was changed", r.name)
			}
		case o.verdict == bpfVerdictVERDICT_REPLY_RESET || o.verdict == bpfVerdictVERDICT_REPLY_ENDED:
			checkReset(t, r.name, r.in, o)
		case o.action == xdpTX:
			checkReply(t, r.name, r.in, o)
		}
	}
}

// icmpError is one that a router on the way to the client sends to the VIP about
// a reply of a real server, of which it quotes so many bytes behind the IP header.
func icmpError(kind, code uint8, client string, quoted int) []byte {
	to := netip.MustParseAddrPort(client)
	inner := newFrame(lvs.TCP, netip.AddrPortFrom(vip, 80), to).flags("A").bytes()[14:]
	f := newFrame(lvs.Protocol(1), netip.MustParseAddrPort("198.51.100.1:0"), netip.AddrPortFrom(vip, 0))
	f.payload = append([]byte{kind, code, 0, 0, 0, 0, 0, 0}, inner[:20+quoted]...)
	return f.bytes()
}

// narrowWay has the way to the servers take packets of 1000 bytes.
func narrowWay(t *testing.T, p *Plane) {
	t.Helper()
	for n := range 2 {
		for _, addr := range []netip.Addr{rip(n), rip6(n)} {
			if err := p.SetNeighbour(Neighbour{Addr: addr, Interface: loopback, MAC: serverMAC(addr), Source: ownMAC, MTU: 1000}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestRelated: an ICMP error goes to the server whose packet it is about, of
// however many clients, also of persistent services and IPv6, and leaves the
// connection as it was.
func TestRelated(t *testing.T) { eachProgram(t, testRelated) }

func testRelated(t *testing.T, p *Plane) {
	for name, rules := range map[string]*lvs.Table{
		"plain":      table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1), server(2, 1)),
		"persistent": persistent(table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1), server(2, 1)), 50),
	} {
		install(t, p, rules)
		for n, want := range open(t, p, 0, 6) {
			before, err := p.Connections()
			if err != nil {
				t.Fatal(err)
			}
			o := send(t, p, icmpError(3, 4, client(n), 8))
			if got, _ := o.chosen(); got != want || o.verdict != bpfVerdictVERDICT_FORWARD_RELATED {
				t.Errorf("%s: about client %d: %v to %v, is at %v", name, n, o.verdict, got, want)
			}
			if after, err := p.Connections(); err != nil || len(after) != len(before) {
				t.Errorf("%s: %d connections, were %d: %v", name, len(after), len(before), err)
			}
		}
	}
	install(t, p, table6(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1), server(2, 1)))
	for n := range 6 {
		client := netip.AddrPortFrom(netip.MustParseAddr("2001:db8:99::1"), uint16(1000+n))
		want, _ := send(t, p, tcpFrame6(client.String(), "S")).chosen()
		inner := newFrame(lvs.TCP, netip.AddrPortFrom(vip6, 80), client).flags("A").bytes()[14:]
		f := newFrame(lvs.Protocol(58), netip.MustParseAddrPort("[2001:db8:77::1]:0"), netip.AddrPortFrom(vip6, 0))
		f.payload = append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, inner[:48]...)
		o := send(t, p, f.bytes())
		if got, _ := o.chosen(); got != want || o.verdict != bpfVerdictVERDICT_FORWARD_RELATED {
			t.Errorf("IPv6: %v to %v, is at %v", o.verdict, got, want)
		}
	}
}

// reset installs rr over two servers, forgets connections and earlier settings.
func reset(t *testing.T, p *Plane) {
	t.Helper()
	install(t, p, lvs.NewTable())
	if err := p.AdvanceClock(2000 * time.Second); err != nil { // the last row's connections end
		t.Fatal(err)
	}
	for n := range 2 {
		resolve(t, p, rip(n))
	}
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1)))
	for what := range p.maps.Allowances.MaxEntries() {
		if err := p.maps.Allowances.Put(what, make([]bpfAllowance, cpus(t))); err != nil {
			t.Fatal(err)
		}
	}
}

// exhaustReplies uses up what may be answered this second.
func exhaustReplies(t *testing.T, p *Plane) {
	t.Helper()
	exhaust(t, p, 0, 1000)
}

// exhaust uses up one of the program's allowances (bpf/maps.h).
func exhaust(t *testing.T, p *Plane, what, all uint32) {
	t.Helper()
	// The allowance is of one second: be at its beginning.
	start, err := p.seconds()
	if err != nil {
		t.Fatal(err)
	}
	now := start
	for now == start {
		time.Sleep(time.Millisecond)
		if now, err = p.seconds(); err != nil {
			t.Fatal(err)
		}
	}
	used := make([]bpfAllowance, cpus(t))
	for i := range used {
		used[i] = bpfAllowance{Second: now, Used: all}
	}
	if err := p.maps.Allowances.Put(what, used); err != nil {
		t.Fatal(err)
	}
}

// checkForwarded demands that nothing changed but both MAC addresses, the TTL
// and the header's checksum.
func checkForwarded(t *testing.T, name string, in, out []byte) {
	t.Helper()
	want := bytes.Clone(in)
	copy(want[0:6], serverMAC(rip(0)))
	if out[5] != want[5] {
		copy(want[0:6], serverMAC(rip(1)))
	}
	copy(want[6:12], ownMAC)
	want[22]--
	ipSum(want)
	if !bytes.Equal(out, want) {
		t.Errorf("%s: sent\n% x, want\n% x", name, out, want)
	}
}

// checkReply demands an ICMP error to the client by the way it came, quoting
// the packet's IP header and 8 bytes.
func checkReply(t *testing.T, name string, in []byte, o outcome) {
	t.Helper()
	got := gopacket.NewPacket(o.out, layers.LayerTypeEthernet, gopacket.Default)
	eth, _ := got.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	ip, _ := got.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	icmp, _ := got.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if icmp == nil {
		t.Errorf("%s: not ICMP: % x", name, o.out)
		return
	}
	want := layers.CreateICMPv4TypeCode(3, 3)
	switch o.verdict {
	case bpfVerdictVERDICT_REPLY_TTL:
		want = layers.CreateICMPv4TypeCode(11, 0)
	case bpfVerdictVERDICT_REPLY_TOO_BIG:
		want = layers.CreateICMPv4TypeCode(3, 4)
		if icmp.Seq != 1000 { // where the MTU is
			t.Errorf("%s: says that %d bytes would pass", name, icmp.Seq)
		}
	}
	if !bytes.Equal(eth.DstMAC, in[6:12]) || !bytes.Equal(eth.SrcMAC, in[0:6]) || icmp.TypeCode != want ||
		!ip.DstIP.Equal(net.IP(in[26:30])) || !ip.SrcIP.Equal(net.IP(in[30:34])) || ip.TTL != 64 {
		t.Errorf("%s: answered %v", name, got)
	}
	quoted := in[14 : 14+int(in[14]&0xf)*4+8]
	if !bytes.Equal(icmp.Payload, quoted) {
		t.Errorf("%s: quotes % x, want % x", name, icmp.Payload, quoted)
	}
	fixed := edit(o.out, ipSum)
	if !bytes.Equal(fixed, o.out) || int(ip.Length) != len(o.out)-14 {
		t.Errorf("%s: IP header % x is wrong", name, o.out[14:34])
	}
	var sum uint32
	for i := 34; i < len(o.out); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(o.out[i:]))
	}
	if sum = sum>>16 + sum&0xffff; uint16(sum+sum>>16) != 0xffff {
		t.Errorf("%s: ICMP checksum is wrong", name)
	}
}

// FuzzPacket feeds any bytes to the program. It must not abort, must give
// exactly one verdict, and must not change a packet in any other way than its
// verdict says.
func FuzzPacket(f *testing.F) {
	for _, flags := range []string{"S", "A", "FA", "R", "SA", ""} {
		f.Add(tcpFrame("10.0.0.1:1000", flags))
	}
	f.Add(udpFrame("10.0.0.1:1000"))
	f.Add(sctpFrame(netip.MustParseAddrPort("10.0.0.1:1000"), chunk(chunkCookieEcho, 8), chunk(chunkAbort, 0)))
	for _, piece := range pieces(udpFrame("10.0.0.1:1000"), 8) {
		f.Add(piece)
	}
	f.Add(newFrame(lvs.TCP, netip.MustParseAddrPort("1.2.3.4:5"), netip.AddrPortFrom(vip, 443)).flags("S").bytes())
	var planes []*Plane
	for _, mode := range []Mode{Generic, TC} {
		p := newPlane(f, inMode(mode))
		install(f, p, table(lvs.TCP, lvs.WeightedLeastConnection, server(0, 1), server(1, 3)))
		planes = append(planes, p)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 14 || len(in) > 3000 {
			t.Skip("a test run takes no such frame")
		}
		for _, p := range planes {
			if p.takes(in) {
				checkAnything(t, in, send(t, p, in))
			}
		}
	})
}

func checkAnything(t *testing.T, in []byte, o outcome) {
	switch verdictTexts()[o.verdict].action {
	case actionForward:
		if addr, ok := o.chosen(); !ok || (addr != rip(0) && addr != rip(1)) {
			t.Errorf("forwarded to nobody: %+v", o)
		}
		// A wrong checksum stays as wrong as it was.
		if len(o.out) != len(in) || !bytes.Equal(o.out[26:], in[26:]) || o.out[22] != in[22]-1 || !bytes.Equal(o.out[12:22], in[12:22]) {
			t.Errorf("forwarded % x as % x", in, o.out)
		}
	case actionPass:
		if o.action != xdpPass || !bytes.Equal(o.out, in) {
			t.Errorf("passed % x as % x", in, o.out)
		}
	case actionDrop:
		if o.verdict == bpfVerdictVERDICT_ABORTED || o.verdict == bpfVerdictVERDICT_CONTINUE {
			t.Errorf("aborted by % x", in)
		}
	}
}
