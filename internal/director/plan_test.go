// SPDX-License-Identifier: MIT

package director

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

var (
	theVIP  = netip.MustParseAddr("172.16.16.172")
	theVIP6 = netip.MustParseAddr("2001:db8:16::172")
	rip1    = netip.MustParseAddr("172.16.16.177")
	rip2    = netip.MustParseAddr("172.16.16.178")
)

// lan reaches 172.16.16.0/24 and 2001:db8:16::/64 and has room for any table.
func lan() premises {
	return premises{
		vips: []netip.Addr{theVIP, theVIP6},
		reachable: func(rip netip.Addr) error {
			if !netip.MustParsePrefix("172.16.16.0/24").Contains(rip) && !netip.MustParsePrefix("2001:db8:16::/64").Contains(rip) {
				return fmt.Errorf("real server %v: %w", rip, link.ErrNotOnLink)
			}
			return nil
		},
		fits: func(*lvs.Table) error { return nil },
	}
}

// rule is a line of ipvsadm -S, as a change.
func rule(t testing.TB, line string) lvs.Change {
	t.Helper()
	c, err := ipvsadm.ParseRules(strings.NewReader(line))
	if err != nil || len(c) != 1 {
		t.Fatalf("%s: %v, %v", line, c, err)
	}
	return c[0]
}

func tableOf(t testing.TB, lines ...string) *lvs.Table {
	t.Helper()
	table := lvs.NewTable()
	for _, l := range lines {
		if err := table.Apply(rule(t, l)); err != nil {
			t.Fatalf("%s: %v", l, err)
		}
	}
	return table
}

func ripsOf(p plan) []netip.Addr {
	return slices.SortedFunc(maps.Keys(uses(nil).of(p.table, nil)), netip.Addr.Compare)
}

func TestPlanRefusesByName(t *testing.T) {
	const web = "-A -t 172.16.16.172:80 -s wlc"
	for _, tt := range []struct {
		line  string
		want  error
		names string // what the text must name
	}{
		{"-A -f 7 -s wlc", lvs.ErrMark, "shunt ipvsadm --add-mark 7 -t 172.16.16.172:80"},
		{"-A -f 8 -6 -s wlc", lvs.ErrMark, "shunt ipvsadm --add-mark 8 -t [2001:db8:16::172]:80"}, // the rule of 8 is for IPv4
		{"-E -f 7 -s rr", lvs.ErrNoService, "FWM 7"},
		{"-A -f 8 -p 60 --pe sip", lvs.ErrUnsupported, "(--pe)"},
		{"--add-mark 7 -t 172.16.16.171:80-90", api.ErrForeignVIP, "--vip 172.16.16.171"},
		{"--add-mark 7 -t [2001:db8::1]:80", api.ErrForeignVIP, "--vip 2001:db8::1"},
		{"--add-mark 7 -t 172.16.16.172:80", lvs.ErrMark, "TCP 172.16.16.172:80"},
		{"--add-mark 7 -t 172.16.16.172:8000-8100", lvs.ErrMark, "8 TCP 172.16.16.172:8080"},
		{"--delete-mark 7 -t 172.16.16.172:8080", lvs.ErrMark, "none such"},
		{"--delete-mark 9 -u 172.16.16.172:0", lvs.ErrMark, "delete the service first"},
		{"-A -t 172.16.16.172:8080", lvs.ErrMark, "8 TCP 172.16.16.172:8080"},
		{"-a -f 9 -r 172.16.16.177:8080", lvs.ErrPortMapping, "-r 172.16.16.177"},
		{"-a -f 9 -r 172.16.16.177 -m", lvs.ErrUnsupported, "(-m)"},
		{"-a -f 9 -r 10.9.9.9", link.ErrNotOnLink, "10.9.9.9"},
		{"-A -t [2001:db8::1]:80", api.ErrForeignVIP, "--vip 2001:db8::1"},
		{"-A -t 172.16.16.172:81 -p 60 --pe sip", lvs.ErrUnsupported, "(--pe)"},
		{"-A -t 172.16.16.172:81 -s nonsense", lvs.ErrUnknownScheduler, "nonsense"},
		{"-A -t 172.16.16.171:80", api.ErrForeignVIP, "--vip 172.16.16.171"},
		{"-a -t 172.16.16.172:80 -r 172.16.16.177:80 -m", lvs.ErrUnsupported, "(-m)"},
		{"-a -t 172.16.16.172:80 -r 172.16.16.177:80 -i", lvs.ErrUnsupported, "(-i)"},
		{"-a -t 172.16.16.172:80 -r 172.16.16.177:8080", lvs.ErrPortMapping, "--port 80/tcp:8080"},
		{"-a -t 172.16.16.172:80 -r 10.9.9.9:80", link.ErrNotOnLink, "10.9.9.9"},
		{"-a -t 172.16.16.172:80 -r 172.16.16.172:80", link.ErrLocal, "-r 127.0.0.1"},
		{"-a -f 9 -r 172.16.16.172", link.ErrLocal, "-r 127.0.0.1"},
		{"-a -t [2001:db8:16::172]:80 -r 2001:db8:16::172", link.ErrLocal, "-r ::1"},
		{"-a -t 172.16.16.172:99 -r 10.9.9.9:99", lvs.ErrNoService, "99"}, // before what else is wrong
		{"-E -t 172.16.16.172:99 -s sed", lvs.ErrNoService, "99"},
		{"-d -t 172.16.16.172:80 -r 172.16.16.177:80", lvs.ErrNoServer, "177"},
		{web, lvs.ErrServiceExists, "172.16.16.172:80"},
	} {
		t.Run(tt.line, func(t *testing.T) {
			rules := []string{"-A -t [2001:db8:16::172]:80", "--add-mark 8 -t 172.16.16.172:8080", "--add-mark 9 -u 172.16.16.172", web, "-A -f 9"}
			before := tableOf(t, rules...)
			_, err := planChanges(before, []lvs.Change{rule(t, "-A -u 172.16.16.172:53"), rule(t, tt.line)}, lan())
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.names) {
				t.Errorf("%v; want %v that names %q", err, tt.want, tt.names)
			}
			c, ok := errors.AsType[*lvs.ChangeError](err)
			if !ok || c.Index != 1 {
				t.Errorf("blames %+v", c)
			}
			if !before.Equal(tableOf(t, rules...)) {
				t.Error("the table was changed")
			}
		})
	}
}

