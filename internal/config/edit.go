// SPDX-License-Identifier: MIT

package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// ErrEdit is wrapped when rules cannot be brought into a file.
var ErrEdit = errors.New("the rules cannot be brought into the file")

// Edit returns the file with the rules of a table in it: services, servers,
// weights, timeouts and whatever else ipvsadm can change. What else the file says,
// its comments and its layout stay. Mark rules come back service by service.
//
// What comes out is read again and compared before it is returned. An error wraps
// ErrEdit, and Errors if the file itself, or what would become of it, is wrong: a
// quorum of two of a service that has one server left is the operator's to change.
func Edit(text []byte, want *lvs.Table) ([]byte, error) {
	if err := writable(want); err != nil {
		return nil, err
	}
	ps := newProblems("the file", text)
	clean, ok := cleaned(ps, text)
	if !ok {
		return nil, fmt.Errorf("%w: %w", ErrEdit, ps.err())
	}
	now := string(clean)
	// What an alias repeats is written out only if it does not come right by
	// itself, with the place that it repeats.
	const passes = 5
	for pass := 0; ; pass++ {
		e, err := newEditor(now, pass > 1)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrEdit, err)
		}
		have, err := e.config.Table()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrEdit, err)
		}
		if same(have, want) {
			return restored(text, now), nil
		}
		if pass == passes {
			return nil, inTheWay(DiffTable(have, want, e.config.ServiceName))
		}
		if now, err = e.edit(have, want); err != nil {
			return nil, err
		}
	}
}

// inTheWay is why rules do not come into a file, whatever is written.
func inTheWay(differences []Difference) error {
	const what = "write out the aliases and merges (*, <<) of what was changed"
	if len(differences) == 0 {
		return fmt.Errorf("%w: %s", ErrEdit, what)
	}
	return fmt.Errorf("%w: %s: %s", ErrEdit, differences[0], what)
}

// restored is an edited text with the line ends and the byte order mark that the
// file had.
func restored(was []byte, now string) []byte {
	out := []byte(now)
	if bytes.Contains(was, []byte("\r\n")) {
		out = bytes.ReplaceAll(out, []byte("\n"), []byte("\r\n"))
	}
	if bom := []byte("\xef\xbb\xbf"); bytes.HasPrefix(was, bom) {
		out = append(bom, out...)
	}
	return out
}

// writable refuses what the file has no words for.
func writable(t *lvs.Table) error {
	for _, s := range t.Services {
		if s.Engine != "" {
			return fmt.Errorf("%w: %v: persistence engine %s: %w", ErrEdit, s.ServiceID, s.Engine, lvs.ErrUnsupported)
		}
		for _, r := range s.Servers {
			if r.Forward != lvs.DirectRouting {
				return fmt.Errorf("%w: real server %v of %v: forwarding method %v: %w", ErrEdit, r.ServerID, s.ServiceID, r.Forward, lvs.ErrUnsupported)
			}
		}
	}
	for _, m := range t.Marks {
		if t.Service(m.ServiceID()) == nil {
			return fmt.Errorf("%w: mark rule %v: there is no service of that mark, which it could be written with", ErrEdit, m)
		}
	}
	return nil
}

// same compares tables, mark rules service by service: between services their
// order means nothing.
func same(a, b *lvs.Table) bool {
	sorted := func(t *lvs.Table) *lvs.Table {
		c := *t
		c.Marks = slices.Clone(t.Marks)
		slices.SortStableFunc(c.Marks, func(x, y lvs.MarkRule) int {
			return cmp.Or(cmp.Compare(x.Mark, y.Mark), x.Addr.BitLen()-y.Addr.BitLen())
		})
		return &c
	}
	return sorted(a).Equal(sorted(b))
}

// editor has a file, what was read of it, and what is to be changed in it.
type editor struct {
	*source
	config  *Config
	file    *fileKeys
	aliases bool // what an alias repeats is written out
	copying bool // what is changed is a copy of what an alias repeats
	changes []change
	failed  error
}

