// SPDX-License-Identifier: MIT

package config

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// What a file may take. A site of 10,000 services with 10 servers each is a fifth
// of it; what is beyond is no site.
const (
	maxText    = 16 << 20 // bytes
	maxDepth   = 32       // of lists and mappings in each other
	maxAliases = 100_000  // values that aliases (*name) and merges (<<) repeat
)

type kind uint8

const (
	scalarKind kind = iota
	mapKind
	listKind
)

// scalarType is what YAML takes a plain scalar for.
type scalarType uint8

const (
	stringType scalarType = iota
	intType
	floatType
	boolType
	nullType
)

// node is a value of the file: YAML without its many ways to say the same.
type node struct {
	kind         kind
	scalar       scalarType
	text         string // of a scalar: what it says, without quotes
	line, column int    // from 1, in characters
	entries      []entry
	items        []*node
	repeated     bool         // it stands elsewhere, and is here by an alias or a merge
	alias        *token.Token // of a value that is one: the *
	dashes       []int        // of a block list: the lines of its items' dashes
	dashColumn   int
	flow         bool // it is written in brackets or braces
	inFlow       bool // it is within such
}

type entry struct{ key, value *node }

// get returns what a mapping has under a key, or nil.
func (n *node) get(key string) *node {
	for _, e := range n.entries {
		if e.key.text == key {
			return e.value
		}
	}
	return nil
}

// what names a kind of value for people.
func (n *node) what() string {
	switch {
	case n.kind == mapKind:
		return "a mapping"
	case n.kind == listKind:
		return "a list"
	}
	return [...]string{"a text", "a number", "a number", "true or false", "nothing"}[n.scalar]
}

// builder makes nodes of what the YAML library parsed.
type builder struct {
	problems *problems
	anchors  map[string]ast.Node
	open     map[string]bool // aliases that are being followed
	repeated int             // values made by aliases so far
	inside   int             // aliases that we are in
	flows    int             // brackets and braces that we are in
}

// parseYAML returns the file's only document. What makes it unreadable is one
// problem; then there is no node.
func parseYAML(ps *problems, text []byte) (root *node) {
	text, ok := cleaned(ps, text)
	if !ok {
		return nil
	}
	// The library has no promise that it never panics, and a file is no reason
	// for a daemon to end.
	defer func() {
		if r := recover(); r != nil {
			ps.addAt(1, 1, "", "this is no YAML that can be read: %v", r)
			root = nil
		}
	}()
	tokens := rejoined(lexer.Tokenize(string(text)))
	if t := tooDeep(tokens); t != nil {
		ps.addToken(t, "lists and mappings are more than %d deep in each other here: this is no file for shunt", maxDepth)
		return nil
	}
	file, err := parser.Parse(tokens, parser.ParseComments, parser.AllowDuplicateMapKey())
	if err != nil {
		ps.addSyntax(err, text)
		return nil
	}
	var docs []*ast.DocumentNode
	for _, d := range file.Docs {
		if d != nil && d.Body != nil && d.Body.Type() != ast.CommentType && d.Body.Type() != ast.CommentGroupType {
			docs = append(docs, d)
		}
	}
	switch {
	case len(docs) == 0:
		ps.addAt(1, 1, "", "the file says nothing: it needs at least services, or realserver")
		return nil
	case len(docs) > 1:
		at := docs[1].Start
		if at == nil {
			at = docs[1].Body.GetToken()
		}
		ps.addToken(at, "a second YAML document begins here (---): a site is one document")
		return nil
	}
	b := &builder{problems: ps, anchors: map[string]ast.Node{}, open: map[string]bool{}}
	before := len(ps.list)
	root = b.build(docs[0].Body, 0)
	if empty := root == nil || root.kind == mapKind && len(root.entries) == 0; empty && len(ps.list) == before {
		ps.addAt(1, 1, "", "the file says nothing: it needs at least services, or realserver")
		return nil
	}
	return root
}

// blankLine is one that has a tab and nothing to say. The library refuses it.
var blankLine = regexp.MustCompile(`(?m)^ *\t[ \t]*$`)

// cleaned is the text without byte order mark and carriage returns, which move no
// line and no column.
func cleaned(ps *problems, text []byte) ([]byte, bool) {
	if len(text) > maxText {
		ps.addAt(1, 1, "", "the file has %d MiB, at most %d are read: this is no file for shunt", len(text)>>20, maxText>>20)
		return nil, false
	}
	if bytes.HasPrefix(text, []byte{0xff, 0xfe}) || bytes.HasPrefix(text, []byte{0xfe, 0xff}) {
		ps.addAt(1, 1, "", "the file is UTF-16: save it as UTF-8")
		return nil, false
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	text = blankLine.ReplaceAll(text, nil)
	line := 1
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			ps.addAt(line, 1, "", "a byte %#02x that is no UTF-8: save the file as UTF-8", text[i])
			return nil, false
		case r < ' ' && r != '\n' && r != '\t':
			ps.addAt(line, 1, "", "a control character %#02x: only texts in double quotes can have one, as \"\\x%02x\"", r, r)
			return nil, false
		case r == '\n':
			line++
		}
		i += n
	}
	return text, true
}

