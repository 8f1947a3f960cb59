// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// transaction is one Apply: everything is written beside what is in use, then
// switched service by service; a failure switches back.
type transaction struct {
	p        *Plane
	prepared []prepared
	removed  []*installed
	fresh    []uint32 // server ids that were unused
	freshIDs []freshID
	written  []written
	seeded   []prepared // services of which nothing changes but seeds, if those do
	// freshLists are deny lists that were written for this.
	freshLists []denyList
	undo       []func() error
}

// written is a server's record before it was written to.
type written struct {
	id  uint32
	was record
}

// Apply makes the data plane carry out a table. It compares with what is
// installed, so that what did not change is not touched; each service changes
// from one packet to the next. On an error everything is as it was. The table's
// services must not be written to afterwards; what the next table shares with
// this one is not even looked at.
func (p *Plane) Apply(t *lvs.Table) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	gone, come := p.since(t)
	if err := check(t, come); err != nil {
		return err
	}
	if len(p.leaving) < manyLeaving || p.serverIDs.left() < serversOf(come) {
		if err := p.reap(); err != nil {
			return err
		}
	}
	tx := &transaction{p: p}
	wanted := make(map[lvs.ServiceID]bool, len(come))
	for _, s := range come {
		wanted[s.ServiceID] = true
		old, on := p.installed[s.ServiceID], listenersOf(t, s)
		if old != nil && sameInstalled(old.service, s) && old.listens(on) {
			tx.seeded = append(tx.seeded, prepared{old, &installed{service: s}})
			continue
		}
		if err := tx.prepare(old, s, on); err != nil {
			tx.abandon()
			return fmt.Errorf("installing %v: %w", s.ServiceID, err)
		}
	}
	for _, id := range gone {
		if !wanted[id] {
			tx.removed = append(tx.removed, p.installed[id])
		}
	}
	if err := tx.carryOut(t); err != nil {
		tx.abandon()
		p.tidy()
		return err
	}
	p.applied = lvs.Table{Services: slices.Clone(t.Services), Marks: slices.Clone(t.Marks)}
	if len(tx.prepared)+len(tx.removed) > 0 || p.untidy {
		p.tidy()
	}
	return nil
}

// manyLeaving are too many removed servers to be looked through at each change;
// they are every two seconds.
const manyLeaving = 4096

func serversOf(all []*lvs.VirtualService) (n int) {
	for _, s := range all {
		n += len(s.Servers)
	}
	return n
}

// since tells what a table changes: services that are installed and may have to
// go, and services that may have to be installed. An edited one is in both.
func (p *Plane) since(t *lvs.Table) (gone []lvs.ServiceID, come []*lvs.VirtualService) {
	if p.applied.Services == nil || !slices.Equal(p.applied.Marks, t.Marks) {
		return slices.Collect(maps.Keys(p.installed)), t.Services
	}
	old, come := t.Since(&p.applied)
	for _, s := range old {
		gone = append(gone, s.ServiceID)
	}
	return gone, come
}

// carryOut does all that can fail.
func (tx *transaction) carryOut(t *lvs.Table) error {
	p := tx.p
	p.settled = false
	before := p.parameters
	now := before
	now.Timeouts = timeoutsOf(t.Timeouts)
	for _, c := range tx.prepared { // looked for before they are there, and until they are gone
		everyPort, ftp := special(c.new.service, c.new.serviceIDs())
		now.EveryPort, now.Ftp = now.EveryPort|everyPort, now.Ftp|ftp
	}
	if err := p.setParameters(now); err != nil {
		return err
	}
	tx.undo = append(tx.undo, func() error { return p.setParameters(before) })
	if err := tx.addVIPs(); err != nil {
		return err
	}
	return tx.commit()
}

// tidy ends what costs packets a look and no service needs. What it cannot do
// does no harm, and is tried again after a while.
func (p *Plane) tidy() {
	now := p.parameters
	now.EveryPort, now.Ftp = 0, 0
	if p.parameters.EveryPort|p.parameters.Ftp != 0 {
		for _, i := range p.installed {
			everyPort, ftp := special(i.service, i.serviceIDs())
			now.EveryPort, now.Ftp = now.EveryPort|everyPort, now.Ftp|ftp
		}
	}
	err := errors.Join(p.trimVIPs(), p.setParameters(now))
	if err != nil && !p.untidy {
		p.log.Warn("cannot tidy up after a change of the rules; that is tried again", "error", err)
	}
	p.untidy = err != nil
}

