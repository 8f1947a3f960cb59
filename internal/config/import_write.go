// SPDX-License-Identifier: MIT

package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// importedService is a service as it will be written.
type importedService struct {
	at       importPlace
	before   []importComment // above it
	comments []importComment // within
	name     string
	id       lvs.ServiceID
	disabled bool // written as a comment: a mark without match

	scheduler   string
	flags       lvs.ServiceFlags
	persistence string // YAML
	onePacket   bool
	match       []string
	policy      []yamlPair
	sourceLimit string
	deny        []string
	servers     []*importedServer
	cared       bool // there are checks and what follows from them
	remove      bool
	sorry       string
	sorryAt     []importComment
	up, down    int // quorum; 0: none
	alpha       bool
}

// importedServer is a real server as it will be written.
type importedServer struct {
	at       importPlace
	comments []importComment
	addr     string
	port     uint16 // as it was; 0: none, or not looked at
	name     string
	weight   int
	upper    int
	lower    int
	checks   []*importedCheck
}

// importedCheck is a check as it will be written.
type importedCheck struct {
	comments []importComment
	settings []yamlPair // the kind and what belongs to it
	pace     []yamlPair // interval, timeout, rise, fall, target
}

// yamlPair is a key and its value as YAML.
type yamlPair struct{ key, value string }

func (c *importedCheck) set(key, value string) { c.settings = append(c.settings, yamlPair{key, value}) }

func (c *importedCheck) setText(key, value string) {
	if value != "" {
		c.set(key, yamlText(value))
	}
}

func (s *importedService) comment(c importComment) { s.comments = append(s.comments, c) }

// yamlWriter writes YAML by lines.
type yamlWriter struct {
	lines  []string
	indent string
}

func (o *yamlWriter) add(format string, args ...any) {
	o.lines = append(o.lines, strings.TrimRight(o.indent+fmt.Sprintf(format, args...), " "))
}

func (o *yamlWriter) within(by string, f func()) {
	before := o.indent
	o.indent += by
	f()
	o.indent = before
}

const importWidth = 110

// comment writes a comment: the line it is about first.
func (o *yamlWriter) comment(list ...importComment) {
	for _, c := range mergeComments(list) {
		if c.line != "" {
			o.add("# %s: %s", c.line, c.text)
			o.wrap("#   ", c.reason)
		} else {
			o.wrap("# ", c.reason)
		}
	}
}

