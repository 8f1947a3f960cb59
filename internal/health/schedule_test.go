// SPDX-License-Identifier: MIT

package health

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestPhasesAreSpreadForAnyNumber(t *testing.T) {
	for _, n := range []int{2, 3, 10, 100, 1000, 20000} {
		var all []float64
		for i := range n {
			all = append(all, phase(uint64(i)))
		}
		slices.Sort(all)
		widest := all[0] + 1 - all[n-1]
		for i := 1; i < n; i++ {
			widest = max(widest, all[i]-all[i-1])
		}
		if widest > 2/float64(n) {
			t.Errorf("%d checks: a gap of %.2g, with even ones of %.2g", n, widest, 1/float64(n))
		}
	}
}

// TestNext walks through the slots of one check, as fast or slow as it may be.
func TestNext(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Check{Interval: time.Duration(rapid.IntRange(100, 10000).Draw(t, "interval")) * time.Millisecond,
			Jitter: float64(rapid.IntRange(0, 50).Draw(t, "jitter")) / 100}
		p := newPace(&c, rapid.Float64Range(0, 0.999).Draw(t, "phase"))
		now := time.Duration(rapid.IntRange(0, 1e9).Draw(t, "now")) * time.Microsecond
		others := rapid.IntRange(1, 30000).Draw(t, "others")
		due := p.first(now, others)
		if within := max(c.Interval/4, time.Duration(others)*time.Second/startRate); due <= now-1 || due > now+min(c.Interval, within) {
			t.Fatalf("first: %v after now", due-now)
		}
		slot := p.slot(due)
		for n := range 20 {
			if off := math.Mod(float64(slot-p.place), float64(p.interval)); off != 0 {
				t.Fatalf("slot %v is %v off its place", slot, time.Duration(off))
			}
			begun := due
			took := time.Duration(rapid.IntRange(0, 3000).Draw(t, "took")) * c.Interval / 1000
			ended := begun + took
			undecided := rapid.Bool().Draw(t, "undecided")
			last := slot
			due, slot = p.next(slot, begun, ended, undecided, rapid.Float64Range(0, 0.999).Draw(t, "random"))
			switch {
			case due < ended:
				t.Fatalf("run %d: due %v before the last one ended", n, ended-due)
			case due < begun+c.Interval/leastGap:
				t.Fatalf("run %d: %v after the last one, with an interval of %v", n, due-begun, c.Interval)
			case slot <= last:
				t.Fatalf("run %d: slot %v again after %v", n, slot, last)
			case due > slot+p.jitter && due > begun+c.Interval/leastGap || due < slot-p.jitter:
				t.Fatalf("run %d: due %v, of slot %v, jitter %v", n, due, slot, p.jitter)
			case slot > last+c.Interval && n > 0 && ended <= last+c.Interval+p.jitter:
				t.Fatalf("run %d: a slot was left out, though it was near when the last one ended", n)
			case took < c.Interval/4 && c.Jitter < 0.3 && n > 0 && slot != last+c.Interval:
				t.Fatalf("run %d: a slot was left out", n)
			case due > ended+c.Interval+2*p.jitter:
				t.Fatalf("run %d: %v after the last one ended", n, due-ended)
			}
		}
	})
}
