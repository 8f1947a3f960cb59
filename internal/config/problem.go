// SPDX-License-Identifier: MIT

package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Problem is one thing that is wrong with a file.
type Problem struct {
	File       string `json:"file"`
	Line       int    `json:"line"`   // from 1
	Column     int    `json:"column"` // from 1, in characters
	Message    string `json:"message"`
	Suggestion string `json:"suggestion,omitempty"` // what was probably meant
	Source     string `json:"source"`               // the line
}

// Error gives "site.yaml:12:5: MESSAGE, did you mean X?", the line, and a caret
// below what is meant.
func (p Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
	if p.Suggestion != "" {
		fmt.Fprintf(&b, ", did you mean %s?", p.Suggestion)
	}
	if strings.TrimSpace(p.Source) == "" {
		return b.String()
	}
	fmt.Fprintf(&b, "\n    %s\n    ", p.Source)
	column := 1
	for _, r := range p.Source {
		if column == p.Column {
			break
		}
		column++
		if r == '\t' {
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
	}
	b.WriteByte('^')
	return b.String()
}

// Errors is all that is wrong with a file, in the order of its lines. It is never
// empty.
type Errors []Problem

// Error gives the problems one below the other.
func (e Errors) Error() string {
	texts := make([]string, len(e))
	for i, p := range e {
		texts[i] = p.Error()
	}
	return strings.Join(texts, "\n")
}

// Unwrap gives the problems.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, p := range e {
		errs[i] = p
	}
	return errs
}

// maxProblems are as many as one file is told of: nobody reads more.
const maxProblems = 200

// problems collects what is wrong with one file.
type problems struct {
	file  string
	lines []string
	list  []Problem
}

func newProblems(file string, text []byte) *problems {
	lines := strings.Split(strings.TrimPrefix(string(text), "\ufeff"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSuffix(l, "\r")
	}
	return &problems{file: file, lines: lines}
}

func (ps *problems) line(n int) string {
	if n < 1 || n > len(ps.lines) {
		return ""
	}
	return ps.lines[n-1]
}

// shownLine is as much of a line as is worth showing, without what a terminal
// would take for a command.
func (ps *problems) shownLine(n int) string {
	const most = 200
	line := []rune(strings.ToValidUTF8(ps.line(n), "\ufffd"))
	for i, r := range line {
		if r != '\t' && !unicode.IsPrint(r) {
			line[i] = '\ufffd'
		}
	}
	return string(line[:min(most, len(line))])
}

func (ps *problems) addAt(line, column int, suggestion, format string, args ...any) {
	if len(ps.list) > maxProblems {
		return
	}
	p := Problem{File: ps.file, Line: line, Column: column, Message: fmt.Sprintf(format, args...), Suggestion: suggestion, Source: ps.shownLine(line)}
	if len(ps.list) == maxProblems {
		p.Message, p.Suggestion = fmt.Sprintf("there are more than %d problems: the others are not listed", maxProblems), ""
	}
	if !slices.Contains(ps.list, p) { // what an alias repeats is wrong once
		ps.list = append(ps.list, p)
	}
}

func (ps *problems) add(n *node, suggestion, format string, args ...any) {
	ps.addAt(n.line, n.column, suggestion, format, args...)
}

// err is all problems as an error, or nil.
func (ps *problems) err() error {
	if len(ps.list) == 0 {
		return nil
	}
	slices.SortStableFunc(ps.list, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return Errors(ps.list)
}

// nearest is the one of the words that a misspelt one was probably meant to be,
// or "".
func nearest(word string, words []string) string {
	const far = 3
	best, distance := "", far
	for _, w := range slices.Sorted(slices.Values(words)) {
		// Of short words nearly all are near each other.
		if d := edits(word, w); d < distance && d <= (max(len(word), len(w))+1)/3 || d == 1 && distance > 1 && len(w) > 1 {
			best, distance = w, d
		}
	}
	return best
}

// edits is how many letters have to be put in, left out, exchanged or swapped with
// their neighbour to make b of a (the optimal string alignment distance). Case
// and dashes for underscores cost nothing.
func edits(a, b string) int {
	fold := func(s string) []rune {
		return []rune(strings.NewReplacer("-", "_", " ", "_").Replace(strings.ToLower(s)))
	}
	x, y := fold(a), fold(b)
	const longest = 64
	if len(x) > longest || len(y) > longest {
		return longest
	}
	before, last, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range row {
		last[j] = j
	}
	for i := range x {
		row[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(y)]
}
