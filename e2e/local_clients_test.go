// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestLocalClients: programs on the director are clients of its VIPs like any
// others, in both families, with bodies of any length, in each attach mode, and
// with interfaces as the kernel makes them.
func TestLocalClients(t *testing.T) {
	for name, o := range map[string]struct {
		mode     string
		offload  bool
		rpFilter string
	}{
		"native": {"native", false, "0"}, "tc": {"tc", false, "1"}, "tc, offload": {"tc", true, "0"}, "generic": {"generic", false, "1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, lab.Options{Offload: o.offload})
			c.sh(c.Director, "sysctl -qw net.ipv4.conf.eth0.rp_filter="+o.rpFilter)
			testLocalClients(t, c, o.mode)
		})
	}
}

func testLocalClients(t *testing.T, c *cluster, mode string) {
	vip4, vip6 := lab.VIP().String(), lab.VIP6().String()
	var servers []*nginx
	for _, rs := range c.RealServers {
		servers = append(servers, startNginx(t, rs, 80))
		c.shunt(rs, "realserver", "start", "--vip", vip4, "--vip", vip6).want(t, 0)
	}
	before := hostState(c)
	c.start("--vip", vip6, "--mode", mode, "--local-clients")
	rules := append(c.web("rr"), "-A -t ["+vip6+"]:80 -s rr")
	for _, rs := range c.RealServers {
		rules = append(rules, fmt.Sprintf("-a -t [%s]:80 -r %v", vip6, rs.Addr6()))
	}
	c.rules(rules...)
	own := startNginx(t, c.Director, 81)
	body := put(t, append(servers, own), "long", 10<<20)
	upload := filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(upload, body, 0o644); err != nil {
		t.Fatal(err)
	}
	if text := c.director("status"); strings.Contains(text, "WARNING") || !strings.Contains(text, "for connections of this host to its VIPs") {
		t.Errorf("status:\n%s", text)
	}
	for _, base := range []string{"http://" + vip4, "http://[" + vip6 + "]"} {
		want := map[string]int{"rs1": 10, "rs2": 10}
		if got := c.fromDirector(base+"/", 20); !maps.Equal(got, want) {
			t.Errorf("%s from the director: answered by %v, want %v", base, got, want)
		}
		if got := c.getFrom(base+"/", 20); !maps.Equal(got, want) {
			t.Errorf("%s from elsewhere: answered by %v, want %v", base, got, want)
		}
		for range 2 { // one for each server
			if got := c.here("curl", "-o", "-", base+"/files/long"); got != string(body) {
				t.Errorf("%s: a file of %d bytes came as %d others", base, len(body), len(got))
			}
			path := c.here("curl", "-H", "Expect:", "--data-binary", "@"+upload, base+"/upload")
			if got := kept(t, servers, path); !bytes.Equal(got, body) {
				t.Errorf("%s: %d bytes with sum %s arrived; want %d with %s", base, len(got), sum(got), len(body), sum(body))
			}
		}
		// What is not a service is the own stack's, from here and from elsewhere.
		for _, from := range []*lab.Node{c.Director, c.Client} {
			if r := c.run(from, "curl", "-sS", "-f", "--max-time", slowest, base+":81/"); r.stdout != "director\n" {
				t.Errorf("from %s: %v", from.Name(), r)
			}
		}
	}
	if drops := lost(c); len(drops) > 0 {
		t.Errorf("packets were dropped or left to the director's own stack: %v", drops)
	}
	// A socket that insists on a source that no real server can answer to.
	for _, source := range []string{vip4, "127.0.0.1"} {
		if r := c.run(c.Director, "curl", "-sS", "--max-time", slowest, "--interface", source, "http://"+vip4+"/"); r.code != 7 {
			t.Errorf("from %s: %v", source, r)
		}
	}
	if n := c.verdict("pass_own_source"); n != 2 {
		t.Errorf("%d packets bound to the VIP or a loopback address, want 2", n)
	}

	// The director as a real server of its own clients.
	local := startNginx(t, c.Director, 80)
	c.rules("-a -t VIP:80 -r DIP", "-a -t ["+vip6+"]:80 -r ::1")
	for _, base := range []string{"http://" + vip4, "http://[" + vip6 + "]"} {
		if got, want := c.fromDirector(base+"/", 30), map[string]int{"rs1": 10, "rs2": 10, "director": 10}; !maps.Equal(got, want) {
			t.Errorf("%s with a local node: answered by %v, want %v", base, got, want)
		}
	}
	local.cmd.Process.Signal(os.Interrupt)
	c.rules("-d -t VIP:80 -r DIP", "-d -t ["+vip6+"]:80 -r ::1")

	// No server: the client on the director is told at once, as any is.
	for _, rs := range []string{"RS1", "RS2"} {
		c.rules("-e -t VIP:80 -g -w 0 -r " + rs)
	}
	if r := c.run(c.Director, "curl", "-sS", "--max-time", slowest, url("/")); r.code != 7 {
		t.Errorf("without a server: %v", r)
	}
	c.rules("-e -t VIP:80 -g -w 1 -r RS1", "-e -t VIP:80 -g -w 1 -r RS2")
	c.settle()

	// Without the daemon, with the next one, and without the option.
	c.kill()
	even := map[string]int{"rs1": 2, "rs2": 2}
	if got := c.fromDirector(url("/"), 4); !maps.Equal(got, even) {
		t.Errorf("without a daemon: %v", got)
	}
	c.start("--vip", vip6)
	if got := c.fromDirector(url("/"), 4); !maps.Equal(got, even) {
		t.Errorf("with the next daemon: %v", got)
	}
	c.kill()
	c.start("--vip", vip6, "--local-clients=false")
	if routes := c.sh(c.Director, "ip route show table local proto 115; ip -6 route show table local proto 115"); routes != "" {
		t.Errorf("left, although it is not wanted any more: %s", routes)
	}
	if got := c.get(4); !maps.Equal(got, even) {
		t.Errorf("without the option, from elsewhere: %v", got)
	}
	c.director("stop")
	if after := hostState(c); after != before {
		t.Errorf("before the start:\n%safter the stop:\n%s", before, after)
	}
}

