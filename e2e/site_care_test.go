// SPDX-License-Identifier: MIT

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestSiteCare has what follows from how real servers are, each consequence that
// a configuration can choose; and how they come back, and are taken out by operators.
func TestSiteCare(t *testing.T) {
	siteKinds(t, 3, map[string]func(*site){
		"failed":   (*site).fails,
		"quorum":   (*site).lacks,
		"withdraw": (*site).withdraws,
		"told":     (*site).tells,

		"slowstart":   (*site).risesSlowly,
		"drain":       (*site).drains,
		"maintenance": (*site).maintains,
	})
}

// fails has a real server fail, with each choice of what becomes of it and its
// connections.
func (s *site) fails() {
	s.serveWeb()
	s.begin(head + talking + checkUp)
	s.becomes("talk RS1 up", "talk RS2 up")
	for _, v := range []struct {
		on, connections string
		weight          int // as -Ln lists it; -1: not at all
	}{{"quiesce", "keep", 0}, {"remove", "keep", -1}, {"remove", "expire", -1}, {"quiesce", "reset", 0}, {"remove", "reset", -1}} {
		s.apply(fmt.Sprintf("%s%s%s    on_failure: %s\n    connections: %s\n", head, talking, checkUp, v.on, v.connections)).want(s.t, 0)
		configured := s.saved()
		old, other := s.connectedTo(1), s.connectedTo(2)
		waits := make(chan error, 1)
		if v.connections == "reset" { // it is blocked in a read, and sends nothing
			go func() {
				_, err := old.Read(make([]byte, 1))
				waits <- err
			}()
		}
		s.ill(1, true)
		s.becomes("talk RS1 down", "talk RS2 up")
		what := v.on + " and " + v.connections
		if w := s.weight("TCP VIP:7", 1); w != v.weight {
			s.t.Errorf("%s: the failed server's weight is listed as %d", what, w)
		}
		if now := s.saved(); now != configured {
			s.t.Errorf("%s: the rules were\n%s\nand are\n%s", what, configured, now)
		}
		if d := s.inForce().Drift; len(d) != 0 {
			s.t.Errorf("%s: a failure is taken for a change at run time: %v", what, d)
		}
		if by := s.answers(6); by["rs2"] != 6 {
			s.t.Errorf("%s: new connections went to %v", what, by)
		}
		known := func() bool {
			return slices.ContainsFunc(s.connections(), func(c string) bool { return strings.Contains(c, " "+old.LocalAddr().String()+" ") })
		}
		switch v.connections {
		case "keep":
			if err := old.exchange(); err != nil || !known() {
				s.t.Errorf("%s: the connection of the failed server does not go on: %v", what, err)
			}
		case "expire":
			eventually(s.t, "the end of the connection in the director", func() bool { return !known() })
		case "reset":
			select {
			case err := <-waits:
				if !errors.Is(err, syscall.ECONNRESET) {
					s.t.Errorf("%s: a client of the failed server got %v", what, err)
				}
			case <-time.After(commandLimit):
				s.t.Errorf("%s: a client of the failed server still waits", what)
			}
		}
		if err := other.exchange(); err != nil {
			s.t.Errorf("%s: a connection of the other server: %v", what, err)
		}
		s.shunt(s.Director, "health").want(s.t, 1).says(s.t, "DOWN", "404")
		s.shunt(s.Director, "director", "status").want(s.t, 0).says(s.t, "is in condition down", "404")
		s.ill(1, false)
		s.becomes("talk RS1 up")
		if w := s.weight("TCP VIP:7", 1); w != 1 {
			s.t.Errorf("%s: the weight of the server that is back is listed as %d", what, w)
		}
		if by := s.answers(6); by["rs1"] == 0 {
			s.t.Errorf("%s: the server that is back got none of 6 connections", what)
		}
		s.shunt(s.Director, "health").want(s.t, 0)
		old.Close()
		other.Close()
	}
}