// tooDeep returns the token at which flow collections, or list entries on one
// line, get deeper than maxDepth: the parser calls itself for each. Block
// collections cost the writer a longer line each, so they are bounded by the
// size, and build counts them.
func tooDeep(tokens token.Tokens) *token.Token {
	flow, dashes, line := 0, 0, 0
	var columns []int // of block collections that are open, by where they begin
	for _, t := range tokens {
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType:
			if t.Position.Line != line {
				line, dashes = t.Position.Line, 0
			}
			dashes++
		}
		if flow == 0 && t.Type != token.CommentType {
			c := t.Position.Column
			for len(columns) > 0 && columns[len(columns)-1] >= c {
				columns = columns[:len(columns)-1]
			}
			columns = append(columns, c)
		}
		if flow > maxDepth || flow == 0 && (dashes > 2*maxDepth || len(columns) > 8*maxDepth) {
			return t
		}
	}
	return nil
}

// build makes a node. It is nil if there is nothing, or a problem was reported.
func (b *builder) build(y ast.Node, depth int) *node {
	if y == nil {
		return nil
	}
	if depth > maxDepth {
		b.problems.addToken(y.GetToken(), "lists and mappings are more than %d deep in each other here: this is no file for shunt", maxDepth)
		return nil
	}
	if b.inside > 0 {
		if b.repeated++; b.repeated > maxAliases {
			if b.repeated == maxAliases+1 {
				b.problems.addToken(y.GetToken(), "aliases (*name) repeat more than %d values: write them out where they are meant", maxAliases)
			}
			return nil
		}
	}
	t := y.GetToken()
	n := &node{repeated: b.inside > 0, inFlow: b.flows > 0}
	if t != nil && t.Position != nil {
		n.line, n.column = t.Position.Line, t.Position.Column
	}
	switch y := y.(type) {
	case *ast.MappingNode:
		return b.mapping(n, y.Values, depth, y.Start)
	case *ast.MappingValueNode:
		return b.mapping(n, []*ast.MappingValueNode{y}, depth, nil)
	case *ast.SequenceNode:
		n.kind, n.flow = listKind, y.IsFlowStyle
		defer b.enter(n.flow)()
		for i, v := range y.Values {
			item := b.build(v, depth+1)
			if item == nil {
				continue
			}
			n.items = append(n.items, item)
			if !n.flow && i < len(y.Entries) {
				n.dashColumn = y.Entries[i].Start.Position.Column
				n.dashes = append(n.dashes, y.Entries[i].Start.Position.Line)
			}
		}
		return n
	case *ast.AnchorNode:
		if y.Name == nil {
			return nil
		}
		b.anchors[y.Name.GetToken().Value] = y.Value
		return b.build(y.Value, depth)
	case *ast.AliasNode:
		return b.alias(y, depth)
	case *ast.TagNode:
		b.problems.addToken(y.Start, "tags such as %s have no meaning here: leave it out", y.Start.Value)
		return nil
	case *ast.LiteralNode:
		n.text = y.Value.Value
		return n
	case *ast.StringNode:
		n.text = y.Value
		return n
	case *ast.IntegerNode:
		n.scalar, n.text = intType, t.Value
		return n
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		n.scalar, n.text = floatType, t.Value
		return n
	case *ast.BoolNode:
		n.scalar, n.text = boolType, t.Value
		return n
	case *ast.NullNode:
		n.scalar = nullType
		return n
	case *ast.CommentGroupNode, *ast.CommentNode:
		return nil
	}
	b.problems.addToken(t, "%s cannot stand here", y.Type())
	return nil
}

// enter goes into a list or a mapping; what it returns leaves it.
func (b *builder) enter(flow bool) (leave func()) {
	if !flow {
		return func() {}
	}
	b.flows++
	return func() { b.flows-- }
}

