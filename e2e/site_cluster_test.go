// SPDX-License-Identifier: MIT

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// site is a cluster of which the director has a configuration. Its real servers
// talk (see talks) and have nginx; a check asks for a page, so that a test makes a
// real server ill by taking the page away.
type site struct {
	*cluster
	path  string // of the file that the director is started with
	pages []*nginx
}

// siteKinds runs tests of sites at the same time. Not by t.Parallel, which would
// not let more run than there are CPUs.
func siteKinds(t *testing.T, servers int, kinds map[string]func(*site)) {
	var all sync.WaitGroup
	for name, test := range kinds {
		all.Go(func() {
			t.Run(name, func(t *testing.T) { test(newSite(t, servers)) })
		})
	}
	all.Wait()
}

func newSite(t *testing.T, servers int) *site {
	s := &site{cluster: newCluster(t, lab.Options{RealServers: servers}), path: filepath.Join(t.TempDir(), "site.yaml")}
	for _, rs := range s.RealServers {
		s.shunt(rs, "realserver", "start", "--vip", lab.VIP().String()).want(t, 0)
		s.talks(rs, talkPort)
		s.talks(rs, 82)
	}
	return s
}

// serveWeb starts nginx on each real server, with the page that checks ask for.
func (s *site) serveWeb() {
	s.t.Helper()
	for _, rs := range s.RealServers {
		s.pages = append(s.pages, startNginx(s.t, rs, 80))
	}
	put(s.t, s.pages, "up", 10)
}

// ill makes a real server fail its check, or (false) succeed.
func (s *site) ill(server int, ill bool) {
	s.t.Helper()
	page := filepath.Join(s.pages[server-1].dir, "www", "up")
	err := os.Remove(page)
	if !ill {
		err = os.WriteFile(page, []byte("up"), 0o644)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// head is the section of a file that all directors of these tests have.
const head = `director:
  interfaces: [eth0]
  connections: 65536
`

// checkUp are the lines of a service whose check is a page of nginx.
const checkUp = `
    checks: [{type: http, path: /files/up, port: 80}]
    check: {interval: 100ms, timeout: 1s, rise: 2, fall: 10}
`

// write makes a file of a text as spell has it.
func (s *site) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(filepath.Dir(s.path), name)
	if err := os.WriteFile(path, []byte(s.spell(text)), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// begin starts the director with a configuration.
func (s *site) begin(text string) {
	s.t.Helper()
	s.write("site.yaml", text)
	s.director("start", "--config", s.path, "--debug")
}

// apply puts a text into the director's file, and that in force.
func (s *site) apply(text string, flags ...string) result {
	s.t.Helper()
	return s.shunt(s.Director, append([]string{"apply", s.write("site.yaml", text)}, flags...)...)
}

// say gives the director's machine a command that has to succeed.
func (s *site) say(args ...string) string {
	s.t.Helper()
	return s.shunt(s.Director, args...).want(s.t, 0).stdout
}

// saved are the rules as they are configured.
func (s *site) saved() string {
	s.t.Helper()
	return s.rules("-S -n")
}

// addresses are those of the director's interface.
func (s *site) addresses() string {
	s.t.Helper()
	var all []string
	for line := range strings.Lines(s.sh(s.Director, "ip -o addr show dev eth0")) {
		all = append(all, strings.Fields(line)[3])
	}
	return strings.Join(all, " ")
}

// health is what the command says.
func (s *site) health() (all []api.ServiceHealth) {
	s.t.Helper()
	r := s.shunt(s.Director, "health", "--json", "--checks")
	if err := json.Unmarshal([]byte(r.stdout), &all); err != nil {
		s.t.Fatalf("%v: %v", err, r)
	}
	return all
}

// conditions are those of the real servers, as "web RS1 up".
func (s *site) conditions() (all []string) {
	s.t.Helper()
	for _, h := range s.health() {
		for _, r := range h.Servers {
			all = append(all, fmt.Sprintf("%s %s %s", h.Name, s.nameOf(r.Server.Addr.String()), r.Condition))
		}
	}
	return all
}

func (s *site) nameOf(addr string) string {
	for i, rs := range s.RealServers {
		if rs.Addr().String() == addr {
			return fmt.Sprintf("RS%d", i+1)
		}
	}
	return addr
}

// becomes waits until the real servers of a service are so.
func (s *site) becomes(want ...string) {
	s.t.Helper()
	eventually(s.t, strings.Join(want, ", "), func() bool {
		is := s.conditions()
		return !slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(is, w) })
	})
}

// stays sees that the real servers of a service are so for a while.
func (s *site) stays(lasts time.Duration, want ...string) {
	s.t.Helper()
	for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		is := s.conditions()
		for _, w := range want {
			if !slices.Contains(is, w) {
				s.t.Fatalf("it should stay %q: %q", w, is)
			}
		}
	}
}

// weight is the one that ipvsadm -Ln lists; -1: the real server is not listed.
func (s *site) weight(service string, server int) int {
	s.t.Helper()
	id := s.spell(service)
	at := s.RealServers[server-1].Addr().String() + id[strings.LastIndex(id, ":"):]
	if r := s.table("")[id][at]; len(r) > 0 {
		return int(r[0])
	}
	return -1
}

