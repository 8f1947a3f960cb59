// SPDX-License-Identifier: MIT

package e2e

import (
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestDownOutlivesTheDaemon kills the daemon as soon as it has found that a real
// server is broken, and lets the next ones leave: to no client is it given again.
func TestDownOutlivesTheDaemon(t *testing.T) {
	c := newCluster(t, lab.Options{})
	for _, rs := range c.RealServers {
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String()).want(t, 0)
		startNginx(t, rs, 80)
	}
	site := `
director: {interfaces: [eth0], connections: 65536}
defaults:
  scheduler: rr
  check: {interval: 1s, timeout: 500ms, rise: 1, fall: 2}
  checks: [http]
services: [{name: web, address: "VIP:80", servers: [RS1, RS2]}]
`
	c.director("start", "--debug", "--config", c.site(site))
	r, broken := &reports{c: c}, c.RealServers[0]
	is := func() api.ServerHealth { return r.server(t, "web", broken.Addr().String()) }
	pid := c.status().PID
	eventually(t, "a check that succeeds", func() bool { return is().Checks[0].Successes > 0 })
	c.sh(broken, c.spell("ip addr del VIP/32 dev lo"))
	var found api.ServerHealth
	eventually(t, "the broken server to be found", func() bool { found = is(); return isDown(found) })
	for _, end := range []func(){func() { c.killProcess(pid) }, func() { c.director("stop", "--keep-forwarding") }, c.kill} {
		end()
		c.director("start", "--debug")
		if h := is(); !isDown(h) || h.Reason != found.Reason || h.Effective != 0 {
			t.Errorf("after a restart the server is %s: %s, with weight %v", h.Condition, h.Reason, h.Effective)
		}
		if answered := c.get(6); answered["rs2"] != 6 {
			t.Errorf("answered by %v", answered)
		}
	}

	// Without checks it is as good as any, which the history tells, too.
	c.shunt(c.Director, "apply", c.site(strings.Replace(site, "checks: [http]", "checks: []", 1))).want(t, 0)
	if events := c.history("web"); !isUp(is()) || events[len(events)-1].To != "up" || events[len(events)-1].By != "operator" {
		t.Errorf("without checks: %v; %v", is(), events)
	}
	c.shunt(c.Director, "apply", c.site(site)).want(t, 0)
	eventually(t, "the broken server to be found again", func() bool { return isDown(is()) })

	c.shunt(broken, "realserver", "start", "--vip", lab.VIP().String()).want(t, 0)
	eventually(t, "the healed server to be up", func() bool { return isUp(is()) })
	if answered := c.get(6); answered["rs1"] != 3 {
		t.Errorf("answered by %v", answered)
	}
}
