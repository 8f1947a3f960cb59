// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// The chunk types of RFC 9260, 3.2.
const (
	chunkData             = 0
	chunkInit             = 1
	chunkInitAck          = 2
	chunkSack             = 3
	chunkHeartbeat        = 4
	chunkHeartbeatAck     = 5
	chunkAbort            = 6
	chunkShutdown         = 7
	chunkShutdownAck      = 8
	chunkError            = 9
	chunkCookieEcho       = 10
	chunkCookieAck        = 11
	chunkECNEcho          = 12
	chunkCWR              = 13
	chunkShutdownComplete = 14
)

// chunk is one with so many bytes of content, padded as it has to be.
func chunk(kind byte, content int) []byte {
	b := make([]byte, (4+content+3)&^3)
	b[0] = kind
	binary.BigEndian.PutUint16(b[2:], uint16(4+content))
	return b
}

// sctpPacket is the common header with a right CRC32c, and these chunks.
func sctpPacket(from, to uint16, chunks ...[]byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = append(b, 1, 2, 3, 4, 0, 0, 0, 0)
	b = append(b, bytes.Join(chunks, nil)...)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// sctpFrame is one to the VIP's port 80, of the family that the client has.
func sctpFrame(client netip.AddrPort, chunks ...[]byte) []byte {
	to := netip.AddrPortFrom(vip, 80)
	if client.Addr().Is6() {
		to = netip.AddrPortFrom(vip6, 80)
	}
	f := newFrame(lvs.SCTP, client, to)
	f.payload = sctpPacket(client.Port(), 80, chunks...)
	return f.bytes()
}

// rulesFunc is table or table6.
type rulesFunc func(lvs.Protocol, lvs.Scheduler, ...lvs.RealServer) *lvs.Table

// bothFamilies runs a test with the program for XDP and with the one for tc, with
// IPv4 and with IPv6: what a family differs in is its table and its clients.
func bothFamilies(t *testing.T, test func(t *testing.T, p *Plane, table rulesFunc, client func(n int) netip.AddrPort)) {
	t.Helper()
	eachProgram(t, func(t *testing.T, p *Plane) {
		t.Run("IPv4", func(t *testing.T) {
			test(t, p, table, func(n int) netip.AddrPort { return netip.MustParseAddrPort(client(n)) })
		})
		t.Run("IPv6", func(t *testing.T) {
			install(t, p, lvs.NewTable())
			test(t, p, table6, func(n int) netip.AddrPort {
				return netip.AddrPortFrom(netip.MustParseAddr("2001:db8:99::1"), uint16(1024+n))
			})
		})
	})
}

// What a real kernel has (ip_vs_proto_sctp.c): its states, how they are called in
// listings and how long they last, and where each event leads from each of them,
// if packets of one side only are seen.
const (
	kernelStates = "NO I1 IN CS CR CW CO CE ES SS SR SA RJ CL"
	kernelNames  = "NONE INIT1 INIT C-SENT C-REPLIED C-WAIT COOKIE C-ECHOED ESTABLISHED S-SENT S-RECEIVED S-ACK-SENT REJECTED CLOSED"
	kernelLives  = "2 4 61 61 61 61 61 61 900 61 61 61 4 61"
)

// leads says where a chunk leads from a state. Any other one is as DATA.
func leads(kind byte, from string) string {
	rows := map[byte]string{
		chunkData:             "ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL",
		chunkInit:             "I1 IN IN IN IN IN CO CE ES SS SR SA IN IN",
		chunkInitAck:          "CE CE CE CE CE CE CO CE ES SS SR SA RJ CL",
		chunkCookieEcho:       "ES ES ES ES ES ES CO CE ES SS SR SA RJ CL",
		chunkCookieAck:        "ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL",
		chunkShutdown:         "SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL",
		chunkShutdownAck:      "CL IN IN CS CR CW CO CE CL CL SR CL RJ CL",
		chunkShutdownComplete: "CL CL CL CL CL CW CO CE ES SS CL CL RJ CL",
		chunkError:            "CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL",
		chunkAbort:            "CL CL CL CL CL RJ CL CL CL CL CL CL CL CL",
	}
	row, ok := rows[kind]
	if !ok {
		row = rows[chunkData]
	}
	return strings.Fields(row)[slices.Index(strings.Fields(kernelStates), from)]
}

// allChunks has all that RFC 9260 names, and of later ones and of none some.
func allChunks() []byte {
	kinds := []byte{15, 16, 17, 63, 128, 130, 192, 193, 255}
	for k := range byte(15) {
		kinds = append(kinds, k)
	}
	return kinds
}

// sctpWays finds the states that there are, each with chunks that lead to it.
func sctpWays() map[string][]byte {
	ways := map[string][]byte{"NO": {}}
	for open := []string{"NO"}; len(open) > 0; {
		from := open[0]
		open = open[1:]
		for _, k := range allChunks() {
			if from == "NO" && k == chunkAbort {
				continue // it is not remembered
			}
			if to := leads(k, from); ways[to] == nil {
				ways[to] = append(slices.Clone(ways[from]), k)
				open = append(open, to)
			}
		}
	}
	return ways
}

// loadOf is ActiveConn and InActConn of the one server that there is.
func loadOf(t *testing.T, p *Plane) uint64 {
	t.Helper()
	status, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	s := status[0].Servers[0]
	return uint64(s.Active) + uint64(s.Inactive)<<32
}

// TestSCTPStates sends every kind of chunk in every state that there is, and
// demands the kernel's next state, its name, its life, and what counts as active.
func TestSCTPStates(t *testing.T) {
	ways := sctpWays()
	if len(ways) != 7 {
		t.Errorf("%d states can be reached: %v", len(ways), ways)
	}
	state := func(s string) (name lvs.State, life time.Duration) {
		i := slices.Index(strings.Fields(kernelStates), s)
		var seconds int
		fmt.Sscan(strings.Fields(kernelLives)[i], &seconds)
		return lvs.State(strings.Fields(kernelNames)[i]), time.Duration(seconds) * time.Second
	}
	bothFamilies(t, func(t *testing.T, p *Plane, table rulesFunc, client func(int) netip.AddrPort) {
		install(t, p, table(lvs.SCTP, lvs.RoundRobin, server(0, 1)))
		n := 0
		for from, way := range ways {
			for _, k := range allChunks() {
				n++
				before := loadOf(t, p)
				for _, w := range way {
					send(t, p, sctpFrame(client(n), chunk(w, 20)))
				}
				o := send(t, p, sctpFrame(client(n), chunk(k, 20)))
				got, err := p.Connections()
				if err != nil {
					t.Fatal(err)
				}
				got = slices.DeleteFunc(got, func(c lvs.Connection) bool { return c.Client != client(n) })
				to, want := leads(k, from), bpfVerdictVERDICT_FORWARD_CONNECTION
				switch {
				case from == "NO" && k == chunkAbort:
					if o.verdict != bpfVerdictVERDICT_FORWARD_UNTRACKED || len(got) != 0 {
						t.Errorf("ABORT of nothing: %v, remembered %v", o.verdict, got)
					}
					continue
				case from == "NO" && k == chunkInit:
					want = bpfVerdictVERDICT_FORWARD_NEW
				case from == "NO":
					want = bpfVerdictVERDICT_FORWARD_ADOPTED
				case from == "CL" && k == chunkInit: // it begins anew
					to, want = leads(k, "NO"), bpfVerdictVERDICT_FORWARD_NEW
				}
				name, life := state(to)
				if o.verdict != want || len(got) != 1 || got[0].State != name || got[0].Protocol != lvs.SCTP ||
					got[0].Expires > life || got[0].Expires < life-2*time.Second {
					t.Errorf("chunk %d in %s (after %v): %v, now %+v; want %v, %s for %v", k, from, way, o.verdict, got, want, name, life)
				}
				one := uint64(1) << 32
				if to == "ES" {
					one = 1
				}
				if more := loadOf(t, p) - before; more != one {
					t.Errorf("chunk %d in %s: ActiveConn and InActConn have %#x more, want %#x", k, from, more, one)
				}
			}
		}
	})
}

// TestSCTPChunks: what a packet is by its chunks, one behind the other.
func TestSCTPChunks(t *testing.T) {
	const untracked, adopted, fresh, bad = bpfVerdictVERDICT_FORWARD_UNTRACKED, bpfVerdictVERDICT_FORWARD_ADOPTED,
		bpfVerdictVERDICT_FORWARD_NEW, bpfVerdictVERDICT_PASS_MALFORMED
	one := func(b byte) []byte { return []byte{b, 0, 0, 3} } // shorter than its header
	rows := map[string]struct {
		chunks [][]byte
		want   bpfVerdict
	}{
		"INIT":                              {[][]byte{chunk(chunkInit, 16)}, fresh},
		"INIT, its header only":             {[][]byte{chunk(chunkInit, 0)}, fresh},
		"INIT and ABORT":                    {[][]byte{chunk(chunkInit, 16), chunk(chunkAbort, 0)}, fresh},
		"ABORT":                             {[][]byte{chunk(chunkAbort, 0)}, untracked},
		"ABORT and INIT":                    {[][]byte{chunk(chunkAbort, 0), chunk(chunkInit, 16)}, untracked},
		"cookie":                            {[][]byte{chunk(chunkCookieEcho, 200)}, adopted},
		"cookie and INIT":                   {[][]byte{chunk(chunkCookieEcho, 200), chunk(chunkInit, 16)}, adopted},
		"cookie and DATA":                   {[][]byte{chunk(chunkCookieEcho, 200), chunk(chunkData, 100)}, adopted},
		"cookie and ABORT":                  {[][]byte{chunk(chunkCookieEcho, 200), chunk(chunkAbort, 0)}, untracked},
		"cookie of odd length and ABORT":    {[][]byte{chunk(chunkCookieEcho, 201), chunk(chunkAbort, 0)}, untracked},
		"empty cookie and ABORT":            {[][]byte{chunk(chunkCookieEcho, 0), chunk(chunkAbort, 0)}, untracked},
		"long cookie and ABORT":             {[][]byte{chunk(chunkCookieEcho, 1300), chunk(chunkAbort, 0)}, untracked},
		"cookie ACK and ABORT":              {[][]byte{chunk(chunkCookieAck, 0), chunk(chunkAbort, 0)}, untracked},
		"cookie, DATA and ABORT":            {[][]byte{chunk(chunkCookieEcho, 8), chunk(chunkData, 8), chunk(chunkAbort, 0)}, adopted},
		"DATA and ABORT":                    {[][]byte{chunk(chunkData, 8), chunk(chunkAbort, 0)}, adopted},
		"cookie shorter than can be, ABORT": {[][]byte{one(chunkCookieEcho), chunk(chunkAbort, 0)}, adopted},
		"cookie that ends beyond":           {[][]byte{edit(chunk(chunkCookieEcho, 8), func(b []byte) { b[2] = 255 })}, adopted},
		"cookie and a part of an ABORT":     {[][]byte{chunk(chunkCookieEcho, 8), chunk(chunkAbort, 0)[:3]}, adopted},
		"no chunk":                          {nil, bad},
		"three bytes of a chunk":            {[][]byte{chunk(chunkInit, 0)[:3]}, bad},
	}
	bothFamilies(t, func(t *testing.T, p *Plane, table rulesFunc, client func(int) netip.AddrPort) {
		install(t, p, table(lvs.SCTP, lvs.RoundRobin, server(0, 1)))
		n := 0
		for name, row := range rows {
			n++
			in := sctpFrame(client(n), row.chunks...)
			if o := send(t, p, in); o.verdict != row.want {
				t.Errorf("%s: %v, want %v", name, o.verdict, row.want)
			}
			// What is behind the packet is padding, and no chunk.
			if row.want == untracked {
				continue
			}
			in = sctpFrame(client(1000+n), row.chunks...)
			if o := send(t, p, append(in, bytes.Repeat(chunk(chunkAbort, 0), 4)...)); o.verdict != row.want {
				t.Errorf("%s, with padding: %v", name, o.verdict)
			}
		}
	})
}

// TestSCTPStray: INIT alone is scheduled; the rest goes by the policy.
func TestSCTPStray(t *testing.T) {
	bothFamilies(t, func(t *testing.T, p *Plane, table rulesFunc, client func(int) netip.AddrPort) {
		for policy, want := range map[lvs.Stray]bpfVerdict{
			lvs.StrayAdopt: bpfVerdictVERDICT_FORWARD_ADOPTED,
			lvs.StrayPass:  bpfVerdictVERDICT_PASS_STRAY,
			lvs.StrayDrop:  bpfVerdictVERDICT_DROP_STRAY,
			lvs.StrayReset: bpfVerdictVERDICT_DROP_STRAY, // SCTP has none
		} {
			install(t, p, lvs.NewTable())
			rules := table(lvs.SCTP, lvs.RoundRobin, server(0, 1), server(1, 1), server(2, 1))
			install(t, p, withPolicy(rules, lvs.Policy{Stray: policy}))
			for n, k := range allChunks() {
				want := want
				switch {
				case k == chunkInit:
					want = bpfVerdictVERDICT_FORWARD_NEW
				case k == chunkAbort && policy == lvs.StrayAdopt:
					want = bpfVerdictVERDICT_FORWARD_UNTRACKED
				}
				at := client(1000*int(policy) + n)
				o := send(t, p, sctpFrame(at, chunk(k, 20)))
				if o.verdict != want {
					t.Errorf("policy %d, chunk %d: %v, want %v", policy, k, o.verdict, want)
				}
				// What is adopted is where a director that knows no more has it.
				to, _ := o.chosen()
				if want == bpfVerdictVERDICT_FORWARD_ADOPTED {
					if abort, _ := send(t, p, sctpFrame(at, chunk(chunkAbort, 0))).chosen(); abort != to {
						t.Errorf("adopted by %v, its ABORT went to %v", to, abort)
					}
				}
			}
		}
	})
}

// TestSCTPVerdicts is what SCTP has in common with TCP: rows of TestVerdicts.
func TestSCTPVerdicts(t *testing.T) {
	at := netip.MustParseAddrPort("10.0.0.1:1000")
	init := sctpFrame(at, chunk(chunkInit, 16))
	rules := func(servers ...lvs.RealServer) func(*testing.T, *Plane) {
		return func(t *testing.T, p *Plane) { install(t, p, table(lvs.SCTP, lvs.RoundRobin, servers...)) }
	}
	two := rules(server(0, 1), server(1, 1))
	after := func(setup func(*testing.T, *Plane), frames ...[]byte) func(*testing.T, *Plane) {
		return func(t *testing.T, p *Plane) {
			setup(t, p)
			for _, in := range frames {
				send(t, p, in)
			}
		}
	}
	parts := pieces(sctpFrame(at, chunk(chunkInit, 400)), 256)
	about := func(quoted int) []byte {
		inner := newFrame(lvs.SCTP, netip.AddrPortFrom(vip, 80), at)
		inner.payload = sctpPacket(80, at.Port(), chunk(chunkData, 40))
		f := newFrame(lvs.Protocol(1), netip.MustParseAddrPort("198.51.100.1:0"), netip.AddrPortFrom(vip, 0))
		f.payload = append([]byte{3, 4, 0, 0, 0, 0, 5, 0}, inner.bytes()[14:14+20+quoted]...)
		return f.bytes()
	}
	rows := []verdictRow{
		{"new", two, init, bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"no service", nil, init, bpfVerdictVERDICT_PASS_NOT_SERVED, xdpPass},
		{"all servers quiesced", rules(server(0, 0)), init, bpfVerdictVERDICT_REPLY_NO_SERVER, xdpTX},
		{"no server", rules(), init, bpfVerdictVERDICT_REPLY_NO_SERVER, xdpTX},
		{"TTL 1", two, edit(init, func(b []byte) { b[22] = 1; ipSum(b) }), bpfVerdictVERDICT_REPLY_TTL, xdpTX},
		{"longer than the way takes", func(t *testing.T, p *Plane) { two(t, p); narrowWay(t, p) },
			sctpFrame(at, chunk(chunkData, 1200)), bpfVerdictVERDICT_REPLY_TOO_BIG, xdpTX},
		{"no room for the header", two, edit(init, func(b []byte) { b[17] = 31; ipSum(b) }), bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"first fragment", two, parts[0], bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"last fragment", after(two, parts[0]), parts[1], bpfVerdictVERDICT_FORWARD_FRAGMENT, xdpTX},
		{"fragment without a chunk", two, pieces(init, 8)[0], bpfVerdictVERDICT_PASS_MALFORMED, xdpPass},
		{"an error about it", after(two, init), about(8), bpfVerdictVERDICT_FORWARD_RELATED, xdpTX},
		{"an error about what nobody knows", two, about(8), bpfVerdictVERDICT_FORWARD_RELATED_TO_ALL, xdpTX},
		{"another INIT while it is open", after(two, init, sctpFrame(at, chunk(chunkCookieEcho, 8))), init, bpfVerdictVERDICT_FORWARD_CONNECTION, xdpTX},
		{"INIT when it is closed", after(two, init, sctpFrame(at, chunk(chunkAbort, 0))), init, bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"DATA when it is closed", after(two, init, sctpFrame(at, chunk(chunkAbort, 0))), sctpFrame(at, chunk(chunkData, 8)), bpfVerdictVERDICT_FORWARD_CONNECTION, xdpTX},
		{"INIT when a persistent one is closed", after(func(t *testing.T, p *Plane) {
			install(t, p, persistent(table(lvs.SCTP, lvs.RoundRobin, server(0, 1), server(1, 1)), 60))
		}, init, sctpFrame(at, chunk(chunkAbort, 0))), init, bpfVerdictVERDICT_FORWARD_CONNECTION, xdpTX},
		{"INIT when its server was removed", func(t *testing.T, p *Plane) {
			rules(server(1, 1))(t, p)
			send(t, p, init)
			rules(server(0, 1))(t, p)
		}, init, bpfVerdictVERDICT_FORWARD_NEW, xdpTX},
		{"DATA when its server was removed", func(t *testing.T, p *Plane) {
			rules(server(1, 1))(t, p)
			send(t, p, init)
			rules(server(0, 1))(t, p)
		}, sctpFrame(at, chunk(chunkData, 8)), bpfVerdictVERDICT_FORWARD_ADOPTED, xdpTX},
	}
	eachProgram(t, func(t *testing.T, p *Plane) { verdictRows(t, p, rows) })
}

// TestSCTPRelated: an error goes to the server whose packet it is about.
func TestSCTPRelated(t *testing.T) {
	bothFamilies(t, func(t *testing.T, p *Plane, table rulesFunc, client func(int) netip.AddrPort) {
		install(t, p, table(lvs.SCTP, lvs.RoundRobin, server(0, 1), server(1, 1), server(2, 1)))
		for n := range 6 {
			at := client(n)
			want, _ := send(t, p, sctpFrame(at, chunk(chunkInit, 16))).chosen()
			our, icmp, header, router := vip, lvs.Protocol(1), 20, "198.51.100.1:0"
			if at.Addr().Is6() {
				our, icmp, header, router = vip6, 58, 40, "[2001:db8:77::1]:0"
			}
			inner := newFrame(lvs.SCTP, netip.AddrPortFrom(our, 80), at)
			inner.payload = sctpPacket(80, at.Port(), chunk(chunkData, 40))
			f := newFrame(icmp, netip.MustParseAddrPort(router), netip.AddrPortFrom(our, 0))
			f.payload = append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, inner.bytes()[14:14+header+8]...)
			o := send(t, p, f.bytes())
			if got, _ := o.chosen(); got != want || o.verdict != bpfVerdictVERDICT_FORWARD_RELATED {
				t.Errorf("client %d: %v to %v, is at %v", n, o.verdict, got, want)
			}
		}
	})
}

