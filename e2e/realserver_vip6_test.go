// SPDX-License-Identifier: MIT

package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// One real server, VIPs of both families: each is silent for its own reason.
func TestARealServerOfBothFamilies(t *testing.T) {
	c := newCluster(t, lab.Options{RealServers: 1})
	rs := c.RealServers[0]
	before := c.sh(rs, "ip -o addr; ip -6 route show table all")
	c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String(), "--vip", lab.VIP6().String()).want(t, 0)
	c.shunt(rs, "realserver", "status").want(t, 0).says(t, lab.VIP6().String()+" delivered locally", "needs no guard", "arp_ignore is 1")
	c.shunt(rs, "realserver", "start", "--vip", lab.VIP6().String(), "--method", "redirect", "--port", "80/tcp").want(t, 1).says(t, "method loopback")
	c.shunt(rs, "realserver", "start", "--vip", lab.VIP6().String(), "--interface", "eth0").want(t, 1).says(t, "nothing to guard")
	c.shunt(rs, "realserver", "start", "--vip", lab.VIP6().String()+"/64").want(t, 2).says(t, "whole network")

	tap, err := c.Tap(rs)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	// The answers for its own addresses come after those for the VIPs would have.
	own := func(f lab.Frame) bool {
		return f.FromNode && f.NDP != nil && f.NDP.Type == lab.NeighbourAdvertisement && f.NDP.Target == rs.Addr6()
	}
	if err := c.Client.WhoHas(lab.VIP6()); err != nil {
		t.Fatal(err)
	}
	if err := c.Client.WhoHas(rs.Addr6()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an answer for its own address", func() bool { return slices.ContainsFunc(tap.Frames(), own) })
	for _, f := range tap.Frames() {
		if f.FromNode && f.NDP != nil && (f.NDP.Target == lab.VIP6() || f.IP.Src.Addr() == lab.VIP6()) {
			t.Errorf("the real server tells of the VIP: %v", f)
		}
	}
	c.shunt(rs, "realserver", "stop").want(t, 0)
	if after := c.sh(rs, "ip -o addr; ip -6 route show table all"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if strings.Contains(before, lab.VIP6().String()) {
		t.Error("this test would not see a VIP that stays")
	}
}
