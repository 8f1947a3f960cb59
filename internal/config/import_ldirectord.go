// SPDX-License-Identifier: MIT

package config

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// directive is a line "key = value" of an ldirectord.cf.
type directive struct {
	importPlace
	key, value string
}

// ldSettings are the directives that a virtual has of its own or by those for
// all. -1 is not given.
type ldSettings struct {
	checkTimeout, negotiateTimeout int
	checkInterval                  int
	checkCount, failureCount       int
	quiescent                      string
	fallback                       *directive
}

// ldVirtual is a virtual with its directives.
type ldVirtual struct {
	*importer
	*importedService
	ldSettings
	six      bool
	at       *directive
	lines    []*directive
	reals    []*directive
	request  string
	receive  *directive
	check    string // checktype
	every    int    // of checktype N
	service  string
	command  string
	port     int // checkport; 0: none
	method   string
	host     string
	login    string
	database string
	persist  int
	netmask  *directive
	requests *directive
	commandA *directive
}

var (
	ldVirtualLine = regexp.MustCompile(`^virtual(6)?\s*=\s*(.*)$`)
	ldDirective   = regexp.MustCompile(`^([a-z]+6?)\s*=\s*(.*?)\s*$`)
	ldQuoted      = regexp.MustCompile(`^"(.*)"`)
	ldNumber      = regexp.MustCompile(`[0-9]+`)
	ldReal        = regexp.MustCompile(`^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+?)(?:->(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+))?(?::([A-Za-z0-9_-]+))?\s+(gate|masq|ipip)(.*)$`)
	ldRequest     = regexp.MustCompile(`^\s+"(.*)"[, ]\s*"(.*)"(.*)$`)
	ldWeight      = regexp.MustCompile(`^\s+([0-9]+)(.*)$`)
	ldLimit       = regexp.MustCompile(`^\s+([lu]):([0-9]+)(.*)$`)
)

// ldFile is what counts for all virtuals.
type ldFile struct {
	*importer
	ldSettings
	fallback6 *directive
	fork      bool
}

// ldirectord imports an ldirectord.cf.
func (i *importer) ldirectord(text []byte) error {
	f := &ldFile{importer: i, ldSettings: ldSettings{checkTimeout: -1, negotiateTimeout: -1, checkInterval: 10, checkCount: 1, failureCount: 1, quiescent: ""}}
	var virtuals []*ldVirtual
	var current *ldVirtual
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		at := importPlace{line: number, text: strings.TrimRight(line, "\r\n")}
		bare := strings.TrimSpace(at.text)
		if strings.HasPrefix(bare, "#") {
			continue
		}
		indented := strings.HasPrefix(strings.ReplaceAll(at.text, "\t", "    "), "    ")
		switch m := ldVirtualLine.FindStringSubmatch(at.text); {
		case m != nil:
			current = &ldVirtual{importer: i, importedService: &importedService{at: at, cared: true, alpha: true, scheduler: string(lvs.WeightedRoundRobin)},
				six: m[1] != "", at: &directive{at, "virtual", strings.TrimSpace(m[2])},
				ldSettings: ldSettings{checkTimeout: -1, negotiateTimeout: -1, checkInterval: -1, checkCount: -1, failureCount: -1},
				check:      "negotiate", command: "/bin/true", method: "GET"}
			virtuals = append(virtuals, current)
		case indented && bare != "" && current != nil:
			bare, _, _ = strings.Cut(bare, "#") // in quotes, too
			if bare = strings.TrimSpace(bare); bare == "" {
				continue
			}
			m := ldDirective.FindStringSubmatch(bare)
			if m == nil {
				return i.fail(at, bare, "", "a line is KEY = VALUE")
			}
			current.lines = append(current.lines, &directive{at, m[1], m[2]})
		case bare == "":
			current = nil // an empty line ends a virtual
		case indented:
			return i.fail(at, bare, "", "it is of no virtual: an empty line ends one, and its lines are indented by 4 blanks or a tab")
		default:
			current = nil
			if err := f.global(at, bare); err != nil {
				return err
			}
		}
	}
	for _, v := range virtuals {
		if err := v.virtual(f); err != nil {
			return err
		}
	}
	if len(i.services) > 0 {
		i.note("ldirectord asks a server at its own address. These checks go through the VIP on that server (target: vip), so that it also fails when the VIP is missing there or the service does not listen on it. Where a check has a port of its own (checkport), or is a ping, it is asked at its own address, as before (target: rip).")
		i.note("ldirectord adds a server when its check has succeeded (alpha: true), and one success brings it back (rise: 1).")
		i.switches()
	}
	return nil
}

