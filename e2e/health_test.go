// SPDX-License-Identifier: MIT

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// site writes a configuration, in which VIP, VIP6, DIP, RS1 and so on stand for
// addresses, and returns where it is.
func (c *cluster) site(text string) string {
	c.t.Helper()
	text = strings.ReplaceAll(text, "VIP6", lab.VIP6().String())
	path := filepath.Join(c.t.TempDir(), "shunt.yaml")
	if err := os.WriteFile(path, []byte(c.spell(text)), 0o644); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// reports is what `shunt health` says of a cluster, for many who want to know.
type reports struct {
	c     *cluster
	mu    sync.Mutex
	asked time.Time // when the last report was asked for
	last  []api.ServiceHealth
}

// now is a report that was asked for after the call.
func (r *reports) now(t testing.TB) []api.ServiceHealth {
	t.Helper()
	called := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked.After(called) {
		return r.last
	}
	r.asked = time.Now()
	out := r.c.shunt(r.c.Director, "health", "--json") // its exit code tells whether all is well
	r.last = nil
	if err := json.Unmarshal([]byte(out.stdout), &r.last); err != nil {
		t.Fatalf("%v: %v", err, out)
	}
	return r.last
}

// server is what the report says of a real server of a service, both by name or
// address.
func (r *reports) server(t testing.TB, service, addr string) api.ServerHealth {
	t.Helper()
	for _, s := range r.now(t) {
		if s.Name != service {
			continue
		}
		for _, h := range s.Servers {
			if h.Server.Addr.String() == addr {
				return h
			}
		}
	}
	t.Fatalf("no real server %s of service %s is reported", addr, service)
	return api.ServerHealth{}
}

// history is what `shunt history` says of a service.
func (c *cluster) history(service string) (all []health.Event) {
	c.t.Helper()
	out := c.shunt(c.Director, "history", "--service", service, "--json").want(c.t, 0)
	if err := json.Unmarshal([]byte(out.stdout), &all); err != nil {
		c.t.Fatalf("%v: %v", err, out)
	}
	return all
}
