// SPDX-License-Identifier: MIT

package realserver

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
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
		hw, err := net.ParseMAC(labtest.Director.MAC())
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
	solicit(t, c, "2001:db8:16::173", group, vip, labtest.RealServer.MAC()) // the group, in a frame that is for this host
	solicit(t, c, "2001:db8:16::173", vip, vip, labtest.RealServer.MAC())
	solicit(t, c, "2001:db8:16::173", "2001:db8:16::177", vip, labtest.RealServer.MAC())
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
	labtest.IP(t, "addr add 2001:db8:16::172/128 dev eth0 nodad")
	if !answered(t, there, vip6) || !advertised(t, c) || asksAs(t, c, "2001:db8:16::200") != vip6 {
		t.Fatal("a host that has the VIP on eth0 should answer for it and ask with it")
	}
	labtest.IP(t, "addr del 2001:db8:16::172/128 dev eth0")

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
	checkLoopback(t, there, s, vip6, "2001:db8:16::173", rip6)
}

func TestRedirect6ServesAndIsSilent(t *testing.T) {
	there := host(t)
	forwards(t, there)
	stop := checkRedirect(t, there, vip6, rip6)
	there(func() { labtest.IP(t, "neigh del 2001:db8:16::172 dev peer0") })
	if answered(t, there, vip6) || advertised(t, wire(t, there)) {
		t.Error("the host answers neighbour solicitations for the VIP")
	}
	stop()
}
