// SPDX-License-Identifier: MIT

package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// resize: what it takes to start with tables of another size. All connections have
// to be there then.
func resize(s *session) error {
	t := s.report.table("Another size at a start", "The data plane is closed, which leaves it running, and opened with other tables; connections are carried over.",
		"from", "to", "connections", "seconds")
	sizes := []struct {
		flows    uint64
		from, to uint32
	}{{1 << 12, 1 << 20, 1 << 23}, {1 << 18, 1 << 20, 1 << 23}, {1 << 18, 1 << 23, 1 << 20}, {1 << 18, 1 << 20, 1 << 20}, {1 << 21, 1 << 23, 1 << 25}}
	if s.quick {
		sizes = sizes[:1]
	}
	for _, c := range sizes {
		took, there, kept, err := resizeOne(c.flows, c.from, c.to)
		if err == nil && kept != there {
			err = fmt.Errorf("of %d connections %d were carried over", there, kept)
		}
		if err != nil {
			return fmt.Errorf("from room for %d connections to %d: %w", c.from, c.to, err)
		}
		t.row(fmt.Sprintf("%d Mi", c.from>>20), fmt.Sprintf("%d Mi", c.to>>20), fmt.Sprint(kept), fmt.Sprintf("%.2f", took.Seconds()))
	}
	return nil
}

// resizeOne also tells how many connections there were before, and how many after.
func resizeOne(flows uint64, from, to uint32) (took time.Duration, before, after uint64, err error) {
	d, err := openDirector(tableOf(web, lvs.TCP, lvs.WeightedLeastConnection, 1, usualServers), from, false)
	if err != nil {
		return 0, 0, 0, err
	}
	defer d.Close()
	if err := prime(&d.contender, flows, syn(web), ack(web)); err != nil {
		return 0, 0, 0, err
	}
	if before, err = d.used(); err != nil {
		return 0, 0, 0, err
	}
	d.stop()
	d.stop = func() {}
	if err := d.plane.Close(); err != nil {
		return 0, 0, 0, err
	}
	begin := time.Now()
	err = d.again(func() error {
		d.plane, err = dataplane.Open(dataplane.Options{Instance: instance, PinDir: d.pinDir(), Interfaces: []string{"lo"}, Mode: dataplane.Generic, Connections: to})
		return err
	})
	if err != nil {
		return 0, 0, 0, err
	}
	took = time.Since(begin)
	after, err = d.used()
	return took, before, after, err
}

// again runs f in the network namespace that the director has.
func (d *director) again(f func() error) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(d.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("the director's network namespace: %w", err)
	}
	return errors.Join(f(), unix.Setns(int(home.Fd()), unix.CLONE_NEWNET))
}

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
