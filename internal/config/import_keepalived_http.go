// SPDX-License-Identifier: MIT

package config

import (
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
)

func (c *checker) httpLine(s *statement) bool {
	switch s.name() {
	case "url":
		c.urls = append(c.urls, s)
	case "virtualhost":
		c.asked.host = s.word(1)
	case "enable_sni":
		on, err := c.boolean(s)
		c.sni = on && err == nil
	case "http_protocol":
		if s.word(1) != "1.1" {
			c.comment(s, "shunt asks by HTTP/1.1, and closes the connection")
		}
	case "fast_recovery":
		c.comment(s, "every URL is a check of its own, so none waits for another")
	default:
		return false
	}
	return true
}

// url makes a check of one url.
func (c *checker) url(url *statement) error {
	check := &importedCheck{}
	c.checks = append(c.checks, check)
	comment := func(s *statement, format string, args ...any) {
		check.comments = append(check.comments, s.comment(format, args...))
	}
	kind := map[string]string{"HTTP_GET": "http", "SSL_GET": "https"}[c.at.name()]
	check.set("type", kind)
	check.comments = oddities(url)
	host, status := c.asked.host, "200-299"
	var path, regex, options, digest *statement
	for _, s := range url.inner {
		switch s.name() {
		case "":
			comment(s, "%s", s.skipped)
		case "path":
			path = s
		case "digest":
			digest = s
		case "virtualhost":
			host = s.word(1)
		case "status_code":
			var codes []string
			for _, w := range s.words[1:] {
				if !statusCodes.MatchString(w.text) {
					return c.fail(s.importPlace, w.text, "", "status_code takes statuses such as 200 or 200-299, not %q", w.text)
				}
				codes = append(codes, w.text)
			}
			if status = strings.Join(codes, ", "); len(codes) != 1 {
				status = "[" + status + "]"
			}
			if len(codes) == 0 {
				status = "200-299"
			}
		case "regex":
			regex = s
		case "regex_options":
			options = s
		case "regex_no_match", "regex_min_offset", "regex_max_offset", "regex_stack":
		default:
			check.comments = append(check.comments, dump(s, c.serverReason(s))...)
		}
	}
	if path == nil {
		c.checks = c.checks[:len(c.checks)-1]
		c.comments = append(c.comments, dump(url, "a url without a path: keepalived leaves it out, too")...)
		return nil
	}
	if p := path.word(1); strings.HasPrefix(p, "/") {
		check.set("path", yamlText(p))
	} else {
		comment(path, "a path begins with /, which is added")
		check.set("path", yamlText("/"+p))
	}
	if host != "" {
		c.name(check, "host", host, url)
		if kind == "https" && c.sni {
			c.name(check, "server_name", host, url)
		}
	} else {
		c.note("Where a check names no host, keepalived sends the server's address as Host, and shunt the VIP, as a client would who has no name for it.")
	}
	check.set("status", status)
	c.match(check, url, regex, options)
	if digest != nil {
		if b, err := hex.DecodeString(digest.word(1)); err != nil || len(b) != 16 {
			return c.fail(digest.importPlace, digest.word(1), "", "digest takes 32 hexadecimal digits, not %q", digest.word(1))
		}
		check.set("digest", yamlText("md5:"+strings.ToLower(digest.word(1))))
	}
	if kind == "https" {
		c.certificates(check)
	}
	return nil
}

var statusCodes = regexp.MustCompile(`^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$`)

// match translates a regular expression, of which keepalived's are PCRE2's.
func (c *checker) match(check *importedCheck, url, regex, options *statement) {
	comment := func(s *statement, format string, args ...any) {
		check.comments = append(check.comments, s.comment(format, args...))
	}
	no := url.find("regex_no_match")
	for _, name := range []string{"regex_min_offset", "regex_max_offset", "regex_stack"} {
		if s := url.find(name); s != nil {
			comment(s, "a regex is looked for in the whole body")
		}
	}
	if regex == nil || len(regex.words) < 2 { // as keepalived, which ignores the rest then
		for _, s := range []*statement{no, options} {
			if s != nil {
				comment(s, "there is no regex")
			}
		}
		return
	}
	pattern := regex.words[1].unescaped()
	flags := ""
	if options != nil {
		for _, w := range options.words[1:] {
			if f, ok := map[string]string{"caseless": "i", "multiline": "m", "dotall": "s", "ungreedy": "U"}[w.text]; ok {
				flags += f
			} else if w.text != "utf" && w.text != "never_utf" {
				comment(options, "regular expressions here are RE2's, which have no %s", w.text)
				comment(regex, "without that option it means something else, so the body is not looked at")
				return
			}
		}
	}
	if flags != "" {
		pattern = "(?" + flags + ")" + pattern
	}
	_, err := regexp.Compile(pattern)
	switch {
	case no != nil:
		comment(regex, "with regex_no_match")
		comment(no, "that a body does not match cannot be asked for: a script can")
	case err != nil:
		comment(regex, "regular expressions here are RE2's, to which it is none (%s): the body is not looked at", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	case pattern != "":
		check.set("regex", yamlText(pattern))
	}
}

// certificates takes what SSL_GET has from the SSL block.
func (c *checker) certificates(check *importedCheck) {
	c.note("keepalived looks at no certificate. An https check fails as soon as the certificate has expired; its chain and name are looked at with verify: true.")
	if c.ssl == nil {
		return
	}
	cert, key := c.ssl.find("certificate"), c.ssl.find("key")
	if cert != nil && key != nil && strings.HasPrefix(cert.word(1), "/") && strings.HasPrefix(key.word(1), "/") {
		check.set("cert_file", yamlText(cert.word(1)))
		check.set("key_file", yamlText(key.word(1)))
	}
	if c.used[c.ssl] {
		return
	}
	c.used[c.ssl] = true
	for _, s := range c.ssl.inner {
		switch {
		case s.skipped != "":
			check.comments = append(check.comments, s.comment("%s", s.skipped))
		case s.name() == "ca":
			check.comments = append(check.comments, s.comment("it counts with verify: true, as ca_file"))
		case (s == cert || s == key) && slices.ContainsFunc(check.settings, func(p yamlPair) bool { return p.key == "cert_file" }):
		case s == cert || s == key:
			check.comments = append(check.comments, s.comment("cert_file and key_file go together, and are absolute paths"))
		case s.name() == "password":
			s.text = "password …" // it has no business in another file
			check.comments = append(check.comments, s.comment("key_file is a key without a password"))
		default:
			check.comments = append(check.comments, dump(s, c.serverReason(s))...)
		}
	}
}
