// SPDX-License-Identifier: MIT

package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Difference is one thing in which two files, or a file and the running rules,
// are not the same.
type Difference struct {
	Kind string `json:"kind"` // "added", "removed" or "changed"
	// Path is where: "services/web/servers/172.16.16.178/weight".
	Path string `json:"path"`
	// Text is a sentence: "service web: real server 172.16.16.178: weight 1 → 2".
	Text string `json:"text"`
	// Restart: it counts only once the director (or, below realserver, the real
	// server) is started again.
	Restart bool `json:"restart,omitempty"`
}

// String gives the sentence.
func (d Difference) String() string { return d.Text }

// The kinds of differences.
const (
	added   = "added"
	removed = "removed"
	changed = "changed"
)

// delta is a difference before it is put into words, which depend on whether
// something is to change, or has been changed.
type delta struct {
	kind, path  string
	subject     string // "service web: real server 172.16.16.178"
	what        string // of changed: "weight"
	before, now string
	restart     string // who has to be started again
}

// deltas collects them, below a path and a subject.
type deltas struct {
	list          *[]delta
	path, subject string
	restart       string
}

// in is the same collection, one level down.
func (d deltas) in(path, subject string) deltas {
	return deltas{d.list, d.path + path + "/", join(d.subject, subject), d.restart}
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ": " + b
}

func (d deltas) changed(key, what, before, now string) {
	if before != now {
		*d.list = append(*d.list, delta{changed, d.path + key, d.subject, what, none(before), none(now), d.restart})
	}
}

func none(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (d deltas) added(path, subject, what string) {
	*d.list = append(*d.list, delta{added, d.path + path, join(d.subject, subject), "", "", what, d.restart})
}

func (d deltas) removed(path, subject string) {
	*d.list = append(*d.list, delta{removed, d.path + path, join(d.subject, subject), "", "", "", d.restart})
}

// set compares two lists whose order means nothing.
func (d deltas) set(path, what string, before, now []string) {
	was, is := setOf(before), setOf(now)
	for _, b := range before {
		if !is[b] {
			d.removed(path+"/"+b, what+" "+b)
		}
	}
	for _, n := range now {
		if !was[n] {
			d.added(path+"/"+n, what+" "+n, "")
		}
	}
}

// order compares the order of what both have.
func (d deltas) order(key, what string, before, now []string) {
	both := func(list, other []string) []string {
		in := setOf(other)
		return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return !in[s] })
	}
	b, n := both(before, now), both(now, before)
	if !slices.Equal(b, n) {
		d.changed(key, "order of "+what, shortened(b), shortened(n))
	}
}

func setOf(list []string) map[string]bool {
	in := make(map[string]bool, len(list))
	for _, s := range list {
		in[s] = true
	}
	return in
}

func shortened(list []string) string {
	const most = 8
	if len(list) > most {
		list = append(slices.Clone(list[:most]), "…")
	}
	return strings.Join(list, ", ")
}

// Diff tells in sentences what changes if new comes in the place of old; nil is a
// file that says nothing.
func Diff(old, new *Config) []Difference {
	if old == nil {
		old = &Config{}
	}
	if new == nil {
		new = &Config{}
	}
	var list []delta
	d := deltas{list: &list}
	d.director(old.Director, new.Director)
	d.realServer(old.RealServer, new.RealServer)
	d.notify(old.Notify, new.Notify)
	d.services(old.Services, new.Services)
	all := make([]Difference, 0, len(list))
	for _, l := range list {
		all = append(all, l.toCome())
	}
	return all
}

// toCome is a delta of something that is to change.
func (l delta) toCome() Difference {
	text := l.subject
	switch l.kind {
	case added:
		text += ": added"
		if l.now != "" {
			text += ", " + l.now
		}
	case removed:
		text += ": removed"
	default:
		text = join(text, l.what+" "+l.before+" → "+l.now)
	}
	if l.restart != "" {
		text = "needs a restart of the " + l.restart + ": " + text
	}
	return Difference{l.kind, l.path, text, l.restart != ""}
}

// DiffTable tells how the rules that run (have) differ from those of a file
// (want). names gives the name that the file has for a service, or "".
func DiffTable(want, have *lvs.Table, names func(lvs.ServiceID) string) []Difference {
	var list []delta
	d := deltas{list: &list}
	d.timeouts(want.Timeouts, have.Timeouts)
	d.tables(want, have, func(id lvs.ServiceID) string {
		if names != nil {
			if name := names(id); name != "" {
				return name
			}
		}
		return defaultName(id)
	})
	all := make([]Difference, 0, len(list))
	for _, l := range list {
		all = append(all, l.found())
	}
	return all
}

