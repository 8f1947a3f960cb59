// SPDX-License-Identifier: MIT

package realserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/link"
	"golang.org/x/sys/unix"
)

// serveTCP answers each connection with the address it was made to.
func serveTCP(t *testing.T, at string) {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "served at %v", c.LocalAddr())
			c.Close()
		}
	}()
}

// serveUDP sends each datagram back.
func serveUDP(t *testing.T, at string) {
	t.Helper()
	c, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(append([]byte("back: "), buf[:n]...), from)
		}
	}()
}

// refused fails the test if the VIP's port answers; silence counts after 0.3 s.
func refused(t *testing.T, there func(func()), to string) {
	t.Helper()
	there(func() {
		c, err := net.DialTimeout("tcp", to, 300*time.Millisecond)
		if err == nil {
			c.Close()
			t.Errorf("%s is served", to)
		}
	})
}

func askTCP(there func(func()), to string) (answer string, err error) {
	there(func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", to, 5*time.Second); err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 100)
		n, e := c.Read(buf)
		answer, err = string(buf[:n]), e
	})
	return answer, err
}

// askUDP uses a connected socket, which takes an answer from the VIP only.
func askUDP(there func(func()), to string) (answer string, err error) {
	there(func() {
		var c net.Conn
		if c, err = net.Dial("udp", to); err != nil {
			return
		}
		defer c.Close()
		fmt.Fprint(c, "ping")
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 100)
		n, e := c.Read(buf)
		answer, err = string(buf[:n]), e
	})
	return answer, err
}

// answered tells whether the other side's kernel gets an answer, by ARP or NDP,
// when it asks who has an address.
func answered(t *testing.T, there func(func()), a netip.Addr) bool {
	t.Helper()
	var yes bool
	there(func() {
		labtest.SetSysctl(t, "ipv4/neigh/peer0/retrans_time_ms", "30")
		labtest.SetSysctl(t, "ipv6/neigh/peer0/retrans_time_ms", "30")
		peer, err := link.InterfaceByName("peer0")
		if err != nil {
			t.Fatal(err)
		}
		labtest.IP(t, "neigh flush dev peer0")
		if err := link.Resolve(peer.Index, a); err != nil {
			t.Fatal(err)
		}
		for {
			n, err := link.NeighbourOf(peer.Index, a)
			switch {
			case err != nil && !errors.Is(err, link.ErrNoNeighbour):
				t.Fatal(err)
			case n.State == link.NeighbourFailed, errors.Is(err, link.ErrNoNeighbour):
				return
			case n.State.Valid():
				yes = true
				return
			}
			time.Sleep(5 * time.Millisecond) // until the kernel has an answer or gives up
		}
	})
	return yes
}

// arpSender makes this host send from an address to one that nobody has, and
// returns the sender of its ARP request.
func arpSender(t *testing.T, there func(func()), from netip.Addr, target string) netip.Addr {
	t.Helper()
	var tap *packet.Conn
	there(func() {
		peer, err := net.InterfaceByName("peer0")
		if err != nil {
			t.Fatal(err)
		}
		if tap, err = packet.Listen(peer, packet.Datagram, unix.ETH_P_ARP, nil); err != nil {
			t.Fatal(err)
		}
	})
	defer tap.Close()
	c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(target+":9")))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "x")
	tap.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 128)
	for {
		n, _, err := tap.ReadFrom(buf)
		if err != nil {
			t.Fatal("no ARP request seen: ", err)
		}
		var arp layers.ARP
		if err := arp.DecodeFromBytes(buf[:n], gopacket.NilDecodeFeedback); err != nil {
			t.Fatal(err)
		}
		if got, _ := netip.AddrFromSlice(arp.DstProtAddress); got == addr(target) {
			sender, _ := netip.AddrFromSlice(arp.SourceProtAddress)
			return sender
		}
	}
}

