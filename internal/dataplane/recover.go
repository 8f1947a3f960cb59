// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// recoverState reads from the maps what is installed: nothing, if they are new,
// or what a predecessor left. The maps are the only truth; no file is needed
// beside them.
func (p *Plane) recoverState() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.installed = map[lvs.ServiceID]*installed{}
	p.listening = map[lvs.ServiceID]heard{}
	p.leaving = map[serverKey]departed{}
	p.gone = map[lvs.ServiceID]uint32{}
	p.byAddr = map[netip.Addr]map[uint32]bool{}
	p.estimators = estimators{}
	p.resetting = map[uint32]bool{}
	if err := p.maps.Settings.Lookup(uint32(0), &p.parameters); err != nil {
		return fmt.Errorf("reading the data plane's settings: %w", err)
	}
	var slots, members, hashSlots, groups []span
	serviceIDs, serverIDs, listed := map[uint32]bool{}, map[uint32]bool{}, map[uint32]bool{}

	take := func(l listener, slot uint32) {
		p.listening[l.ServiceID] = heard{l.id, slot}
		i := p.recoverService(l.ServiceID, slot)
		if known := p.installed[i.service.ServiceID]; known != nil {
			known.listeners = append(known.listeners, l)
			return
		}
		i.listeners = []listener{l}
		p.installed[i.service.ServiceID] = i
		slots, members, hashSlots = append(slots, i.slot), append(members, i.members), append(hashSlots, i.hash, i.places)
		groups = append(groups, i.groups)
		for _, id := range i.servers {
			listed[id] = true
		}
	}
	if err := p.eachListener(take); err != nil {
		return err
	}
	if err := errors.Join(p.recoverVIPs(), p.recoverDenyLists()); err != nil {
		return err
	}
	live := map[uint32]bool{}
	for _, i := range p.installed {
		live[i.id] = true
		for _, l := range i.listeners {
			live[l.id] = true
		}
	}
	for id, b := range p.serviceBases {
		if b.Used == 0 {
			continue
		}
		serviceIDs[uint32(id)] = true
		if !live[uint32(id)] {
			p.gone[idOf(b)] = uint32(id)
		}
	}
	for id := range uint32(maxServers) {
		if p.addrOf(id).IsValid() {
			serverIDs[id] = true
			p.recoverServer(id, listed[id])
		}
	}
	p.slots = newArena(maxSlots, slots)
	p.memberSpans = newArena(maxMembers, members)
	p.hashSpans = newArena(maxHashSlots, hashSlots)
	none := len(p.carriers) > 0 && p.carriers[0].old.maps[bpfMapGroups] == nil
	if none {
		groups = nil
	}
	p.groupSpans = newArena(maxGroups, groups)
	p.serviceIDs = newIDPool(maxIDs, serviceIDs)
	p.serverIDs = newIDPool(maxServers, serverIDs)
	return p.regroup(none)
}

// eachListener goes through the listeners of both families.
func (p *Plane) eachListener(take func(listener, uint32)) error {
	var (
		to  bpfListener
		to6 bpfListener6
		at  bpfListening
		at6 bpfListening6
	)
	each := p.maps.Listeners.Iterate()
	for each.Next(&to, &at) {
		take(listener{serviceIDOf(to), at.Id}, at.Slot)
	}
	each6 := p.maps.Listeners6.Iterate()
	for each6.Next(&to6, &at6) {
		take(listener{serviceIDOf6(to6), at6.Id}, at6.Slot)
	}
	if err := errors.Join(each.Err(), each6.Err()); err != nil {
		return fmt.Errorf("reading the virtual services: %w", err)
	}
	return nil
}

// recoverServer takes note of a server's record. One that no service lists was
// removed, if not quite: the predecessor may have been killed at it.
func (p *Plane) recoverServer(id uint32, listed bool) {
	r := p.record(id)
	p.noteAddr(id, r.addr)
	if !listed {
		r.Flags &^= uint16(bpfServerFlagsSERVER_EXISTS)
		p.leaving[serverKey{r.Service, r.addr}] = departed{id, time.Now()}
	}
	if listed && bpfServerFlags(r.Flags)&bpfServerFlagsSERVER_QUIESCED == 0 { // a version that knows nothing of it has let it stand
		r.Flags &^= uint16(bpfServerFlagsSERVER_RESETS)
	}
	if r.resets() {
		p.resetting[id] = true
	}
	switch {
	case r.local():
		p.neighbours[r.addr] = Neighbour{Addr: r.addr, Local: true}
	case bpfServerFlags(r.Flags)&bpfServerFlagsSERVER_RESOLVED != 0:
		p.neighbours[r.addr] = Neighbour{
			Addr: r.addr, Interface: int(r.Interface), MAC: r.Mac[:], Source: r.Source[:], MTU: int(r.Mtu),
		}
	}
	p.writeServer(id, r)
}

func (p *Plane) recoverService(id lvs.ServiceID, slot uint32) *installed {
	s := p.services[slot]
	if s.Mark != 0 {
		id = lvs.ServiceID{Mark: s.Mark, Mark6: id.Is6()}
	}
	i := &installed{
		service: &lvs.VirtualService{ServiceID: id, Scheduler: schedulerName(s.Scheduler),
			Flags: recoveredFlags(bpfServiceFlags(s.Flags)), Policy: recoveredPolicy(s), Timeout: s.Timeout, Netmask: netmaskOf(id, s.Mask)},
		moved:      bpfServiceFlags(s.Flags)&bpfServiceFlagsSERVICE_MOVED != 0,
		id:         s.Id,
		slot:       span{slot, 1},
		members:    span{s.Members, s.Count},
		hash:       span{s.Hash, s.HashSize},
		places:     span{s.Table, s.TableSize},
		generation: s.Generation,
		epoch:      s.Epoch,
		denied:     s.Denied,
		turn:       turn{s.Place, s.Current},
	}
	for _, m := range at(p.members, i.members) {
		i.servers = append(i.servers, m.Server)
		i.service.Servers = append(i.service.Servers, lvs.RealServer{
			ServerID: lvs.ServerID{Addr: p.addrOf(m.Server), Port: id.Port},
			Forward:  lvs.DirectRouting,
			Weight:   m.Weight,
			Upper:    p.limits[m.Server].Upper,
			Lower:    p.limits[m.Server].Lower,
			Seed:     m.Seed,
		})
	}
	i.groups = span{s.Groups, groupsOf(i.service)}
	return i
}

// netmaskOf is maskOf the other way round.
func netmaskOf(id lvs.ServiceID, mask [2]uint64) uint32 {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:8], mask[0])
	binary.NativeEndian.PutUint64(b[8:], mask[1])
	if !id.Is6() {
		return binary.BigEndian.Uint32(b[12:])
	}
	n := 0
	for _, x := range b {
		n += bits.OnesCount8(x)
	}
	return uint32(n)
}

// readArray reads a whole array map.
func readArray[V any](m *ebpf.Map) ([]V, error) {
	out := make([]V, m.MaxEntries())
	keys := make([]uint32, len(out))
	var cursor ebpf.MapBatchCursor
	for n := 0; n < len(out); {
		got, err := m.BatchLookup(&cursor, keys[n:], out[n:], nil)
		n += got
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading map %v: %w", m, err)
		}
	}
	return out, nil
}
