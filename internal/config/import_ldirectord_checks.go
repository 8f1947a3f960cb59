// SPDX-License-Identifier: MIT

package config

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// ldServices are what ldirectord knows to negotiate with.
var ldServices = []string{"dns", "ftp", "http", "https", "http_proxy", "imap", "imaps", "ldap", "ldaps", "mysql", "nntp", "none", "oracle", "pgsql",
	"pop", "pops", "radius", "simpletcp", "sip", "smtp", "submission"}

// ldPorts are the ports by which it knows what a service is.
var ldPorts = map[int]string{21: "ftp", 25: "smtp", 53: "dns", 80: "http", 110: "pop", 119: "nntp", 143: "imap", 389: "ldap", 443: "https",
	587: "submission", 636: "ldaps", 993: "imaps", 995: "pops", 1521: "oracle", 1812: "radius", 3128: "http_proxy", 3306: "mysql", 5060: "sip", 5432: "pgsql"}

func ldServiceOf(port int) string {
	if name, known := ldPorts[port]; known {
		return name
	}
	return "none"
}

// ldPortOf is the port of a service, for real servers without; 0: there is none.
func ldPortOf(service string) int {
	for port, name := range ldPorts {
		if name == service {
			return port
		}
	}
	return 0
}

// checks makes the checks of a server.
func (v *ldVirtual) checks(s *importedServer, d *directive, port uint16, request string, receive *directive, own bool) {
	switch v.check {
	case "on", "off":
		return
	case "connect":
		v.connect(s, port)
	case "ping":
		v.ping(s)
	case "external", "external-perl":
		v.external(s, port)
	case "combined":
		if v.every > 0 {
			v.connect(s, port)
		}
		v.negotiate(s, d, port, request, receive, own, v.every+1)
	default:
		v.negotiate(s, d, port, request, receive, own, 1)
	}
}

// add completes a check and gives it to the server.
func (v *ldVirtual) add(s *importedServer, c *importedCheck, port uint16, interval time.Duration, timeout, fall int) {
	rip := false
	kind := c.settings[0].value
	switch {
	case kind == "icmp":
		rip = true
	case kind == "script":
	default:
		number := v.port
		v.used["checkport"] = true
		if number == 0 && (v.id.Mark != 0 || v.id.Port == 0) {
			if number = int(port); number == 0 {
				number = ldPortOf(v.service)
			}
		}
		if number == 0 && (v.id.Mark != 0 || v.id.Port == 0) {
			s.comments = append(s.comments, v.at.comment("the service has no port of its own, so a check needs one, and there is none (checkport)"))
			return
		}
		if number != 0 && number != int(v.id.Port) {
			c.set("port", strconv.Itoa(number))
			rip = v.id.Mark == 0 && v.id.Port != 0
		}
	}
	wait := time.Duration(timeout) * time.Second
	if longest := interval * time.Duration(fall); wait > longest {
		v.note("ldirectord waits up to %s for an answer, and meanwhile does not ask again. shunt waits no longer than the failures that take a server out (timeout, interval and fall).", yamlDuration(wait))
		wait = longest
	}
	c.pace = []yamlPair{{"interval", yamlDuration(interval)}, {"timeout", yamlDuration(wait)}, {"rise", "1"}, {"fall", strconv.Itoa(fall)}}
	if rip {
		c.pace = append(c.pace, yamlPair{"target", "rip"})
	}
	s.checks = append(s.checks, c)
}

func (v *ldVirtual) interval() time.Duration { return time.Duration(v.checkInterval) * time.Second }

func (v *ldVirtual) fall() int { return min(v.failureCount, 1000) }

func (v *ldVirtual) connect(s *importedServer, port uint16) {
	if v.id.Protocol == lvs.UDP {
		v.ping(s)
		return
	}
	c := &importedCheck{}
	c.set("type", "tcp")
	v.add(s, c, port, v.interval(), v.checkTimeout, v.fall())
}

