// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// The chunks of RFC 9260, 3.2, that an association needs.
const (
	sctpData             = 0
	sctpInit             = 1
	sctpInitAck          = 2
	sctpSack             = 3
	sctpShutdown         = 7
	sctpShutdownAck      = 8
	sctpCookieEcho       = 10
	sctpCookieAck        = 11
	sctpShutdownComplete = 14
)

// Both sides' tags: whatever one receives has its own (RFC 9260, 8.5).
const (
	clientTag = 0x0c0c0c0c
	serverTag = 0x05050505
)

// sctpPacket is one with one chunk and its CRC32c.
func sctpPacket(from, to uint16, tag uint32, kind byte, content string) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint32(b, tag)
	b = append(b, 0, 0, 0, 0, kind, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(content)))
	b = append(b, content...)
	b = append(b, make([]byte, -len(content)&3)...)
	binary.LittleEndian.PutUint32(b[8:], sctpSum(b))
	return b
}

// sctpSum is what a packet's checksum has to be.
func sctpSum(b []byte) uint32 {
	b = bytes.Clone(b)
	clear(b[8:12])
	return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
}

// opening is the content of INIT and INIT ACK: the tag, a window, streams, TSN.
func opening(tag uint32) string {
	return string(binary.BigEndian.AppendUint32(nil, tag)) + "\x00\x01\x00\x00\x00\x01\x00\x01\x00\x00\x00\x01"
}

// sctpEnd is a raw socket: a kernel may know no more of SCTP than its number.
type sctpEnd struct {
	t    testing.TB
	name string
	net.PacketConn
}

