// SPDX-License-Identifier: MIT

package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// TestImportMeaning: what a file of others means, written down by hand, is what
// its import means to shunt.
func TestImportMeaning(t *testing.T) {
	for path, want := range map[string]string{
		"testdata/keepalived/web.conf": `
TCP 172.16.16.172:80 wlc persist 300/ffffffff quiesce sorry 172.16.16.180
  172.16.16.177 w1: http /healthz host www.example.com status 200-200 [4s 3s 1/3 vip]
  172.16.16.178 w2: http /healthz host www.example.com status 200-200 [4s 3s 1/3 vip]`,
		"testdata/keepalived/defaults.conf": `
UDP 10.1.0.10:53 wlc remove
  10.1.0.21 w1: tcp [30s 5s 1/2 vip]
  10.1.0.22 w1:
TCP 10.1.0.10:0 wlc persist 360/ffffffff remove
  10.1.0.21 w1: tcp port 22 [30s 5s 1/2 vip]
TCP 10.1.0.11:443 lc remove
  10.1.0.21 w1: https / status 200-299 [31s 5s 1/2 vip]; smtp [30s 5s 1/2 vip]; script [/usr/local/bin/check] as keepalived_script [1m0s 1m0s 1/1 vip]; icmp [30s 5s 1/2 rip]`,
		"testdata/keepalived/tls.conf": `
TCP 192.0.2.10:443 wrr remove
  192.0.2.21 w10: https /health?deep=1 host shop.example.com sni shop.example.com cert /etc/keepalived/client.pem status 200-204 301-301 302-302 match (?mi)^(ok|\d+ items)$ [6.5s 2.5s 1/2 vip]; https /static/logo.svg host cdn.example.com sni cdn.example.com cert /etc/keepalived/client.pem status 200-299 digest md5:9b3a0c85a887a256d6939da88aabd8cd [6.5s 2.5s 1/2 vip]
  192.0.2.22 w10: https /ahead host blue.example.com cert /etc/keepalived/client.pem status 200-299 [6.5s 5s 1/2 vip]; https /not host blue.example.com cert /etc/keepalived/client.pem status 200-299 [6.5s 5s 1/2 vip]`,
		"testdata/keepalived/mail.conf": `
TCP 198.51.100.25:25 wlc remove alpha
  198.51.100.31 w1: smtp as lvs.example.com [8.3s 6s 1/3 vip]
  198.51.100.32 w1: smtp as lvs.example.com port 2525 [8.3s 6s 1/3 rip]
TCP 198.51.100.25:587 wlc remove
  198.51.100.31 w1: tcp [8s 4s 1/2 vip]
  198.51.100.32 w1: tcp [8s 16s 1/2 vip]`,
		"testdata/keepalived/dns.conf": `
UDP 203.0.113.53:53 rr ops remove
  203.0.113.61 w1: dns www.example.com A [5s 2s 1/4 vip]; icmp [2.3s 5s 1/3 rip]
  203.0.113.62 w1: dns www.example.com A [5s 2s 1/4 vip]; icmp [2.3s 5s 1/3 rip]
TCP 203.0.113.53:53 rr remove
  203.0.113.61 w1: dns . SOA [5s 5s 1/4 vip]
UDP 203.0.113.53:1812 sh remove
  203.0.113.61 w1: udp send ab120f0345065464431203 expect 0a0b [3s 5s 1/2 vip]
  203.0.113.62 w1: udp match ^ [3s 5s 1/2 vip]
  203.0.113.63 w1: udp send 00 match ^ [3s 5s 1/2 vip]
  203.0.113.64 w1: udp [3s 5s 1/2 vip]
SCTP 203.0.113.53:3868 wlc remove
  203.0.113.61 w1: icmp [30s 5s 1/2 rip]`,
		"testdata/keepalived/quorum.conf": `
TCP 10.8.0.10:80 wlc remove sorry 10.8.0.90 quorum 4/2 alpha
  10.8.0.21 w2: tcp [3s 5s 1/2 vip]
  10.8.0.22 w2: tcp [3s 5s 1/2 vip]
  10.8.0.23 w2: tcp [3s 5s 1/2 vip]
  10.8.0.24 w2: tcp [3s 5s 1/2 vip]
TCP 10.8.0.11:80 wlc remove quorum 2/1
  10.8.0.21 w3: tcp [30s 5s 1/2 vip]
  10.8.0.22 w5: tcp [30s 5s 1/2 vip]`,
		"testdata/keepalived/macros.conf": `
TCP 10.4.1.10:80 wlc remove
  10.4.1.21 w1: tcp [3s 2s 1/2 vip]
  10.4.1.22 w1: tcp [3s 2s 1/2 vip]
  10.4.1.23 w1: tcp [3s 2s 1/2 vip]
  10.4.1.30 w5: tcp [3s 2s 1/2 vip]
TCP 10.4.2.10:80 wlc remove
  10.4.2.41 w7: tcp [3s 2s 1/2 vip]
  10.4.2.42 w8: tcp [3s 2s 1/2 vip]
TCP [2001:db8::a]:80 wlc remove
  2001:db8::1e w1: icmp [30s 5s 1/2 rip]
  2001:db8::1f w1: icmp [30s 5s 1/2 rip]
  2001:db8::20 w1: icmp [30s 5s 1/2 rip]`,
		"testdata/keepalived/include.conf": `
TCP 10.5.0.10:80 wlc remove
  10.5.0.21 w3: tcp [1.5s 3s 1/2 vip]
TCP 10.5.0.10:443 wlc remove
  10.5.0.21 w3: tcp [1.5s 3s 1/2 vip]`,
		"testdata/keepalived/ipv6.conf": `
TCP [2001:db8::80]:443 sh flags 0x18 remove named web6
  2001:db8::21 w1 800..1000 named left: tcp [3s 5s 1/2 vip]
  2001:db8::22 w0 0..1000: tcp [3s 5s 1/2 vip]
UDP [2001:db8::80]:5060 mh flags 0x10 persist 360/40 remove
  2001:db8::21 w1: icmp [30s 5s 1/2 rip]`,
		"testdata/keepalived/weird.conf": `
TCP 10.7.0.10:80 wlc remove
  10.7.0.21 w2: tcp [4s 5s 1/2 vip]
  10.7.0.22 w1: tcp [4s 2s 1/2 vip]`,
		"testdata/keepalived/pair.conf": `
on lvs0, timeouts {7200 60 120}
TCP 10.3.0.10:80 wrr remove
  10.3.0.21 w1: tcp [2s 1s 1/2 vip]`,
		"testdata/ldirectord/web.cf": `
TCP 172.16.16.172:80 wlc persist 600/ffffffff quiesce sorry 127.0.0.1 alpha
  172.16.16.177 w1: http /healthz host www.example.com status 200-299 match ^ok [5s 3s 1/1 vip]
  172.16.16.178 w2: http /healthz host www.example.com status 200-299 match ^ok [5s 3s 1/1 vip]`,
		"testdata/ldirectord/types.cf": `
TCP 10.2.0.10:8001 wrr remove alpha
  10.2.0.21 w1: tcp [2s 4s 1/3 vip]
TCP 10.2.0.10:8002 wrr remove alpha
  10.2.0.21 w1: icmp [2.5s 4s 1/12 rip]
TCP 10.2.0.10:8003 wrr remove alpha
  10.2.0.21 w1: script [/usr/local/bin/alive 10.2.0.10 8003 10.2.0.21 8003] as root [10s 4s 1/3 vip]
  10.2.0.22 w1: script [/usr/local/bin/alive 10.2.0.10 8003 10.2.0.22 8003] as root [10s 4s 1/3 vip]
TCP 10.2.0.10:8004 wrr remove alpha
  10.2.0.21 w1: script [/usr/local/bin/alive.pl 10.2.0.10 8004 10.2.0.21 8004] as root [10s 4s 1/3 vip]
TCP 10.2.0.10:8005 wrr remove
  10.2.0.21 w0:
TCP 10.2.0.10:8006 wrr remove
  10.2.0.21 w3:
TCP 10.2.0.10:80 wrr remove alpha
  10.2.0.21 w1: tcp [10s 4s 1/3 vip]; http / status 200-299 [40s 8s 1/3 vip]
TCP 10.2.0.10:8007 wrr remove
  10.2.0.21 w1:
UDP 10.2.0.10:514 wrr ops remove alpha
  10.2.0.21 w1: icmp [10s 4s 1/3 rip]`,
		"testdata/ldirectord/ipv6.cf": `
TCP [2001:db8::80]:80 wrr persist 300/40 remove sorry ::1 alpha
  2001:db8::21 w1: tcp [10s 5s 1/1 vip]
  2001:db8::22 w0: tcp [10s 5s 1/1 vip]
TCP [2001:db8::80]:443 wrr remove sorry 2001:db8::90 alpha
  2001:db8::21 w1: tcp [10s 5s 1/1 vip]`,
		"testdata/ipvsadm/site.save": `
TCP 172.16.16.172:80 wlc persist 360/ffffffff quiesce
  172.16.16.177 w1:
  172.16.16.178 w2:
TCP 172.16.16.172:443 sh flags 0x18 quiesce
  172.16.16.177 w1 800..1000:
UDP 172.16.16.172:53 rr ops quiesce
  172.16.16.179 w0:
TCP 172.16.16.173:80 wrr persist 600/ffffff00 quiesce
  172.16.16.177 w1:
  172.16.16.178 w1:
TCP [2001:db8::80]:80 mh persist 300/40 quiesce
  2001:db8::21 w1:
UDP 172.16.16.172:5060 rr persist 60/ffffffff quiesce
  127.0.0.1 w1:`,
		"testdata/ipvsadm/shunt.save": `
timeouts {7200 60 120}
FWM 7 rr persist 60/ffffffff quiesce marked [7 TCP 172.16.16.172:21 7 TCP 172.16.16.172:30000-30100]
  172.16.16.177 w1:
FWM 8 IPv6 rr quiesce marked [8 UDP [2001:db8::172]:53]
  2001:db8::177 w1:
TCP 172.16.16.172:80 wlc persist 60/ffffffff quiesce denied [192.0.2.0/24 198.51.100.7/32] with stray drop conn-reuse-mode 1 expire-nodest-conn 0 expire-quiescent-template 0 secure-tcp 1 source-limit 20:40
  172.16.16.177 w1:
  172.16.16.178 w5:`,
	} {
		kind := Keepalived
		if strings.Contains(path, "ldirectord") {
			kind = Ldirectord
		} else if strings.Contains(path, "ipvsadm") {
			kind = IpvsadmSave
		}
		c, err := Parse(path, importFile(t, kind, path))
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(meaning(c))); diff != "" {
			t.Errorf("%s means something else (-want +got):\n%s", path, diff)
		}
	}
}

