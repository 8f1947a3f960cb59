// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"time"
)

// memory: what the daemon and its maps take, by services and by room for
// connections.
func (c *controlled) memory() error {
	t := c.report.table("Memory of the daemon", fmt.Sprintf("With %d servers for each service. Maps: the kernel's memory, all of them. The process: what is in memory of it; of that what is its own (the rest is the program's file, and maps that it looks into); the most that it ever was, at the change that made the services; and what was in use of its heap after the last collection.", manyServers),
		"services", "room for connections", "maps, MiB", "process, MiB", "its own, MiB", "at most, MiB", "heap, MiB")
	rest := 20 * time.Second // in which the heap is collected, and given back
	type with struct {
		services int
		room     uint32
	}
	all := []with{{0, 1 << 20}, {1000, 1 << 20}, {10_000, 1 << 20}, {0, 1 << 23}}
	if c.quick {
		all, rest = all[:2], time.Second
	}
	for _, w := range all {
		if err := c.start(c.ctx, w.room); err != nil {
			return err
		}
		if w.services > 0 {
			if err := c.change(c.manyServices(w.services, manyServers)...); err != nil {
				return err
			}
			time.Sleep(rest)
		}
		maps, err := c.mapMemory()
		if err != nil {
			return err
		}
		is, err := c.resident()
		if err != nil {
			return err
		}
		t.row(fmt.Sprint(w.services), fmt.Sprintf("%d Mi", w.room>>20), mebibytes(maps), mebibytes(is["VmRSS"]), mebibytes(is["RssAnon"]), mebibytes(is["VmHWM"]), c.heap())
		if err := c.forget(); err != nil {
			return err
		}
	}
	return nil
}
