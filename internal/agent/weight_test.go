// SPDX-License-Identifier: MIT

package agent

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWeight(t *testing.T) {
	for _, c := range []struct {
		configured        int32
		load, least, most int
		want              int32
	}{
		{100, 0, 10, 200, 200}, {100, 100, 10, 200, 10}, {100, 50, 10, 200, 105}, {100, 1000, 10, 200, 10}, {100, -5, 10, 200, 200},
		{100, 25, 0, 100, 75}, {100, 100, 0, 100, 1}, // it gets less, but it is not drained
		{1, 0, 10, 200, 2}, {1, 100, 10, 200, 1},
		{0, 0, 10, 200, 0}, {-1, 0, 10, 200, 0},
		{100, 50, 100, 100, 100},
		{100, 50, 200, 10, 200}, // bounds that are none
		{math.MaxInt32, 0, 10, 200, math.MaxInt32},
	} {
		if got := Weight(c.configured, c.load, c.least, c.most); got != c.want {
			t.Errorf("%d at a load of %d within %d%%-%d%%: got %d, want %d", c.configured, c.load, c.least, c.most, got, c.want)
		}
	}
}

func TestShare(t *testing.T) {
	for _, c := range []struct {
		configured           int32
		percent, least, most int
		want                 int32
	}{
		{100, 75, 10, 200, 75}, {100, 5, 10, 200, 10}, {100, 500, 10, 200, 200}, {100, 0, 10, 200, 0}, {3, 50, 1, 100, 2}, {1, 1, 1, 100, 1}, {0, 100, 1, 100, 0},
	} {
		if got := Share(c.configured, c.percent, c.least, c.most); got != c.want {
			t.Errorf("%d%% of %d within %d%%-%d%%: got %d, want %d", c.percent, c.configured, c.least, c.most, got, c.want)
		}
	}
}

// A weight is never outside of its bounds, never 0, and never more for more load.
func TestWeightProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		configured := rapid.Int32Range(1, 65535).Draw(t, "configured")
		least := rapid.IntRange(0, 300).Draw(t, "least")
		most := rapid.IntRange(least, 300).Draw(t, "most")
		if most == 0 {
			most = 1
		}
		load := rapid.IntRange(-10, 1000).Draw(t, "load")
		w := Weight(configured, load, least, most)
		low := max(1, math.Round(float64(configured)*float64(least)/100))
		high := max(1, math.Round(float64(configured)*float64(most)/100))
		if float64(w) < low || float64(w) > high {
			t.Fatalf("weight %d, want %v to %v", w, low, high)
		}
		if more := Weight(configured, load+1, least, most); more > w {
			t.Fatalf("weight %d at %d percent, %d at one more", w, load, more)
		}
	})
}

// Once what was before is forgotten, a load that is steady within two points changes
// the weight once at most, and that weight is one for a load near it.
func TestSteadyProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Steady
		now := time.Unix(1_000_000, 0)
		interval := time.Duration(rapid.IntRange(100, 5000).Draw(t, "interval in ms")) * time.Millisecond
		weigh := func(load int) int32 {
			now = now.Add(interval)
			w := s.Weight(now, load, 1000, 10, 200)
			if w < 100 || w > 2000 {
				t.Fatalf("weight %d is out of bounds", w)
			}
			return w
		}
		for _, l := range rapid.SliceOfN(rapid.IntRange(0, 150), 0, 20).Draw(t, "before") {
			weigh(l)
		}
		mean := rapid.IntRange(0, 100).Draw(t, "mean")
		for settled := now.Add(100 * time.Second); now.Before(settled); {
			weigh(mean)
		}
		w, changes := weigh(mean), 0
		for _, n := range rapid.SliceOfN(rapid.IntRange(-2, 2), 1, 200).Draw(t, "noise") {
			if next := weigh(mean + n); next != w {
				w, changes = next, changes+1
			}
		}
		if changes > 1 {
			t.Fatalf("%d changes", changes)
		}
		if high, low := Weight(1000, mean-5, 10, 200), Weight(1000, mean+5, 10, 200); w < low || w > high {
			t.Fatalf("weight %d at a load of %d, want %d to %d", w, mean, low, high)
		}
	})
}

func TestSteady(t *testing.T) {
	var s Steady
	start := time.Unix(1_000_000, 0)
	weight := func(seconds float64, load int) int32 {
		return s.Weight(start.Add(time.Duration(seconds*float64(time.Second))), load, 100, 0, 100)
	}
	if got := weight(0, 40); got != 60 {
		t.Errorf("the first load: %d", got)
	}
	for i := range 20 { // it breathes
		if got := weight(float64(i+1)*0.5, 40+4*(i%2*2-1)); got != 60 {
			t.Fatalf("at %d: %d", i, got)
		}
	}
	if got := weight(11, 100); got < 50 || got >= 60 { // one second of a peak
		t.Errorf("after a peak: %d", got)
	}
	for i := range 60 { // it stays
		weight(12+float64(i), 100)
	}
	if got := weight(72, 100); got > 5 {
		t.Errorf("at a full load: %d", got)
	}
	if got := weight(72, 0); got > 5 { // measured at the same time: nothing new
		t.Errorf("an old load counts: %d", got)
	}
	if got := weight(1000, 0); got != 100 { // long silence: what was does not count
		t.Errorf("after a silence: %d", got)
	}
	if got := s.Weight(start, 0, 200, 10, 50); got != 100 { // another configuration
		t.Errorf("with other bounds: %d", got)
	}
}
