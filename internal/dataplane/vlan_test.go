// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// tagged puts a tag into a frame.
func tagged(frame []byte, ethertype, tci uint16) []byte {
	out := binary.BigEndian.AppendUint16(slices.Clone(frame[:12]), ethertype)
	out = binary.BigEndian.AppendUint16(out, tci)
	return append(out, frame[12:]...)
}

// TestVLANTestRun is every way in by every way out, of both families: what comes
// out is what it is without VLANs, but for the tag. (tc has tags beside the
// frames, where no test run puts them: e2e has TestVLANs.)
func TestVLANTestRun(t *testing.T) {
	p := vlanPlane(t)
	ins := []struct {
		name string
		tag  func([]byte) []byte
		rest uint16 // priority and drop eligibility
		pass bool
	}{
		{"untagged", bytes.Clone, 0, false},
		{"VLAN 100", func(f []byte) []byte { return tagged(f, 0x8100, 100) }, 0, false},
		{"VLAN 100, priority 5, DEI", func(f []byte) []byte { return tagged(f, 0x8100, 0xb000|100) }, 0xb000, false},
		{"priority 3", func(f []byte) []byte { return tagged(f, 0x8100, 0x6000) }, 0x6000, false},
		{"VLAN 101", func(f []byte) []byte { return tagged(f, 0x8100, 101) }, 0, true},
		{"VLAN 200, no service side", func(f []byte) []byte { return tagged(f, 0x8100, 200) }, 0, true},
		{"QinQ", func(f []byte) []byte { return tagged(tagged(f, 0x8100, 100), 0x8100, 100) }, 0, true},
		{"802.1ad", func(f []byte) []byte { return tagged(f, 0x88a8, 100) }, 0, true},
		{"802.1ad in 802.1Q", func(f []byte) []byte { return tagged(tagged(f, 0x88a8, 100), 0x8100, 100) }, 0, true},
	}
	port := 1000
	for _, six := range []bool{false, true} {
		for _, out := range []uint16{0, 100, 200} {
			for _, in := range ins {
				t.Run(fmt.Sprintf("%s to %d, IPv6 %v", in.name, out, six), func(t *testing.T) {
					port++
					frame, rip := tcpFrame(fmt.Sprintf("10.0.0.1:%d", port), "S"), rip(0)
					if six {
						frame, rip = tcpFrame6(fmt.Sprintf("[2001:db8::1]:%d", port), "S"), rip6(0)
					}
					if err := p.SetNeighbour(Neighbour{Addr: rip, Interface: loopback, VLAN: out, MAC: serverMAC(rip), Source: ownMAC}); err != nil {
						t.Fatal(err)
					}
					sent := in.tag(frame)
					o := send(t, p, sent)
					if in.pass {
						if o.verdict != bpfVerdictVERDICT_PASS_VLAN || o.action != xdpPass || !bytes.Equal(o.out, sent) {
							t.Fatalf("verdict %v, action %d, frame\n%x\nwant it as it was\n%x", o.verdict, o.action, o.out, sent)
						}
						return
					}
					want := bytes.Clone(frame)
					copy(want, serverMAC(rip))
					copy(want[6:], ownMAC)
					if six {
						want[21]--
					} else {
						want[22]--
						ipSum(want)
					}
					if out != 0 {
						want = tagged(want, 0x8100, in.rest|out)
					}
					if o.verdict != bpfVerdictVERDICT_FORWARD_NEW || o.action != xdpTX || !bytes.Equal(o.out, want) {
						t.Errorf("verdict %v, action %d, frame\n%x\nwant\n%x", o.verdict, o.action, o.out, want)
					}
				})
			}
		}
	}
}

// vlanPlane takes untagged frames and those of VLAN 100 on lo. The name of the
// VLAN's interface is lo, too: its MAC address is what counts.
func vlanPlane(t *testing.T) *Plane {
	t.Helper()
	p := newPlane(t, func(o *Options) { o.Interfaces = []string{"lo"} })
	p.mu.Lock()
	now := p.parameters
	now.Interfaces[1] = now.Interfaces[0]
	now.Interfaces[1].Vlan = 100
	err := p.setParameters(now)
	p.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	rules := table(lvs.TCP, lvs.RoundRobin, server(0, 1))
	rules.Services = append(rules.Services, table6(lvs.TCP, lvs.RoundRobin, server(0, 1)).Services...)
	install(t, p, rules)
	return p
}

