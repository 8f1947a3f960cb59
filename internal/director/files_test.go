// SPDX-License-Identifier: MIT

package director

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

func places(t *testing.T) api.Places {
	t.Helper()
	return api.Places{Instance: "test", RunDir: filepath.Join(t.TempDir(), "run"), StateDir: filepath.Join(t.TempDir(), "lib")}
}

func onPaper(t *testing.T) *director {
	t.Helper()
	return &director{Options: Options{Places: places(t)}, log: slog.New(slog.DiscardHandler)}
}

func writeRules(t *testing.T, d *director, text string) {
	t.Helper()
	if err := os.MkdirAll(d.State(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Rules(), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The order of the servers decides ties, and --set is not in ipvsadm -S.
func TestSavedRulesGiveTheSameTable(t *testing.T) {
	d := onPaper(t)
	want := tableOf(t, "--set 1 2 3", "--add-mark 9 -t 172.16.16.172:443", "--add-mark 7 -t 172.16.16.172:8000-8010", "-A -f 7 -p 60",
		"-a -f 7 -r 172.16.16.178", "-A -u 172.16.16.172:53 -s rr", "-A -t 172.16.16.172:80 -s wlc",
		"-a -t 172.16.16.172:80 -r 172.16.16.178:80 -w 7", "-a -t 172.16.16.172:80 -r 172.16.16.177:80 -w 0")
	d.table = want
	for range 2 { // the second time in place of a file
		if err := d.save(nil); err != nil {
			t.Fatal(err)
		}
	}
	r, err := d.savedRules()
	if err != nil {
		t.Fatal(err)
	}
	got, err := lvs.NewTable().Changed(r.all)
	if err != nil || !got.Equal(want) {
		t.Errorf("%+v, %v", got, err)
	}
	left, err := os.ReadDir(d.State())
	if err != nil || len(left) != 1 {
		t.Errorf("beside the rules there are %v, %v", left, err)
	}
}

const longServices = longFile + 10

// longTable has more rules than are written anew at each change.
func longTable(t *testing.T, d *director) {
	t.Helper()
	var changes []lvs.Change
	for port := range longServices {
		changes = append(changes, rule(t, fmt.Sprintf("-A -t 172.16.16.172:%d -s rr", 1+port)))
	}
	changes = append(changes, rule(t, "-a -t 172.16.16.172:80 -r 172.16.16.177:80 -w 1"))
	d.make(t, changes...)
}

// make makes changes and saves them, as a director does.
func (d *director) make(t *testing.T, changes ...lvs.Change) {
	t.Helper()
	now, err := d.table.Changed(changes)
	if err != nil {
		t.Fatal(err)
	}
	d.table, d.uses = now, d.uses.of(now, d.table)
	if err := d.save(changes); err != nil {
		t.Fatal(err)
	}
}

// reads sees that the file gives the table that is there, in so many lines.
func (d *director) reads(t *testing.T, when string, want *lvs.Table, lines int) {
	t.Helper()
	r, err := d.savedRules()
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	got, err := lvs.NewTable().Changed(r.all)
	if err != nil || !got.Equal(want) {
		t.Errorf("%s: the file gives another table: %v", when, err)
	}
	if len(r.all) != lines {
		t.Errorf("%s: %d rules in the file, want %d", when, len(r.all), lines)
	}
	text, err := os.ReadFile(d.Rules())
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(text), "\n") {
		if at := slices.Index(r.line, i+1); at >= 0 && r.text[at] != line {
			t.Fatalf("%s: line %d is %q, not %q", when, i+1, line, r.text[at])
		}
	}
}

// TestLongFileIsAddedTo: a change of a long table is added to the file, until there
// are as many of them as rules, or someone has edited it.
func TestLongFileIsAddedTo(t *testing.T) {
	d := onPaper(t)
	d.table = lvs.NewTable()
	longTable(t, d)
	const all = 1 + longServices + 1 // with --set
	d.reads(t, "at first", d.table, all)
	weight := func(n int) lvs.Change {
		return rule(t, fmt.Sprintf("-e -t 172.16.16.172:80 -r 172.16.16.177:80 -w %d", n))
	}
	d.make(t, weight(2))
	d.reads(t, "one change", d.table, all+1)
	d.make(t, weight(3), rule(t, "-D -t 172.16.16.172:81"), rule(t, "--set 1 2 3"))
	d.reads(t, "three more", d.table, all+4)

	again := &director{Options: d.Options, log: d.log}
	r, err := again.savedRules()
	if err != nil {
		t.Fatal(err)
	}
	again.table, again.uses = d.table, d.uses
	again.read(r)
	again.make(t, weight(4))
	again.reads(t, "after a start", again.table, all+5)

	text, err := os.ReadFile(d.Rules())
	if err != nil {
		t.Fatal(err)
	}
	table, _, _ := bytes.Cut(text, []byte("\n# A change"))
	if err := os.WriteFile(d.Rules(), table, 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err = again.savedRules(); err != nil {
		t.Fatal(err)
	}
	again.read(r)
	again.make(t, weight(6))
	again.reads(t, "after a last line without an end", again.table, all-1)

	edited, err := os.ReadFile(d.Rules())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Rules(), append(edited, "-A -t 172.16.16.172:9999\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	again.make(t, weight(5))
	again.reads(t, "after an edit", again.table, all-1) // a service less

	many := make([]lvs.Change, longServices-1)
	for i := range many {
		many[i] = weight(i)
	}
	again.make(t, many...)
	again.reads(t, "many changes", again.table, all-1+len(many))
	again.make(t, weight(1), weight(2))
	again.reads(t, "too many", again.table, all-1)
}

// TestChangeThatIsCutOff: of a change that a dying host saved in part, a start
// knows nothing; to a director that runs, the file is a mistake of whoever edited it.
func TestChangeThatIsCutOff(t *testing.T) {
	d := onPaper(t)
	d.table = lvs.NewTable()
	longTable(t, d)
	d.make(t, rule(t, "-D -t 172.16.16.172:81"))
	before := d.table
	whole, err := os.ReadFile(d.Rules())
	if err != nil {
		t.Fatal(err)
	}
	d.make(t, rule(t, "-D -t 172.16.16.172:82"), rule(t, "-A -t 172.16.16.172:81 -s wlc"))
	longer, err := os.ReadFile(d.Rules())
	if err != nil {
		t.Fatal(err)
	}
	for n := len(whole); n < len(longer); n++ {
		if err := os.WriteFile(d.Rules(), longer[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		started := &director{Options: d.Options, log: d.log}
		r, err := started.savedRules()
		if n-len(whole) < strings.Index(addition, "%") { // a comment of which the end is missing
			if _, bad := lvs.NewTable().Changed(r.all); err != nil || bad != nil {
				t.Fatalf("cut off after %d bytes: %v, %v", n-len(whole), err, bad)
			}
			continue
		}
		got, bad := lvs.NewTable().Changed(r.all)
		if err != nil || bad != nil || !got.Equal(before) || r.file != nil {
			t.Fatalf("cut off after %d bytes: %v, %v", n-len(whole), err, bad)
		}
		started.table = before
		if _, err := started.savedRules(); !errors.Is(err, errCutOff) || !errors.Is(err, api.ErrRules) {
			t.Fatalf("cut off after %d bytes, while it runs: %v", n-len(whole), err)
		}
	}
}

func TestNoRulesFileIsNoRules(t *testing.T) {
	r, err := onPaper(t).savedRules()
	if err != nil || len(r.all) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestBadRulesAreNamedByLine(t *testing.T) {
	const head = "# comment\n\n-A -t 172.16.16.172:80 -s rr\n"
	for rules, want := range map[string]string{
		head + "-a -t 172.16.16.172:80 -r nonsense:80":                 "line 4: -a -t 172.16.16.172:80 -r nonsense:80",
		head + "   # indented\n-L\n":                                   "line 5: -L",
		head + "\n-a -t 172.16.16.172:80 -r 10.9.9.9:80\n":             "line 5: -a -t 172.16.16.172:80 -r 10.9.9.9:80: real server 10.9.9.9",
		head + "-A -t 172.16.16.172:80\n":                              "line 4: -A -t 172.16.16.172:80: ",
		head + "--add-mark 7 -t 172.16.16.171:80\n":                    "line 4: --add-mark 7 -t 172.16.16.171:80: mark rule 7 TCP",
		head + "-A -f 7\n--add-mark 7 -t 172.16.16.172:81":             "line 4: -A -f 7: FWM 7: ",
		head + "-a -t 172.16.16.172:80 -r 172.16.16.177 -m\n# the end": "line 4: ",
	} {
		d := onPaper(t)
		writeRules(t, d, rules)
		r, err := d.savedRules()
		if err == nil {
			_, err = planChanges(lvs.NewTable(), r.all, lan())
			err = r.locate(err)
		}
		if !errors.Is(err, api.ErrRules) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), d.Rules()) {
			t.Errorf("%q: %v", rules, err)
		}
	}
}

func TestSettingsAreRemembered(t *testing.T) {
	p := places(t)
	if s, err := LoadSettings(p); err != nil || !cmp.Equal(s, Settings{}) {
		t.Errorf("of a first start: %+v, %v", s, err)
	}
	want := Settings{Interfaces: []string{"eth0", "eth1"}, VIPs: []netip.Addr{theVIP}, Mode: dataplane.Generic, Connections: 7}
	if err := want.save(p); err != nil {
		t.Fatal(err)
	}
	got, err := LoadSettings(p)
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if err := os.WriteFile(p.Settings(), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadSettings(p); err == nil || !strings.Contains(err.Error(), p.Settings()) {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestSettingsThatMakeNoSense(t *testing.T) {
	addr := netip.MustParseAddr
	good := func() Settings { return Settings{Interfaces: []string{"eth0"}, VIPs: []netip.Addr{theVIP}} }
	mixed := good()
	mixed.VIPs = append(mixed.VIPs, addr("2001:db8:16::172"), addr("fd00::1"))
	for _, s := range []Settings{good(), mixed} {
		if err := s.validate(); err != nil {
			t.Error(err)
		}
	}
	for want, spoil := range map[string]func(*Settings){
		"--interface":         func(s *Settings) { s.Interfaces = nil },
		"--vip":               func(s *Settings) { s.VIPs = nil },
		`attach mode "fast"`:  func(s *Settings) { s.Mode = "fast" },
		"eth0 is named":       func(s *Settings) { s.Interfaces = []string{"eth0", "eth1", "eth0"} },
		"172.16.16.172 is":    func(s *Settings) { s.VIPs = []netip.Addr{theVIP, theVIP} },
		"write 172.16.16.172": func(s *Settings) { s.VIPs = []netip.Addr{addr("::ffff:172.16.16.172")} },
		"fe80::1":             func(s *Settings) { s.VIPs = []netip.Addr{addr("fe80::1")} },
		"2001:db8::1%eth0":    func(s *Settings) { s.VIPs = []netip.Addr{addr("2001:db8::1%eth0")} },
		"VIP ::1 is not":      func(s *Settings) { s.VIPs = []netip.Addr{addr("::1")} },
		"VIP :: is not":       func(s *Settings) { s.VIPs = []netip.Addr{addr("::")} },
		"ff02::1 is not":      func(s *Settings) { s.VIPs = []netip.Addr{addr("ff02::1")} },
		"0.0.0.0":             func(s *Settings) { s.VIPs = []netip.Addr{addr("0.0.0.0")} },
		"224.0.0.1":           func(s *Settings) { s.VIPs = []netip.Addr{addr("224.0.0.1")} },
		"127.0.0.1":           func(s *Settings) { s.VIPs = []netip.Addr{addr("127.0.0.1")} },
	} {
		s := good()
		spoil(&s)
		if err := s.validate(); !errors.Is(err, ErrSettings) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestAnInstanceThatNeverRanLeavesNothing(t *testing.T) {
	p := places(t)
	left, err := Leftovers(p)
	if err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
	if err := CleanUp(p, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{p.RunDir, p.StateDir} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("asking made %s: %v", dir, err)
		}
	}
}