// ping translates a check that asks checkcount times.
func (v *ldVirtual) ping(s *importedServer) {
	c := &importedCheck{}
	c.set("type", "icmp")
	v.used["checkcount"] = true
	count := min(v.checkCount, 1000/v.fall())
	interval := v.interval()
	if count > 1 {
		interval = max(interval/time.Duration(count), 10*time.Millisecond).Truncate(10 * time.Millisecond)
		c.comments = append(c.comments, importRemark("ldirectord asks every %s, %d times if there is no answer. shunt asks once each time, so as often.", yamlDuration(v.interval()), count))
	}
	v.add(s, c, 0, interval, v.checkTimeout, v.fall()*max(count, 1))
}

// external translates a script. It gets what ldirectord gives it.
func (v *ldVirtual) external(s *importedServer, port uint16) {
	c := &importedCheck{}
	c.set("type", "script")
	vip, vport := v.id.Addr.String(), int(v.id.Port)
	if v.id.Mark != 0 {
		vip, vport = strconv.Itoa(int(v.id.Mark)), 0
	}
	if port == 0 {
		port = v.id.Port
	}
	words := []string{v.command, vip, strconv.Itoa(vport), s.addr, strconv.Itoa(int(port))}
	if !strings.HasPrefix(v.command, "/") {
		words = append([]string{"/usr/bin/env"}, words...)
	}
	at := v.at
	if v.commandA != nil {
		at = v.commandA
	}
	v.used["checkcommand"] = true
	c.set("command", yamlTexts(words))
	c.set("user", "root")
	c.comments = append(c.comments, at.comment("ldirectord runs it as root, and so does this; another user is safer"))
	v.add(s, c, port, v.interval(), v.checkTimeout, v.fall())
}

// negotiate translates what is asked by the service's own protocol.
func (v *ldVirtual) negotiate(s *importedServer, d *directive, port uint16, request string, receive *directive, own bool, every int) {
	c := &importedCheck{}
	at := v.at
	if v.requests != nil {
		at = v.requests
	}
	if own {
		at = d
	}
	less := func(format string, args ...any) {
		v.used["request"] = true
		c.comments = append(c.comments, at.comment(format, args...))
	}
	talk := "tcp"
	if v.id.Protocol == lvs.UDP {
		talk = "udp"
	}
	switch v.service {
	case "none":
		return
	case "http", "https":
		c.set("type", v.service)
		v.http(c, at, request)
		v.match(c, receive)
	case "smtp", "submission":
		c.set("type", "smtp")
	case "dns":
		c.set("type", "dns")
		v.dns(c, at, request, receive)
	case "simpletcp":
		c.set("type", talk)
		v.used["request"] = true
		if text := strings.ReplaceAll(strings.TrimPrefix(request, "/"), `\n`, "\n"); text != "" {
			c.set("send", yamlText(text))
		}
		v.match(c, receive)
	case "mysql", "pgsql":
		kind := map[string]string{"mysql": "mysql", "pgsql": "postgres"}[v.service]
		c.set("type", kind)
		less("service %s: shunt looks at the greeting and sends no password, so it does not ask for rows", v.service)
		v.plain(c, "user", v.login)
		v.plain(c, "database", v.database)
	case "ftp":
		c.set("type", "tcp")
		c.set("regex", yamlText("^220"))
		less("service ftp: ldirectord logs in and fetches a file; shunt looks at the greeting")
	case "pop":
		c.set("type", "tcp")
		c.set("contains", yamlText("+OK"))
		less("service pop: ldirectord may log in; shunt looks at the greeting")
	case "imap":
		c.set("type", "tcp")
		c.set("contains", yamlText("* OK"))
		less("service imap: ldirectord may log in; shunt looks at the greeting")
	case "nntp":
		c.set("type", "tcp")
		c.set("regex", yamlText("^20[01]"))
		less("service nntp: shunt looks at the greeting")
	case "imaps", "pops", "ldaps":
		c.set("type", "tls")
		less("service %s: shunt shakes hands by TLS and does not log in", v.service)
	default: // oracle, radius, sip, ldap, http_proxy
		c.set("type", talk)
		if talk == "udp" {
			less("service %s: shunt does not speak it. An empty datagram is sent, which fails if the port is closed; a script can do more", v.service)
		} else {
			less("service %s: shunt does not speak it, and connects only; a script can do more", v.service)
		}
	}
	interval := v.interval() * time.Duration(every)
	v.add(s, c, port, min(interval, 24*time.Hour), v.negotiateTimeout, v.fall())
}