// ldReasons is why a directive has no equivalent.
func ldReason(key string) string {
	switch key {
	case "autoreload":
		return "a file counts when it is applied: 'shunt apply', or 'shunt director reload'"
	case "callback":
		return "shunt copies its file nowhere"
	case "logfile":
		return "shunt logs to its director.log or the journal"
	case "monitorfile":
		return "shunt logs each transition, and 'shunt director status' has the reason of each failure"
	case "execute":
		return "an instance of shunt is one per network namespace: import that file as well"
	case "fork":
		return "shunt's checks do not wait for each other"
	case "supervised":
		return "'shunt director run' stays in the foreground"
	case "readdquiescent":
		return "what is taken out of the rules by hand is shown as drift, and stays out until the file is applied again"
	case "cleanstop":
		return "'shunt director stop' undoes what start did; with --keep-forwarding it leaves rules and traffic as they are"
	case "maintenancedir":
		return "a server is taken out by 'shunt drain' and back by 'shunt enable'; a check of type file can look at a file"
	case "emailalert", "emailalertfreq", "emailalertfrom", "emailalertstatus", "smtp":
		return noMail
	case "load":
		return "ldirectord does nothing with it"
	}
	return ""
}

// global is a directive outside of virtuals.
func (f *ldFile) global(at importPlace, bare string) error {
	if bare == "supervised" { // of old files
		bare = "supervised = yes"
	}
	m := ldDirective.FindStringSubmatch(bare)
	if m == nil || strings.HasPrefix(at.text, " ") || strings.HasPrefix(at.text, "\t") {
		return f.fail(at, bare, "", "a line is KEY = VALUE, and begins without blanks")
	}
	d := &directive{at, m[1], m[2]}
	if handled, err := f.ldSettings.read(f.importer, d); handled || err != nil {
		return err
	}
	switch d.key {
	case "fallback6":
		f.fallback6 = d
	case "fork":
		f.fork = d.value == "yes"
		f.lost = append(f.lost, d.comment("%s", ldReason(d.key)))
	case "fallbackcommand":
		f.lost = append(f.lost, d.comment("%s", ldCommandReason(d)))
	default:
		reason := ldReason(d.key)
		if reason == "" {
			return f.unknown(d)
		}
		f.lost = append(f.lost, d.comment("%s", reason))
	}
	return nil
}

func ldCommandReason(d *directive) string {
	command := strings.Trim(d.value, `"`)
	return fmt.Sprintf("who is told is said under notify, for all services: {command: %s, on: [service]}. What happened is in the program's environment (SHUNT_…), not in its arguments", yamlTexts([]string{command}))
}

func (i *importer) unknown(d *directive) error {
	keys := []string{"checktimeout", "negotiatetimeout", "checkinterval", "checkcount", "failurecount", "autoreload", "callback", "fallback", "fallback6",
		"fallbackcommand", "logfile", "emailalert", "emailalertfreq", "emailalertfrom", "emailalertstatus", "execute", "supervised", "fork", "quiescent",
		"readdquiescent", "cleanstop", "maintenancedir", "real", "real6", "checktype", "service", "checkcommand", "checkport", "request", "receive",
		"httpmethod", "virtualhost", "login", "passwd", "database", "secret", "load", "scheduler", "schedflags", "persistent", "netmask", "protocol",
		"monitorfile", "ops", "servicename", "comment", "smtp", "virtual", "virtual6"}
	if d.key == "timeout" || d.key == "connecttimeout" {
		return i.fail(d.importPlace, d.key, "", "ldirectord takes %s no more: it has checktimeout and negotiatetimeout", d.key)
	}
	near := nearest(d.key, keys)
	if near == d.key {
		return i.fail(d.importPlace, d.key, "", "%s does not belong here", d.key)
	}
	return i.fail(d.importPlace, d.key, near, "unknown directive %s", d.key)
}

