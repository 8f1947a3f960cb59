// SPDX-License-Identifier: MIT

package announce

import (
	"bytes"
	"context"
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
	"github.com/shunt-lvs/shunt/internal/link"
)

var (
	vip = addr("172.16.16.172")
	dip = addr("172.16.16.173")
	rip = addr("172.16.16.177")

	vip6 = addr("2001:db8:16::172")
	dip6 = addr("2001:db8:16::173")
	rip6 = addr("2001:db8:16::177")

	dirMAC = net.HardwareAddr{2, 0, 0, 0, 0, 0x73}
	rsMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 0x77}
)

// pair puts the test on the director's side of a link, eth0; it returns what runs
// a function on the real server's, peer0.
func pair(t *testing.T) func(func()) {
	t.Helper()
	return labtest.Pair(t, labtest.Director, labtest.RealServer)
}

func TestPacketAgreesWithGopacket(t *testing.T) {
	for _, p := range []Packet{
		{Request, dirMAC, vip, nobody, vip},
		{Reply, dirMAC, vip, dirMAC, vip},
		{Request, rsMAC, netip.IPv4Unspecified(), nobody, vip},
		{Operation(0x1234), rsMAC, addr("255.255.255.255"), everyone, addr("1.2.3.4")},
	} {
		ours, err := p.AppendBinary([]byte("head"))
		if err != nil {
			t.Fatal(err)
		}
		ours = bytes.TrimPrefix(ours, []byte("head"))
		buf := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{}, &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: uint16(p.Operation), SourceHwAddress: p.SenderMAC, SourceProtAddress: p.SenderAddr.AsSlice(),
			DstHwAddress: p.TargetMAC, DstProtAddress: p.TargetAddr.AsSlice(),
		}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ours, buf.Bytes()) {
			t.Errorf("%+v is\n%x, for gopacket\n%x", p, ours, buf.Bytes())
		}
		back, err := ParsePacket(append(ours, make([]byte, 18)...)) // padded, as on the wire
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(p, back, cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Error(d)
		}
	}
}