// lacks has too few real servers left.
func (s *site) lacks() {
	s.serveWeb()
	s.begin(head + talking + checkUp + "    sorry_server: RS3\n    quorum: {up: 2, down: 1}\n")
	s.becomes("talk RS1 up", "talk RS2 up", "talk RS3 unused")
	is := func(when string, usable bool, by ...string) {
		s.t.Helper()
		if h := s.health()[0]; !strings.Contains(h.Reason, "fit") || strings.Contains(h.Reason, "stands in") == usable {
			s.t.Errorf("%s: %s", when, h.Reason)
		}
		got := s.answers(6)
		if len(got) != len(by) {
			s.t.Errorf("%s: %v answer; it should be %v", when, got, by)
		}
		for _, name := range by {
			if got[name] == 0 {
				s.t.Errorf("%s: %v answer; it should be %v", when, got, by)
			}
		}
	}
	is("at first", true, "rs1", "rs2")
	if w := s.weight("TCP VIP:7", 3); w != -1 {
		s.t.Errorf("the sorry server is listed with weight %d", w)
	}
	old := s.connectedTo(2)
	s.ill(1, true)
	s.becomes("talk RS1 down")
	is("with one", true, "rs2")
	s.ill(2, true)
	s.becomes("talk RS2 down", "talk RS3 sorry")
	is("with none", false, "rs3")
	if w := []int{s.weight("TCP VIP:7", 1), s.weight("TCP VIP:7", 2), s.weight("TCP VIP:7", 3)}; !slices.Equal(w, []int{0, 0, 1}) {
		s.t.Errorf("the weights are listed as %v", w)
	}
	if strings.Contains(s.saved(), s.spell("RS3")) {
		s.t.Errorf("the sorry server is among the rules:\n%s", s.saved())
	}
	// Whoever is served by the sorry server goes on, when the others are back; and so
	// does a connection of one that failed.
	sorry := s.connectedTo(3)
	time.Sleep(300 * time.Millisecond) // a tick: what was found out just after something else is remembered then
	s.kill()                           // that two are needed is remembered, too
	s.director("start", "--debug")
	s.stays(500*time.Millisecond, "talk RS1 down", "talk RS2 down", "talk RS3 sorry")
	s.ill(1, false)
	s.becomes("talk RS1 up")
	s.kill()
	s.director("start", "--debug")
	is("with one again, of which two are needed now", false, "rs3")
	s.ill(2, false)
	s.becomes("talk RS1 up", "talk RS2 up", "talk RS3 unused")
	is("with both again", true, "rs1", "rs2")
	for _, h := range []*held{old, sorry} {
		if err := h.exchange(); err != nil {
			s.t.Errorf("a connection of %s: %v", h.server, err)
		}
	}
	var turns []string
	for _, e := range s.history("--service", "talk") {
		if e.Subject == "service" {
			turns = append(turns, e.To)
		}
	}
	if !slices.Equal(turns, []string{"unusable", "usable"}) {
		s.t.Errorf("the service turned %q", turns)
	}

	// Alpha: who is new is down until it has succeeded.
	os.Remove(filepath.Join(s.pages[2].dir, "www", "up"))
	alpha := head + talking + "      - RS3\n" + checkUp + "    alpha: true\n"
	s.apply(alpha).want(s.t, 0)
	s.stays(time.Second, "talk RS1 up", "talk RS2 up", "talk RS3 down")
	is("with a new one that has not succeeded", true, "rs1", "rs2")
	s.ill(3, false)
	s.becomes("talk RS3 up")
	is("with a new one that has succeeded", true, "rs1", "rs2", "rs3")
	s.director("stop")
	forget(s.t, instanceOf(s.Director))
	s.ill(1, true)
	s.begin(alpha)
	s.becomes("talk RS1 down", "talk RS2 up", "talk RS3 up")
	if n := s.table("--stats")[s.spell("TCP VIP:7")][s.spell("RS1:7")]; n[0] != 0 {
		s.t.Errorf("a server that never succeeded got %d connections", n[0])
	}
}

