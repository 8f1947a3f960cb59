// SPDX-License-Identifier: MIT

package config

import (
	"errors"
	"reflect"
	"slices"
	"strings"
)

// list is a list of values, nowhere if it is not given.
type list[T any] struct {
	place
	Items []T
}

// named is a mapping whose keys are names that the file gives, in its order.
type named[T any] struct {
	place
	Items []namedItem[T]
}

type namedItem[T any] struct {
	Name  text
	Value T
}

// collection is list or named.
type collection interface {
	placed
	readAll(r *reader, n *node, tag reflect.StructTag)
	element() reflect.Type
	isNamed() bool
}

// short is a struct that may be written as one value. shorter says which.
type short interface {
	placed
	shortly(r *reader, n *node)
	shorter() []schema
}

// reader fills the structs of keys.go from a file's nodes, and goes on after what
// is wrong.
type reader struct {
	*problems
	known map[reflect.Type][]field // what was looked up before
}

func (r *reader) fields(t reflect.Type) []field {
	if r.known[t] == nil {
		r.known[t] = fieldsOf(t)
	}
	return r.known[t]
}

// into reads a node into v, a pointer to one of the types of keys.go and
// values.go. key is what it is called for people.
func (r *reader) into(n *node, v reflect.Value, key string, tag reflect.StructTag) {
	switch p := v.Interface().(type) {
	case scalar:
		if err := p.read(n, tag); err != nil {
			r.wrong(n, key, err)
			return
		}
		p.put(n)
		return
	case collection:
		p.put(n)
		p.readAll(r, n, tag)
		return
	case short:
		if n.kind != mapKind {
			p.put(n)
			p.shortly(r, n)
			return
		}
	}
	if v.Elem().Kind() == reflect.Pointer {
		v.Elem().Set(reflect.New(v.Elem().Type().Elem()))
		r.into(n, v.Elem(), key, tag)
		return
	}
	r.mapping(n, v, key)
}

// wrong says what is wrong with the value of a key.
func (r *reader) wrong(n *node, key string, err error) {
	var m *misspelt
	if n.kind == scalarKind && n.scalar == nullType {
		r.add(n, "", "%s has no value: give it one, or leave it out", key)
	} else if !errors.As(err, &m) {
		r.add(n, "", "%s %s", key, err)
	} else if strings.HasPrefix(m.text, "unknown ") {
		r.add(n, m.meant, "%s", m.text)
	} else {
		r.add(n, m.meant, "%s %s", key, m.text)
	}
}

// mapping reads a struct.
func (r *reader) mapping(n *node, v reflect.Value, key string) {
	if n.kind != mapKind {
		if n.kind == scalarKind && n.scalar == nullType {
			r.add(n, "", "%s has no value: give it one, or leave it out", key)
		} else {
			r.add(n, "", "%s takes a mapping (key: value), not %s", key, n.what())
		}
		return
	}
	v.Interface().(placed).put(n)
	fields := r.fields(v.Elem().Type())
	given := map[string]bool{}
	var kind string
	if t := n.get("type"); t != nil {
		kind = t.text
	}
	for _, e := range n.entries {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == e.key.text })
		if i < 0 {
			r.unknownKey(e.key, key, fields, v)
			continue
		}
		f := fields[i]
		given[f.key] = true
		if slices.Contains(vocabulary("kind"), kind) && !f.of(kind) {
			r.add(e.key, "", "%s is nothing for a check of kind %s: it belongs to %s", f.key, kind, strings.Join(f.kinds, ", "))
			continue
		}
		r.into(e.value, v.Elem().FieldByIndex(f.index).Addr(), f.key, f.tag)
	}
	for _, f := range fields {
		if f.required && !given[f.key] {
			r.add(n, "", "%s needs %s", key, f.key)
		}
	}
	if either := eitherOf(v.Elem().Type()); len(either) > 0 {
		var there []string
		for _, k := range either {
			if given[k] {
				there = append(there, k)
			}
		}
		if len(there) != 1 {
			where := n
			if len(there) > 1 {
				where = keyNode(n, there[1])
			}
			r.add(where, "", "%s needs one of %s, and only one", key, strings.Join(either, ", "))
		}
	}
}

