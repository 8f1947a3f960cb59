// SPDX-License-Identifier: MIT

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// How the real servers of TestEveryWayToBreak are checked.
const (
	breakInterval = 800 * time.Millisecond
	breakTimeout  = 600 * time.Millisecond
	breakFall     = 2
	flapHold      = 6 * time.Second
)

// wellPage is what the checks ask for, so long that it takes its time if it drips.
func wellPage() string { return strings.Repeat(".", 8<<10) + "all is well" }

// way is one in which a real server breaks.
type way struct {
	name   string
	asks   string // its check; empty: that of a page
	care   string // more of its service
	breaks func(*breaking)
	heals  func(*breaking)
	reason string // a pattern for what is said of it
	// unasked: it is not found by its check, but by what it answers to ARP.
	unasked bool
	// serves: clients are answered all the same, so none of their requests may fail.
	serves bool
	// onRIP: at its own address all is well.
	onRIP bool
	// story is what happens, if it is not that the server breaks and is healed.
	story func(*breaking)
}

func everyWay() []way {
	shell := func(lines ...string) func(*breaking) {
		return func(b *breaking) {
			b.sh(b.rs, strings.ReplaceAll(b.spell(strings.Join(lines, "\n")), "PORT", fmt.Sprint(b.port)))
		}
	}
	filter := func(rule string) func(*breaking) {
		return shell("nft add table inet broken", "nft add chain inet broken in '{ type filter hook input priority 0; }'", "nft add rule inet broken in "+rule)
	}
	page := func(text string) func(*breaking) {
		return func(b *breaking) { b.page.write(b.t, "www/health", text) }
	}
	setUp := shell(program + " realserver start --vip VIP") // which repairs what is not as it should be
	yesterday, tomorrow := time.Now().Add(-36*time.Hour), time.Now().Add(36*time.Hour)
	unreachable := "no connection to the VIP within 600ms|host unreachable: no answer to ARP"
	return []way{
		{name: "vip-removed", breaks: shell("ip addr del VIP/32 dev lo"), heals: setUp, reason: "no connection to the VIP within 600ms", onRIP: true},
		{name: "arp-guard-reset", breaks: shell("for f in /proc/sys/net/ipv4/conf/*/arp_ignore; do echo 0 >$f; done"), heals: setUp,
			reason: "it answers ARP for the VIP 172.16.16.172, .* its guard is gone", unasked: true, serves: true, onRIP: true},
		{name: "stopped", breaks: func(b *breaking) { b.page.stop(b.t) }, heals: func(b *breaking) { b.page.start(b.t, "127.0.0.1", b.port) },
			reason: "connection refused: nothing listens on the VIP there, or a firewall refuses"},
		{name: "hung", breaks: func(b *breaking) { b.page.signal(syscall.SIGSTOP) }, heals: func(b *breaking) { b.page.signal(syscall.SIGCONT) },
			reason: "no answer within 600ms"},
		{name: "port-dropped", breaks: filter("tcp dport PORT drop"), heals: shell("nft delete table inet broken"), reason: "no connection to the VIP within 600ms"},
		{name: "port-rejected", breaks: filter("tcp dport PORT reject"), heals: shell("nft delete table inet broken"), reason: "connection refused"},
		{name: "link-down", breaks: shell("ip link set eth0 down"), heals: shell("ip link set eth0 up"), reason: unreachable},
		{name: "silent", breaks: shell("nft add table netdev broken", "nft add chain netdev broken in '{ type filter hook ingress device eth0 priority 0; policy drop; }'"),
			heals: shell("nft delete table netdev broken"), reason: unreachable},
		{name: "rip-only", breaks: func(b *breaking) { b.listenOn(b.rs.Addr().String()) }, heals: func(b *breaking) { b.listenOn("") },
			reason: "connection refused: nothing listens on the VIP there, or a firewall refuses", onRIP: true},
		{name: "slow", breaks: func(b *breaking) { b.page.write(b.t, "slow", "") }, heals: func(b *breaking) { b.page.remove(b.t, "slow") },
			reason: "the body does not end within 600ms, [0-9]+ bytes came", serves: true},
		{name: "wrong-body", breaks: page("all is lost"), heals: page(wellPage()),
			reason: `the body does not contain "all is well": "all is lost"`, serves: true},
		{name: "wrong-status", breaks: func(b *breaking) { b.page.remove(b.t, "www/health") }, heals: page(wellPage()),
			reason: "status 404, expected 200-399", serves: true},
		{name: "expired-certificate", asks: fmt.Sprintf("{type: https, port: %d, path: /files/health, contains: all is well}", securePort),
			breaks: func(b *breaking) { b.page.certify(b.t, yesterday) }, heals: func(b *breaking) { b.page.certify(b.t, tomorrow) },
			reason: "certificate expired " + yesterday.UTC().Format(time.DateOnly), serves: true},
		{name: "flapping", care: fmt.Sprintf("    flap: {changes: 3, within: 1m, hold: %v}\n", flapHold),
			breaks: func(b *breaking) { b.page.remove(b.t, "www/health") }, heals: page(wellPage()),
			reason: "it changed 3 times within 1m0s and is held down until .*; status 404", serves: true, story: (*breaking).flap},
	}
}

