// SPDX-License-Identifier: MIT

package announce

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

var sameDiscovery = cmpopts.EquateComparable(netip.Addr{})

// theirs is what gopacket makes of a message.
func theirs(t *testing.T, d Discovery) []byte {
	t.Helper()
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: d.Source.AsSlice(), DstIP: d.Destination.AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(uint8(d.Type), 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	var body gopacket.SerializableLayer
	if d.Type == Solicitation {
		ns := &layers.ICMPv6NeighborSolicitation{TargetAddress: d.Target.AsSlice()}
		if d.MAC != nil {
			ns.Options = layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: d.MAC}}
		}
		body = ns
	} else {
		na := &layers.ICMPv6NeighborAdvertisement{TargetAddress: d.Target.AsSlice(), Flags: d.flags()}
		if d.MAC != nil {
			na.Options = layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: d.MAC}}
		}
		body = na
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, icmp, body)
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func goodDiscoveries() []Discovery {
	return []Discovery{
		{Type: Solicitation, Source: netip.IPv6Unspecified(), Destination: solicitedNode(vip6), Target: vip6},
		{Type: Solicitation, Source: addr("fe80::173"), Destination: solicitedNode(rip6), Target: rip6, MAC: dirMAC},
		{Type: Solicitation, Source: dip6, Destination: rip6, Target: rip6},
		{Type: Advertisement, Source: vip6, Destination: allNodes, Target: vip6, MAC: dirMAC, Override: true},
		{Type: Advertisement, Source: rip6, Destination: dip6, Target: rip6, Solicited: true, Router: true},
	}
}

func TestDiscoveryAgreesWithGopacket(t *testing.T) {
	for _, d := range goodDiscoveries() {
		ours, err := d.AppendBinary([]byte("head"))
		if err != nil {
			t.Fatal(err)
		}
		ours = bytes.TrimPrefix(ours, []byte("head"))
		if want := theirs(t, d); !bytes.Equal(ours, want) {
			t.Errorf("%+v is\n%x, for gopacket\n%x", d, ours, want)
		}
		back, err := ParseDiscovery(append(ours, make([]byte, 8)...)) // padded
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(d, back, sameDiscovery); d != "" {
			t.Error(d)
		}
	}
}

func TestGroups(t *testing.T) {
	a := addr("2001:db8::aabb:ccdd")
	if g := solicitedNode(a); g != addr("ff02::1:ffbb:ccdd") {
		t.Errorf("%v", g)
	}
	if m := groupMAC(solicitedNode(a)); m.String() != "33:33:ff:bb:cc:dd" {
		t.Errorf("%v", m)
	}
	if m := groupMAC(allNodes); m.String() != "33:33:00:00:00:01" {
		t.Errorf("%v", m)
	}
}

// edited is a message with a change that its checksum knows of, or not.
func edited(t testing.TB, d Discovery, sum bool, edit func(b []byte) []byte) []byte {
	t.Helper()
	b, err := d.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	b = edit(b)
	if sum {
		binary.BigEndian.PutUint16(b[headerLen+offChecksum:], 0)
		binary.BigEndian.PutUint16(b[headerLen+offChecksum:], checksum(b))
	}
	return b
}