// TestVLANLeftAlone: what is no service's goes to the stack as it came, its tag
// included.
func TestVLANLeftAlone(t *testing.T) {
	p := vlanPlane(t)
	other := tagged(edit(tcpFrame("10.0.0.1:1", "S"), func(f []byte) { f[37]++ }), 0x8100, 0xe000|100)
	if o := send(t, p, other); o.verdict != bpfVerdictVERDICT_PASS_NOT_SERVED || o.action != xdpPass || !bytes.Equal(o.out, other) {
		t.Errorf("another port: verdict %v, action %d\n%x\nwant\n%x", o.verdict, o.action, o.out, other)
	}
	foreign := tagged(edit(tcpFrame("10.0.0.1:1", "S"), func(f []byte) { f[0] = 2 }), 0x8100, 100)
	if o := send(t, p, foreign); o.verdict != bpfVerdictVERDICT_PASS_NOT_HOST || o.action != xdpPass || !bytes.Equal(o.out, foreign) {
		t.Errorf("another host's: verdict %v, action %d\n%x\nwant\n%x", o.verdict, o.action, o.out, foreign)
	}
	arp := tagged(edit(tcpFrame("10.0.0.1:1", "S"), func(f []byte) { f[12], f[13] = 8, 6 }), 0x8100, 100)
	if o := send(t, p, arp); o.verdict != bpfVerdictVERDICT_PASS_NOT_IP || !bytes.Equal(o.out, arp) {
		t.Errorf("ARP: verdict %v\n%x\nwant\n%x", o.verdict, o.out, arp)
	}
	short := tcpFrame("10.0.0.1:1", "S")[:16]
	short[12], short[13] = 0x81, 0
	if o := send(t, p, short); o.verdict != bpfVerdictVERDICT_PASS_VLAN || !bytes.Equal(o.out, short) {
		t.Errorf("half a tag: verdict %v\n%x\nwant\n%x", o.verdict, o.out, short)
	}
}

// TestVLANMAC: each VLAN has an address of its own on the same device.
func TestVLANMAC(t *testing.T) {
	p := vlanPlane(t)
	p.mu.Lock()
	now := p.parameters
	now.Interfaces[1].Mac = [6]uint8{2, 0, 0, 0, 1, 0}
	err := p.setParameters(now)
	p.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	plain := tcpFrame("10.0.0.1:1", "S")
	other := edit(plain, func(f []byte) { copy(f, []byte{2, 0, 0, 0, 1, 0}) })
	for what, c := range map[string]struct {
		frame []byte
		want  bpfVerdict
	}{
		"untagged to the device":   {plain, bpfVerdictVERDICT_FORWARD_NEW},
		"untagged to the VLAN":     {other, bpfVerdictVERDICT_PASS_NOT_HOST},
		"VLAN 100 to the device":   {tagged(plain, 0x8100, 100), bpfVerdictVERDICT_PASS_NOT_HOST},
		"VLAN 100 to the VLAN":     {tagged(edit(other, func(f []byte) { f[35]++ }), 0x8100, 0xe000|100), bpfVerdictVERDICT_FORWARD_NEW},
		"a priority to the device": {tagged(edit(plain, func(f []byte) { f[35] += 2 }), 0x8100, 0xe000), bpfVerdictVERDICT_FORWARD_NEW},
	} {
		if o := send(t, p, c.frame); o.verdict != c.want {
			t.Errorf("%s: %v, want %v", what, o.verdict, c.want)
		}
	}
}