func (o *yamlWriter) wrap(prefix, text string) {
	line := ""
	for _, word := range strings.Fields(importPrintable(text)) {
		if line != "" && len(o.indent)+len(prefix)+len(line)+len(word) >= importWidth {
			o.add("%s%s", prefix, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	if line != "" {
		o.add("%s%s", prefix, line)
	}
}

// mergedComment is a comment about one or more lines that say the same.
type mergedComment struct{ line, text, reason string }

func mergeComments(list []importComment) (out []mergedComment) {
	type key struct{ file, text, reason string }
	var keys []key
	lines := map[key][]int{}
	for _, c := range list {
		k := key{c.file, strings.TrimSpace(c.text), c.reason}
		if _, seen := lines[k]; !seen {
			keys = append(keys, k)
		}
		if !slices.Contains(lines[k], c.line) {
			lines[k] = append(lines[k], c.line)
		}
	}
	for _, k := range keys {
		m := mergedComment{text: importPrintable(k.text), reason: k.reason}
		if numbers := lines[k]; numbers[0] != 0 {
			slices.Sort(numbers)
			m.line = "line "
			if len(numbers) > 1 {
				m.line = "lines "
			}
			if k.file != "" {
				m.line = strings.ReplaceAll(importPrintable(k.file), " ", "_") + " " + m.line
			}
			for n, number := range numbers {
				if n > 0 {
					m.line += ", "
				}
				m.line += strconv.Itoa(number)
			}
		}
		out = append(out, m)
	}
	// What is said of one line twice is said below it.
	for n := len(out) - 1; n > 0; n-- {
		if out[n].line != "" && out[n].line == out[n-1].line && out[n].text == out[n-1].text {
			out[n-1].reason += ". Also: " + out[n].reason
			out = slices.Delete(out, n, n+1)
		}
	}
	// Reasons that repeat are written once, below the last of their lines.
	for n := range out[:max(0, len(out)-1)] {
		if out[n].line != "" && out[n+1].line != "" && out[n].reason == out[n+1].reason {
			out[n].reason = ""
		}
	}
	return out
}

// write writes the whole site.
func (i *importer) write() []byte {
	o := &yamlWriter{}
	o.wrap("# ", fmt.Sprintf("Imported from %s by 'shunt import %s'. A comment that begins with a line's number is about what has no equivalent, or one that is not quite the same.", i.file, i.kind))
	for _, n := range i.notes {
		o.add("#")
		o.wrap("# ", n)
	}
	if len(i.lost) > 0 {
		o.add("")
		o.comment(i.lost...)
	}
	o.add("")
	if len(i.interfaces) == 0 {
		o.add("# The file does not say by which interfaces packets to the VIPs come in:")
	}
	if len(i.interfaces) == 0 && len(i.timeouts) == 0 {
		o.add("#director:")
	} else {
		o.add("director:")
	}
	if len(i.interfaces) == 0 {
		o.add("#  interfaces: [eth0]")
	} else {
		o.add("  interfaces: [%s]", strings.Join(i.interfaces, ", "))
	}
	if len(i.timeouts) > 0 {
		o.add("  timeouts: {%s}", strings.Join(i.timeouts, ", "))
	}
	live := slices.ContainsFunc(i.services, func(s *importedService) bool { return !s.disabled })
	o.add("")
	switch {
	case live:
		o.add("services:")
	case len(i.services) > 0:
		o.add("# Without [], when what is below counts:")
		o.add("services: []")
	default:
		o.add("services: []")
	}
	for _, s := range i.services {
		i.service(o, s)
	}
	return []byte(strings.Join(o.lines, "\n") + "\n")
}

func (i *importer) service(o *yamlWriter, s *importedService) {
	o.within("  ", func() { o.comment(s.before...) })
	var body yamlWriter
	body.within("    ", func() { serviceBody(&body, s) })
	for n, line := range body.lines {
		if n == 0 {
			line = "  - " + strings.TrimPrefix(line, "    ")
		}
		if s.disabled && !strings.HasPrefix(strings.TrimSpace(line), "#") {
			line = "#" + line
		}
		o.lines = append(o.lines, line)
	}
}

func serviceBody(o *yamlWriter, s *importedService) {
	if s.name != "" {
		o.add("name: %s", yamlText(s.name))
	}
	if s.id.Mark != 0 {
		o.add("mark: %d", s.id.Mark)
		if s.id.Mark6 {
			o.add("family: ipv6")
		}
		match := strings.Join(s.match, ", ")
		if s.disabled {
			match = "tcp VIP:PORT"
		}
		o.add("match: [%s]", match)
	} else {
		o.add("address: %s", yamlText(netip.AddrPortFrom(s.id.Addr, s.id.Port).String()))
		o.add("protocol: %s", strings.ToLower(s.id.Protocol.String()))
	}
	o.comment(s.comments...)
	o.add("scheduler: %s", s.scheduler)
	if names := flagNames(&lvs.VirtualService{Scheduler: lvs.Scheduler(s.scheduler), Flags: s.flags}); names != "" {
		o.add("scheduler_flags: [%s]", names)
	}
	if s.persistence != "" {
		o.add("persistence: %s", s.persistence)
	}
	if s.onePacket {
		o.add("one_packet: true")
	}
	if len(s.policy) > 0 {
		o.add("policy: %s", yamlFlow(s.policy))
	}
	if s.sourceLimit != "" {
		o.add("source_limit: %s", yamlText(s.sourceLimit))
	}
	if len(s.deny) > 0 {
		o.add("deny: [%s]", strings.Join(s.deny, ", "))
	}
	if s.cared {
		careBody(o, s)
	}
	serversBody(o, s)
}

func careBody(o *yamlWriter, s *importedService) {
	if s.remove {
		o.add("on_failure: remove")
	} else {
		o.add("on_failure: quiesce")
	}
	o.comment(s.sorryAt...)
	if s.sorry != "" {
		o.add("sorry_server: %s", yamlText(s.sorry))
	}
	if s.up > 0 {
		o.add("quorum: {up: %d, down: %d}", s.up, s.down)
	}
	if s.alpha {
		o.add("alpha: true")
	}
}

// serversBody writes the servers, and the checks of all where they are the same.
func serversBody(o *yamlWriter, s *importedService) {
	shared := len(s.servers) > 0
	for _, r := range s.servers {
		shared = shared && slices.Equal(yamlChecks(r.checks, nil), yamlChecks(s.servers[0].checks, nil))
	}
	if shared {
		checks := make([]*importedCheck, len(s.servers[0].checks))
		for n := range checks {
			c := *s.servers[0].checks[n]
			for _, r := range s.servers[1:] {
				c.comments = append(slices.Clip(c.comments), r.checks[n].comments...)
			}
			checks[n] = &c
		}
		checksBody(o, checks)
	}
	if len(s.servers) == 0 {
		o.add("servers: []")
		return
	}
	o.add("servers:")
	o.within("  ", func() {
		for _, r := range s.servers {
			o.comment(r.comments...)
			serverBody(o, r, shared)
		}
	})
}

func serverBody(o *yamlWriter, r *importedServer, shared bool) {
	settings := []yamlPair{{"address", yamlText(r.addr)}}
	if r.name != "" {
		settings = append(settings, yamlPair{"name", yamlText(r.name)})
	}
	if r.weight != lvs.DefaultWeight {
		settings = append(settings, yamlPair{"weight", strconv.Itoa(r.weight)})
	}
	if r.upper != 0 {
		settings = append(settings, yamlPair{"upper", strconv.Itoa(r.upper)})
	}
	if r.lower != 0 {
		settings = append(settings, yamlPair{"lower", strconv.Itoa(r.lower)})
	}
	switch {
	case shared && len(settings) == 1:
		o.add("- %s", settings[0].value)
	case shared:
		o.add("- %s", yamlFlow(settings))
	default:
		for n, p := range settings {
			o.add("%s%s: %s", []string{"- ", "  "}[min(n, 1)], p.key, p.value)
		}
		o.within("  ", func() { checksBody(o, r.checks) })
	}
}

// checksBody writes checks, and what their pace has in common before them.
func checksBody(o *yamlWriter, checks []*importedCheck) {
	if len(checks) == 0 {
		o.add("checks: []")
		return
	}
	common := slices.Clone(checks[0].pace)
	for _, c := range checks[1:] {
		common = slices.DeleteFunc(common, func(p yamlPair) bool { return !slices.Contains(c.pace, p) })
	}
	if len(common) > 0 {
		o.add("check: %s", yamlFlow(common))
	}
	o.add("checks:")
	o.within("  ", func() {
		for n, text := range yamlChecks(checks, common) {
			o.comment(checks[n].comments...)
			checkBody(o, text, checks[n], common)
		}
	})
}

// checkBody writes a check in one line, or in several if it would be too long.
func checkBody(o *yamlWriter, text string, c *importedCheck, common []yamlPair) {
	if len(o.indent)+len("- ")+len(text) <= importWidth {
		o.add("- %s", text)
		return
	}
	for n, p := range ownSettings(c, common) {
		o.add("%s%s: %s", []string{"- ", "  "}[min(n, 1)], p.key, p.value)
	}
}

// yamlChecks are checks as YAML, without what they have in common.
func yamlChecks(checks []*importedCheck, common []yamlPair) []string {
	texts := make([]string, len(checks))
	for n, c := range checks {
		texts[n] = yamlFlow(ownSettings(c, common))
	}
	return texts
}

func ownSettings(c *importedCheck, common []yamlPair) []yamlPair {
	own := slices.DeleteFunc(slices.Clone(c.pace), func(p yamlPair) bool { return slices.Contains(common, p) })
	return append(slices.Clone(c.settings), own...)
}

func yamlFlow(pairs []yamlPair) string {
	texts := make([]string, len(pairs))
	for n, p := range pairs {
		texts[n] = p.key + ": " + p.value
	}
	return "{" + strings.Join(texts, ", ") + "}"
}

// yamlDuration is a time as YAML: "6s", "1m30s", "6m".
func yamlDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

var plainScalar = regexp.MustCompile(`^(/?[A-Za-z_][A-Za-z0-9_./-]*|/|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+(:[0-9]+)?)$`)

// yamlText is a text as YAML, in quotes where it needs them.
func yamlText(text string) string {
	if plainScalar.MatchString(text) && !slices.Contains([]string{"true", "false", "yes", "no", "on", "off", "null", "y", "n"}, strings.ToLower(text)) {
		return text
	}
	return strconv.Quote(strings.ToValidUTF8(text, "\ufffd"))
}

func yamlTexts(texts []string) string {
	out := make([]string, len(texts))
	for n, t := range texts {
		out[n] = yamlText(t)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// importPrintable is a text without what would end a comment or confuse a terminal.
func importPrintable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case !unicode.IsPrint(r) || r == '\ufeff':
			return '\ufffd'
		}
		return r
	}, strings.ToValidUTF8(text, "\ufffd"))
}