func keyNode(n *node, key string) *node {
	for _, e := range n.entries {
		if e.key.text == key {
			return e.key
		}
	}
	return n
}

func (r *reader) unknownKey(key *node, of string, fields []field, v reflect.Value) {
	if _, file := v.Interface().(*fileKeys); file && strings.HasPrefix(key.text, "x-") {
		return // for anchors
	}
	var keys []string
	for _, f := range fields {
		keys = append(keys, f.key)
	}
	near := nearest(key.text, keys)
	if near == "" {
		near = also(key.text, keys)
	}
	in := " in " + of
	if of == wholeFile {
		in = ""
	}
	if near == "" {
		r.add(key, "", "unknown key %s%s: there are %s", key.text, in, strings.Join(keys, ", "))
		return
	}
	r.add(key, near, "unknown key %s%s", key.text, in)
}

// wholeFile is what the file is called as a mapping.
const wholeFile = "the file"

// also knows keys by what other programs call them.
func also(key string, keys []string) string {
	other := map[string]string{
		"lb_algo": "scheduler", "lvs_sched": "scheduler", "lvs_scheduler": "scheduler", "algorithm": "scheduler",
		"delay_loop": "interval", "checkinterval": "interval", "connect_timeout": "timeout", "checktimeout": "timeout",
		"retry": "fall", "nb_get_retry": "fall", "failcount": "fall", "checkcount": "fall",
		"persistence_timeout": "persistence", "persistent": "persistence", "persistence_granularity": "mask", "netmask": "mask",
		"real_server": "servers", "real_servers": "servers", "real": "servers", "backends": "servers", "members": "servers", "destinations": "servers",
		"virtual_server": "services", "virtual": "services", "fallback": "sorry_server", "inhibit_on_failure": "on_failure", "quiescent": "on_failure",
		"uthreshold": "upper", "lthreshold": "lower", "u_threshold": "upper", "l_threshold": "lower", "fwmark": "mark", "kind": "type",
		"ip": "address", "vip": "address", "rip": "address", "host": "address", "uri": "path", "url": "path", "ops": "one_packet",
		"health_check": "checks", "healthcheck": "checks", "request": "path", "receive": "regex", "expect": "contains", "sni": "server_name",
	}[key]
	if slices.Contains(keys, other) {
		return other
	}
	return ""
}

// field is one key of a struct, those of embedded structs included.
type field struct {
	key      string
	tag      reflect.StructTag
	index    []int
	typ      reflect.Type
	required bool
	kinds    []string
}

// of tells whether checks of a kind have the key.
func (f field) of(kind string) bool { return f.kinds == nil || slices.Contains(f.kinds, kind) }

func fieldsOf(t reflect.Type) []field {
	var all []field
	for _, f := range reflect.VisibleFields(t) {
		if key := f.Tag.Get("key"); key != "" {
			x := field{key: key, tag: f.Tag, index: f.Index, typ: f.Type, required: f.Tag.Get("required") == "yes"}
			if k := f.Tag.Get("kinds"); k != "" {
				x.kinds = strings.Fields(k)
			}
			all = append(all, x)
		}
	}
	return all
}

func eitherOf(t reflect.Type) []string {
	f, ok := t.FieldByName("place")
	if !ok {
		return nil
	}
	return strings.Fields(f.Tag.Get("either"))
}

func (l *list[T]) readAll(r *reader, n *node, tag reflect.StructTag) {
	key := tag.Get("key")
	if n.kind != listKind {
		if n.kind == scalarKind && n.scalar == nullType {
			r.add(n, "", "%s has no value: give it one, or leave it out", key)
		} else {
			r.add(n, "", "%s takes a list, as [a, b] or with a dash before each, not %s", key, n.what())
		}
		return
	}
	one := singular(key)
	l.Items = make([]T, len(n.items))
	for i, item := range n.items {
		r.into(item, reflect.ValueOf(&l.Items[i]), one, tag)
	}
}

