// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// risesSlowly has a real server come back beside one that holds all connections.
// By wlc alone it would get every new one until it holds as many.
func (s *site) risesSlowly() {
	const lasts = 5 * time.Second
	s.serveWeb()
	s.begin(head + strings.Replace(talking, "rr", "wlc", 1) + checkUp + fmt.Sprintf("    slow_start: %v\n    connections: reset\n", lasts))
	s.becomes("talk RS1 up", "talk RS2 up") // not starting: both are new
	s.ill(1, true)
	s.becomes("talk RS1 down")
	for range 60 {
		s.connected()
	}
	effective := func() float64 { return s.health()[0].Servers[0].Effective }
	s.ill(1, false)
	s.becomes("talk RS1 starting")
	began := time.Now()

	var mu sync.Mutex
	var steps []float64
	var watching sync.WaitGroup
	quit := make(chan struct{})
	watching.Go(func() {
		for {
			e := effective()
			mu.Lock()
			steps = append(steps, e)
			mu.Unlock()
			select {
			case <-quit:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	type quarter struct{ new, old int }
	var quarters [4]quarter
	for {
		at := int(time.Since(began) * 4 / lasts)
		if at >= 4 {
			break
		}
		h := s.connected()
		if h.server == "rs1" {
			quarters[at].new++
		} else {
			quarters[at].old++
		}
		time.Sleep(25 * time.Millisecond)
	}
	close(quit)
	watching.Wait()
	share := func(q quarter) float64 { return float64(q.new) / float64(q.new+q.old) }
	s.t.Logf("new and old server's connections, by quarters of the slow start: %v; weights %v", quarters, steps)
	if first := share(quarters[0]); first > 0.7 {
		s.t.Errorf("the server that is back got %.0f %% of the first connections", 100*first)
	}
	if quarters[3].new == 0 || share(quarters[3]) <= share(quarters[0]) {
		s.t.Errorf("the share of the server that is back does not grow: %v", quarters)
	}
	if !slices.IsSorted(steps) || steps[0] > 0.5 || len(slices.Compact(slices.Clone(steps))) < 4 {
		s.t.Errorf("its weight goes %v", steps)
	}
	s.becomes("talk RS1 up")
	eventually(s.t, "the whole weight", func() bool { return effective() == 1 })
	if w := s.weight("TCP VIP:7", 1); w != 1 {
		s.t.Errorf("after the slow start the weight is listed as %d", w)
	}
	to := []string{}
	for _, e := range s.history("--server", s.spell("RS1")) {
		to = append(to, e.To)
	}
	if !slices.Equal(to, []string{"down", "starting", "up"}) {
		s.t.Errorf("it turned %q", to)
	}

	// A scheduler that knows no weights: there is nothing to wait for.
	s.apply(head+talking+checkUp+"    slow_start: 1s\n").want(s.t, 0)
	s.ill(1, true)
	s.becomes("talk RS1 down")
	s.ill(1, false)
	s.becomes("talk RS1 up")

	// It outlives the daemon.
	s.apply(head+strings.Replace(talking, "rr", "wlc", 1)+checkUp+"    slow_start: 1h\n").want(s.t, 0)
	s.ill(1, true)
	s.becomes("talk RS1 down")
	s.ill(1, false)
	s.becomes("talk RS1 starting")
	time.Sleep(500 * time.Millisecond) // two ticks: it is remembered
	s.kill()
	s.director("start", "--debug")
	if c, e := s.conditions(), effective(); !slices.Contains(c, "talk RS1 starting") || e > 0.2 {
		s.t.Errorf("a restart ends a slow start: %q, weight %v", c, e)
	}
}

// blocked reads on a connection, and tells how that ends.
func blocked(h *held) <-chan error {
	h.SetDeadline(time.Now().Add(commandLimit))
	ends := make(chan error, 1)
	go func() {
		_, err := h.Read(make([]byte, 1))
		ends <- err
	}()
	return ends
}

// both are two services with the same real servers, and names for these.
const both = `services:
  - name: talk
    address: VIP:7
    scheduler: rr
    servers:
      - {address: RS1, name: one}
      - {address: RS2, name: two}
  - name: beside
    address: VIP:82
    servers: [RS1, RS2]
`

func (s *site) drains() {
	s.begin(head + both)
	old, talks := s.connectedTo(1), s.connectedTo(1)
	ends := blocked(old)
	rs1 := s.spell("RS1")

	// Whom it is about.
	for _, d := range []struct {
		args []string
		of   []string
	}{
		{[]string{"one"}, []string{"talk"}},
		{[]string{rs1}, []string{"talk", "beside"}},
		{[]string{rs1 + ":7"}, []string{"talk"}},
		{[]string{rs1, "--service", "beside"}, []string{"beside"}},
		{[]string{rs1, "--service", s.spell("TCP VIP:7")}, []string{"talk"}},
	} {
		s.say(append([]string{"drain"}, d.args...)...)
		want := []string{"talk RS1 up", "talk RS2 up", "beside RS1 up", "beside RS2 up"}
		for i, w := range want {
			service, server, _ := strings.Cut(w, " ")
			if slices.Contains(d.of, service) && strings.HasPrefix(server, "RS1") {
				want[i] = service + " RS1 draining"
			}
		}
		if is := s.conditions(); !slices.Equal(is, want) {
			s.t.Errorf("drain %v: %q", d.args, is)
		}
		s.say("enable", rs1)
		if is := s.conditions(); strings.Contains(strings.Join(is, " "), "draining") {
			s.t.Errorf("enabled after drain %v: %q", d.args, is)
		}
	}
	for _, wrong := range [][]string{{"drain", "three"}, {"drain", "172.16.16.99"}, {"drain", rs1, "--service", "none"}, {"enable", rs1 + ":80"}, {"maintenance", "three"}} {
		s.shunt(s.Director, wrong...).want(s.t, 1)
	}
	s.shunt(s.Director, "drain").want(s.t, 2)
	s.shunt(s.Director, "drain", rs1, "--then", "forget").want(s.t, 2)

	// Who is still there is shown, goes on, and at the end is told so.
	configured := s.saved()
	waits := s.Director.Command(s.t.Context(), program, "drain", rs1, "--within", "6s", "--wait", "--reason", "new disk")
	waits.Env = append(os.Environ(), "SHUNT_INSTANCE="+instanceOf(s.Director))
	var said bytes.Buffer
	waits.Stdout, waits.Stderr = &said, &said
	if err := waits.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.becomes("talk RS1 draining", "beside RS1 draining")
	if w := []int{s.weight("TCP VIP:7", 1), s.weight("TCP VIP:7", 2)}; !slices.Equal(w, []int{0, 1}) {
		s.t.Errorf("the weights are listed as %v", w)
	}
	if by := s.answers(6); by["rs2"] != 6 {
		s.t.Errorf("with one server that drains %v answer", by)
	}
	if err := talks.exchange(); err != nil {
		s.t.Errorf("a connection of the server that drains: %v", err)
	}
	s.shunt(s.Director, "drain", rs1+":7", "--within", "1h").want(s.t, 0).says(s.t, old.LocalAddr().String(), talks.LocalAddr().String(), "2 connections of 1 clients")
	s.shunt(s.Director, "health").want(s.t, 0).says(s.t, "DRAINING")
	if s.saved() != configured || len(s.inForce().Drift) > 0 {
		s.t.Errorf("a drain is taken for a change of rules:\n%s", s.saved())
	}
	s.say("drain", rs1+":7", "--within", "4s")
	s.kill() // the time runs on
	s.director("start", "--debug")
	s.becomes("talk RS1 draining", "beside RS1 draining")
	if err := talks.exchange(); err != nil {
		s.t.Errorf("after a restart: a connection of the server that drains: %v", err)
	}
	for _, e := range []<-chan error{ends, blocked(talks)} {
		select {
		case err := <-e:
			if !errors.Is(err, syscall.ECONNRESET) {
				s.t.Errorf("at the end of the time to drain a client got %v", err)
			}
		case <-time.After(commandLimit):
			s.t.Error("long after the time to drain a client still waits")
		}
	}
	waits.Wait() // the kill ended it
	if out := said.String(); !strings.Contains(out, old.LocalAddr().String()) || !strings.Contains(out, "connections of 1 clients") {
		s.t.Errorf("drain --wait said\n%s", out)
	}
	s.becomes("talk RS1 draining")
	s.say("enable", "one")
	s.becomes("talk RS1 up", "beside RS1 draining")
	if by := s.answers(6); by["rs1"] == 0 {
		s.t.Errorf("after enable %v answer", by)
	}
	s.say("enable", rs1)

	// To the end, without anybody.
	last := s.connectedTo(1)
	go func() {
		time.Sleep(time.Second)
		last.Close()
	}()
	s.shunt(s.Director, "drain", "one", "--wait").want(s.t, 0).says(s.t, last.LocalAddr().String(), "nobody is connected any more")
	s.say("enable", "one")
	kept := s.connectedTo(1)
	s.say("drain", "one", "--within", "1ms", "--then", "keep")
	time.Sleep(500 * time.Millisecond) // two ticks
	if err := kept.exchange(); err != nil {
		s.t.Errorf("--then keep: %v", err)
	}
	s.say("drain", "one", "--within", "1ms", "--then", "expire")
	eventually(s.t, "the end of a connection that expires", func() bool {
		return !slices.ContainsFunc(s.connections(), func(c string) bool { return strings.Contains(c, kept.LocalAddr().String()) })
	})
}

func (s *site) maintains() {
	s.serveWeb()
	checked := strings.Replace(both, "  - name: beside", checkUp[1:]+"  - name: beside", 1)
	s.begin(head + checked)
	s.becomes("talk RS1 up", "talk RS2 up")
	old := s.connectedTo(1)
	s.shunt(s.Director, "maintenance", "one", "--reason", "new disk").want(s.t, 0).says(s.t, s.spell("RS1"), "maintenance")
	in := func(when string) {
		s.t.Helper()
		if is := s.conditions(); !slices.Contains(is, "talk RS1 maintenance") {
			s.t.Errorf("%s: %q", when, is)
		}
		if w := s.weight("TCP VIP:7", 1); w != 0 {
			s.t.Errorf("%s: the weight is listed as %d", when, w)
		}
		if by := s.answers(4); by["rs2"] != 4 {
			s.t.Errorf("%s: %v answer", when, by)
		}
		s.shunt(s.Director, "health").says(s.t, "MAINTENANCE", "new disk")
	}
	in("at first")
	if err := old.exchange(); err != nil {
		s.t.Errorf("a connection of a server in maintenance: %v", err)
	}
	s.ill(1, true)
	runs := func() uint64 {
		n := uint64(0)
		for _, c := range s.health()[0].Servers[0].Checks {
			n += uint64(c.Runs)
		}
		return n
	}
	if n := runs(); n != 0 {
		s.t.Errorf("a server in maintenance is checked (%d times)", n)
	}
	s.kill()
	s.director("start", "--debug")
	in("killed and started")
	s.rules("-e -t VIP:7 -r RS1 -w 3", "-E -t VIP:7 -s wlc")
	in("edited")
	if !strings.Contains(s.saved(), s.spell("-r RS1:7 -g -w 3")) {
		s.t.Errorf("the rules are\n%s", s.saved())
	}
	s.rules("-d -t VIP:7 -r RS1", "-a -t VIP:7 -r RS1 -w 2")
	in("removed and added")
	s.rules("-D -t VIP:7", "-A -t VIP:7 -s rr", "-a -t VIP:7 -r RS1", "-a -t VIP:7 -r RS2")
	in("removed and added with its service")
	s.apply(head+checked).want(s.t, 0)
	in("applied")
	s.director("stop")
	s.director("start", "--debug")
	in("stopped and started")
	var to []string
	for _, e := range s.history("--server", "one") {
		to = append(to, e.To+" by "+e.By)
	}
	if !slices.Equal(to, []string{"maintenance by operator"}) {
		s.t.Errorf("it turned %q", to)
	}

	// Its checks count again, before it gets anything.
	s.say("enable", "one")
	if by := s.answers(4); by["rs2"] != 4 {
		s.t.Errorf("a server that nobody has checked since its maintenance is used: %v answer", by)
	}
	s.stays(500*time.Millisecond, "talk RS1 down")
	s.ill(1, false)
	s.becomes("talk RS1 up")
	if by := s.answers(6); by["rs1"] == 0 {
		s.t.Errorf("after a maintenance %v answer", by)
	}
}
