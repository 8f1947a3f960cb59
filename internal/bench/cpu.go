// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const priority = 50 // of SCHED_FIFO's 1 to 99

// settle gives the calling goroutine a thread of its own, on one CPU and before
// all other work there, which is the main source of noise.
func settle(cpu int) error {
	runtime.LockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("asking for the CPUs: %w", err)
	}
	if cpu < 0 {
		for i := range len(all) * 64 {
			if all.IsSet(i) {
				cpu = i
			}
		}
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("staying on CPU %d: %w", cpu, err)
	}
	// A test run stops at any signal, and Go's scheduler sends this one.
	var signals unix.Sigset_t
	signals.Val[0] = 1 << (unix.SIGURG - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &signals, nil); err != nil {
		return fmt.Errorf("blocking SIGURG: %w", err)
	}
	parameter := int32(priority) // struct sched_param
	if _, _, e := unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&parameter))); e != 0 {
		return fmt.Errorf("real-time priority: %w", e)
	}
	return nil
}
