// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// writeFile writes a file that others may read: machines of a lab share one file
// system.
func writeFile(t testing.TB, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// background runs a program on a machine until the test ends.
func (c *cluster) background(n *lab.Node, name string, args ...string) {
	c.t.Helper()
	var said bytes.Buffer
	cmd := n.Command(c.t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "SHUNT_INSTANCE="+instanceOf(n))
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { // the context has ended, and with it the program
		_ = cmd.Wait()
		if c.t.Failed() {
			c.t.Logf("%s on %s said:\n%s", filepath.Base(name), n.Name(), said.String())
		}
	})
}

// serverNow is how a real server is, in the first service that has it.
func (c *cluster) serverNow(rip netip.Addr) api.ServerHealth {
	c.t.Helper()
	var all []api.ServiceHealth
	out := c.shunt(c.Director, "health", "--json").stdout
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	for _, s := range all {
		for _, r := range s.Servers {
			if r.Server.Addr == rip {
				return r
			}
		}
	}
	c.t.Fatalf("no real server %v in %s", rip, out)
	return api.ServerHealth{}
}

// TestAgents has real servers say how loaded they are, and what they want: one by
// shunt's agent, one by HAProxy's protocol.
func TestAgents(t *testing.T) {
	c := newCluster(t, lab.Options{Prefix: "agents-"})
	dir, err := os.MkdirTemp("", "e2e-agents-") // the agent's program runs as nobody
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	load := writeFile(t, filepath.Join(dir, "load"), "90\n", 0o644)
	said := writeFile(t, filepath.Join(dir, "said"), "up 50%\n", 0o644)
	secret := writeFile(t, filepath.Join(dir, "secret"), "what both sides know\n", 0o600)
	other := writeFile(t, filepath.Join(dir, "other"), "what only one side knows\n", 0o600)
	ours, theirs := c.RealServers[0], c.RealServers[1]
	server := writeFile(t, filepath.Join(dir, "rs.yaml"), fmt.Sprintf(`
realserver:
  vips: [%v]
  agent: {listen: "%v:9292", secret_file: %s, report: script, command: [/bin/cat, %s], interval: 200ms}
`, lab.VIP(), ours.Addr(), secret, load), 0o644)
	site := func(secret string) string {
		return fmt.Sprintf(`
director: {interfaces: [eth0], connections: 65536}
services:
  - address: %v:80
    scheduler: wrr
    servers:
      - {address: %v, weight: 1, agent: {protocol: shunt, port: 9292, secret_file: %s, interval: 200ms, weight: 10%%-100%%}}
      - {address: %v, weight: 1, agent: {protocol: haproxy, port: 9293, interval: 200ms, weight: 1%%-200%%}}
`, lab.VIP(), ours.Addr(), secret, theirs.Addr())
	}
	for _, rs := range c.RealServers {
		startNginx(t, rs, 80)
	}
	c.background(ours, program, "realserver", "run", "--config", server)
	c.shunt(theirs, "realserver", "start", "--vip", lab.VIP().String()).want(t, 0)
	c.background(theirs, "socat", "TCP-LISTEN:9293,reuseaddr,fork", "SYSTEM:cat "+said)
	file := writeFile(t, filepath.Join(dir, "site.yaml"), site(secret), 0o644)
	c.director("start", "--config", file)

	is := func(rs *lab.Node, what string, is func(api.ServerHealth) bool) {
		t.Helper()
		eventually(t, rs.Name()+" "+what, func() bool { return is(c.serverNow(rs.Addr())) })
	}
	weighs := func(least, most float64) func(api.ServerHealth) bool {
		return func(h api.ServerHealth) bool {
			return h.Condition == api.Up && h.Effective >= least && h.Effective <= most
		}
	}
	conditioned := func(want api.Condition) func(api.ServerHealth) bool {
		return func(h api.ServerHealth) bool { return h.Condition == want }
	}
	is(ours, "with a load of 90 %", weighs(0.15, 0.25)) // 100 % − 90 % of the 90 points between
	is(theirs, "by half", weighs(0.5, 0.5))
	if got := c.get(140); got["rs1"] < 35 || got["rs1"] > 45 {
		t.Errorf("with weights of 19 and 50: answered by %v", got)
	}

	for _, x := range []struct {
		line string
		want api.Condition
		why  string
	}{{"drain", api.Draining, ""}, {"ready down#disk full", api.Down, "disk full"}, {"maint", api.Maintenance, ""}, {"up ready 200%", api.Up, ""}} {
		writeFile(t, said, x.line+"\n", 0o644)
		is(theirs, "after it said "+x.line, conditioned(x.want))
		if h := c.serverNow(theirs.Addr()); !strings.Contains(h.Reason, x.why) {
			t.Errorf("after %q the reason is %q", x.line, h.Reason)
		}
	}
	is(theirs, "with twice its weight", weighs(2, 2))

	c.shunt(ours, "realserver", "drain").want(t, 0)
	is(ours, "after it asked to be drained", conditioned(api.Draining))
	if got := c.get(10); got["rs2"] != 10 {
		t.Errorf("answered by %v", got)
	}
	c.shunt(ours, "realserver", "enable").want(t, 0)
	is(ours, "after it was enabled", conditioned(api.Up))

	writeFile(t, file, site(other), 0o644)
	c.shunt(c.Director, "apply", file).want(t, 0)
	is(ours, "with another secret", func(h api.ServerHealth) bool { return strings.Contains(h.Reason, "secret") })
	is(ours, "when nothing is known of its load", weighs(1, 1))
	writeFile(t, file, site(filepath.Join(dir, "nothing")), 0o644)
	c.shunt(c.Director, "apply", file).want(t, 1).says(t, filepath.Join(dir, "nothing"))
}