// TestSCTPGSO: what the kernel has put together is several packets, none of which
// is longer than its sender knows to be right.
func TestSCTPGSO(t *testing.T) {
	p := newPlane(t, inMode(TC))
	install(t, p, table(lvs.SCTP, lvs.RoundRobin, server(0, 1), server(1, 1)))
	narrowWay(t, p)
	whole := sctpFrame(netip.MustParseAddrPort("10.0.0.1:1000"), chunk(chunkData, 1000), chunk(chunkData, 1000))
	before := verdictCounts(t, p)
	o := runWith(t, p, ebpf.RunOptions{Data: whole, DataOut: make([]byte, 3000), Context: &skb{Segment: 0xffff, Segments: 2}})
	if _, ok := o.chosen(); !ok || len(o.out) != len(whole) {
		t.Errorf("not sent: %v", o)
	}
	after := verdictCounts(t, p)
	if n := after[bpfVerdictVERDICT_FORWARD_ADOPTED] - before[bpfVerdictVERDICT_FORWARD_ADOPTED]; n != 2 {
		t.Errorf("counted as %d packets", n)
	}
}

// TestSCTPGroup: a group of protocols lists each connection as what it is, and a
// state that has the same number in both by its own name.
func TestSCTPGroup(t *testing.T) {
	eachProgram(t, func(t *testing.T, p *Plane) {
		rules := lvs.NewTable()
		for _, protocol := range []lvs.Protocol{lvs.TCP, lvs.UDP, lvs.SCTP} {
			mustChange(rules, lvs.Change{Operation: lvs.AddMark, Mark: lvs.MarkRule{Mark: 7, Protocol: protocol, Addr: vip, First: 80, Last: 80}})
		}
		s := lvs.VirtualService{ServiceID: lvs.ServiceID{Mark: 7}, Scheduler: lvs.RoundRobin, Flags: lvs.FlagPersistent, Timeout: 60, Netmask: 0xffffffff}
		mustChange(rules, lvs.Change{Operation: lvs.AddService, Service: s})
		for n := range 2 {
			r := server(n, 1)
			r.Port = 0
			mustChange(rules, lvs.Change{Operation: lvs.AddServer, Service: s, Server: r})
		}
		install(t, p, rules)
		at := netip.MustParseAddrPort("10.0.0.1:1000")
		one, _ := send(t, p, tcpFrame(at.String(), "S")).chosen()
		send(t, p, tcpFrame(at.String(), "R")) // SYN_RECV stays
		for _, in := range [][]byte{udpFrame(at.String()), sctpFrame(at, chunk(chunkInit, 16)), sctpFrame(at, chunk(chunkInit, 16))} {
			if to, _ := send(t, p, in).chosen(); to != one {
				t.Errorf("a client of a persistent group is with %v and %v", one, to)
			}
		}
		states := map[lvs.Protocol]lvs.State{}
		list, err := p.Connections()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			states[c.Protocol] = c.State
		}
		want := map[lvs.Protocol]lvs.State{lvs.TCP: lvs.StateSynRecv, lvs.UDP: lvs.StateUDP, lvs.SCTP: lvs.StateInit, lvs.ProtocolNone: lvs.StateNone}
		if len(list) != 4 || fmt.Sprint(states) != fmt.Sprint(want) {
			t.Errorf("listed %v, want %v", list, want)
		}
		send(t, p, sctpFrame(at, chunk(chunkCookieEcho, 16)))
		if list, _ = p.Connections(); !slices.ContainsFunc(list, func(c lvs.Connection) bool { return c.State == lvs.StateAssured }) {
			t.Errorf("a template with an association is not ASSURED: %v", list)
		}
	})
}
