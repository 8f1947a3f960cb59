// SPDX-License-Identifier: MIT

package config

import (
	"strconv"
	"strings"
)

// statement is a line of keepalived.conf with the block that follows it, if any.
type statement struct {
	importPlace
	words   []keepalivedWord
	block   bool
	inner   []*statement
	skipped string // not empty: a line that does not count, and why
}

// keepalivedWord is a word without its quotes, and as it was written.
type keepalivedWord struct{ text, raw string }

func (s *statement) name() string { return s.word(0) }

// word is the nth word, the name being the first; empty if there is none.
func (s *statement) word(n int) string {
	if n < len(s.words) {
		return s.words[n].text
	}
	return ""
}

// find returns the last statement of the block with this name, or nil.
func (s *statement) find(name string) (last *statement) {
	for _, c := range s.inner {
		if c.name() == name {
			last = c
		}
	}
	return last
}

// tree makes statements of lines. A brace opens the block of what stands before
// it, also on the line before.
func (i *importer) tree(lines []keepalivedLine) (*statement, error) {
	root := &statement{block: true}
	open := []*statement{root}
	for n := range lines {
		l := &lines[n]
		top := open[len(open)-1]
		if l.skipped != "" {
			top.inner = append(top.inner, &statement{importPlace: l.importPlace, skipped: l.skipped})
			continue
		}
		var s *statement
		for _, w := range keepalivedWords(l.expanded) {
			top = open[len(open)-1]
			switch w.raw {
			case "{":
				if s == nil {
					s = lastStatement(top)
				}
				if s == nil || s.block {
					return nil, i.fail(l.importPlace, "{", "", "a { with nothing before it that it could be of")
				}
				s.block = true
				open = append(open, s)
				s = nil
			case "}":
				if len(open) == 1 {
					return nil, i.fail(l.importPlace, "}", "", "a } without a {")
				}
				open, s = open[:len(open)-1], nil
			default:
				if s == nil {
					s = &statement{importPlace: l.importPlace}
					top.inner = append(top.inner, s)
				}
				s.words = append(s.words, w)
			}
		}
	}
	if len(open) > 1 {
		s := open[len(open)-1]
		return nil, i.fail(s.importPlace, s.name(), "", "the { of %s is never closed", s.name())
	}
	return root, nil
}

func lastStatement(of *statement) *statement {
	for n := len(of.inner) - 1; n >= 0; n-- {
		if of.inner[n].skipped == "" {
			return of.inner[n]
		}
	}
	return nil
}

// keepalivedWords splits a line at blanks that are not in quotes. A brace at the
// end of a word is a word of its own.
func keepalivedWords(line string) (words []keepalivedWord) {
	add := func(text, raw string) {
		if bare, cut := strings.CutSuffix(raw, "{"); cut && bare != "" && text == raw {
			words = append(words, keepalivedWord{bare, bare}, keepalivedWord{"{", "{"})
			return
		}
		if raw == "{}" {
			words = append(words, keepalivedWord{"{", "{"}, keepalivedWord{"}", "}"})
			return
		}
		words = append(words, keepalivedWord{text, raw})
	}
	var text, raw strings.Builder
	quote := byte(0)
	for n := 0; n < len(line); n++ {
		c := line[n]
		switch {
		case c == '\\' && n+1 < len(line):
			raw.WriteString(line[n : n+2])
			if next := line[n+1]; next == '"' || next == '\'' {
				text.WriteByte(next)
			} else {
				text.WriteString(line[n : n+2])
			}
			n++
		case quote != 0 && c == quote:
			quote = 0
			raw.WriteByte(c)
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
			raw.WriteByte(c)
		case quote == 0 && (c == ' ' || c == '\t'):
			if raw.Len() > 0 {
				add(text.String(), raw.String())
				text.Reset()
				raw.Reset()
			}
		default:
			text.WriteByte(c)
			raw.WriteByte(c)
		}
	}
	if raw.Len() > 0 {
		add(text.String(), raw.String())
	}
	return words
}

// unescaped is a word as keepalived reads a regular expression: \\ is a
// backslash, and \n and its like are what they are in C.
func (w keepalivedWord) unescaped() string {
	var out strings.Builder
	quote := byte(0)
	for n := 0; n < len(w.raw); n++ {
		c := w.raw[n]
		switch {
		case c == '\\' && n+1 < len(w.raw):
			n++
			switch e := w.raw[n]; e {
			case 'a', 'b', 'f', 'n', 'r', 't', 'v':
				r, _, _, err := strconv.UnquoteChar(`\`+string(e), 0)
				if err == nil {
					out.WriteRune(r)
				}
			default:
				out.WriteByte(e)
			}
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		default:
			out.WriteByte(c)
		}
	}
	return out.String()
}
