// SPDX-License-Identifier: MIT

package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func parsed(t testing.TB, text string) *Config {
	t.Helper()
	c, err := Parse("site.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var byValue = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

// TestParseWhole has no default in it: every key has to arrive.
func TestParseWhole(t *testing.T) {
	got := parsed(t, `
director:
  interfaces: [eth0, v100]
  vips: [172.16.16.171]
  mode: tc
  local_clients: true
  connections: 4096
  vlans: {v100: eth0/100}
  timeouts: {tcp: 10m, tcpfin: 60, udp: 30s}
realserver:
  vips: [172.16.16.172]
  method: redirect
  ports: ["80/tcp:8080"]
  agent: {listen: "172.16.16.177:9292", secret_file: /k, report: script, command: [/load, -x], interval: 5s}
notify:
  - {command: [/tell, me], timeout: 3s, user: ops, on: [server, vip]}
  - {url: "http://127.0.0.1:9000/hook"}
  - {log: error}
checks:
  page: {type: https, name: front, port: 8443, interval: 3s, timeout: 2s, rise: 4, fall: 5, jitter: 20%, target: rip, method: PUT, path: /a?b,
    host: h.example, headers: {A: "1"}, body: b, status: "200-204,301", contains: c, regex: "d+", digest: "md5:900150983CD24FB0D6963F7D28E17F72",
    answer_headers: {E: ""}, max_body: 9, server_name: s.example, verify: true, ca_file: /ca, cert_file: /cert, key_file: /key, valid_for: 2d}
defaults:
  check: {interval: 7s, timeout: 6s}
services:
  - name: web
    address: 172.16.16.172:80
    scheduler: sh
    scheduler_flags: [sh-port]
    persistence: {timeout: 5m, mask: 24}
    policy: {stray: drop, conn_reuse_mode: 1, expire_nodest_conn: false, expire_quiescent_template: false, secure_tcp: true}
    source_limit: "20:40"
    deny: [192.0.2.0/24, 192.0.2.9]
    servers:
      - 172.16.16.177
      - address: 172.16.16.178:80
        name: web2
        weight: 7
        upper: 20
        lower: 10
        checks: [{type: grpc, plain: true, service: s, port: 1}, {type: tls, alpn: [h2]}]
        check: {rise: 9, fall: 8, target: rip}
        require: all
        agent: {protocol: haproxy, port: 77, interval: 1s, weight: 5%-100%}
    checks: [page]
    require: any
    on_failure: remove
    connections: reset
    sorry_server: 172.16.16.180
    quorum: {up: 2, down: 1}
    withdraw_vip: true
    alpha: true
    slow_start: 60
    flap: {changes: 3, within: 2m, hold: 3m}
    passive: {window: 4s, minimum: 11, unanswered: 60%, resets: 0%, hold: 12s, most_out: 30%}
    agent: {secret_file: /agent}
  - address: "[2001:db8::172]:53"
    protocol: udp
    one_packet: true
    servers: ["2001:db8::1"]
    checks:
      - {type: dns, query: q.example, record: MX, tcp: true, rcode: [NXDOMAIN], answer: [x]}
      - {type: udp, send_hex: "00 ff", contains_hex: "0a", regex: "."}
      - {type: smtp, hello: me, starttls: true, valid_for: 1h}
      - {type: mysql, user: u, database: d}
      - {type: redis, password_file: /p, role: slave}
      - {type: script, command: [/c, d], user: u, max_output: 5}
      - {type: file, path: /f, missing: up, max_age: 9s}
      - {type: http2, plain: true}
      - {type: tcp, send: "a\r\n", contains: b}
  - {mark: 7, family: ipv6, match: ["tcp [2001:db8::172]:21", "udp [2001:db8::173]:30-40", "sctp 2001:db8::174"], servers: ["2001:db8::1"], checks: [icmp]}
`)
	server := func(rip string, port uint16, weight int32) lvs.RealServer {
		return lvs.RealServer{ServerID: lvs.ServerID{Addr: addr(rip), Port: port}, Forward: lvs.DirectRouting, Weight: weight}
	}
	page := health.Check{Name: "front", Kind: health.HTTPS, ToRIP: true, Port: 8443, Interval: 3 * time.Second, Timeout: 2 * time.Second, Rise: 4, Fall: 5, Jitter: 0.2,
		HTTP: health.HTTPCheck{Method: "PUT", Path: "/a?b", Host: "h.example", Headers: []health.Header{{Name: "A", Value: "1"}}, Body: "b",
			Status: []health.StatusRange{{First: 200, Last: 204}, {First: 301, Last: 301}}, Expect: "c", Pattern: "d+", Digest: "md5:900150983cd24fb0d6963f7d28e17f72",
			Answer: []health.Header{{Name: "E"}}, MaxBody: 9},
		TLS: health.TLSCheck{ServerName: "s.example", Verify: true, CAFile: "/ca", CertFile: "/cert", KeyFile: "/key", ValidFor: 48 * time.Hour}}
	like := func(c health.Check) health.Check {
		c.Interval, c.Timeout, c.Jitter = 7*time.Second, 6*time.Second, 0.1
		if c.Rise == 0 {
			c.Rise, c.Fall = 2, 3
		}
		return c
	}
	web2 := server("172.16.16.178", 80, 7)
	web2.Upper, web2.Lower = 20, 10
	sorry := server("172.16.16.180", 80, 1)
	dns := lvs.ServiceID{Protocol: lvs.UDP, Addr: addr("2001:db8::172"), Port: 53}
	mark := lvs.ServiceID{Mark: 7, Mark6: true}
	want := &Config{
		Director: &Director{Section: true, Interfaces: []string{"eth0", "v100"}, Mode: "tc", LocalClients: true, Connections: 4096,
			VIPs:  []netip.Addr{addr("172.16.16.171"), addr("172.16.16.172"), addr("2001:db8::172"), addr("2001:db8::173"), addr("2001:db8::174")},
			VLANs: map[string]VLAN{"v100": {Parent: "eth0", ID: 100}}, Timeouts: lvs.Timeouts{TCP: 600, TCPFin: 60, UDP: 30}},
		RealServer: &RealServer{VIPs: []netip.Addr{addr("172.16.16.172")}, Method: "redirect", Ports: []string{"80/tcp:8080"},
			Agent: &Agent{Listen: "172.16.16.177:9292", SecretFile: "/k", Report: "script", Command: []string{"/load", "-x"}, Interval: 5 * time.Second}},
		Notify: []Notify{{Command: []string{"/tell", "me"}, Timeout: 3 * time.Second, User: "ops", On: []string{"server", "vip"}},
			{URL: "http://127.0.0.1:9000/hook", Timeout: 10 * time.Second}, {Log: "error", Timeout: 10 * time.Second}},
		Services: []Service{{
			Name: "web",
			Service: lvs.VirtualService{ServiceID: lvs.ServiceID{Protocol: lvs.TCP, Addr: addr("172.16.16.172"), Port: 80}, Scheduler: lvs.SourceHashing,
				Flags: lvs.FlagPersistent | lvs.FlagSched2, Timeout: 300, Netmask: 0xffffff00,
				Policy: lvs.Policy{Stray: lvs.StrayDrop, ConnReuse: 3, KeepNodest: true, KeepTemplate: true, SecureTCP: true, SourceLimit: lvs.SourceLimit{Rate: 20, Burst: 40}}},
			Deny: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.0.2.9/32")},
			Servers: []Server{
				{Server: server("172.16.16.177", 80, 1), Checks: []health.Check{page}, Any: true,
					Weigh: &Weigh{Port: 9292, SecretFile: "/agent", Interval: 2 * time.Second, Least: 10, Most: 200}},
				{Name: "web2", Server: web2, Checks: []health.Check{
					like(health.Check{Kind: health.GRPC, Port: 1, ToRIP: true, Rise: 9, Fall: 8, GRPC: health.GRPCCheck{Service: "s", Plain: true}}),
					like(health.Check{Kind: health.TLS, ToRIP: true, Rise: 9, Fall: 8, TLS: health.TLSCheck{ALPN: []string{"h2"}}}),
				}, Weigh: &Weigh{HAProxy: true, Port: 77, Interval: time.Second, Least: 5, Most: 100}},
			},
			Sorry: &sorry,
			Care: Care{Remove: true, Fate: lvs.FateReset, Alpha: true, SlowStart: time.Minute, QuorumUp: 2, QuorumDown: 1, Withdraw: true,
				Flap:    health.Flap{Changes: 3, Within: 2 * time.Minute, Hold: 3 * time.Minute},
				Passive: &health.Passive{Window: 4 * time.Second, Minimum: 11, Unanswered: 0.6, Hold: 12 * time.Second, MostOut: 0.3}},
		}, {
			Name:    "[2001:db8::172]:53/udp",
			Service: lvs.VirtualService{ServiceID: dns, Scheduler: "wlc", Flags: lvs.FlagOnePacket},
			Servers: []Server{{Server: server("2001:db8::1", 53, 1), Checks: []health.Check{
				like(health.Check{Kind: health.DNS, DNS: health.DNSCheck{Name: "q.example", Type: "MX", TCP: true, RCode: []string{"NXDOMAIN"}, Answer: []string{"x"}}}),
				like(health.Check{Kind: health.UDP, Talk: health.TalkCheck{Send: "\x00\xff", Expect: "\n", Pattern: "."}}),
				like(health.Check{Kind: health.SMTP, SMTP: health.SMTPCheck{Hello: "me", StartTLS: true}, TLS: health.TLSCheck{ValidFor: time.Hour}}),
				like(health.Check{Kind: health.MySQL, SQL: health.SQLCheck{User: "u", Database: "d"}}),
				like(health.Check{Kind: health.Redis, Redis: health.RedisCheck{PasswordFile: "/p", Role: "slave"}}),
				like(health.Check{Kind: health.Script, Script: health.ScriptCheck{Command: []string{"/c", "d"}, User: "u", MaxOutput: 5}}),
				like(health.Check{Kind: health.File, File: health.FileCheck{Path: "/f", Missing: "up", MaxAge: 9 * time.Second}}),
				like(health.Check{Kind: health.HTTP2, HTTP: health.HTTPCheck{Plain: true}}),
				like(health.Check{Kind: health.TCP, Talk: health.TalkCheck{Send: "a\r\n", Expect: "b"}}),
			}}},
			Care: Care{QuorumUp: 1, QuorumDown: 1},
		}, {
			Name:    "mark-7-ipv6",
			Service: lvs.VirtualService{ServiceID: mark, Scheduler: "wlc"},
			Marks: []lvs.MarkRule{{Mark: 7, Protocol: lvs.TCP, Addr: addr("2001:db8::172"), First: 21, Last: 21},
				{Mark: 7, Protocol: lvs.UDP, Addr: addr("2001:db8::173"), First: 30, Last: 40}, {Mark: 7, Protocol: lvs.SCTP, Addr: addr("2001:db8::174")}},
			Servers: []Server{{Server: server("2001:db8::1", 0, 1), Checks: []health.Check{like(health.Check{Kind: health.ICMP, ToRIP: true})}}},
			Care:    Care{QuorumUp: 1, QuorumDown: 1},
		}},
	}
	if d := cmp.Diff(want, got, byValue); d != "" {
		t.Error(d)
	}
}

// TestInherit: what is said nearest to a check counts.
func TestInherit(t *testing.T) {
	c := parsed(t, `
checks: {page: {type: http, fall: 9}}
defaults:
  scheduler: rr
  check: {interval: 10s, rise: 5, target: rip}
  checks: [tcp]
  policy: {stray: pass}
  passive: true
  agent: {secret_file: /k}
  alpha: true
services:
  - address: 172.16.16.172:80
    check: {interval: 20s, fall: 7}
    servers:
      - 172.16.16.177
      - {address: 172.16.16.178, check: {interval: 30s, target: vip}, checks: [page], agent: false}
  - address: 172.16.16.172:53
    protocol: udp
    scheduler: wrr
    passive: false
    agent: false
    checks: []
    servers: [172.16.16.177]
  - mark: 7
    match: [tcp 172.16.16.173:21]
    servers: [172.16.16.177]
`)
	check := func(kind health.Kind, name string, interval time.Duration, rise, fall int, toRIP bool) health.Check {
		return health.Check{Name: name, Kind: kind, Interval: interval, Timeout: time.Second, Rise: rise, Fall: fall, Jitter: 0.1, ToRIP: toRIP}
	}
	web, dns, ftp := c.Services[0], c.Services[1], c.Services[2]
	for _, v := range []struct {
		what      string
		got, want any
	}{
		{"checks of defaults", web.Servers[0].Checks, []health.Check{check(health.TCP, "", 20*time.Second, 5, 7, true)}},
		{"checks of a server", web.Servers[1].Checks, []health.Check{check(health.HTTP, "page", 30*time.Second, 5, 9, false)}},
		{"no checks", dns.Servers[0].Checks, []health.Check(nil)},
		{"schedulers", []lvs.Scheduler{web.Service.Scheduler, dns.Service.Scheduler}, []lvs.Scheduler{"rr", "wrr"}},
		{"policy where it counts", []lvs.Stray{web.Service.Policy.Stray, dns.Service.Policy.Stray}, []lvs.Stray{lvs.StrayPass, lvs.StrayAdopt}},
		{"passive", []bool{web.Care.Passive != nil, dns.Care.Passive != nil}, []bool{true, false}},
		{"agents", []bool{web.Servers[0].Weigh != nil, web.Servers[1].Weigh != nil, dns.Servers[0].Weigh != nil}, []bool{true, false, false}},
		{"alpha where there are checks", []bool{web.Care.Alpha, dns.Care.Alpha}, []bool{true, false}},
		{"port of a mark", ftp.Servers[0].Checks[0].Port, uint16(21)},
	} {
		if d := cmp.Diff(v.want, v.got, byValue); d != "" {
			t.Errorf("%s: %s", v.what, d)
		}
	}
}

// TestInheritEachKey: every key of defaults counts for a service that does not
// have it, and not for one that has.
func TestInheritEachKey(t *testing.T) {
	for _, c := range []struct{ defaults, own string }{
		{"scheduler: rr", "scheduler: wrr"},
		{"policy: {stray: pass}", "policy: {stray: drop}"},
		{"source_limit: 5", "source_limit: 6"},
		{"checks: [http]", "checks: [smtp]"},
		{"check: {interval: 5s}", "check: {interval: 6s}"},
		{"check: {timeout: 1.5}", "check: {timeout: 1.6}"},
		{"check: {rise: 5}", "check: {rise: 6}"},
		{"check: {fall: 5}", "check: {fall: 6}"},
		{"check: {jitter: 5%}", "check: {jitter: 6%}"},
		{"check: {target: rip}", "check: {target: vip}"},
		{"require: any", "require: all"},
		{"on_failure: remove", "on_failure: quiesce"},
		{"connections: reset", "connections: expire"},
		{"quorum: {up: 1}", "quorum: {up: 2}"},
		{"withdraw_vip: true", "withdraw_vip: false"},
		{"alpha: true", "alpha: false"},
		{"slow_start: 5", "slow_start: 6"},
		{"flap: {changes: 5}", "flap: {changes: 6}"},
		{"passive: {minimum: 5}", "passive: {minimum: 6}"},
		{"agent: {secret_file: /a}", "agent: {secret_file: /b}"},
	} {
		read := func(defaults, own string) Service {
			return parsed(t, fmt.Sprintf("defaults: {%s}\nservices:\n  - address: 172.16.16.172:80\n    servers: [172.16.16.177, 172.16.16.178]\n    %s\n", defaults, own)).Services[0]
		}
		inherited, both := read(c.defaults, ""), read(c.defaults, c.own)
		if d := cmp.Diff(read("", c.defaults), inherited, byValue); d != "" {
			t.Errorf("%s is not inherited: %s", c.defaults, d)
		}
		if d := cmp.Diff(read("", c.own), both, byValue); d != "" {
			t.Errorf("%s does not count before %s: %s", c.own, c.defaults, d)
		}
		if cmp.Equal(inherited, both, byValue) {
			t.Errorf("%s and %s are the same", c.defaults, c.own)
		}
	}
}

func TestDefaultChecks(t *testing.T) {
	c := parsed(t, `
services:
  - {address: "172.16.16.172:80", servers: [172.16.16.177]}
  - {address: "172.16.16.172:53", protocol: udp, servers: [172.16.16.177]}
  - {address: "172.16.16.172:99", protocol: sctp, servers: [172.16.16.177]}
  - {address: "172.16.16.173:0", persistence: 60, servers: [172.16.16.177]}
  - {mark: 7, match: [tcp 172.16.16.174:21], servers: [172.16.16.177]}
`)
	var got []string
	for _, s := range c.Services {
		kinds := "none"
		for _, k := range s.Servers[0].Checks {
			kinds = fmt.Sprintf("%s every %v within %v", k.Kind, k.Interval, k.Timeout)
		}
		got = append(got, kinds)
	}
	want := []string{"tcp every 2s within 1s", "udp every 2s within 1s", "none", "none", "none"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"2s": 2 * time.Second, "500ms": 500 * time.Millisecond, "1m30s": 90 * time.Second, "6m": 6 * time.Minute, "14d": 14 * 24 * time.Hour,
		"1.5h": 90 * time.Minute, "10": 10 * time.Second, "0.5": 500 * time.Millisecond, "0": 0,
	} {
		if got, ok := parseDuration(text); !ok || got != want {
			t.Errorf("%s: %v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "s", "2 s", "-1s", "+2s", "2x", "1e3", "1s2", "1000000d", "99999999999999999999s", "NaN", ".5s"} {
		if got, ok := parseDuration(text); ok {
			t.Errorf("%q is %v", text, got)
		}
	}
}

// A timeout that nobody names fits the interval, and the other way round.
func TestTimeoutsFit(t *testing.T) {
	for line, want := range map[string][2]time.Duration{
		"check: {interval: 500ms}":             {500 * time.Millisecond, 500 * time.Millisecond},
		"check: {timeout: 5s}":                 {5 * time.Second, 5 * time.Second},
		"check: {interval: 2s, timeout: 5s}":   {2 * time.Second, 5 * time.Second},
		"check: {interval: 30s}":               {30 * time.Second, time.Second},
		"checks: [{type: tcp, interval: 0.5}]": {500 * time.Millisecond, 500 * time.Millisecond},
	} {
		k := parsed(t, minimal(line)).Services[0].Servers[0].Checks[0]
		if k.Interval != want[0] || k.Timeout != want[1] {
			t.Errorf("%s: interval %v, timeout %v", line, k.Interval, k.Timeout)
		}
	}
}

// problemsOf gives "LINE:COLUMN MESSAGE (SUGGESTION)" of each.
func problemsOf(t *testing.T, err error) []string {
	t.Helper()
	list, ok := errors.AsType[Errors](err)
	if !ok {
		t.Fatalf("%v is no Errors", err)
	}
	var all []string
	for _, p := range list {
		text := fmt.Sprintf("%d:%d %s", p.Line, p.Column, p.Message)
		if p.Suggestion != "" {
			text += " (" + p.Suggestion + ")"
		}
		all = append(all, text)
	}
	return all
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, err := Parse("site.yaml", []byte(`director:
  interfaces: [eth0]
  modus: tc
servces: []
checks:
  healthz: {type: http, path: /healthz, query: x}
services:
  - name: web
    address: 172.16.16.172:80
    scheduler: wlcc
    conections: keep
    servers:
      - 172.16.16.177
      - 172.16.16.177:80
      - {address: 172.16.16.178:8080, weight: -1}
      - 2001:db8::1
    checks: [heathz, {type: htpp}, {type: http, regex: "a(b"}]
    quorum: 5
  - name: web
    address: 172.16.16.172:80
  - name: web
    address: 172.16.16.172:81
  - mark: 7
    match: [tcp 172.16.16.172:82]
  - address: 172.16.16.172:82
`))
	want := []string{
		"3:3 unknown key modus in director (mode)",
		"4:1 unknown key servces (services)",
		"6:41 query is nothing for a check of kind http: it belongs to dns",
		"10:16 unknown scheduler wlcc (wlc)",
		"11:5 unknown key conections in service (connections)",
		"14:9 server 172.16.16.177 is there already, on line 13",
		"15:19 port 8080 is not the service's port 80, and direct routing changes no port: leave it out, and have the real server redirect it: " +
			"shunt realserver start --vip 172.16.16.172 --method redirect --port 80/tcp:8080",
		"15:47 weight is from 0 to 2147483647, not -1",
		"16:9 2001:db8::1 is of another address family than the service",
		"17:14 unknown check heathz (healthz)",
		"17:29 unknown kind of check htpp (http)",
		"17:56 regex is no regular expression (RE2): missing closing ): `a(b`",
		"18:13 quorum 5 is more than the servers of service web, which has 1",
		"20:14 service TCP 172.16.16.172:80 is there already, on line 9",
		"21:11 there is a service of the name web already, on line 8",
		"25:14 TCP 172.16.16.172:82: match rule: its packets have a mark already: 7 TCP 172.16.16.172:82",
	}
	got := problemsOf(t, err)
	for i := range got { // the nouns' words are theirs
		if strings.HasPrefix(got[i], "25:14 ") {
			got[i] = want[len(want)-1]
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestProblemText(t *testing.T) {
	_, err := Parse("site.yaml", []byte("services:\n\t\n  - address: 172.16.16.172:80\n    scheduler:  wlcc # é\n"))
	want := "site.yaml:4:17: unknown scheduler wlcc, did you mean wlc?\n        scheduler:  wlcc # é\n                    ^"
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
	}
}

// TestSemanticProblems: what only the whole tells, by the place that it is about.
func TestSemanticProblems(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"persistence: {mask: 64}", "5:25 mask of an IPv4 service"},
		{"one_packet: true", "5:17 one_packet is for UDP"},
		{"deny: [192.0.2.0/24, 192.0.2.0/24]", "5:26 deny list of"},
		{"deny: [192.0.2.1/24]", "5:12 deny 192.0.2.1/24 has bits behind its length (192.0.2.0/24)"},
		{`deny: ["2001:db8::/32"]`, "5:12 2001:db8::/32 is of another address family"},
		{"policy: {expire_quiescent_template: false}", "5:41 expire_quiescent_template means nothing here: it needs persistence"},
		{"scheduler_flags: [mh-port]", "5:23 scheduler flag mh-port is nothing for scheduler wlc"},
		{"sorry_server: 172.16.16.177", "5:19 172.16.16.177 is a server of the service already"},
		{"sorry_server: 172.16.16.172", "5:19 172.16.16.172 is the VIP"},
		{"sorry_server: 172.16.16.180:81", "5:19 port 81 is not the service's port 80"},
		{"quorum: {up: 1, down: 2}", "5:27 quorum: down 2 is above up 1"},
		{"quorum: 2", "5:13 quorum 2 is more than the servers"},
		{"{alpha: true, checks: []}", ""},
		{"passive: {unanswered: 0%, resets: 0%}", "5:14 passive looks neither"},
		{"agent: {port: 1}", "5:12 agent: protocol shunt needs secret_file"},
		{"agent: {protocol: haproxy}", "5:12 agent: protocol haproxy needs port"},
		{"agent: {protocol: haproxy, port: 1, secret_file: /k}", "5:54 secret_file belongs to protocol shunt"},
		{"agent: {secret_file: /k, weight: 200%-10%}", "5:38 weight 200%-10%: the lower bound comes first"},
		{"check: {interval: 1s, timeout: 4s}", "5:36 timeout 4s is longer than interval 1s × fall 3 = 3s"},
		{"check: {rise: 0}", "5:19 rise is from 1 to 1000, not 0"},
		{"check: {fall: 0}", "5:19 fall is from 1 to 1000, not 0"},
		{"checks: [{type: script}]", "5:14 a check of kind script needs a command"},
		{"checks: [{type: script, command: [check]}]", "5:39 command takes the absolute path"},
		{"checks: [{type: script, command: []}]", "5:38 command is empty"},
		{"checks: [{type: file}]", "5:14 a check of kind file needs path"},
		{"checks: [{type: https, ca_file: /x}]", "5:37 ca_file counts with verify: true only"},
		{"checks: [{type: https, cert_file: /x}]", "5:39 cert_file and key_file belong together"},
		{"checks: [{type: http2, plain: true, verify: true}]", "5:49 verify is about TLS"},
		{"checks: [{type: smtp, verify: true}]", "5:35 verify is about TLS"},
		{`checks: [{type: tcp, send: a, send_hex: "0a"}]`, "5:45 send and send_hex say the same"},
		{"checks: [{type: http, status: 300-200}]", "5:35 status 300-200: the first status comes first"},
		{"checks: [nosuch]", "5:14 unknown check nosuch"},
		{"match: [tcp 172.16.16.172:21]", "5:12 match belongs to a service by mark"},
		{"family: ipv4", "5:13 family belongs to a service by mark"},
		{"mark: 7", "5:5 service needs one of address, mark, and only one"},
		{"persistance: 5", "5:5 unknown key persistance in service (persistence)"},
		{"lb_algo: rr", "5:5 unknown key lb_algo in service (scheduler)"},
		{"wibble: rr", "5:5 unknown key wibble in service: there are name, address,"},
		{"scheduler:", "5:16 scheduler has no value"},
		{"checks:", "5:13 checks has no value"},
		{"alpha: yes", "5:12 alpha takes true or false (true)"},
		{"quorum: [1]", "5:13 quorum takes one value or a mapping, not a list"},
		{"flap: [1]", "5:11 flap takes one value or a mapping, not a list"},
	} {
		if c.want == "" {
			continue
		}
		_, err := Parse("site.yaml", []byte(minimal(c.line)))
		if err == nil {
			t.Errorf("%s: no problem", c.line)
			continue
		}
		if got := problemsOf(t, err); len(got) != 1 || !strings.HasPrefix(got[0], c.want) && !strings.Contains(c.line, "\n") {
			t.Errorf("%s: %q", c.line, got)
		}
	}
}

func TestMoreSemanticProblems(t *testing.T) {
	for text, want := range map[string]string{
		"services: [{address: '172.16.16.172:80', servers: [172.16.16.177], checks: [], alpha: true}]":                               "1:87 alpha: server 172.16.16.177 has no checks",
		"services: [{address: '172.16.16.172:80', servers: [172.16.16.177], checks: [], withdraw_vip: true}]":                        "1:94 withdraw_vip: server 172.16.16.177 has no checks",
		"services: [{address: '172.16.16.172:0', servers: [172.16.16.177]}]":                                                         "1:22 port 0 stands for every port",
		"services: [{address: '172.16.16.172:0', persistence: 60, servers: [172.16.16.177], checks: [http]}]":                        "1:93 a check of kind http needs a port",
		"services: [{mark: 7, servers: [172.16.16.177]}]":                                                                            "1:19 a service by mark needs match",
		"services: [{mark: 7, match: ['tcp [2001:db8::172]:21']}]":                                                                   "1:30 2001:db8::172 is of another family",
		"services: [{mark: 7, match: [tcp 172.16.16.172:21], protocol: tcp}]":                                                        "1:63 a service by mark has the protocols of its match",
		"services: [{mark: 7, match: [tcp 172.16.16.172:21], servers: [172.16.16.177:21]}]":                                          "1:63 a packet keeps the port",
		"services: [{mark: 7, match: [tcp 172.16.16.172:21, tcp 172.16.16.172:20-30]}]":                                              "1:52 match 7 TCP 172.16.16.172:20-30: there is 7 TCP",
		"services: [{mark: 7, match: [tcp 172.16.16.172:21], servers: [172.16.16.177], checks: [{type: tcp, target: vip}]}]":         "1:108 the checks of a service by mark go to the RIP",
		"services: [{address: '172.16.16.172:80', servers: [{address: 172.16.16.177, upper: 5, lower: 6}]}]":                         "1:94 lower 6 is above upper 5",
		"services: [{address: '172.16.16.172:80', servers: [{address: 172.16.16.177, name: a}, {address: 172.16.16.178, name: a}]}]": "1:118 there is a server of the name a already",
		"services: [{address: '127.0.0.1:80'}]":                                                                                      "1:22 127.0.0.1 is no address that clients can reach",
		"services: [{address: '172.16.16.172:53', protocol: udp, policy: {stray: pass}}]":                                            "1:73 stray means nothing here",
		"checks: {http: {type: tcp}}":                                                            "1:10 check http is of kind tcp",
		"checks: {a: {type: file}}":                                                              "1:13 a check of kind file needs path",
		"defaults: {checks: [nosuch]}":                                                           "1:21 unknown check nosuch",
		"defaults: {quorum: {up: 1, down: 3}}":                                                   "1:34 quorum: down 3 is above up 1",
		"director: {interfaces: [eth0, eth0]}":                                                   "1:31 interface eth0 is there already",
		"director: {vips: [172.16.16.172, 172.16.16.172]}":                                       "1:34 VIP 172.16.16.172 is there already",
		"director: {vips: [0.0.0.0]}":                                                            "1:19 vip 0.0.0.0 is no unicast address",
		"director: {vlans: {v1: eth0/5000}}":                                                     "1:24 vlan v1 VLAN eth0/5000: its number is from 1 to 4094",
		"realserver: {vips: [172.16.16.172], ports: [80/tcp]}":                                   "1:44 ports belong to method redirect",
		"realserver: {vips: [172.16.16.172], method: redirect}":                                  "1:45 method redirect needs to know what to redirect",
		"realserver: {vips: []}":                                                                 "1:20 realserver needs at least one VIP",
		"realserver: {vips: [172.16.16.172], method: redirect, ports: ['80/tcp:1', '80/tcp:2']}": "1:75 port 80/tcp:2 is redirected already",
		"realserver: {vips: [172.16.16.172], agent: {listen: '1.2.3.4:5', secret_file: /k, command: [/x]}}": "1:92 command belongs to report script",
		"notify: [{log: warn, user: x}]":              "1:28 user belongs to a command",
		"notify: [{command: [tell]}]":                 "1:21 command takes the absolute path",
		"notify: [{log: info, on: [server, server]}]": "1:35 on: server is there already",
	} {
		_, err := Parse("site.yaml", []byte(text))
		if err == nil {
			t.Errorf("%s: no problem", text)
			continue
		}
		if got := problemsOf(t, err); len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("%s\n  %q\nwant %q", text, got, want)
		}
	}
}

// TestYAML: what YAML itself offers to go wrong.
func TestYAML(t *testing.T) {
	const good = "director:\n  interfaces: [eth0]\nservices:\n  - address: 172.16.16.172:80\n    servers:\n      - 172.16.16.177\n"
	var bomb strings.Builder
	bomb.WriteString("x-a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n")
	for c := 'b'; c <= 'z'; c++ {
		fmt.Fprintf(&bomb, "x-%c: &%c [%s]\n", c, c, strings.Repeat(fmt.Sprintf("*%c, ", c-1), 9)+"1")
	}
	for _, c := range []struct{ name, text, want string }{
		{"plain", good, ""},
		{"CRLF", strings.ReplaceAll(good, "\n", "\r\n"), ""},
		{"BOM", "\xef\xbb\xbf" + good, ""},
		{"document markers", "---\n" + good + "...\n", ""},
		{"no end of line", strings.TrimSuffix(good, "\n"), ""},
		{"anchors", "x-w: &w [172.16.16.177]\n" + "services:\n  - {address: '172.16.16.172:80', servers: *w}\n", ""},
		{"merge", "x-w: &w {servers: [172.16.16.177], scheduler: rr}\nservices:\n  - <<: *w\n    address: 172.16.16.172:80\n    scheduler: wrr\n", ""},
		{"merge list", "x-w: &w {servers: [172.16.16.177]}\nx-v: &v {scheduler: rr}\nservices:\n  - <<: [*w, *v]\n    address: 172.16.16.172:80\n", ""},
		{"empty", "", "1:1 the file says nothing"},
		{"blank", "\n \n", "1:1 the file says nothing"},
		{"comments only", "# nothing\n", "1:1 the file says nothing"},
		{"marker only", "---\n", "1:1 the file says nothing"},
		{"two documents", good + "---\n" + good, "7:1 a second YAML document begins here"},
		{"tab", "services:\n\t- address: 172.16.16.172:80\n", "2:1 indented with a tab"},
		{"duplicate key", good + "services: []\n", "7:1 key services is there already, on line 3"},
		{"UTF-16", "\xff\xfes\x00", "1:1 the file is UTF-16"},
		{"Latin-1", "# caf\xe9\n" + good, "1:1 a byte 0xe9 that is no UTF-8"},
		{"NUL", good + "\x00", "7:1 a control character 0x00"},
		{"tag", "services: !!seq []\n", "1:11 tags such as !!seq have no meaning here"},
		{"no anchor", "services: *web\n", "1:11 *web: there is no &web before it"},
		{"bomb", bomb.String(), "aliases (*name) repeat more than 100000 values"},
		{"itself", "x-a: &a [*a]\n", "1:10 *a contains itself"},
		{"merge of a list", "services:\n  - <<: [1]\n    address: 172.16.16.172:80\n", "2:9 << takes a mapping"},
		{"deep", "x-a: " + strings.Repeat("[", 100_000), "are more than 32 deep"},
		{"deep braces", "x-a: " + strings.Repeat("{a: ", 100_000), "are more than 32 deep"},
		{"deep dashes", "x-a:\n" + strings.Repeat("- ", 100_000), "are more than 32 deep"},
		{"deep keys", "x-a:\n" + strings.Repeat("? ", 100_000), "are more than 32 deep"},
		{"too long", strings.Repeat("# nothing\n", 2<<20), "1:1 the file has 20 MiB, at most 16 are read"},
		{"a list as key", "? [a]\n: b\n", "2:1 this is no YAML"},
		{"IPv6 without quotes", "services:\n  - address: [2001:db8::172]:80\n", `wants quotes: "[2001:db8::172]:80"`},
	} {
		got, err := Parse("site.yaml", []byte(c.text))
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			} else if len(got.Services) != 1 || len(got.Services[0].Servers) != 1 {
				t.Errorf("%s: %+v", c.name, got)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s: no problem", c.name)
			continue
		}
		if all := problemsOf(t, err); len(all) != 1 || !strings.Contains(all[0], c.want) {
			t.Errorf("%s: %.300q", c.name, all)
		}
	}
}

func TestManyProblemsAreNotAllListed(t *testing.T) {
	_, err := Parse("site.yaml", []byte(strings.Repeat("a: 1\n", 5000)))
	all := problemsOf(t, err)
	if len(all) != maxProblems+1 {
		t.Errorf("%d problems", len(all))
	}
}

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{"wlcc": "wlc", "wl": "wlc", "mgalev": "", "scheudler": "scheduler", "SCHEDULER": "scheduler", "x": "", "on-failure": "on_failure"} {
		if got := nearest(word, []string{"wlc", "rr", "scheduler", "on_failure"}); got != want {
			t.Errorf("%s: %q, not %q", word, got, want)
		}
	}
}

func TestChangesAreAppliedInOrder(t *testing.T) {
	for name, text := range examples(t) {
		c := parsed(t, text)
		table, err := c.Table()
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.Services {
			s := &c.Services[i]
			v := table.Services[i]
			if v.ServiceID != s.Service.ServiceID || len(v.Servers) != len(s.Servers) || len(v.Deny) != len(s.Deny) {
				t.Errorf("%s: service %d is %v", name, i, v)
			}
			for j := range s.Servers { // the last one added is the first
				if v.Servers[len(v.Servers)-1-j] != s.Servers[j].Server {
					t.Errorf("%s: server %d of %v", name, j, v)
				}
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range examples(f) {
		f.Add([]byte(text))
	}
	for _, text := range []string{"", "a: &a [*a]", "services: [{address: '1.2.3.4:5'}]", "<<: {services: []}", "? a\n: b", "- - -", "services: |\n  x", "\xff", "a: {b:c}"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("fuzz.yaml", text)
		if err != nil {
			list, ok := errors.AsType[Errors](err)
			if !ok || len(list) == 0 {
				t.Fatalf("%T %v", err, err)
			}
			lines := bytes.Count(text, []byte("\n")) + 1
			for _, p := range list {
				if p.Line < 1 || p.Line > lines+1 || p.Column < 1 || p.Message == "" {
					t.Fatalf("%+v of %d lines", p, lines)
				}
			}
			return
		}
		table, err := c.Table()
		if err != nil {
			t.Fatalf("it was read, and is refused: %v", err)
		}
		if len(table.Services) != len(c.Services) {
			t.Fatal("services are missing")
		}
		c.Summary()
	})
}

// TestImpossibleChecks: what only whoever asks can know.
func TestImpossibleChecks(t *testing.T) {
	for check, want := range map[string]string{
		`{type: http, path: "/a b"}`:                    `"/a b" is not a path`,
		`{type: http, path: "/%zz"}`:                    "invalid URL escape",
		`{type: http, method: "GE(T"}`:                  "invalid method",
		`{type: http, method: HEAD, contains: x}`:       "HEAD has no body",
		`{type: http, headers: {"X(Y": z}}`:             `"X(Y": "z" is not a header`,
		`{type: dns, query: a..b}`:                      `"a..b" is not a name`,
		`{type: tls, send: "a NOOP\r\n", contains: OK}`: "",
	} {
		_, err := Parse("site.yaml", []byte("director: {interfaces: [eth0]}\nservices: [{address: 192.0.2.1:80, servers: [192.0.2.2], checks: ["+check+"]}]\n"))
		switch {
		case want == "" && err != nil, want != "" && err == nil:
			t.Errorf("%s: %v", check, err)
		case want != "":
			if got := problemsOf(t, err); len(got) != 1 || !strings.Contains(got[0], "cannot be asked so: ") || !strings.Contains(got[0], want) {
				t.Errorf("%s: %q, want %q", check, got, want)
			}
		}
	}
}

// What belongs to one kind of report is a mistake with another.
func TestAgentOfARealServer(t *testing.T) {
	const head = "realserver:\n  vips: [172.16.16.172]\n  agent: {listen: \"172.16.16.177:9292\", secret_file: /k, "
	for rest, want := range map[string]string{
		"report: connections, full: 500}\n":               "",
		"report: script, command: [/load], user: load}\n": "",
		"report: cpu, full: 500}\n":                       "full belongs to report connections",
		"report: connections, user: load}\n":              "user belongs to report script",
		"report: script, command: [/load], full: 0}\n":    "full",
	} {
		c, err := Parse("s.yaml", []byte(head+rest))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", rest, err)
		case want == "" && (c.RealServer.Agent.Full == 500) == (c.RealServer.Agent.User == "load"):
			t.Errorf("%s: %+v", rest, c.RealServer.Agent)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v", rest, err)
		}
	}
}