func newEditor(text string, aliases bool) (*editor, error) {
	c, file, err := parse("the file", []byte(text))
	if err != nil {
		return nil, err
	}
	return &editor{source: newSource(text), config: c, file: file, aliases: aliases}, nil
}

// edit makes one pass. Its result may have to be edited again.
func (e *editor) edit(have, want *lvs.Table) (string, error) {
	if e.expand(want); len(e.changes) > 0 {
		return e.applied(0, len(e.text), e.changes), e.failed
	}
	e.timeouts(want.Timeouts)
	items := map[lvs.ServiceID]int{}
	for i := range e.file.Services.Items {
		if id := e.config.Services[i].Service.ServiceID; want.Service(id) != nil {
			items[id] = i
			e.service(&e.file.Services.Items[i], have.Service(id), want.Service(id), rulesOf(have, id), rulesOf(want, id))
		}
	}
	var list []wanted
	for _, s := range want.Services {
		if i, ok := items[s.ServiceID]; ok {
			list = append(list, wanted{item: i})
			continue
		}
		list = append(list, wanted{item: -1, keys: e.newService(s, rulesOf(want, s.ServiceID))})
	}
	e.list(e.file.node, "services", list)
	return e.applied(0, len(e.text), e.changes), e.failed
}

func rulesOf(t *lvs.Table, id lvs.ServiceID) []lvs.MarkRule {
	var all []lvs.MarkRule
	for _, m := range t.Marks {
		if m.ServiceID() == id {
			all = append(all, m)
		}
	}
	return all
}

func (e *editor) timeouts(want lvs.Timeouts) {
	have := lvs.DefaultTimeouts()
	if e.config.Director != nil {
		have = e.config.Director.Timeouts
	}
	if have == want {
		return
	}
	var keys []setting
	for _, t := range []struct {
		key        string
		have, want uint32
	}{{"tcp", have.TCP, want.TCP}, {"tcpfin", have.TCPFin, want.TCPFin}, {"udp", have.UDP, want.UDP}} {
		if t.have != t.want {
			keys = append(keys, setting{t.key, seconds(t.want)})
		}
	}
	d := e.file.node.get("director")
	switch {
	case d == nil:
		e.set(e.file.node, "director", "{timeouts: "+braces(keys)+"}")
	case d.get("timeouts") == nil:
		e.set(d, "timeouts", braces(keys))
	default:
		for _, k := range keys {
			e.set(d.get("timeouts"), k.key, k.value)
		}
	}
}

// service brings one service's keys in line. Where nothing differs nothing is
// touched.
func (e *editor) service(k *serviceKeys, have, want *lvs.VirtualService, haveRules, wantRules []lvs.MarkRule) {
	n := k.node
	if have.Scheduler != want.Scheduler {
		e.set(n, "scheduler", string(want.Scheduler))
	}
	if a, b := flagWords(have), flagWords(want); !slices.Equal(a, b) {
		e.set(n, "scheduler_flags", brackets(b))
	}
	if a, b := persistence(have), persistence(want); a != b {
		e.persistence(n, want)
	}
	if a, b := have.Flags&lvs.FlagOnePacket, want.Flags&lvs.FlagOnePacket; a != b {
		value := ""
		if b != 0 {
			value = "true"
		}
		e.set(n, "one_packet", value)
	}
	a, b := have.Policy, want.Policy
	if a.SourceLimit != b.SourceLimit {
		e.set(n, "source_limit", e.sourceLimit(b.SourceLimit))
	}
	a.SourceLimit, b.SourceLimit = lvs.SourceLimit{}, lvs.SourceLimit{}
	if a != b {
		e.policy(n, a, b)
	}
	if !slices.Equal(have.Deny, want.Deny) {
		e.deny(n, k, want)
	}
	if !slices.Equal(haveRules, wantRules) {
		e.match(n, k, wantRules)
	}
	if !slices.Equal(have.Servers, want.Servers) {
		e.servers(n, k, have, want)
	}
}