// TestVLANReply: an ICMP error is what it is without a VLAN, with the tag that the
// packet had. The MTU is the packet's; a tag does not count.
func TestVLANReply(t *testing.T) {
	p := vlanPlane(t)
	for _, six := range []bool{false, true} {
		frame, rip := tcpFrame, rip(0)
		client, length := "10.0.0.1:%d", 40
		if six {
			frame, rip = tcpFrame6, rip6(0)
			client, length = "[2001:db8::1]:%d", 60
		}
		expired := edit(frame(fmt.Sprintf(client, 1), "S"), func(f []byte) {
			if six {
				f[21] = 1
			} else {
				f[22] = 1
				ipSum(f)
			}
		})
		if err := p.SetNeighbour(Neighbour{Addr: rip, Interface: loopback, VLAN: 200, MAC: serverMAC(rip), Source: ownMAC, MTU: length}); err != nil {
			t.Fatal(err)
		}
		for _, tci := range []uint16{100, 0xb000 | 100, 0x6000} {
			plain, with := send(t, p, expired), send(t, p, tagged(expired, 0x8100, tci))
			if with.verdict != bpfVerdictVERDICT_REPLY_TTL || with.action != xdpTX || !bytes.Equal(with.out, tagged(plain.out, 0x8100, tci)) {
				t.Errorf("TTL: verdict %v, action %d\n%x\nwant\n%x", with.verdict, with.action, with.out, tagged(plain.out, 0x8100, tci))
			}
		}
		fits := tagged(frame(fmt.Sprintf(client, 2), "S"), 0x8100, 100)
		if o := send(t, p, fits); o.verdict != bpfVerdictVERDICT_FORWARD_NEW {
			t.Errorf("as long as the MTU: verdict %v", o.verdict)
		}
		if err := p.SetNeighbour(Neighbour{Addr: rip, Interface: loopback, VLAN: 200, MAC: serverMAC(rip), Source: ownMAC, MTU: length - 1}); err != nil {
			t.Fatal(err)
		}
		if o := send(t, p, fits); o.verdict != bpfVerdictVERDICT_REPLY_TOO_BIG || !bytes.Equal(o.out[12:16], []byte{0x81, 0, 0, 100}) {
			t.Errorf("longer than the MTU: verdict %v\n%x", o.verdict, o.out)
		}
	}
}

// TestVLANFragment: the later fragments of a datagram go where the first went,
// out of the VLAN and into the other; one that the daemon keeps has its tag.
func TestVLANFragment(t *testing.T) {
	p := vlanPlane(t)
	install(t, p, table(lvs.UDP, lvs.RoundRobin, server(0, 1)))
	if err := p.SetNeighbour(Neighbour{Addr: rip(0), Interface: loopback, VLAN: 200, MAC: serverMAC(rip(0)), Source: ownMAC}); err != nil {
		t.Fatal(err)
	}
	piece := func(offset byte, more byte) []byte {
		return tagged(edit(udpFrame("10.0.0.1:1000"), func(f []byte) { f[20], f[21] = more, offset; ipSum(f) }), 0x8100, 0xb000|100)
	}
	early := send(t, p, piece(1, 0))
	if early.verdict != bpfVerdictVERDICT_DROP_PARKED {
		t.Errorf("early: verdict %v", early.verdict)
	}
	for _, f := range [][]byte{piece(0, 0x20), piece(1, 0)} {
		o := send(t, p, f)
		if o.action != xdpTX || !bytes.Equal(o.out[12:18], []byte{0x81, 0, 0xb0, 200, 8, 0}) {
			t.Errorf("verdict %v, action %d\n%x", o.verdict, o.action, o.out)
		}
	}
	if o := send(t, p, piece(1, 0)); o.verdict != bpfVerdictVERDICT_FORWARD_FRAGMENT {
		t.Errorf("late: verdict %v", o.verdict)
	}
	plain := udpFrame("10.0.0.1:1000")
	if got, want := withTag(plain, 0x10000|0xb064), tagged(plain, 0x8100, 0xb064); !bytes.Equal(got, want) {
		t.Errorf("kept:\n%x\nwant\n%x", got, want)
	}
	if got := withTag(plain, 0); !bytes.Equal(got, plain) {
		t.Errorf("kept, untagged:\n%x", got)
	}
}
