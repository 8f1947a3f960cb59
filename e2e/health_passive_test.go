// SPDX-License-Identifier: MIT

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestPassive has a real server swallow its connections, which takes it out long
// before its check could; when it answers again it is tried again.
func TestPassive(t *testing.T) {
	c := newCluster(t, lab.Options{Prefix: "passive-", RealServers: 3})
	for _, rs := range c.RealServers {
		startNginx(t, rs, 80)
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String()).want(t, 0)
	}
	file := writeFile(t, filepath.Join(t.TempDir(), "site.yaml"), fmt.Sprintf(`
director: {interfaces: [eth0], connections: 65536}
services:
  - address: %v:80
    scheduler: rr
    servers: [%v, %v, %v]
    checks: [{type: tcp, interval: 10m, timeout: 1s}]
    passive: {window: 4s, minimum: 6, unanswered: 50%%, hold: 2s, most_out: 50%%}
`, lab.VIP(), c.RealServers[0].Addr(), c.RealServers[1].Addr(), c.RealServers[2].Addr()), 0o644)
	c.director("start", "--config", file)

	ctx, cancel := context.WithCancel(t.Context())
	var failed atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		clients := make(chan struct{}, 64)
		for ctx.Err() == nil {
			clients <- struct{}{}
			go func() {
				defer func() { <-clients }()
				within, end := context.WithTimeout(ctx, 10*time.Second)
				defer end()
				conn, err := c.Client.Dial(within, "tcp", lab.VIP().String()+":80")
				if err == nil {
					_ = conn.Close()
				} else if ctx.Err() == nil {
					failed.Add(1)
				}
			}()
			time.Sleep(20 * time.Millisecond)
		}
		for range cap(clients) {
			clients <- struct{}{}
		}
	}()
	defer func() { cancel(); <-done }()

	victim := c.RealServers[1]
	c.sh(victim, "nft add table ip swallow; nft 'add chain ip swallow in { type filter hook input priority 0; }'; nft add rule ip swallow in ip daddr "+lab.VIP().String()+" drop")
	eventually(t, "the server that swallows to be ejected", func() bool { return c.serverNow(victim.Addr()).Condition == api.Ejected })
	h := c.serverNow(victim.Addr())
	t.Logf("ejected: %s", h.Reason)
	if h.Reason == "" || len(h.Checks) != 1 {
		t.Errorf("%+v", h)
	}
	for _, rs := range []*lab.Node{c.RealServers[0], c.RealServers[2]} {
		if h := c.serverNow(rs.Addr()); h.Condition != api.Up {
			t.Errorf("%s is %s: %s", rs.Name(), h.Condition, h.Reason)
		}
	}
	c.sh(victim, "nft delete table ip swallow")
	eventually(t, "the server to be back", func() bool { return c.serverNow(victim.Addr()).Condition == api.Up })
	cancel()
	<-done
	// A SYN that comes again is scheduled anew once its server is out.
	if n := failed.Load(); n > 0 {
		t.Errorf("%d clients found nobody within ten seconds", n)
	}
	c.shunt(c.Director, "history", "--server", victim.Addr().String()).want(t, 0).says(t, "ejected", "by passive")
}