// What no command line can ask for, another client of the API can.
func TestPlanRefusesWhatRulesCannotSay(t *testing.T) {
	for what, f := range map[string]func(*lvs.Change){
		"flags":    func(c *lvs.Change) { c.Service.Flags = 2 },
		"(--pe)":   func(c *lvs.Change) { c.Service.Engine = "sip" },
		"protocol": func(c *lvs.Change) { c.Service.Protocol = 50 },
		"Local": func(c *lvs.Change) {
			*c = rule(t, "-a -t 172.16.16.172:80 -r 172.16.16.177:80")
			c.Server.Forward = lvs.LocalNode
		},
		"another address family": func(c *lvs.Change) {
			*c = rule(t, "-a -f 7 -r 172.16.16.177")
			c.Server.Addr = netip.MustParseAddr("2001:db8:16::177")
		},
		"mark rule 0": func(c *lvs.Change) {
			*c = rule(t, "--add-mark 7 -t 172.16.16.172:99")
			c.Mark.Mark = 0
		},
	} {
		c := rule(t, "-A -t 172.16.16.172:81")
		f(&c)
		table := tableOf(t, "-A -t 172.16.16.172:80", "--add-mark 7 -u 172.16.16.172:53", "-A -f 7")
		_, err := planChanges(table, []lvs.Change{c}, lan())
		refused := errors.Is(err, lvs.ErrUnsupported) || errors.Is(err, lvs.ErrInvalid) || errors.Is(err, lvs.ErrMark)
		if !refused || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestPlanTakesWhatThereIs(t *testing.T) {
	lines := []string{
		"-A -t 172.16.16.172:80 -s wlc", "-a -t 172.16.16.172:80 -r 172.16.16.178:80 -g -w 1",
		"-a -t 172.16.16.172:80 -r 172.16.16.177:80 -g -w 0", "-A -u 172.16.16.172:53 -s rr",
		"-a -u 172.16.16.172:53 -r 172.16.16.177:53 -g -w 65535", "-A -t 172.16.16.172:443 -s lc",
		"-E -t 172.16.16.172:443 -s wrr", "-e -t 172.16.16.172:80 -r 172.16.16.178:80 -g -w 3",
		"--set 10 0 20", "-d -t 172.16.16.172:80 -r 172.16.16.177:80", "-D -t 172.16.16.172:443",
	}
	var changes []lvs.Change
	for _, l := range lines {
		changes = append(changes, rule(t, l))
	}
	p, err := planChanges(lvs.NewTable(), changes, lan())
	if err != nil {
		t.Fatal(err)
	}
	if !p.table.Equal(tableOf(t, lines...)) {
		t.Errorf("%+v", p.table)
	}
	if want := []netip.Addr{rip1, rip2}; !slices.Equal(ripsOf(p), want) {
		t.Errorf("servers %v; want %v", ripsOf(p), want)
	}
}

// Both families of a mark are services of their own.
func TestPlanTakesMarks(t *testing.T) {
	lines := []string{
		"--add-mark 7 -t 172.16.16.172:80", "--add-mark 7 -u 172.16.16.172:5000-5010", "--add-mark 7 -t [2001:db8:16::172]:0",
		"-A -f 7 -s rr -p 60", "-A -f 7 -6 -s wlc", "-a -f 7 -r 172.16.16.178", "-a -f 7 -r 172.16.16.177:0 -w 0",
		"-a -f 7 -6 -r 2001:db8:16::177", "-e -f 7 -r 172.16.16.177 -w 2", "-E -f 7 -s sh -p 5", "-E -f 7 -6 -s rr",
		"--add-mark 7 -t 172.16.16.172:443", "--delete-mark 7 -t 172.16.16.172:80", "--delete-mark 7 -u 172.16.16.172:5000-5010",
	}
	var changes []lvs.Change
	for _, l := range lines {
		changes = append(changes, rule(t, l))
	}
	p, err := planChanges(lvs.NewTable(), changes, lan())
	if err != nil {
		t.Fatal(err)
	}
	if !p.table.Equal(tableOf(t, lines...)) || len(p.table.Services) != 2 || len(p.table.Marks) != 2 {
		t.Errorf("%+v", p.table)
	}
	if want := []netip.Addr{rip1, rip2, netip.MustParseAddr("2001:db8:16::177")}; !slices.Equal(ripsOf(p), want) {
		t.Errorf("servers %v; want %v", ripsOf(p), want)
	}
	if p, err = planChanges(p.table, []lvs.Change{rule(t, "-C")}, lan()); err != nil || len(p.table.Marks) != 0 || len(ripsOf(p)) != 0 {
		t.Errorf("after -C: %+v, %v", p, err)
	}
}

// The hint names a VIP of the director, if it has one of that family.
func TestPlanHintsWithoutAVIP(t *testing.T) {
	p := lan()
	p.vips = []netip.Addr{theVIP}
	_, err := planChanges(lvs.NewTable(), []lvs.Change{rule(t, "-A -f 7 -6")}, p)
	if !errors.Is(err, lvs.ErrMark) || !strings.Contains(err.Error(), "shunt ipvsadm --add-mark 7 -t VIP:80") {
		t.Error(err)
	}
}

// A server that has become unreachable must not keep anyone from removing it,
// or something else.
func TestPlanLooksOnlyAtWhatChanges(t *testing.T) {
	table := tableOf(t, "-A -t 172.16.16.172:80", "-a -t 172.16.16.172:80 -r 10.9.9.9:80", "-a -t 172.16.16.172:80 -r 172.16.16.177:80")
	for _, line := range []string{"-d -t 172.16.16.172:80 -r 10.9.9.9:80", "-d -t 172.16.16.172:80 -r 172.16.16.177:80",
		"-e -t 172.16.16.172:80 -r 172.16.16.177:80 -w 5", "-C", "-D -t 172.16.16.172:80"} {
		if _, err := planChanges(table, []lvs.Change{rule(t, line)}, lan()); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// The change that makes the table too large is the one that is blamed.
func TestPlanBlames(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		limit := rapid.IntRange(0, 20).Draw(r, "limit")
		n := rapid.IntRange(1, 40).Draw(r, "changes")
		p := lan()
		full := errors.New("full")
		p.fits = func(t *lvs.Table) error {
			if len(t.Services) > limit {
				return full
			}
			return nil
		}
		var changes []lvs.Change
		for i := range n {
			changes = append(changes, lvs.Change{Operation: lvs.AddService, Service: lvs.VirtualService{
				ServiceID: lvs.ServiceID{Protocol: lvs.TCP, Addr: theVIP, Port: uint16(i + 1)}, Scheduler: lvs.RoundRobin}})
		}
		_, err := planChanges(lvs.NewTable(), changes, p)
		if n <= limit {
			if err != nil {
				r.Fatal(err)
			}
			return
		}
		c, ok := errors.AsType[*lvs.ChangeError](err)
		if !ok || c.Index != limit || !errors.Is(err, full) {
			r.Fatalf("%d changes, room for %d: blames %+v", n, limit, err)
		}
	})
}
