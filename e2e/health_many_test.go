// SPDX-License-Identifier: MIT

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestManyChecks has more than a thousand real servers checked through VIPs, and
// sees that each has its turn as often as each other.
func TestManyChecks(t *testing.T) {
	const (
		servers, services = 300, 4
		interval          = 2 * time.Second
	)
	c := newCluster(t, lab.Options{RealServers: 1})
	rs := c.RealServers[0]
	many := netip.MustParsePrefix("10.9.0.0/16")
	if err := c.Director.Route(many, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	var ports []int
	site := fmt.Sprintf("director: {interfaces: [eth0], connections: 65536}\ndefaults:\n  checks: [tcp]\n  check: {interval: %v, timeout: 2s, rise: 1, fall: 2}\nservices:\n", interval)
	var list []string
	commands := ""
	for i, a := 0, many.Addr().Next(); i < servers; i, a = i+1, a.Next() {
		list = append(list, a.String())
		commands += fmt.Sprintf("addr add %v/32 dev eth0\n", a)
	}
	for i := range services {
		ports = append(ports, 81+i)
		site += fmt.Sprintf("  - {name: s%d, address: \"VIP:%d\", servers: [%s]}\n", i, ports[i], strings.Join(list, ", "))
	}
	command(t, rs, commands, "ip", "-batch", "-").want(t, 0)
	page := startNginx(t, rs, ports...)
	c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String()).want(t, 0)
	c.director("start", "--config", c.site(site))

	r := &reports{c: c}
	ran := func(what string, least uint64) []api.ServiceHealth {
		t.Helper()
		var all []api.ServiceHealth
		eventually(t, what, func() bool {
			time.Sleep(interval / 4) // the report is long
			all = r.now(t)
			for _, s := range all {
				for _, h := range s.Servers {
					if h.Checks[0].Runs < least {
						return false
					}
				}
			}
			return true
		})
		return all
	}
	before := ran("the first turn of each", 1)
	began, worked := time.Now(), cpuTime(t, c.status().PID)
	after := ran("two more", 3)
	took, worked := time.Since(began), cpuTime(t, c.status().PID)-worked

	fewest, most, failed := ^uint64(0), uint64(0), uint64(0)
	slots := map[time.Duration]int{} // checks, by tenths of an interval in which they end
	for i, s := range after {
		for j, h := range s.Servers {
			was, is := before[i].Servers[j].Checks[0], h.Checks[0]
			n := is.Runs - was.Runs
			fewest, most, failed = min(fewest, n), max(most, n), failed+is.Failed
			slots[time.Duration(is.Last.UnixNano())%interval*10/interval]++
			// The first may have been late, and the next is not for that; jitter is a tenth.
			if took := is.Last.Sub(was.Last); n > 1 && took < time.Duration(n-1)*interval*8/10 {
				t.Errorf("%v of %s was checked %d times in %v, at intervals of %v", h.Server, s.Name, n, took, interval)
			}
			if h.Condition != api.Up {
				t.Errorf("%v of %s: %s: %s", h.Server, s.Name, h.Condition, h.Reason)
			}
		}
	}
	if most > fewest+2 {
		t.Errorf("the servers were checked %d to %d times in the same time", fewest, most)
	}
	t.Logf("%d checks, each %d to %d times in %v; %d failed; ended by tenths of the interval: %v; the director worked for %v",
		servers*services, fewest, most, took.Round(time.Millisecond), failed, slots, worked)

	// All at once.
	all := func(what string, is func(api.ServerHealth) bool) {
		t.Helper()
		began, worked := time.Now(), cpuTime(t, c.status().PID)
		eventually(t, what, func() bool {
			time.Sleep(interval / 4)
			for _, s := range r.now(t) {
				if slices.ContainsFunc(s.Servers, func(h api.ServerHealth) bool { return !is(h) }) {
					return false
				}
			}
			return true
		})
		t.Logf("%s: %v; the director worked for %v", what, time.Since(began).Round(time.Millisecond), cpuTime(t, c.status().PID)-worked)
	}
	page.stop(t)
	all("all to be down", isDown)
	page.start(t, "127.0.0.1", ports...)
	all("all to be up again", isUp)
}

// cpuTime is how long a process has worked so far, all threads together.
func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(after) // from the third field of proc(5) on
	user, err := strconv.Atoi(f[11])
	if err != nil {
		t.Fatal(err)
	}
	system, err := strconv.Atoi(f[12])
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * time.Second / 100
}
