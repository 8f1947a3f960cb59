// SPDX-License-Identifier: MIT

package realserver

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// wire sends and reads IPv6 at the other side's interface.
func wire(t *testing.T, there func(func())) *packet.Conn {
	t.Helper()
	var c *packet.Conn
	there(func() {
		peer, err := net.InterfaceByName("peer0")
		if err != nil {
			t.Fatal(err)
		}
		if c, err = packet.Listen(peer, packet.Datagram, unix.ETH_P_IPV6, nil); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// solicit sends a neighbour solicitation for target to an address and a MAC.
func solicit(t *testing.T, c *packet.Conn, source, to, target, mac string) {
	t.Helper()
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: net.ParseIP(source), DstIP: net.ParseIP(to)}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	ns := &layers.ICMPv6NeighborSolicitation{TargetAddress: net.ParseIP(target)}
	if !ip.SrcIP.IsUnspecified() {
		hw, err := net.ParseMAC(dirMAC)
		if err != nil {
			t.Fatal(err)
		}
		ns.Options = layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: hw}}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, icmp, ns); err != nil {
		t.Fatal(err)
	}
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTo(buf.Bytes(), &packet.Addr{HardwareAddr: hw}); err != nil {
		t.Fatal(err)
	}
}

// read returns the next message of neighbour discovery that is wanted.
func read(t *testing.T, c *packet.Conn, wanted func(gopacket.Packet) bool) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatal("what was waited for did not come: ", err)
		}
		if wanted(gopacket.NewPacket(buf[:n], layers.LayerTypeIPv6, gopacket.Default)) {
			return
		}
	}
}

// advertised asks for the VIP in every way there is, and at last for the host's
// own address. It tells whether the host says, until it has answered that, that
// it has the VIP.
func advertised(t *testing.T, c *packet.Conn) bool {
	t.Helper()
	const vip, group = "2001:db8:16::172", "ff02::1:ff00:172"
	solicit(t, c, "::", group, vip, "33:33:ff:00:01:72") // duplicate address detection
	solicit(t, c, "fe80::173", group, vip, "33:33:ff:00:01:72")
	solicit(t, c, "2001:db8:16::173", group, vip, rsMAC) // the group, in a frame that is for this host
	solicit(t, c, "2001:db8:16::173", vip, vip, rsMAC)
	solicit(t, c, "2001:db8:16::173", "2001:db8:16::177", vip, rsMAC)
	solicit(t, c, "2001:db8:16::173", "ff02::1", vip, "33:33:00:00:00:01")
	solicit(t, c, "2001:db8:16::173", "ff02::1:ff00:177", rip6.String(), "33:33:ff:00:01:77")
	said := false
	read(t, c, func(p gopacket.Packet) bool {
		na, ok := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
		if !ok {
			return false
		}
		said = said || na.TargetAddress.Equal(vip6.AsSlice())
		return na.TargetAddress.Equal(rip6.AsSlice())
	})
	return said
}

// asksAs makes this host send from the VIP to an address that nobody has, and
// returns the sender of its neighbour solicitation.
func asksAs(t *testing.T, c *packet.Conn, target string) (sender netip.Addr) {
	t.Helper()
	udp, err := net.DialUDP("udp6", &net.UDPAddr{IP: vip6.AsSlice()}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr(target), 9)))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	fmt.Fprint(udp, "x")
	read(t, c, func(p gopacket.Packet) bool {
		ns, ok := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation)
		if !ok || !ns.TargetAddress.Equal(net.ParseIP(target)) {
			return false
		}
		sender, _ = netip.AddrFromSlice(p.NetworkLayer().(*layers.IPv6).SrcIP)
		return true
	})
	return sender
}

// What IPv4 needs guards for, IPv6 does not do.
func TestLoopback6ServesAndIsSilent(t *testing.T) {
	there := host(t)
	c := wire(t, there)
	// The test can fail: on the wire's interface, the VIP is answered and asked
	// for.
	ip(t, "addr add 2001:db8:16::172/128 dev eth0 nodad")
	if !answered(t, there, vip6) || !advertised(t, c) || asksAs(t, c, "2001:db8:16::200") != vip6 {
		t.Fatal("a host that has the VIP on eth0 should answer for it and ask with it")
	}
	ip(t, "addr del 2001:db8:16::172/128 dev eth0")

	s := server(t, nil)
	start(t, s, VIP{Addr: vip6, Method: Loopback})
	if answered(t, there, vip6) || advertised(t, c) {
		t.Error("the host answers neighbour solicitations for the VIP")
	}
	if !answered(t, there, rip6) {
		t.Error("the host does not answer for its own address")
	}
	if got := asksAs(t, c, "2001:db8:16::201"); got == vip6 {
		t.Errorf("the host asks as %v", got)
	}
	serveTCP(t, "[::]:80")
	serveUDP(t, "[2001:db8:16::172]:53")
	forwards(t, there)
	if got, err := askTCP(there, "[2001:db8:16::172]:80"); err != nil || got != "served at [2001:db8:16::172]:80" {
		t.Errorf("TCP: %q, %v", got, err)
	}
	if got, err := askUDP(there, "[2001:db8:16::172]:53"); err != nil || got != "back: ping" {
		t.Errorf("UDP: %q, %v", got, err)
	}
	// The kernel does not choose the VIP for the host's own connections.
	if out := ip(t, "route get 2001:db8:16::173"); !strings.Contains(out, "src 2001:db8:16::177") {
		t.Errorf("own connections go from: %s", out)
	}
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	refused(t, there, "[2001:db8:16::172]:80")
}

func TestRedirect6ServesAndIsSilent(t *testing.T) {
	there := host(t)
	forwards(t, there)
	serveTCP(t, "[::]:80")
	serveTCP(t, "[2001:db8:16::177]:8080")
	serveUDP(t, "[2001:db8:16::177]:53")
	serveUDP(t, "[2001:db8:16::177]:5353")
	const at = "[2001:db8:16::172]:"
	refused(t, there, at+"80")
	refused(t, there, at+"81")
	s := server(t, nil)
	start(t, s, VIP{Addr: vip6, Method: Redirect, Ports: ports(t, "80/tcp", "81/tcp:8080", "53/udp", "54/udp:5353")})
	for to, want := range map[string]string{at + "80": "served at [2001:db8:16::177]:80", at + "81": "served at [2001:db8:16::177]:8080"} {
		if got, err := askTCP(there, to); err != nil || got != want {
			t.Errorf("TCP %s: %q, %v", to, got, err)
		}
	}
	for _, to := range []string{at + "53", at + "54"} {
		if got, err := askUDP(there, to); err != nil || got != "back: ping" {
			t.Errorf("UDP %s: %q, %v", to, got, err)
		}
	}
	refused(t, there, at+"8080") // not redirected
	there(func() { ip(t, "neigh del 2001:db8:16::172 dev peer0") })
	if answered(t, there, vip6) || advertised(t, wire(t, there)) {
		t.Error("the host answers neighbour solicitations for the VIP")
	}
	forwards(t, there)
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	refused(t, there, at+"80")
}