func flagWords(s *lvs.VirtualService) []string {
	return strings.FieldsFunc(ipvsadm.SchedulerFlagNames(s.Scheduler, s.Flags), func(r rune) bool { return r == ',' })
}

func (e *editor) persistence(n *node, want *lvs.VirtualService) {
	p := n.get("persistence")
	if p == nil || p.kind != mapKind || p.repeated || !want.Persistent() {
		e.set(n, "persistence", persistenceValue(want))
		return
	}
	e.set(p, "timeout", seconds(want.Timeout))
	e.set(p, "mask", maskText(want))
}

func persistenceValue(s *lvs.VirtualService) string {
	if !s.Persistent() {
		return ""
	}
	if m := maskText(s); m != "" {
		return braces([]setting{{"timeout", seconds(s.Timeout)}, {"mask", m}})
	}
	return seconds(s.Timeout)
}

// sourceLimit is the value of source_limit; none has to be said where defaults
// have one.
func (e *editor) sourceLimit(l lvs.SourceLimit) string {
	d := e.file.Defaults
	switch {
	case l != (lvs.SourceLimit{}):
		return strconv.Quote(l.String())
	case d != nil && d.SourceLimit.given():
		return "none"
	}
	return ""
}

func (e *editor) policy(n *node, have, want lvs.Policy) {
	p := n.get("policy")
	if p == nil || p.kind != mapKind || p.repeated {
		e.set(n, "policy", e.policyValue(want))
		return
	}
	want.SourceLimit = lvs.SourceLimit{}
	if want == (lvs.Policy{}) {
		e.set(n, "policy", e.policyValue(want)) // a mapping without keys is no mapping
		return
	}
	was := policySettings(have)
	for i, s := range policySettings(want) {
		if s.Value == was[i].Value {
			continue
		}
		if s.Value == policySettings(lvs.Policy{})[i].Value {
			s.Value = "" // the default, which may mean nothing here
		}
		e.set(p, s.Name, s.Value)
	}
}

// policyValue is the value of policy. What defaults have counts as a whole or not
// at all, so an empty one says something.
func (e *editor) policyValue(p lvs.Policy) string {
	p.SourceLimit = lvs.SourceLimit{}
	var keys []setting
	for i, s := range policySettings(p) {
		if s.Value != policySettings(lvs.Policy{})[i].Value {
			keys = append(keys, setting{s.Name, s.Value})
		}
	}
	d := e.file.Defaults
	if keys == nil && (d == nil || d.Policy == nil) {
		return ""
	}
	return braces(keys)
}

