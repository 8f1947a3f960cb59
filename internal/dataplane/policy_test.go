// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// checkReset demands the RST that RFC 9293, 3.10.7.1 has for a packet of no
// connection, made anew by gopacket and compared to the byte, checksums included.
func checkReset(t *testing.T, name string, in []byte, o outcome) {
	t.Helper()
	packet := gopacket.NewPacket(in, layers.LayerTypeEthernet, gopacket.Default)
	of, _ := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if of == nil {
		t.Fatalf("%s: no TCP packet: %v", name, packet)
	}
	from := func(a gopacket.Endpoint, port layers.TCPPort) netip.AddrPort {
		addr, _ := netip.AddrFromSlice(a.Raw())
		return netip.AddrPortFrom(addr, uint16(port))
	}
	flow := packet.NetworkLayer().NetworkFlow()
	want := newFrame(lvs.TCP, from(flow.Dst(), of.DstPort), from(flow.Src(), of.SrcPort)).flags("R")
	want.eth.SrcMAC, want.eth.DstMAC = in[0:6], in[6:12]
	want.ip.Id, want.ip.Flags = 0, layers.IPv4DontFragment
	want.tcp.Window = 0
	if of.ACK {
		want.tcp.Seq = of.Ack
	} else {
		want.tcp.ACK = true
		want.tcp.Ack = of.Seq + uint32(len(of.Payload))
		if of.FIN {
			want.tcp.Ack++
		}
	}
	length := 14 + 20 + 20 // gopacket adds Ethernet's padding
	if want.six {
		length += 20
	}
	if !bytes.Equal(o.out, want.bytes()[:length]) {
		t.Errorf("%s: answered\n% x, want\n% x", name, o.out, want.bytes()[:length])
	}
}

// TestReset: the numbers of a reset, of packets of all kinds, also of one that
// stands for several.
func TestReset(t *testing.T) { eachProgram(t, testReset) }

func testReset(t *testing.T, p *Plane) {
	reset := lvs.Policy{Stray: lvs.StrayReset}
	install(t, p, withPolicy(table(lvs.TCP, lvs.RoundRobin, server(0, 1)), reset))
	try := func(client string, to netip.Addr) {
		t.Helper()
		for _, c := range []struct {
			name, flags string
			seq, ack    uint32
			payload     int
			options     int
		}{
			{"ACK", "A", 1000, 0xdeadbeef, 0, 0},
			{"data", "PA", 1000, 7, 1400, 12},
			{"FIN", "FA", 1000, 7, 0, 0},
			{"data without ACK", "P", 0xfffffff0, 0, 33, 0},
			{"FIN without ACK", "F", 0x01020304, 0, 5, 40},
			{"nothing", "", 9, 0, 0, 0},
		} {
			f := newFrame(lvs.TCP, netip.MustParseAddrPort(client), netip.AddrPortFrom(to, 80)).flags(c.flags)
			f.tcp.Seq, f.tcp.Ack, f.payload = c.seq, c.ack, make([]byte, c.payload)
			for range c.options {
				f.tcp.Options = append(f.tcp.Options, layers.TCPOption{OptionType: layers.TCPOptionKindNop})
			}
			in := f.bytes()
			o := send(t, p, in)
			if o.verdict != bpfVerdictVERDICT_REPLY_RESET || !o.did(p, xdpTX) {
				t.Errorf("%s: %v", c.name, o.verdict)
				continue
			}
			checkReset(t, c.name, in, o)
			if p.attachments[0].Mode == TC && c.payload > 1000 {
				checkReset(t, c.name+" of several", in, runGSO(t, p, in, 500))
			}
		}
	}
	try("10.0.0.1:1000", vip)
	// As many as there are packets: it is no ICMP error.
	exhaustReplies(t, p)
	try("10.255.254.253:65535", vip)
	install(t, p, withPolicy(persistent(table(lvs.TCP, lvs.RoundRobin, server(0, 1)), 50), reset))
	try("10.0.0.1:1000", vip)
	install(t, p, withPolicy(table6(lvs.TCP, lvs.RoundRobin, server(0, 1)), reset))
	try("[2001:db8:99::1]:1000", vip6)
	try("[ffff:ffff:ffff:fffe:ffff:ffff:ffff:fffd]:65535", vip6)
	if conns, err := p.Connections(); err != nil || len(conns) != 0 {
		t.Errorf("connections %v: %v", conns, err)
	}
}

