// SPDX-License-Identifier: MIT

// Package labtest gives tests a lab of their own that is gone when they end.
package labtest

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// Up makes a lab for the test; it skips the test if that needs root and the test
// is not run by root. The prefix is the test's own: if o has none it is made of
// the test's name, the same in every run, so that a run removes what an earlier
// one that was killed left behind. Runs at the same time do not disturb each other.
func Up(t testing.TB, o lab.Options) *lab.Cluster {
	t.Helper()
	NeedRoot(t)
	base := o.Prefix
	if base == "" {
		base = Prefix(t)
	}
	for i := range 100 {
		o.Prefix = fmt.Sprintf("%s-%d-", base, i)
		c, err := lab.Up(t.Context(), o)
		if errors.Is(err, lab.ErrBusy) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Down(); err != nil {
				t.Errorf("the lab does not go away: %v", err)
			}
		})
		return c
	}
	t.Fatalf("a hundred labs of the name %s- are in use", base)
	return nil
}

// Prefix is how the names of the test's own namespaces begin.
func Prefix(t testing.TB) string {
	h := fnv.New32a()
	h.Write([]byte(t.Name()))
	return fmt.Sprintf("t%08x", h.Sum32())
}

// NeedRoot skips the test if it is not run by root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
}