func TestDiscoveryIsNotBelievedBlindly(t *testing.T) {
	all := goodDiscoveries()
	probe, question, reply := all[0], all[1], all[4]
	set := func(at int, v ...byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[at:], v); return b }
	}
	multicast := allNodes.As16()
	for _, c := range []struct {
		name string
		b    []byte
	}{
		{"from behind a router", edited(t, question, true, set(offHopLimit, 254))},
		{"a wrong checksum", edited(t, question, false, set(headerLen+offChecksum, 1, 2))},
		{"another protocol", edited(t, question, true, set(offNextHeader, 6))},
		{"IPv4", edited(t, question, true, set(offVersion, 0x45))},
		{"an echo request", edited(t, question, true, set(headerLen+offType, 128))},
		{"another code", edited(t, question, true, set(headerLen+offCode, 1))},
		{"a multicast target", edited(t, question, true, set(headerLen+offTarget, multicast[:]...))},
		{"a multicast source", edited(t, question, true, set(offSource, multicast[:]...))},
		{"an option of length 0", edited(t, question, true, set(headerLen+messageLen+1, 0))},
		{"an option beyond the end", edited(t, question, true, set(headerLen+messageLen+1, 2))},
		{"a length beyond the end", edited(t, question, true, set(offPayloadLen, 0, 33))},
		{"a length too short", edited(t, question, true, set(offPayloadLen, 0, 23))},
		{"a probe to one host", edited(t, probe, true, set(offDestination, vip6.AsSlice()...))},
		{"a probe with a MAC", edited(t, question, true, set(offSource, make([]byte, 16)...))},
		{"an answer to all that says it was asked for", edited(t, reply, true, set(offDestination, multicast[:]...))},
		{"an answer from nobody", edited(t, reply, true, set(offSource, make([]byte, 16)...))},
		{"half", edited(t, reply, false, func(b []byte) []byte { return b[:63] })},
	} {
		if d, err := ParseDiscovery(c.b); !errors.Is(err, ErrPacket) {
			t.Errorf("%s: %+v, %v", c.name, d, err)
		}
	}
	// Options of other types are passed over.
	nonce := func(b []byte) []byte {
		b = append(b[:headerLen+messageLen:headerLen+messageLen], append([]byte{14, 1, 1, 2, 3, 4, 5, 6}, b[headerLen+messageLen:]...)...)
		b[offPayloadLen+1] += 8
		return b
	}
	if d, err := ParseDiscovery(edited(t, question, true, nonce)); err != nil || !bytes.Equal(d.MAC, dirMAC) {
		t.Errorf("with a nonce: %+v, %v", d, err)
	}
	for _, d := range []Discovery{
		{Type: 133, Source: dip6, Destination: rip6, Target: rip6},
		{Type: Solicitation, Source: dip, Destination: rip6, Target: rip6},
		{Type: Solicitation, Source: dip6, Destination: rip6, Target: rip},
		{Type: Solicitation, Source: dip6, Target: rip6},
		{Type: Solicitation, Source: dip6, Destination: rip6, Target: rip6, MAC: dirMAC[:5]},
		{Type: Solicitation, Source: dip6, Destination: rip6, Target: rip6, Override: true},
	} {
		if b, err := d.AppendBinary(nil); !errors.Is(err, ErrPacket) || len(b) != 0 {
			t.Errorf("%+v: %x, %v", d, b, err)
		}
	}
}

func FuzzDiscovery(f *testing.F) {
	for _, d := range goodDiscoveries() {
		b, err := d.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(append(b, 0, 0, 0))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDiscovery(b)
		if err != nil {
			if !errors.Is(err, ErrPacket) {
				t.Error(err)
			}
			return
		}
		p := gopacket.NewPacket(b, layers.LayerTypeIPv6, gopacket.Default)
		var target net.IP
		switch l := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation); {
		case l != nil:
			target = l.(*layers.ICMPv6NeighborSolicitation).TargetAddress
		default:
			if l := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement); l != nil {
				target = l.(*layers.ICMPv6NeighborAdvertisement).TargetAddress
			}
		}
		if target != nil && !bytes.Equal(target, d.Target.AsSlice()) { // nil: it found fault with an option that we pass over
			t.Errorf("gopacket reads target %v of %x; we %+v", target, b, d)
		}
		again, err := d.AppendBinary(nil)
		if err != nil {
			t.Fatalf("%+v: %v", d, err)
		}
		back, err := ParseDiscovery(again)
		if diff := cmp.Diff(d, back, sameDiscovery); err != nil || diff != "" {
			t.Errorf("%x becomes %x: %v %s", b, again, err, diff)
		}
	})
}

