// SPDX-License-Identifier: MIT

package e2e

import (
	"fmt"
	"testing"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestLocalServerComesBack: the director is the only real server. Its check has to
// ask it, and nobody else, also if it is out, if the director is its own client,
// and if the VIP is withdrawn meanwhile.
func TestLocalServerComesBack(t *testing.T) {
	c := newCluster(t, lab.Options{RealServers: 1})
	services := []string{"plain", "withdrawn"}
	vips := []string{lab.VIP().String(), lab.VIP6().String()}
	c.shunt(c.RealServers[0], "realserver", "start", "--vip", vips[0]).want(t, 0)
	startNginx(t, c.RealServers[0], 80)
	own := startNginx(t, c.Director, 80, 81)
	c.director("start", "--config", c.site(`
director: {interfaces: [eth0], connections: 65536, local_clients: true}
defaults:
  check: {interval: 400ms, timeout: 400ms, rise: 1, fall: 2}
  checks: [{type: http, contains: director}]
services:
  - {name: plain, address: "VIP:80", servers: [DIP, {address: RS1, checks: [{type: http, contains: rs1}]}], scheduler: rr}
  - {name: withdrawn, address: "[VIP6]:81", servers: ["::1"], withdraw_vip: true}
`))
	r := &reports{c: c}
	all := func(what string, is func(api.ServerHealth) bool) {
		t.Helper()
		for i, s := range services {
			local := []string{c.Director.Addr().String(), "::1"}[i]
			eventually(t, what+": "+s, func() bool { return is(r.server(t, s, local)) })
		}
	}
	well := func(h api.ServerHealth) bool { return isUp(h) && h.Checks[0].Successes > 3 }
	all("a check that succeeds", well)
	own.stop(t)
	all("the server to be down", isDown)
	eventually(t, "the VIP to be withdrawn", func() bool { return c.status().VIPs[1].Withdrawn })
	own.start(t, "127.0.0.1", 80, 81)
	all("the server to be up again", well)
	eventually(t, "the VIP to be back", func() bool { return !c.status().VIPs[1].Withdrawn })
	c.getFrom(fmt.Sprintf("http://%s/", address(vips[1], 81)), 3)
	if answered := c.get(4); answered["director"] != 2 || answered["rs1"] != 2 {
		t.Errorf("answered by %v", answered)
	}
}