// stateOf is the state of a client's connection.
func stateOf(t *testing.T, p *Plane, client string) lvs.State {
	t.Helper()
	all, err := p.Connections()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Client.String() == client && c.Client.Port() != 0 {
			return c.State
		}
	}
	return ""
}

// TestSecureTCP: of the table of secure_tcp only the row of SYN is another one.
func TestSecureTCP(t *testing.T) { eachProgram(t, testSecureTCP) }

func testSecureTCP(t *testing.T, p *Plane) {
	rows := []struct {
		flags         []string // of one packet after the other
		plain, secure lvs.State
	}{
		{[]string{"S"}, lvs.StateSynRecv, lvs.StateSynAck},
		{[]string{"S", "S"}, lvs.StateSynRecv, lvs.StateSynAck},
		{[]string{"SA"}, lvs.StateSynRecv, lvs.StateSynAck},
		{[]string{"S", "A"}, lvs.StateEstablished, lvs.StateEstablished},
		{[]string{"S", "A", "S"}, lvs.StateEstablished, lvs.StateEstablished},
		{[]string{"S", "F"}, lvs.StateTimeWait, lvs.StateTimeWait},
		{[]string{"S", "R"}, lvs.StateSynRecv, lvs.StateClose},
		{[]string{"S", "A", "F"}, lvs.StateFinWait, lvs.StateFinWait},
		{[]string{"S", "A", "F", "S"}, lvs.StateSynRecv, lvs.StateSynAck},
		{[]string{"S", "A", "R", "S"}, lvs.StateSynRecv, lvs.StateSynAck},
		{[]string{"S", "F", "S"}, lvs.StateSynRecv, lvs.StateSynAck},
		{[]string{"A"}, lvs.StateEstablished, lvs.StateEstablished},
	}
	never, _ := lvs.ConnReuseOf(0) // so that a SYN goes by the table
	n := 0
	for _, secure := range []bool{false, true} {
		plain := table(lvs.TCP, lvs.RoundRobin, server(0, 1))
		for _, rules := range []*lvs.Table{plain, persistent(table(lvs.TCP, lvs.RoundRobin, server(0, 1)), 50)} {
			install(t, p, withPolicy(rules, lvs.Policy{SecureTCP: secure, ConnReuse: never}))
			for _, r := range rows {
				n++
				for _, f := range r.flags {
					send(t, p, tcpFrame(client(n), f))
				}
				want := r.plain
				if secure {
					want = r.secure
				}
				if got := stateOf(t, p, client(n)); got != want {
					t.Errorf("secure %v, after %v: %s, want %s", secure, r.flags, got, want)
				}
			}
		}
	}
	// Of SYNACK as of SYN_RECV, they are active until they end, after 120 s.
	status, err := p.Status()
	if err != nil || status[0].Servers[0].Active == 0 {
		t.Errorf("active %d: %v", status[0].Servers[0].Active, err)
	}
}

// TestConnReuse: which connections a SYN opens anew, by mode; never one of a
// template, and whatever the mode if the server is quiesced, unless
// expire_nodest_conn is 0.
func TestConnReuse(t *testing.T) { eachProgram(t, testConnReuse) }

