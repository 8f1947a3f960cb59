// SPDX-License-Identifier: MIT

package dataplane

import (
	"math"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// The kernel's jiffies, against Go's monotonic clock: after a tenth of a second of
// either, two rates that kernels are built with differ by more than what a tick
// that comes late makes.
func TestTickRateIsTheJiffies(t *testing.T) {
	p := newPlane(t)
	hz, err := tickRate()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	read := func() (c bpfClock, at time.Duration) {
		if _, err := p.programs.ReadClock.Run(&ebpf.RunOptions{Context: &bpfClock{}, ContextOut: &c}); err != nil {
			t.Fatal(err)
		}
		return c, time.Since(start)
	}
	from, began := read()
	best := math.Inf(1)
	for range 20 { // the best of some, since a tick may be late on a busy machine
		time.Sleep(20 * time.Millisecond)
		to, now := read()
		ticks := (now - began).Seconds() * float64(hz)
		if ticks > 0.1*float64(hz) {
			best = min(best, math.Abs(ticks-float64(to.Jiffies-from.Jiffies))/ticks)
		}
	}
	if best > 0.05 {
		t.Errorf("%d ticks a second are off by %.0f %% of what the kernel counts", hz, 100*best)
	}
}