// read takes a directive that a virtual may have as well as all.
func (s *ldSettings) read(i *importer, d *directive) (handled bool, err error) {
	number := func(to *int) {
		word := ldNumber.FindString(d.value)
		*to, err = i.number(d.importPlace, d.key, word, 1, 86400)
	}
	switch d.key {
	case "checktimeout":
		number(&s.checkTimeout)
	case "negotiatetimeout":
		number(&s.negotiateTimeout)
	case "checkinterval":
		number(&s.checkInterval)
	case "checkcount":
		number(&s.checkCount)
	case "failurecount":
		number(&s.failureCount)
	case "quiescent":
		if d.value != "yes" && d.value != "no" {
			return true, i.fail(d.importPlace, d.value, "", "quiescent is yes or no, not %q", d.value)
		}
		s.quiescent = d.value
	case "fallback":
		s.fallback = d
	default:
		return false, nil
	}
	return true, err
}

// virtual makes a service of a virtual.
func (v *ldVirtual) virtual(f *ldFile) error {
	if err := v.identify(); err != nil {
		return err
	}
	v.request = "/"
	for _, d := range v.lines {
		if err := v.line(d, f); err != nil {
			return err
		}
	}
	if err := v.persistent(); err != nil {
		return err
	}
	v.inherit(f)
	if v.service == "" {
		v.service = "none"
		if v.id.Mark == 0 {
			v.service = ldServiceOf(int(v.id.Port))
		}
	}
	for _, d := range v.reals {
		if err := v.real(d); err != nil {
			return err
		}
	}
	if err := v.sorryServer(f); err != nil {
		return err
	}
	if v.id.Mark != 0 {
		v.unmarked(v.importedService, v.importedService.at)
	}
	v.services = append(v.services, v.importedService)
	return nil
}

// identify reads the address, or the mark. The port may be a service's name, which
// depends on the protocol.
func (v *ldVirtual) identify() error {
	d := v.at
	protocol := lvs.ProtocolNone
	for _, l := range v.lines {
		if l.key == "protocol" {
			protocol = map[string]lvs.Protocol{"tcp": lvs.TCP, "udp": lvs.UDP}[l.value]
			if protocol == lvs.ProtocolNone && l.value != "fwm" {
				return v.fail(l.importPlace, l.value, nearest(l.value, []string{"tcp", "udp", "fwm"}), "unknown protocol %q", l.value)
			}
		}
	}
	if !strings.ContainsAny(d.value, ".:") {
		mark, err := strconv.ParseUint(d.value, 10, 32)
		if err != nil || mark == 0 {
			return v.fail(d.importPlace, d.value, "", "virtual takes ADDRESS:PORT, or a mark, not %q", d.value)
		}
		v.id = lvs.ServiceID{Mark: uint32(mark), Mark6: v.six}
		return nil
	}
	host, port, ok := cutPort(d.value)
	if !ok {
		return v.fail(d.importPlace, d.value, "", "virtual takes ADDRESS:PORT, or a mark, not %q", d.value)
	}
	if protocol == lvs.ProtocolNone {
		protocol = lvs.TCP
		if port == "53" || port == "domain" {
			protocol = lvs.UDP
		}
	}
	addr, err := v.hostAddr(d, host, &v.comments)
	if err != nil {
		return err
	}
	number, err := v.portOf(d, port, protocol)
	v.id = lvs.ServiceID{Protocol: protocol, Addr: addr, Port: number}
	return err
}

// cutPort splits "host:port" and "[v6]:port".
func cutPort(text string) (host, port string, ok bool) {
	n := strings.LastIndexByte(text, ':')
	if n < 0 || strings.HasSuffix(text, "]") {
		return text, "", false
	}
	return text[:n], text[n+1:], true
}

// hostAddr reads an address, or asks for that of a name.
func (v *ldVirtual) hostAddr(d *directive, host string, comments *[]importComment) (netip.Addr, error) {
	bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	addr, err := netip.ParseAddr(bare)
	if err != nil && !v.six && v.lookup.HostAddr != nil && hostName.MatchString(host) {
		var ok bool
		if addr, ok = v.lookup.HostAddr(context.Background(), host); ok {
			err = nil
			*comments = append(*comments, d.comment("%s was %v when this was imported", host, addr))
		}
	}
	switch {
	case err != nil:
		return addr, v.fail(d.importPlace, host, "", "%s is no address, and no address is known for it", host)
	case addr.Zone() != "" || addr.Is4In6() || addr.Is6() != v.six:
		return addr, v.fail(d.importPlace, host, "", "%s is no address for this virtual: IPv4 goes with virtual, real and fallback, IPv6 with virtual6, real6 and fallback6", host)
	}
	return addr, nil
}

