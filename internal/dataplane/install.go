// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// installed is a virtual service as the maps have it.
type installed struct {
	service    *lvs.VirtualService
	id         uint32
	slot       span
	members    span
	hash       span
	places     span // of sh, dh, mh
	generation uint16
	turn       turn     // where the turn of this generation began
	servers    []uint32 // ids, beside service.Servers
	listeners  []listener
	moved      bool   // its connections may be in either table
	epoch      uint32 // another one when it begins anew
}

// serverKey finds a server that is leaving, should it come back.
type serverKey struct {
	service uint32 // id
	addr    netip.Addr
}

// departed is a server that was removed while connections still count on it.
type departed struct {
	id    uint32
	since time.Time
}

// record is what a server's id stands for.
type record struct {
	bpfServer
	addr netip.Addr
}

// exists tells whether the server is in its service's list; if not, only
// connections know it.
func (r record) exists() bool {
	return bpfServerFlags(r.Flags)&bpfServerFlagsSERVER_EXISTS != 0
}

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

func (i *installed) listens(on []lvs.ServiceID) bool {
	return slices.EqualFunc(i.listeners, on, func(l listener, id lvs.ServiceID) bool { return l.ServiceID == id })
}

func listenerOf(id lvs.ServiceID) bpfListener {
	a := id.Addr.As4()
	return bpfListener{
		Addr:     binary.NativeEndian.Uint32(a[:]),
		Port:     networkOrder(id.Port),
		Protocol: uint8(id.Protocol),
	}
}

func listener6Of(id lvs.ServiceID) bpfListener6 {
	return bpfListener6{Addr: wireWords(id.Addr), Port: networkOrder(id.Port), Protocol: uint8(id.Protocol)}
}

func serviceIDOf(l bpfListener) lvs.ServiceID {
	return lvs.ServiceID{Protocol: lvs.Protocol(l.Protocol), Addr: addrOf(l.Addr), Port: networkOrder(l.Port)}
}

func serviceIDOf6(l bpfListener6) lvs.ServiceID {
	return lvs.ServiceID{Protocol: lvs.Protocol(l.Protocol), Addr: addrOfWords(l.Addr), Port: networkOrder(l.Port)}
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

// addrOf reads an IPv4 address that is in memory as on the wire.
func addrOf(wire uint32) netip.Addr {
	var a [4]byte
	binary.NativeEndian.PutUint32(a[:], wire)
	return netip.AddrFrom4(a)
}

// wireWords is an address of 16 bytes as the program has it, IPv4 behind ::ffff.
func wireWords(a netip.Addr) (words [4]uint32) {
	b := a.As16()
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(b[i*4:])
	}
	return words
}

