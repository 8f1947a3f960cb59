// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// method is one way in which a real server accepts what is for the VIP.
type method struct {
	name   string
	listen int // the web server's port
	args   []string
}

func methods() []method {
	return []method{
		{"loopback", 80, nil},
		{"redirect", 80, []string{"--method", "redirect", "--port", "80/tcp"}},
		{"redirect to another port", 8080, []string{"--method", "redirect", "--port", "80/tcp:8080"}},
	}
}

// cycle is a scheduler, weights, and how often each real server's turn comes in
// a cycle of its requests.
type cycle struct {
	scheduler string
	weights   []int
	turns     map[string]int
}

func cycles() []cycle {
	even := map[string]int{"rs1": 1, "rs2": 1}
	return []cycle{
		{"rr", []int{1, 1}, even},
		{"wrr", []int{3, 1}, map[string]int{"rs1": 3, "rs2": 1}},
		{"wlc", []int{1, 1}, even},
	}
}

// TestWeb is the whole path with real nginx and real curl, for each method of
// the real servers and each scheduler, from the same network and through a
// router.
func TestWeb(t *testing.T) {
	for _, router := range []bool{false, true} {
		for _, m := range methods() {
			name := m.name
			if router {
				name += ", client behind a router"
			}
			t.Run(name, func(t *testing.T) { testWeb(t, m, router) })
		}
	}
}

func testWeb(t *testing.T, m method, router bool) {
	c := newCluster(t, lab.Options{Router: router})
	var servers []*nginx
	for _, rs := range c.RealServers {
		servers = append(servers, startNginx(t, rs, m.listen))
		c.shunt(rs, append([]string{"realserver", "start", "--vip", lab.VIP().String()}, m.args...)...).want(t, 0)
	}
	c.start()
	for _, s := range cycles() {
		c.settle() // wlc would make up for what was before
		c.rules("-C")
		c.rules(c.web(s.scheduler, s.weights...)...)
		c.rules("-Z")
		checkSpread(t, c, s)
	}
	checkBodies(t, c, servers)
	checkKeepAlive(t, c)
	if drops := lost(c); len(drops) > 0 {
		t.Errorf("packets were dropped or left to the director's own stack: %v", drops)
	}
}

// checkSpread makes requests one after the other: with rr and wrr each real
// server gets exactly its turns. With wlc what decides is how many connections
// each has, open or in FIN_WAIT, so that it comes to the same, but for a FIN
// that is late.
func checkSpread(t *testing.T, c *cluster, s cycle) {
	t.Helper()
	const n = 40
	tap, err := c.Tap(c.Client, c.Director)
	if err != nil {
		t.Fatal(err)
	}
	answered := c.get(n)
	want, each := map[string]int{}, 0
	for _, turns := range s.turns {
		each += turns
	}
	for name, turns := range s.turns {
		want[name] = n / each * turns
	}
	if s.scheduler == "wlc" {
		if d := answered["rs1"] - answered["rs2"]; d < -2 || d > 2 {
			t.Errorf("wlc: answered by %v", answered)
		}
	} else if !maps.Equal(answered, want) {
		t.Errorf("%s with weights %v: answered by %v, want %v", s.scheduler, s.weights, answered, want)
	}
	if conns := c.conns(); !maps.Equal(conns, answered) {
		t.Errorf("%s: ipvsadm counts %v, answered by %v", s.scheduler, conns, answered)
	}
	frames, err := tap.Close()
	if err != nil {
		t.Fatal(err)
	}
	checkPath(t, c, frames)
}