// breaking is one way, in a cluster where all others are tried at the same time.
type breaking struct {
	*cluster
	way
	reports *reports
	rs      *lab.Node // the one that breaks
	page    *nginx    // its web server
	port    int       // of the service
	clients *asking
}

// TestEveryWayToBreak breaks real servers, each in a way of its own and all at
// the same time. Each is in a service with two healthy ones. It has to be found
// in interval × fall and the time of one check, for the right reason; from then on
// no client may notice it; and it has to come back once it is healed.
func TestEveryWayToBreak(t *testing.T) {
	ways := everyWay()
	const healthy = 2
	c := newCluster(t, lab.Options{RealServers: healthy + len(ways)})
	site := fmt.Sprintf("director: {interfaces: [eth0], connections: 65536}\ndefaults:\n  scheduler: rr\n"+
		"  check: {interval: %v, timeout: %v, rise: 2, fall: %d}\nservices:\n", breakInterval, breakTimeout, breakFall)
	r := &reports{c: c}
	var all []*breaking
	var ports []int
	for i, w := range ways {
		b := &breaking{way: w, reports: r, rs: c.RealServers[healthy+i], port: 8001 + i}
		all, ports = append(all, b), append(ports, b.port)
		if b.asks == "" {
			b.asks = "{type: http, path: /files/health, contains: all is well}"
		}
		site += fmt.Sprintf("  - name: %s\n    address: VIP:%d\n    servers: [%v, RS1, RS2]\n    checks: [%s]\n%s", b.name, b.port, b.rs.Addr(), b.asks, b.care)
	}
	for i, rs := range c.RealServers {
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String()).want(t, 0)
		page := newNginx(t, rs)
		page.write(t, "www/health", wellPage())
		page.certify(t, time.Now().Add(36*time.Hour))
		if i < healthy {
			page.listen(t, "", ports...)
			continue
		}
		all[i-healthy].page = page
		page.listen(t, "", ports[i-healthy])
	}
	c.director("start", "--config", c.site(site), "--debug")

	var stories sync.WaitGroup
	for _, b := range all {
		// Not t.Parallel, which would not let more run than there are CPUs.
		stories.Go(func() {
			t.Run(b.name, func(t *testing.T) {
				own := *c
				own.t = t
				b.cluster = &own
				b.try()
			})
		})
	}
	stories.Wait()
	if t.Failed() {
		t.Log(c.shunt(c.Director, "health", "--checks"), c.shunt(c.Director, "history"))
	}
}

func (b *breaking) try() {
	b.clients = b.ask(b.port)
	b.until("checks that succeed", func(h api.ServerHealth) bool { return h.Condition == api.Up && h.Checks[0].Successes > 1 })
	b.clients.goOn("before", b.rs.Name())
	if b.story != nil {
		b.story(b)
	} else {
		b.breakAndHeal()
	}
	b.clients.judge(b.rs.Name(), b.serves)
}