// meaning is a site in short.
func meaning(c *Config) string {
	var b strings.Builder
	if d := c.Director; d != nil {
		var of []string
		if len(d.Interfaces) > 0 {
			of = append(of, "on "+strings.Join(d.Interfaces, " "))
		}
		if d.Timeouts != lvs.DefaultTimeouts() {
			of = append(of, fmt.Sprint("timeouts ", d.Timeouts))
		}
		if of != nil {
			fmt.Fprintln(&b, strings.Join(of, ", "))
		}
	}
	for _, s := range c.Services {
		v := s.Service
		fmt.Fprintf(&b, "%v %s", v.ServiceID, v.Scheduler)
		if f := v.Flags &^ (lvs.FlagPersistent | lvs.FlagOnePacket); f != 0 {
			fmt.Fprintf(&b, " flags %#x", uint32(f))
		}
		if v.Flags&lvs.FlagOnePacket != 0 {
			b.WriteString(" ops")
		}
		if v.Persistent() {
			fmt.Fprintf(&b, " persist %d/%x", v.Timeout, v.Netmask)
		}
		b.WriteString(map[bool]string{true: " remove", false: " quiesce"}[s.Care.Remove])
		if s.Sorry != nil {
			fmt.Fprintf(&b, " sorry %v", s.Sorry.Addr)
		}
		if s.Care.QuorumUp != 1 || s.Care.QuorumDown != 1 {
			fmt.Fprintf(&b, " quorum %d/%d", s.Care.QuorumUp, s.Care.QuorumDown)
		}
		if s.Care.Alpha {
			b.WriteString(" alpha")
		}
		if s.Name != defaultName(v.ServiceID) {
			b.WriteString(" named " + s.Name)
		}
		if len(s.Marks) > 0 {
			fmt.Fprintf(&b, " marked %v", s.Marks)
		}
		if len(s.Deny) > 0 {
			fmt.Fprintf(&b, " denied %v", s.Deny)
		}
		if text := v.Policy.String(); text != "" {
			b.WriteString(" with " + text)
		}
		b.WriteByte('\n')
		for _, r := range s.Servers {
			fmt.Fprintf(&b, "  %v w%d", r.Server.Addr, r.Server.Weight)
			if r.Server.Upper != 0 {
				fmt.Fprintf(&b, " %d..%d", r.Server.Lower, r.Server.Upper)
			}
			if r.Name != "" {
				b.WriteString(" named " + r.Name)
			}
			var checks []string
			for _, c := range r.Checks {
				checks = append(checks, checkMeaning(c))
			}
			b.WriteString(strings.TrimRight(": "+strings.Join(checks, "; "), " ") + "\n")
		}
	}
	return b.String()
}

