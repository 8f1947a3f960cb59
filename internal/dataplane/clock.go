// SPDX-License-Identifier: MIT

package dataplane

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// kernelHZ finds how many jiffies the kernel counts in a second: from its
// configuration if that is to be had, else by watching both clocks.
func kernelHZ(program *ebpf.Program) (uint32, error) {
	for _, path := range []string{"/proc/config.gz", "/boot/config-" + release()} {
		if hz := configuredHZ(path); hz != 0 {
			return hz, nil
		}
	}
	return measureHZ(program)
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// configuredHZ reads CONFIG_HZ from a kernel's configuration; 0 if it cannot.
func configuredHZ(path string) uint32 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	text := io.Reader(f)
	if strings.HasSuffix(path, ".gz") {
		if text, err = gzip.NewReader(f); err != nil {
			return 0
		}
	}
	for lines := bufio.NewScanner(text); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "CONFIG_HZ="); ok {
			hz, _ := strconv.ParseUint(value, 10, 16)
			return uint32(hz)
		}
	}
	return 0
}

// measureHZ watches both clocks for a while, more than once: when the machine is
// busy a tick may be seen late. The kernels that shunt runs on count 100, 250,
// 300 or 1000, which is far enough apart.
func measureHZ(program *ebpf.Program) (uint32, error) {
	const windows, window = 5, 60 * time.Millisecond
	var rates []float64
	for range windows {
		from, err := readClock(program)
		if err != nil {
			return 0, err
		}
		time.Sleep(window)
		to, err := readClock(program)
		if err != nil {
			return 0, err
		}
		rates = append(rates, float64(to.Jiffies-from.Jiffies)*1e9/float64(to.Nanoseconds-from.Nanoseconds))
	}
	slices.Sort(rates)
	measured := rates[windows/2]
	if measured < 50 || measured > 1500 {
		return 0, fmt.Errorf("the kernel counts %.0f jiffies a second, which no kernel does", measured)
	}
	best := uint32(100)
	for _, hz := range []uint32{250, 300, 1000} {
		if math.Abs(float64(hz)-measured) < math.Abs(float64(best)-measured) {
			best = hz
		}
	}
	return best, nil
}

func readClock(program *ebpf.Program) (c bpfClock, err error) {
	if _, err = program.Run(&ebpf.RunOptions{Context: &bpfClock{}, ContextOut: &c}); err != nil {
		err = fmt.Errorf("reading the kernel's clocks: %w", err)
	}
	return c, err
}

// secondsPerJiffy is what connection.h multiplies jiffies with: 2^32 / HZ.
func secondsPerJiffy(hz uint32) uint32 { return uint32((1<<32 + uint64(hz) - 1) / uint64(hz)) }

// seconds returns the data plane's clock as connections know it: seconds, of
// which only the low bits count.
func (p *Plane) seconds() (uint32, error) {
	c, err := readClock(p.programs.ReadClock)
	if err != nil {
		return 0, err
	}
	jiffies := c.Jiffies + p.parameters.ClockOffset
	return uint32(jiffies*uint64(secondsPerJiffy(p.parameters.Hz))>>32) & deadlineMask, nil
}

// AdvanceClock puts the clock by which connections expire forward, so that
// tests need not wait for timeouts. It cannot be put back.
func (p *Plane) AdvanceClock(d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("cannot put the clock back by %v", -d)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parameters.ClockOffset += uint64(d.Seconds() * float64(p.parameters.Hz))
	return p.writeParameters()
}
