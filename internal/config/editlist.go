// SPDX-License-Identifier: MIT

package config

import (
	"fmt"
	"slices"
	"strings"
)

// setting is a key and its value as it is written in braces.
type setting struct{ key, value string }

func braces(keys []setting) string {
	var all []string
	for _, k := range keys {
		all = append(all, k.key+": "+k.value)
	}
	return "{" + strings.Join(all, ", ") + "}"
}

// brackets is a list; nothing if it is empty.
func brackets(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return "[" + strings.Join(values, ", ") + "]"
}

// quotedAddress is a text with an address in it as YAML has to have it.
func quotedAddress(s string) string {
	if strings.Contains(s, "[") || strings.HasPrefix(s, ":") || strings.HasSuffix(s, ":") || strings.Contains(s, "::") {
		return `"` + s + `"`
	}
	return s
}

func (e *editor) fail(n *node, what string) {
	if e.failed == nil {
		e.failed = fmt.Errorf("%w: line %d: %s", ErrEdit, n.line, what)
	}
}

// entryOf is a mapping's own entry of a key, and its place.
func (n *node) entryOf(key string) (entry, int) {
	for i, e := range n.entries {
		if e.key.text == key && (n.repeated || !e.key.repeated) {
			return e, i
		}
	}
	return entry{}, -1
}

func (e *editor) replace(from, to int, text string) {
	e.changes = append(e.changes, change{from: from, to: to, text: text, owner: from})
}

// set has a mapping say a key's value; "" takes the key away.
func (e *editor) set(n *node, key, value string) {
	if n.repeated && !e.copying {
		return // it stands elsewhere
	}
	own, i := n.entryOf(key)
	switch {
	case i < 0 && value == "":
		if n.get(key) != nil && e.aliases {
			e.fail(n, key+" is there by a merge (<<), and cannot be taken away")
		}
	case i < 0:
		e.insert(n, key, value)
	case value == "":
		e.remove(n, i)
	default:
		from, to := e.span(own)
		if own.value.alias != nil && !e.aliases {
			return
		}
		e.replace(from, to, spaced(e.text, from, value))
	}
}

// spaced has a blank before a value that comes right behind a colon.
func spaced(text string, at int, value string) string {
	if at > 0 && text[at-1] == ':' {
		return " " + value
	}
	return value
}

// span is where the value of an entry is written.
func (e *editor) span(own entry) (from, to int) {
	v := own.value
	switch {
	case v.alias != nil:
		from = e.offset(v.alias.Position.Line, v.alias.Position.Column)
		return from, e.endOfToken(from, false)
	case v.kind == scalarKind && v.line == own.key.line || v.flow:
		from = e.at(v)
		return from, e.endOfToken(from, v.inFlow)
	}
	// A block: from behind the colon, or its anchor, to its last line's end.
	from = e.endOfHead(own)
	end := e.lineStart(e.endOfBlock(own.key.line, own.key.column, v.kind == listKind)) - 1
	return from, max(from, end)
}

// endOfHead is the end of "key:", with an anchor behind it.
func (e *editor) endOfHead(own entry) int {
	at := e.endOfKey(own.key)
	rest := e.text[at:]
	if trimmed := strings.TrimLeft(rest, " "); strings.HasPrefix(trimmed, "&") {
		name := strings.IndexAny(trimmed, " \n")
		if name < 0 {
			name = len(trimmed)
		}
		at += len(rest) - len(trimmed) + name
	}
	return at
}

func (e *editor) endOfKey(key *node) int {
	at := e.at(key)
	if at < len(e.text) && (e.text[at] == '"' || e.text[at] == '\'') {
		at = e.endOfToken(at, false)
	} else {
		at += len(key.text)
	}
	if i := strings.IndexByte(e.text[at:], ':'); i >= 0 {
		at += i + 1
	}
	return at
}

