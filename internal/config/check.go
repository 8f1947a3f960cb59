// SPDX-License-Identifier: MIT

package config

import (
	"encoding/hex"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// What a check has if nobody says otherwise.
const (
	defaultInterval = 2 * second
	defaultTimeout  = 1 * second
	defaultRise     = 2
	defaultFall     = 3
	defaultJitter   = 0.1
)

// namedCheck checks what can be told of a check without a service.
func (r *resolver) namedCheck(c *namedItem[checkKeys]) {
	if slices.Contains(health.Kinds(), health.Kind(c.Name.V)) && c.Value.Type.given() && c.Value.Type.V != c.Name.V {
		r.add(c.Name.node, "", "check %s is of kind %s: %s is itself the name of a kind, so give it another name", c.Name.V, c.Value.Type.V, c.Name.V)
	}
	if c.Value.Type.given() {
		r.kind(&c.Value)
	}
}

// unusedDefaults checks what is said in defaults even if no service has it.
func (r *resolver) unusedDefaults(k *careKeys) {
	for i := range k.Checks.Items {
		if u := &k.Checks.Items[i]; u.ref != "" {
			r.used(u)
		} else if u.Type.given() {
			r.kind(&u.checkKeys)
		}
	}
	r.flap(k.Flap)
	r.passive(k.Passive)
	if k.Agent != nil {
		r.weigh(k.Agent)
	}
	r.quorum(k.Quorum, -1, "")
}

// used is the check that an element of a list of checks means, and what it is
// called; nil if there is none.
func (r *resolver) used(u *checkUse) (*checkKeys, string) {
	if u.ref == "" {
		if !u.Type.given() {
			return nil, "" // which was said when it was read
		}
		return &u.checkKeys, u.Name.V
	}
	var names []string
	for i := range r.file.Checks.Items {
		c := &r.file.Checks.Items[i]
		if c.Name.V == u.ref {
			if !c.Value.Type.given() {
				return nil, ""
			}
			name := c.Value.Name.V
			if name == "" {
				name = u.ref
			}
			return &c.Value, name
		}
		names = append(names, c.Name.V)
	}
	kinds := stringsOf(health.Kinds())
	if slices.Contains(kinds, u.ref) {
		return &checkKeys{place: u.place, Type: word{place: u.place, V: u.ref}}, ""
	}
	near := nearest(u.ref, slices.Concat(names, kinds))
	if near == "" && len(names) > 0 {
		r.add(u.node, "", "unknown check %s: under checks there are %s", u.ref, strings.Join(names, ", "))
	} else {
		r.add(u.node, near, "unknown check %s", u.ref)
	}
	return nil, ""
}

// check makes one check of a server of a service. inherited is what counts where
// the check does not say otherwise. A check of defaults (own is false) is left out
// where there is no port to ask; what a service says itself has to have one.
func (r *resolver) check(u *checkUse, own bool, s *Service, inherited timing) (health.Check, bool) {
	k, name := r.used(u)
	if k == nil {
		return health.Check{}, false
	}
	c := r.kind(k)
	c.Name = name
	r.timing(&c, k, inherited, &s.Service, own && u.ref == "")
	if c.Kind == health.DNS && !k.TCP.given() {
		c.DNS.TCP = s.Service.Protocol == lvs.TCP
	}
	if c.Port != 0 || s.Service.Port != 0 || slices.Contains([]health.Kind{health.ICMP, health.File}, c.Kind) {
		return c, true
	}
	for _, m := range s.Marks {
		if c.Port == 0 {
			c.Port = m.First
		}
	}
	if c.Port == 0 && c.Kind != health.Script {
		if own {
			r.add(u.at(k.node), "", "a check of kind %s needs a port here: the service has none of its own", c.Kind)
		}
		return c, false
	}
	return c, true
}

func (r *resolver) timing(c *health.Check, k *checkKeys, inherited timing, s *lvs.VirtualService, strict bool) {
	t := k.timing.inherit(inherited)
	c.Interval = t.Interval.or(max(defaultInterval, t.Timeout.or(0)))
	c.Timeout = t.Timeout.or(min(defaultTimeout, c.Interval))
	c.Rise, c.Fall = int(t.Rise.or(defaultRise)), int(t.Fall.or(defaultFall))
	c.Jitter = t.Jitter.or(defaultJitter)
	c.Port = uint16(k.Port.V)
	c.ToRIP = t.Target.V == "rip"
	if longest := c.Interval * time.Duration(c.Fall); c.Timeout > longest {
		r.add(first(t.Timeout, t.Interval).at(k.node), "", "timeout %v is longer than interval %v × fall %d = %v, in which a failure is to be found", c.Timeout, c.Interval, c.Fall, longest)
	}
	if s.Mark != 0 && !c.ToRIP {
		// Which VIP would be asked? What is said for many services is not meant
		// for these.
		if strict && k.Target.given() {
			r.add(k.Target.node, "", "the checks of a service by mark go to the RIP: it may have many VIPs")
		}
		c.ToRIP = true
	}
}

// kind reads what is of one kind only, and what can be told without a service.
func (r *resolver) kind(k *checkKeys) health.Check {
	before := len(r.list)
	c := r.parts(k)
	if err := c.Validate(); err != nil && len(r.list) == before {
		r.add(k.node, "", "a check of kind %s cannot be asked so: %v", c.Kind, err)
	}
	return c
}

// parts are those of the kind.
func (r *resolver) parts(k *checkKeys) health.Check {
	c := health.Check{Kind: health.Kind(k.Type.V)}
	tls := health.TLSCheck{ServerName: k.ServerName.V, Verify: k.Verify.V, CAFile: k.CAFile.V, CertFile: k.CertFile.V,
		KeyFile: k.KeyFile.V, ValidFor: k.ValidFor.V, ALPN: values(k.ALPN)}
	switch c.Kind {
	case health.HTTP, health.HTTPS, health.HTTP2:
		c.HTTP = health.HTTPCheck{Method: k.Method.V, Path: k.Path.V, Host: k.Host.V, Headers: headers(k.Headers), Body: k.Body.V,
			Plain: k.Plain.V, Status: k.Status.V, Expect: k.Contains.V, Pattern: k.Regex.V, Digest: strings.ToLower(k.Digest.V),
			Answer: headers(k.Answer), MaxBody: k.MaxBody.V}
	case health.GRPC:
		c.GRPC = health.GRPCCheck{Service: k.Service.V, Plain: k.Plain.V}
	case health.TCP, health.TLS, health.UDP:
		c.Talk = health.TalkCheck{Send: r.bytes(k.Send, k.SendHex, "send"), Expect: r.bytes(k.Contains, k.ContainsHex, "contains"), Pattern: k.Regex.V}
	case health.DNS:
		c.DNS = health.DNSCheck{Name: k.Query.V, Type: k.Record.V, TCP: k.TCP.V, Answer: values(k.Records)}
		for _, w := range k.RCode.Items {
			if w.given() {
				c.DNS.RCode = append(c.DNS.RCode, w.V)
			}
		}
	case health.SMTP:
		c.SMTP = health.SMTPCheck{Hello: k.Hello.V, StartTLS: k.StartTLS.V}
	case health.MySQL, health.PostgreSQL:
		c.SQL = health.SQLCheck{User: k.User.V, Database: k.Database.V}
	case health.Redis:
		c.Redis = health.RedisCheck{PasswordFile: k.PasswordFile.V, Role: k.Role.V}
	case health.Script:
		c.Script = health.ScriptCheck{Command: r.command(k.Command, true, "a check of kind script", k.node), User: k.User.V, MaxOutput: int(k.MaxOutput.V)}
	case health.File:
		c.File = health.FileCheck{Path: k.Path.V, Missing: k.Missing.V, MaxAge: k.MaxAge.V}
		if k.Path.given() && !filepath.IsAbs(k.Path.V) || !k.Path.given() {
			r.add(k.Path.at(k.node), "", "a check of kind file needs path, the file's")
		}
	}
	switch {
	case !slices.Contains([]health.Kind{health.TLS, health.HTTPS, health.HTTP2, health.GRPC, health.SMTP}, c.Kind):
		return c
	case k.Plain.V:
		r.withoutTLS(k, "plain: true")
	case c.Kind == health.SMTP && !k.StartTLS.V:
		r.withoutTLS(k, "no starttls: true")
	default:
		r.tls(k)
		c.TLS = tls
	}
	return c
}

// tls finds what has no effect.
func (r *resolver) tls(k *checkKeys) {
	if k.CAFile.given() && !k.Verify.V {
		r.add(k.CAFile.node, "", "ca_file counts with verify: true only")
	}
	if k.CertFile.given() != k.KeyFile.given() {
		r.add(first(k.CertFile, k.KeyFile).node, "", "cert_file and key_file belong together")
	}
}

func (r *resolver) withoutTLS(k *checkKeys, why string) {
	for _, v := range []struct {
		key string
		at  place
	}{{"server_name", k.ServerName.place}, {"verify", k.Verify.place}, {"ca_file", k.CAFile.place}, {"cert_file", k.CertFile.place},
		{"key_file", k.KeyFile.place}, {"valid_for", k.ValidFor.place}} {
		if v.at.given() {
			r.add(v.at.node, "", "%s is about TLS, and there is none here (%s)", v.key, why)
		}
	}
}

// bytes are those of a text, or of its hexadecimal form.
func (r *resolver) bytes(plain, inHex text, key string) string {
	if !inHex.given() {
		return plain.V
	}
	if plain.given() {
		r.add(inHex.node, "", "%s and %[1]s_hex say the same: one of them is enough", key)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(inHex.V), ""))
	if err != nil {
		r.add(inHex.node, "", "%s_hex takes bytes in hexadecimal, two digits each", key)
	}
	return string(b)
}

func headers(l named[value]) []health.Header {
	var all []health.Header
	for _, h := range l.Items {
		all = append(all, health.Header{Name: h.Name.V, Value: h.Value.V})
	}
	return all
}

// defaultChecks are those of a service for which nobody says any: that something
// takes its connections. Whatever else would be a guess.
func (r *resolver) defaultChecks(s *lvs.VirtualService, inherited timing) []health.Check {
	if s.Port == 0 || s.Protocol != lvs.TCP && s.Protocol != lvs.UDP {
		return nil
	}
	c := health.Check{Kind: health.TCP}
	if s.Protocol == lvs.UDP {
		c.Kind = health.UDP
	}
	r.timing(&c, &checkKeys{}, inherited, s, false)
	return []health.Check{c}
}