func (e *editor) deny(n *node, k *serviceKeys, want *lvs.VirtualService) {
	var list []wanted
	left := map[netip.Prefix]bool{}
	for _, p := range want.Deny {
		left[p] = true
	}
	for i, p := range k.Deny.Items {
		if left[p.V] {
			delete(left, p.V)
			list = append(list, wanted{item: i})
		}
	}
	for _, p := range want.Deny {
		if left[p] {
			list = append(list, wanted{item: -1, value: quotedAddress(prefixText(p))})
		}
	}
	e.list(n, "deny", list)
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func (e *editor) match(n *node, k *serviceKeys, want []lvs.MarkRule) {
	var list []wanted
	for _, m := range want {
		i := slices.IndexFunc(k.Match.Items, func(o match) bool { v := o.V; v.Mark = m.Mark; return v == m })
		list = append(list, wanted{item: i, value: quotedAddress(ruleText(m))})
	}
	e.list(n, "match", list)
}

func (e *editor) servers(n *node, k *serviceKeys, have, want *lvs.VirtualService) {
	items := map[netip.Addr]int{}
	for i := range k.Servers.Items {
		items[k.Servers.Items[i].Address.V.Addr()] = i
	}
	var list []wanted
	for _, r := range slices.Backward(want.Servers) {
		i, ok := items[r.Addr]
		if !ok {
			list = append(list, wanted{item: -1, value: serverValue(r)})
			continue
		}
		w := wanted{item: i}
		if old := have.Server(r.ServerID); old != nil && *old != r {
			w.changes = e.server(&k.Servers.Items[i], *old, r)
		}
		list = append(list, w)
	}
	e.list(n, "servers", list)
}

// server is what has to change in a server's entry.
func (e *editor) server(k *serverKeys, have, want lvs.RealServer) []change {
	if k.node.kind == scalarKind {
		if k.node.alias != nil && !e.aliases {
			return nil
		}
		from, to := e.item(k.node)
		return []change{{from: from, to: to, text: serverValue(want)}}
	}
	// A collection of its own: the list may be written anew with it.
	inner := &editor{source: e.source, aliases: e.aliases, copying: k.node.repeated && k.node.alias == nil}
	for _, v := range []struct {
		key        string
		have, want int64
		initial    int64
	}{{"weight", int64(have.Weight), int64(want.Weight), -1}, {"upper", int64(have.Upper), int64(want.Upper), 0}, {"lower", int64(have.Lower), int64(want.Lower), 0}} {
		if v.have == v.want {
			continue
		}
		value := strconv.FormatInt(v.want, 10)
		if v.want == v.initial {
			value = ""
		}
		inner.set(k.node, v.key, value)
	}
	e.failed = cmp.Or(e.failed, inner.failed)
	return inner.changes
}

func serverValue(r lvs.RealServer) string {
	keys := []setting{{"address", quotedAddress(r.Addr.String())}}
	if r.Weight != lvs.DefaultWeight {
		keys = append(keys, setting{"weight", strconv.Itoa(int(r.Weight))})
	}
	if r.Upper != 0 {
		keys = append(keys, setting{"upper", strconv.FormatUint(uint64(r.Upper), 10)})
	}
	if r.Lower != 0 {
		keys = append(keys, setting{"lower", strconv.FormatUint(uint64(r.Lower), 10)})
	}
	if len(keys) == 1 {
		return keys[0].value
	}
	return braces(keys)
}

// newService is the keys of a service that the file does not have.
func (e *editor) newService(s *lvs.VirtualService, rules []lvs.MarkRule) []setting {
	var keys []setting
	add := func(key, value string) {
		if value != "" {
			keys = append(keys, setting{key, value})
		}
	}
	if s.Mark != 0 {
		add("mark", strconv.FormatUint(uint64(s.Mark), 10))
		if s.Mark6 {
			add("family", "ipv6")
		}
		var values []string
		for _, m := range rules {
			values = append(values, quotedAddress(ruleText(m)))
		}
		add("match", brackets(values))
	} else {
		add("address", quotedAddress(netip.AddrPortFrom(s.Addr, s.Port).String()))
		if s.Protocol != lvs.TCP {
			add("protocol", strings.ToLower(s.Protocol.String()))
		}
	}
	d := e.file.Defaults
	if s.Scheduler != lvs.DefaultScheduler || d != nil && d.Scheduler.given() {
		add("scheduler", string(s.Scheduler))
	}
	add("scheduler_flags", brackets(flagWords(s)))
	add("persistence", persistenceValue(s))
	if s.Flags&lvs.FlagOnePacket != 0 {
		add("one_packet", "true")
	}
	add("policy", e.policyValue(s.Policy))
	add("source_limit", e.sourceLimit(s.Policy.SourceLimit))
	if d != nil && d.Quorum != nil && d.Quorum.Up.V > int64(max(1, len(s.Servers))) {
		add("quorum", strconv.Itoa(max(1, len(s.Servers))))
	}
	var deny, servers []string
	for _, p := range s.Deny {
		deny = append(deny, quotedAddress(prefixText(p)))
	}
	for _, r := range slices.Backward(s.Servers) {
		servers = append(servers, serverValue(r))
	}
	add("deny", brackets(deny))
	add("servers", brackets(servers))
	return keys
}
