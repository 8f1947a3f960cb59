// SPDX-License-Identifier: MIT

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/link"
)

// TestLocalNode: the director is a real server, too.
func TestLocalNode(t *testing.T) {
	for _, mode := range []string{"native", "tc"} {
		t.Run(mode, func(t *testing.T) { testLocalNode(t, mode) })
	}
}

func testLocalNode(t *testing.T, mode string) {
	c := newCluster(t, lab.Options{})
	vip6 := lab.VIP6().String()
	for _, rs := range c.RealServers {
		startNginx(t, rs, 80)
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String(), "--vip", vip6).want(t, 0)
	}
	own := startNginx(t, c.Director, 80)
	neighbours := c.sh(c.Director, "ip neigh show nud permanent; ip neigh show 172.16.16.173; ip neigh show 127.0.0.1")
	c.start("--vip", vip6, "--mode", mode)
	c.rules(append(c.web("wrr", 2, 1), "-a -t VIP:80 -r DIP -w 1", "-A -t ["+vip6+"]:80 -s rr", "-a -t ["+vip6+"]:80 -r ::1")...)
	for _, rs := range c.RealServers {
		c.rules(fmt.Sprintf("-a -t [%s]:80 -r %v", vip6, rs.Addr6()))
	}
	forward := func(rip string) string {
		for line := range strings.Lines(c.rules("-Ln")) {
			if f := strings.Fields(line); len(f) > 2 && f[0] == "->" && f[1] == rip {
				return f[2]
			}
		}
		return "not listed"
	}
	dip := c.Director.Addr().String()
	for rip, want := range map[string]string{dip + ":80": "Local", "[::1]:80": "Local", c.spell("RS1:80"): "Route"} {
		if got := forward(rip); got != want {
			t.Errorf("%s is listed as %s, want %s", rip, got, want)
		}
	}
	if saved := c.rules("-S -n"); !strings.Contains(saved, c.spell("-a -t VIP:80 -r DIP:80 -g -w 1\n")) {
		t.Errorf("saved:\n%s", saved)
	}
	if text := c.director("status"); !strings.Contains(text, "this host") || strings.Contains(text, "WARNING") || strings.Contains(text, "UNRESOLVED") {
		t.Errorf("status:\n%s", text)
	}
	if now := c.sh(c.Director, "ip neigh show nud permanent; ip neigh show 172.16.16.173; ip neigh show 127.0.0.1"); now != neighbours {
		t.Errorf("neighbour entries for the director itself:\n%s", now)
	}

	// Shares, in both families, and replies of any length.
	want := func(what string, got, want map[string]int) {
		t.Helper()
		if !maps.Equal(got, want) {
			t.Errorf("%s: answered by %v, want %v", what, got, want)
		}
	}
	want("wrr 2:1:1", c.get(40), map[string]int{"rs1": 20, "rs2": 10, "director": 10})
	want("IPv6, rr", c.getFrom("http://["+vip6+"]/", 30), map[string]int{"rs1": 10, "rs2": 10, "director": 10})
	if n := c.verdict("forward_local"); n < 20*4 {
		t.Errorf("only %d packets were left to the own stack as local node", n)
	}
	if drops := lost(c); len(drops) > 0 {
		t.Errorf("packets were dropped or left to the director's own stack: %v", drops)
	}
	servers := c.table("--stats")["TCP "+lab.VIP().String()+":80"]
	if r := servers[dip+":80"]; len(r) == 0 || r[0] != 10 || r[1] < 40 {
		t.Errorf("counted for the local node: %v", r)
	}
	put(t, []*nginx{own}, "long", 3<<20)
	c.rules("-E -t VIP:80 -s fo", "-e -t VIP:80 -r DIP -w 9")
	if got, long := c.curl(url("/files/long")), random(3<<20); got != string(long) {
		t.Errorf("a file of %d bytes came as %d others", len(long), len(got))
	}

	// Persistence.
	c.rules("-E -t VIP:80 -s rr -p 60")
	if got := c.get(12); len(got) != 1 {
		t.Errorf("persistent, and answered by %v", got)
	}
	c.rules("-e -t VIP:80 -r RS1 -w 0", "-e -t VIP:80 -r RS2 -w 0", "-E -t VIP:80 -s rr")
	eventually(t, "all connections, and then their template, to end", func() bool {
		c.shunt(c.Director, "debug", "advance-clock", "1000s").want(t, 0)
		return c.idle()
	})

	// It goes on without the daemon, and with the next one.
	c.kill()
	want("without a daemon", c.get(4), map[string]int{"director": 4})
	c.start("--vip", vip6, "--mode", mode)
	want("with the next daemon", c.get(4), map[string]int{"director": 4})

	// Nobody listens there any more: the director's own stack says so.
	own.cmd.Process.Signal(os.Interrupt)
	eventually(t, "nginx of the director to end", func() bool {
		conn, err := c.Director.Dial(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", "80"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if r := c.run(c.Client, "curl", "-sS", "--max-time", slowest, url("/")); r.code != 7 || !strings.Contains(r.stderr, "refused") && !strings.Contains(r.stderr, "connect to") {
		t.Errorf("nobody listens on the director: %v", r)
	}
	c.settle()
}

// TestALocalNodesAddressMoves: a server is local as long as the host has its
// address; when another machine takes it over, its connections go there.
func TestALocalNodesAddressMoves(t *testing.T) {
	c := newCluster(t, lab.Options{})
	c.reference("rr")
	startNginx(t, c.Director, 80)
	const moving = "172.16.16.199"
	c.rules("-C", "-A -t VIP:80 -s rr", "-a -t VIP:80 -r "+moving)
	at := func(name string) {
		t.Helper()
		eventually(t, "packets to go to "+name, func() bool {
			r := c.run(c.Client, "curl", "-sS", "-f", "--max-time", "2", url("/"))
			return r.code == 0 && strings.TrimSpace(r.stdout) == name
		})
	}
	managed := func() bool {
		var entries []link.Entry
		err := c.Director.Do(func() (err error) {
			entries, err = link.ReadJournal(api.Places{Instance: instanceOf(c.Director)}.Journal())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Kind == link.ManagedNeighbour && e.Addr.String() == moving {
				return true
			}
		}
		return false
	}
	c.sh(c.Director, "ip addr add "+moving+"/32 dev eth0")
	at("director")
	if managed() {
		t.Error("the kernel is to ask for an address of its own host")
	}
	c.sh(c.Director, "ip addr del "+moving+"/32 dev eth0")
	c.sh(c.RealServers[1], "ip addr add "+moving+"/32 dev eth0")
	at("rs2")
	if !managed() {
		t.Error("nobody keeps the address resolved")
	}
	c.sh(c.RealServers[1], "ip addr del "+moving+"/32 dev eth0")
	c.sh(c.Director, "ip addr add "+moving+"/32 dev lo")
	at("director")
}
