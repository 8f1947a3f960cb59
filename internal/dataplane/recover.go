// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"fmt"
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
	p.leaving = map[serverKey]departed{}
	p.gone = map[lvs.ServiceID]uint32{}
	p.byAddr = map[netip.Addr]map[uint32]bool{}
	p.records = map[uint32]bpfServer{}
	p.limits = map[uint32]bpfLimit{}
	p.estimators = newEstimators()
	if err := p.maps.Settings.Lookup(uint32(0), &p.parameters); err != nil {
		return fmt.Errorf("reading the data plane's settings: %w", err)
	}
	servers, err := readArray[bpfServer](p.maps.Servers)
	if err != nil {
		return err
	}
	limits, err := readArray[bpfLimit](p.maps.Limits)
	if err != nil {
		return err
	}
	for id, l := range limits {
		if l != (bpfLimit{}) {
			p.limits[uint32(id)] = l
		}
	}
	var slots, members, hashSlots []span
	serviceIDs, serverIDs, listed := map[uint32]bool{}, map[uint32]bool{}, map[uint32]bool{}

	var listener bpfListener
	var slot uint32
	each := p.maps.Listeners.Iterate()
	for each.Next(&listener, &slot) {
		i, err := p.recoverService(listener, slot, servers)
		if err != nil {
			return err
		}
		p.installed[i.service.ServiceID] = i
		slots, members, hashSlots = append(slots, i.slot), append(members, i.members), append(hashSlots, i.hash, i.places)
		for _, id := range i.servers {
			listed[id] = true
		}
	}
	if err := each.Err(); err != nil {
		return fmt.Errorf("reading the virtual services: %w", err)
	}
	bases, err := readArray[bpfServiceBase](p.maps.ServiceBases)
	if err != nil {
		return err
	}
	for id, b := range bases {
		if b.Listener.Protocol == 0 {
			continue
		}
		serviceIDs[uint32(id)] = true
		if sid := serviceIDOf(b.Listener); p.installed[sid] == nil {
			p.gone[sid] = uint32(id)
		}
	}
	for id, s := range servers {
		if s.Addr == 0 {
			continue
		}
		serverIDs[uint32(id)] = true
		if err := p.recoverServer(uint32(id), s, listed[uint32(id)]); err != nil {
			return err
		}
	}
	p.slots = newArena(maxSlots, slots)
	p.members = newArena(maxMembers, members)
	p.hashSlots = newArena(maxHashSlots, hashSlots)
	p.serviceIDs = newIDPool(maxServices, serviceIDs)
	p.serverIDs = newIDPool(maxServers, serverIDs)
	return nil
}

// recoverServer takes note of a server's record. One that no service lists was
// removed, if not quite: the predecessor may have been killed at it.
func (p *Plane) recoverServer(id uint32, s bpfServer, listed bool) error {
	if !listed {
		s.Flags &^= uint16(bpfServerFlagsSERVER_EXISTS)
		p.leaving[serverKey{s.Service, addrOf(s.Addr)}] = departed{id, time.Now()}
	}
	if bpfServerFlags(s.Flags)&bpfServerFlagsSERVER_RESOLVED != 0 {
		p.neighbours[addrOf(s.Addr)] = Neighbour{
			Addr: addrOf(s.Addr), Interface: int(s.Interface), MAC: s.Mac[:], Source: s.Source[:],
		}
	}
	return p.writeServer(id, s)
}

func (p *Plane) recoverService(l bpfListener, slot uint32, servers []bpfServer) (*installed, error) {
	var s bpfService
	id := serviceIDOf(l)
	if err := p.maps.Services.Lookup(slot, &s); err != nil {
		return nil, fmt.Errorf("reading %v: %w", id, err)
	}
	i := &installed{
		service: &lvs.VirtualService{ServiceID: id, Scheduler: schedulerName(s.Scheduler),
			Flags: recoveredFlags(bpfServiceFlags(s.Flags))},
		id:         s.Id,
		slot:       span{slot, 1},
		members:    span{s.Members, s.Count},
		hash:       span{s.Hash, s.HashSize},
		places:     span{s.Table, s.TableSize},
		generation: s.Generation,
		turn:       turn{s.Place, s.Current},
	}
	for n := range s.Count {
		var m bpfMember
		if err := p.maps.Members.Lookup(s.Members+n, &m); err != nil {
			return nil, fmt.Errorf("reading the real servers of %v: %w", id, err)
		}
		i.servers = append(i.servers, m.Server)
		i.service.Servers = append(i.service.Servers, lvs.RealServer{
			ServerID: lvs.ServerID{Addr: addrOf(servers[m.Server].Addr), Port: id.Port},
			Forward:  lvs.DirectRouting,
			Weight:   m.Weight,
			Upper:    p.limits[m.Server].Upper,
			Lower:    p.limits[m.Server].Lower,
		})
	}
	return i, nil
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
