// SPDX-License-Identifier: MIT

package dataplane

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// listener is one address, port and protocol of a service, and its id. A service
// by address has one, with the service's own id; one by mark has those of the
// mark's rules.
type listener struct {
	lvs.ServiceID
	id uint32
}

// listenersOf lists what a service of a table listens on.
func listenersOf(t *lvs.Table, s *lvs.VirtualService) []lvs.ServiceID {
	if s.Mark == 0 {
		return []lvs.ServiceID{s.ServiceID}
	}
	var all []lvs.ServiceID
	for _, r := range t.Marks {
		if r.ServiceID() == s.ServiceID {
			all = append(all, r.Listeners()...)
		}
	}
	return all
}

func (i *installed) serviceIDs() (on []lvs.ServiceID) {
	for _, l := range i.listeners {
		on = append(on, l.ServiceID)
	}
	return on
}

func (i *installed) listens(on []lvs.ServiceID) bool {
	return slices.EqualFunc(i.listeners, on, func(l listener, id lvs.ServiceID) bool { return l.ServiceID == id })
}

// baseOf notes in a base which service or listener its id is of: that of IPv4 as
// ::ffff:a.b.c.d, of a mark only the mark and the family.
func baseOf(id lvs.ServiceID) bpfServiceBase {
	if id.Mark == 0 {
		return bpfServiceBase{Used: 1, Listener: listener6Of(id)}
	}
	family := netip.IPv4Unspecified()
	if id.Mark6 {
		family = netip.IPv6Unspecified()
	}
	return bpfServiceBase{Used: 1, Mark: id.Mark, Listener: bpfListener6{Addr: wireWords(family)}}
}

// idOf is baseOf the other way round.
func idOf(b bpfServiceBase) lvs.ServiceID {
	if b.Mark == 0 {
		return serviceIDOf6(b.Listener)
	}
	return lvs.ServiceID{Mark: b.Mark, Mark6: addrOfWords(b.Listener.Addr).Is6()}
}

// heard is what the listeners maps say of one address, port and protocol.
type heard struct {
	id, slot uint32
}

// putListener switches packets for a listener to a version of a service;
// deleteListener, to nobody.
func (p *Plane) putListener(on lvs.ServiceID, h heard) (err error) {
	if on.Is6() {
		to := listener6Of(on)
		err = p.maps.Listeners6.Put(to, bpfListening6{Listener: to, Slot: h.slot, Id: h.id})
	} else {
		to := listenerOf(on)
		err = p.maps.Listeners.Put(to, bpfListening{Listener: to, Slot: h.slot, Id: h.id})
	}
	if err != nil {
		return fmt.Errorf("writing listener %v: %w", on, err)
	}
	p.listening[on] = h
	return nil
}

func (p *Plane) deleteListener(on lvs.ServiceID) (err error) {
	if on.Is6() {
		err = p.maps.Listeners6.Delete(listener6Of(on))
	} else {
		err = p.maps.Listeners.Delete(listenerOf(on))
	}
	if err != nil {
		return fmt.Errorf("removing listener %v: %w", on, err)
	}
	delete(p.listening, on)
	return nil
}

// freshID is an id that was unused, and whose it is to be.
type freshID struct {
	id uint32
	of lvs.ServiceID
}

// id finds the id that a service or a listener has, or had when it was removed
// (its connections go on), or a new one.
func (tx *transaction) id(old *installed, id lvs.ServiceID) (uint32, bool) {
	if old != nil {
		if old.service.ServiceID == id {
			return old.id, true
		}
		for _, l := range old.listeners {
			if l.ServiceID == id {
				return l.id, true
			}
		}
	}
	if n, ok := tx.p.gone[id]; ok {
		return n, true
	}
	n, ok := tx.p.serviceIDs.take()
	if ok {
		tx.freshIDs = append(tx.freshIDs, freshID{n, id})
	}
	return n, ok
}

// leave keeps the ids of a service and its listeners apart, until it is known
// that nothing has them any more or that they are still wanted.
func (p *Plane) leave(old *installed) {
	p.gone[old.service.ServiceID] = old.id
	for _, l := range old.listeners {
		p.gone[l.ServiceID] = l.id
	}
}

// listen switches a listener to a version of a service, and can switch it back.
func (tx *transaction) listen(on lvs.ServiceID, h heard) error {
	p := tx.p
	before, was := p.listening[on]
	if err := p.putListener(on, h); err != nil {
		return err
	}
	tx.undo = append(tx.undo, func() error {
		if was {
			return p.putListener(on, before)
		}
		return p.deleteListener(on)
	})
	return nil
}

// silence takes away the listeners that still lead to an old version.
func (tx *transaction) silence(old *installed) error {
	if old == nil {
		return nil
	}
	p := tx.p
	for _, l := range old.listeners {
		h, ok := p.listening[l.ServiceID]
		if !ok || h.slot != old.slot.first {
			continue
		}
		if err := p.deleteListener(l.ServiceID); err != nil {
			return err
		}
		tx.undo = append(tx.undo, func() error { return p.putListener(l.ServiceID, h) })
	}
	return nil
}
