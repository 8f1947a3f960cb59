// SPDX-License-Identifier: MIT

package dataplane

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

const fateVariable = "SHUNT_TEST_FATE"

// fateSite is a lab with TCP servers that accept and wait, a client behind a router
// that waits as well, and a data plane in a process of its own.
type fateSite struct {
	*lab.Cluster
	t        *testing.T
	mode     Mode
	pins     string
	plane    *lab.Cmd
	commands io.WriteCloser
	answers  *bufio.Scanner

	mu       sync.Mutex
	accepted map[netip.AddrPort]*waiting // by client
}

// waiting is one end of a connection, which somebody reads from.
type waiting struct {
	net.Conn
	server string
	ended  chan error
}

func wait(c net.Conn, server string) *waiting {
	w := &waiting{c, server, make(chan error, 1)}
	go func() {
		_, err := c.Read(make([]byte, 1))
		w.ended <- err
	}()
	return w
}

func newFateSite(t *testing.T, mode Mode) *fateSite {
	s := &fateSite{Cluster: labtest.Up(t, lab.Options{Router: true}), t: t, mode: mode, pins: bpffs(t), accepted: map[netip.AddrPort]*waiting{}}
	s.sh(s.Director, "ip addr add %v/32 dev eth0; ip addr add %v/128 dev eth0 nodad", lab.VIP(), lab.VIP6())
	for _, n := range s.RealServers {
		s.sh(n, "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore; echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce; ip addr add %v/32 dev lo; ip addr add %v/128 dev lo nodad", lab.VIP(), lab.VIP6())
		for _, vip := range []netip.Addr{lab.VIP(), lab.VIP6()} {
			s.serve(n, netip.AddrPortFrom(vip, 80))
		}
	}
	t.Cleanup(func() {
		if err := RemovePins(s.pins, "live"); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *fateSite) sh(n *lab.Node, format string, args ...any) {
	s.t.Helper()
	if out, err := n.Command(s.t.Context(), "sh", "-ec", fmt.Sprintf(format, args...)).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", n.Name(), err, out)
	}
}

func (s *fateSite) serve(n *lab.Node, at netip.AddrPort) {
	s.t.Helper()
	l, err := n.Listen("tcp", at.String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.accepted[c.RemoteAddr().(*net.TCPAddr).AddrPort()] = wait(c, n.Name())
			s.mu.Unlock()
		}
	}()
}

// start starts the data plane's process: this test's own program, in the director's
// namespace.
func (s *fateSite) start() {
	s.t.Helper()
	c := s.Director.Command(context.WithoutCancel(s.t.Context()), os.Args[0], "-test.run=^TestResetLive$", "-test.v")
	c.Env = append(os.Environ(), fateVariable+"="+string(s.mode)+" "+s.pins)
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
	s.t.Cleanup(func() { c.Stop() })
	s.await("ready")
}

// await reads what the data plane's process says, up to a line.
func (s *fateSite) await(line string) (before string) {
	s.t.Helper()
	for s.answers.Scan() {
		if s.answers.Text() == line {
			return before
		}
		before = s.answers.Text()
	}
	s.t.Fatalf("the data plane's process ended after %q", before)
	return ""
}

// tell has the process do something, and returns the last line that it says to it.
func (s *fateSite) tell(format string, args ...any) string {
	s.t.Helper()
	fmt.Fprintf(s.commands, format+"\n", args...)
	return s.await("done")
}