// insert adds a key to a mapping: to one in braces at its end, to another behind
// the entry that says what it is about.
func (e *editor) insert(n *node, key, value string) {
	if n.flow {
		open := e.at(n)
		end := e.endOfFlow(open) - 1
		if _, last := e.lastOwn(n); last != nil {
			_, to := e.span(*last)
			e.changes = append(e.changes, change{to, to, ", " + key + ": " + value, open})
			return
		}
		e.changes = append(e.changes, change{end, end, key + ": " + value, open})
		return
	}
	own := e.anchorEntry(n)
	if own == nil {
		e.fail(n, "there is no place for "+key+": write it there by hand")
		return
	}
	at := e.lineStart(e.endOfEntry(*own))
	text := strings.Repeat(" ", own.key.column-1) + key + ": " + value + "\n"
	if at == len(e.text) && at > 0 && e.text[at-1] != '\n' {
		text = "\n" + strings.TrimSuffix(text, "\n")
	}
	e.changes = append(e.changes, change{at, at, text, e.at(n)})
}

func (e *editor) lastOwn(n *node) (int, *entry) {
	for i := len(n.entries) - 1; i >= 0; i-- {
		if n.repeated || !n.entries[i].key.repeated {
			return i, &n.entries[i]
		}
	}
	return -1, nil
}

// anchorEntry is the entry behind which new keys come.
func (e *editor) anchorEntry(n *node) *entry {
	for _, key := range []string{"scheduler", "protocol", "match", "address", "mark"} {
		if own, i := n.entryOf(key); i >= 0 {
			return &own
		}
	}
	_, own := e.lastOwn(n)
	return own
}

// endOfEntry is the first line behind an entry of a block mapping.
func (e *editor) endOfEntry(own entry) int {
	end := e.endOfBlock(own.key.line, own.key.column, own.value.kind == listKind)
	if v := own.value; v.flow && v.alias == nil && !v.repeated {
		end = max(end, e.lineOf(e.endOfFlow(e.at(v))-1)+1)
	}
	return end
}

// remove takes an entry away.
func (e *editor) remove(n *node, i int) {
	own := n.entries[i]
	next := func() *entry {
		for j := i + 1; j < len(n.entries); j++ {
			if n.repeated || !n.entries[j].key.repeated {
				return &n.entries[j]
			}
		}
		return nil
	}()
	at := e.at(own.key)
	switch {
	case n.flow && i > 0 && n.entries[i-1].key.repeated == own.key.repeated:
		_, from := e.span(n.entries[i-1])
		_, to := e.span(own)
		e.replace(from, to, "")
	case n.flow && next != nil:
		e.replace(at, e.at(next.key), "")
	case n.flow:
		_, to := e.span(own)
		e.replace(at, to, "")
	case strings.TrimLeft(e.text[e.lineStart(own.key.line):at], " ") == "":
		e.replace(e.lineStart(own.key.line), e.lineStart(e.endOfEntry(own)), "")
	case next != nil: // it is on the line of its dash
		e.replace(at, e.at(next.key), "")
	default:
		e.fail(own.key, own.key.text+" cannot be taken away: it is all there is")
	}
}

// wanted is an element that a list is to have: one that it has (item), with
// changes in it, or a new one: a value, or the keys of a mapping.
type wanted struct {
	item    int
	changes []change
	value   string
	keys    []setting
}

func (w wanted) short() string {
	if w.keys != nil {
		return braces(w.keys)
	}
	return w.value
}

// long is a new element with each key on a line of its own.
func (w wanted) long(column int) string {
	if w.keys == nil {
		return w.value
	}
	var all []string
	for _, k := range w.keys {
		all = append(all, k.key+": "+k.value)
	}
	return strings.Join(all, "\n"+strings.Repeat(" ", column))
}

// list has a mapping's list be as wanted.
func (e *editor) list(n *node, key string, want []wanted) {
	if n.repeated {
		return
	}
	own, i := n.entryOf(key)
	v := n.get(key)
	if len(want) == 0 && (v == nil || len(v.items) == 0) {
		return
	}
	switch {
	case i < 0 && v != nil: // by a merge
		if e.aliases {
			e.insert(n, key, e.shortList(v, want))
		}
	case i < 0 && (n.flow || key == "deny"):
		e.insert(n, key, e.shortList(nil, want))
	case i < 0:
		e.newList(n, key, want)
	case own.value.alias != nil:
		if e.aliases {
			from, to := e.span(own)
			e.replace(from, to, e.shortList(own.value, want))
		}
	case own.value.repeated:
	case own.value.flow && len(own.value.items) == 0 && !n.flow:
		var b strings.Builder
		for _, w := range want {
			fmt.Fprintf(&b, "\n%*s- %s", own.key.column+1, "", w.long(own.key.column+3))
		}
		from, to := e.span(own)
		e.replace(len(strings.TrimRight(e.text[:from], " ")), to, b.String())
	case own.value.flow:
		e.flowList(own, want)
	default:
		e.blockList(own, want)
	}
}