// here runs curl on the director.
func (c *cluster) here(name string, args ...string) string {
	c.t.Helper()
	return c.run(c.Director, name, append([]string{"-sS", "-f", "--max-time", slowest}, args...)...).want(c.t, 0).stdout
}

// fromDirector is getFrom for a client on the director.
func (c *cluster) fromDirector(url string, n int) map[string]int {
	c.t.Helper()
	answered := map[string]int{}
	for name := range strings.FieldsSeq(c.here("curl", "-H", "Connection: close", fmt.Sprintf("%s?[1-%d]", url, n))) {
		answered[name]++
	}
	return answered
}

// hostState is all of the director's host that a start with clients changes.
func hostState(c *cluster) string {
	c.t.Helper()
	return c.sh(c.Director, `ip -o addr show eth0 | sed 's/valid_lft.*//'
ip route show table local; ip -6 route show table local
sysctl net.ipv4.conf.eth0.accept_local net.ipv4.conf.eth0.send_redirects net.ipv4.conf.all.accept_local net.ipv4.conf.lo.accept_local
tc qdisc show; ip -d link show lo`)
}

// TestLocalClientsDrift: what someone takes away is shown, and put back.
func TestLocalClientsDrift(t *testing.T) {
	c := newCluster(t, lab.Options{})
	vip6 := lab.VIP6().String()
	c.start("--vip", vip6, "--local-clients")
	good := func(what string) {
		t.Helper()
		eventually(t, what, func() bool {
			return strings.Contains(c.sh(c.Director, "ip route get "+lab.VIP().String()), "src "+c.Director.Addr().String()) &&
				strings.Contains(c.sh(c.Director, "ip -6 route get "+vip6), "src "+c.Director.Addr6().String()) &&
				strings.Count(c.sh(c.Director, "ip -6 route show table local proto 115"), "\n") == 3
		})
	}
	good("the routes to be there")
	c.sh(c.Director, "ip route del local "+lab.VIP().String()+" table local proto 115; ip -6 route flush table local proto 115")
	if text := c.director("status"); !strings.Contains(text, "put back") {
		t.Errorf("status without the routes:\n%s", text)
	}
	good("the routes to be put back")
	// The own address goes and comes back: the kernel takes it out of the routes.
	dip, dip6 := c.Director.Addr().String(), c.Director.Addr6().String()
	c.sh(c.Director, "ip addr del "+dip+"/24 dev eth0; ip addr del "+dip6+"/64 dev eth0")
	eventually(t, "status to miss an own address", func() bool {
		return strings.Contains(c.director("status"), "no address of its own")
	})
	c.sh(c.Director, "ip addr add "+dip+"/24 dev eth0; ip addr add "+dip6+"/64 dev eth0 nodad")
	good("the routes to follow the address")
	c.sh(c.Director, "sysctl -qw net.ipv4.conf.eth0.accept_local=0")
	if text := c.director("status"); !strings.Contains(text, "accept_local=1") {
		t.Errorf("status without accept_local:\n%s", text)
	}
}

// TestLocalClientsNeedAnAddress: without an address beside the VIP a start is
// refused, and changes nothing.
func TestLocalClientsNeedAnAddress(t *testing.T) {
	c := newCluster(t, lab.Options{})
	c.sh(c.Director, "ip -6 addr flush dev eth0 scope global")
	before := hostState(c)
	r := c.shunt(c.Director, "director", "start", "--interface", "eth0", "--vip", lab.VIP6().String(), "--local-clients", "--connections", "4096")
	r.want(t, 1).says(t, "no address of its own beside the VIP")
	if after := hostState(c); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}
