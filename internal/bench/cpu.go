// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const priority = 50 // of SCHED_FIFO's 1 to 99

// usableCPUs are those that this process may run on: the wanted one first, or
// the last one if that is below 0.
func usableCPUs(wanted int) ([]int, error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return nil, fmt.Errorf("asking for the CPUs: %w", err)
	}
	var cpus []int
	for i := range len(all) * 64 {
		if all.IsSet(i) && i != wanted {
			cpus = append(cpus, i)
		}
	}
	if wanted < 0 {
		wanted, cpus = cpus[len(cpus)-1], cpus[:len(cpus)-1]
	}
	return append([]int{wanted}, cpus...), nil
}

// settle gives the calling goroutine a thread of its own, on one CPU and before
// all other work there, which is the main source of noise.
func settle(cpu int) error {
	runtime.LockOSThread()
	var one unix.CPUSet
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
