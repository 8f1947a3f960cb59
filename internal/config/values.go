// SPDX-License-Identifier: MIT

package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
	"github.com/shunt-lvs/shunt/internal/realserver"
)

// place is where a value stands in the file; nowhere if it is not given.
type place struct{ node *node }

func (p place) given() bool  { return p.node != nil }
func (p *place) put(n *node) { p.node = n }

// at is the place, or else another one.
func (p place) at(n *node) *node {
	if p.node != nil {
		return p.node
	}
	return n
}

// placed is what every value of the file is, by the place in it.
type placed interface{ put(*node) }

// scalar is a value that is written as one word, number or text. read and schema
// say the same: what read takes is what the schema allows.
type scalar interface {
	placed
	read(n *node, tag reflect.StructTag) error
	schema(tag reflect.StructTag) schema
}

// misspelt is an error that knows what was probably meant.
type misspelt struct{ text, meant string }

func (e *misspelt) Error() string { return e.text }

func oneOf(what, word string, words []string) error {
	text := fmt.Sprintf("unknown %s %s", what, word)
	near := nearest(word, words)
	if near == "" {
		text += ": there are " + strings.Join(words, ", ")
	}
	return &misspelt{text, near}
}

// text is any text. Numbers and true are texts, too, where one is asked for.
// Tags: form (see forms), empty:"yes" if it may be.
type text struct {
	place
	V string
}

func (t *text) read(n *node, tag reflect.StructTag) error {
	if n.kind != scalarKind || n.scalar == nullType {
		return fmt.Errorf("takes a text, not %s", n.what())
	}
	form := tag.Get("form")
	switch {
	case n.text == "" && tag.Get("empty") == "":
		return errors.New("is empty")
	case form != "" && n.scalar != stringType && !forms[form].anyScalar:
		return fmt.Errorf("takes %s, not %s", forms[form].what, n.text)
	case form != "":
		f := forms[form]
		if !f.pattern.MatchString(n.text) {
			return fmt.Errorf("takes %s, not %q", f.what, n.text)
		}
		if f.check != nil {
			if err := f.check(n.text); err != nil {
				return err
			}
		}
	}
	t.V = n.text
	return nil
}

// form is what a text may look like.
type form struct {
	what      string
	pattern   *regexp.Regexp
	check     func(string) error // what the pattern cannot say
	anyScalar bool               // numbers are texts of this form, too
}

var patterns = struct{ any, name, path, device, url, vlan, listen, digest, line, hex, port *regexp.Regexp }{
	any:    regexp.MustCompile(``),
	port:   regexp.MustCompile(`^[0-9]+/([Tt][Cc][Pp]|[Uu][Dd][Pp]|[Ss][Cc][Tt][Pp])(:[0-9]+)?$`),
	name:   regexp.MustCompile(`^[!-~]{1,128}$`),
	path:   regexp.MustCompile(`^/`),
	device: regexp.MustCompile(`^[^/\s]{1,15}$`),
	url:    regexp.MustCompile(`^https?://[^\s/]+`),
	vlan:   regexp.MustCompile(`^[^/\s]{1,15}/[0-9]{1,4}$`),
	listen: regexp.MustCompile(`^.*:[0-9]{1,5}$`),
	digest: regexp.MustCompile(`^(sha256:[0-9A-Fa-f]{64}|md5:[0-9A-Fa-f]{32})$`),
	line:   regexp.MustCompile(`^[^\r\n]*$`),
	hex:    regexp.MustCompile(`^(\s*[0-9A-Fa-f]{2})+\s*$`),
}

var forms = map[string]form{
	"name":   {"a name without blanks", patterns.name, nil, true},
	"path":   {"an absolute path, which begins with /", patterns.path, nil, false},
	"device": {"the name of an interface, such as eth0", patterns.device, nil, false},
	"url":    {"a URL that begins with http:// or https://", patterns.url, nil, false},
	"vlan":   {"an interface and the number of a VLAN, such as eth0/100", patterns.vlan, checkVLAN, false},
	"listen": {"an address and a port, such as 172.16.16.177:9292", patterns.listen, checkListen, false},
	"digest": {"sha256: or md5: and the digest in hexadecimal", patterns.digest, nil, false},
	"line":   {"a text of one line", patterns.line, nil, true},
	"hex":    {"bytes in hexadecimal, such as \"0a ff\"", patterns.hex, nil, false},
	"regex":  {"a regular expression", patterns.any, checkRegex, true},
	"port":   {"a port to redirect, such as 80/tcp or 80/tcp:8080", patterns.port, checkPort, false},
}

func checkVLAN(s string) error {
	_, id, _ := strings.Cut(s, "/")
	if n, _ := strconv.Atoi(id); n < 1 || n > 4094 {
		return fmt.Errorf("VLAN %s: its number is from 1 to 4094", s)
	}
	return nil
}

