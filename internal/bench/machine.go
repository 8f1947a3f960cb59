// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine says on what a session measures, and when.
func machine(s *session) string {
	model := "an unknown CPU"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	virtual := ""
	if strings.Contains(string(info), " hypervisor") {
		virtual = ", virtualised"
	}
	var u unix.Utsname
	must(unix.Uname(&u))
	return fmt.Sprintf("%s: %d CPUs (%s%s), Linux %s. %d rounds. A test run that does nothing takes %.1f ns (XDP), %.1f ns (tc) a packet, which is in all figures.",
		time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), model, virtual, unix.ByteSliceToString(u.Release[:]), s.rounds, s.bare[false], s.bare[true])
}