func TestProbe6(t *testing.T) {
	there := pair(t)
	// On lo, as a real server has it, nobody answers.
	there(func() { labtest.IP(t, "addr add 2001:db8:16::172/128 dev lo nodad") })
	if mac, err := Probe(t.Context(), "eth0", vip6); err != nil || mac != nil {
		t.Errorf("on the peer's lo: %v, %v", mac, err)
	}
	checkProbe(t, there, vip6, "2001:db8:16::172/128 nodad")
	if out := labtest.IP(t, "maddr show dev eth0"); strings.Count(out, "33:33:ff:00:01:72") != 1 || strings.Contains(out, "33:33:ff:00:01:72 users") {
		t.Errorf("the probe still listens to the VIP's group: %s", out)
	}
}

// Two hosts that are about to take the same address notice each other, as the
// kernel's own duplicate address detection does.
func TestProbe6SeesTheKernelsProbe(t *testing.T) {
	there := pair(t)
	type answer struct {
		mac net.HardwareAddr
		err error
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	answers := make(chan answer)
	eth0, err := open("eth0", ndp())
	if err != nil {
		t.Fatal(err)
	}
	defer eth0.close()
	go func() {
		st, ok, err := eth0.await(time.Now().Add(10*time.Second), func(s statement) bool { return s.probes == vip6 })
		if !ok {
			err = errors.Join(err, ErrNoAnswer)
		}
		answers <- answer{st.sender(), err}
	}()
	if err := eth0.conn.JoinGroup(groupMAC(solicitedNode(vip6))); err != nil {
		t.Fatal(err)
	}
	there(func() { labtest.IP(t, "addr add 2001:db8:16::172/128 dev peer0") }) // with DAD
	select {
	case a := <-answers:
		if a.err != nil || !bytes.Equal(a.mac, rsMAC) {
			t.Errorf("%v, %v", a.mac, a.err)
		}
	case <-ctx.Done():
		t.Fatal("nothing heard")
	}
}

func TestResolve6(t *testing.T) {
	there := pair(t)
	for _, source := range []netip.Addr{dip6, addr("fe80::173")} {
		if mac, err := Resolve(t.Context(), "eth0", source, rip6); err != nil || !bytes.Equal(mac, rsMAC) {
			t.Errorf("from %v: %v, %v", source, mac, err)
		}
	}
	if _, err := Resolve(t.Context(), "eth0", dip6, addr("2001:db8:16::99")); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("nobody there: %v", err)
	}
	// A real server of another prefix has no way back to the DIP's: the
	// question comes from the link-local address.
	there(func() {
		labtest.IP(t, "addr del 2001:db8:16::177/64 dev peer0")
		labtest.IP(t, "addr add 2001:db8:99::7/64 dev peer0 nodad")
	})
	if mac, err := Resolve(t.Context(), "eth0", addr("fe80::173"), addr("2001:db8:99::7")); err != nil || !bytes.Equal(mac, rsMAC) {
		t.Errorf("of another prefix: %v, %v", mac, err)
	}
}

func TestAnnounce6MovesTheVIP(t *testing.T) {
	there := pair(t)
	var s *socket
	there(func() {
		labtest.IP(t, "neigh add 2001:db8:16::172 lladdr 02:00:00:00:00:01 dev peer0 nud reachable")
		var err error
		if s, err = open("peer0", ndp()); err != nil {
			t.Fatal(err)
		}
	})
	defer s.close()
	if err := Announce(t.Context(), "eth0", vip6); err != nil {
		t.Fatal(err)
	}
	there(func() {
		if out := labtest.IP(t, "neigh show 2001:db8:16::172"); !strings.Contains(out, dirMAC.String()) {
			t.Errorf("after the announcement: %s", out)
		}
	})
	var got []Discovery
	listen(t, s, func(b []byte, from net.HardwareAddr) bool {
		d, err := ParseDiscovery(b)
		if err != nil {
			t.Errorf("%x: %v", b, err)
		}
		if d.Target == vip6 {
			if !bytes.Equal(from, dirMAC) {
				t.Errorf("sent from %v", from)
			}
			got = append(got, d)
		}
		return len(got) == rounds
	})
	for _, d := range got {
		want := Discovery{Type: Advertisement, Source: vip6, Destination: allNodes, Target: vip6, MAC: dirMAC, Override: true}
		if d := cmp.Diff(want, d, sameDiscovery); d != "" {
			t.Error(d)
		}
	}
}