// special tells whether a service needs a second look: see service_find in
// bpf/service.h.
func special(s *lvs.VirtualService, on []lvs.ServiceID) (everyPort, ftp uint32) {
	for _, l := range on {
		if l.Port == 0 {
			everyPort = 1
		}
	}
	if isFTP(s) {
		ftp = 1
	}
	return everyPort, ftp
}

// abandon gives back what was taken and switches back what was switched.
func (tx *transaction) abandon() {
	for _, undo := range slices.Backward(tx.undo) {
		if err := undo(); err != nil {
			tx.p.log.Error("a change of the rules failed, and not all of it could be taken back", "error", err)
		}
	}
	for _, w := range slices.Backward(tx.written) {
		tx.p.writeServer(w.id, w.was)
	}
	for _, c := range tx.prepared {
		tx.p.slots.give(c.new.slot)
		tx.p.memberSpans.give(c.new.members)
		tx.p.hashSpans.give(c.new.hash)
		tx.p.hashSpans.give(c.new.places)
		tx.p.groupSpans.give(c.new.groups)
	}
	for _, id := range tx.fresh {
		tx.p.serverIDs.give(id)
	}
	for _, f := range tx.freshIDs {
		tx.p.serviceBases[f.id] = bpfServiceBase{}
		tx.p.serviceIDs.give(f.id)
	}
	if len(tx.undo) > 0 {
		settleCPUs() // what was switched back may still be looked at
	}
	for _, l := range tx.freshLists {
		if err := tx.p.forgetList(l); err != nil {
			tx.p.log.Error("a change of the rules failed, and not all of it could be taken back", "error", err)
		}
	}
}

func (tx *transaction) commit() error {
	p := tx.p
	if err := p.zeroServers(tx.fresh); err != nil {
		return err
	}
	for _, f := range tx.freshIDs {
		p.serviceBases[f.id] = baseOf(f.of)
		p.estimators.services.forget(f.id)
	}
	for _, c := range tx.prepared {
		if err := tx.publish(c.old, c.new); err != nil {
			return fmt.Errorf("installing %v: %w", c.new.service.ServiceID, err)
		}
	}
	for _, c := range tx.seeded {
		tx.reseed(c.old, c.new.service)
	}
	// What nobody listens on any more; some of it may have gone to another service.
	for _, c := range tx.prepared {
		if err := tx.silence(c.old); err != nil {
			return err
		}
	}
	for _, old := range tx.removed {
		if err := tx.silence(old); err != nil {
			return err
		}
	}
	// From here on packets see the new table; what follows is bookkeeping.
	var errs []error
	counted := p.counted
	if tx.leaving() > fewServers {
		all, err := p.tally()
		if err != nil {
			errs = append(errs, err)
		} else {
			counted = all
		}
	}
	for _, c := range tx.prepared {
		if c.old != nil {
			errs = append(errs, p.depart(c.old, c.new.servers, counted))
			p.release(c.old)
			p.leave(c.old)
		}
	}
	for _, old := range tx.removed {
		errs = append(errs, p.depart(old, nil, counted))
		p.release(old)
		p.leave(old)
		delete(p.installed, old.service.ServiceID)
	}
	if replaced := tx.replacedLists(); len(replaced) > 0 {
		settleCPUs()
		for _, l := range replaced {
			errs = append(errs, p.forgetList(l))
		}
	}
	for _, c := range tx.prepared {
		p.installed[c.new.service.ServiceID] = c.new
		delete(p.gone, c.new.service.ServiceID)
		for _, l := range c.new.listeners {
			delete(p.gone, l.ServiceID)
		}
	}
	if err := errors.Join(errs...); err != nil {
		p.log.Error("the new rules are in force, but the books are not in order", "error", err)
	}
	return nil
}

// leaving is how many servers there may be that are in their service no more.
func (tx *transaction) leaving() (n int) {
	for _, c := range tx.prepared {
		if c.old != nil {
			n += max(0, len(c.old.servers)-len(c.new.servers))
		}
	}
	for _, old := range tx.removed {
		n += len(old.servers)
	}
	return n
}
