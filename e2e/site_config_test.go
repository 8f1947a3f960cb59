// SPDX-License-Identifier: MIT

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestSite has what a configuration does to a director that works, and what it
// must not do, with clients at work; and configurations that were imported. Each
// kind is in a cluster of its own.
func TestSite(t *testing.T) {
	siteKinds(t, 3, map[string]func(*site){
		"apply":   (*site).applies,
		"confirm": (*site).confirms,
		"drift":   (*site).drifts,
		"start":   (*site).starts,
		"kill":    (*site).killedAtApply,

		"imported web":        (*site).runsImportedWeb,
		"imported keepalived": func(s *site) { s.runsCorpus("keepalived/*.conf") },
		"imported ldirectord": func(s *site) { s.runsCorpus("ldirectord/*.cf") },
		"imported ipvsadm":    func(s *site) { s.runsCorpus("ipvsadm/*.save") },
	})
}

// talking is the service whose clients are at work.
const talking = `services:
  - name: talk
    address: VIP:7
    scheduler: rr
    servers:
      - {address: RS1, weight: 1} # the old one
      - {address: RS2, weight: 1}
`

func (s *site) applies() {
	s.serveWeb()
	s.begin(head + talking + checkUp)
	working := s.clients(talkPort)
	s.becomes("talk RS1 up", "talk RS2 up")
	s.refuses()
	s.failsHalfway()
	working.goOn()

	// Nothing to change.
	s.shunt(s.Director, "diff", s.path).want(s.t, 0).says(s.t, "nothing would change")
	before := s.everything()
	s.apply(head+talking+checkUp).want(s.t, 0).says(s.t, "nothing changed")
	if a, b := strings.Split(before, "\n"), strings.Split(s.everything(), "\n"); strings.Join(a[:len(a)-1], "\n") != strings.Join(b[:len(b)-1], "\n") {
		s.t.Errorf("an apply that changes nothing led from\n%s\nto\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}

	// VIPs, services and servers come, and go again.
	much := head + "  vips: [172.16.16.190, 172.16.16.191, \"2001:db8:16::190\"]\n  timeouts: {tcp: 10m}\n" + talking +
		"      - {address: RS3, weight: 1}\n" + checkUp + `  - {name: more, address: "172.16.16.190:7", scheduler: wlc, servers: [RS1, {address: RS2, weight: 3}]}
  - {name: web, address: "VIP:80", servers: [RS1, RS2], checks: [{type: tcp}]}
`
	for _, rs := range s.RealServers {
		s.shunt(rs, "realserver", "start", "--vip", lab.VIP().String(), "--vip", "172.16.16.190").want(s.t, 0)
	}
	for round := range 3 {
		if round == 0 { // who is ill stays so, and is not asked anew
			s.ill(1, true)
			s.becomes("talk RS1 down")
		}
		path := s.write("next.yaml", much)
		for _, d := range []result{s.shunt(s.Director, "diff", path).want(s.t, 1), s.apply(much).want(s.t, 0)} {
			d.says(s.t, "VIP 172.16.16.190: added", "VIP 172.16.16.191: added", "service more: added", "service web: added",
				"service talk: real server "+s.spell("RS3")+": added", "timeout tcp")
		}
		if a := s.addresses(); !strings.Contains(a, "172.16.16.190/32") || !strings.Contains(a, "172.16.16.191/32") || !strings.Contains(a, "2001:db8:16::190/128") {
			s.t.Errorf("the addresses are %s", a)
		}
		if h, err := s.connect("172.16.16.190:7"); err != nil {
			s.t.Error(err)
		} else {
			h.Close()
		}
		s.becomes("talk RS3 up", "web RS1 up")
		if round == 0 {
			s.stays(300*time.Millisecond, "talk RS1 down")
			if by := s.answers(6); by["rs1"] > 0 {
				s.t.Errorf("after an apply, %v answer while the first one is ill", by)
			}
			if h := s.history("--server", s.spell("RS1:7")); len(h) != 1 {
				s.t.Errorf("an apply led to events of a server that was ill before: %v", h)
			}
			s.ill(1, false)
			s.becomes("talk RS1 up")
		}
		eventually(s.t, "connections at the new server", func() bool { return s.answers(3)["rs3"] > 0 })
		working.goOn()
		leaving := strings.Replace(much, "RS3, weight: 1", "RS3, weight: 0", 1)
		s.apply(leaving).want(s.t, 0)
		eventually(s.t, "the end of connections at the server that leaves", func() bool {
			return s.table("")[s.spell("TCP VIP:7")][s.spell("RS3:7")][1] == 0
		})
		s.apply(head+talking+checkUp).want(s.t, 0).says(s.t, "service more: removed", "VIP 172.16.16.190: removed")
		if a := s.addresses(); strings.Contains(a, "172.16.16.19") || strings.Contains(a, "::190") {
			s.t.Errorf("the addresses are %s", a)
		}
		if l := s.rules("-Ln"); strings.Contains(l, "172.16.16.190") || strings.Contains(l, ":80") {
			s.t.Errorf("round %d: what the file no longer has is still there:\n%s", round, l)
		}
		working.goOn()
	}
	working.finish()
}

// refuses sees that a file with one thing in it that is impossible changes nothing,
// and that the reason is told.
func (s *site) refuses() {
	s.sh(s.Director, "ip route add 198.51.100.0/24 via "+s.RealServers[0].Addr().String())
	other := s.add("other", "172.16.16.20/24")
	s.sh(other, "ip addr add 172.16.16.199/32 dev eth0")
	before := s.everything()
	good := "  - name: fine\n    address: VIP:81\n    servers: [RS1]\n" // a part that is possible
	for _, bad := range []struct {
		text string
		says []string
	}{
		{head + talking + good + "  - {address: \"VIP:82\", servers: [198.51.100.7]}\n", []string{"site.yaml", "198.51.100.7", "router"}},
		{head + talking + good + "  - {address: \"VIP:82\", servers: [VIP]}\n", []string{"site.yaml", "VIP"}},
		{head + "  vips: [172.16.16.199]\n" + talking + good, []string{"172.16.16.199", "02:", "stop that machine's director"}},
		{head + talking + good + "    schedular: rr\n", []string{"site.yaml:", "schedular", "did you mean scheduler?"}},
		{head + talking + "    scheduler: wlcc\n", []string{"site.yaml:"}}, // twice
		{head + "  mode: tc\n" + talking + good, []string{"restart", "mode", "stop --keep-forwarding", "nothing was changed"}},
		{strings.Replace(head, "65536", "131072", 1) + talking + good, []string{"restart", "connections 65536 → 131072"}},
		{strings.Replace(head, "eth0", "eth7", 1) + talking + good, []string{"restart", "interfaces eth0 → eth7"}},
		{"realserver:\n  vips: [VIP]\n", []string{"realserver"}},
		{"services: [\n", []string{"site.yaml:"}},
	} {
		s.apply(bad.text).want(s.t, 1).says(s.t, bad.says...)
		if after := s.everything(); after != before {
			s.t.Errorf("what was refused,\n%s\nled from\n%s\nto\n%s", bad.text, before, after)
		}
		s.shunt(s.Director, "apply", s.path, "--confirm", "1s").want(s.t, 1)
		s.shunt(s.Director, "confirm").want(s.t, 1).says(s.t, "nothing to confirm")
		s.shunt(s.Director, "director", "reload").want(s.t, 1)
	}
	s.shunt(s.Director, "diff", s.path).want(s.t, 2)
	s.shunt(s.Director, "apply", "/nowhere.yaml").want(s.t, 1)
	s.shunt(s.Director, "diff").want(s.t, 2)
	s.shunt(s.Client, "diff", s.path).want(s.t, 2)
	s.shunt(s.Director, "check", s.write("misspelt.yaml", head+"services:\n  - address: VIP:80\n    scheduler: wlcc\n    servers: [RS1]\n")).want(s.t, 1).
		says(s.t, "misspelt.yaml:6:16: ", "did you mean wlc?", "scheduler: wlcc")
	s.write("site.yaml", head+talking+checkUp)
}

// failsHalfway has an apply fail when packets have gone the new way already: what was
// so before is so again.
func (s *site) failsHalfway() {
	p := api.Places{Instance: instanceOf(s.Director)}
	before := s.everything()
	text := head + "  vips: [172.16.16.190, \"2001:db8:16::190\"]\n" + changed
	for what, path := range map[string]string{"the copy of the configuration": p.Site(), "the rules": p.Rules(), "what was before": p.Before()} {
		old, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			s.t.Fatal(err)
		}
		os.Remove(path)
		if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o755); err != nil {
			s.t.Fatal(err)
		}
		s.apply(text, "--confirm", "5m").want(s.t, 1)
		if after := s.everything(); after != before {
			s.t.Errorf("an apply that cannot save %s led from\n%s\nto\n%s", what, before, after)
		}
		if err := os.RemoveAll(path); err != nil {
			s.t.Fatal(err)
		}
		if old != nil {
			err = os.WriteFile(path, old, 0o644)
		}
		if err != nil && !os.IsNotExist(err) {
			s.t.Fatal(err)
		}
		s.shunt(s.Director, "confirm").want(s.t, 1)
	}

	// The second of two VIPs that come cannot be given to the interface.
	s.sh(s.Director, "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1")
	before = s.everything()
	s.apply(text).want(s.t, 1).says(s.t, "2001:db8:16::190")
	if after := s.everything(); after != before {
		s.t.Errorf("an apply of which the second VIP fails led from\n%s\nto\n%s", before, after)
	}
	s.sh(s.Director, "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0")
	s.write("site.yaml", head+talking+checkUp)
	s.kill()
	s.director("start", "--debug")
	s.becomes("talk RS1 up", "talk RS2 up")
}