// plain sets a key whose value has no blanks.
func (v *ldVirtual) plain(c *importedCheck, key, value string) {
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) || len(value) > 128 {
		c.comments = append(c.comments, v.at.comment("%s: %q is no name that can be sent", key, value))
		return
	}
	c.setText(key, value)
}

var absoluteURL = regexp.MustCompile(`^/?(https?)://([^/]*)(/.*)?$`)

func (v *ldVirtual) http(c *importedCheck, at *directive, request string) {
	v.used["request"], v.used["virtualhost"], v.used["httpmethod"] = true, true, true
	host := v.host
	if m := absoluteURL.FindStringSubmatch(request); m != nil {
		c.comments = append(c.comments, at.comment("a check asks the server that it is about: the URL's host is its Host only"))
		if request = m[3]; host == "" {
			host = m[2]
		}
		request = "/" + strings.TrimPrefix(request, "/")
	}
	if v.method != "GET" {
		c.set("method", v.method)
	}
	c.set("path", yamlText(request))
	if v.plain(c, "host", host); host == "" {
		v.note("Where a check names no host, ldirectord sends the server's address as Host, and shunt the VIP, as a client would who has no name for it.")
	}
	c.set("status", "200-299")
	v.note("ldirectord follows redirections, shunt does not: if a page is one, ask for where it leads to, or say status: 200-399.")
	if v.service == "https" {
		v.note("ldirectord looks at no certificate's name. An https check fails as soon as the certificate has expired; its chain and name are looked at with verify: true.")
	}
}

// match translates a regular expression, of which ldirectord's are Perl's.
func (v *ldVirtual) match(c *importedCheck, receive *directive) {
	v.used["receive"] = true
	if receive == nil || receive.value == "" {
		return
	}
	if _, err := regexp.Compile(receive.value); err != nil {
		c.comments = append(c.comments, receive.comment("regular expressions here are RE2's, to which it is none (%s): the answer is not looked at", strings.TrimPrefix(err.Error(), "error parsing regexp: ")))
		return
	}
	c.set("regex", yamlText(receive.value))
}

// dns translates a question, and the answer that is waited for.
func (v *ldVirtual) dns(c *importedCheck, at *directive, request string, receive *directive) {
	v.used["request"], v.used["receive"] = true, true
	query, record := strings.TrimPrefix(request, "/"), "A"
	if a, err := netip.ParseAddr(query); err == nil {
		query, record = reverseName(a), "PTR"
	}
	if query == "" {
		query = "."
	}
	v.plain(c, "query", query)
	c.set("record", record)
	if receive == nil || receive.value == "" {
		c.comments = append(c.comments, at.comment("without receive no server was ever up in ldirectord: here any answer will do"))
		return
	}
	if text := strings.ReplaceAll(strings.Trim(receive.value, "^$"), `\.`, "."); record == "A" && addressList(text) {
		c.set("answer", yamlTexts(strings.Split(text, "|")))
		return
	}
	c.comments = append(c.comments, receive.comment("an answer is compared, not matched: list the addresses or names under answer. Here any answer will do"))
}

// addressList tells whether a regular expression is nothing but addresses.
func addressList(text string) bool {
	return !slices.ContainsFunc(strings.Split(text, "|"), func(s string) bool {
		_, err := netip.ParseAddr(s)
		return err != nil
	})
}

// reverseName is the name of an address in the DNS (RFC 1035, 3.5; RFC 3596, 2.5).
func reverseName(a netip.Addr) string {
	name := ""
	if a.Is4() {
		for _, b := range a.As4() {
			name = strconv.Itoa(int(b)) + "." + name
		}
		return name + "in-addr.arpa"
	}
	for _, b := range a.As16() {
		name = strconv.FormatInt(int64(b&15), 16) + "." + strconv.FormatInt(int64(b>>4), 16) + "." + name
	}
	return name + "ip6.arpa"
}