// serveFates is the data plane's process. It does what lines on its input say.
func serveFates(t *testing.T, mode Mode, pins string) {
	p, err := Open(Options{Instance: "live", PinDir: pins, Interfaces: []string{"eth0"}, Mode: mode, Connections: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); fmt.Println("done") {
		var a, b int32
		var fate lvs.Fate
		switch line := in.Text(); {
		case line == "run":
			go p.Run(t.Context())
		case scanned(fmt.Sscanf(line, "weights %d %d", &a, &b)):
			eth0, err := net.InterfaceByName("eth0")
			check(err)
			rules := table(lvs.TCP, lvs.RoundRobin, server(0, a), server(1, b))
			rules.Services = append(rules.Services, table6(lvs.TCP, lvs.RoundRobin, server(0, a), server(1, b)).Services...)
			for n := range 2 {
				for _, r := range []netip.Addr{rip(n), rip6(n)} {
					check(p.SetNeighbour(Neighbour{Addr: r, Interface: eth0.Index, Source: eth0.HardwareAddr,
						MAC: net.HardwareAddr{2, 0, 172, 16, 16, byte(177 + n)}}))
				}
			}
			check(p.Apply(rules))
		case scanned(fmt.Sscanf(line, "end %d", &a)):
			_, word, _ := strings.Cut(line, " ")
			_, word, _ = strings.Cut(word, " ")
			check(fate.UnmarshalText([]byte(word)))
			sum := 0
			for id, i := range p.installed {
				for _, r := range i.service.Servers {
					if r.Addr == rip(int(a)) || r.Addr == rip6(int(a)) {
						n, err := p.End(id, r.ServerID, fate)
						check(err)
						sum += n
					}
				}
			}
			fmt.Println(sum)
		case scanned(fmt.Sscanf(line, "left %d", &a)):
			status, err := p.Status()
			check(err)
			left := uint32(0)
			for _, s := range status {
				for _, r := range s.Servers {
					if r.Addr == rip(int(a)) || r.Addr == rip6(int(a)) {
						left += r.Active + r.Inactive
					}
				}
			}
			fmt.Println(left)
		}
	}
}

func scanned(_ int, err error) bool { return err == nil }

// connect opens connections to both addresses, so many to each, and tells which
// server each has.
func (s *fateSite) connect(each int) (all []*waiting) {
	s.t.Helper()
	for _, vip := range []netip.Addr{lab.VIP(), lab.VIP6()} {
		for range each {
			c, err := s.Client.Dial(s.t.Context(), "tcp", netip.AddrPortFrom(vip, 80).String())
			if err != nil {
				s.t.Fatal(err)
			}
			s.t.Cleanup(func() { c.Close() })
			w := wait(c, "")
			for until := time.Now().Add(5 * time.Second); w.server == "" && time.Now().Before(until); time.Sleep(time.Millisecond) {
				if peer := s.peer(w); peer != nil {
					w.server = peer.server
				}
			}
			all = append(all, w)
		}
	}
	return all
}

// peer is a connection's other end.
func (s *fateSite) peer(w *waiting) *waiting {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted[w.LocalAddr().(*net.TCPAddr).AddrPort()]
}

// reset wants an end to be told of the reset, and tells how long that took.
func (w *waiting) reset(t *testing.T, what string) time.Duration {
	t.Helper()
	begin := time.Now()
	select {
	case err := <-w.ended:
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v: %v", what, w.RemoteAddr(), err)
		}
	case <-time.After(8 * time.Second):
		t.Errorf("%s: %v: nothing comes", what, w.RemoteAddr())
	}
	return time.Since(begin)
}

// quiet wants nothing to have come.
func (w *waiting) quiet(t *testing.T, what string) {
	t.Helper()
	select {
	case err := <-w.ended:
		t.Errorf("%s: %v: %v", what, w.RemoteAddr(), err)
	default:
	}
}

// TestResetLive: clients that wait for a server that is dead are told at once, by a
// RST that their kernels believe, also if the daemon was killed between; of a server
// that lives its side is told as well. No connection is left in the tables then.
func TestResetLive(t *testing.T) {
	if args := os.Getenv(fateVariable); args != "" {
		mode, pins, _ := strings.Cut(args, " ")
		serveFates(t, Mode(mode), pins)
		return
	}
	for _, mode := range []Mode{Native, TC} {
		t.Run(string(mode), func(t *testing.T) { testResetLive(newFateSite(t, mode)) })
	}
}

func testResetLive(s *fateSite) {
	s.start()
	s.tell("weights 1 1")
	all := s.connect(4)
	dead, lives := all, slices.Clone(all)
	dead = slices.DeleteFunc(slices.Clone(dead), func(w *waiting) bool { return w.server != "rs1" })
	lives = slices.DeleteFunc(lives, func(w *waiting) bool { return w.server != "rs2" })
	if len(dead) != 4 || len(lives) != 4 {
		s.t.Fatalf("%d and %d connections at the servers", len(dead), len(lives))
	}

	s.sh(s.RealServers[0], "ip link set eth0 down")
	s.tell("weights 0 1")
	if n := s.tell("end 0 reset"); n != "4" {
		s.t.Errorf("%s connections are to be reset, want 4", n)
	}
	time.Sleep(50 * time.Millisecond)
	for _, w := range all {
		w.quiet(s.t, "nobody asks yet")
	}
	s.plane.Process.Kill()
	s.plane.Wait()
	s.start()
	s.tell("run")
	took := time.Duration(0)
	for _, w := range dead {
		took = max(took, w.reset(s.t, "the server is dead"))
	}
	s.t.Logf("the last client was told after %v", took.Round(time.Millisecond))
	if n := s.tell("left 0"); n != "0" {
		s.t.Errorf("the dead server has %s connections", n)
	}
	for _, w := range lives {
		w.quiet(s.t, "its server lives")
		s.peer(w).quiet(s.t, "it lives")
	}

	s.tell("weights 0 0")
	if n := s.tell("end 1 reset"); n != "4" {
		s.t.Errorf("%s connections are to be reset, want 4", n)
	}
	for _, w := range lives {
		w.reset(s.t, "its server is drained")
		s.peer(w).reset(s.t, "the drained server itself")
	}
	if n := s.tell("left 1"); n != "0" {
		s.t.Errorf("the drained server has %s connections", n)
	}
}