// changed is talking after something has been changed.
var changed = strings.Replace(talking, "RS1, weight: 1", "RS1, weight: 2", 1) + "  - {name: more, address: \"VIP:82\", servers: [RS1]}\n"

func (s *site) confirms() {
	s.begin(head + talking)
	working := s.clients(talkPort)
	s.rules("-e -t VIP:7 -r RS2 -w 5", "-A -t VIP:83 -s wlc", "-a -t VIP:83 -r RS3")
	before := s.saved()
	new := head + "  vips: [172.16.16.190]\n" + changed
	back := func(how string) {
		s.t.Helper()
		eventually(s.t, "the configuration before, "+how, func() bool { return s.saved() == before })
		if a := s.addresses(); strings.Contains(a, "172.16.16.190") {
			s.t.Errorf("%s: the VIP of what was not confirmed is still there: %s", how, a)
		}
		if d := s.inForce().Drift; len(d) != 2 {
			s.t.Errorf("%s: changed at run time: %v", how, d)
		}
		if w := strings.Join(s.status().Warnings, "\n"); !strings.Contains(w, "was not confirmed") {
			s.t.Errorf("%s: status does not tell of the file that was not confirmed: %s", how, w)
		}
		s.shunt(s.Director, "confirm").want(s.t, 1)
		s.shunt(s.Director, "rollback").want(s.t, 1).says(s.t, "nothing to go back to")
		working.goOn()
	}
	there := func(how string) string {
		s.t.Helper()
		now := s.saved()
		if a := s.addresses(); !strings.Contains(a, "172.16.16.190/32") || strings.Contains(now, ":83") || !strings.Contains(now, ":82") {
			s.t.Errorf("%s: it is not in force:\n%s%s", how, now, a)
		}
		return now
	}

	s.apply(new, "--confirm", "2s").want(s.t, 0).says(s.t, "unless you say 'shunt confirm'", "weight 1 → 2", "weight 5 → 1", ":83: removed")
	there("applied")
	s.shunt(s.Director, "apply", s.path).want(s.t, 1).says(s.t, "to be confirmed")
	if w := strings.Join(s.status().Warnings, "\n"); !strings.Contains(w, "to be confirmed until") {
		s.t.Errorf("status does not tell what is to be confirmed: %s", w)
	}
	back("not confirmed")

	s.apply(new, "--confirm", "5m").want(s.t, 0)
	s.kill()
	s.director("start", "--debug")
	there("killed and started in time")
	s.say("rollback")
	back("asked for")

	s.apply(new, "--confirm", "2s").want(s.t, 0)
	s.kill()
	time.Sleep(2 * time.Second) // until its time is over
	s.director("start", "--debug")
	back("killed and started too late")
	s.kill()
	s.director("start", "--debug")
	back("started once more")

	s.apply(new, "--confirm", "4s").want(s.t, 0)
	s.kill()
	s.director("start", "--debug")
	back("killed and started, and not confirmed then")

	s.apply(new, "--confirm", "5m").want(s.t, 0)
	after := there("applied for good")
	s.say("confirm")
	s.shunt(s.Director, "confirm").want(s.t, 1)
	s.shunt(s.Director, "rollback").want(s.t, 1)
	s.kill()
	s.director("start", "--debug")
	if now := there("confirmed"); now != after {
		s.t.Errorf("what was confirmed,\n%s\nis after a restart\n%s", after, now)
	}
	working.finish()

	// The same where there was none.
	s.director("stop")
	s.director("start", "--config=", "--interface", "eth0", "--vip", lab.VIP().String(), "--connections", "65536", "--debug")
	if c := s.inForce(); c.Path != "" {
		s.t.Errorf("started without one, the configuration is %s", c.Path)
	}
	s.rules("-C", "-A -t VIP:7 -s rr", "-a -t VIP:7 -r RS1 -w 4")
	before = s.saved()
	for _, how := range []string{"rollback", "expire"} {
		s.apply(new, "--confirm", "1s").want(s.t, 0)
		there("applied where there was none")
		if how == "rollback" {
			s.say("rollback")
		} else {
			s.kill()
			time.Sleep(time.Second)
			s.director("start", "--debug")
		}
		if now := s.saved(); now != before || strings.Contains(s.addresses(), "172.16.16.190") || s.inForce().Path != "" {
			s.t.Errorf("%s: back to none: %s %s\n%s", how, s.inForce().Path, s.addresses(), now)
		}
	}
	s.rules("-e -t VIP:7 -r RS1 -w 3")
	before = s.saved()
	s.kill()
	s.director("start", "--debug")
	if now := s.saved(); now != before {
		s.t.Errorf("an edit after going back,\n%s\nis after a restart\n%s", before, now)
	}
}