func (b *builder) mapping(n *node, values []*ast.MappingValueNode, depth int, brace *token.Token) *node {
	n.kind = mapKind
	if brace != nil && brace.Type == token.MappingStartType {
		n.line, n.column, n.flow = brace.Position.Line, brace.Position.Column, true
	} else if len(values) > 0 {
		if t := values[0].Key.GetToken(); t != nil {
			n.line, n.column = t.Position.Line, t.Position.Column
		}
	}
	defer b.enter(n.flow)()
	seen := map[string]*node{}
	var merges []ast.Node
	for _, v := range values {
		if v.Key.IsMergeKey() {
			merges = append(merges, v.Value)
			continue
		}
		var key *node
		if k, explicit := v.Key.(*ast.MappingKeyNode); explicit {
			key = b.build(k.Value, depth+1)
		} else {
			key = b.build(v.Key, depth+1)
		}
		if key == nil {
			continue
		}
		if key.kind != scalarKind {
			b.problems.add(key, "", "%s cannot be a key", key.what())
			continue
		}
		if first := seen[key.text]; first != nil {
			b.problems.add(key, "", "key %s is there already, on line %d", key.text, first.line)
			continue
		}
		seen[key.text] = key
		if value := b.build(v.Value, depth+1); value != nil {
			n.entries = append(n.entries, entry{key, value})
		}
	}
	for _, m := range merges {
		b.merge(n, seen, m, depth)
	}
	return n
}

// merge adds what << names to a mapping, as far as it has no keys of its own for
// it (https://yaml.org/type/merge.html).
func (b *builder) merge(n *node, seen map[string]*node, y ast.Node, depth int) {
	b.inside++
	defer func() { b.inside-- }()
	from := b.build(y, depth+1)
	if from == nil {
		return
	}
	sources := []*node{from}
	if from.kind == listKind {
		sources = from.items
	}
	for _, s := range sources {
		if s.kind != mapKind {
			b.problems.addToken(y.GetToken(), "<< takes a mapping, or a list of them, not %s", s.what())
			return
		}
		for _, e := range s.entries {
			if seen[e.key.text] == nil {
				seen[e.key.text] = e.key
				n.entries = append(n.entries, e)
			}
		}
	}
}

func (b *builder) alias(y *ast.AliasNode, depth int) *node {
	if y.Value == nil {
		return nil
	}
	name := y.Value.GetToken().Value
	target, ok := b.anchors[name]
	switch {
	case !ok:
		names := make([]string, 0, len(b.anchors))
		for a := range b.anchors {
			names = append(names, a)
		}
		near := nearest(name, names)
		b.problems.addSuggesting(y.GetToken(), near, "*%s: there is no &%s before it", name, name)
		return nil
	case b.open[name]:
		b.problems.addToken(y.GetToken(), "*%s contains itself", name)
		return nil
	}
	b.open[name] = true
	b.inside++
	defer func() { b.inside--; delete(b.open, name) }()
	flows := b.flows
	b.flows = 0 // where it stands, which is not here
	n := b.build(target, depth)
	b.flows = flows
	if n != nil && b.inside == 1 {
		n.alias = y.GetToken()
	}
	return n
}

// addSyntax reports that the library could not read the file.
func (ps *problems) addSyntax(err error, text []byte) {
	line, column, message := 1, 1, err.Error()
	var y yaml.Error
	if errors.As(err, &y) {
		message = y.GetMessage()
		if t := y.GetToken(); t != nil && t.Position != nil {
			line, column = t.Position.Line, t.Position.Column
		}
	}
	number := 0
	for l := range strings.Lines(string(text)) {
		number++
		indent := l[:len(l)-len(strings.TrimLeft(l, " \t"))]
		if i := strings.IndexByte(indent, '\t'); i >= 0 && strings.TrimSpace(l) != "" {
			ps.addAt(number, i+1, "", "indented with a tab: YAML is indented with spaces")
			return
		}
	}
	ps.addAt(line, column, "", "this is no YAML: %s%s", message, hint(ps.line(line)))
}

// hint names the usual reasons why a line is no YAML.
func hint(line string) string {
	switch {
	case strings.Contains(line, ": [") && strings.Contains(line, "]:") || strings.Contains(line, "- [") && strings.Contains(line, "]:"):
		return ` (an IPv6 address with a port wants quotes: "[2001:db8::172]:80")`
	case strings.Contains(line, ": %") || strings.Contains(line, ": *") || strings.Contains(line, ": @") || strings.Contains(line, ": `"):
		return " (a text that begins with one of % * @ ` wants quotes)"
	case strings.Count(line, ": ") > 1 && !strings.Contains(line, "{"):
		return " (a text with a colon and a blank in it wants quotes)"
	}
	return ""
}

func position(t *token.Token) (line, column int) {
	if t == nil || t.Position == nil {
		return 1, 1
	}
	return t.Position.Line, t.Position.Column
}

func (ps *problems) addToken(t *token.Token, format string, args ...any) {
	ps.addSuggesting(t, "", format, args...)
}

func (ps *problems) addSuggesting(t *token.Token, suggestion, format string, args ...any) {
	line, column := position(t)
	ps.addAt(line, column, suggestion, "%s", fmt.Sprintf(format, args...))
}