func checkListen(s string) error {
	if a, err := netip.ParseAddrPort(s); err != nil || a.Port() == 0 {
		return fmt.Errorf("takes an address and a port, such as 172.16.16.177:9292 or \"[2001:db8::177]:9292\", not %q", s)
	}
	return nil
}

func checkRegex(s string) error {
	if _, err := regexp.Compile(s); err != nil {
		return fmt.Errorf("is no regular expression (RE2): %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	return nil
}

func checkPort(s string) error {
	_, err := realserver.ParsePort(s)
	return err
}

// word is one of a few. Tags: words (see vocabulary), and what it is called if not
// as its key.
type word struct {
	place
	V string
}

func (w *word) read(n *node, tag reflect.StructTag) error {
	words := vocabulary(tag.Get("words"))
	if n.kind != scalarKind || n.scalar != stringType {
		return fmt.Errorf("takes one of %s, not %s", strings.Join(words, ", "), n.what())
	}
	if !slices.Contains(words, n.text) {
		what := tag.Get("what")
		if what == "" {
			what = tag.Get("key")
		}
		return oneOf(what, n.text, words)
	}
	w.V = n.text
	return nil
}

// number is a whole one. Tags: min, max.
type number struct {
	place
	V int64
}

func limits(tag reflect.StructTag) (low, high int64) {
	low, high = 0, math.MaxInt32
	if s := tag.Get("min"); s != "" {
		low, _ = strconv.ParseInt(s, 10, 64)
	}
	if s := tag.Get("max"); s != "" {
		high, _ = strconv.ParseInt(s, 10, 64)
	}
	return low, high
}

var decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

func (v *number) read(n *node, tag reflect.StructTag) error {
	low, high := limits(tag)
	if n.kind != scalarKind || n.scalar != intType || !decimal.MatchString(n.text) {
		if n.kind == scalarKind && n.scalar != nullType {
			return fmt.Errorf("takes a whole number, without quotes, not %s", n.text)
		}
		return fmt.Errorf("takes a whole number, not %s", n.what())
	}
	i, err := strconv.ParseInt(n.text, 10, 64)
	if err != nil || i < low || i > high {
		return fmt.Errorf("is from %d to %d, not %s", low, high, n.text)
	}
	v.V = i
	return nil
}

// flag is true or false.
type flag struct {
	place
	V bool
}

func (f *flag) read(n *node, _ reflect.StructTag) error {
	if n.kind != scalarKind || n.scalar != boolType {
		switch strings.ToLower(n.text) {
		case "yes", "on", "1":
			return &misspelt{"takes true or false", "true"}
		case "no", "off", "0":
			return &misspelt{"takes true or false", "false"}
		}
		return fmt.Errorf("takes true or false, not %s", n.what())
	}
	f.V = strings.EqualFold(n.text, "true")
	return nil
}

// duration is a time: "1m30s", "14d", or a bare number of seconds. Tags: min, max,
// whole:"yes" if it is whole seconds.
type duration struct {
	place
	V time.Duration
}

var (
	durationForm = regexp.MustCompile(`^(([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+|[0-9]+(\.[0-9]+)?)$`)
	durationPart = regexp.MustCompile(`([0-9.]+)(ms|s|m|h|d)`)
)

const longestDuration = 100 * 365 * 24 * time.Hour

func parseDuration(s string) (time.Duration, bool) {
	if !durationForm.MatchString(s) {
		return 0, false
	}
	if strings.Trim(s, "0123456789.") == "" {
		s += "s"
	}
	var sum float64
	units := map[string]time.Duration{"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
	for _, part := range durationPart.FindAllStringSubmatch(s, -1) {
		f, err := strconv.ParseFloat(part[1], 64)
		if err != nil {
			return 0, false
		}
		sum += f * float64(units[part[2]])
	}
	if sum > float64(longestDuration) {
		return 0, false
	}
	return time.Duration(math.Round(sum)), true
}

func (d *duration) read(n *node, tag reflect.StructTag) error {
	if n.kind != scalarKind || n.scalar == nullType || n.scalar == boolType {
		return fmt.Errorf("takes a duration such as 2s, not %s", n.what())
	}
	v, ok := parseDuration(n.text)
	if !ok {
		return fmt.Errorf("takes a duration such as 500ms, 2s, 1m30s, 36h or 14d, or a number of seconds, not %s", n.text)
	}
	low, _ := parseDuration(tag.Get("min"))
	high, limited := parseDuration(tag.Get("max"))
	switch {
	case v < low:
		return fmt.Errorf("is at least %s, not %s", tag.Get("min"), n.text)
	case limited && v > high:
		return fmt.Errorf("is at most %s, not %s", tag.Get("max"), n.text)
	case tag.Get("whole") != "" && v%time.Second != 0:
		return fmt.Errorf("is a whole number of seconds, not %s", n.text)
	}
	d.V = v
	return nil
}

// share is a percentage: "10%". Tag: max, in percent.
type share struct {
	place
	V float64 // 1 is 100 %
}

var shareForm = regexp.MustCompile(`^([0-9]+(\.[0-9]+)?)%$`)

func (s *share) read(n *node, tag reflect.StructTag) error {
	m := shareForm.FindStringSubmatch(n.text)
	if n.kind != scalarKind || m == nil {
		return fmt.Errorf("takes a percentage such as 10%%, not %s", shown(n))
	}
	f, err := strconv.ParseFloat(m[1], 64)
	_, high := limits(tag)
	if err != nil || f > float64(high) {
		return fmt.Errorf("is at most %d%%, not %s", high, n.text)
	}
	s.V = f / 100
	return nil
}

func shown(n *node) string {
	if n.kind == scalarKind && n.scalar != nullType {
		return n.text
	}
	return n.what()
}

// address is an IPv4 or IPv6 address.
type address struct {
	place
	V netip.Addr
}

func (a *address) read(n *node, _ reflect.StructTag) error {
	v, err := parseAddr(n)
	a.V = v
	return err
}

func parseAddr(n *node) (netip.Addr, error) {
	v, err := netip.ParseAddr(n.text)
	switch {
	case n.kind != scalarKind || err != nil:
		return v, fmt.Errorf("takes an address such as 172.16.16.172 or 2001:db8::172 (no name, no prefix length), not %s", shown(n))
	case v.Zone() != "" || v.Is4In6():
		return v, fmt.Errorf("%s: an address has no zone, and no IPv4 address in an IPv6 one", n.text)
	case v.IsUnspecified() || v.IsMulticast():
		return v, fmt.Errorf("%s is no unicast address", n.text)
	}
	return v, nil
}

// endpoint is an address with a port, or, tag port:"optional", without. Port 0
// then counts as none.
type endpoint struct {
	place
	V       netip.AddrPort
	hasPort bool
}

func (e *endpoint) read(n *node, tag reflect.StructTag) error {
	optional := tag.Get("port") == "optional"
	if n.kind != scalarKind || n.scalar != stringType {
		return fmt.Errorf("takes an address such as 172.16.16.172:80, not %s", shown(n))
	}
	host, isAddr := netip.ParseAddr(n.text)
	if inner, bracketed := strings.CutPrefix(n.text, "["); bracketed && strings.HasSuffix(inner, "]") {
		host, isAddr = netip.ParseAddr(strings.TrimSuffix(inner, "]"))
	}
	if isAddr == nil {
		if !optional {
			return fmt.Errorf("%s has no port: write %v, or %v for every port", n.text, netip.AddrPortFrom(host, 80), netip.AddrPortFrom(host, 0))
		}
		bare := *n
		bare.text = host.String()
		a, err := parseAddr(&bare)
		e.V = netip.AddrPortFrom(a, 0)
		return err
	}
	ap, err := netip.ParseAddrPort(n.text)
	if err != nil {
		return fmt.Errorf("takes an address with a port such as 172.16.16.172:80 or \"[2001:db8::172]:80\" (numbers, no names), not %s", n.text)
	}
	bare := *n
	bare.text = ap.Addr().String()
	_, err = parseAddr(&bare)
	e.V, e.hasPort = ap, true
	return err
}

// prefix is a range of addresses: 192.0.2.0/24, or an address.
type prefix struct {
	place
	V netip.Prefix
}

func (p *prefix) read(n *node, _ reflect.StructTag) error {
	if a, err := netip.ParseAddr(n.text); err == nil && a.Zone() == "" && !a.Is4In6() {
		p.V = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	v, err := netip.ParsePrefix(n.text)
	if n.kind != scalarKind || err != nil || v.Addr().Is4In6() {
		return fmt.Errorf("takes a prefix such as 192.0.2.0/24, not %s", shown(n))
	}
	if v != v.Masked() {
		return &misspelt{fmt.Sprintf("%v has bits behind its length", v), v.Masked().String()}
	}
	p.V = v
	return nil
}

// match is what has a mark: "tcp 172.16.16.172:21", "tcp 172.16.16.172:30000-30100"
// or, every port, "udp 172.16.16.172".
type match struct {
	place
	V lvs.MarkRule // without mark
}

var matchForm = regexp.MustCompile(`^(tcp|udp|sctp) +(\S+)$`)

func (m *match) read(n *node, _ reflect.StructTag) error {
	bad := fmt.Errorf("takes a protocol, an address and ports, such as tcp 172.16.16.172:21 or tcp 172.16.16.172:30000-30100 (no port: every port), not %s", shown(n))
	parts := matchForm.FindStringSubmatch(n.text)
	if n.kind != scalarKind || parts == nil {
		return bad
	}
	m.V.Protocol, _ = protocolOf(parts[1])
	rest, last := parts[2], ""
	if i := strings.LastIndexByte(rest, '-'); i >= 0 {
		rest, last = rest[:i], rest[i+1:]
	}
	var first endpoint
	if err := first.read(&node{text: rest}, `port:"optional"`); err != nil {
		return bad
	}
	m.V.Addr, m.V.First, m.V.Last = first.V.Addr(), first.V.Port(), first.V.Port()
	if last == "" {
		return nil
	}
	p, err := strconv.ParseUint(last, 10, 16)
	if err != nil || m.V.First == 0 {
		return bad
	}
	if m.V.Last = uint16(p); m.V.Last < m.V.First {
		return fmt.Errorf("ports %d-%d: the first comes first", m.V.First, m.V.Last)
	}
	return nil
}

func protocols() map[string]lvs.Protocol {
	return map[string]lvs.Protocol{"tcp": lvs.TCP, "udp": lvs.UDP, "sctp": lvs.SCTP}
}

func protocolOf(s string) (lvs.Protocol, bool) { p, ok := protocols()[s]; return p, ok }

// rate is a source limit: "20:40" or 20; none where another is inherited.
type rate struct {
	place
	V lvs.SourceLimit
}

var rateForm = regexp.MustCompile(`^([0-9]+(:[0-9]+)?|none)$`)

func (r *rate) read(n *node, _ reflect.StructTag) error {
	if n.kind == scalarKind && n.text == "none" {
		return nil
	}
	if n.kind != scalarKind || !rateForm.MatchString(n.text) || r.V.UnmarshalText([]byte(n.text)) != nil {
		return fmt.Errorf("takes connections a second and at once, such as \"20:40\", each from 1 to %d, or none, not %s", lvs.MaxSourceLimit, shown(n))
	}
	return nil
}

// mask groups clients: 24, or for IPv4 also 255.255.255.0.
type mask struct {
	place
	bits   int // -1: dotted
	dotted netip.Addr
}

func (m *mask) read(n *node, _ reflect.StructTag) error {
	if n.kind == scalarKind && n.scalar == intType {
		bits, err := strconv.Atoi(n.text)
		if err != nil || bits < 1 || bits > 128 {
			return fmt.Errorf("a prefix length is from 1 to 32, or to 128 for IPv6, not %s", n.text)
		}
		m.bits = bits
		return nil
	}
	a, err := netip.ParseAddr(n.text)
	if n.kind != scalarKind || err != nil || !a.Is4() {
		return fmt.Errorf("takes a prefix length such as 24, or a mask such as 255.255.255.0, not %s", shown(n))
	}
	m.bits, m.dotted = -1, a
	return nil
}

// bounds are two percentages: "10%-200%".
type bounds struct {
	place
	Least, Most int
}

var boundsForm = regexp.MustCompile(`^([0-9]{1,5})%-([0-9]{1,5})%$`)

func (b *bounds) read(n *node, _ reflect.StructTag) error {
	m := boundsForm.FindStringSubmatch(n.text)
	if n.kind != scalarKind || m == nil {
		return fmt.Errorf("takes two percentages such as 10%%-200%%, not %s", shown(n))
	}
	b.Least, _ = strconv.Atoi(m[1])
	b.Most, _ = strconv.Atoi(m[2])
	if b.Least > b.Most || b.Most == 0 {
		return fmt.Errorf("%s: the lower bound comes first, and the upper one is above 0", n.text)
	}
	return nil
}

// statuses are HTTP statuses: 200, "200-299,404", or a list of such.
type statuses struct {
	place
	V []health.StatusRange
}

var statusForm = regexp.MustCompile(`^[1-5][0-9]{2}(-[1-5][0-9]{2})?( *, *[1-5][0-9]{2}(-[1-5][0-9]{2})?)*$`)

func (s *statuses) read(n *node, _ reflect.StructTag) error {
	all := []*node{n}
	if n.kind == listKind {
		all = n.items
	}
	for _, n := range all {
		if n.kind != scalarKind || n.scalar != stringType && n.scalar != intType || !statusForm.MatchString(n.text) {
			return fmt.Errorf("takes statuses such as 200, 200-299 or \"200-299,404\", not %s", shown(n))
		}
		for part := range strings.SplitSeq(n.text, ",") {
			first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
			if !isRange {
				last = first
			}
			r := health.StatusRange{}
			r.First, _ = strconv.Atoi(first)
			r.Last, _ = strconv.Atoi(last)
			if r.First > r.Last {
				return fmt.Errorf("%s: the first status comes first", part)
			}
			s.V = append(s.V, r)
		}
	}
	if len(s.V) == 0 {
		return errors.New("names no status")
	}
	return nil
}
