// SPDX-License-Identifier: MIT

package config

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// How values are written in the file, for sentences and for Edit.

func yes(b bool) string { return strconv.FormatBool(b) }

// shortDuration is a duration without units that are zero: "6m", "1m30s", "500ms".
func shortDuration(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	s := ""
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if n := d / u.unit; n > 0 {
			s += fmt.Sprintf("%d%s", n, u.name)
			d -= n * u.unit
		}
	}
	if d > 0 { // less than a millisecond
		s += d.String()
	}
	return s
}

func seconds(n uint32) string { return shortDuration(time.Duration(n) * time.Second) }

func flagNames(s *lvs.VirtualService) string {
	return strings.ReplaceAll(ipvsadm.SchedulerFlagNames(s.Scheduler, s.Flags), ",", ", ")
}

// persistence is "6m", or "6m, mask 24".
func persistence(s *lvs.VirtualService) string {
	if !s.Persistent() {
		return ""
	}
	text := seconds(s.Timeout)
	if m := maskText(s); m != "" {
		text += ", mask " + m
	}
	return text
}

// maskText is the mask of a persistent service; nothing if it is the default.
func maskText(s *lvs.VirtualService) string {
	switch {
	case s.Is6() && s.Netmask == 128 || !s.Is6() && s.Netmask == 1<<32-1:
		return ""
	case s.Is6():
		return strconv.Itoa(int(s.Netmask))
	case s.Netmask != 0 && bits.LeadingZeros32(^s.Netmask)+bits.TrailingZeros32(s.Netmask) == 32:
		return strconv.Itoa(bits.LeadingZeros32(^s.Netmask))
	}
	n := s.Netmask
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}).String()
}

// policySettings are all keys of policy.
func policySettings(p lvs.Policy) []lvs.Setting {
	return []lvs.Setting{
		{Name: "stray", Value: p.Stray.String()},
		{Name: "conn_reuse_mode", Value: strconv.Itoa(int(p.ConnReuse.Mode()))},
		{Name: "expire_nodest_conn", Value: yes(!p.KeepNodest)},
		{Name: "expire_quiescent_template", Value: yes(!p.KeepTemplate)},
		{Name: "secure_tcp", Value: yes(p.SecureTCP)},
	}
}

func limit(l lvs.SourceLimit) string {
	if l == (lvs.SourceLimit{}) {
		return ""
	}
	return l.String()
}

func texts[T fmt.Stringer](all []T) []string {
	var out []string
	for _, v := range all {
		out = append(out, v.String())
	}
	return out
}

// ruleText is a mark rule as match has it.
func ruleText(m lvs.MarkRule) string {
	text := strings.ToLower(m.Protocol.String()) + " "
	if m.First == 0 {
		return text + m.Addr.String()
	}
	text += netip.AddrPortFrom(m.Addr, m.First).String()
	if m.Last != m.First {
		text += fmt.Sprintf("-%d", m.Last)
	}
	return text
}

func ruleTexts(all []lvs.MarkRule) []string {
	var out []string
	for _, m := range all {
		out = append(out, ruleText(m))
	}
	return out
}

func percent(f float64) string { return strconv.FormatFloat(f*100, 'g', 6, 64) + "%" }

// checkName is what a check is called.
func checkName(c health.Check) string {
	if c.Name != "" {
		return c.Name
	}
	return string(c.Kind)
}

// checkSettings are the keys of a check, those that mean something, in words.
// Values of headers may be secrets, so they are counted only.
func checkSettings(c health.Check) []lvs.Setting {
	var all []lvs.Setting
	add := func(name, value string) { all = append(all, lvs.Setting{Name: name, Value: value}) }
	list := func(name string, values []string) { add(name, strings.Join(values, ", ")) }
	target := "vip"
	if c.ToRIP {
		target = "rip"
	}
	port := ""
	if c.Port != 0 {
		port = strconv.Itoa(int(c.Port))
	}
	add("type", string(c.Kind))
	add("target", target)
	add("port", port)
	add("interval", shortDuration(c.Interval))
	add("timeout", shortDuration(c.Timeout))
	add("rise", strconv.Itoa(c.Rise))
	add("fall", strconv.Itoa(c.Fall))
	add("jitter", percent(c.Jitter))
	h := c.HTTP
	add("method", h.Method)
	add("path", h.Path+c.File.Path)
	add("host", h.Host)
	list("headers", headerNames(h.Headers))
	add("body", quoted(h.Body))
	add("plain", yes(h.Plain || c.GRPC.Plain))
	var statuses []string
	for _, s := range h.Status {
		if s.First == s.Last {
			statuses = append(statuses, strconv.Itoa(s.First))
		} else {
			statuses = append(statuses, fmt.Sprintf("%d-%d", s.First, s.Last))
		}
	}
	list("status", statuses)
	add("contains", quoted(h.Expect+c.Talk.Expect))
	add("regex", quoted(h.Pattern+c.Talk.Pattern))
	add("digest", h.Digest)
	list("answer_headers", headerNames(h.Answer))
	add("max_body", strconv.FormatInt(h.MaxBody, 10))
	add("server_name", c.TLS.ServerName)
	add("verify", yes(c.TLS.Verify))
	add("ca_file", c.TLS.CAFile)
	add("cert_file", c.TLS.CertFile)
	add("key_file", c.TLS.KeyFile)
	add("valid_for", shortDuration(c.TLS.ValidFor))
	list("alpn", c.TLS.ALPN)
	add("service", c.GRPC.Service)
	add("send", quoted(c.Talk.Send))
	add("query", c.DNS.Name)
	add("record", c.DNS.Type)
	add("tcp", yes(c.DNS.TCP))
	list("rcode", c.DNS.RCode)
	list("answer", c.DNS.Answer)
	add("hello", c.SMTP.Hello)
	add("starttls", yes(c.SMTP.StartTLS))
	add("user", c.SQL.User+c.Script.User)
	add("database", c.SQL.Database)
	add("password_file", c.Redis.PasswordFile)
	add("role", c.Redis.Role)
	add("command", strings.Join(c.Script.Command, " "))
	add("max_output", strconv.Itoa(c.Script.MaxOutput))
	add("missing", c.File.Missing)
	add("max_age", shortDuration(c.File.MaxAge))
	return all
}

func quoted(s string) string {
	if s == "" {
		return ""
	}
	return strconv.Quote(s)
}

func headerNames(all []health.Header) []string {
	var names []string
	for _, h := range all {
		names = append(names, h.Name)
	}
	return slices.Clip(names)
}