func TestLoopbackServesAndIsSilent(t *testing.T) {
	there := host(t)
	// The test can fail: without guards, this host answers and asks for the VIP.
	labtest.IP(t, "addr add 172.16.16.172/32 dev lo")
	if !answered(t, there, vip) || arpSender(t, there, vip, "172.16.16.200") != vip {
		t.Fatal("an unguarded host should answer ARP for the VIP and ask with it")
	}
	labtest.IP(t, "addr del 172.16.16.172/32 dev lo")

	s := server(t, nil)
	start(t, s, VIP{Addr: vip, Method: Loopback})
	if answered(t, there, vip) {
		t.Error("the host answers ARP for the VIP")
	}
	if !answered(t, there, rip) {
		t.Error("the host does not answer ARP for its own address")
	}
	if got := arpSender(t, there, vip, "172.16.16.201"); got != rip {
		t.Errorf("the host asks as %v, want %v", got, rip)
	}
	checkLoopback(t, there, s, vip, "172.16.16.173", rip)
}

// checkLoopback: a host with the VIP on lo serves it to the other side, does not
// use it for connections of its own, and no longer serves it in the end.
func checkLoopback(t *testing.T, there func(func()), s *Server, vip netip.Addr, other string, own netip.Addr) {
	t.Helper()
	at := func(port uint16) string { return netip.AddrPortFrom(vip, port).String() }
	serveTCP(t, ":80")
	serveUDP(t, at(53))
	forwards(t, there)
	if got, err := askTCP(there, at(80)); err != nil || got != "served at "+at(80) {
		t.Errorf("TCP: %q, %v", got, err)
	}
	if got, err := askUDP(there, at(53)); err != nil || got != "back: ping" {
		t.Errorf("UDP: %q, %v", got, err)
	}
	// The kernel does not choose the VIP for the host's own connections.
	if out := labtest.IP(t, "route get "+other); !strings.Contains(out, "src "+own.String()) {
		t.Errorf("own connections go from: %s", out)
	}
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	refused(t, there, at(80))
}

func TestRedirectServesAndIsSilent(t *testing.T) {
	there := host(t)
	forwards(t, there)
	stop := checkRedirect(t, there, vip, rip)
	there(func() { labtest.IP(t, "neigh del 172.16.16.172 dev peer0") })
	if answered(t, there, vip) {
		t.Error("the host answers ARP for the VIP")
	}
	stop()
}

// checkRedirect: a host redirects the VIP's ports to those of its own address,
// and no others. The result stops that, and checks that it has ended.
func checkRedirect(t *testing.T, there func(func()), vip, own netip.Addr) (stop func()) {
	t.Helper()
	at := func(port uint16) string { return netip.AddrPortFrom(vip, port).String() }
	local := func(port uint16) string { return netip.AddrPortFrom(own, port).String() }
	serveTCP(t, ":80")
	serveTCP(t, local(8080))
	serveUDP(t, local(53))
	serveUDP(t, local(5353))
	refused(t, there, at(80))
	refused(t, there, at(81))
	s := server(t, nil)
	start(t, s, VIP{Addr: vip, Method: Redirect, Ports: ports(t, "80/tcp", "81/tcp:8080", "53/udp", "54/udp:5353")})
	for to, want := range map[uint16]string{80: "served at " + local(80), 81: "served at " + local(8080)} {
		if got, err := askTCP(there, at(to)); err != nil || got != want {
			t.Errorf("TCP %d: %q, %v", to, got, err)
		}
	}
	for _, to := range []uint16{53, 54} {
		if got, err := askUDP(there, at(to)); err != nil || got != "back: ping" {
			t.Errorf("UDP %d: %q, %v", to, got, err)
		}
	}
	refused(t, there, at(8080)) // not redirected
	return func() {
		t.Helper()
		forwards(t, there)
		if err := s.Stop(nil); err != nil {
			t.Fatal(err)
		}
		refused(t, there, at(80))
	}
}