// item is where an element of a list is written.
func (e *editor) item(n *node) (from, to int) {
	from = e.at(n)
	if n.alias != nil {
		from = e.offset(n.alias.Position.Line, n.alias.Position.Column)
	}
	return from, e.endOfToken(from, n.inFlow)
}

// shortList is a list in brackets; elements that there are as they are written.
func (e *editor) shortList(v *node, want []wanted) string {
	var values []string
	for _, w := range want {
		if w.item < 0 {
			values = append(values, w.short())
			continue
		}
		n := v.items[w.item]
		if n.kind != scalarKind && !n.flow && n.alias == nil {
			e.fail(n, "what an alias repeats is to change in one place only: write it out there")
			continue
		}
		from, to := e.item(n)
		values = append(values, e.applied(from, to, slices.Concat(e.changes, w.changes)))
	}
	return "[" + strings.Join(values, ", ") + "]"
}

// newList writes a list that was not there.
func (e *editor) newList(n *node, key string, want []wanted) {
	_, own := e.lastOwn(n)
	if own == nil {
		e.fail(n, "there is no place for "+key+": write it there by hand")
		return
	}
	blanks := own.key.column - 1
	var b strings.Builder
	at := e.lineStart(e.endOfEntry(*own))
	if at == len(e.text) && at > 0 && e.text[at-1] != '\n' {
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%*s%s:\n", blanks, "", key)
	for _, w := range want {
		fmt.Fprintf(&b, "%*s- %s\n", blanks+2, "", w.long(blanks+4))
	}
	e.changes = append(e.changes, change{at, at, b.String(), e.at(n)})
}

// flowList edits a list in brackets.
func (e *editor) flowList(own entry, want []wanted) {
	v := own.value
	inPlace := len(want) == len(v.items)
	for i, w := range want {
		inPlace = inPlace && w.item == i
	}
	if inPlace {
		for _, w := range want {
			e.changes = append(e.changes, w.changes...)
		}
		return
	}
	at := e.at(v)
	e.replace(at, e.endOfFlow(at), e.shortList(v, want))
}

// drop takes back the changes within a part that is written anew with them: one at
// its end would be made twice.
func (e *editor) drop(from, to int) {
	e.changes = slices.DeleteFunc(e.changes, func(c change) bool { return c.within(from, to) })
}

// blockList edits a list with dashes. An element takes its lines with it, and the
// comment right above.
func (e *editor) blockList(own entry, want []wanted) {
	v := own.value
	inPlace := len(want) == len(v.items)
	for i, w := range want {
		inPlace = inPlace && w.item == i
	}
	if inPlace {
		for _, w := range want {
			e.changes = append(e.changes, w.changes...)
		}
		return
	}
	if len(v.dashes) != len(v.items) {
		e.fail(v, "this list has an empty element: take it away")
		return
	}
	first := v.dashes[0]
	end := e.endOfBlock(own.key.line, own.key.column, true)
	begins := make([]int, len(v.items)+1) // lines
	begins[len(v.items)] = end
	for i := range v.items {
		begins[i] = v.dashes[i]
		for i > 0 && begins[i] > v.dashes[i-1]+1 {
			above := e.line(begins[i] - 1)
			if blanks, _ := indent(above); blanks != v.dashColumn-1 || !strings.HasPrefix(above[blanks:], "#") {
				break
			}
			begins[i]--
		}
	}
	from, to := e.lineStart(first), e.lineStart(end)
	if len(want) == 0 {
		head := e.endOfHead(own)
		e.drop(from, to)
		e.replace(head, head, " []")
		e.replace(from, to, "")
		return
	}
	var b strings.Builder
	for _, w := range want {
		text := ""
		if w.item < 0 {
			text = fmt.Sprintf("%*s- %s", v.dashColumn-1, "", w.long(v.dashColumn+1))
		} else {
			text = e.applied(e.lineStart(begins[w.item]), e.lineStart(begins[w.item+1]), slices.Concat(e.changes, w.changes))
		}
		b.WriteString(text)
		if !strings.HasSuffix(text, "\n") {
			b.WriteByte('\n')
		}
	}
	e.drop(from, to)
	e.replace(from, to, b.String())
}
