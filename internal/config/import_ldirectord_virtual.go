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
	used     map[string]bool // directives that some check needs
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
	for _, d := range v.lines {
		if slices.Contains([]string{"request", "receive", "httpmethod", "virtualhost", "checkcommand", "checkport", "checkcount"}, d.key) && !v.used[d.key] {
			v.comment(d.comment("no check here needs it"))
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
		v.comment(importRemark("Its comment: %s", text))
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
		v.comment(d.comment("it is run as a program, each time"))
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