// withdraws has a VIP leave the wire because nothing serves it.
func (s *site) withdraws() {
	s.serveWeb()
	s.begin(head + "  local_clients: true\n" + talking + checkUp + "    withdraw_vip: true\n")
	s.becomes("talk RS1 up", "talk RS2 up")
	answered := func() bool {
		return s.run(s.Client, "arping", "-q", "-c", "1", "-w", "1", "-I", "eth0", lab.VIP().String()).code == 0
	}
	if !answered() {
		s.t.Error("nobody answers for the VIP at first")
	}
	s.ill(1, true)
	s.ill(2, true)
	withdrawn := func() bool { return s.status().VIPs[0].Withdrawn }
	eventually(s.t, "the VIP's withdrawal", withdrawn)
	silent := func(when string) {
		s.t.Helper()
		if answered() || strings.Contains(s.addresses(), lab.VIP().String()) {
			s.t.Errorf("%s: the VIP that is withdrawn is answered for; %s", when, s.addresses())
		}
	}
	silent("at first")
	s.shunt(s.Director, "director", "status").want(s.t, 0).says(s.t, "withdrawn, as no service of it is usable")

	// Another one may have it meanwhile, and is not disturbed.
	tap, err := s.TapARP(s.Director)
	if err != nil {
		s.t.Fatal(err)
	}
	other := s.add("other", "172.16.16.20/24")
	s.sh(other, fmt.Sprintf("ip addr add %v/32 dev eth0; arping -q -U -c 2 -w 3 -I eth0 %[1]v", lab.VIP()))
	claims := func() (n int) {
		for _, f := range tap.Frames() {
			if f.FromNode && f.ARP != nil && f.ARP.Sender == lab.VIP() {
				n++
			}
		}
		return n
	}
	if n := claims(); n > 0 {
		s.t.Errorf("the director claimed the VIP that it has withdrawn %d times, when another machine had it", n)
	}
	s.sh(other, fmt.Sprintf("ip addr del %v/32 dev eth0", lab.VIP()))

	s.kill()
	s.director("start", "--debug")
	if !withdrawn() {
		s.t.Error("a restart brings a VIP back that nothing serves")
	}
	silent("after a restart")
	s.ill(2, false)
	s.becomes("talk RS2 up")
	eventually(s.t, "the VIP's return", func() bool { return !withdrawn() && answered() })
	if claims() == 0 {
		s.t.Error("the VIP's return was not announced")
	}
	s.sh(s.Client, "ip neigh flush dev eth0")
	if by := s.answers(4); by["rs2"] != 4 {
		s.t.Errorf("after the VIP's return %v answer", by)
	}
	var turns []string
	for _, e := range s.history() {
		if e.Subject == "vip" {
			turns = append(turns, e.To)
		}
	}
	if !slices.Equal(turns, []string{"withdrawn", "announced"}) {
		s.t.Errorf("the VIP turned %q", turns)
	}
	tap.Close()
}