var hostName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9.-]*$`)

func (v *ldVirtual) portOf(d *directive, port string, protocol lvs.Protocol) (uint16, error) {
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		return uint16(n), nil
	}
	if v.lookup.ServicePort != nil {
		if n, ok := v.lookup.ServicePort(port, protocol); ok {
			return n, nil
		}
	}
	return 0, v.fail(d.importPlace, port, "", "%q is no port, and of no service that is known", port)
}

// line reads a directive of a virtual.
func (v *ldVirtual) line(d *directive, f *ldFile) error {
	if d.key == "checkinterval" && !f.fork {
		v.comment(d.comment("ldirectord takes it with fork = yes only: what is said for all counts"))
		return nil
	}
	if handled, err := v.ldSettings.read(v.importer, d); handled || err != nil {
		return err
	}
	text := d.value
	if m := ldQuoted.FindStringSubmatch(d.value); m != nil {
		text = m[1]
	} else if slices.Contains([]string{"request", "receive", "login", "passwd", "database", "secret"}, d.key) {
		return v.fail(d.importPlace, d.value, "", "%s takes a text in double quotes", d.key)
	}
	var err error
	switch d.key {
	case "real", "real6":
		if (d.key == "real6") != v.six {
			return v.fail(d.importPlace, d.key, "", "%s does not go with this virtual: IPv4 goes with virtual, real and fallback, IPv6 with virtual6, real6 and fallback6", d.key)
		}
		v.reals = append(v.reals, d)
	case "fallback6":
		v.fallback = d
	case "protocol":
	case "checktype":
		err = v.checkType(d)
	case "service":
		if v.service = d.value; !slices.Contains(ldServices, v.service) {
			return v.fail(d.importPlace, d.value, nearest(d.value, ldServices), "unknown service %q", d.value)
		}
	case "scheduler":
		v.scheduler = d.value
		if !lvs.Scheduler(v.scheduler).Known() {
			return v.fail(d.importPlace, d.value, nearest(d.value, schedulerNames()), "unknown scheduler %q", d.value)
		}
	case "schedflags":
		err = v.schedulerFlags(d)
	case "persistent":
		v.persist, err = v.number(d.importPlace, d.key, ldNumber.FindString(d.value), 1, lvs.MaxTimeout)
	case "netmask":
		v.netmask = d
	case "ops":
		if d.value == "yes" && v.id.Protocol == lvs.UDP {
			v.onePacket = true
		} else if d.value == "yes" {
			v.comment(d.comment("one-packet scheduling is for UDP; ldirectord leaves it out, too"))
		}
	case "checkport":
		v.port, err = v.number(d.importPlace, d.key, ldNumber.FindString(d.value), 1, 65535)
	case "checkcommand":
		v.command, v.commandA = text, d
	case "request":
		v.request, v.requests = "/"+strings.TrimPrefix(text, "/"), d
	case "receive":
		v.receive = &directive{d.importPlace, d.key, text}
	case "httpmethod":
		if v.method = strings.ToUpper(d.value); v.method != "GET" && v.method != "HEAD" {
			return v.fail(d.importPlace, d.value, "", "httpmethod is GET or HEAD, not %q", d.value)
		}
	case "virtualhost":
		v.host = strings.Trim(d.value, `"`)
	case "login":
		if v.login = text; !slices.Contains([]string{"mysql", "pgsql"}, v.serviceSoFar()) {
			v.comment(d.comment("no check logs in"))
		}
	case "passwd", "secret":
		hidden := *d
		hidden.text = d.key + " = …" // it has no business in another file
		v.comment(hidden.comment("no check sends a password"))
	case "database":
		if v.database = text; !slices.Contains([]string{"mysql", "pgsql"}, v.serviceSoFar()) {
			v.comment(d.comment("no check asks a database of this kind"))
		}
	case "servicename":
		if v.name != "" || !v.called(text) {
			v.comment(d.comment("a name is of letters, digits, dots and dashes, and once in a file"))
		} else {
			v.name = text
		}
	case "comment":
		v.comment(importRemark("%s", text))
	case "fallbackcommand":
		v.comment(d.comment("%s", ldCommandReason(d)))
	default:
		reason := ldReason(d.key)
		if reason == "" || slices.Contains([]string{"autoreload", "callback", "logfile", "execute", "fork", "supervised", "readdquiescent", "maintenancedir", "emailalertfrom"}, d.key) {
			return v.unknown(d)
		}
		v.comment(d.comment("%s", reason))
	}
	return err
}

// serviceSoFar is the service of a virtual, whichever line names it.
func (v *ldVirtual) serviceSoFar() string {
	for _, l := range v.lines {
		if l.key == "service" {
			return l.value
		}
	}
	return ldServiceOf(int(v.id.Port))
}

