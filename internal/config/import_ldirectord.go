// SPDX-License-Identifier: MIT

package config

import (
	"fmt"
	"regexp"
	"slices"
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
	idle      []*directive // that count for some virtuals only, if there are such
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
				check:      "negotiate", command: "/bin/true", method: "GET", used: map[string]bool{}}
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
	for _, d := range f.idle {
		if !slices.ContainsFunc(virtuals, func(v *ldVirtual) bool { return v.used[d.key] }) {
			f.lost = append(f.lost, d.comment("no virtual needs it"))
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
	if slices.Contains([]string{"checkcount", "fallback", "fallback6"}, d.key) {
		f.idle = append(f.idle, d)
	}
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