// history is what the command tells.
func (s *site) history(args ...string) (all []health.Event) {
	s.t.Helper()
	out := s.say(append([]string{"history", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	return all
}

// tells has a program, a webhook and the log be told, and the history remember.
func (s *site) tells() {
	s.serveWeb()
	dir, err := os.MkdirTemp("", "e2e-told-") // whoever runs the program has no way into t.TempDir
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(dir) })
	told := filepath.Join(dir, "told")
	program := filepath.Join(dir, "tell")
	script := "#!/bin/sh\necho \"$(id -un) $SHUNT_SUBJECT $SHUNT_NAME $SHUNT_SERVER $SHUNT_FROM $SHUNT_TO: $SHUNT_REASON\" >> " + told + "\n"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, []byte(script), 0o755), os.WriteFile(told, nil, 0o666), os.Chmod(told, 0o666)); err != nil {
		s.t.Fatal(err)
	}
	var mu sync.Mutex
	var posted []health.Event
	l, err := s.Director.Listen("tcp", "127.0.0.1:9000")
	if err != nil {
		s.t.Fatal(err)
	}
	hook := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e health.Event
		text, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(text, &e)
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/hook" {
			s.t.Errorf("the webhook got %s %s: %s (%v)", r.Method, r.URL, text, err)
		}
		posted = append(posted, e)
	})}
	go hook.Serve(l)
	s.t.Cleanup(func() { hook.Close() })

	s.begin(head + "notify:\n  - {command: [" + program + "], on: [server]}\n  - {url: \"http://127.0.0.1:9000/hook\"}\n  - {log: error, on: [service]}\n" + talking + checkUp)
	s.becomes("talk RS1 up", "talk RS2 up")
	s.ill(1, true)
	s.becomes("talk RS1 down")
	s.ill(2, true)
	s.becomes("talk RS2 down")
	rs1, rs2 := s.spell("RS1"), s.spell("RS2")
	hears := func(what string, is func() bool) { s.t.Helper(); eventually(s.t, what, is) }
	hears("the program's word", func() bool {
		text, _ := os.ReadFile(told)
		return strings.Contains(string(text), "nobody server talk "+rs1+":7 up down: ") && strings.Contains(string(text), "nobody server talk "+rs2+":7 up down: ") && strings.Contains(string(text), "404")
	})
	hears("three POSTs", func() bool { mu.Lock(); defer mu.Unlock(); return len(posted) == 3 })
	mu.Lock()
	for i, want := range []string{"server " + rs1 + ":7 up down", "server " + rs2 + ":7 up down", "service :0 usable unusable"} {
		e := posted[i]
		server := ":0"
		if e.Server.Addr.IsValid() {
			server = e.Server.String()
		}
		if got := strings.Join([]string{e.Subject, server, e.From, e.To}, " "); got != want || e.Name != "talk" || e.Reason == "" {
			s.t.Errorf("POST %d is %q of %s (%s); want %q", i, got, e.Name, e.Reason, want)
		}
	}
	mu.Unlock()
	hears("the log's line", func() bool {
		log, _ := os.ReadFile(api.Places{Instance: instanceOf(s.Director)}.Log())
		return slices.ContainsFunc(strings.Split(string(log), "\n"), func(line string) bool {
			return strings.Contains(line, "level=ERROR") && strings.Contains(line, "subject=service") && strings.Contains(line, "to=unusable")
		})
	})
	if text, _ := os.ReadFile(told); strings.Contains(string(text), "service") {
		s.t.Errorf("the program was told what it did not want to know:\n%s", text)
	}

	// Who was down comes up by its checks only; who was up was never down.
	s.ill(2, false)
	s.becomes("talk RS2 up")
	events := len(s.history())
	for _, how := range []string{"kill", "stop", "keep"} {
		time.Sleep(500 * time.Millisecond) // two ticks: what was found out is remembered
		switch how {
		case "kill":
			s.kill()
		case "stop":
			s.director("stop")
		case "keep":
			s.director("stop", "--keep-forwarding")
		}
		s.director("start", "--debug")
		if w := s.weight("TCP VIP:7", 1); w != 0 {
			s.t.Errorf("%s: after a restart the weight of a server that was down is listed as %d", how, w)
		}
		s.stays(700*time.Millisecond, "talk RS1 down", "talk RS2 up")
		if h := s.health()[0].Servers[0]; !strings.Contains(h.Reason, "404") {
			s.t.Errorf("%s: after a restart it is down because of %q", how, h.Reason)
		}
		if n := len(s.history()); n != events {
			s.t.Errorf("%s: a restart is %d events: %v", how, n-events, s.history()[events:])
		}
	}
	s.kill()
	s.ill(1, false)
	s.director("start", "--debug")
	s.becomes("talk RS1 up")

	// What is asked for, and nothing else.
	all := s.history()
	if n := len(all); n != events+1 || all[n-1].To != "up" || all[n-1].Server.Addr.String() != rs1 {
		s.t.Errorf("the history has %d events, had %d: %v", n, events, all)
	}
	if got := s.history("--server", rs1); len(got) != 2 || got[0].To != "down" || got[1].To != "up" {
		s.t.Errorf("of %s it has %v", rs1, got)
	}
	if got := s.history("--server", rs1+":7", "--last", "1"); len(got) != 1 || got[0].To != "up" {
		s.t.Errorf("of %s:7 the last is %v", rs1, got)
	}
	for _, none := range [][]string{{"--service", "other"}, {"--server", "172.16.16.99"}, {"--since", "1ms"}} {
		if got := s.history(none...); len(got) != 0 {
			s.t.Errorf("history %v: %v", none, got)
		}
	}
	for _, of := range [][]string{{"--service", "talk"}, {"--service", s.spell("TCP VIP:7")}, {"--since", "1h"}} {
		if got := s.history(of...); len(got) != len(all) {
			s.t.Errorf("history %v: %d events of %d", of, len(got), len(all))
		}
	}
	s.shunt(s.Director, "history", "--server", "nonsense").want(s.t, 1).says(s.t, "nonsense")
	s.shunt(s.Director, "history", "--last", "2").want(s.t, 0).says(s.t, "server", "talk "+rs1+":7", "down → up", "by check")
}
