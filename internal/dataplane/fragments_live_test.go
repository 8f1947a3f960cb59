// SPDX-License-Identifier: MIT

package dataplane

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// site is a lab with a data plane of both families, in a process of its own in
// the director's namespace, and UDP servers that send back what they get.
type site struct {
	*lab.Cluster
	t        *testing.T
	plane    *lab.Cmd
	commands io.WriteCloser
	answers  *bufio.Scanner
	pins     string

	mu  sync.Mutex
	got map[string][]string // by datagram: the servers that had it whole
}

// The servers' and others' IPv6 addresses have the IPv4 address in the last bytes.
func six(a netip.Addr) netip.Addr {
	b, four := netip.MustParseAddr("2001:db8:16::").As16(), a.As4()
	copy(b[12:], four[:])
	return netip.AddrFrom16(b)
}

func newSite(t *testing.T, mode Mode) *site {
	s := &site{Cluster: labtest.Up(t, lab.Options{}), t: t, got: map[string][]string{}, pins: bpffs(t)}
	for _, n := range s.Nodes() {
		s.sh(n, "echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6; ip addr add %v/64 dev eth0 nodad", six(n.Addr()))
	}
	s.sh(s.Director, "ip addr add %v/32 dev eth0; ip addr add %v/128 dev eth0 nodad", lab.VIP(), six(lab.VIP()))
	for _, n := range s.RealServers {
		s.sh(n, "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore; ip addr add %v/32 dev lo; ip addr add %v/128 dev lo nodad", lab.VIP(), six(lab.VIP()))
		for _, vip := range []netip.Addr{lab.VIP(), six(lab.VIP())} {
			s.serve(n, netip.AddrPortFrom(vip, 80))
		}
	}
	s.start(mode)
	return s
}

func (s *site) sh(n *lab.Node, format string, args ...any) {
	s.t.Helper()
	if out, err := n.Command(s.t.Context(), "sh", "-ec", fmt.Sprintf(format, args...)).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", n.Name(), err, out)
	}
}

// serve sends datagrams back, and remembers who got which.
func (s *site) serve(n *lab.Node, at netip.AddrPort) {
	s.t.Helper()
	c, err := n.ListenPacket("udp", at.String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			size, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.got[string(b[:size])] = append(s.got[string(b[:size])], n.Name())
			s.mu.Unlock()
			c.WriteTo(b[:size], from)
		}
	}()
}

const liveVariable = "SHUNT_TEST_FRAGMENTS"

// start runs this test's own program again, in the director's namespace: see
// servePlane.
func (s *site) start(mode Mode) {
	s.t.Helper()
	c := s.Director.Command(context.WithoutCancel(s.t.Context()), os.Args[0], "-test.run=^TestFragmentsLive$", "-test.v")
	c.Env = append(os.Environ(), liveVariable+"="+string(mode)+" "+s.pins)
	var err error
	if s.commands, err = c.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.plane, s.answers = c, bufio.NewScanner(out)
	s.t.Cleanup(func() {
		c.Stop()
		if err := RemovePins(s.pins, "live"); err != nil {
			s.t.Error(err)
		}
	})
	s.await("ready")
}

// await reads what the data plane's process says, up to a line.
func (s *site) await(line string) (before []string) {
	s.t.Helper()
	for s.answers.Scan() {
		if s.answers.Text() == line {
			return before
		}
		before = append(before, s.answers.Text())
	}
	s.t.Fatalf("the data plane's process ended:\n%s", strings.Join(before, "\n"))
	return nil
}

