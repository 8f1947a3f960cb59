// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// installed is a virtual service as the maps have it.
type installed struct {
	service    *lvs.VirtualService
	id         uint32
	slot       span
	members    span
	hash       span
	places     span   // of sh, dh, mh
	groups     span   // of a long list
	denied     uint32 // its deny list; 0: none
	generation uint16
	turn       turn     // where the turn of this generation began
	servers    []uint32 // ids, beside service.Servers
	listeners  []listener
	moved      bool   // its connections may be in either table
	epoch      uint32 // another one when it begins anew
}

// sameInstalled tells whether two versions of a service mean the same to the
// data plane.
func sameInstalled(a, b *lvs.VirtualService) bool {
	if b.Scheduler == lvs.WeightedRoundRobin && a.Edits != b.Edits {
		return false
	}
	return a.Scheduler == b.Scheduler && flagsOf(a) == flagsOf(b) && a.Policy.Stray == b.Policy.Stray &&
		a.Policy.SourceLimit == b.Policy.SourceLimit && slices.Equal(a.Deny, b.Deny) &&
		(!a.Persistent() || a.Timeout == b.Timeout && a.Netmask == b.Netmask) &&
		slices.EqualFunc(a.Servers, b.Servers, func(x, y lvs.RealServer) bool {
			return x.ServerID == y.ServerID && x.Weight == y.Weight && limitOf(x) == limitOf(y)
		})
}

type prepared struct{ old, new *installed }

// prepare writes a new version of a service beside the old one.
func (tx *transaction) prepare(old *installed, s *lvs.VirtualService, on []lvs.ServiceID) error {
	p := tx.p
	n := &installed{service: s}
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
	had := old.ids()
	for _, r := range s.Servers {
		id, ok := tx.serverID(had, n.id, r.ServerID)
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
	if n.members, ok = p.memberSpans.take(uint32(len(s.Servers))); !ok {
		return fmt.Errorf("%w: no room for a list of %d real servers", ErrFull, len(s.Servers))
	}
	if n.hash, ok = p.hashSpans.take(uint32(len(byHash))); !ok {
		return fmt.Errorf("%w: no room for a consistent-hash table of %d places", ErrFull, len(byHash))
	}
	if n.places, ok = p.hashSpans.take(uint32(len(places))); !ok {
		return fmt.Errorf("%w: no room for the %d places of scheduler %s", ErrFull, len(places), s.Scheduler)
	}
	var err error
	if n.denied, err = tx.denyList(old, s); err != nil {
		return err
	}
	groups := groupsOf(s)
	if n.groups, ok = p.groupSpans.take(groups); !ok {
		return fmt.Errorf("%w: no room for %d groups of real servers", ErrFull, groups)
	}
	for i, m := range n.servers {
		at(p.members, n.members)[i] = bpfMember{Server: m, Weight: s.Servers[i].Weight, Seed: seedOf(s.Servers[i])}
	}
	newGroups(at(p.groups, n.groups))
	for i, server := range byHash {
		at(p.hashSlots, n.hash)[i] = n.servers[server]
	}
	for i, server := range places {
		at(p.hashSlots, n.places)[i] = n.servers[server]
	}
	return nil
}

// ids are those of the servers.
func (n *installed) ids() map[lvs.ServerID]uint32 {
	if n == nil {
		return nil
	}
	ids := make(map[lvs.ServerID]uint32, len(n.servers))
	for i, r := range n.service.Servers {
		ids[r.ServerID] = n.servers[i]
	}
	return ids
}

// publish makes packets see the new version.
func (tx *transaction) publish(old, n *installed) error {
	p := tx.p
	s := n.service
	for i, r := range s.Servers {
		if err := tx.publishServer(n, n.servers[i], r); err != nil {
			return err
		}
		if err := tx.group(n, i); err != nil {
			return err
		}
	}
	p.nextTurn(old, n)
	r := roundOf(s.Servers)
	scheduler, _ := schedulerNumber(s.Scheduler)
	flags := flagsOf(s)
	if n.moved = old != nil && (old.moved || old.service.Persistent() != s.Persistent() && !s.Is6()); n.moved {
		flags |= bpfServiceFlagsSERVICE_MOVED
	}
	p.services[n.slot.first] = bpfService{
		Id:         n.id,
		Mark:       s.Mark,
		Members:    n.members.first,
		Count:      n.members.count,
		Hash:       n.hash.first,
		HashSize:   n.hash.count,
		Scheduler:  scheduler,
		Stray:      uint8(strays()[s.Policy.Stray]),
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
		Groups:     n.groups.first,
		Denied:     n.denied,

		SourceRate:  s.Policy.SourceLimit.Rate,
		SourceBurst: s.Policy.SourceLimit.Burst,
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

// nextTurn gives the new version its generation and its turn.
func (p *Plane) nextTurn(old, n *installed) {
	generation, t := unpackTurn(atomic.LoadUint64(&p.turns[n.id]))
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
	if n.service.Scheduler == lvs.WeightedRoundRobin && edited && sameWeights(servers, n.service.Servers) {
		n.turn = n.turn.restart(roundOf(servers))
	}
	n.generation = generation + 1
	if old != nil && n.generation == old.generation {
		n.generation++
	}
}

func (p *Plane) release(old *installed) {
	p.slots.give(old.slot)
	p.memberSpans.give(old.members)
	p.hashSpans.give(old.hash)
	p.hashSpans.give(old.places)
	p.groupSpans.give(old.groups)
}