// The rest of IPv6 does not even reach the socket.
func TestSocketTakesDiscoveryOnly(t *testing.T) {
	there := pair(t)
	s, err := open("eth0", ndp())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	there(func() {
		c, err := net.ListenPacket("udp6", "")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 5 {
			if _, err := c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(dip6, 9))); err != nil {
				t.Fatal(err)
			}
		}
		if err := Announce(t.Context(), "peer0", vip6); err != nil {
			t.Fatal(err)
		}
	})
	listen(t, s, func(b []byte, _ net.HardwareAddr) bool {
		d, err := ParseDiscovery(b)
		if err != nil {
			t.Errorf("reached the socket: %x", b)
		}
		return d.Target == vip6
	})
}

func TestWatcher6(t *testing.T) {
	there := pair(t)
	w, err := NewWatcher("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	labtest.IP(t, "addr add 2001:db8:16::172/128 dev eth0 nodad")
	w.Follow([]netip.Addr{vip, vip6}, []netip.Addr{rip, rip6})
	claims := make(chan Claim, 64)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, func(c Claim) { claims <- c }) }()
	next := func(what string, is func(Claim) bool) Claim {
		t.Helper()
		late := time.After(10 * time.Second)
		for {
			select {
			case c := <-claims:
				if c.Interface != "eth0" {
					t.Errorf("%+v", c)
				}
				if is(c) {
					return c
				}
			case err := <-ended:
				t.Fatalf("%s: Run ended: %v", what, err)
			case <-late:
				t.Fatalf("%s: no claim", what)
			}
		}
	}
	// To everyone, the answer names the MAC; at the known MAC, it need not.
	if err := w.Ask(addr("fe80::173"), rip6, nil); err != nil {
		t.Fatal(err)
	}
	next("an answer", func(c Claim) bool { return c.Addr == rip6 && bytes.Equal(c.MAC, rsMAC) && !c.Conflict })
	if err := w.Ask(addr("fe80::173"), rip6, rsMAC); err != nil {
		t.Fatal(err)
	}
	next("an answer to a unicast question", func(c Claim) bool {
		return c.Addr == rip6 && (c.MAC == nil || bytes.Equal(c.MAC, rsMAC)) && !c.Conflict
	})
	if err := w.Ask(dip, rip, nil); err != nil { // IPv4 goes on beside it
		t.Fatal(err)
	}
	next("an ARP answer", func(c Claim) bool { return c.Addr == rip && bytes.Equal(c.MAC, rsMAC) })

	// Our own announcement is no conflict; the peer's is.
	if err := w.Announce(vip6); err != nil {
		t.Fatal(err)
	}
	there(func() {
		if err := Announce(t.Context(), "peer0", vip6); err != nil {
			t.Fatal(err)
		}
	})
	for range rounds {
		next("the conflict", func(c Claim) bool {
			if c.Addr == vip6 && !bytes.Equal(c.MAC, rsMAC) {
				t.Errorf("%+v", c)
			}
			return c.Addr == vip6 && c.Conflict
		})
	}
	// The kernel of another machine is about to take the VIP, and gives it up
	// because ours answers.
	there(func() { labtest.IP(t, "addr add 2001:db8:16::172/128 dev peer0") })
	next("the other kernel's probe", func(c Claim) bool { return c.Addr == vip6 && c.Conflict && bytes.Equal(c.MAC, rsMAC) })
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run ended with %v", err)
	}
}
