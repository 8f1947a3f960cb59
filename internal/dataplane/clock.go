// SPDX-License-Identifier: MIT

package dataplane

import (
	"fmt"
	"math"
	"time"

	"github.com/cilium/ebpf"
)

// measureHZ finds how many jiffies the kernel counts in a second. No interface
// tells it to user space, so both clocks are watched over some ticks.
func measureHZ(program *ebpf.Program) (uint32, error) {
	read := func() (c bpfClock, err error) {
		_, err = program.Run(&ebpf.RunOptions{Context: &bpfClock{}, ContextOut: &c})
		if err != nil {
			err = fmt.Errorf("reading the kernel's clocks: %w", err)
		}
		return c, err
	}
	nextTick := func() (bpfClock, error) {
		first, err := read()
		for until := time.Now().Add(time.Second); err == nil && time.Now().Before(until); {
			var c bpfClock
			if c, err = read(); err == nil && c.Jiffies != first.Jiffies {
				return c, nil
			}
		}
		if err == nil {
			err = fmt.Errorf("the kernel's jiffies stand still")
		}
		return bpfClock{}, err
	}
	from, err := nextTick()
	if err != nil {
		return 0, err
	}
	to := from
	for to.Jiffies < from.Jiffies+4 {
		if to, err = nextTick(); err != nil {
			return 0, err
		}
	}
	measured := float64(to.Jiffies-from.Jiffies) * 1e9 / float64(to.Nanoseconds-from.Nanoseconds)
	best := uint32(0)
	for _, hz := range []uint32{24, 48, 64, 100, 128, 200, 250, 256, 300, 500, 512, 1000, 1024, 1200} {
		if best == 0 || math.Abs(float64(hz)-measured) < math.Abs(float64(best)-measured) {
			best = hz
		}
	}
	return best, nil
}

// secondsPerJiffy is what connection.h multiplies jiffies with: 2^32 / HZ.
func secondsPerJiffy(hz uint32) uint32 { return uint32((1<<32 + uint64(hz) - 1) / uint64(hz)) }

// seconds returns the data plane's clock as connections know it: seconds, of
// which only the low bits count.
func (p *Plane) seconds() (uint32, error) {
	var c bpfClock
	if _, err := p.programs.ReadClock.Run(&ebpf.RunOptions{Context: &bpfClock{}, ContextOut: &c}); err != nil {
		return 0, fmt.Errorf("reading the kernel's clock: %w", err)
	}
	jiffies := c.Jiffies + p.parameters.ClockOffset
	return uint32(jiffies*uint64(secondsPerJiffy(p.hz))>>32) & deadlineMask, nil
}

// AdvanceClock puts the clock by which connections expire forward, so that
// tests need not wait for timeouts. It cannot be put back.
func (p *Plane) AdvanceClock(d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("cannot put the clock back by %v", -d)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parameters.ClockOffset += uint64(d.Seconds() * float64(p.hz))
	return p.writeParameters()
}
