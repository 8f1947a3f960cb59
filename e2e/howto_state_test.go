// SPDX-License-Identifier: MIT

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// The usual how-to of LVS direct routing is two shell scripts, and these have
// defects. Each TestHowToDefectNN says what one of them was, and demands what is
// right instead. Those that are missing here (1 and 3 to 8) are the real
// server's, and are in internal/realserver.

// kernelState is all that a machine's admin would miss if it were changed:
// addresses, routes, rules, links and what is attached to them, sysctls, the
// firewall.
func (c *cluster) kernelState(n *lab.Node) map[string]string {
	c.t.Helper()
	all := map[string]string{}
	for what, line := range map[string]string{
		"addresses": "ip -o addr",
		"routes":    "ip route show table all; ip -6 route show table all",
		"rules":     "ip rule; ip -6 rule",
		"links":     "ip -o -d link",
		"firewall":  "nft list ruleset",
	} {
		all[what] = c.sh(n, line)
	}
	all["managed neighbours"] = fmt.Sprint(strings.Count(c.sh(n, "ip neigh"), "managed"))
	if err := n.Do(func() error { return sysctls(all) }); err != nil {
		c.t.Fatal(err)
	}
	for what := range all {
		if strings.HasSuffix(what, "/nf_conntrack_count") { // of connections, not a setting
			delete(all, what)
		}
	}
	return all
}

// everywhere is kernelState of all machines.
func (c *cluster) everywhere() map[string]string {
	c.t.Helper()
	all := map[string]string{}
	for _, n := range c.Nodes() {
		for what, value := range c.kernelState(n) {
			all[n.Name()+": "+what] = value
		}
	}
	return all
}

// The director's script gave the VIP a netmask in a form that ifconfig takes for
// a host name: the VIP came up as a class B /16 with a route that hijacked half
// of the network, and the script went on as if nothing had happened. Demanded:
// the VIP as /32, no route changed, and a step that fails undoes those before it.
func TestHowToDefect02(t *testing.T) {
	c := newCluster(t, lab.Options{})
	before := c.kernelState(c.Director)
	main := c.sh(c.Director, "ip route show table main")

	for _, vip := range []string{"172.16.16.172/24", "172.16.16.172/16", "172.16.16.172 netmask=255.255.255.0"} {
		c.shunt(c.Director, "director", "start", "--interface", "eth0", "--vip", vip).want(t, 1).says(t, vip)
	}
	same(t, before, c.kernelState(c.Director))

	// The last step fails: there is no place for the socket.
	socket := api.Places{Instance: instanceOf(c.Director)}.Socket()
	if err := os.MkdirAll(filepath.Join(socket, "occupied"), 0o755); err != nil {
		t.Fatal(err)
	}
	c.shunt(c.Director, "director", "start", "--interface", "eth0", "--vip", lab.VIP().String()).want(t, 1).says(t, socket)
	same(t, before, c.kernelState(c.Director))
	c.shunt(c.Director, "director", "status").want(t, 3)
	if err := os.RemoveAll(socket); err != nil {
		t.Fatal(err)
	}

	c.start()
	if a := c.sh(c.Director, "ip -o -4 addr show dev eth0"); !strings.Contains(a, " 172.16.16.172/32 ") {
		t.Errorf("addresses: %s", a)
	}
	if now := c.sh(c.Director, "ip route show table main"); now != main {
		t.Errorf("the main table was\n%s\nand is\n%s", main, now)
	}
}

