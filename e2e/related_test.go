// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// ear keeps the frames that a machine gets, whole.
type ear struct {
	mu     sync.Mutex
	frames [][]byte
}

func (c *cluster) listen(n *lab.Node) *ear {
	c.t.Helper()
	e, all := &ear{}, binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	var fd int
	err := n.Do(func() (err error) {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		tick := unix.Timeval{Usec: 20000}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tick); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	})
	if err != nil {
		c.t.Fatal(err)
	}
	end, ended := make(chan struct{}), make(chan struct{})
	c.t.Cleanup(func() { close(end); <-ended; unix.Close(fd) })
	go func() {
		defer close(ended)
		b := make([]byte, 4096)
		for {
			select {
			case <-end:
				return
			default:
			}
			if n, _, err := unix.Recvfrom(fd, b, 0); err == nil {
				e.mu.Lock()
				e.frames = append(e.frames, bytes.Clone(b[:n]))
				e.mu.Unlock()
			}
		}
	}()
	return e
}

// heard are the frames that end as this one does, from so many bytes on.
func (e *ear) heard(frame []byte, from int) (out [][]byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.frames {
		if len(f) == len(frame) && bytes.Equal(f[from:], frame[from:]) {
			out = append(out, f)
		}
	}
	return out
}

// sum16 is RFC 1071's sum; of what has its checksum in it, 0xffff.
func sum16(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// unreachable is an ICMP error from the client's link to a VIP about a packet to
// a port of somebody's that no director has heard of: 8 bytes of it behind the
// IP header.
func (c *cluster) unreachable(vip netip.Addr, port uint16) []byte {
	from := netip.MustParseAddr("192.0.2.1")
	if vip.Is6() {
		from = netip.MustParseAddr("2001:db8:99::1")
	}
	f := append(append([]byte{}, c.Director.MAC()...), c.Client.MAC()...)
	ports := []byte{0, 80, byte(port >> 8), byte(port), 0, 0, 0, 1}
	if vip.Is4() {
		header := func(length int, protocol byte, src, dst netip.Addr) []byte {
			h := []byte{0x45, 0, 0, byte(length), 0, 1, 0x40, 0, 64, protocol, 0, 0}
			h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
			binary.BigEndian.PutUint16(h[10:], ^sum16(h))
			return h
		}
		icmp := append([]byte{3, 4, 0, 0, 0, 0, 0x05, 0x14}, header(28, 6, vip, from)...)
		icmp = append(icmp, ports...)
		binary.BigEndian.PutUint16(icmp[2:], ^sum16(icmp))
		return append(append(append(f, 8, 0), header(20+len(icmp), 1, from, vip)...), icmp...)
	}
	header := func(length int, protocol byte, src, dst netip.Addr) []byte {
		h := []byte{0x60, 0, 0, 0, 0, byte(length), protocol, 64}
		return append(append(h, src.AsSlice()...), dst.AsSlice()...)
	}
	icmp := append([]byte{2, 0, 0, 0, 0, 0, 0x05, 0x14}, header(8, 6, vip, from)...)
	icmp = append(icmp, ports...)
	pseudo := append(append(append(from.AsSlice(), vip.AsSlice()...), 0, 0, 0, byte(len(icmp)), 0, 0, 0, 58), icmp...)
	binary.BigEndian.PutUint16(icmp[2:], ^sum16(pseudo))
	return append(append(append(f, 0x86, 0xdd), header(len(icmp), 58, from, vip)...), icmp...)
}

// TestErrorsForEveryServer: an ICMP error about a connection that the director
// does not know comes to each real server of the service once, also to one of
// weight 0, as the director forwards: with that server's MAC address, a TTL less
// one, a right checksum and nothing else changed.
func TestErrorsForEveryServer(t *testing.T) {
	for _, mode := range []string{"native", "generic", "tc"} {
		t.Run(mode, func(t *testing.T) {
			c := newCluster(t, lab.Options{RealServers: 4})
			c.start("--mode", mode, "--vip", lab.VIP6().String())
			// The fourth one is of another service, and not asked.
			c.rules("-A -t VIP:80", "-a -t VIP:80 -r RS1", "-a -t VIP:80 -r RS2 -w 0", "-a -t VIP:80 -r RS3", "-A -t VIP:81", "-a -t VIP:81 -r RS4")
			c.rules("-A -t [" + lab.VIP6().String() + "]:80")
			for i, w := range []int{1, 0, 1} {
				c.rules(fmt.Sprintf("-a -t [%v]:80 -r [%v]:80 -w %d", lab.VIP6(), c.RealServers[i].Addr6(), w))
			}
			var ears []*ear
			for _, rs := range c.RealServers {
				ears = append(ears, c.listen(rs))
			}
			eventually(t, "the real servers' MAC addresses", func() bool {
				for _, n := range c.status().Neighbours {
					if n.MAC == "" {
						return false
					}
				}
				return true
			})
			const errors = 20
			var sent [][]byte
			for n := range errors {
				vip := []netip.Addr{lab.VIP(), lab.VIP6()}[n%2]
				frame := c.unreachable(vip, uint16(2000+n))
				sent = append(sent, frame)
				if err := c.Client.Send(frame); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "all copies", func() bool { return c.verdict("forward_related_copy") >= 2*errors })
			eventually(t, "all frames", func() bool {
				for _, frame := range sent {
					for _, e := range ears[:3] {
						if len(e.heard(frame, 26)) == 0 {
							return false
						}
					}
				}
				return true
			})
			for n, frame := range sent {
				ttl, from := 22, 26 // from the addresses on all is as it was
				if frame[12] == 0x86 {
					ttl, from = 21, 22
				}
				for i, rs := range c.RealServers {
					got := ears[i].heard(frame, 26)
					if i == 3 {
						if len(got) > 0 {
							t.Errorf("error %d came to another service's server", n)
						}
						continue
					}
					if len(got) != 1 {
						t.Fatalf("error %d came to %s %d times", n, rs.Name(), len(got))
					}
					f := got[0]
					if !bytes.Equal(f[:6], rs.MAC()) || !bytes.Equal(f[6:12], c.Director.MAC()) || f[ttl] != 63 ||
						!bytes.Equal(f[from:], frame[from:]) || !bytes.Equal(f[12:ttl], frame[12:ttl]) ||
						frame[12] == 8 && sum16(f[14:34]) != 0xffff {
						t.Errorf("error %d to %s:\nsent % x\ngot  % x", n, rs.Name(), frame, f)
					}
				}
			}
			if n := c.verdict("forward_related_to_all"); n != errors {
				t.Errorf("%d errors went to all, want %d", n, errors)
			}
			if n := c.verdict("forward_related_copy"); n != 2*errors {
				t.Errorf("%d copies, want %d", n, 2*errors)
			}
			// One to each server is what is counted, too.
			for addr, r := range c.table("--stats")["TCP "+lab.VIP().String()+":80"] {
				if addr != "" && r[1] != errors/2 {
					t.Errorf("%s: %d packets counted, want %d", addr, r[1], errors/2)
				}
			}
		})
	}
}

// TestPMTU: a connection of a real server's that the director has never seen, as
// when another director has it, goes on over a way that takes only short packets:
// the router's word about that comes to the director, and from there to the
// server. That one has weight 0, so no hash names it.
func TestPMTU(t *testing.T) {
	for _, vip := range []netip.Addr{lab.VIP(), lab.VIP6()} {
		t.Run(vip.String(), func(t *testing.T) {
			c := newCluster(t, lab.Options{Router: true})
			c.start("--vip", lab.VIP6().String())
			body := make([]byte, 1<<20)
			rand.Read(body)
			for _, rs := range c.RealServers {
				c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String(), "--vip", lab.VIP6().String()).want(t, 0)
			}
			rs := c.RealServers[0]
			l, err := rs.Listen("tcp", netip.AddrPortFrom(vip, 80).String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go func() { conn.Write(body); conn.Close() }()
				}
			}()
			at, family, rip := fmt.Sprintf("-t %v", netip.AddrPortFrom(vip, 80)), "-4", rs.Addr().String()
			other := c.RealServers[1].Addr().String()
			if vip.Is6() {
				family, rip, other = "-6", rs.Addr6().String(), c.RealServers[1].Addr6().String()
			}
			server := func(addr string) string {
				if vip.Is6() {
					return "[" + addr + "]:80"
				}
				return addr
			}
			c.rules("-A "+at, "-a "+at+" -r "+server(rip)+" -w 0", "-a "+at+" -r "+server(other))
			// What the client sends goes by another way than the director.
			c.sh(c.Router, fmt.Sprintf(`ip %s rule add iif eth1 pref 100 lookup 100
				ip %s route add %v via %s dev eth0 table 100
				ip link set eth1 mtu 1300`, family, family, vip, rip))
			ctx, cancel := contextFor(t)
			defer cancel()
			conn, err := c.Client.Dial(ctx, "tcp", netip.AddrPortFrom(vip, 80).String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d of %d bytes came: %v", len(got), len(body), err)
			}
			if c.verdict("forward_related_copy") == 0 || c.verdict("forward_new") != 0 || c.verdict("forward_adopted") != 0 {
				t.Errorf("the router's word did not go this way: %v", c.status().Verdicts)
			}
		})
	}
}
