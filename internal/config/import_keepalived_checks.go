// SPDX-License-Identifier: MIT

package config

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// asked is what a checker has from its real server.
type asked struct {
	port  uint16 // 0: the service's
	pace  keepalivedPace
	host  string
	alpha bool
}

func isCheck(name string) bool {
	return strings.HasSuffix(name, "_CHECK") || name == "HTTP_GET" || name == "SSL_GET"
}

// checker is a checker under way.
type checker struct {
	*virtualServer
	server   *importedServer
	at       *statement
	asked    asked
	comments []importComment
	byPort   bool // it has a port of its own
	// What a checker has if nobody says otherwise.
	retry   int
	delay   time.Duration // before a retry; -1: as delay_loop
	checks  []*importedCheck
	sni     bool
	urls    []*statement
	hello   string
	query   string
	record  string
	payload *statement
	reply   *statement
	script  *statement
	user    *statement
	timeout time.Duration // of a script; 0: delay_loop
	byPing  bool
}

// check makes checks of a checker of a real server.
func (v *virtualServer) check(r *importedServer, s *statement, ask asked) error {
	c := &checker{virtualServer: v, server: r, at: s, asked: ask, retry: 1, delay: time.Second, hello: "", query: ".", record: "SOA"}
	switch s.name() {
	case "BFD_CHECK":
		r.comments = append(r.comments, dump(s, noBFD)...)
		return nil
	case "FILE_CHECK":
		r.comments = append(r.comments, dump(s, noTrack)...)
		return nil
	case "HTTP_GET", "SSL_GET":
		c.delay = 3 * time.Second
	case "DNS_CHECK":
		c.retry, c.delay = 3, -1
	case "MISC_CHECK":
		c.retry = 0
	case "TCP_CHECK", "SMTP_CHECK", "UDP_CHECK", "PING_CHECK":
	default:
		r.comments = append(r.comments, dump(s, v.serverReason(s))...)
		return nil
	}
	c.comments = oddities(s)
	if err := c.lines(s.inner); err != nil {
		return err
	}
	if err := c.make(); err != nil {
		return err
	}
	r.checks = append(r.checks, c.checks...)
	return nil
}

func (c *checker) comment(s *statement, format string, args ...any) {
	c.comments = append(c.comments, s.comment(format, args...))
}

// lines reads what is in a checker.
func (c *checker) lines(list []*statement) error {
	for _, s := range list {
		if s.skipped != "" {
			c.comment(s, "%s", s.skipped)
			continue
		}
		if handled, err := c.asked.pace.read(c.keepalivedFile, s); err != nil {
			return err
		} else if handled {
			continue
		}
		if err := c.line(s); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) line(s *statement) (err error) {
	kind := c.at.name()
	switch name := s.name(); {
	case name == "host" && s.block: // of older versions, in SMTP_CHECK
		return c.lines(s.inner)
	case name == "connect_port":
		port, err := c.number(s.importPlace, name, s.word(1), 1, 65535)
		c.asked.port, c.byPort = uint16(port), true
		return err
	case name == "connect_ip":
		if s.word(1) != c.server.addr {
			c.comment(s, "a check asks the server that it is about. Another one is asked by a script")
		}
	case name == "bindto", name == "bind_if", name == "bind_port", name == "fwmark":
		c.comment(s, "the host's routes say by which way and from which address a check goes")
	case name == "alpha":
		c.alphaAt = append(c.alphaAt, s)
		_, err = c.boolean(s)
	case name == "warmup", name == "log_all_failures":
		c.comment(s, "%s", map[string]string{"warmup": c.serverReason(s), "log_all_failures": topReason("checker_log")}[name])
	case (kind == "HTTP_GET" || kind == "SSL_GET") && c.httpLine(s):
	case kind == "SMTP_CHECK" && name == "helo_name":
		c.hello = s.word(1)
	case kind == "DNS_CHECK" && name == "type":
		c.record = strings.ToUpper(s.word(1))
		if records := []string{"A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA"}; !slices.Contains(records, c.record) {
			return c.fail(s.importPlace, s.word(1), nearest(s.word(1), records), "unknown type of record %q", s.word(1))
		}
	case kind == "DNS_CHECK" && name == "name":
		c.query = s.word(1)
	case kind == "UDP_CHECK" && name == "payload":
		c.payload = s
	case kind == "UDP_CHECK" && name == "require_reply":
		c.reply = s
	case kind == "UDP_CHECK" && (name == "min_reply_length" || name == "max_reply_length"):
		c.comment(s, "the length of an answer is not looked at; its content may be, by regex")
	case kind == "MISC_CHECK" && name == "misc_path":
		c.script = s
	case kind == "MISC_CHECK" && name == "misc_timeout":
		c.timeout, err = c.timer(s)
	case kind == "MISC_CHECK" && name == "user":
		c.user = s
		if s.word(2) != "" {
			c.comment(s, "the groups of a script are those of its user")
		}
	case kind == "MISC_CHECK" && name == "misc_dynamic":
		c.comment(s, "here every exit code but 0 is a failure, also 2 to 255, which were a weight. A server's weight can follow from its load: see agent")
	default:
		c.comments = append(c.comments, dump(s, c.serverReason(s))...)
	}
	return err
}

// make makes checks of what was read.
func (c *checker) make() error {
	check := &importedCheck{}
	switch c.at.name() {
	case "TCP_CHECK":
		check.set("type", "tcp")
	case "SMTP_CHECK":
		check.set("type", "smtp")
		c.name(check, "hello", c.hello, c.at)
	case "PING_CHECK":
		check.set("type", "icmp")
		c.byPing = true
	case "DNS_CHECK":
		check.set("type", "dns")
		c.name(check, "query", c.query, c.at)
		check.set("record", c.record)
		if c.id.Protocol != lvs.UDP {
			check.set("tcp", "false")
		}
	case "UDP_CHECK":
		check.set("type", "udp")
		c.udp(check)
	case "MISC_CHECK":
		if c.script == nil || c.script.word(1) == "" {
			return c.fail(c.at.importPlace, c.at.name(), "", "the MISC_CHECK has no misc_path")
		}
		check.set("type", "script")
		c.misc(check)
	default:
		if len(c.urls) == 0 {
			c.server.comments = append(c.server.comments, append(dump(c.at, "a check without a url: keepalived leaves it out, too"), c.comments...)...)
			return nil
		}
		for _, url := range c.urls {
			if err := c.url(url); err != nil {
				return err
			}
		}
		return c.complete()
	}
	c.checks = []*importedCheck{check}
	return c.complete()
}

// name sets a key whose value has no blanks.
func (c *checker) name(check *importedCheck, key, value string, s *statement) {
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) || len(value) > 128 {
		c.comment(s, "%s: %q is no name that can be sent", key, value)
		return
	}
	check.setText(key, value)
}