// servePlane is the data plane's process: it opens one, installs UDP services of
// both families, says "ready", and its verdicts whenever it is asked to.
func servePlane(t *testing.T, mode Mode, pins string) {
	p, err := Open(Options{Instance: "live", PinDir: pins, Interfaces: []string{"eth0"}, Mode: mode, Connections: 1 << 12})
	if err != nil {
		t.Fatal(err)
	}
	rules := table(lvs.UDP, lvs.RoundRobin, server(0, 1), server(1, 1))
	rules.Services = append(rules.Services, table6(lvs.UDP, lvs.RoundRobin, server(0, 1), server(1, 1)).Services...)
	for i, s := range rules.Services {
		if s.Addr.Is6() {
			s.Addr = six(vip)
		}
		for _, r := range rules.Services[i].Servers {
			a := r.Addr.As16()
			eth0, err := net.InterfaceByName("eth0")
			if err == nil {
				err = p.SetNeighbour(Neighbour{Addr: r.Addr, Interface: eth0.Index, Source: eth0.HardwareAddr,
					MAC: net.HardwareAddr{2, 0, a[12], a[13], a[14], a[15]}})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.Apply(rules); err != nil {
		t.Fatal(err)
	}
	go p.Run(t.Context())
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); fmt.Println("done") {
		all, err := p.Verdicts()
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range all {
			fmt.Println(v.Name, v.Packets)
		}
	}
}

// verdicts asks the data plane's process.
func (s *site) verdicts() map[string]uint64 {
	s.t.Helper()
	fmt.Fprintln(s.commands)
	out := map[string]uint64{}
	for _, line := range s.await("done") {
		var name string
		var n uint64
		if _, err := fmt.Sscan(line, &name, &n); err != nil {
			s.t.Fatalf("%q: %v", line, err)
		}
		out[name] = n
	}
	return out
}

// sender is a UDP socket of the client's, and a way to make its frames by hand.
type sender struct {
	*site
	net.PacketConn
	from, to netip.AddrPort
	random   *rand.Rand
	id       byte
}

func (s *site) client(vip netip.Addr, seed uint64) *sender {
	s.t.Helper()
	from := s.Client.Addr()
	if vip.Is6() {
		from = six(from)
	}
	c, err := s.Client.ListenPacket("udp", netip.AddrPortFrom(from, 0).String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return &sender{site: s, PacketConn: c, from: c.LocalAddr().(*net.UDPAddr).AddrPort(),
		to: netip.AddrPortFrom(vip, 80), random: rand.New(rand.NewPCG(seed, uint64(vip.BitLen())))}
}

// datagram is one of 4000 bytes that no other is equal to, and its fragments as
// frames.
func (c *sender) datagram() (payload []byte, frames [][]byte) {
	payload = make([]byte, 4000)
	for i := range payload {
		payload[i] = byte(c.random.Uint32())
	}
	f := newFrame(lvs.UDP, c.from, c.to)
	f.eth.SrcMAC, f.eth.DstMAC = c.Client.MAC(), c.Director.MAC()
	f.payload = payload
	c.id++
	return payload, identify(c.id, pieces(f.bytes(), 1448))
}

func (c *sender) send(frames ...[]byte) {
	c.t.Helper()
	for _, f := range frames {
		if err := c.Client.Send(f); err != nil {
			c.t.Fatal(err)
		}
	}
}

// answered waits for these datagrams to come back from the VIP, each once, and
// wants each to have reached one server.
func (c *sender) answered(what string, want ...[]byte) {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 1<<16)
	open := map[string]bool{}
	for _, w := range want {
		open[string(w)] = true
	}
	for len(open) > 0 {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			c.t.Fatalf("%v: %s: %d of %d answers are missing: %v\n%v", c.to, what, len(open), len(want), err, c.verdicts())
		}
		if from.(*net.UDPAddr).AddrPort() != c.to || !open[string(b[:n])] {
			c.t.Fatalf("%v: %s: an answer of %d bytes from %v that was not asked for", c.to, what, n, from)
		}
		delete(open, string(b[:n]))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range want {
		if got := c.got[string(w)]; len(got) != 1 {
			c.t.Errorf("%v: %s: it reached %v", c.to, what, got)
		}
	}
}

// TestFragmentsLive sends datagrams of 4000 bytes to real UDP servers, in order
// as the client's kernel cuts them, and by hand in every other order: each comes
// whole to one server, and its answer to the client.
func TestFragmentsLive(t *testing.T) {
	if args := os.Getenv(liveVariable); args != "" {
		mode, pins, _ := strings.Cut(args, " ")
		servePlane(t, Mode(mode), pins)
		return
	}
	for _, mode := range []Mode{Native, Generic, TC} {
		t.Run(string(mode), func(t *testing.T) {
			s := newSite(t, mode)
			early := uint64(0)
			for _, vip := range []netip.Addr{lab.VIP(), six(lab.VIP())} {
				early += s.everyOrder(vip)
			}
			v := s.verdicts()
			if v["drop_parked"] != early || v["drop_park_lost"] != 0 || v["drop_park_full"] != 0 || v["aborted"] != 0 {
				t.Errorf("%d fragments were sent ahead of the first; verdicts %v", early, v)
			}

			// Without its daemon the data plane does what needs no keeping.
			s.plane.Process.Kill()
			s.plane.Wait()
			for n, vip := range []netip.Addr{lab.VIP(), six(lab.VIP())} {
				c := s.client(vip, uint64(100+n))
				payload, frames := c.datagram()
				c.send(frames...)
				c.answered("in order, the daemon dead", payload)
			}
		})
	}
}

// everyOrder returns how many fragments were sent before the first of their
// datagram.
func (s *site) everyOrder(vip netip.Addr) (early uint64) {
	for n := range 4 { // rr: both servers' turn
		c := s.client(vip, uint64(n))
		payload, _ := c.datagram()
		if _, err := c.WriteTo(payload, net.UDPAddrFromAddrPort(c.to)); err != nil {
			s.t.Fatal(err)
		}
		c.answered("as the kernel sends it", payload)
	}
	c, other := s.client(vip, 10), s.client(vip, 11)
	for _, order := range [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		payload, f := c.datagram()
		for i, n := range order {
			if n == 0 {
				early += uint64(i)
			}
		}
		c.send(f[order[0]], f[order[1]], f[order[2]])
		c.answered(fmt.Sprint("in the order ", order), payload)
	}
	// Two datagrams of other ports, one reversed and one shuffled.
	a, f := c.datagram()
	other.id = 100
	b, g := other.datagram()
	c.send(g[1], f[2], f[1], g[2], f[0], g[0])
	c.answered("reversed, mixed with another", a)
	other.answered("shuffled, mixed with another", b)
	early += 4 // f[2], f[1]; g[1], g[2]

	// What no service is for comes whole to the director's own stack, too.
	s.serve(s.Director, netip.AddrPortFrom(vip, 81))
	own := s.client(vip, 12)
	own.id, own.to = 200, netip.AddrPortFrom(vip, 81)
	payload, h := own.datagram()
	own.send(h[2], h[0], h[1])
	own.answered("to the director itself", payload)
	early++

	servers := map[string]bool{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, who := range s.got {
		servers[who[0]] = true
	}
	if len(servers) != 3 { // the director is one
		s.t.Errorf("only %v were asked: the test shows little", servers)
	}
	return early
}
