// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// otherVIP is one whose real servers redirect it to port 8080.
const otherVIP = "172.16.16.171"

// modeSuite is a cluster with everything that traffic can be of: clients on the
// same network and behind a router, real servers of both methods, families and
// protocols. Only its director differs from mode to mode.
type modeSuite struct {
	*cluster
	mode    string
	servers []*nginx
	far     *lab.Node // the client behind the router
	near    *lab.Node // the one on the same network
	router  *lab.Node
}

// TestModes runs the same scenarios in each attach mode: generic is for network
// cards whose drivers have no XDP, tc for whoever wants no XDP at all.
func TestModes(t *testing.T) {
	c := newCluster(t, lab.Options{Router: true})
	s := &modeSuite{cluster: c, far: c.Client, router: c.Router, near: c.add("near", "172.16.16.10/24")}
	for _, rs := range c.RealServers {
		s.servers = append(s.servers, startNginx(t, rs, 80, 8080))
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String()).want(t, 0)
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP6().String()).want(t, 0)
		c.shunt(rs, "realserver", "start", "--vip", otherVIP, "--method", "redirect", "--port", "80/tcp:8080").want(t, 0)
		c.serveUDP(rs, 53, ",bind="+lab.VIP().String())
	}
	for mode, reason := range map[string]string{"native": "", "generic": "generic XDP was asked for", "tc": "tc was asked for"} {
		t.Run(mode, func(t *testing.T) {
			s.mode = mode
			s.within(t, s.startDirector)
			s.within(t, s.addServices)
			defer s.within(t, s.stopDirector)
			for _, scenario := range []struct {
				name string
				run  func(*testing.T)
			}{
				{"status", func(t *testing.T) { s.status(t, reason) }},
				{"web from the same network", s.webFromNear},
				{"web through a router", s.web},
				{"UDP", s.udp},
				{"IPv6", s.ipv6},
				{"fragments", s.fragments},
				{"redirect", s.redirect},
				{"load with edits and a killed director", s.load},
				{"a narrow way", s.narrow},
				{"conflict", s.conflict},
			} {
				t.Run(scenario.name, func(t *testing.T) { s.within(t, scenario.run) })
			}
		})
	}
}

// within has the cluster report to a subtest.
func (s *modeSuite) within(t *testing.T, f func(*testing.T)) {
	t.Helper()
	outer := s.t
	s.t = t
	defer func() { s.t = outer }()
	f(t)
}

func (s *modeSuite) startDirector(*testing.T) {
	s.start("--mode", s.mode, "--vip", lab.VIP6().String(), "--vip", otherVIP)
}

func (s *modeSuite) addServices(*testing.T) {
	s.rules("-C")
	s.rules(s.cluster.web("rr")...)
	s.rules("-A -u VIP:53 -s rr", "-a -u VIP:53 -r RS1 -g", "-a -u VIP:53 -r RS2 -g")
	s.rules("-A -t "+otherVIP+":80 -s rr", "-a -t "+otherVIP+":80 -r RS1", "-a -t "+otherVIP+":80 -r RS2")
	s.rules("-A -t [" + lab.VIP6().String() + "]:80 -s rr")
	for _, rs := range s.RealServers {
		s.rules(fmt.Sprintf("-a -t [%v]:80 -r [%v]:80 -g", lab.VIP6(), rs.Addr6()))
	}
}

func (s *modeSuite) stopDirector(t *testing.T) {
	s.director("stop")
	for _, rs := range s.RealServers {
		s.sh(s.Director, fmt.Sprintf("ip route del %v/32 dev eth0 2>/dev/null || true", rs.Addr()))
	}
	for _, n := range []*lab.Node{s.far, s.near} {
		s.sh(n, "ip route flush cache") // what it learned of the narrow way
	}
}

func (s *modeSuite) status(t *testing.T, reason string) {
	st := s.cluster.status()
	if len(st.Interfaces) != 1 || string(st.Interfaces[0].Mode) != s.mode || st.Interfaces[0].Reason != reason {
		t.Errorf("interfaces: %+v", st.Interfaces)
	}
	want := fmt.Sprintf("eth0  %s", s.mode)
	if reason != "" {
		want += fmt.Sprintf(" (%s)", reason)
	}
	if out := s.director("status"); !strings.Contains(strings.Join(strings.Fields(out), " "), strings.Join(strings.Fields(want), " ")) {
		t.Errorf("no %q in\n%s", want, out)
	}
}

func (s *modeSuite) webFromNear(t *testing.T) {
	s.Client, s.Router = s.near, nil
	defer func() { s.Client, s.Router = s.far, s.router }()
	s.web(t)
}

