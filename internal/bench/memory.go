// SPDX-License-Identifier: MIT

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// memory: how full the tables can be, so what a connection takes; and what all
// maps take.
func memory(s *session) error {
	t := s.report.table("Memory", "Load: how full a table is when one in a thousand of those that come finds no place (it is forwarded all the same, by the hash); and when one in a thousand of all so far found none. All maps: those of templates and of the other family too.",
		"table", "places", "load", "bytes a connection", "load, of all so far", "bytes a connection", "table, MiB", "all maps, MiB")
	sizes := []uint32{1 << 20, 1 << 23}
	if s.quick {
		sizes = sizes[:1]
	}
	for _, room := range sizes {
		for _, c := range []struct {
			family, table string
			at            netip.AddrPort
		}{{"IPv4", "connections", web}, {"IPv6", "wide_connections", web6}} {
			f, err := fill(c.at, c.table, room)
			if err != nil {
				return fmt.Errorf("%s, %d places: %w", c.family, room, err)
			}
			cells := []string{c.family, fmt.Sprintf("%d Ki", f.places>>10)}
			for _, used := range []uint64{f.usedOfNew, f.usedOfAll} {
				cells = append(cells, fmt.Sprintf("%.1f %%", 100*float64(used)/float64(f.places)), fmt.Sprintf("%.1f", float64(f.bytes)/float64(used)))
			}
			t.row(append(cells, mebibytes(f.bytes), mebibytes(f.all))...)
			if room == usualConnections {
				s.report.figure("table, of an "+c.family+" connection", float64(f.bytes)/float64(f.usedOfNew))
			}
		}
	}
	return nil
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f", float64(n)/(1<<20)) }

// filled is a table that took as many connections as it could.
type filled struct {
	places    uint64
	usedOfNew uint64 // when one in a thousand of the last portion found no place
	usedOfAll uint64 // when one in a thousand of all did not
	bytes     uint64
	all       uint64 // bytes of all maps
}

// fill sends SYNs, a 64th of the table's places at a time, until more than one
// in a thousand finds no place.
func fill(to netip.AddrPort, table string, room uint32) (f filled, err error) {
	d, err := openDirector(tableOf(to, lvs.TCP, lvs.WeightedLeastConnection, 1, usualServers), room, false)
	if err != nil {
		return f, err
	}
	defer d.Close()
	w, err := newWrapper(traffic{frame: syn(to), fresh: true})
	if err != nil {
		return f, err
	}
	defer w.Close()
	if f.all, err = d.mapMemory(); err != nil {
		return f, err
	}
	var used, failed, sent uint64
	for f.usedOfAll == 0 {
		if used, err = f.look(d, table); err != nil {
			return f, err
		}
		portion := f.places / 64
		if _, err := w.run(d.program, sent, int(portion)); err != nil {
			return f, err
		}
		sent += portion
		found, err := d.verdicts()
		if err != nil {
			return f, err
		}
		now := found["forward_untracked"]
		if f.usedOfNew == 0 && now-failed > portion/1000 {
			f.usedOfNew = used
		}
		if now > sent/1000 {
			f.usedOfAll = used
		}
		if failed = now; sent > 2*f.places {
			return f, errNeverFull
		}
	}
	return f, nil
}

// look reads how full the table is.
func (f *filled) look(d *director, table string) (used uint64, err error) {
	use, err := d.plane.TableUse()
	for _, u := range use {
		if u.Name == table {
			f.places, f.bytes, used = u.Capacity, u.Bytes, u.Used
		}
	}
	return used, err
}

var errNeverFull = errors.New("twice as many connections as there are places, and all found one")

// mapMemory is what the kernel says that all of the director's maps take.
func (d *director) mapMemory() (sum uint64, err error) {
	dir := filepath.Join(d.pinDir(), instance)
	all, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return 0, err
	}
	for _, path := range all {
		if filepath.Base(path) == "links" {
			continue
		}
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			return 0, fmt.Errorf("map %s: %w", filepath.Base(path), err)
		}
		info, err := m.Info()
		m.Close()
		if err != nil {
			return 0, fmt.Errorf("map %s: %w", filepath.Base(path), err)
		}
		bytes, ok := info.Memlock()
		if !ok && info.Type != ebpf.LPMTrie { // which has none while it is empty
			return 0, fmt.Errorf("map %s: the kernel does not say its size: %w", filepath.Base(path), fs.ErrNotExist)
		}
		sum += bytes
	}
	return sum, nil
}
