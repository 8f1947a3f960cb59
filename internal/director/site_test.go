// SPDX-License-Identifier: MIT

package director

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// siteText is a configuration of a service at that port.
func siteText(port int) string {
	return fmt.Sprintf("director: {interfaces: [eth0]}\nservices:\n  - address: 172.16.16.172:%d\n    servers: [172.16.16.177, 172.16.16.178]\n", port)
}

func parsed(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("site.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestLoadSite goes through what a director that was killed, or ended, can have
// left, and what has become of the file since. What a start begins with is told by
// the ports of the services.
func TestLoadSite(t *testing.T) {
	labtest.InNamespace(t)
	labtest.IP(t, "link add eth0 type veth peer name wire0")
	labtest.IP(t, "link set wire0 up")
	labtest.IP(t, "addr add 172.16.16.173/24 dev eth0")
	labtest.IP(t, "link set eth0 up")
	const none = 0
	old, now := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	type left struct {
		site, refused int // ports of the text in the copy; none: there is none
		rules         int // port in the saved rules, the third one is a server's that is added at run time
		of            int // whose the saved rules are
		before        int // port of what was in force before
		until         time.Time
		file          string // what the file says now; empty: it is gone
	}
	for name, c := range map[string]struct {
		left
		without bool // the start is without a configuration

		site, rules int  // ports
		saved       bool // the saved rules count
		unusable    bool
		waits       bool // it is still to be confirmed
		fails       string
	}{
		"first":                    {left: left{file: siteText(1)}, site: 1, rules: 1},
		"first, gone":              {fails: "no such file"},
		"first, wrong":             {left: left{file: siteText(1) + "x: y\n"}, fails: "site.yaml:5:1"},
		"first, no such interface": {left: left{file: strings.Replace(siteText(1), "eth0", "eth1", 1)}, fails: "eth1"},
		"first, router":            {left: left{file: strings.Replace(siteText(1), "172.16.16.178", "198.51.100.7", 1)}, fails: "198.51.100.7"},
		"first, a real server's":   {left: left{file: "realserver: {vips: [172.16.16.172]}\n"}, fails: "says nothing of a director"},
		"as it was":                {left: left{site: 1, rules: 1, of: 1, file: siteText(1)}, site: 1, rules: 1, saved: true},
		"edited":                   {left: left{site: 1, rules: 1, of: 1, file: siteText(2)}, site: 2, rules: 2},
		"edited, wrong":            {left: left{site: 1, rules: 1, of: 1, file: siteText(2) + "x: y\n"}, site: 1, rules: 1, saved: true, unusable: true},
		"edited, impossible":       {left: left{site: 1, rules: 1, of: 1, file: strings.Replace(siteText(2), "172.16.16.178", "198.51.100.7", 1)}, site: 1, rules: 1, saved: true, unusable: true},
		"gone":                     {left: left{site: 1, rules: 1, of: 1}, site: 1, rules: 1, saved: true, unusable: true},
		"cut off after the copy":   {left: left{site: 2, rules: 1, of: 1, file: siteText(2)}, site: 2, rules: 2},
		"that, and wrong":          {left: left{site: 2, rules: 1, of: 1, file: siteText(2) + "x: y\n"}, site: 2, rules: 2, unusable: true},
		"rules that nobody wrote":  {left: left{site: 1, file: siteText(1)}, site: 1, rules: 1},
		"to be confirmed":          {left: left{site: 2, rules: 2, of: 2, before: 1, until: now, file: siteText(2)}, site: 2, rules: 2, saved: true, waits: true},
		"that, and edited":         {left: left{site: 2, rules: 2, of: 2, before: 1, until: now, file: siteText(3)}, site: 2, rules: 2, saved: true, waits: true},
		"that, cut off":            {left: left{site: 2, rules: 1, of: 1, before: 1, until: now, file: siteText(2)}, site: 2, rules: 2, waits: true},
		"cut off before the copy":  {left: left{site: 1, rules: 1, of: 1, before: 1, until: now, file: siteText(2)}, site: 1, rules: 1, saved: true, waits: true},
		"not confirmed":            {left: left{site: 2, rules: 2, of: 2, before: 1, until: old, file: siteText(2)}, site: 1, rules: 1},
		"not confirmed, cut off":   {left: left{site: 1, rules: 2, of: 2, before: 1, until: old, file: siteText(2)}, site: 1, rules: 1},
		"nothing before":           {left: left{site: 2, rules: 2, of: 2, before: -1, until: old, file: siteText(2)}, site: none, rules: 9},
		"refused":                  {left: left{site: 1, refused: 2, rules: 1, of: 1, file: siteText(2)}, site: 1, rules: 1, saved: true},
		"refused, and put back":    {left: left{site: 1, refused: 2, rules: 1, of: 1, file: siteText(1)}, site: 1, rules: 1, saved: true},
		"refused, and then edited": {left: left{site: 1, refused: 2, rules: 1, of: 1, file: siteText(3)}, site: 3, rules: 3},
		"without":                  {left: left{site: 1, rules: 1, of: 1, file: siteText(1)}, without: true, site: none, rules: 1, saved: true},
		"without, to be confirmed": {left: left{site: 2, rules: 2, of: 2, before: 1, until: now, file: siteText(2)}, without: true, site: none, rules: 2, saved: true},
	} {
		func() { // not t.Run, which would leave the namespace
			say := func(format string, args ...any) { t.Errorf(name+": "+format, args...) }
			d := onPaper(t)
			if err := os.MkdirAll(d.State(), 0o755); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "site.yaml")
			if c.file != "" {
				if err := os.WriteFile(path, []byte(c.file), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			applied := time.Now().Add(-time.Minute)
			copyOf := func(port int) *site {
				if port <= none {
					return nil
				}
				return &site{Path: path, Text: siteText(port), Applied: applied.Add(time.Duration(port))}
			}
			if d.site = copyOf(c.left.site); d.site != nil {
				if c.refused != none {
					d.site.Refused = siteText(c.refused)
				}
				if err := d.saveSite(); err != nil {
					t.Fatal(err)
				}
			}
			if c.left.rules != none {
				writeRules(t, d, headerOf(copyOf(c.of))+fmt.Sprintf("-A -t 172.16.16.172:%d -s wlc\n", c.left.rules))
			}
			if c.before != none {
				b := &before{Site: copyOf(c.before), VIPs: []netip.Addr{netip.MustParseAddr("172.16.16.9")}, Rules: "-A -t 172.16.16.172:1 -s rr\n", Until: c.until}
				if c.before < 0 {
					b.Rules = "-A -t 172.16.16.172:9 -s rr\n"
				}
				if err := b.save(d.Places); err != nil {
					t.Fatal(err)
				}
			}
			settings, err := LoadSettings(d.Places)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case c.without:
				settings.Config = ""
			case c.left.site == none:
				settings.Config = path
			case settings.Config != path:
				t.Fatalf("a start knows of %q", settings.Config)
			}
			o := Options{Places: d.Places, Settings: settings, Log: slog.New(slog.DiscardHandler)}
			s, err := loadSite(&o)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					say("%v, want something about %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			d.startWith, d.site = s, s.site
			got, err := d.startRules()
			if err != nil {
				t.Fatal(err)
			}
			port := func(all []lvs.Change) int {
				i := slices.IndexFunc(all, func(c lvs.Change) bool { return c.Operation == lvs.AddService })
				return int(all[i].Service.Port)
			}
			is := none
			if s.site != nil {
				is = port(s.site.config.Changes())
			}
			if is != c.site || port(got.all) != c.rules || s.fresh == c.saved {
				say("a start is with the configuration of %d, rules of %d, from the saved ones %v; want %d, %d, %v", is, port(got.all), !s.fresh, c.site, c.rules, c.saved)
			}
			if (s.unusable != nil) != c.unusable || (s.before != nil) != c.waits {
				say("unusable: %v; to be confirmed: %v", s.unusable, s.before)
			}
			if s.site != nil && (s.site.Refused != "") != (c.refused != none && c.file == siteText(c.refused) || c.before > none && !c.waits && !c.without) {
				say("refused is %q", s.site.Refused)
			}
			if c.before < 0 && !slices.Equal(o.VIPs, []netip.Addr{netip.MustParseAddr("172.16.16.9")}) {
				say("the VIPs before are %v", o.VIPs)
			}
			if !c.waits && !s.saves && (c.left.site != none || c.before != none) {
				say("what is in force would not be saved")
			}
		}()
	}
}

// TestAsRun: what was changed at run time is what an apply changes back, and what
// the rules do not say is as the configuration has it.
func TestAsRun(t *testing.T) {
	text := "checks:\n  page: {type: http, path: /x}\nservices:\n" +
		"  - {name: web, address: \"172.16.16.172:80\", scheduler: rr, checks: [page], servers: [172.16.16.177, {address: 172.16.16.178, weight: 2}], quorum: 2}\n" +
		"  - {name: ftp, mark: 7, match: [\"tcp 172.16.16.172:21\"], servers: [172.16.16.177]}\n"
	names := func(id lvs.ServiceID) string {
		return cmp.Or(map[string]string{"TCP 172.16.16.172:80": "web", "FWM 7": "ftp"}[id.String()], id.String())
	}
	for name, c := range map[string]struct {
		changes []string
		want    []string // by a word of each
	}{
		"nothing": {nil, nil},
		"weight":  {[]string{"-e -t 172.16.16.172:80 -r 172.16.16.178 -w 9"}, []string{"weight 9 → 2"}},
		"gone":    {[]string{"-d -t 172.16.16.172:80 -r 172.16.16.177"}, []string{"172.16.16.177: added"}},
		"more":    {[]string{"-a -t 172.16.16.172:80 -r 172.16.16.179"}, []string{"172.16.16.179: removed"}},
		"service": {[]string{"-D -f 7", "-A -t 172.16.16.172:81 -s wlc"}, []string{":81: removed", "ftp: added"}},
		"deny":    {[]string{"-E -t 172.16.16.172:80 -s wlc --source-limit 3:4"}, []string{"scheduler wlc → rr", "source_limit"}},
		"marks":   {[]string{"--add-mark 7 -t 172.16.16.172:990"}, []string{"990"}},
	} {
		t.Run(name, func(t *testing.T) {
			want := parsed(t, text)
			table, err := want.Table()
			if err != nil {
				t.Fatal(err)
			}
			var changes []lvs.Change
			for _, line := range c.changes {
				changes = append(changes, rule(t, line))
			}
			if table, err = table.Changed(changes); err != nil {
				t.Fatal(err)
			}
			now := &config.Config{Director: want.Director, Services: asRun(want.Services, table, names)}
			var got []string
			for _, x := range config.Diff(now, want) {
				got = append(got, x.Text)
			}
			if len(got) != len(c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
			for _, w := range c.want {
				if !slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, w) }) {
					t.Errorf("%q, want %q", got, c.want)
				}
			}
		})
	}
}

// TestWholeDirector: a file need not say how the director is started.
func TestWholeDirector(t *testing.T) {
	d := onPaper(t)
	d.table = lvs.NewTable()
	d.Settings = Settings{Interfaces: []string{"eth3"}, VIPs: []netip.Addr{theVIP}, Mode: "tc", Connections: 4096, LocalClients: true}
	services := "services: [{address: \"172.16.16.172:80\", servers: [172.16.16.177]}]\n"
	for text, want := range map[string]Settings{
		services:                                d.Settings,
		"director: {mode: native}\n" + services: {Interfaces: d.Interfaces, VIPs: d.VIPs, Mode: "native"},
		"director: {interfaces: [eth0], connections: 9}\n" + services: {Interfaces: []string{"eth0"}, VIPs: d.VIPs, Mode: "auto", Connections: 9},
	} {
		c := parsed(t, text)
		got := d.Settings
		got.follow(&site{config: c})
		if diff := gocmp.Diff(want, got, gocmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s: a start: %s", text, diff)
		}
		w := d.wholeDirector(c.Director)
		if !slices.Equal(w.Interfaces, want.Interfaces) || w.Mode != string(want.Mode) || w.Connections != want.Connections || w.LocalClients != want.LocalClients {
			t.Errorf("%s: an apply: %+v", text, w)
		}
	}
}

// TestStandingsAreRemembered: what must outlive the daemon, and nothing else.
func TestStandingsAreRemembered(t *testing.T) {
	text := "services:\n  - {address: \"172.16.16.172:80\", alpha: ALPHA, quorum: {up: 2, down: 2}, checks: [{type: tcp}], servers: [172.16.16.177, 172.16.16.178]}\n"
	d := onPaper(t)
	d.cares = cares(parsed(t, strings.Replace(text, "ALPHA", "false", 1)), nil)
	id := lvs.ServiceID{Protocol: lvs.TCP, Addr: theVIP, Port: 80}
	server := func(last byte) lvs.ServerID {
		return lvs.ServerID{Addr: netip.AddrFrom4([4]byte{172, 16, 16, last}), Port: 80}
	}
	c := d.cares[id]
	c.usable = false
	c.standing(server(177)).ill = "refused"
	c.standing(server(178)).operator = api.Operator{Wants: api.Maintenance, Reason: "disk", Since: time.Now()}
	began := time.Now().Add(-3 * time.Second).Round(0)
	c.standing(server(178)).rising = began
	c.standing(server(177)).since = began
	elsewhere := lvs.ServiceID{Protocol: lvs.TCP, Addr: theVIP, Port: 81} // not in the configuration
	d.caredOf(elsewhere).standing(server(177)).operator = api.Operator{Wants: api.Draining, Until: time.Now().Add(time.Hour), Fate: lvs.FateReset}
	if err := d.saveStandings(); err != nil {
		t.Fatal(err)
	}
	for _, alpha := range []string{"false", "true"} {
		next := onPaper(t)
		next.Places = d.Places
		next.cares = cares(parsed(t, strings.Replace(text, "ALPHA", alpha, 1)), nil)
		if err := next.rememberStandings(); err != nil {
			t.Fatal(err)
		}
		table := tableOf(t, "-A -t 172.16.16.172:80 -s wlc", "-a -t 172.16.16.172:80 -r 172.16.16.177", "-a -t 172.16.16.172:80 -r 172.16.16.178",
			"-a -t 172.16.16.172:80 -r 172.16.16.179", "-A -t 172.16.16.172:81", "-a -t 172.16.16.172:81 -r 172.16.16.177")
		next.noteServers(table, time.Now())
		got := next.cares[id]
		if got.usable {
			t.Error("a service that was not usable is")
		}
		if c, why := got.standings[server(177)].condition(); c != api.Down || why != "refused" {
			t.Errorf("who was ill is %s, because of %q", c, why)
		}
		if !got.standings[server(177)].since.Equal(began) {
			t.Errorf("who was ill is so since %v", got.standings[server(177)].since)
		}
		s := got.standings[server(178)]
		if !s.rising.Equal(began) {
			t.Errorf("a slow start began at %v, and not %v", s.rising, began)
		}
		if c, why := s.condition(); c != api.Maintenance || why != "disk" || s.ill != "" {
			t.Errorf("who was in maintenance is %s, because of %q, and ill: %q", c, why, s.ill)
		}
		if c, _ := got.standings[server(179)].condition(); c != api.Up { // it has no checks, not being in the file
			t.Errorf("who is new is %s", c)
		}
		if c, _ := next.cares[elsewhere].standings[server(177)].condition(); c != api.Draining {
			t.Errorf("who was draining is %s", c)
		}
	}
}

// What only a director finds wrong is told by its place in the file, too.
func TestRefusalsHaveAPlace(t *testing.T) {
	const text = "director: {interfaces: [eth0]}\nservices:\n  - address: 172.16.16.172:80\n    servers: [172.16.16.177]\n" +
		"  - mark: 7\n    match: [tcp 172.16.16.172:21]\n    servers: [172.16.16.177, 10.9.9.9]\n"
	c, err := config.Parse("/s.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Path: "/s.yaml", Text: text, config: c}
	_, err = planChanges(lvs.NewTable(), c.Changes(), lan())
	err = s.locate(c.Changes(), err)
	if !errors.Is(err, api.ErrConfig) || !errors.Is(err, link.ErrNotOnLink) ||
		!strings.Contains(err.Error(), "/s.yaml:7:30: real server 10.9.9.9") || !strings.Contains(err.Error(), "^") {
		t.Errorf("a real server behind a router: %v", err)
	}
	foreign := lan()
	foreign.vips = nil
	_, err = planChanges(lvs.NewTable(), c.Changes(), foreign)
	if err = s.locate(c.Changes(), err); !strings.Contains(err.Error(), "/s.yaml:3:14: ") {
		t.Errorf("another's VIP: %v", err)
	}
	if err := s.locate(nil, errors.New("x")); !strings.Contains(err.Error(), "/s.yaml: x") {
		t.Errorf("of no change: %v", err)
	}
}