func (v *ldVirtual) checkType(d *directive) error {
	types := []string{"connect", "negotiate", "ping", "off", "on", "external", "external-perl"}
	if n := ldNumber.FindString(d.value); n != "" {
		every, err := v.number(d.importPlace, d.key, n, 0, 1000)
		v.check, v.every = "combined", every
		return err
	}
	if v.check = d.value; !slices.Contains(types, v.check) {
		return v.fail(d.importPlace, d.value, nearest(d.value, types), "unknown checktype %q", d.value)
	}
	switch v.check {
	case "off":
		v.comment(d.comment("servers that are not checked and get no connections: they have weight 0"))
	case "external-perl":
		v.comment(d.comment("a script is run, each time"))
	}
	return nil
}

func (v *ldVirtual) schedulerFlags(d *directive) error {
	for name := range strings.SplitSeq(d.value, ",") {
		switch name = strings.TrimSpace(name); name {
		case "flag-1", "sh-fallback", "mh-fallback":
			v.flags |= lvs.FlagSched1
		case "flag-2", "sh-port", "mh-port":
			v.flags |= lvs.FlagSched2
		case "flag-3":
			v.flags |= lvs.FlagSched3
		default:
			return v.fail(d.importPlace, name, "", "unknown scheduler flag %q", name)
		}
	}
	return nil
}

func (v *ldVirtual) persistent() error {
	d := v.netmask
	if v.persist > 0 {
		v.persistence = yamlSeconds(v.persist)
	}
	switch {
	case d == nil:
		return nil
	case v.persist == 0:
		v.comment(d.comment("without persistent it means nothing"))
		return nil
	case v.six:
		if _, err := v.number(d.importPlace, d.key, d.value, 1, 128); err != nil {
			return err
		}
	default:
		if a, err := netip.ParseAddr(d.value); err != nil || !a.Is4() {
			return v.fail(d.importPlace, d.value, "", "netmask takes a mask such as 255.255.255.0, not %q", d.value)
		}
	}
	v.persistence = fmt.Sprintf("{timeout: %s, mask: %s}", v.persistence, d.value)
	return nil
}

// inherit fills in what is said for all, and what ldirectord has by default.
func (v *ldVirtual) inherit(f *ldFile) {
	first := func(numbers ...int) int {
		for _, n := range numbers {
			if n > 0 {
				return n
			}
		}
		return 1
	}
	check := first(v.checkTimeout, v.negotiateTimeout, f.checkTimeout, f.negotiateTimeout, 5)
	v.negotiateTimeout = first(v.negotiateTimeout, v.checkTimeout, f.negotiateTimeout, f.checkTimeout, 30)
	v.checkTimeout = check
	v.checkInterval = first(v.checkInterval, f.checkInterval)
	v.checkCount = first(v.checkCount, f.checkCount)
	v.failureCount = first(v.failureCount, f.failureCount)
	quiescent := v.quiescent
	if quiescent == "" {
		quiescent = f.ldSettings.quiescent
	}
	if quiescent == "" {
		v.note("No line says quiescent. The manual of ldirectord says that the default is yes, the program's is no (4.12): a failed server is removed.")
	}
	v.remove = quiescent != "yes"
}

