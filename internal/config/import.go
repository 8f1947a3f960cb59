// SPDX-License-Identifier: MIT

package config

import (
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/lvs"
	"github.com/shunt-lvs/shunt/internal/realserver"
)

// Kind is whose file is imported.
type Kind string

// The kinds of files that can be imported.
const (
	Keepalived  Kind = "keepalived"   // keepalived.conf
	Ldirectord  Kind = "ldirectord"   // ldirectord.cf
	IpvsadmSave Kind = "ipvsadm-save" // what ipvsadm-save and ipvsadm -S print
)

// ImportKinds lists all kinds.
func ImportKinds() []Kind { return []Kind{Keepalived, IpvsadmSave, Ldirectord} }

// ImportOption changes how Import reads.
type ImportOption func(*importer)

// ConfigID says on which machine a keepalived.conf is meant to be, as
// keepalived's --config-id does: whose lines with an @ count. Without it, it is
// one that no line names.
func ConfigID(id string) ImportOption { return func(i *importer) { i.configID = id } }

// ImportNames says who is asked for the addresses of hosts and the ports of
// services that a file names; without it the system is.
func ImportNames(names ipvsadm.Names) ImportOption { return func(i *importer) { i.lookup = names } }

// Import writes a site's file that does what a file of keepalived, ldirectord or
// ipvsadm-save does. What has no equivalent, or one that is not quite the same, is
// in a comment with the line it comes from, at the place where it would belong.
// name is the file's, for messages and for what it includes, which read gets. An
// error in the file is a Problem.
func Import(kind Kind, name string, text []byte, read func(path string) ([]byte, error), options ...ImportOption) ([]byte, error) {
	i := &importer{kind: kind, file: name, read: read, lookup: ipvsadm.SystemNames()}
	for _, set := range options {
		set(i)
	}
	var err error
	switch kind {
	case Keepalived:
		err = i.keepalived(text)
	case Ldirectord:
		err = i.ldirectord(text)
	case IpvsadmSave:
		err = i.ipvsadmSave(text)
	default:
		err = fmt.Errorf("there is no import of %q: it is one of %v", kind, ImportKinds())
	}
	if err != nil {
		return nil, err
	}
	if err := i.settle(); err != nil {
		return nil, err
	}
	yaml := i.write()
	if _, err := Parse(name+", imported", yaml); err != nil {
		return nil, fmt.Errorf("%s: what was made of it is no site's file, which is a mistake of the import: %w", name, err)
	}
	return yaml, nil
}

// GuessKind tells whose file it is, by what is in it and by its name; empty if
// neither says so.
func GuessKind(name string, text []byte) Kind {
	base := strings.ToLower(filepath.Base(name))
	switch {
	case strings.Contains(base, "keepalived"):
		return Keepalived
	case strings.Contains(base, "ldirectord") || strings.HasSuffix(base, ".cf"):
		return Ldirectord
	case strings.Contains(base, "ipvsadm"):
		return IpvsadmSave
	}
	for line := range bytes.Lines(text) {
		for _, m := range kindMarks {
			if m.line.Match(line) {
				return m.kind
			}
		}
	}
	return ""
}

// kindMarks are lines that only one kind of file has.
var kindMarks = []struct {
	line *regexp.Regexp
	kind Kind
}{
	{regexp.MustCompile(`^\s*(virtual_server|virtual_server_group|vrrp_\w+|global_defs|static_\w+)\b`), Keepalived},
	{regexp.MustCompile(`^(virtual6?|checktimeout|checkinterval|quiescent|autoreload)\s*=`), Ldirectord},
	{regexp.MustCompile(`^(ipvsadm\s+)?(-[AaCE]|--add-|--set)`), IpvsadmSave},
}

// NoEquivalent counts the lines that an import has in comments because they have
// no equivalent, or one that is not quite the same.
func NoEquivalent(yaml []byte) int {
	n := 0
	for line := range bytes.Lines(yaml) {
		if m := numberedComment.FindSubmatch(line); m != nil {
			n += bytes.Count(m[1], []byte(",")) + 1
		}
	}
	return n
}

var numberedComment = regexp.MustCompile(`^ *# (?:[^ ]+ )?lines? ([0-9]+(?:, [0-9]+)*): `)

// importer is an import under way.
type importer struct {
	kind     Kind
	file     string
	read     func(path string) ([]byte, error)
	configID string
	lookup   ipvsadm.Names

	notes      []string        // about the whole, each once
	lost       []importComment // lines that belong to no service
	interfaces []string
	timeouts   []string // "tcp: 15m"
	services   []*importedService
	names      map[string]bool
}

// note adds something that is to be known about the whole file.
func (i *importer) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(i.notes, n) {
		i.notes = append(i.notes, n)
	}
}

// called gives a name to only one of those who want it.
func (i *importer) called(name string) bool {
	if i.names == nil {
		i.names = map[string]bool{}
	}
	if i.names[name] || !plainName.MatchString(name) {
		return false
	}
	i.names[name] = true
	return true
}