func (b *breaking) breakAndHeal() {
	broken := b.clients.mayFail()
	b.breaks(b)
	before := b.now().Checks[0]
	down := b.until("the broken server to be found", isDown)
	broken()
	away := b.clients.mayNotReach()

	check, event := down.Checks[0], b.turned(api.Down)
	// What is seen may be some checks later than what happened.
	later := max(0, int(check.Last.Sub(event.At)/(breakInterval/2)))
	ran := int(check.Runs-before.Runs) - later
	b.t.Logf("down: %s; %d checks ran, and %d later", down.Reason, ran, later)
	if ran > breakFall+1 {
		b.t.Errorf("%d checks ran from its end to when that was found: %+v, %v", ran, check, event)
	}
	if !b.unasked && (check.Failures < breakFall || check.Failures > breakFall+1+later) {
		b.t.Errorf("%d checks failed in a row when it was found: %+v, %v", check.Failures, check, event)
	}
	if event.Check == "" && !b.unasked {
		b.t.Errorf("which check found it? %+v", event)
	}
	b.saysWhy(down.Reason, event.Reason)
	if b.onRIP {
		b.cluster.run(b.Director, "curl", "-sS", "-f", "--max-time", slowest, fmt.Sprintf("http://%v:%d/files/health", b.rs.Addr(), b.port)).want(b.t, 0)
	}
	b.clients.goOn("without it", "")

	away()
	b.heals(b)
	b.until("the healed server to be up", isUp)
	if event := b.turned(api.Up); !strings.Contains(event.Reason, "2 of "+event.Check+" in a row succeeded") && !b.unasked || event.Reason == "" {
		b.t.Errorf("why it is up again: %q", event.Reason)
	}
	b.clients.goOn("with it again", b.rs.Name())
}

// flap has a server go down and up until it is held down for it, and sees that it
// is, though its check succeeds, and for how long.
func (b *breaking) flap() {
	b.breaks(b)
	b.until("the server to be down", isDown)
	b.heals(b)
	b.until("the server to be up", isUp)
	b.breaks(b)
	down := b.until("the server to be down again", isDown)
	held := b.turned(api.Down)
	b.saysWhy(down.Reason, held.Reason)
	b.heals(b)
	b.until("a server that is held down while its check succeeds", func(h api.ServerHealth) bool {
		return isDown(h) && h.Checks[0].OK && h.Checks[0].Successes > 1
	})
	b.until("the end of its being held", isUp)
	if up := b.turned(api.Up); up.At.Sub(held.At) < flapHold {
		b.t.Errorf("it was to be held down for %v, and was from %v to %v", flapHold, held.At, up.At)
	}
	b.clients.goOn("at the end", b.rs.Name())
}

func isUp(h api.ServerHealth) bool   { return h.Condition == api.Up }
func isDown(h api.ServerHealth) bool { return h.Condition == api.Down }

// now is what `shunt health` says of the server.
func (b *breaking) now() api.ServerHealth {
	b.t.Helper()
	return b.reports.server(b.t, b.name, b.rs.Addr().String())
}

// until waits until `shunt health` says that, and returns what it said.
func (b *breaking) until(what string, is func(api.ServerHealth) bool) (h api.ServerHealth) {
	b.t.Helper()
	eventually(b.t, what, func() bool { h = b.now(); return is(h) })
	return h
}

// turned is the last that `shunt history` says of the server.
func (b *breaking) turned(to api.Condition) (last health.Event) {
	b.t.Helper()
	for _, e := range b.history(b.name) {
		if e.Server.Addr == b.rs.Addr() {
			last = e
		}
	}
	if last.To != string(to) || last.By != "check" {
		b.t.Errorf("the history ends with %v (by %s), not with the server %s", last, last.By, to)
	}
	return last
}

// saysWhy sees that the reason is the right one, and that it is shown.
func (b *breaking) saysWhy(health, history string) {
	b.t.Helper()
	for _, said := range []string{health, history} {
		if !regexp.MustCompile(b.reason).MatchString(said) {
			b.t.Errorf("the reason is %q, want %s", said, b.reason)
		}
	}
	line := regexp.MustCompile(fmt.Sprintf(`(?m)^ +%v:%d +DOWN .*(%s)`, b.rs.Addr(), b.port, b.reason))
	if r := b.shunt(b.Director, "health"); r.code != 1 || !line.MatchString(r.stdout) {
		b.t.Errorf("no line %v, or not the exit code 1: %v", line, r)
	}
	line = regexp.MustCompile(fmt.Sprintf(`(?m)^.* %s %v:%d +up → down +.*(%s)`, b.name, b.rs.Addr(), b.port, b.reason))
	if r := b.shunt(b.Director, "history", "--service", b.name); r.code != 0 || !line.MatchString(r.stdout) {
		b.t.Errorf("no line %v: %v", line, r)
	}
}

// listenOn has the web server listen on this address only (empty: on all).
func (b *breaking) listenOn(addr string) {
	b.page.stop(b.t)
	b.page.listen(b.t, addr, b.port)
}