func TestPacketRefusesWhatIsNotARP(t *testing.T) {
	good, err := Packet{Request, dirMAC, vip, nobody, vip}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 { // each byte that says what kind of packet it is
		bad := bytes.Clone(good)
		bad[i]++
		if _, err := ParsePacket(bad); !errors.Is(err, ErrPacket) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	if _, err := ParsePacket(good[:27]); !errors.Is(err, ErrPacket) {
		t.Errorf("27 bytes: %v", err)
	}
	for _, p := range []Packet{
		{Request, nil, vip, nobody, vip},
		{Request, dirMAC, addr("::1"), nobody, vip},
		{Request, dirMAC, vip, nobody[:5], vip},
		{Request, dirMAC, vip, nobody, netip.Addr{}},
	} {
		if b, err := p.AppendBinary(nil); !errors.Is(err, ErrPacket) || len(b) != 0 {
			t.Errorf("%+v: %x, %v", p, b, err)
		}
	}
}

func FuzzPacket(f *testing.F) {
	good, _ := Packet{Request, dirMAC, vip, nobody, vip}.AppendBinary(nil)
	f.Add(good)
	f.Add(append(good, 1, 2, 3))
	f.Add(good[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePacket(b)
		var theirs layers.ARP
		their := theirs.DecodeFromBytes(b, gopacket.NilDecodeFeedback)
		if err != nil {
			return
		}
		if their != nil || !bytes.Equal(theirs.SourceHwAddress, p.SenderMAC) || !bytes.Equal(theirs.DstProtAddress, p.TargetAddr.AsSlice()) {
			t.Errorf("gopacket reads %+v, %v; we %+v", theirs, their, p)
		}
		again, err := p.AppendBinary(nil)
		if err != nil || !bytes.Equal(again, b[:packetLen]) {
			t.Errorf("%x becomes %x, %v", b, again, err)
		}
	})
}

func TestProbe(t *testing.T) {
	there := pair(t)
	checkProbe(t, there, vip, "172.16.16.172/32")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Probe(ctx, "eth0", vip); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// checkProbe: who has the VIP is found, and not told that we have it.
func checkProbe(t *testing.T, there func(func()), vip netip.Addr, with string) {
	t.Helper()
	mac, err := Probe(t.Context(), "eth0", vip)
	if err != nil || mac != nil {
		t.Errorf("nobody has the VIP, but: %v, %v", mac, err)
	}
	there(func() { labtest.IP(t, "addr add "+with+" dev peer0") })
	mac, err = Probe(t.Context(), "eth0", vip)
	if err != nil || !bytes.Equal(mac, rsMAC) {
		t.Errorf("the peer has it, but: %v, %v", mac, err)
	}
	there(func() {
		if out := labtest.IP(t, "neigh show"); strings.Contains(out, vip.String()) {
			t.Errorf("the probe claimed the VIP: %s", out)
		}
		labtest.IP(t, "addr del "+strings.TrimSuffix(with, " nodad")+" dev peer0")
	})
	// The director's own VIP is not a duplicate of itself.
	labtest.IP(t, "addr add "+with+" dev eth0")
	if mac, err := Probe(t.Context(), "eth0", vip); err != nil || mac != nil {
		t.Errorf("own VIP: %v, %v", mac, err)
	}
}

func TestResolve(t *testing.T) {
	pair(t)
	if mac, err := Resolve(t.Context(), "eth0", dip, rip); err != nil || !bytes.Equal(mac, rsMAC) {
		t.Errorf("%v, %v", mac, err)
	}
	if _, err := Resolve(t.Context(), "eth0", dip, addr("172.16.16.99")); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestAnnounceMovesTheVIP(t *testing.T) {
	there := pair(t)
	// The client's side still has the predecessor's MAC address.
	there(func() {
		labtest.IP(t, "neigh add 172.16.16.172 lladdr 02:00:00:00:00:01 dev peer0 nud reachable")
	})
	if err := Announce(t.Context(), "eth0", vip); err != nil {
		t.Fatal(err)
	}
	there(func() {
		if out := labtest.IP(t, "neigh show 172.16.16.172"); !strings.Contains(out, dirMAC.String()) {
			t.Errorf("after the announcement: %s", out)
		}
	})
}

func TestAnnounceSendsBothForms(t *testing.T) {
	there := pair(t)
	var s *socket
	there(func() {
		var err error
		if s, err = open("peer0", arp()); err != nil {
			t.Fatal(err)
		}
	})
	defer s.close()
	if err := Announce(t.Context(), "eth0", vip); err != nil {
		t.Fatal(err)
	}
	var got []Packet
	listen(t, s, func(b []byte, _ net.HardwareAddr) bool {
		if p, err := ParsePacket(b); err == nil && p.SenderAddr == vip {
			got = append(got, p)
		}
		return len(got) == 2*rounds
	})
	var want []Packet
	for range rounds {
		want = append(want, Packet{Request, dirMAC, vip, nobody, vip}, Packet{Reply, dirMAC, vip, dirMAC, vip})
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Error(d)
	}
}

func TestWatcher(t *testing.T) {
	there := pair(t)
	w, err := NewWatcher("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.Follow([]netip.Addr{vip}, []netip.Addr{rip})
	claims := make(chan Claim, 16)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, func(c Claim) { claims <- c }) }()
	next := func(what string) Claim {
		t.Helper()
		select {
		case c := <-claims:
			return c
		case err := <-ended:
			t.Fatalf("%s: Run ended: %v", what, err)
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: no claim", what)
		}
		panic("unreachable")
	}

	for _, mac := range []net.HardwareAddr{nil, rsMAC} { // by broadcast, then by unicast
		if err := w.Ask(dip, rip, mac); err != nil {
			t.Fatal(err)
		}
		if c := next("a real server's answer"); c.Addr != rip || !bytes.Equal(c.MAC, rsMAC) || c.Conflict || c.Interface != "eth0" {
			t.Errorf("answer to a request to %v: %+v", mac, c)
		}
	}
	// Our own announcement is no conflict; the peer's is.
	if err := w.Announce(vip); err != nil {
		t.Fatal(err)
	}
	there(func() {
		if err := Announce(t.Context(), "peer0", addr("172.16.16.99")); err != nil { // not followed
			t.Fatal(err)
		}
		if err := Announce(t.Context(), "peer0", vip); err != nil {
			t.Fatal(err)
		}
	})
	for range 2 * rounds {
		if c := next("the conflict"); c.Addr != vip || !bytes.Equal(c.MAC, rsMAC) || !c.Conflict {
			t.Errorf("conflict: %+v", c)
		}
	}
	// A link that flaps does not end it.
	labtest.IP(t, "link set eth0 down")
	labtest.IP(t, "link set eth0 up")
	there(func() {
		if err := Announce(t.Context(), "peer0", rip); err != nil {
			t.Fatal(err)
		}
	})
	if c := next("after the flap"); c.Addr != rip {
		t.Errorf("after the flap: %+v", c)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run ended with %v", err)
	}
}

func TestWatcherEndsWithItsInterface(t *testing.T) {
	pair(t)
	w, err := NewWatcher("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ended := make(chan error, 1)
	go func() { ended <- w.Run(t.Context(), func(Claim) {}) }()
	labtest.IP(t, "link del eth0")
	select {
	case err := <-ended:
		if !errors.Is(err, ErrLink) {
			t.Errorf("Run ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Run goes on without an interface")
	}
}

func TestRefusals(t *testing.T) {
	pair(t)
	for _, a := range []string{"fe80::1", "::", "::1", "ff02::1", "::ffff:1.2.3.4", "0.0.0.0", "224.0.0.1", "127.0.0.1"} {
		if err := Announce(t.Context(), "eth0", addr(a)); !errors.Is(err, ErrFamily) {
			t.Errorf("announce %s: %v", a, err)
		}
		if _, err := Probe(t.Context(), "eth0", addr(a)); !errors.Is(err, ErrFamily) {
			t.Errorf("probe %s: %v", a, err)
		}
	}
	for _, c := range [][2]netip.Addr{{dip, rip6}, {dip6, rip}, {addr("fe80::173"), rip}, {addr("::"), rip6}} {
		if _, err := Resolve(t.Context(), "eth0", c[0], c[1]); !errors.Is(err, ErrFamily) {
			t.Errorf("resolve %v from %v: %v", c[1], c[0], err)
		}
	}
	if err := Announce(t.Context(), "eth7", vip); !errors.Is(err, link.ErrNoInterface) {
		t.Errorf("no such interface: %v", err)
	}
	labtest.IP(t, "link set eth0 down")
	if err := Announce(t.Context(), "eth0", vip); !errors.Is(err, ErrLink) {
		t.Errorf("interface down: %v", err)
	}
}