var plainName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,62}$`)

// importPlace is a line of a file.
type importPlace struct {
	file string // empty: the one that is imported
	line int
	text string
}

// importComment is a line that has no equivalent, and why; or, without a line, a
// remark.
type importComment struct {
	importPlace
	reason string
}

func (p importPlace) comment(format string, args ...any) importComment {
	return importComment{p, fmt.Sprintf(format, args...)}
}

func importRemark(format string, args ...any) importComment {
	return importComment{reason: fmt.Sprintf(format, args...)}
}

// fail is an error at a place. The column is where word begins, if it is in the
// line as it stands.
func (i *importer) fail(p importPlace, word, suggestion, format string, args ...any) error {
	before, _, found := strings.Cut(p.text, word)
	if word == "" || !found {
		before = p.text[:len(p.text)-len(strings.TrimLeft(p.text, " \t"))]
	}
	file := i.file
	if p.file != "" {
		file = p.file
	}
	return Problem{File: file, Line: p.line, Column: utf8.RuneCountInString(before) + 1, Message: importPrintable(fmt.Sprintf(format, args...)),
		Suggestion: suggestion, Source: importPrintable(p.text)}
}

// number reads a whole number in a range.
func (i *importer) number(p importPlace, what, word string, low, high int) (int, error) {
	n, err := strconv.Atoi(word)
	if err != nil || n < low || n > high {
		return 0, i.fail(p, word, "", "%s %q is not a number from %d to %d", what, word, low, high)
	}
	return n, nil
}

// settle finds what no director takes, and settles what shunt has otherwise.
func (i *importer) settle() error {
	table := lvs.NewTable()
	first := map[lvs.ServiceID]importPlace{}
	for _, s := range i.services {
		if at, twice := first[s.id]; twice {
			return i.fail(s.at, "", "", "there is a service %v already, by line %d", s.id, at.line)
		}
		first[s.id] = s.at
		if s.id.Mark == 0 {
			if _, err := realserver.ParseAddr(s.id.Addr.String()); err != nil {
				return i.fail(s.at, s.id.Addr.String(), "", "%v is no address that clients can reach", s.id.Addr)
			}
		}
		v := lvs.VirtualService{ServiceID: s.id, Scheduler: lvs.Scheduler(s.scheduler), Flags: s.flags &^ (lvs.FlagOnePacket | lvs.FlagPersistent)}
		if s.persistence != "" {
			v.Flags |= lvs.FlagPersistent
			v.Timeout, v.Netmask = 1, 1
		}
		if s.onePacket {
			v.Flags |= lvs.FlagOnePacket
		}
		if err := table.Apply(lvs.Change{Operation: lvs.AddService, Service: v}); err != nil {
			return i.fail(s.at, "", "", "%v", err)
		}
		if err := i.settleServers(s); err != nil {
			return err
		}
	}
	return nil
}

func (i *importer) settleServers(s *importedService) error {
	local := map[bool]string{false: "127.0.0.1", true: "::1"}[s.id.Is6()]
	seen := map[string]bool{}
	var servers []*importedServer
	for _, r := range s.servers {
		if r.addr == s.id.Addr.String() {
			r.addr = local
			r.comments = append(r.comments, r.at.comment("the VIP itself is the director, which here goes by another address of it"))
		}
		if a, err := netip.ParseAddr(r.addr); err != nil || a.IsUnspecified() || a.IsMulticast() {
			return i.fail(r.at, r.addr, "", "%s is no address of a real server", r.addr)
		}
		if seen[r.addr] {
			s.comment(r.at.comment("the real server %s again, on another port: direct routing has one by address, so this one is left out", r.addr))
			continue
		}
		seen[r.addr] = true
		servers = append(servers, r)
	}
	s.servers = servers
	i.settleAlpha(s)
	if s.sorry == "" {
		return nil
	}
	if s.sorry == s.id.Addr.String() {
		s.sorry = local
	}
	if a, err := netip.ParseAddr(s.sorry); err != nil || a.IsUnspecified() || a.IsMulticast() {
		return i.fail(s.at, s.sorry, "", "%s is no address of a sorry server", s.sorry)
	}
	if seen[s.sorry] {
		s.sorryAt = append(s.sorryAt, importRemark("%s was the sorry server, and is a real server: a sorry server is another one.", s.sorry))
		s.sorry = ""
	}
	return nil
}

// settleAlpha takes alpha away from a service whose servers could never get well.
func (i *importer) settleAlpha(s *importedService) {
	checked := func(r *importedServer) bool { return len(r.checks) > 0 }
	for _, r := range s.servers {
		if s.alpha && !checked(r) {
			s.alpha = false
			if slices.ContainsFunc(s.servers, checked) {
				s.comment(importRemark("Without alpha, as %s has no checks that could find it well.", r.addr))
			}
		}
	}
}