func (s *site) drifts() {
	s.begin(head + talking + "  # where nobody is at work\n  - name: idle\n    address: VIP:82\n    servers:\n      - RS1 # goes\n      - RS2 # stays\n")
	working := s.clients(talkPort)
	same := func() {
		s.t.Helper()
		if d := s.inForce().Drift; len(d) != 0 {
			s.t.Errorf("changed at run time: %v", d)
		}
		s.shunt(s.Director, "diff", s.path).want(s.t, 0)
	}
	same()
	edits := func() {
		s.t.Helper()
		s.rules("-e -t VIP:7 -r RS2 -w 5", "-d -t VIP:82 -r RS1", "-a -t VIP:82 -r RS3 -w 2", "-A -t VIP:83 -s wlc -p 60", "-a -t VIP:83 -r RS3")
		s.shunt(s.Director, "director", "status").want(s.t, 0).says(s.t, "differ from "+s.path, "changed at run time: service talk: real server "+s.spell("RS2")+": weight 5, in the file 1",
			s.spell("RS1")+": is in the file, and does not run", s.spell("RS3")+": runs, and is not in the file", "service "+s.spell("TCP VIP:83"))
		s.shunt(s.Director, "health").says(s.t, "not in the configuration: it is not checked")
		s.shunt(s.Director, "diff", s.path).want(s.t, 1).says(s.t, "weight 5 → 1", "real server "+s.spell("RS1")+": added", "real server "+s.spell("RS3")+": removed",
			s.spell("VIP:83")+": removed")
	}

	// Undone by each way to put the file in force.
	orderly := s.saved()
	for _, how := range []string{"apply", "reload", "hangup"} {
		edits()
		switch how {
		case "apply":
			s.say("apply", s.path)
		case "reload":
			s.director("reload")
		case "hangup":
			if err := syscall.Kill(s.status().PID, syscall.SIGHUP); err != nil {
				s.t.Fatal(err)
			}
			eventually(s.t, "the file in force after SIGHUP", func() bool { return len(s.inForce().Drift) == 0 })
		}
		if now := s.saved(); now != orderly {
			s.t.Errorf("%s: the rules were\n%s\nand are\n%s", how, orderly, now)
		}
		same()
		working.goOn()
	}

	// It outlives the daemon, and the drift is known as such.
	edits()
	drifted, known := s.saved(), len(s.inForce().Drift)
	for _, how := range []string{"kill", "stop"} {
		if how == "kill" {
			s.kill()
		} else {
			s.director("stop", "--keep-forwarding")
		}
		s.director("start", "--debug")
		if now := s.saved(); now != drifted || len(s.inForce().Drift) != known {
			s.t.Errorf("%s: what was changed at run time,\n%s\nis after a restart\n%s%v", how, drifted, now, s.inForce().Drift)
		}
	}
	working.goOn()

	// Written back, with what a person wrote.
	s.shunt(s.Director, "save", "--print").want(s.t, 0).says(s.t, "weight: 5")
	s.say("save")
	text, err := os.ReadFile(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, want := range []string{"weight: 5", s.spell("RS3"), s.spell("VIP:83"), "connections: 65536", "name: talk", "# the old one", "# where nobody is at work", "# stays"} {
		if !strings.Contains(string(text), want) {
			s.t.Errorf("what was saved has no %q:\n%s", want, text)
		}
	}
	if now := s.saved(); now != drifted {
		s.t.Errorf("a save led from\n%s\nto\n%s", drifted, now)
	}
	same()
	s.shunt(s.Director, "check", s.path).want(s.t, 0)
	s.shunt(s.Director, "save").want(s.t, 0).says(s.t, "says already what runs")

	// Not over what somebody has written meanwhile, nor while it is not sure what counts.
	s.rules("-e -t VIP:7 -r RS2 -w 6")
	s.write("site.yaml", string(text)+"# mine\n")
	s.shunt(s.Director, "save").want(s.t, 1).says(s.t, "edited since it was applied")
	if now, _ := os.ReadFile(s.path); string(now) != string(text)+"# mine\n" {
		s.t.Errorf("a save that was refused wrote\n%s", now)
	}
	elsewhere := s.path + ".new"
	s.say("save", elsewhere)
	s.shunt(s.Director, "check", elsewhere).want(s.t, 0)
	s.shunt(s.Director, "diff", elsewhere).want(s.t, 0)
	s.shunt(s.Director, "apply", s.path, "--confirm", "5m").want(s.t, 0)
	s.rules("-e -t VIP:7 -r RS2 -w 7")
	now, _ := os.ReadFile(s.path)
	s.shunt(s.Director, "save").want(s.t, 1).says(s.t, "to be confirmed")
	if after, _ := os.ReadFile(s.path); string(after) != string(now) {
		s.t.Errorf("a save that was refused wrote\n%s", after)
	}
	s.say("confirm")
	working.finish()
}

func (s *site) starts() {
	// Flags and file say different things.
	s.write("site.yaml", head+talking)
	for _, flag := range []string{"--interface=eth0", "--vip=172.16.16.190", "--mode=tc", "--connections=65536", "--local-clients", "--vlan=v100=eth0/100"} {
		name, _, _ := strings.Cut(flag, "=")
		s.shunt(s.Director, "director", "start", "--config", s.path, flag).want(s.t, 1).says(s.t, name, "site.yaml")
	}
	s.shunt(s.Director, "director", "start", "--config", s.path+".none").want(s.t, 1).says(s.t, "no such file")
	s.write("site.yaml", head+talking+"    wieght: 1\n")
	s.shunt(s.Director, "director", "start", "--config", s.path).want(s.t, 1).says(s.t, "site.yaml:", "wieght")
	s.write("site.yaml", head+strings.Replace(talking, "RS2", "198.51.100.7", 1))
	s.sh(s.Director, "ip route add 198.51.100.0/24 via "+s.RealServers[0].Addr().String())
	s.shunt(s.Director, "director", "start", "--config", s.path).want(s.t, 1).says(s.t, "site.yaml", "198.51.100.7", "router")
	s.shunt(s.Director, "director", "status").want(s.t, 3)

	// A file that says nothing of the director.
	s.write("site.yaml", talking)
	s.shunt(s.Director, "director", "start", "--config", s.path).want(s.t, 1).says(s.t, "interface")
	s.shunt(s.Director, "director", "start", "--config", s.path, "--interface", "eth0", "--vip", lab.VIP().String()).want(s.t, 1).says(s.t, "--vip", "site.yaml")
	s.director("start", "--config", s.path, "--interface", "eth0", "--connections", "65536", "--debug")
	if d := s.inForce().Drift; len(d) != 0 {
		s.t.Errorf("changed at run time: %v", d)
	}
	working := s.clients(talkPort)
	s.kill()
	s.director("start", "--debug")
	working.goOn()
	s.apply(head+talking).want(s.t, 0)

	// Another one has the VIP.
	other := s.add("other", "172.16.16.20/24")
	s.shunt(other, "director", "start", "--config", s.path).want(s.t, 1).says(s.t, lab.VIP().String(), s.Director.MAC().String())
	s.shunt(other, "director", "status").want(s.t, 3)
	working.goOn()

	// A file that has become wrong, or impossible: what was in force counts.
	wrong := map[string]string{
		"misspelt":   head + talking + "    wieght: 1\n",
		"impossible": head + strings.Replace(talking, "RS2", "198.51.100.7", 1),
		"interface":  strings.Replace(head, "eth0", "eth7", 1) + talking,
		"gone":       "",
	}
	before := s.saved()
	for name, text := range wrong {
		s.rules("-e -t VIP:7 -r RS2 -w 3")
		edited := s.saved()
		s.write("site.yaml", text)
		if text == "" {
			os.Remove(s.path)
		}
		s.kill()
		s.director("start", "--debug")
		if now := s.saved(); now != edited {
			s.t.Errorf("%s: the rules were\n%s\nand are\n%s", name, edited, now)
		}
		if w := strings.Join(s.status().Warnings, "\n"); !strings.Contains(w, "not usable at the start") || !strings.Contains(w, "copy") {
			s.t.Errorf("%s: status does not tell that the copy counts: %s", name, w)
		}
		s.shunt(s.Director, "director", "reload").want(s.t, 1)
		working.goOn()
		s.apply(head+talking).want(s.t, 0)
		if now := s.saved(); now != before {
			s.t.Errorf("%s: a right file leads to\n%s", name, now)
		}
		if w := strings.Join(s.status().Warnings, "\n"); strings.Contains(w, "not usable at the start") {
			s.t.Errorf("%s: status still tells that the copy counts: %s", name, w)
		}
	}

	// A right one that was edited while nobody ran, and one from elsewhere.
	s.write("site.yaml", head+changed)
	s.kill()
	s.director("start", "--debug")
	if now := s.saved(); !strings.Contains(now, ":82") {
		s.t.Errorf("a file that was edited before a start does not count:\n%s", now)
	}
	elsewhere := s.write("elsewhere.yaml", head+talking)
	s.say("apply", elsewhere)
	s.kill()
	s.director("start", "--debug")
	if c := s.inForce(); c.Path != elsewhere || s.saved() != before {
		s.t.Errorf("after a restart the configuration is %s; %s was applied:\n%s", c.Path, elsewhere, s.saved())
	}
	commandWith(s.t, s.Director, []string{"SHUNT_INSTANCE=" + instanceOf(s.Director)}, s.spell(head+changed), program, "apply", "-").want(s.t, 0)
	s.kill()
	s.director("start", "--debug")
	if now := s.saved(); !strings.Contains(now, ":82") {
		s.t.Errorf("what came by standard input does not count after a restart:\n%s", now)
	}
	s.shunt(s.Director, "director", "reload").want(s.t, 1).says(s.t, "standard input")
	s.shunt(s.Director, "save").want(s.t, 1).says(s.t, "standard input")
	working.finish()
}

// killedAtApply kills the daemon at some moment of an apply. What is in force then
// is the old configuration or the new one, all of it.
func (s *site) killedAtApply() {
	many := func(name, vip string, n int) string {
		var b strings.Builder
		fmt.Fprintf(&b, "%s  vips: [%s]\n%s", head, vip, talking)
		for i := range n {
			fmt.Fprintf(&b, "  - {name: %s%d, address: \"VIP:%d\", servers: [RS1, {address: RS2, weight: %d}]}\n", name, i, 1000+i, 1+n%7)
		}
		return b.String()
	}
	texts := [2]string{many("a", "172.16.16.190", 60), many("b", "172.16.16.191", 70)}
	states := [2]string{}
	names := [2]string{s.write("a.yaml", texts[0]), s.write("b.yaml", texts[1])}
	s.director("start", "--config", names[0], "--debug")
	began := time.Now()
	s.say("apply", names[1])
	lasts := time.Since(began)
	states[1] = s.saved()
	s.say("apply", names[0])
	states[0] = s.saved()
	working := s.clients(talkPort)
	cut, went := 0, 0
	p := api.Places{Instance: instanceOf(s.Director)}
	for round := range 6 {
		is := 0
		if s.saved() != states[0] {
			is = 1
		}
		args := []string{"apply", names[1-is]}
		if round%3 == 2 {
			args = append(args, "--confirm", "5m")
		}
		pid := s.status().PID
		cmd := s.Director.Command(s.t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "SHUNT_INSTANCE="+instanceOf(s.Director))
		if err := cmd.Start(); err != nil {
			s.t.Fatal(err)
		}
		if round%2 == 0 {
			time.Sleep(rand.N(2 * lasts)) // any moment will do
		} else {
			untilChanged(p.Site(), p.Rules()) // the moment between two files that say what is in force
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			s.t.Fatal(err)
		}
		said := cmd.Wait()
		if said != nil {
			cut++
		}
		eventually(s.t, "the end of the killed daemon", func() bool { return ended(pid) })
		working.goOn()
		s.director("start", "--debug")
		now := 0
		if s.inForce().Path == names[1] {
			now = 1
		}
		if now != is {
			went++
		} else if said == nil {
			s.t.Errorf("round %d: an apply that had succeeded is forgotten", round)
		}
		state, a := s.saved(), s.addresses()
		drift := s.inForce().Drift
		if state != states[now] || len(drift) > 0 || !strings.Contains(a, "172.16.16.19"+fmt.Sprint(now)) || strings.Contains(a, "172.16.16.19"+fmt.Sprint(1-now)) {
			s.t.Errorf("round %d: %s is in force, %d of its services run; drift %d, addresses %s", round, s.inForce().Path, strings.Count(state, "-A "), len(drift), a)
		}
		for _, h := range s.health() {
			if h.Name != "talk" && !strings.HasPrefix(h.Name, "ab"[now:now+1]) {
				s.t.Errorf("round %d: there is a service %s", round, h.Name)
				break
			}
		}
		if s.shunt(s.Director, "rollback").code == 0 && s.saved() != states[is] {
			s.t.Errorf("round %d: a rollback does not lead to what was before", round)
		}
		working.goOn()
	}
	s.t.Logf("%d of 6 applies were cut off by the kill; after %d the new configuration was in force", cut, went)
	working.finish()
}

// untilChanged waits until one of these files is replaced.
func untilChanged(paths ...string) {
	look := func() (all []os.FileInfo) {
		for _, p := range paths {
			i, _ := os.Stat(p)
			all = append(all, i)
		}
		return all
	}
	was := look()
	for end := time.Now().Add(commandLimit); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		for i, now := range look() {
			if now != nil && was[i] != nil && !os.SameFile(now, was[i]) {
				return
			}
		}
	}
}
