// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// report is what is found out: tables, and the figures that have a target.
type report struct {
	progress io.Writer
	machine  string
	tables   []*table
	figures  map[string]float64
}

func newReport(progress io.Writer) *report {
	return &report{progress: progress, figures: map[string]float64{}}
}

// table is one of a report, as Markdown has it.
type table struct {
	report *report
	rows   strings.Builder
}

// table begins another one, with what is said above it.
func (r *report) table(title, about string, columns ...string) *table {
	t := &table{report: r}
	r.tables = append(r.tables, t)
	t.print("\n### %s\n\n", title)
	if about != "" {
		t.print("%s\n\n", about)
	}
	t.row(columns...)
	t.print("|%s\n", strings.Repeat(" --- |", len(columns)))
	return t
}

func (t *table) row(cells ...string) { t.print("| %s |\n", strings.Join(cells, " | ")) }

func (t *table) print(format string, a ...any) {
	fmt.Fprintf(&t.rows, format, a...)
	fmt.Fprintf(t.report.progress, format, a...)
}

// figure notes one that has a target, under the name that targets knows it by.
func (r *report) figure(name string, value float64) { r.figures[name] = value }

// ns is a series' cell.
func ns(s series) string { return fmt.Sprintf("%.1f", median(s)) }

// times is the cell of a ratio: its median, and between what it was.
func times(s series) string {
	return fmt.Sprintf("%.2f (%.2f–%.2f)", median(s), slices.Min(s), slices.Max(s))
}

// judge says which targets are met.
func (r *report) judge(all []target) {
	t := r.table("Targets", "", "what", "found", "target", "")
	for _, g := range all {
		found, ok := r.figures[g.figure]
		switch {
		case !ok:
			t.row(g.figure, "", g.wanted(), "not measured")
		case g.missed(found) <= 0:
			t.row(g.figure, g.format(found), g.wanted(), "met")
		default:
			t.row(g.figure, g.format(found), g.wanted(), fmt.Sprintf("missed by %.1f %%", 100*g.missed(found)))
		}
	}
}

// What is between these lines of a file is a report's.
const (
	begin = "<!-- make bench: begin -->\n"
	end   = "<!-- make bench: end -->\n"
)

// writeInto puts the report into a file, the targets first.
func (r *report) writeInto(file string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	from, to := bytes.Index(old, []byte(begin)), bytes.Index(old, []byte(end))
	if from < 0 || to < from {
		return fmt.Errorf("%s has no lines %q and %q to write between", file, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	var b bytes.Buffer
	b.Write(old[:from+len(begin)])
	fmt.Fprintf(&b, "\n%s\n", r.machine)
	last := len(r.tables) - 1
	for _, t := range append(r.tables[last:], r.tables[:last]...) {
		b.WriteString(t.rows.String())
	}
	b.WriteString("\n")
	b.Write(old[to:])
	return os.WriteFile(file, b.Bytes(), 0o644)
}
