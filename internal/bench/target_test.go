// SPDX-License-Identifier: MIT

package main

import (
	"io"
	"strings"
	"testing"
)

// TestJudge: what is to be at most, and at least, so much.
func TestJudge(t *testing.T) {
	most, least := target{figure: "a", limit: 2}, target{figure: "b", limit: 0.9, least: true}
	for _, c := range []struct {
		a, b       float64
		rowA, rowB string
	}{
		{2, 0.9, "| a | 2.00 | ≤ 2.00 | met |", "| b | 0.90 | ≥ 0.90 | met |"},
		{2.2, 0.45, "| a | 2.20 | ≤ 2.00 | missed by 10.0 % |", "| b | 0.45 | ≥ 0.90 | missed by 50.0 % |"},
	} {
		r := newReport(io.Discard)
		r.figure("a", c.a)
		r.figure("b", c.b)
		r.judge([]target{most, least, {figure: "c"}})
		got := r.tables[0].rows.String()
		for _, want := range []string{c.rowA, c.rowB, "not measured"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
	}
}