func checkMeaning(c health.Check) string {
	words := []string{string(c.Kind)}
	add := func(word, value string) {
		if value != "" {
			words = append(words, strings.TrimSpace(word+" "+value))
		}
	}
	add("", c.HTTP.Path)
	add("host", c.HTTP.Host)
	add("sni", c.TLS.ServerName)
	add("cert", c.TLS.CertFile)
	if len(c.HTTP.Status) > 0 {
		words = append(words, "status")
	}
	for _, s := range c.HTTP.Status {
		add("", fmt.Sprintf("%d-%d", s.First, s.Last))
	}
	add("match", c.HTTP.Pattern)
	add("digest", c.HTTP.Digest)
	if c.Talk.Send != "" {
		add("send", fmt.Sprintf("%x", c.Talk.Send))
	}
	if c.Talk.Expect != "" {
		add("expect", fmt.Sprintf("%x", c.Talk.Expect))
	}
	add("match", c.Talk.Pattern)
	add("", c.DNS.Name)
	add("", c.DNS.Type)
	add("as", c.SMTP.Hello)
	if len(c.Script.Command) > 0 {
		add("", fmt.Sprint(c.Script.Command))
	}
	add("as", c.Script.User)
	if c.Port != 0 {
		add("port", fmt.Sprint(c.Port))
	}
	target := map[bool]string{true: "rip", false: "vip"}[c.ToRIP]
	return strings.Join(words, " ") + fmt.Sprintf(" [%v %v %d/%d %s]", c.Interval, c.Timeout, c.Rise, c.Fall, target)
}
