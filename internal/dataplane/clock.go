// SPDX-License-Identifier: MIT

package dataplane

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// tickRate is how many jiffies the kernel counts in a second (CONFIG_HZ). The
// resolution of the coarse clocks is one tick, as the kernel was built, so this
// is exact. Measuring it is not: on a busy machine two starts would come to
// different results, and with the second one all deadlines would be off by days.
func tickRate() (uint32, error) {
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 0, fmt.Errorf("asking the kernel how long a tick is: %w", err)
	}
	ns := tick.Nano()
	if ns < 1e9/10_000 || ns > 1e9/10 {
		return 0, fmt.Errorf("the kernel says that a tick takes %d ns, which cannot be", ns)
	}
	return uint32((1e9 + ns/2) / ns), nil
}

// secondsPerJiffy is what connection.h multiplies jiffies with: 2^32 / HZ.
func secondsPerJiffy(hz uint32) uint32 { return uint32((1<<32 + uint64(hz) - 1) / uint64(hz)) }

// seconds returns the data plane's clock as connections know it: seconds, of
// which only the low bits count.
func (p *Plane) seconds() (uint32, error) {
	now, err := p.clock()
	return uint32(now) & deadlineMask, err
}

// clock is that clock, with all its bits.
func (p *Plane) clock() (uint64, error) {
	var c bpfClock
	if _, err := p.programs.ReadClock.Run(&ebpf.RunOptions{Context: &bpfClock{}, ContextOut: &c}); err != nil {
		return 0, fmt.Errorf("reading the kernel's clock: %w", err)
	}
	jiffies := c.Jiffies + p.parameters.ClockOffset
	return jiffies * uint64(secondsPerJiffy(p.hz)) >> 32, nil
}

// AdvanceClock puts the clock by which connections expire forward, so that
// tests need not wait for timeouts. It cannot be put back.
func (p *Plane) AdvanceClock(d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("cannot put the clock back by %v", -d)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.parameters
	now.ClockOffset += uint64(d.Seconds() * float64(p.hz))
	return p.setParameters(now)
}
