// SPDX-License-Identifier: MIT

package dataplane

import "github.com/cilium/ebpf"

// skbContext is the beginning of the kernel's struct __sk_buff.
type skbContext struct {
	_  [12]uint32
	CB [5]uint32
}

// copy sends an ICMP error about a connection that is in no table to the real
// servers of its service, but for the one that has it (bpf/related.h). The
// program finds the service itself: it may be another version by now, or gone.
func (r *resumer) copy(frame []byte, had, second uint32) {
	_, err := r.programs.Copy.Run(&ebpf.RunOptions{
		Data:    frame,
		Context: skbContext{CB: [5]uint32{had, second}},
	})
	if err != nil {
		r.log.Warn("an ICMP error about an unknown connection reached only one real server", "error", err)
	}
}
