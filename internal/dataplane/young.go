// SPDX-License-Identifier: MIT

package dataplane

import (
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Young tells of every service that listens on TCP how its servers' connections
// began, in the order of its list (bpf/young.h). The numbers are those since a server
// got into the table; Zero does not change them, and a server that is removed and
// comes back while it still has connections has the old ones.
func (p *Plane) Young() (map[lvs.ServiceID][]lvs.Young, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[lvs.ServiceID][]lvs.Young, len(p.installed))
	for id, i := range p.installed {
		if !slices.ContainsFunc(i.listeners, func(l listener) bool { return l.Protocol == lvs.TCP }) {
			continue
		}
		all := make([]lvs.Young, len(i.servers))
		for n, server := range i.servers {
			y := p.youngOf(server)
			all[n] = lvs.Young{
				ServerID:   i.service.Servers[n].ServerID,
				Began:      -y.Adopted, // the rest is below: read later, so it has those
				Unanswered: y.Unanswered, Retransmitted: y.Retransmitted, Resets: y.Resets,
			}
		}
		out[id] = all
	}
	counted, err := p.tally()
	if err != nil {
		return nil, err
	}
	for id, all := range out {
		for n, server := range p.installed[id].servers {
			c, err := counted(server)
			if err != nil {
				return nil, fmt.Errorf("%v: %w", id, err)
			}
			all[n].Began += c.Connections
		}
	}
	return out, nil
}

// youngOf reads what packets count at any time.
func (a *arrays) youngOf(id uint32) bpfYoung {
	y := &a.youngs[id]
	return bpfYoung{
		Unanswered:    atomic.LoadUint64(&y.Unanswered),
		Retransmitted: atomic.LoadUint64(&y.Retransmitted),
		Resets:        atomic.LoadUint64(&y.Resets),
		Adopted:       atomic.LoadUint64(&y.Adopted),
	}
}

// noteYoungs remembers what was counted before the switch: an entry that ended
// while it was in both tables was counted by both programs.
func (c *carrier) noteYoungs() {
	if c.old.maps[bpfMapYoungs] != nil && c.old.anew(bpfMapYoungs) {
		c.youngs = slices.Clone(c.p.youngs)
	}
}

// addYoungs adds what the old program has come to by now, and takes off what both
// had before the switch.
func (c *carrier) addYoungs() error {
	if c.youngs == nil {
		return nil
	}
	value, err := newConverterOf(c, bpfMapYoungs)
	if err != nil {
		return err
	}
	return eachChunk(c.old.maps[bpfMapYoungs], 1, func(first, n int, raw []byte) error {
		size := len(raw) / n
		for i := range min(n, len(c.youngs)-first) {
			b, err := value.convert(raw[i*size:][:size])
			if err != nil {
				return err
			}
			old, was, now := (*bpfYoung)(unsafe.Pointer(&b[0])), &c.youngs[first+i], &c.p.youngs[first+i]
			if *old == *was {
				continue
			}
			atomic.AddUint64(&now.Unanswered, old.Unanswered-was.Unanswered)
			atomic.AddUint64(&now.Retransmitted, old.Retransmitted-was.Retransmitted)
			atomic.AddUint64(&now.Resets, old.Resets-was.Resets)
			atomic.AddUint64(&now.Adopted, old.Adopted-was.Adopted)
		}
		return nil
	})
}