// everything is what must be as before after something was refused.
func (s *site) everything() string {
	s.t.Helper()
	listing := "" // without what traffic changes
	for line := range strings.Lines(s.rules("-Ln")) {
		f := strings.Fields(line)
		listing += strings.Join(f[:min(len(f), 4)], " ") + "\n"
	}
	var checks []string
	for _, h := range s.health() {
		for _, r := range h.Servers {
			for _, c := range r.Checks {
				checks = append(checks, fmt.Sprint(h.Name, " ", s.nameOf(r.Server.Addr.String()), " ", c.Check, " ", c.Up))
			}
		}
	}
	return strings.Join([]string{s.saved(), listing, s.addresses(), strings.Join(s.conditions(), "\n"), strings.Join(checks, "\n"), s.inForce().Path, s.inForce().Applied.String()}, "\n")
}

// inForce is what status says of the configuration.
func (s *site) inForce() api.Site {
	s.t.Helper()
	if c := s.status().Config; c != nil {
		return *c
	}
	return api.Site{}
}

// clients are at work all the time: some hold a connection on which both sides
// talk, others come and go. Nothing is tried twice.
type clients struct {
	s       *site
	to      string
	quit    chan struct{}
	working sync.WaitGroup

	mu     sync.Mutex
	failed []string
	done   int
}

// clients begins with them.
func (s *site) clients(port int) *clients {
	c := &clients{s: s, to: address(lab.VIP().String(), port), quit: make(chan struct{})}
	for range 6 {
		c.working.Go(func() { c.talk(-1, 100*time.Millisecond) })
	}
	c.working.Go(func() {
		for c.pause(20 * time.Millisecond) {
			c.talk(1, 0)
		}
	})
	s.t.Cleanup(c.stop)
	c.goOn()
	return c
}

func (c *clients) stop() {
	select {
	case <-c.quit:
	default:
		close(c.quit)
	}
	c.working.Wait()
}

func (c *clients) pause(d time.Duration) bool {
	select {
	case <-c.quit:
		return false
	case <-time.After(d):
		return true
	}
}

// talk says something so many times (below 0: to the end), and hears it again.
func (c *clients) talk(times int, every time.Duration) {
	err := func() error {
		conn, err := c.s.connect(c.to)
		if err != nil {
			return err
		}
		defer conn.Close()
		for ; times != 0; times-- {
			if err := conn.exchange(); err != nil {
				return fmt.Errorf("%v at %s: %w", conn.LocalAddr(), conn.server, err)
			}
			c.mu.Lock()
			c.done++
			c.mu.Unlock()
			if every > 0 && !c.pause(every) {
				return nil
			}
		}
		return nil
	}()
	if err != nil {
		c.mu.Lock()
		c.failed = append(c.failed, time.Now().Format("05.000: ")+err.Error())
		c.mu.Unlock()
	}
}

// goOn waits until they got somewhere, without a failure.
func (c *clients) goOn() {
	c.s.t.Helper()
	before := -1
	eventually(c.s.t, "progress of the clients", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.failed) > 0 {
			c.s.t.Fatalf("%d clients failed, the first: %s; %v", len(c.failed), c.failed[0], lost(c.s.cluster))
		}
		if before < 0 {
			before = c.done
		}
		return c.done >= before+20
	})
}

// finish ends them; none may have failed.
func (c *clients) finish() {
	c.s.t.Helper()
	c.goOn()
	c.stop()
	if len(c.failed) > 0 {
		c.s.t.Fatalf("%d clients failed, the first: %s", len(c.failed), c.failed[0])
	}
	c.s.t.Logf("%d exchanges, none failed", c.done)
}

// held is a connection to a service of servers that talk.
type held struct {
	net.Conn
	in     *bufio.Reader
	server string // its name
}

// connect opens one from the client's machine.
func (s *site) connect(to string) (*held, error) {
	conn, err := s.Client.Dial(s.t.Context(), "tcp", to)
	if err != nil {
		return nil, err
	}
	h := &held{Conn: conn, in: bufio.NewReader(conn)}
	conn.SetDeadline(time.Now().Add(commandLimit))
	if h.server, err = h.in.ReadString('\n'); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%v to %s: %w", conn.LocalAddr(), to, err)
	}
	h.server = strings.TrimSpace(h.server)
	return h, nil
}

// connected opens a connection to the talking service, which has to be there.
func (s *site) connected() *held {
	s.t.Helper()
	h, err := s.connect(address(lab.VIP().String(), talkPort))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { h.Close() })
	return h
}

// connectedTo opens one that a certain real server answers.
func (s *site) connectedTo(server int) *held {
	s.t.Helper()
	for range 20 {
		h := s.connected()
		if h.server == s.RealServers[server-1].Name() {
			return h
		}
		h.Close()
	}
	s.t.Fatalf("real server %d got none of 20 connections", server)
	return nil
}

// answers tells who answers n new connections.
func (s *site) answers(n int) map[string]int {
	s.t.Helper()
	by := map[string]int{}
	for range n {
		h := s.connected()
		by[h.server]++
		h.Close()
	}
	return by
}

func (h *held) exchange() error {
	out := bytes.Repeat([]byte{byte(time.Now().UnixNano())}, 700)
	h.SetDeadline(time.Now().Add(commandLimit))
	if _, err := h.Write(out); err != nil {
		return err
	}
	got := make([]byte, len(out))
	if _, err := io.ReadFull(h.in, got); err != nil {
		return err
	}
	if !bytes.Equal(got, out) {
		return fmt.Errorf("other bytes came back")
	}
	return nil
}