// found is a delta of something that has been changed.
func (l delta) found() Difference {
	text := l.subject
	switch l.kind {
	case added:
		text += ": runs, and is not in the file"
	case removed:
		text += ": is in the file, and does not run"
	default:
		text = join(text, fmt.Sprintf("%s %s, in the file %s", l.what, l.now, l.before))
	}
	return Difference{Kind: l.kind, Path: l.path, Text: text}
}

func (d deltas) tables(before, now *lvs.Table, name func(lvs.ServiceID) string) {
	rules := func(t *lvs.Table) map[lvs.ServiceID][]lvs.MarkRule {
		all := map[lvs.ServiceID][]lvs.MarkRule{}
		for _, m := range t.Marks {
			all[m.ServiceID()] = append(all[m.ServiceID()], m)
		}
		return all
	}
	d = d.in("services", "")
	was, is := rules(before), rules(now)
	var orderBefore, orderNow []string
	for _, s := range before.Services {
		orderBefore = append(orderBefore, name(s.ServiceID))
		if now.Service(s.ServiceID) == nil {
			d.removed(name(s.ServiceID), "service "+name(s.ServiceID))
			delete(is, s.ServiceID)
			delete(was, s.ServiceID)
		}
	}
	for _, s := range now.Services {
		id := s.ServiceID
		orderNow = append(orderNow, name(id))
		old := before.Service(id)
		if old == nil {
			d.added(name(id), "service "+name(id), contents(s))
			delete(is, id)
			delete(was, id)
			continue
		}
		below := d.in(name(id), "service "+name(id))
		below.service(old, s)
		below.set("match", "match", ruleTexts(was[id]), ruleTexts(is[id]))
		delete(is, id)
		delete(was, id)
	}
	for _, m := range before.Marks {
		if was[m.ServiceID()] != nil && !slices.Contains(now.Marks, m) {
			d.removed("match/"+m.String(), "mark rule "+m.String())
		}
	}
	for _, m := range now.Marks {
		if is[m.ServiceID()] != nil && !slices.Contains(before.Marks, m) {
			d.added("match/"+m.String(), "mark rule "+m.String(), "")
		}
	}
	d.order("", "services", orderBefore, orderNow)
}

func contents(s *lvs.VirtualService) string {
	return fmt.Sprintf("%v, %s, %s", s.ServiceID, s.Scheduler, counted(len(s.Servers), "real server"))
}

func (d deltas) timeouts(before, now lvs.Timeouts) {
	d = d.in("director", "").in("timeouts", "")
	for _, t := range []struct {
		name        string
		before, now uint32
	}{{"tcp", before.TCP, now.TCP}, {"tcpfin", before.TCPFin, now.TCPFin}, {"udp", before.UDP, now.UDP}} {
		d.changed(t.name, "timeout "+t.name, seconds(t.before), seconds(t.now))
	}
}

// service compares the rules of a service.
func (d deltas) service(before, now *lvs.VirtualService) {
	d.changed("scheduler", "scheduler", string(before.Scheduler), string(now.Scheduler))
	d.changed("scheduler_flags", "scheduler flags", flagNames(before), flagNames(now))
	d.changed("persistence", "persistence", persistence(before), persistence(now))
	d.changed("one_packet", "one_packet", yes(before.Flags&lvs.FlagOnePacket != 0), yes(now.Flags&lvs.FlagOnePacket != 0))
	d.changed("engine", "persistence engine", before.Engine, now.Engine)
	was, is := policySettings(before.Policy), policySettings(now.Policy)
	for i := range is {
		d.changed("policy/"+is[i].Name, is[i].Name, was[i].Value, is[i].Value)
	}
	d.changed("source_limit", "source_limit", limit(before.Policy.SourceLimit), limit(now.Policy.SourceLimit))
	d.set("deny", "deny", texts(before.Deny), texts(now.Deny))
	d = d.in("servers", "")
	var orderBefore, orderNow []string
	for _, r := range slices.Backward(before.Servers) {
		orderBefore = append(orderBefore, r.Addr.String())
		if now.Server(r.ServerID) == nil {
			d.removed(r.Addr.String(), "real server "+r.Addr.String())
		}
	}
	for _, r := range slices.Backward(now.Servers) {
		orderNow = append(orderNow, r.Addr.String())
		old := before.Server(r.ServerID)
		if old == nil {
			d.added(r.Addr.String(), "real server "+r.Addr.String(), fmt.Sprintf("weight %d", r.Weight))
			continue
		}
		below := d.in(r.Addr.String(), "real server "+r.Addr.String())
		below.changed("weight", "weight", fmt.Sprint(old.Weight), fmt.Sprint(r.Weight))
		below.changed("upper", "upper", fmt.Sprint(old.Upper), fmt.Sprint(r.Upper))
		below.changed("lower", "lower", fmt.Sprint(old.Lower), fmt.Sprint(r.Lower))
		below.changed("forward", "forwarding method", old.Forward.String(), r.Forward.String())
	}
	d.order("", "real servers", orderBefore, orderNow)
}