func (s *modeSuite) web(t *testing.T) {
	s.rules("-Z")
	checkSpread(t, s.cluster, cycles()[0])
	checkBodies(t, s.cluster, s.servers)
	checkKeepAlive(t, s.cluster)
	if drops := lost(s.cluster); len(drops) > 0 {
		t.Errorf("packets were dropped or left to the director's own stack: %v", drops)
	}
}

func (s *modeSuite) udp(t *testing.T) {
	answered := map[string]int{}
	for range 10 {
		answered[s.askUDP("a")["a"]]++
	}
	if want := map[string]int{"rs1": 5, "rs2": 5}; !maps.Equal(answered, want) {
		t.Errorf("one datagram from each of ten ports: answered by %v", answered)
	}
}

func (s *modeSuite) ipv6(t *testing.T) {
	base := "http://[" + lab.VIP6().String() + "]/"
	want := put(t, s.servers, "six", 1<<20)
	if got := s.getFrom(base, 10); got["rs1"] != 5 || got["rs2"] != 5 {
		t.Errorf("answered by %v", got)
	}
	if got := s.curl(base + "files/six"); got != string(want) {
		t.Errorf("a file of %d bytes came as %d others", len(want), len(got))
	}
}

// fragments sends datagrams that take three frames.
func (s *modeSuite) fragments(t *testing.T) {
	before := s.verdict("forward_fragment")
	for range 4 {
		conn, err := s.Client.Dial(t.Context(), "udp", net.JoinHostPort(lab.VIP().String(), "53"))
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(commandLimit))
		payload := strings.Repeat("x", 4000)
		if _, err := io.WriteString(conn, payload+"\n"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 8192)
		n, err := conn.Read(b)
		conn.Close()
		if err != nil || !strings.HasPrefix(string(b[:n]), "rs") || !strings.Contains(string(b[:n]), payload) {
			t.Fatalf("answer of %d bytes, %v", n, err)
		}
	}
	if n := s.verdict("forward_fragment") - before; n != 8 {
		t.Errorf("%d fragments were sent on, want 8", n)
	}
}

func (s *modeSuite) redirect(t *testing.T) {
	if got := s.getFrom("http://"+otherVIP+"/", 10); got["rs1"] != 5 || got["rs2"] != 5 {
		t.Errorf("answered by %v", got)
	}
}

// load: connections come and go while a server is quiesced and comes back, and
// while the daemon is killed and the next one takes over.
func (s *modeSuite) load(t *testing.T) {
	l := s.cluster.load()
	l.next()
	s.rules("-e -t VIP:80 -r RS2 -w 0")
	if b := l.next(); b.answered["rs2"] != 0 || b.answered["rs1"] == 0 {
		t.Errorf("rs2 is quiesced, but of a batch answered by %v", b.answered)
	}
	s.rules("-e -t VIP:80 -r RS2 -w 1")
	s.kill()
	if b := l.next(); b.answered["rs1"] == 0 || b.answered["rs2"] == 0 {
		t.Errorf("without a daemon, of a batch answered by %v", b.answered)
	}
	s.startDirector(t)
	st := s.cluster.status()
	if !st.TookOver || string(st.Interfaces[0].Mode) != s.mode {
		t.Errorf("the next daemon: %+v", st.Interfaces)
	}
	l.next()
	if all := l.finish(); len(all.failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", len(all.failed), all.total(), all.failed[0])
	}
	s.settle()
}

// narrow: the way to the real servers takes only short packets. The client is
// told, and an upload arrives. The next daemon finds the way so.
func (s *modeSuite) narrow(t *testing.T) {
	s.kill()
	for _, rs := range s.RealServers {
		s.sh(s.Director, fmt.Sprintf("ip route add %v/32 dev eth0 mtu 900", rs.Addr()))
	}
	s.startDirector(t)
	before := s.verdict("reply_too_big")
	body := random(1 << 20)
	file := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	path := s.curl("-T", file, url("/upload"))
	if got := kept(t, s.servers, path); !bytes.Equal(got, body) {
		t.Errorf("an upload of %d bytes arrived as %d others", len(body), len(got))
	}
	if s.verdict("reply_too_big") == before {
		t.Error("the client was told nothing: the test shows nothing")
	}
}

// conflict: ARP passes the program, and who else claims the VIP is seen.
func (s *modeSuite) conflict(t *testing.T) {
	rogue := s.RealServers[0]
	if err := rogue.Send(gratuitousARP(rogue.MAC(), netip.MustParseAddr(otherVIP))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the conflict in status", func() bool {
		for _, v := range s.cluster.status().VIPs {
			if v.Addr.String() == otherVIP && v.Conflict != nil {
				return v.Conflict.MAC == rogue.MAC().String()
			}
		}
		return false
	})
}
