// SPDX-License-Identifier: MIT

package dataplane

import (
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

func itoa(n int) string { return strconv.Itoa(n) }

// awaitPrograms waits until so many programs of tc are on an interface: the kernel
// ends a link a moment after its last reference.
func awaitPrograms(t *testing.T, index int, where ebpf.AttachType, want int) {
	t.Helper()
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		q, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: where})
		if err != nil {
			t.Fatal(err)
		}
		if len(q.Programs) == want {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("interface %d, %v: %d programs, want %d", index, where, len(q.Programs), want)
		}
	}
}