func (l *list[T]) element() reflect.Type { return reflect.TypeFor[T]() }
func (l *list[T]) isNamed() bool         { return false }

// singular is what one element of a list is called.
func singular(key string) string {
	switch key {
	case "services", "servers", "checks", "interfaces", "ports", "vips", "vlans", "headers", "scheduler_flags":
		return strings.TrimSuffix(key, "s")
	}
	return key
}

func (l *named[T]) readAll(r *reader, n *node, tag reflect.StructTag) {
	key := tag.Get("key")
	if n.kind != mapKind {
		r.add(n, "", "%s takes a mapping (name: value), not %s", key, n.what())
		return
	}
	l.Items = make([]namedItem[T], len(n.entries))
	for i, e := range n.entries {
		if err := l.Items[i].Name.read(e.key, tag); err != nil {
			r.wrong(e.key, "a name in "+key, err)
		}
		l.Items[i].Name.put(e.key)
		r.into(e.value, reflect.ValueOf(&l.Items[i].Value), singular(key)+" "+e.key.text, "")
	}
}

func (l *named[T]) element() reflect.Type { return reflect.TypeFor[T]() }
func (l *named[T]) isNamed() bool         { return true }

func (v *vlan) read(n *node, _ reflect.StructTag) error { return v.text.read(n, `form:"vlan"`) }
func (v *value) read(n *node, _ reflect.StructTag) error {
	return v.text.read(n, `form:"line" empty:"yes"`)
}

const (
	serverTag      = `port:"optional"`
	persistenceTag = `min:"1s" max:"31d" whole:"yes"`
	quorumTag      = `min:"1" max:"100000"`
	checkNameTag   = `form:"name"`
)

func (s *serverKeys) shortly(r *reader, n *node) { r.oneValue(n, &s.Address, "server", serverTag) }
func (s *serverKeys) shorter() []schema          { return []schema{s.Address.schema(serverTag)} }

func (p *persistenceKeys) shortly(r *reader, n *node) {
	r.oneValue(n, &p.Timeout, "persistence", persistenceTag)
}
func (p *persistenceKeys) shorter() []schema { return []schema{p.Timeout.schema(persistenceTag)} }

func (q *quorumKeys) shortly(r *reader, n *node) {
	r.oneValue(n, &q.Up, "quorum", quorumTag)
	q.Down = q.Up
}
func (q *quorumKeys) shorter() []schema { return []schema{q.Up.schema(quorumTag)} }

func (f *flapKeys) shortly(r *reader, n *node) {
	f.off = true
	r.onlyFalse(n, "flap")
}
func (f *flapKeys) shorter() []schema { return []schema{{"const": false}} }

func (w *weighKeys) shortly(r *reader, n *node) {
	w.off = true
	r.onlyFalse(n, "agent")
}
func (w *weighKeys) shorter() []schema { return []schema{{"const": false}} }

func (p *passiveKeys) shortly(r *reader, n *node) {
	var f flag
	r.oneValue(n, &f, "passive", "")
	p.off = !f.V
}
func (p *passiveKeys) shorter() []schema { return []schema{(*flag)(nil).schema("")} }

func (c *checkUse) shortly(r *reader, n *node) {
	var t text
	r.oneValue(n, &t, "check", checkNameTag)
	c.ref = t.V
}
func (c *checkUse) shorter() []schema { return []schema{(*text)(nil).schema(checkNameTag)} }

// oneValue reads the short form of a mapping.
func (r *reader) oneValue(n *node, to scalar, key string, tag reflect.StructTag) {
	if n.kind == listKind {
		r.add(n, "", "%s takes one value or a mapping, not a list", key)
		return
	}
	if err := to.read(n, tag); err != nil {
		r.wrong(n, key, err)
		return
	}
	to.put(n)
}

func (r *reader) onlyFalse(n *node, key string) {
	var f flag
	if r.oneValue(n, &f, key, ""); f.V {
		r.add(n, "", "%s takes a mapping, or false for none", key)
	}
}