// The director's script flushed the host's firewall, counters included, without
// a way back; under a policy of DROP it locks the admin out. Demanded: nothing of
// it is touched, on director and real server.
func TestHowToDefect09(t *testing.T) {
	c := newCluster(t, lab.Options{})
	const firewall = `
table ip filter {
	chain input {
		type filter hook input priority filter; policy drop;
		tcp dport 22 counter packets 42 bytes 4711 accept
		iif lo accept
		tcp dport { 80, 8080 } accept
		icmp type echo-request accept
	}
	chain forward { type filter hook forward priority filter; policy drop; }
}
table ip nat {
	chain prerouting { type nat hook prerouting priority dstnat; tcp dport 2222 counter packets 7 bytes 300 redirect to :22; }
	chain postrouting { type nat hook postrouting priority srcnat; }
}
table inet admin {
	set trusted { type ipv4_addr; elements = { 192.0.2.1 }; }
}
`
	rulesets := map[*lab.Node]string{}
	for _, n := range []*lab.Node{c.Director, c.RealServers[0], c.RealServers[1]} {
		commandWith(t, n, nil, firewall, "nft", "-f", "-").want(t, 0)
		rulesets[n] = c.sh(n, "nft list ruleset")
	}
	unchanged := func(when string, nodes ...*lab.Node) {
		t.Helper()
		for _, n := range nodes {
			if now := c.sh(n, "nft list ruleset"); now != rulesets[n] {
				t.Errorf("%s: the ruleset of %s was\n%s\nand is\n%s", when, n.Name(), rulesets[n], now)
			}
		}
	}
	for i, m := range []method{methods()[0], methods()[2]} {
		startNginx(t, c.RealServers[i], m.listen)
		c.shunt(c.RealServers[i], append([]string{"realserver", "start", "--vip", lab.VIP().String()}, m.args...)...).want(t, 0)
	}
	c.start()
	c.rules(c.web("rr")...)
	if got := c.get(10); got["rs1"] != 5 || got["rs2"] != 5 {
		t.Errorf("behind a firewall, answered by %v", got)
	}
	unchanged("while all runs", c.Director, c.RealServers[0])
	// Method redirect has a table of its own, beside the admin's.
	if during := c.sh(c.RealServers[1], "nft list ruleset"); !strings.HasPrefix(during, rulesets[c.RealServers[1]]) {
		t.Errorf("the ruleset of rs2 was\n%s\nand is\n%s", rulesets[c.RealServers[1]], during)
	}
	c.director("stop")
	for _, rs := range c.RealServers {
		c.shunt(rs, "realserver", "stop").want(t, 0)
	}
	unchanged("after all was stopped", c.Director, c.RealServers[0], c.RealServers[1])
}

// The director's stop left the host route, ip_forward and send_redirects behind.
// Demanded: start and stop are symmetric, on all machines, also when the daemon
// was killed before the stop.
func TestHowToDefect12(t *testing.T) {
	c := newCluster(t, lab.Options{})
	for _, rs := range c.RealServers {
		startNginx(t, rs, 80)
	}
	before := c.everywhere()
	for _, killed := range []bool{false, true} {
		c.shunt(c.RealServers[0], "realserver", "start", "--vip", lab.VIP().String()).want(t, 0)
		c.shunt(c.RealServers[1], "realserver", "start", "--vip", lab.VIP().String(), "--method", "redirect", "--port", "80/tcp").want(t, 0)
		c.start()
		c.rules("-C")
		c.rules(c.web("rr")...)
		c.get(10)
		during := c.everywhere()
		for _, what := range []string{"director: addresses", "director: links", "rs1: addresses", "rs2: firewall"} {
			if during[what] == before[what] {
				t.Errorf("%s: nothing changed, so nothing is tested", what)
			}
		}
		if what := "director: /proc/sys/net/ipv4/ip_forward"; during[what] != before[what] {
			t.Errorf("%s was %s and is %s", what, before[what], during[what])
		}
		if killed {
			c.kill()
		}
		c.director("stop")
		for _, rs := range c.RealServers {
			c.shunt(rs, "realserver", "stop").want(t, 0)
		}
		same(t, before, c.everywhere())
	}
}