func addrOfWords(words [4]uint32) netip.Addr {
	var b [16]byte
	for i, w := range words {
		binary.NativeEndian.PutUint32(b[i*4:], w)
	}
	return netip.AddrFrom16(b).Unmap()
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

// networkOrder turns a port from host to network byte order, or back.
func networkOrder(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

// sameInstalled tells whether two versions of a service mean the same to the
// data plane.
func sameInstalled(a, b *lvs.VirtualService) bool {
	if b.Scheduler == lvs.WeightedRoundRobin && a.Edits != b.Edits {
		return false
	}
	return a.Scheduler == b.Scheduler && flagsOf(a) == flagsOf(b) &&
		(!a.Persistent() || a.Timeout == b.Timeout && a.Netmask == b.Netmask) &&
		slices.EqualFunc(a.Servers, b.Servers, func(x, y lvs.RealServer) bool {
			return x.ServerID == y.ServerID && x.Weight == y.Weight && limitOf(x) == limitOf(y)
		})
}

// transaction is one Apply: everything is written beside what is in use, then
// switched service by service; a failure switches back.
type transaction struct {
	p        *Plane
	prepared []prepared
	removed  []*installed
	fresh    []uint32 // server ids that were unused
	freshIDs []freshID
	undo     []func()
}

type prepared struct{ old, new *installed }

// freshID is an id that was unused, and whose it is to be.
type freshID struct {
	id uint32
	of lvs.ServiceID
}

// Apply makes the data plane carry out a table. It compares with what is
// installed, so that what did not change is not touched; each service changes
// from one packet to the next. On an error everything is as it was.
func (p *Plane) Apply(t *lvs.Table) error {
	if err := p.Check(t); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.reap(); err != nil {
		return err
	}
	tx := &transaction{p: p}
	wanted := make(map[lvs.ServiceID]bool, len(t.Services))
	for _, s := range t.Services {
		wanted[s.ServiceID] = true
		old, on := p.installed[s.ServiceID], listenersOf(t, s)
		if old != nil && sameInstalled(old.service, s) && old.listens(on) {
			continue
		}
		if err := tx.prepare(old, s, on); err != nil {
			tx.abandon()
			return fmt.Errorf("installing %v: %w", s.ServiceID, err)
		}
	}
	for id, old := range p.installed {
		if !wanted[id] {
			tx.removed = append(tx.removed, old)
		}
	}
	// Looked for before they are there, and until they are gone.
	everyPort, ftp := p.parameters.EveryPort, p.parameters.Ftp
	n := special(t)
	if err := p.setSpecial(everyPort|n.EveryPort, ftp|n.Ftp); err != nil {
		tx.abandon()
		return err
	}
	err := p.addVIPs(t)
	if err == nil {
		err = tx.commit()
	}
	if err != nil {
		tx.abandon()
		return errors.Join(err, p.trimVIPs(), p.setSpecial(everyPort, ftp))
	}
	p.setTimeouts(t.Timeouts)
	return errors.Join(p.trimVIPs(), p.setSpecial(n.EveryPort, n.Ftp))
}

// special tells which services need a second look: see service_find in
// bpf/service.h.
func special(t *lvs.Table) (n bpfParameters) {
	for _, s := range t.Services {
		for _, l := range listenersOf(t, s) {
			if l.Port == 0 {
				n.EveryPort = 1
			}
		}
		if isFTP(s) {
			n.Ftp = 1
		}
	}
	return n
}

func (p *Plane) setSpecial(everyPort, ftp uint32) error {
	p.parameters.EveryPort, p.parameters.Ftp = everyPort, ftp
	return p.writeParameters()
}

// prepare writes a new version of a service beside the old one.
func (tx *transaction) prepare(old *installed, s *lvs.VirtualService, on []lvs.ServiceID) error {
	p := tx.p
	n := &installed{service: s.Clone()}
	var ok bool
	if n.id, ok = tx.id(old, s.ServiceID); !ok {
		return fmt.Errorf("%w: no room for another virtual service", ErrFull)
	}
	for _, id := range on {
		l := listener{id, n.id}
		if s.Mark != 0 {
			if l.id, ok = tx.id(old, id); !ok {
				return fmt.Errorf("%w: no room for another address and port", ErrFull)
			}
		}
		n.listeners = append(n.listeners, l)
	}
	for _, r := range s.Servers {
		id, ok := tx.serverID(old, n.id, r.ServerID)
		if !ok {
			return fmt.Errorf("%w: no room for another real server, there are %d", ErrFull, maxServers)
		}
		n.servers = append(n.servers, id)
	}
	places, byHash := schedulerPlaces(n.service, p.lastWeights(n)), maglev(s.Servers)
	tx.prepared = append(tx.prepared, prepared{old, n})
	if n.slot, ok = p.slots.take(1); !ok {
		return fmt.Errorf("%w: more changes at once than it has room for beside what is in use", ErrFull)
	}
	if n.members, ok = p.members.take(uint32(len(s.Servers))); !ok {
		return fmt.Errorf("%w: no room for a list of %d real servers", ErrFull, len(s.Servers))
	}
	if n.hash, ok = p.hashSlots.take(uint32(len(byHash))); !ok {
		return fmt.Errorf("%w: no room for a consistent-hash table of %d places", ErrFull, len(byHash))
	}
	if n.places, ok = p.hashSlots.take(uint32(len(places))); !ok {
		return fmt.Errorf("%w: no room for the %d places of scheduler %s", ErrFull, len(places), s.Scheduler)
	}
	members := make([]bpfMember, len(n.servers))
	for i, id := range n.servers {
		members[i] = bpfMember{Server: id, Weight: s.Servers[i].Weight}
	}
	for _, of := range [][]uint32{places, byHash} {
		for i := range of {
			of[i] = n.servers[of[i]]
		}
	}
	return errors.Join(
		writeSpan(p.maps.Members, n.members, members),
		writeSpan(p.maps.HashSlots, n.hash, byHash),
		writeSpan(p.maps.HashSlots, n.places, places))
}

// lastWeights are the servers' last weights that were not 0.
func (p *Plane) lastWeights(n *installed) []int32 {
	out := make([]int32, len(n.servers))
	for i, id := range n.servers {
		out[i] = lastWeight(p.records[id], n.service.Servers[i])
	}
	return out
}

func lastWeight(was record, r lvs.RealServer) int32 {
	if r.Weight > 0 || !was.exists() {
		return r.Weight
	}
	return was.LastWeight
}

func writeSpan[V any](m *ebpf.Map, at span, values []V) error {
	if at.count == 0 {
		return nil
	}
	keys := make([]uint32, at.count)
	for i := range keys {
		keys[i] = at.first + uint32(i)
	}
	if _, err := m.BatchUpdate(keys, values, nil); err != nil {
		return fmt.Errorf("writing %d elements of map %v: %w", at.count, m, err)
	}
	return nil
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

// serverID finds the id that a server has, or had when it was removed (its
// connections go on, its counters are the old ones), or a new one.
func (tx *transaction) serverID(old *installed, service uint32, id lvs.ServerID) (uint32, bool) {
	if old != nil {
		for i, r := range old.service.Servers {
			if r.ServerID == id {
				return old.servers[i], true
			}
		}
	}
	if d, ok := tx.p.leaving[serverKey{service, id.Addr}]; ok {
		return d.id, true
	}
	n, ok := tx.p.serverIDs.take()
	if ok {
		tx.fresh = append(tx.fresh, n)
	}
	return n, ok
}

// abandon gives back what was taken and switches back what was switched.
func (tx *transaction) abandon() {
	for _, undo := range slices.Backward(tx.undo) {
		undo()
	}
	for _, c := range tx.prepared {
		tx.p.slots.give(c.new.slot)
		tx.p.members.give(c.new.members)
		tx.p.hashSlots.give(c.new.hash)
		tx.p.hashSlots.give(c.new.places)
	}
	for _, id := range tx.fresh {
		tx.p.serverIDs.give(id)
	}
	for _, f := range tx.freshIDs {
		tx.p.serviceIDs.give(f.id)
	}
}

func (tx *transaction) commit() error {
	p := tx.p
	for _, id := range tx.fresh {
		if err := p.zeroServer(id); err != nil {
			return err
		}
	}
	for _, f := range tx.freshIDs {
		if err := p.maps.ServiceBases.Put(f.id, baseOf(f.of)); err != nil {
			return fmt.Errorf("noting the id of %v: %w", f.of, err)
		}
		tx.undo = append(tx.undo, func() { p.maps.ServiceBases.Put(f.id, bpfServiceBase{}) })
	}
	for _, c := range tx.prepared {
		if err := tx.publish(c.old, c.new); err != nil {
			return fmt.Errorf("installing %v: %w", c.new.service.ServiceID, err)
		}
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
	for _, c := range tx.prepared {
		if c.old != nil {
			errs = append(errs, p.depart(c.old, c.new.servers))
			p.release(c.old)
			p.leave(c.old)
		}
	}
	for _, old := range tx.removed {
		errs = append(errs, p.depart(old, nil))
		p.release(old)
		p.leave(old)
		delete(p.installed, old.service.ServiceID)
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
	tx.undo = append(tx.undo, func() {
		if was {
			p.putListener(on, before)
		} else {
			p.deleteListener(on)
		}
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
		tx.undo = append(tx.undo, func() { p.putListener(l.ServiceID, h) })
	}
	return nil
}

// publish makes packets see the new version.
func (tx *transaction) publish(old, n *installed) error {
	p := tx.p
	s := n.service
	for i, r := range s.Servers {
		if err := tx.publishServer(n, n.servers[i], r); err != nil {
			return err
		}
	}
	if err := p.nextTurn(old, n); err != nil {
		return err
	}
	r := roundOf(s.Servers)
	flags := p.policy.flags | flagsOf(s)
	if n.moved = old != nil && (old.moved || old.service.Persistent() != s.Persistent() && !s.Is6()); n.moved {
		flags |= bpfServiceFlagsSERVICE_MOVED
	}
	record := bpfService{
		Id:         n.id,
		Mark:       s.Mark,
		Members:    n.members.first,
		Count:      n.members.count,
		Hash:       n.hash.first,
		HashSize:   n.hash.count,
		Scheduler:  uint8(schedulers()[s.Scheduler]),
		Stray:      uint8(p.policy.stray),
		Flags:      uint32(flags),
		Table:      n.places.first,
		TableSize:  n.places.count,
		Generation: n.generation,
		Place:      n.turn.place,
		Current:    n.turn.current,
		Greatest:   r.greatest,
		Step:       r.step,
		Timeout:    s.Timeout,
		Mask:       maskOf(s),
		Epoch:      n.epoch,
	}
	if err := p.maps.Services.Put(n.slot.first, record); err != nil {
		return fmt.Errorf("writing its record: %w", err)
	}
	for _, l := range n.listeners {
		if err := tx.listen(l.ServiceID, heard{l.id, n.slot.first}); err != nil {
			return err
		}
	}
	return nil
}

// maskOf is a persistent service's netmask as it is laid over the 16 bytes of a
// client's address, of which IPv4 takes the last 4.
func maskOf(s *lvs.VirtualService) (mask [2]uint64) {
	var b [16]byte
	if s.Is6() {
		for i := range s.Netmask {
			b[i/8] |= 0x80 >> (i % 8)
		}
	} else {
		binary.BigEndian.PutUint32(b[12:], s.Netmask)
	}
	return [2]uint64{binary.NativeEndian.Uint64(b[:8]), binary.NativeEndian.Uint64(b[8:])}
}

// publishServer writes what is new about a server.
func (tx *transaction) publishServer(n *installed, id uint32, r lvs.RealServer) error {
	p := tx.p
	was := p.records[id]
	now := was
	if !was.exists() {
		now = p.withNeighbour(record{
			bpfServer{Flags: uint16(bpfServerFlagsSERVER_EXISTS), Service: n.id},
			r.Addr,
		})
		if err := tx.comeBack(n.id, id, r.Addr); err != nil {
			return err
		}
	}
	now.LastWeight = lastWeight(was, r)
	now.Flags &^= uint16(bpfServerFlagsSERVER_QUIESCED)
	if r.Weight == 0 {
		now.Flags |= uint16(bpfServerFlagsSERVER_QUIESCED)
	}
	if now != was {
		tx.undo = append(tx.undo, func() { p.writeServer(id, was) })
		if err := p.writeServer(id, now); err != nil {
			return err
		}
	}
	limit := p.limits[id]
	if limit == limitOf(r) {
		return nil
	}
	tx.undo = append(tx.undo, func() { p.writeLimit(id, limit) })
	return p.writeLimit(id, limitOf(r))
}

// comeBack takes a server's old counters along if it was removed and returns.
func (tx *transaction) comeBack(service, id uint32, addr netip.Addr) error {
	p := tx.p
	key := serverKey{service, addr}
	d, ok := p.leaving[key]
	if !ok {
		return nil
	}
	if err := p.addToBase(service, id, false); err != nil {
		return err
	}
	delete(p.leaving, key)
	tx.undo = append(tx.undo, func() {
		p.leaving[key] = d
		p.addToBase(service, id, true)
	})
	return nil
}

// limitOf are a server's thresholds: a lower one of 0 means three quarters of
// the upper one (ip_vs_conn.c, ip_vs_unbind_dest).
func limitOf(r lvs.RealServer) bpfLimit {
	l := bpfLimit{Upper: r.Upper, Lower: r.Lower}
	if l.Upper != 0 && l.Lower == 0 {
		l.Lower = l.Upper - l.Upper>>2
	}
	return l
}

// writeLimit gives a server its thresholds; see set_limit in bpf/control.h.
func (p *Plane) writeLimit(id uint32, l bpfLimit) error {
	ret, err := p.programs.SetLimit.Run(&ebpf.RunOptions{Context: &bpfLimitUpdate{Id: id, Upper: l.Upper, Lower: l.Lower}})
	if err != nil || ret != 0 {
		return fmt.Errorf("writing thresholds (code %d): %w", ret, err)
	}
	p.limits[id] = l
	return nil
}

// nextTurn gives the new version its generation and its turn.
func (p *Plane) nextTurn(old, n *installed) error {
	var word uint64
	if err := p.maps.Turns.Lookup(n.id, &word); err != nil {
		return fmt.Errorf("reading whose turn it is: %w", err)
	}
	generation, t := unpackTurn(word)
	var servers []lvs.RealServer
	if old != nil {
		if generation != old.generation {
			t = old.turn // nobody was scheduled since that version came
		}
		servers = old.service.Servers
	}
	if old == nil || old.service.Scheduler != n.service.Scheduler {
		t = turn{current: roundOf(servers).greatest}
		n.epoch = uint32(time.Now().UnixMicro())
	} else {
		n.epoch = old.epoch
	}
	n.turn = moveTurn(n.service.Scheduler, t, servers, n.service.Servers)
	edited := old != nil && old.service.Edits != n.service.Edits
	if n.service.Scheduler == lvs.WeightedRoundRobin && edited && slices.Equal(servers, n.service.Servers) {
		n.turn = n.turn.restart(roundOf(servers))
	}
	n.generation = generation + 1
	if old != nil && n.generation == old.generation {
		n.generation++
	}
	return nil
}

func (p *Plane) release(old *installed) {
	p.slots.give(old.slot)
	p.members.give(old.members)
	p.hashSlots.give(old.hash)
	p.hashSlots.give(old.places)
}

// depart takes servers that are not in the new version out of service. Their
// ids stay theirs until their last connection is gone.
func (p *Plane) depart(old *installed, still []uint32) error {
	var errs []error
	for i, id := range old.servers {
		if slices.Contains(still, id) {
			continue
		}
		gone := p.records[id]
		gone.Flags &^= uint16(bpfServerFlagsSERVER_EXISTS)
		errs = append(errs, p.addToBase(old.id, id, true), p.writeServer(id, gone))
		p.leaving[serverKey{old.id, old.service.Servers[i].Addr}] = departed{id, time.Now()}
	}
	return errors.Join(errs...)
}

// reap frees the ids of departed servers that no connection needs any more.
func (p *Plane) reap() error {
	for key, d := range p.leaving {
		var load bpfLoad
		if err := p.maps.Loads.Lookup(d.id, &load); err != nil {
			return fmt.Errorf("reading the connections of a removed server: %w", err)
		}
		if load.Connections != 0 || load.Templates != 0 || time.Since(d.since) < grace {
			continue
		}
		if err := errors.Join(p.writeServer(d.id, record{}), p.writeLimit(d.id, bpfLimit{})); err != nil {
			return err
		}
		delete(p.limits, d.id)
		delete(p.leaving, key)
		p.serverIDs.give(d.id)
	}
	return p.reapIDs()
}

// reapPeriod is how often the tables are searched for ids that are gone. That
// takes milliseconds, and nothing waits for it.
const reapPeriod = 30 * time.Second

// reapIDs frees the ids of removed services and listeners that stand in no
// connection any more.
func (p *Plane) reapIDs() error {
	if len(p.gone) == 0 || time.Since(p.reaped) < reapPeriod {
		return nil
	}
	p.reaped = time.Now()
	now, err := p.seconds()
	if err != nil {
		return err
	}
	used := map[uint32]bool{}
	if err := p.each(now, func(e entry, _ bool) { used[e.word.service()] = true }); err != nil {
		return err
	}
	for _, d := range p.leaving {
		used[p.records[d.id].Service] = true
	}
	for id, n := range p.gone {
		if used[n] {
			continue
		}
		if err := p.maps.ServiceBases.Put(n, bpfServiceBase{}); err != nil {
			return fmt.Errorf("freeing the id of %v: %w", id, err)
		}
		delete(p.gone, id)
		p.serviceIDs.give(n)
	}
	return nil
}

// writeServer writes a server's record; see set_server in bpf/control.h.
func (p *Plane) writeServer(id uint32, r record) error {
	ret, err := p.programs.SetServer.Run(&ebpf.RunOptions{Context: &bpfServerUpdate{Id: id, Server: r.bpfServer}})
	if err != nil || ret != 0 {
		return fmt.Errorf("writing real server %v (code %d): %w", r.addr, ret, err)
	}
	was := p.records[id].addr
	if was != r.addr {
		if err := p.noteAddr(id, r.addr); err != nil {
			return err
		}
		delete(p.byAddr[was], id)
	}
	if !r.addr.IsValid() {
		delete(p.records, id)
		return nil
	}
	p.records[id] = r
	if p.byAddr[r.addr] == nil {
		p.byAddr[r.addr] = map[uint32]bool{}
	}
	p.byAddr[r.addr][id] = true
	return nil
}

// noteAddr notes which server an id is, for a successor to find.
func (p *Plane) noteAddr(id uint32, addr netip.Addr) error {
	var base bpfServerBase
	if err := p.maps.ServerBases.Lookup(id, &base); err != nil {
		return fmt.Errorf("reading the base of real server %v: %w", addr, err)
	}
	base.Addr = [16]uint8{}
	if addr.IsValid() {
		base.Addr = addr.As16()
	}
	if err := p.maps.ServerBases.Put(id, base); err != nil {
		return fmt.Errorf("writing the base of real server %v: %w", addr, err)
	}
	return nil
}

// withNeighbour completes a record with what is known about the way to it.
func (p *Plane) withNeighbour(r record) record {
	n, ok := p.neighbours[r.addr]
	if !ok || len(n.MAC) != 6 || len(n.Source) != 6 {
		r.Flags &^= uint16(bpfServerFlagsSERVER_RESOLVED)
		return r
	}
	r.Flags |= uint16(bpfServerFlagsSERVER_RESOLVED)
	r.Mac = [6]byte(n.MAC)
	r.Source = [6]byte(n.Source)
	r.Interface = uint32(n.Interface)
	r.Mtu = uint32(n.MTU)
	return r
}

// SetNeighbour says how a real server is reached from now on. The next packet
// obeys. It may come before the server is in the table.
func (p *Plane) SetNeighbour(n Neighbour) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.neighbours[n.Addr] = n
	for id := range p.byAddr[n.Addr] {
		if err := p.writeServer(id, p.withNeighbour(p.records[id])); err != nil {
			return err
		}
	}
	return nil
}