func listenSCTP(t testing.TB, n *lab.Node, at netip.Addr) sctpEnd {
	t.Helper()
	network := "ip4:132"
	if at.Is6() {
		network = "ip6:132"
	}
	conn, err := n.ListenPacket(network, at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return sctpEnd{t, n.Name(), conn}
}

func (e sctpEnd) send(to netip.Addr, packet []byte) {
	e.t.Helper()
	if _, err := e.WriteTo(packet, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		e.t.Fatal(err)
	}
}

// receive waits for a packet, whose checksum must be right.
func (e sctpEnd) receive(what string) (from netip.Addr, packet []byte) {
	e.t.Helper()
	e.SetReadDeadline(time.Now().Add(commandLimit))
	b := make([]byte, 2000)
	n, addr, err := e.ReadFrom(b)
	if err != nil {
		e.t.Fatalf("%s waits for %s: %v", e.name, what, err)
	}
	packet = b[:n]
	if sum := binary.LittleEndian.Uint32(packet[8:]); sum != sctpSum(packet) {
		e.t.Errorf("%s, %s: checksum %#x, should be %#x", e.name, what, sum, sctpSum(packet))
	}
	from, _ = netip.AddrFromSlice(addr.(*net.IPAddr).IP)
	return from.Unmap(), packet
}

// TestSCTP has whole associations, packet by packet, from the client to a real
// server and straight back.
func TestSCTP(t *testing.T) {
	for _, m := range []struct {
		method
		mode string
		six  bool
	}{
		{method{"loopback", 80, nil}, "auto", false},
		{method{"loopback, tc", 80, nil}, "tc", false},
		{method{"loopback, IPv6", 80, nil}, "auto", true},
		{method{"loopback, IPv6, tc", 80, nil}, "tc", true},
		// The kernel's connection tracking changes address and port, and the sum.
		{method{"redirect", 80, []string{"--method", "redirect", "--port", "80/sctp"}}, "auto", false},
		{method{"redirect to another port", 8080, []string{"--method", "redirect", "--port", "80/sctp:8080"}}, "auto", false},
	} {
		t.Run(m.name, func(t *testing.T) {
			c := newCluster(t, lab.Options{})
			vip, client, address := lab.VIP(), c.Client.Addr(), (*lab.Node).Addr
			if m.six {
				vip, client, address = lab.VIP6(), c.Client.Addr6(), (*lab.Node).Addr6
			}
			service := netip.AddrPortFrom(vip, 80).String()
			c.start("--vip", lab.VIP6().String(), "--mode", m.mode)
			c.rules("-A --sctp-service " + service + " -s rr")
			ends := map[string]sctpEnd{}
			for _, rs := range c.RealServers {
				c.shunt(rs, append([]string{"realserver", "start", "--vip", vip.String()}, m.args...)...).want(t, 0)
				at := vip
				if m.args != nil {
					at = address(rs)
				}
				ends[netip.AddrPortFrom(address(rs), 80).String()] = listenSCTP(t, rs, at)
				c.rules("-a --sctp-service " + service + " -r " + netip.AddrPortFrom(address(rs), 80).String() + " -g")
			}
			user := listenSCTP(t, c.Client, client)
			tap, err := c.Tap(c.Director)
			if err != nil {
				t.Fatal(err)
			}

			used := map[string]bool{}
			for port := uint16(7000); port < 7002; port++ {
				var server sctpEnd
				source := netip.AddrPortFrom(client, port).String()
				// there sends a packet and sees that it comes as it was sent.
				there := func(what string, tag uint32, kind byte, content string) {
					t.Helper()
					sent := sctpPacket(port, 80, tag, kind, content)
					user.send(vip, sent)
					if server.PacketConn == nil { // whom the director has chosen
						var at string
						eventually(t, "the connection of port "+source, func() bool {
							for _, line := range c.connections() {
								if f := strings.Fields(line); f[0] == "SCTP" && f[1] == source && f[2] == service {
									at = f[3]
								}
							}
							return at != ""
						})
						server, used[at] = ends[at], true
					}
					from, got := server.receive(what)
					want := sctpPacket(port, uint16(m.listen), tag, kind, content)
					if from != client || !bytes.Equal(got, want) {
						t.Errorf("%s at %s: % x from %v, want % x", what, server.name, got, from, want)
					}
				}
				back := func(what string, kind byte, content string) {
					t.Helper()
					server.send(client, sctpPacket(uint16(m.listen), port, clientTag, kind, content))
					from, got := user.receive(what)
					if want := sctpPacket(80, port, clientTag, kind, content); from != vip || !bytes.Equal(got, want) {
						t.Errorf("%s: % x from %v, want % x", what, got, from, want)
					}
				}
				in := func(state string) {
					t.Helper()
					for line := range strings.Lines(c.rules("-Lnc")) {
						if f := strings.Fields(line); len(f) == 6 && f[3] == source && f[2] != state {
							t.Errorf("listed is %swant it in %s", line, state)
						}
					}
				}
				there("INIT", 0, sctpInit, opening(clientTag))
				in("INIT1")
				back("INIT ACK", sctpInitAck, opening(serverTag))
				there("COOKIE ECHO", serverTag, sctpCookieEcho, "a cookie")
				in("ESTABLISHED")
				back("COOKIE ACK", sctpCookieAck, "")
				there("DATA", serverTag, sctpData, "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00hello")
				back("SACK", sctpSack, "\x00\x00\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00")
				active := uint64(0)
				for at := range ends {
					if r := c.table("")["SCTP "+service][at]; len(r) == 3 {
						active += r[1]
					}
				}
				if active != 1 {
					t.Errorf("ActiveConn is %d in all", active)
				}
				if port == 7000 { // who takes over knows it, too
					c.kill()
					c.start("--vip", lab.VIP6().String(), "--mode", m.mode)
					in("ESTABLISHED")
				}
				there("SHUTDOWN", serverTag, sctpShutdown, "\x00\x00\x00\x01")
				in("S-RECEIVED")
				back("SHUTDOWN ACK", sctpShutdownAck, "")
				there("SHUTDOWN COMPLETE", serverTag, sctpShutdownComplete, "")
				in("CLOSED")
			}
			if len(used) != 2 {
				t.Errorf("rr gave two associations to %v", used)
			}
			frames, err := tap.Close()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range frames {
				if f.IP != nil && f.IP.Src.Addr() == vip && f.IP.Protocol == 132 {
					t.Fatalf("a reply at the director: %v", f)
				}
			}
			if stats := c.table("--stats")["SCTP "+service][""]; len(stats) == 0 || stats[0] != 2 || stats[1] != 10 {
				t.Errorf("2 associations of 5 packets are counted as %v", stats)
			}
			c.settle()
		})
	}
}

// TestSCTPRules is the rule language of SCTP: what is saved is what comes back.
func TestSCTPRules(t *testing.T) {
	c := newCluster(t, lab.Options{})
	c.start()
	c.rules("-A --sctp-service VIP:80 -s wlc -p 60", "-a --sctp-service VIP:80 -r RS1 -g", "--add-mark 7 --sctp-service VIP:5000-5001",
		"--add-mark 7 -t VIP:5000", "-A -f 7 -s rr", "-a -f 7 -r RS2 -g")
	want := c.spell(`--add-mark 7 -t VIP:5000
--add-mark 7 --sctp-service VIP:5000-5001
-A --sctp-service VIP:80 -s wlc -p 60
-a --sctp-service VIP:80 -r RS1:80 -g -w 1
-A -f 7 -s rr
-a -f 7 -r RS2:0 -g -w 1
`)
	if got := c.saved(); got != want {
		t.Errorf("saved\n%swant\n%s", got, want)
	}
	if got := c.rules("--list-marks -n"); !strings.Contains(got, c.spell("7          SCTP VIP:5000-5001\n")) {
		t.Errorf("marks\n%s", got)
	}
	if got := c.rules("-Ln"); !strings.Contains(got, c.spell("SCTP VIP:80 wlc persistent 60\n")) {
		t.Errorf("listed\n%s", got)
	}
	c.ipvsadm("-a --sctp-service VIP:80 -r RS2:8080 -g", "").want(t, 255).says(t, "--method redirect", "--port 80/sctp:8080")
	c.ipvsadm("-A --sctp-service VIP:81 -o", "").want(t, 2)
	c.rules("-C")
	c.ipvsadm("-R", want).want(t, 0)
	c.director("stop")
	c.start()
	if got := c.saved(); got != want {
		t.Errorf("after a restart\n%swant\n%s", got, want)
	}
	c.rules("-Z --sctp-service VIP:80", "-E --sctp-service VIP:80 -s sh", "-d --sctp-service VIP:80 -r RS1", "-D --sctp-service VIP:80")
}
