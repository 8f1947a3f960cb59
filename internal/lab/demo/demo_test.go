// SPDX-License-Identifier: MIT

package demo

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

// TestProofsCanFail shows the demo directors that do something wrong, and checks
// that it says what. The first one does nothing wrong.
func TestProofsCanFail(t *testing.T) {
	labtest.NeedRoot(t)
	// These upset the rest as well: with a poisoned ARP table the client does
	// not even ask the director.
	disturbing := []string{"split", "arp_ignore", "arp_announce", "cut", "blind"}
	for _, tt := range []struct {
		faults string
		failed []string
	}{
		{"none", nil},
		{"ttl,mapping,quiesce", []string{"only MAC and TTL", "no port mapping", "quiesced"}},
		{"replies,router", []string{"replies go around", "one network"}},
		{"split", []string{"shared by wlc"}},
		{"arp_ignore", []string{"one owner"}},
		{"arp_announce", []string{"ARP stayed clean"}},
		{"cut", []string{"connection kept"}},
		{"blind", []string{"VIP lost"}},
	} {
		t.Run(tt.faults, func(t *testing.T) {
			t.Setenv(faultsEnv, tt.faults)
			r, text, err := runStandIn(t, Options{Method: Loopback})
			if (err != nil) != (len(tt.failed) > 0) || err != nil && !errors.Is(err, ErrNotHeld) {
				t.Fatalf("%v\n%s", err, text)
			}
			if r.Held != (len(tt.failed) == 0) {
				t.Errorf("held: %v", r.Held)
			}
			var failed []string
			for _, p := range r.Proofs {
				if !p.Holds {
					failed = append(failed, p.Name)
				}
			}
			for _, want := range tt.failed {
				if !slices.Contains(failed, want) {
					t.Errorf("%q held", want)
				}
			}
			if !slices.Contains(disturbing, tt.faults) && len(failed) != len(tt.failed) {
				t.Errorf("failed: %q, want %q", failed, tt.failed)
			}
			if t.Failed() {
				t.Log(text)
			}
		})
	}
}

// TestKeepAndDown checks that a kept cluster works, and is gone after Down.
func TestKeepAndDown(t *testing.T) {
	labtest.NeedRoot(t)
	t.Setenv(faultsEnv, "none")
	o := Options{Method: Loopback, Keep: true, Prefix: labtest.Prefix(t) + "-"}
	r, text, err := runStandIn(t, o)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(r.Try) == 0 || !strings.HasSuffix(r.Try[len(r.Try)-1], "demo down") {
		t.Errorf("what there is to try: %q", r.Try)
	}
	c, err := lab.Open(lab.Options{Prefix: o.Prefix})
	if err != nil {
		t.Fatal(err)
	}
	b := newBrowser(c.Client, false)
	if who, err := b.get(t.Context(), "/"); err != nil {
		t.Errorf("the kept cluster does not answer: %q, %v", who, err)
	}
	if err := c.Detach(); err != nil {
		t.Fatal(err)
	}
	o.Executable = os.Args[0]
	if err := Down(t.Context(), o); err != nil {
		t.Error(err)
	}
	if err := Down(t.Context(), o); err != nil {
		t.Errorf("a second Down: %v", err)
	}
	if _, err := lab.Open(lab.Options{Prefix: o.Prefix}); !errors.Is(err, lab.ErrNoLab) {
		t.Errorf("after Down: %v", err)
	}
}

// TestText looks at the report that a person reads.
func TestText(t *testing.T) {
	var b bytes.Buffer
	r := newReport(Options{Out: &b, Colour: true})
	r.proof("holds", true, "as it should")
	r.proof("does not", false, "as it should not")
	r.detail("one\ntwo")
	want := "  \x1b[32m✓\x1b[0m holds              as it should\n" +
		"  \x1b[31m✗\x1b[0m does not           as it should not\n" +
		strings.Repeat(" ", 23) + "one\n" + strings.Repeat(" ", 23) + "two\n"
	if got := b.String(); got != want {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
	if r.failed() != 1 {
		t.Errorf("%d failed", r.failed())
	}
	for n, want := range map[int]string{0: "0 packets", 1: "1 packet", 999: "999 packets", 1000: "1,000 packets", 1234567: "1,234,567 packets"} {
		if got := count(n, "packet"); got != want {
			t.Errorf("count(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, tt := range []struct {
		line string
		want []string
	}{
		{"", []string{""}},
		{"one two", []string{"one two"}},
		{"one two three four", []string{"one two", "three four"}},
		{"exactly 10", []string{"exactly 10"}},
		{"unbreakable-word", []string{"unbreakable-word"}},
		{"a  b", []string{"a  b"}},
	} {
		if got := wrap(tt.line, 10); !slices.Equal(got, tt.want) {
			t.Errorf("%q: %q, want %q", tt.line, got, tt.want)
		}
	}
}

func TestUnknownMethod(t *testing.T) {
	if err := Run(t.Context(), Options{Method: "nat"}); err == nil || !strings.Contains(err.Error(), `"nat"`) {
		t.Errorf("got %v", err)
	}
}

// runStandIn runs the demo with the test binary as shunt.
func runStandIn(t *testing.T, o Options) (*report, string, error) {
	t.Helper()
	var out bytes.Buffer
	t.Setenv(lostEnv, t.TempDir())
	o.Executable, o.JSON, o.Out = os.Args[0], true, &out
	o.stepLimit = 1 * time.Second
	if o.Prefix == "" {
		o.Prefix = labtest.Prefix(t) + "-"
	}
	err := Run(t.Context(), o)
	r := &report{}
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), r); err != nil {
			t.Fatalf("the report is no JSON: %v\n%s", err, out.String())
		}
	}
	return r, out.String(), err
}