// real makes servers of a real.
func (v *ldVirtual) real(d *directive) error {
	m := ldReal.FindStringSubmatch(d.value)
	if m == nil {
		return v.fail(d.importPlace, d.value, "", "%s takes ADDRESS[->ADDRESS][:PORT] gate|masq|ipip [WEIGHT] [\"REQUEST\", \"RECEIVE\"], not %q", d.key, d.value)
	}
	r := importedServer{at: d.importPlace, weight: lvs.DefaultWeight}
	first, err := v.hostAddr(d, m[1], &r.comments)
	if err != nil {
		return err
	}
	last := first
	if m[2] != "" {
		if last, err = v.hostAddr(d, m[2], &r.comments); err != nil {
			return err
		}
		if v.six {
			return v.fail(d.importPlace, m[2], "", "there are no ranges of IPv6 addresses")
		}
		if last.Less(first) {
			return v.fail(d.importPlace, m[2], "", "the first address of a range comes first")
		}
	}
	port := uint16(0)
	if m[3] != "" {
		if port, err = v.portOf(d, m[3], v.id.Protocol); err != nil {
			return err
		}
	}
	request, receive, rest := v.request, v.receive, m[5]
	if w := ldWeight.FindStringSubmatch(rest); w != nil {
		if r.weight, err = v.number(d.importPlace, "weight", w[1], 0, 1<<31-1); err != nil {
			return err
		}
		rest = w[2]
	}
	own := false
	if q := ldRequest.FindStringSubmatch(rest); q != nil {
		own, request, receive = true, "/"+strings.TrimPrefix(q[1], "/"), &directive{d.importPlace, "receive", q[2]}
		rest = q[3]
	}
	for _, letter := range []string{"l", "u"} {
		l := ldLimit.FindStringSubmatch(rest)
		if l == nil || l[1] != letter {
			continue
		}
		n, err := v.number(d.importPlace, "threshold", l[2], 0, 1<<31-1)
		if err != nil {
			return err
		}
		if rest = l[3]; letter == "l" {
			r.lower = n
		} else {
			r.upper = n
		}
	}
	switch {
	case strings.TrimSpace(rest) != "":
		return v.fail(d.importPlace, strings.TrimSpace(rest), "", "what is %q in a line of %s?", strings.TrimSpace(rest), d.key)
	case r.lower > r.upper:
		return v.fail(d.importPlace, "l:", "", "the lower threshold %d is above the upper one, %d", r.lower, r.upper)
	}
	r.comments = append(r.comments, v.forwarded(d, m[4], port)...)
	return v.realRange(d, r, first, last, port, request, receive, own)
}

// realRange adds a server for each address of a range.
func (v *ldVirtual) realRange(d *directive, r importedServer, first, last netip.Addr, port uint16, request string, receive *directive, own bool) error {
	if v.check == "off" {
		r.weight = 0
	}
	for a := first; ; a = a.Next() {
		if len(v.servers) == maxGroup {
			return v.fail(d.importPlace, "", "", "more than %d servers", maxGroup)
		}
		s := r
		if s.addr = a.String(); slices.ContainsFunc(v.servers, func(o *importedServer) bool { return o.addr == s.addr }) {
			return v.fail(d.importPlace, d.value, "", "the real server %s is there already: direct routing has one by address", s.addr)
		}
		if a != first {
			s.comments = nil
		}
		v.checks(&s, d, port, request, receive, own)
		v.servers = append(v.servers, &s)
		if a == last {
			return nil
		}
	}
}

// forwarded says what becomes of a server that is not reached by direct routing,
// or on another port.
func (v *ldVirtual) forwarded(d *directive, method string, port uint16) []importComment {
	mapped := port != 0 && v.id.Mark == 0 && port != v.id.Port
	switch {
	case method != "gate":
		return []importComment{d.comment("%s", v.notDirect(map[string]string{"masq": "NAT", "ipip": "a tunnel"}[method], v.importedService, port))}
	case mapped:
		return []importComment{d.comment("direct routing maps no ports: it is port %d, as ldirectord takes it, too", v.id.Port)}
	}
	return nil
}

var ldFallback = regexp.MustCompile(`^(\S+?)(?::([A-Za-z0-9_-]+))?(?:\s+(\S+))?$`)

// sorryServer makes a sorry server of a fallback.
func (v *ldVirtual) sorryServer(f *ldFile) error {
	d := v.fallback
	if d == nil {
		if d = f.ldSettings.fallback; v.six {
			d = f.fallback6
		}
	}
	if d == nil {
		return nil
	}
	value := d.value
	m := ldFallback.FindStringSubmatch(value)
	if m == nil {
		return v.fail(d.importPlace, value, "", "%s takes ADDRESS[:PORT] [gate|masq|ipip], not %q", d.key, value)
	}
	if v.six && !strings.HasSuffix(m[1], "]") { // the last part is no port
		m = []string{"", strings.Fields(value)[0], "", m[3]}
	}
	method := m[3]
	if method == "" {
		method = "gate"
	}
	if !slices.Contains([]string{"gate", "masq", "ipip"}, method) {
		return v.fail(d.importPlace, method, "", "a forwarding method is gate, masq or ipip, not %q", method)
	}
	addr, err := v.hostAddr(d, m[1], &v.sorryAt)
	if err != nil {
		return err
	}
	port := uint16(0)
	if m[2] != "" {
		if port, err = v.portOf(d, m[2], v.id.Protocol); err != nil {
			return err
		}
	}
	v.sorry = addr.String()
	v.sorryAt = append(v.sorryAt, v.forwarded(d, method, port)...)
	return nil
}