// The same, with a daemon that is killed in the middle of its start: after each
// line of its log, one after the other. (For the real server's side internal/
// realserver does it.)
func TestHowToDefect12KilledBetweenSteps(t *testing.T) {
	c := newCluster(t, lab.Options{})
	c.start()
	c.rules(c.web("rr")...)
	c.director("stop")
	before := c.kernelState(c.Director)
	visible := func() string { return c.sh(c.Director, "ip -o addr; ip -o link") }
	stopped := visible()
	ready, changed := false, 0
	for lines := 1; !ready; lines++ {
		ready = c.killedAfter(lines)
		if visible() != stopped {
			changed++
		}
		c.director("stop")
		same(t, before, c.kernelState(c.Director))
		if t.Failed() {
			t.Fatalf("killed after line %d of the log", lines)
		}
	}
	if changed < 3 {
		t.Errorf("only %d of the kills came after a change", changed)
	}
}

// killedAfter starts the director and kills it when it has logged that many
// lines. It returns whether it was ready by then.
func (c *cluster) killedAfter(lines int) (ready bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), commandLimit)
	defer cancel()
	cmd := c.Director.Command(ctx, program, "director", "run", "--log-level", "debug")
	cmd.Env = append(os.Environ(), "SHUNT_INSTANCE="+instanceOf(c.Director))
	log, err := cmd.StderrPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	said := bufio.NewScanner(log)
	for range lines {
		if !said.Scan() {
			c.t.Fatalf("the log ended before line %d", lines)
		}
		ready = ready || strings.Contains(said.Text(), "msg=ready")
	}
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	return ready
}

// Two of the script's lines made a route for an address of the host itself. The
// kernel has that already, in its local table. Demanded: no route is added.
func TestHowToDefect14(t *testing.T) {
	c := newCluster(t, lab.Options{})
	before := c.sh(c.Director, "ip route show table all")
	c.start()
	for _, rs := range c.RealServers {
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String()).want(t, 0)
	}
	added := ""
	for line := range strings.Lines(c.sh(c.Director, "ip route show table all")) {
		if !strings.Contains(before, line) {
			added += line
		}
	}
	if f := strings.Fields(added); strings.Count(added, "\n") != 1 || !strings.HasPrefix(added, "local 172.16.16.172 dev eth0 table local proto kernel") {
		t.Errorf("the director has these routes more: %q", f)
	}
	for _, rs := range c.RealServers {
		if routes := c.sh(rs, "ip route show table main"); strings.Contains(routes, lab.VIP().String()) {
			t.Errorf("%s has routes %s", rs.Name(), routes)
		}
	}
}

// With the alias of the prose, the VIP was a secondary address that vanished
// with the first one, and a broadcast address of its own. Demanded: it stands
// alone.
func TestHowToDefect16(t *testing.T) {
	c := newCluster(t, lab.Options{})
	c.reference("rr")
	var vip string
	for line := range strings.Lines(c.sh(c.Director, "ip -o -4 addr show dev eth0")) {
		if strings.Contains(line, lab.VIP().String()) {
			vip += line
		}
	}
	if strings.Count(vip, "\n") != 1 || !strings.Contains(vip, " 172.16.16.172/32 scope global ") || strings.Contains(vip, "secondary") || strings.Contains(vip, "brd") {
		t.Errorf("the VIP's address is %q", vip)
	}
	if routes := c.sh(c.Director, "ip route show table local type broadcast"); strings.Contains(routes, lab.VIP().String()) {
		t.Errorf("broadcast routes: %s", routes)
	}
	// Without promote_secondaries the kernel takes all secondaries with it.
	c.sh(c.Director, "echo 0 >/proc/sys/net/ipv4/conf/all/promote_secondaries; echo 0 >/proc/sys/net/ipv4/conf/eth0/promote_secondaries; ip addr del 172.16.16.173/24 dev eth0")
	if a := c.sh(c.Director, "ip -o -4 addr show dev eth0"); !strings.Contains(a, " 172.16.16.172/32 ") {
		t.Errorf("the VIP vanished with the first address: %q", a)
	}
	c.sh(c.Director, "ip addr add 172.16.16.173/24 dev eth0")
	if got := c.get(10); got["rs1"] != 5 || got["rs2"] != 5 {
		t.Errorf("with its address back, answered by %v", got)
	}
}
