// SPDX-License-Identifier: MIT

package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// site is a configuration of the cluster whose checks go through the VIP.
const site = `director:
  interfaces: [eth0]
services:
  - name: web
    address: %s
    scheduler: wlc
    servers: [%s]
    checks: [{type: http, status: 200}]
    check: {interval: 500ms, timeout: 400ms, rise: 2, fall: 2}
`

// loseVIP has a real server lose the VIP while its web server goes on: what a
// check of its own address would not notice.
func (s *show) loseVIP(ctx context.Context) (err error) {
	const lost = 1
	servers := s.RealServers[:2]
	victim, other := servers[lost], servers[0]
	if err := s.forgetNeighbours(); err != nil {
		return err
	}
	s.report.title("Drill: a real server loses its VIP")
	dir, err := os.MkdirTemp("", "shunt-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "shunt.yaml")
	var rips []string
	for _, rs := range servers {
		rips = append(rips, rs.Addr().String())
	}
	text := fmt.Sprintf(site, service(), strings.Join(rips, ", "))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	s.report.listing(text)
	if err := s.run(ctx, s.Director, "apply", file); err != nil {
		return err
	}
	if _, ok := s.awaitHealth(ctx, func(text string) bool { return !strings.Contains(text, "DOWN") }); !ok {
		s.report.proof("checked", false, "a real server is down from the start")
	}

	l := startLoad(ctx, s.Client, s.stepLimit)
	defer l.stop()
	if _, err := l.step(ctx, func(t tally) bool { return t.answered[victim.Name()] > 0 }); err != nil {
		return err
	}
	began := time.Now()
	if err := s.run(ctx, victim, "realserver", "stop", "--instance", s.instance(victim)); err != nil {
		return err
	}
	health, out := s.awaitHealth(ctx, func(text string) bool { return strings.Contains(text, "DOWN") })
	took := time.Since(began)
	alive := s.answersItself(ctx, victim, listens(s.method(lost)))
	s.report.proof("VIP lost", out && alive == nil,
		fmt.Sprintf("%s is out after %.1f s, although its web server answers on %v", victim.Name(), took.Seconds(), victim.Addr()))
	if alive != nil {
		s.report.detail(alive.Error())
	}
	s.report.listing(health)

	t, err := l.step(ctx, func(t tally) bool { return t.total() >= enough })
	if err != nil {
		return err
	}
	s.report.proof("without it", t.failed == 0 && t.answered[victim.Name()] == 0 && t.answered[other.Name()] > 0,
		fmt.Sprintf("%s, new connections to %s %d", t, victim.Name(), t.answered[victim.Name()]))
	t.explain(s.report)

	if err := s.accept(ctx, victim, s.method(lost)); err != nil {
		return err
	}
	_, back := s.awaitHealth(ctx, func(text string) bool { return !strings.Contains(text, "DOWN") })
	t, err = l.step(ctx, func(t tally) bool { return t.total() >= enough && t.answered[victim.Name()] > 0 })
	if err != nil {
		return err
	}
	s.report.proof("VIP back", back && t.failed == 0 && t.answered[victim.Name()] > 0,
		fmt.Sprintf("%s, new connections to %s %d", t, victim.Name(), t.answered[victim.Name()]))
	t.explain(s.report)
	l.stop()
	all := l.all()
	// What was under way on the victim when it lost the VIP is beyond help.
	s.report.proof("hardly noticed", all.failed <= clients,
		fmt.Sprintf("%s in all (%d clients may have had one under way there), the slowest took %v", all, clients, all.slowest.Round(time.Millisecond)))
	all.explain(s.report)
	return nil
}

// awaitHealth asks the director how its real servers are until is holds. It
// returns what was said last.
func (s *show) awaitHealth(ctx context.Context, is func(string) bool) (text string, ok bool) {
	for end := time.Now().Add(s.stepLimit); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		text, _ = s.output(ctx, s.Director, "health", "--instance", s.instance(nil)) // it fails if one is down
		if text != "" && is(text) {
			return text, true
		}
	}
	return text, false
}

// answersItself asks a real server's web server at its own address.
func (s *show) answersItself(ctx context.Context, rs *lab.Node, listen int) error {
	b := newBrowser(s.Director, false)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+netip.AddrPortFrom(rs.Addr(), uint16(listen)).String()+"/", nil)
	if err != nil {
		return err
	}
	resp, err := b.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
