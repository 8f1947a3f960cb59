// SPDX-License-Identifier: MIT

package config

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"
)

// source is a file's text as something to be edited: where its values begin and
// end. Offsets are in bytes, lines and columns those of nodes.
type source struct {
	text  string
	begin []int // of each line
}

func newSource(text string) *source {
	s := &source{text: text, begin: []int{0}}
	for i := range len(text) {
		if text[i] == '\n' {
			s.begin = append(s.begin, i+1)
		}
	}
	return s
}

// offset of a line and a column.
func (s *source) offset(line, column int) int {
	if line > len(s.begin) {
		return len(s.text)
	}
	at := s.begin[line-1]
	for ; column > 1 && at < len(s.text) && s.text[at] != '\n'; column-- {
		_, n := utf8.DecodeRuneInString(s.text[at:])
		at += n
	}
	return at
}

func (s *source) at(n *node) int { return s.offset(n.line, n.column) }

// lineOf is the line that an offset is on.
func (s *source) lineOf(offset int) int {
	i, found := slices.BinarySearch(s.begin, offset)
	if found {
		return i + 1
	}
	return i
}

// lineStart is where a line begins, and where the text ends behind the last one.
func (s *source) lineStart(line int) int {
	if line > len(s.begin) {
		return len(s.text)
	}
	return s.begin[line-1]
}

func (s *source) line(n int) string {
	return strings.TrimSuffix(s.text[s.lineStart(n):s.lineStart(n+1)], "\n")
}

// indent is how many blanks a line begins with; it has no content if it is blank
// or a comment.
func indent(line string) (blanks int, content bool) {
	rest := strings.TrimLeft(line, " ")
	return len(line) - len(rest), strings.TrimRight(rest, " \t") != "" && rest[0] != '#'
}

// endOfToken is where what begins at an offset ends: a text in quotes, brackets,
// an alias, or a plain text on one line, which ends sooner within brackets.
func (s *source) endOfToken(at int, inFlow bool) int {
	if at >= len(s.text) {
		return at
	}
	switch s.text[at] {
	case '"':
		for i := at + 1; i < len(s.text); i++ {
			switch s.text[i] {
			case '\\':
				i++
			case '"':
				return i + 1
			}
		}
		return len(s.text)
	case '\'':
		for i := at + 1; i < len(s.text); i++ {
			if s.text[i] != '\'' {
				continue
			}
			if i+1 < len(s.text) && s.text[i+1] == '\'' {
				i++
				continue
			}
			return i + 1
		}
		return len(s.text)
	case '[', '{':
		return s.endOfFlow(at)
	case '*':
		if n := strings.IndexAny(s.text[at:], " \t\n,]}"); n >= 0 {
			return at + n
		}
		return len(s.text)
	}
	return s.endOfPlain(at, inFlow)
}

// endOfFlow is where the bracket at an offset is closed.
func (s *source) endOfFlow(at int) int {
	depth := 0
	for i := at; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			if depth--; depth == 0 {
				return i + 1
			}
		case c == '#' && strings.ContainsRune(" \t\n", rune(s.text[i-1])):
			if n := strings.IndexByte(s.text[i:], '\n'); n >= 0 {
				i += n
			}
		case (c == '"' || c == '\'') && strings.ContainsRune(" \t\n,[{:", rune(s.text[i-1])):
			i = s.endOfToken(i, true) - 1
		}
	}
	return len(s.text)
}

// endOfPlain is where a plain text of one line ends.
func (s *source) endOfPlain(at int, inFlow bool) int {
	i := at
	for ; i < len(s.text) && s.text[i] != '\n'; i++ {
		c := s.text[i]
		if c == '#' && i > at && s.text[i-1] == ' ' || inFlow && strings.IndexByte(",]}", c) >= 0 {
			break
		}
	}
	return at + len(strings.TrimRight(s.text[at:i], " \t"))
}

// endOfBlock is the first line behind what is indented below a line: what a key
// in that column (of its dash, for an item of a list) has for a value.
// dashes: dashes in the same column belong to it, too.
func (s *source) endOfBlock(line, column int, dashes bool) int {
	end := line + 1
	for n := line + 1; n <= len(s.begin); n++ {
		text := s.line(n)
		blanks, content := indent(text)
		if !content {
			continue
		}
		rest := text[blanks:]
		dash := rest == "-" || strings.HasPrefix(rest, "- ")
		if blanks < column-1 || blanks == column-1 && !(dashes && dash) {
			break
		}
		end = n + 1
	}
	return end
}

// change is text in place of other text. If it takes nothing away it belongs to
// the mapping that begins at owner, also at that one's end.
type change struct {
	from, to int
	text     string
	owner    int
}

// within tells whether a change is one of a part of the text.
func (c change) within(from, to int) bool {
	if c.from == c.to && (c.from == from || c.from == to) {
		return from <= c.owner && c.owner < to
	}
	return from <= c.from && c.to <= to
}

// applied is a part of the text with the changes made that are within it.
func (s *source) applied(from, to int, changes []change) string {
	changes = slices.DeleteFunc(slices.Clone(changes), func(c change) bool { return !c.within(from, to) })
	slices.SortStableFunc(changes, func(a, b change) int {
		// At one place, what belongs to the inner mapping comes first.
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), cmp.Compare(b.owner, a.owner))
	})
	var b strings.Builder
	at := from
	for _, c := range changes {
		if c.from < at {
			continue // within what is written anew
		}
		b.WriteString(s.text[at:c.from])
		b.WriteString(c.text)
		at = c.to
	}
	b.WriteString(s.text[at:to])
	return b.String()
}