// complete adds port, target and pace, and the comments to the first check.
func (c *checker) complete() error {
	port, service := c.asked.port, c.id
	rip := c.byPing
	switch {
	case c.byPing || c.at.name() == "MISC_CHECK" && port == 0:
		port = 0
	case service.Mark != 0:
		rip = false // always
	case c.byPort && port != service.Port && service.Port != 0:
		rip = true
	case !c.byPort && service.Port != 0:
		port = 0 // where the server is reached by direct routing
	}
	if port == 0 && (service.Mark != 0 || service.Port == 0) && !c.byPing && c.at.name() != "MISC_CHECK" {
		c.server.comments = append(c.server.comments, append(dump(c.at, "the service has no port of its own, so the check needs one: there is none"), c.comments...)...)
		c.checks = nil
		return nil
	}
	pace, remarks := c.paces()
	if rip {
		pace = append(pace, yamlPair{"target", "rip"})
	}
	for n, check := range c.checks {
		if port != 0 && port != service.Port {
			check.set("port", strconv.Itoa(int(port)))
		}
		check.pace = pace
		if n == 0 {
			check.comments = append(append(slices.Clone(c.comments), check.comments...), remarks...)
		}
	}
	return nil
}

// udp translates what a UDP_CHECK sends and waits for.
func (c *checker) udp(check *importedCheck) {
	if c.payload == nil {
		c.comment(c.at, "keepalived sends random bytes, as there is no payload; shunt sends an empty datagram")
	} else if b, ok := hexBytes(c.payload.words[1:]); ok && b != "" {
		check.set("send_hex", yamlText(b))
	} else {
		c.comment(c.payload, "not in hexadecimal")
	}
	if c.reply == nil {
		return
	}
	switch b, ok := hexBytes(c.reply.words[1:]); {
	case ok && b != "":
		check.set("contains_hex", yamlText(b))
		c.comment(c.reply, "keepalived looks for it at the begin of the answer, shunt anywhere in it")
	case ok:
		check.set("regex", yamlText("^")) // an answer, whatever it says
	default:
		check.set("regex", yamlText("^"))
		c.comment(c.reply, "an answer has to come, but what it is is not looked at: half bytes (X) cannot be left open")
	}
}

// hexBytes reads words as keepalived does: two digits are a byte, and so is one
// that is left at the end of a word.
func hexBytes(words []keepalivedWord) (string, bool) {
	var out []string
	for _, w := range words {
		for digits := strings.Join(strings.Fields(w.text), " "); digits != ""; {
			digits = strings.TrimLeft(digits, " ")
			n := min(2, len(digits))
			if n == 2 && digits[1] == ' ' {
				n = 1
			}
			b := digits[:n]
			if n == 1 {
				b = "0" + b
			}
			if _, err := hex.DecodeString(b); err != nil {
				return "", false
			}
			out = append(out, strings.ToLower(b))
			digits = digits[n:]
		}
	}
	return strings.Join(out, " "), true
}

// misc translates a script.
func (c *checker) misc(check *importedCheck) {
	words := scriptWords(c.script.words[1:])
	if !strings.HasPrefix(words[0], "/") {
		c.comment(c.script, "a program is named by its absolute path: env finds this one")
		words = append([]string{"/usr/bin/env"}, words...)
	}
	check.set("command", yamlTexts(words))
	user := c.user
	if user == nil {
		if user = c.scriptUser; user != nil {
			c.used[user] = true
		}
	}
	switch {
	case user == nil:
		c.comment(c.script, "it names no user: keepalived_script is keepalived's if it exists, else root")
		check.set("user", "keepalived_script")
	default:
		c.name(check, "user", user.word(1), user)
	}
}

// scriptWords splits a command with its arguments, which may be one quoted word.
func scriptWords(words []keepalivedWord) []string {
	if len(words) != 1 {
		var texts []string
		for _, w := range words {
			texts = append(texts, w.text)
		}
		return texts
	}
	var texts []string
	for _, w := range keepalivedWords(words[0].text) {
		texts = append(texts, w.text)
	}
	if len(texts) == 0 {
		return []string{words[0].text}
	}
	return texts
}