func testConnReuse(t *testing.T, p *Plane) {
	ends := map[string][]string{"established": {"S", "A"}, "FIN_WAIT": {"S", "A", "F"}, "CLOSE": {"S", "A", "R"}, "TIME_WAIT": {"S", "F"}}
	anew := map[string]uint8{"established": 4, "FIN_WAIT": 2, "CLOSE": 1, "TIME_WAIT": 1} // from this mode on
	n := 0
	try := func(policy lvs.Policy, sticky bool, weight int32, want func(end string) bool) {
		t.Helper()
		rules := func(first, second int32) *lvs.Table {
			rules := table(lvs.TCP, lvs.RoundRobin, server(0, first), server(1, second))
			if sticky {
				rules = persistent(rules, 50)
			}
			return withPolicy(rules, policy)
		}
		for end, flags := range ends {
			n++
			client := fmt.Sprintf("10.1.%d.%d:1000", n/250, n%250) // one without a template
			install(t, p, rules(1, 0))
			for _, f := range flags {
				send(t, p, tcpFrame(client, f))
			}
			install(t, p, rules(weight, 1))
			want, o := want(end), send(t, p, tcpFrame(client, "S"))
			if got := o.verdict == bpfVerdictVERDICT_FORWARD_NEW; got != want {
				t.Errorf("%q, persistent %v, weight %d: SYN in %s: %v", policy, sticky, weight, end, o.verdict)
			}
			if weight == 0 && want && o.out[5] != serverMAC(rip(1))[5] && !(sticky && policy.KeepTemplate) {
				t.Errorf("%q, persistent %v: SYN in %s: still to the quiesced server", policy, sticky, end)
			}
		}
	}
	for mode := range uint8(4) {
		reuse, _ := lvs.ConnReuseOf(mode)
		byMode := func(end string) bool { return mode >= anew[end] }
		always, never := func(string) bool { return true }, func(string) bool { return false }
		try(lvs.Policy{ConnReuse: reuse}, false, 1, byMode)
		try(lvs.Policy{ConnReuse: reuse}, true, 1, never)
		try(lvs.Policy{ConnReuse: reuse}, false, 0, always)
		try(lvs.Policy{ConnReuse: reuse}, true, 0, always)
		try(lvs.Policy{ConnReuse: reuse, KeepNodest: true}, false, 0, byMode)
		try(lvs.Policy{ConnReuse: reuse, KeepNodest: true, KeepTemplate: true}, true, 0, never)
	}
}

// TestPolicyEdit: an edit of the policy alone counts from the next packet on,
// leaves connections alone, and is there after a restart.
func TestPolicyEdit(t *testing.T) {
	o := Options{Instance: "test", PinDir: "", Interfaces: []string{"lo"}, Mode: Generic, Connections: 1 << 10}
	labtest.InNamespace(t)
	o.PinDir = bpffs(t)
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	}()
	rules := func(policy lvs.Policy) *lvs.Table {
		return withPolicy(persistent(table(lvs.TCP, lvs.RoundRobin, server(0, 1), server(1, 1)), 50), policy)
	}
	install(t, p, rules(lvs.Policy{}))
	send(t, p, tcpFrame("10.0.0.1:1000", "S"))
	for mode := range uint8(4) {
		for stray, want := range map[lvs.Stray]bpfVerdict{lvs.StrayPass: bpfVerdictVERDICT_PASS_STRAY, lvs.StrayDrop: bpfVerdictVERDICT_DROP_STRAY,
			lvs.StrayReset: bpfVerdictVERDICT_REPLY_RESET} {
			reuse, _ := lvs.ConnReuseOf(mode)
			policy := lvs.Policy{Stray: stray, ConnReuse: reuse, KeepNodest: mode == 1, KeepTemplate: mode == 2, SecureTCP: mode == 3}
			install(t, p, rules(policy))
			if o := send(t, p, tcpFrame("10.0.0.9:1000", "A")); o.verdict != want {
				t.Errorf("%q: stray packet: %v", policy, o.verdict)
			}
			if o := send(t, p, tcpFrame("10.0.0.1:1000", "A")); o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
				t.Errorf("%q: known connection: %v", policy, o.verdict)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if p, err = Open(o); err != nil {
				t.Fatal(err)
			}
			var got lvs.Policy
			for _, i := range p.installed {
				got = i.service.Policy
			}
			if got != policy {
				t.Errorf("after a restart %+v, was %+v", got, policy)
			}
		}
	}
}