// checkPath looks at every frame of the service: requests pass the director and
// come out of it with other MACs and a TTL less, replies go from the real server
// to the client, or its router, and never come near the director.
func checkPath(t *testing.T, c *cluster, frames []lab.Frame) {
	t.Helper()
	vip := netip.AddrPortFrom(lab.VIP(), 80)
	macs := map[lab.MAC]bool{}
	for _, rs := range c.RealServers {
		macs[lab.MAC(rs.MAC())] = true
	}
	initial := uint8(64)
	if c.Router != nil {
		initial--
	}
	var in, out, back int
	for _, f := range frames {
		switch {
		case f.IP == nil || f.IP.Protocol == lab.ProtocolICMPv6: // neighbour discovery
		case f.Port == "director" && f.IP.Src.Addr() == lab.VIP():
			t.Fatalf("a reply at the director: %v", f)
		case f.Port == "director" && f.IP.Dst != vip:
			t.Fatalf("something else at the director: %v", f)
		case f.Port == "director" && !f.FromNode:
			in++
			if f.IP.TTL != initial {
				t.Fatalf("to the director with another TTL than %d: %v", initial, f)
			}
		case f.Port == "director":
			out++
			if !f.Src.Is(c.Director.MAC()) || !macs[f.Dst] || f.IP.TTL != initial-1 {
				t.Fatalf("sent on by the director: %v, TTL %d", f, f.IP.TTL)
			}
		case f.IP.Src == vip:
			back++
			if c.Router == nil && !macs[f.Src] {
				t.Fatalf("a reply that no real server sent: %v", f)
			}
		}
	}
	if in == 0 || in != out || back == 0 {
		t.Errorf("%d packets to the director, %d out of it, %d replies at the client", in, out, back)
	}
}

// checkBodies sends and fetches bodies much longer than a packet.
func checkBodies(t *testing.T, c *cluster, servers []*nginx) {
	t.Helper()
	big := put(t, servers, "big", 5<<20)
	upload := filepath.Join(t.TempDir(), "upload")
	body := random(1 << 20)
	if err := os.WriteFile(upload, body, 0o644); err != nil {
		t.Fatal(err)
	}
	tap, err := c.Tap(c.Director)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // one from each real server
		if got := c.curl(url("/files/big")); got != string(big) {
			t.Errorf("%d bytes with sum %s came; want %d with %s", len(got), sum([]byte(got)), len(big), sum(big))
		}
		path := c.curl("-H", "Expect:", "--data-binary", "@"+upload, url("/upload"))
		if got := kept(t, servers, path); !bytes.Equal(got, body) {
			t.Errorf("%d bytes with sum %s arrived; want %d with %s", len(got), sum(got), len(body), sum(body))
		}
	}
	frames, err := tap.Close()
	if err != nil {
		t.Fatal(err)
	}
	passed, payload := 0, 0
	for _, f := range frames {
		switch {
		case f.IP == nil:
		case f.IP.Src.Addr() == lab.VIP():
			t.Fatalf("a reply at the director: %v", f)
		case f.FromNode:
			passed += f.Length
			payload += f.IP.Payload
		}
	}
	// The uploads have to come this way, the downloads must not.
	if payload < 2*len(body) || passed > 2*len(body)*3/2 {
		t.Errorf("the director sent on %d bytes, of which %d are payload, for uploads of %d bytes and downloads of %d",
			passed, payload, 2*len(body), 2*len(big))
	}
}

// checkKeepAlive makes many requests on one connection: the same real server
// answers all, and it counts once.
func checkKeepAlive(t *testing.T, c *cluster) {
	t.Helper()
	sumOf := func(conns map[string]int) (n int) {
		for _, i := range conns {
			n += i
		}
		return n
	}
	before := sumOf(c.conns())
	out := c.curl("-w", `%{num_connects}\n`, url("/")+"?[1-30]")
	one := regexp.MustCompile(`^(rs\d)\n1\n((rs\d)\n0\n){29}$`).FindStringSubmatch(out)
	if one == nil || strings.Count(out, one[1]+"\n") != 30 {
		t.Errorf("one connection, one real server; curl says:\n%s", out)
	}
	if n := sumOf(c.conns()) - before; n != 1 {
		t.Errorf("%d connections were counted for one", n)
	}
}

// lost names the verdicts of packets that should have been forwarded.
func lost(c *cluster) (all []string) {
	c.t.Helper()
	for _, v := range c.status().Verdicts {
		bad := v.Action == "drop" || v.Action == "reply" || v.Name == "pass_stray" || v.Name == "forward_adopted" || v.Name == "forward_untracked"
		if v.Packets > 0 && bad {
			all = append(all, fmt.Sprintf("%s: %d", v.Name, v.Packets))
		}
	}
	return all
}
