// SPDX-License-Identifier: MIT

package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

const before = `
director:
  interfaces: [eth0]
notify: [{log: warn}]
checks: {page: {type: http, path: /a, headers: {Authorization: secret1}}}
services:
  - name: web
    address: 172.16.16.172:80
    servers: [172.16.16.177, 172.16.16.178, 172.16.16.179]
    checks: [page]
    deny: [192.0.2.0/24]
  - name: old
    address: 172.16.16.172:81
  - name: ftp
    mark: 7
    match: [tcp 172.16.16.172:21]
    servers: [172.16.16.177]
`

func TestDiff(t *testing.T) {
	for _, c := range []struct {
		name, from, to string // replaced in before
		want           []string
	}{
		{"nothing", "", "", nil},
		{"weight", "172.16.16.178,", "{address: 172.16.16.178, weight: 2},",
			[]string{"changed services/web/servers/172.16.16.178/weight service web: real server 172.16.16.178: weight 1 → 2"}},
		{"thresholds", "172.16.16.178,", "{address: 172.16.16.178, upper: 20, lower: 10},",
			[]string{"changed services/web/servers/172.16.16.178/upper service web: real server 172.16.16.178: upper 0 → 20",
				"changed services/web/servers/172.16.16.178/lower service web: real server 172.16.16.178: lower 0 → 10"}},
		{"service", "  - name: ftp", "  - {name: dns, address: '172.16.16.172:53', protocol: udp, servers: [172.16.16.177, 172.16.16.178, 172.16.16.179]}\n  - name: ftp",
			[]string{"added services/dns service dns: added, UDP 172.16.16.172:53, wlc, 3 real servers"}},
		{"no service", "  - name: old\n    address: 172.16.16.172:81\n", "", []string{"removed services/old service old: removed"}},
		{"mode", "[eth0]", "[eth0]\n  mode: tc", []string{"changed director/mode needs a restart of the director: mode auto → tc"}},
		{"interfaces", "[eth0]", "[eth1]", []string{"changed director/interfaces needs a restart of the director: interfaces eth0 → eth1"}},
		{"VIP", "[eth0]", "[eth0]\n  vips: [172.16.16.9]", []string{"added director/vips/172.16.16.9 VIP 172.16.16.9: added"}},
		{"timeouts", "[eth0]", "[eth0]\n  timeouts: {udp: 10s}", []string{"changed director/timeouts/udp timeout udp 5m → 10s"}},
		{"server", "172.16.16.178, ", "", []string{"removed services/web/servers/172.16.16.178 service web: real server 172.16.16.178: removed"}},
		{"another server", "172.16.16.178, ", "172.16.16.178, {address: 172.16.16.180, weight: 3}, ",
			[]string{"added services/web/servers/172.16.16.180 service web: real server 172.16.16.180: added, weight 3"}},
		{"order", "172.16.16.177, 172.16.16.178", "172.16.16.178, 172.16.16.177",
			[]string{"changed services/web/servers/ service web: order of real servers 172.16.16.177, 172.16.16.178, 172.16.16.179 → 172.16.16.178, 172.16.16.177, 172.16.16.179"}},
		{"scheduler", "    checks: [page]", "    checks: [page]\n    scheduler: rr", []string{"changed services/web/scheduler service web: scheduler wlc → rr"}},
		{"persistence", "    checks: [page]", "    checks: [page]\n    persistence: {timeout: 6m, mask: 24}",
			[]string{"changed services/web/persistence service web: persistence none → 6m, mask 24"}},
		{"policy", "    checks: [page]", "    checks: [page]\n    policy: {stray: pass}", []string{"changed services/web/policy/stray service web: stray adopt → pass"}},
		{"deny", "192.0.2.0/24", "198.51.100.0/24",
			[]string{"removed services/web/deny/192.0.2.0/24 service web: deny 192.0.2.0/24: removed", "added services/web/deny/198.51.100.0/24 service web: deny 198.51.100.0/24: added"}},
		{"match", "[tcp 172.16.16.172:21]", "[tcp 172.16.16.172:21, udp 172.16.16.173]",
			[]string{"added director/vips/172.16.16.173 VIP 172.16.16.173: added", "added services/ftp/match/udp 172.16.16.173 service ftp: match udp 172.16.16.173: added"}},
		{"path of a check", "path: /a", "path: /b", []string{"changed services/web/checks/page/path service web: check page: path /a → /b"}},
		{"header of a check", "secret1", "secret2", []string{"changed services/web/checks/page/headers service web: check page: values of headers those of before → others"}},
		{"checks", "checks: [page]", "checks: [page, icmp]", []string{"changed services/web/checks service web: checks page → page, icmp"}},
		{"checks of one", "172.16.16.178,", "{address: 172.16.16.178, checks: [tcp]},",
			[]string{"changed services/web/servers/172.16.16.178/checks service web: real server 172.16.16.178: checks page → tcp"}},
		{"name of a server", "172.16.16.178,", "{address: 172.16.16.178, name: b},",
			[]string{"changed services/web/servers/172.16.16.178/name service web: real server 172.16.16.178: name none → b"}},
		{"name of a service", "name: web", "name: www", []string{"changed services/www/name service www: name web → www"}},
		{"care", "    checks: [page]", "    checks: [page]\n    on_failure: remove\n    connections: reset\n    sorry_server: 172.16.16.180\n    quorum: 2\n    passive: true\n    slow_start: 90",
			[]string{"changed services/web/on_failure service web: on_failure quiesce → remove", "changed services/web/connections service web: connections keep → reset",
				"changed services/web/sorry_server service web: sorry server none → 172.16.16.180", "changed services/web/quorum service web: quorum up 1, down 1 → up 2, down 2",
				"changed services/web/slow_start service web: slow_start 0 → 1m30s",
				"changed services/web/passive service web: passive off → window 5s, minimum 10, unanswered 50%, resets 50%, hold 10s, most out 50%"}},
		{"notify", "log: warn", "url: 'http://x/'", []string{"removed notify/by log at level warn notify by log at level warn: removed", "added notify/of http://x/ within 10s notify of http://x/ within 10s: added"}},
		{"real server", "services:", "realserver: {vips: [172.16.16.172]}\nservices:", []string{"added realserver needs a restart of the real server: real server: added, 1 VIP by loopback"}},
	} {
		if c.from != "" && !strings.Contains(before, c.from) {
			t.Fatalf("%s: nothing to replace", c.name)
		}
		var got []string
		for _, d := range Diff(parsed(t, before), parsed(t, strings.Replace(before, c.from, c.to, 1))) {
			got = append(got, d.Kind+" "+d.Path+" "+d.Text)
			if d.Restart != strings.HasPrefix(d.Text, "needs a restart") {
				t.Errorf("%s: restart %v", c.name, d.Restart)
			}
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

// Whatever differs is told: no two files of another meaning have no difference.
func TestDiffOfExamples(t *testing.T) {
	all := examples(t)
	for a, textA := range all {
		for b, textB := range all {
			got := Diff(parsed(t, textA), parsed(t, textB))
			if (len(got) == 0) != (a == b) {
				t.Errorf("%s and %s: %v", a, b, got)
			}
		}
	}
	if len(Diff(nil, parsed(t, before))) == 0 || len(Diff(parsed(t, before), nil)) == 0 || len(Diff(nil, nil)) != 0 {
		t.Error("nil is not a file that says nothing")
	}
}

func TestDiffTable(t *testing.T) {
	c := parsed(t, before)
	want, err := c.Table()
	if err != nil {
		t.Fatal(err)
	}
	web := lvs.VirtualService{ServiceID: c.Services[0].Service.ServiceID}
	server := func(rip string, weight int32) lvs.RealServer {
		return lvs.RealServer{ServerID: lvs.ServerID{Addr: addr(rip), Port: 80}, Forward: lvs.DirectRouting, Weight: weight}
	}
	other := lvs.VirtualService{ServiceID: lvs.ServiceID{Protocol: lvs.UDP, Addr: addr("172.16.16.172"), Port: 53}, Scheduler: "rr"}
	have, err := want.Changed([]lvs.Change{
		{Operation: lvs.EditServer, Service: web, Server: server("172.16.16.178", 0)},
		{Operation: lvs.DeleteServer, Service: web, Server: server("172.16.16.177", 0)},
		{Operation: lvs.AddServer, Service: web, Server: server("172.16.16.181", 1)},
		{Operation: lvs.DeleteService, Service: lvs.VirtualService{ServiceID: c.Services[1].Service.ServiceID}},
		{Operation: lvs.AddService, Service: other},
		{Operation: lvs.SetTimeouts, Timeouts: lvs.Timeouts{TCP: 60}},
		{Operation: lvs.AddMark, Mark: lvs.MarkRule{Mark: 9, Protocol: lvs.TCP, Addr: addr("172.16.16.172"), First: 9, Last: 9}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range DiffTable(want, have, c.ServiceName) {
		got = append(got, d.Text)
	}
	if d := cmp.Diff([]string{
		"timeout tcp 1m, in the file 15m",
		"service old: is in the file, and does not run",
		"service web: real server 172.16.16.177: is in the file, and does not run",
		"service web: real server 172.16.16.178: weight 0, in the file 1",
		"service web: real server 172.16.16.181: runs, and is not in the file",
		"service 172.16.16.172:53/udp: runs, and is not in the file",
		"mark rule 9 TCP 172.16.16.172:9: runs, and is not in the file",
	}, got); d != "" {
		t.Error(d)
	}
	if d := DiffTable(want, want.Clone(), nil); len(d) != 0 {
		t.Error(d)
	}
}

// Nothing of a duration is lost: what differs must not look the same.
func TestShortDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0", 90 * time.Second: "1m30s", 48 * time.Hour: "2d", 1500 * time.Microsecond: "1ms500µs",
		500 * time.Microsecond: "500µs", 2*time.Hour + 3*time.Millisecond: "2h3ms"} {
		if got := shortDuration(d); got != want {
			t.Errorf("%d ns is %q, want %q", d, got, want)
		}
		if back, err := time.ParseDuration(want); err == nil && back != d {
			t.Errorf("%q is read as %v", want, back)
		}
	}
}
