// SPDX-License-Identifier: MIT

package dataplane

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// groupsOf is how many groups the servers of a service are in: none, unless its
// scheduler looks for the least loaded of a long list (bpf/schedule.h).
func groupsOf(s *lvs.VirtualService) uint32 {
	n := uint32(len(s.Servers))
	if n <= groupSize {
		return 0
	}
	switch s.Scheduler {
	case lvs.LeastConnection, lvs.WeightedLeastConnection, lvs.ShortestExpectedDelay, lvs.NeverQueue,
		lvs.WeightedFailover, lvs.WeightedOverflow, lvs.LocalityLeastConnection, lvs.LocalityReplicated:
		return (n + groupSize - 1) / groupSize
	}
	return 0
}

// newGroups begins groups of which nothing is known yet.
func newGroups(all []bpfGroup) {
	for i := range all {
		all[i] = bpfGroup{Changes: 1}
	}
}

// groupOf is the group of the i-th server, counted from 1; 0: it is in none.
func (n *installed) groupOf(i int) uint32 {
	if n.groups.count == 0 {
		return 0
	}
	return n.groups.first + uint32(i)/groupSize + 1
}

// regroup sees that the loads of what was recovered count for the right groups: a
// predecessor may have been killed while it changed them, or have known none; then
// there are no places for them yet.
func (p *Plane) regroup(none bool) error {
	for id, n := range p.installed {
		if none && n.groups.count > 0 {
			var ok bool
			if n.groups, ok = p.groupSpans.take(n.groups.count); !ok {
				return fmt.Errorf("%w: no room for the groups of real servers of %v", ErrFull, id)
			}
			p.services[n.slot.first].Groups = n.groups.first
		}
		for i, server := range n.servers {
			if err := p.setGroup(server, n.groupOf(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// group tells the i-th server of a new version which group its load counts for.
func (tx *transaction) group(n *installed, i int) error {
	p, id := tx.p, n.servers[i]
	was, now := p.groupOf(id), n.groupOf(i)
	if was == now {
		return nil
	}
	tx.undo = append(tx.undo, func() error { return p.setGroup(id, was) })
	return p.setGroup(id, now)
}

// groupOf is the group that a server's load counts for.
func (p *Plane) groupOf(id uint32) uint32 { return p.loadOf(id).Flags >> bpfLoadFlagsLOAD_GROUP_SHIFT }

// setGroup gives a server its group, counted from 1; 0: none. See set_group in
// bpf/control.h.
func (p *Plane) setGroup(id, group uint32) error {
	if p.groupOf(id) == group {
		return nil
	}
	ret, err := p.programs.SetGroup.Run(&ebpf.RunOptions{Context: &bpfGroupUpdate{Id: id, Group: group}})
	if err != nil || ret != 0 {
		return fmt.Errorf("writing a real server's group (code %d): %w", ret, err)
	}
	return nil
}
