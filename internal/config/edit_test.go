// SPDX-License-Identifier: MIT

package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

const commented = `# A site. #1
director: # the director #2
  interfaces: [eth0] # in #3

  # Timeouts. #4
  timeouts: {tcp: 15m} # long #5

checks: # #6
  page: {type: http, path: "/#anchor"} # a check #7

services: # all of them #8
  # The web. #9
  - name: web # #10
    address: 172.16.16.172:80 # #11
    # How. #12
    scheduler: wlc # #13
    servers: # #14
      # The first. #15
      - 172.16.16.177 # one #16
      # The second. #17
      - address: 172.16.16.178 # two #18
        weight: 2 # heavy #19
      - {address: 172.16.16.179, weight: 3, name: web3} # three #20
    # What is asked. #21
    checks: [page] # #22

  # DNS. #23
  - name: dns
    address: 172.16.16.172:53
    protocol: udp
    deny: [192.0.2.0/24] # bad ones #24
    servers: [172.16.16.177, 172.16.16.178] # both #25
# The end. #26
`

func comments(from, to int) []string {
	var all []string
	for i := from; i <= to; i++ {
		all = append(all, fmt.Sprintf("#%d\n", i))
	}
	return all
}

func tableOf(t testing.TB, text string) *lvs.Table {
	t.Helper()
	table, err := parsed(t, text).Table()
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func web(port uint16) lvs.VirtualService {
	return lvs.VirtualService{ServiceID: lvs.ServiceID{Protocol: lvs.TCP, Addr: addr("172.16.16.172"), Port: port}, Scheduler: lvs.DefaultScheduler}
}

func rip(last string, port uint16, weight int32) lvs.RealServer {
	return lvs.RealServer{ServerID: lvs.ServerID{Addr: addr("172.16.16." + last), Port: port}, Forward: lvs.DirectRouting, Weight: weight}
}

// TestEdit: what is changed, to the byte.
func TestEdit(t *testing.T) {
	upper := rip("177", 80, 1)
	upper.Upper, upper.Lower = 10, 5
	rr, sticky, policy := web(80), web(80), web(80)
	rr.Scheduler = "rr"
	sticky.Flags, sticky.Timeout, sticky.Netmask = lvs.FlagPersistent, 360, 0xffffff00
	policy.Policy = lvs.Policy{Stray: lvs.StrayPass, SourceLimit: lvs.SourceLimit{Rate: 5, Burst: 9}}
	dns := lvs.VirtualService{ServiceID: lvs.ServiceID{Protocol: lvs.UDP, Addr: addr("172.16.16.172"), Port: 53}}
	six := lvs.VirtualService{ServiceID: lvs.ServiceID{Protocol: lvs.TCP, Addr: addr("2001:db8::172"), Port: 80}, Scheduler: "rr"}
	for _, c := range []struct {
		name     string
		changes  []lvs.Change
		from, to string
	}{
		{"nothing", nil, "", ""},
		{"weight of a mapping", []lvs.Change{{Operation: lvs.EditServer, Service: web(80), Server: rip("178", 80, 5)}}, "weight: 2 # heavy", "weight: 5 # heavy"},
		{"weight in braces", []lvs.Change{{Operation: lvs.EditServer, Service: web(80), Server: rip("179", 80, 0)}}, "weight: 3, name", "weight: 0, name"},
		{"weight of an address", []lvs.Change{{Operation: lvs.EditServer, Service: web(80), Server: rip("177", 80, 7)}},
			"- 172.16.16.177 # one", "- {address: 172.16.16.177, weight: 7} # one"},
		{"weight in brackets", []lvs.Change{{Operation: lvs.EditServer, Service: dns, Server: rip("178", 53, 0)}},
			"172.16.16.178] # both", "{address: 172.16.16.178, weight: 0}] # both"},
		{"thresholds", []lvs.Change{{Operation: lvs.EditServer, Service: web(80), Server: upper}},
			"- 172.16.16.177 # one", "- {address: 172.16.16.177, upper: 10, lower: 5} # one"},
		{"a server more", []lvs.Change{{Operation: lvs.AddServer, Service: web(80), Server: rip("180", 80, 1)}},
			"# three #20\n", "# three #20\n      - 172.16.16.180\n"},
		{"a server more in brackets", []lvs.Change{{Operation: lvs.AddServer, Service: dns, Server: rip("180", 53, 4)}},
			"172.16.16.178] # both", "172.16.16.178, {address: 172.16.16.180, weight: 4}] # both"},
		{"a server less", []lvs.Change{{Operation: lvs.DeleteServer, Service: web(80), Server: rip("178", 80, 0)}},
			"      # The second. #17\n      - address: 172.16.16.178 # two #18\n        weight: 2 # heavy #19\n", ""},
		{"a server less in brackets", []lvs.Change{{Operation: lvs.DeleteServer, Service: dns, Server: rip("177", 53, 0)}}, "[172.16.16.177, 172.16.16.178] # both", "[172.16.16.178] # both"},
		{"servers in another order", []lvs.Change{{Operation: lvs.DeleteServer, Service: dns, Server: rip("177", 53, 0)}, {Operation: lvs.AddServer, Service: dns, Server: rip("177", 53, 1)}},
			"[172.16.16.177, 172.16.16.178]", "[172.16.16.178, 172.16.16.177]"},
		{"scheduler", []lvs.Change{{Operation: lvs.EditService, Service: rr}}, "scheduler: wlc", "scheduler: rr"},
		{"persistence", []lvs.Change{{Operation: lvs.EditService, Service: sticky}}, "# #13\n", "# #13\n    persistence: {timeout: 6m, mask: 24}\n"},
		{"policy", []lvs.Change{{Operation: lvs.EditService, Service: policy}}, "# #13\n", "# #13\n    source_limit: \"5:9\"\n    policy: {stray: pass}\n"},
		{"deny", []lvs.Change{{Operation: lvs.AddDeny, Service: dns, Deny: netip.MustParsePrefix("198.51.100.7/32")}}, "[192.0.2.0/24]", "[192.0.2.0/24, 198.51.100.7]"},
		{"deny a first one", []lvs.Change{{Operation: lvs.AddDeny, Service: web(80), Deny: netip.MustParsePrefix("198.51.100.0/24")}}, "# #13\n", "# #13\n    deny: [198.51.100.0/24]\n"},
		{"deny no more", []lvs.Change{{Operation: lvs.DeleteDeny, Service: dns, Deny: netip.MustParsePrefix("192.0.2.0/24")}}, "[192.0.2.0/24]", "[]"},
		{"timeout", []lvs.Change{{Operation: lvs.SetTimeouts, Timeouts: lvs.Timeouts{TCP: 60}}}, "tcp: 15m", "tcp: 1m"},
		{"another timeout", []lvs.Change{{Operation: lvs.SetTimeouts, Timeouts: lvs.Timeouts{UDP: 90}}}, "{tcp: 15m}", "{tcp: 15m, udp: 1m30s}"},
		{"a service more", []lvs.Change{{Operation: lvs.AddService, Service: six}, {Operation: lvs.AddServer, Service: six, Server: lvs.RealServer{ServerID: lvs.ServerID{Addr: addr("2001:db8::1"), Port: 80}, Forward: lvs.DirectRouting, Weight: 1}}},
			"# both #25\n", "# both #25\n  - address: \"[2001:db8::172]:80\"\n    scheduler: rr\n    servers: [\"2001:db8::1\"]\n"},
		{"a service less", []lvs.Change{{Operation: lvs.DeleteService, Service: dns}},
			"  # DNS. #23\n  - name: dns\n    address: 172.16.16.172:53\n    protocol: udp\n    deny: [192.0.2.0/24] # bad ones #24\n    servers: [172.16.16.177, 172.16.16.178] # both #25\n", ""},
		{"no service", []lvs.Change{{Operation: lvs.Clear}}, commented[strings.Index(commented, " # all of them"):strings.Index(commented, "# The end.")], " [] # all of them #8\n  # The web. #9\n"},
	} {
		want, err := tableOf(t, commented).Changed(c.changes)
		if err != nil {
			t.Fatal(c.name, err)
		}
		if c.from != "" && strings.Count(commented, c.from) != 1 {
			t.Fatalf("%s: %q is there %d times", c.name, c.from, strings.Count(commented, c.from))
		}
		got, err := Edit([]byte(commented), want)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if d := cmp.Diff(strings.Replace(commented, c.from, c.to, 1), string(got)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
		crlf, err := Edit([]byte("\xef\xbb\xbf"+strings.ReplaceAll(commented, "\n", "\r\n")), want)
		if err != nil || string(crlf) != "\xef\xbb\xbf"+strings.ReplaceAll(string(got), "\n", "\r\n") {
			t.Errorf("%s: with CRLF: %v\n%s", c.name, err, crlf)
		}
	}
}

// TestEditAtOnePlace: what belongs to a service comes before what belongs to the
// file, though both come at its end.
func TestEditAtOnePlace(t *testing.T) {
	text := "services:\n  - address: 172.16.16.172:80\n"
	rr := web(80)
	rr.Scheduler = "rr"
	want, err := tableOf(t, text).Changed([]lvs.Change{{Operation: lvs.EditService, Service: rr}, {Operation: lvs.SetTimeouts, Timeouts: lvs.Timeouts{UDP: 9}}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Edit([]byte(text), want)
	if want := text + "    scheduler: rr\ndirector: {timeouts: {udp: 9s}}\n"; err != nil || string(got) != want {
		t.Errorf("%v\n%s", err, got)
	}
}

// TestEditLeavesNoEmptyKey: a mapping whose last key goes is gone as well, or is
// empty where it has to stand against that of defaults.
func TestEditLeavesNoEmptyKey(t *testing.T) {
	const service = "services:\n  - address: 172.16.16.172:80\n    policy:\n      stray: pass\n      secure_tcp: true\n    deny:\n      - 192.0.2.0/24\n"
	plain := web(80)
	changes := []lvs.Change{{Operation: lvs.EditService, Service: plain}, {Operation: lvs.DeleteDeny, Service: plain, Deny: netip.MustParsePrefix("192.0.2.0/24")}}
	for defaults, policy := range map[string]string{"": "", "defaults: {policy: {stray: drop}}\n": "    policy: {}\n"} {
		want, err := tableOf(t, defaults+service).Changed(changes)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Edit([]byte(defaults+service), want)
		if want := defaults + "services:\n  - address: 172.16.16.172:80\n" + policy + "    deny: []\n"; err != nil || string(got) != want {
			t.Errorf("%v\n%s\nwant\n%s", err, got, want)
		}
	}
}

// TestEditAliases: an alias stays as long as it says what is wanted, and is written
// out where it would not, or where its anchor comes behind it.
func TestEditAliases(t *testing.T) {
	const text = "services:\n  - address: 172.16.16.172:80\n    servers: &w [172.16.16.177, 172.16.16.178] # all\n  - address: 172.16.16.172:81\n    servers: *w # the same\n"
	same := []lvs.Change{{Operation: lvs.EditServer, Service: web(80), Server: rip("177", 80, 2)}, {Operation: lvs.EditServer, Service: web(81), Server: rip("177", 81, 2)}}
	for _, c := range []struct {
		name     string
		changes  []lvs.Change
		from, to []string
	}{
		{"both", same, []string{"[172.16.16.177"}, []string{"[{address: 172.16.16.177, weight: 2}"}},
		{"the alias only", same[1:], []string{"*w # the same"}, []string{"[{address: 172.16.16.177, weight: 2}, 172.16.16.178] # the same"}},
		{"the anchor goes", []lvs.Change{{Operation: lvs.DeleteService, Service: web(80)}},
			[]string{text[len("services:\n"):strings.Index(text, "  - address: 172.16.16.172:81")], "*w # the same"}, []string{"", "[172.16.16.177, 172.16.16.178] # the same"}},
		{"the anchor comes behind", []lvs.Change{{Operation: lvs.DeleteService, Service: web(80)}, {Operation: lvs.AddService, Service: web(80)},
			{Operation: lvs.AddServer, Service: web(80), Server: rip("177", 80, 1)}, {Operation: lvs.AddServer, Service: web(80), Server: rip("178", 80, 1)}},
			[]string{text[len("services:\n"):]},
			[]string{"  - address: 172.16.16.172:81\n    servers: [172.16.16.177, 172.16.16.178] # the same\n  - address: 172.16.16.172:80\n    servers: &w [172.16.16.177, 172.16.16.178] # all\n"}},
	} {
		want, err := tableOf(t, text).Changed(c.changes)
		if err != nil {
			t.Fatal(err)
		}
		expected := text
		for i := range c.from {
			expected = strings.Replace(expected, c.from[i], c.to[i], 1)
		}
		got, err := Edit([]byte(text), want)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if d := cmp.Diff(expected, string(got)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

// bases are files in the styles that people write.
func bases(t testing.TB) map[string]string {
	t.Helper()
	all := examples(t)
	for name, text := range all {
		// A quorum is not the rules': it may become more than there are servers.
		all[name] = strings.NewReplacer("quorum: {up: 2, down: 1}", "quorum: 1", "alpha: true", "alpha: false").Replace(text)
	}
	all["commented"] = commented
	all["braces"] = "services: [{address: '172.16.16.172:80', servers: [172.16.16.177, {address: 172.16.16.178, weight: 2}]}, {address: '172.16.16.172:81'}]\n"
	all["one line"] = "services:\n  - address: 172.16.16.172:80\n"
	all["no services"] = "director: {interfaces: [eth0]}"
	all["empty services"] = "services: []\n"
	all["flush dashes"] = "services:\n- address: 172.16.16.172:80\n  servers:\n  - 172.16.16.177\n  - 172.16.16.178\n  policy:\n    stray: pass\n    secure_tcp: true\n- servers: [172.16.16.177]\n  address: 172.16.16.172:81\ndirector:\n  timeouts:\n    tcp: 60"
	all["deny block"] = "defaults: {scheduler: sh, source_limit: 7, policy: {conn_reuse_mode: 1}}\nservices:\n  - address: 172.16.16.172:80\n    persistence:\n      timeout: 60\n      mask: 24\n    deny:\n      - 192.0.2.0/24 # a\n      - 192.0.2.7\n    scheduler_flags:\n      - sh-port\n    servers:\n\n      - 172.16.16.177\n\n      # second\n      - 172.16.16.178\n\n  - mark: 7\n    match:\n      - tcp 172.16.16.173:21\n      - tcp 172.16.16.173:30-40\n"
	all["merged"] = "x-web: &web {scheduler: rr, servers: [172.16.16.177, {address: 172.16.16.178, weight: 3}]}\nservices:\n  - <<: *web\n    address: 172.16.16.172:80\n  - <<: *web\n    address: 172.16.16.172:81\n    scheduler: wrr\n"
	all["items by alias"] = "x-s: &s 172.16.16.177\nservices:\n  - address: 172.16.16.172:80\n    servers: &l [*s, 172.16.16.178]\n  - address: 172.16.16.172:81\n    servers: *l\n"
	return all
}

// randomChange is a change that fits a table, most of the time.
func randomChange(t *rapid.T, table *lvs.Table) lvs.Change {
	last := func() string { return rapid.SampledFrom([]string{"177", "178", "179", "181", "182"}).Draw(t, "server") }
	anyService := func() *lvs.VirtualService {
		if len(table.Services) == 0 {
			return nil
		}
		return table.Services[rapid.IntRange(0, len(table.Services)-1).Draw(t, "service")]
	}
	edited := func(s *lvs.VirtualService) lvs.VirtualService {
		v := *s
		v.Scheduler = rapid.SampledFrom(lvs.Schedulers()).Draw(t, "scheduler")
		v.Flags = 0
		v.Policy = lvs.Policy{}
		if rapid.Bool().Draw(t, "persistent") || v.Mark == 0 && v.Port == 0 {
			v.Flags = lvs.FlagPersistent
			v.Timeout = rapid.SampledFrom([]uint32{1, 60, 90, 360, 86400}).Draw(t, "timeout")
			v.Netmask = rapid.SampledFrom([]uint32{0xffffffff, 0xffffff00, 0xff00ff00, 0xfffffffe, 0x80000000, 0}).Draw(t, "mask")
			if v.Is6() {
				v.Netmask = uint32(rapid.IntRange(1, 128).Draw(t, "length"))
			}
			v.Policy.KeepTemplate = rapid.Bool().Draw(t, "template")
		}
		if v.Protocol == lvs.UDP && rapid.Bool().Draw(t, "ops") {
			v.Flags |= lvs.FlagOnePacket
		}
		if rapid.Bool().Draw(t, "flag") {
			v.Flags |= rapid.SampledFrom([]lvs.ServiceFlags{lvs.FlagSched1, lvs.FlagSched2, lvs.FlagSched3, lvs.FlagSched1 | lvs.FlagSched3}).Draw(t, "flags")
		}
		if v.Protocol != lvs.UDP {
			v.Policy.Stray = lvs.Stray(rapid.IntRange(0, 3).Draw(t, "stray"))
			v.Policy.ConnReuse, _ = lvs.ConnReuseOf(uint8(rapid.IntRange(0, 3).Draw(t, "reuse")))
		}
		v.Policy.KeepNodest = rapid.Bool().Draw(t, "nodest")
		if rapid.Bool().Draw(t, "limited") {
			v.Policy.SourceLimit = lvs.SourceLimit{Rate: uint32(rapid.IntRange(1, 3).Draw(t, "rate")), Burst: 3}
		}
		return v
	}
	server := func(s *lvs.VirtualService) lvs.RealServer {
		r := rip(last(), s.Port, int32(rapid.IntRange(0, 3).Draw(t, "weight")))
		if s.Is6() {
			r.Addr = addr("2001:db8::" + last())
		}
		r.Upper = uint32(rapid.IntRange(0, 2).Draw(t, "upper"))
		r.Lower = uint32(rapid.IntRange(0, int(r.Upper)).Draw(t, "lower"))
		return r
	}
	switch s := anyService(); rapid.IntRange(0, 9).Draw(t, "operation") {
	case 0:
		v := edited(&lvs.VirtualService{ServiceID: lvs.ServiceID{Protocol: rapid.SampledFrom([]lvs.Protocol{lvs.TCP, lvs.UDP}).Draw(t, "protocol"),
			Addr: rapid.SampledFrom([]netip.Addr{addr("172.16.16.172"), addr("2001:db8::172")}).Draw(t, "vip"), Port: uint16(rapid.IntRange(79, 84).Draw(t, "port"))}})
		return lvs.Change{Operation: lvs.AddService, Service: v}
	case 1:
		if s != nil {
			return lvs.Change{Operation: lvs.DeleteService, Service: lvs.VirtualService{ServiceID: s.ServiceID}}
		}
	case 2:
		if s != nil {
			return lvs.Change{Operation: lvs.EditService, Service: edited(s)}
		}
	case 3, 4:
		if s != nil {
			return lvs.Change{Operation: lvs.AddServer, Service: *s, Server: server(s)}
		}
	case 5:
		if s != nil && len(s.Servers) > 0 {
			return lvs.Change{Operation: lvs.DeleteServer, Service: *s, Server: rapid.SampledFrom(s.Servers).Draw(t, "gone")}
		}
	case 6:
		if s != nil && len(s.Servers) > 0 {
			r := server(s)
			r.ServerID = rapid.SampledFrom(s.Servers).Draw(t, "edited").ServerID
			return lvs.Change{Operation: lvs.EditServer, Service: *s, Server: r}
		}
	case 7:
		if s != nil {
			bits := rapid.IntRange(8, 32).Draw(t, "bits")
			from := "198.51.100.7"
			if s.Is6() {
				from = "2001:db8:7::"
			}
			p, _ := addr(from).Prefix(bits)
			op := lvs.AddDeny
			if len(s.Deny) > 0 && rapid.Bool().Draw(t, "allow") {
				op, p = lvs.DeleteDeny, rapid.SampledFrom(s.Deny).Draw(t, "allowed")
			}
			return lvs.Change{Operation: op, Service: *s, Deny: p}
		}
	case 8:
		return lvs.Change{Operation: lvs.SetTimeouts, Timeouts: lvs.Timeouts{TCP: uint32(rapid.IntRange(0, 100).Draw(t, "tcp")), UDP: uint32(rapid.IntRange(0, 2).Draw(t, "udp"))}}
	case 9:
		m := lvs.MarkRule{Mark: 7, Protocol: lvs.TCP, Addr: addr("172.16.16.173"), First: uint16(rapid.IntRange(50, 55).Draw(t, "first"))}
		m.Last = m.First + uint16(rapid.IntRange(0, 2).Draw(t, "more"))
		return lvs.Change{Operation: lvs.AddMark, Mark: m}
	}
	return lvs.Change{Operation: lvs.SetTimeouts}
}

// TestEditAnyTable: whatever is changed, the file says it afterwards, and has kept
// the comments that are not about what is gone.
func TestEditAnyTable(t *testing.T) {
	all := bases(t)
	names := slices.Sorted(maps.Keys(all))
	tables := map[string]*lvs.Table{}
	for name, text := range all {
		tables[name] = tableOf(t, text)
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom(names).Draw(t, "file")
		editAny(t, name, all[name], tables[name])
	})
}

func editAny(t *rapid.T, name, text string, start *lvs.Table) {
	want := start.Clone()
	for range rapid.IntRange(1, 8).Draw(t, "changes") {
		_ = want.Apply(randomChange(t, want)) // or it stays as it is
	}
	if rapid.IntRange(0, 3).Draw(t, "move") == 0 && len(want.Services) > 1 {
		// Taken away and added again: the last one now.
		i := rapid.IntRange(0, len(want.Services)-2).Draw(t, "moved")
		moved := want.Services[i]
		want = &lvs.Table{Timeouts: want.Timeouts, Marks: want.Marks, Services: append(slices.Delete(want.Services, i, i+1), moved)}
	}
	want.Marks = slices.DeleteFunc(want.Marks, func(m lvs.MarkRule) bool { return want.Service(m.ServiceID()) == nil })
	got, err := Edit([]byte(text), want)
	if err != nil {
		t.Fatalf("%s: %v\n%v", name, err, DiffTable(start, want, nil))
	}
	c, err := Parse("edited.yaml", got)
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, got)
	}
	have, err := c.Table()
	if err != nil || !same(have, want) {
		t.Fatalf("%s: %v %v\n%s", name, err, DiffTable(want, have, nil), got)
	}
	again, err := Edit(got, want)
	if err != nil || string(again) != string(got) {
		t.Fatalf("%s: a second time: %v\n%s", name, err, cmp.Diff(string(got), string(again)))
	}
	if name != "commented" {
		return
	}
	survive := slices.Concat(comments(1, 4), comments(6, 9), comments(26, 26))
	if want.Service(web(80).ServiceID) != nil {
		survive = slices.Concat(survive, comments(10, 14), comments(21, 22))
	}
	for _, c := range survive {
		if !strings.Contains(string(got), c) {
			t.Fatalf("%q is lost\n%s", c, got)
		}
	}
}

// TestEditRefuses: what the file has no words for is no half result.
func TestEditRefuses(t *testing.T) {
	base := "services:\n  - address: 172.16.16.172:80\n    servers: [172.16.16.177, 172.16.16.178]\n    quorum: 2\n"
	tunnel := rip("179", 80, 1)
	tunnel.Forward = lvs.Tunnel
	sip := web(80)
	sip.Engine, sip.Flags, sip.Timeout, sip.Netmask = "sip", lvs.FlagPersistent, 60, 1<<32-1
	for name, c := range map[string]struct {
		change lvs.Change
		want   string
	}{
		"tunnel": {lvs.Change{Operation: lvs.AddServer, Service: web(80), Server: tunnel}, "forwarding method"},
		"engine": {lvs.Change{Operation: lvs.EditService, Service: sip}, "persistence engine sip"},
		"mark":   {lvs.Change{Operation: lvs.AddMark, Mark: lvs.MarkRule{Mark: 7, Protocol: lvs.TCP, Addr: addr("172.16.16.1"), First: 1, Last: 1}}, "no service of that mark"},
		"quorum": {lvs.Change{Operation: lvs.DeleteServer, Service: web(80), Server: rip("178", 80, 1)}, "quorum 2 is more than the servers"},
	} {
		want := tableOf(t, base)
		if err := want.Apply(c.change); err != nil {
			t.Fatal(err)
		}
		got, err := Edit([]byte(base), want)
		if !errors.Is(err, ErrEdit) || !strings.Contains(err.Error(), c.want) || got != nil {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
	if _, err := Edit([]byte("services: {"), lvs.NewTable()); !errors.Is(err, ErrEdit) {
		t.Error(err)
	}
}

func FuzzEdit(f *testing.F) {
	for _, text := range bases(f) {
		f.Add([]byte(text), uint8(1), uint16(80))
	}
	f.Fuzz(func(t *testing.T, text []byte, what uint8, port uint16) {
		c, err := Parse("fuzz.yaml", text)
		if err != nil {
			return
		}
		want, err := c.Table()
		if err != nil {
			t.Fatal(err)
		}
		v := web(max(1, port))
		v.Addr = addr("203.0.113.1") // of no seed
		_ = want.Apply(lvs.Change{Operation: lvs.AddService, Service: v})
		if len(want.Services) > 1 && what&1 != 0 {
			_ = want.Apply(lvs.Change{Operation: lvs.DeleteService, Service: *want.Services[0]})
		}
		if s := want.Services[0]; what&2 != 0 && len(s.Servers) > 0 {
			r := s.Servers[0]
			r.Weight = int32(what)
			_ = want.Apply(lvs.Change{Operation: lvs.EditServer, Service: *s, Server: r})
		}
		want.Marks = slices.DeleteFunc(want.Marks, func(m lvs.MarkRule) bool { return want.Service(m.ServiceID()) == nil })
		got, err := Edit(text, want)
		if err != nil {
			if !errors.Is(err, ErrEdit) || got != nil {
				t.Fatalf("%v and %s", err, got)
			}
			return
		}
		if have := tableOf(t, string(got)); !same(have, want) {
			t.Fatalf("%v\n%s", DiffTable(want, have, nil), got)
		}
	})
}
