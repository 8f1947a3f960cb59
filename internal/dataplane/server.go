// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

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

// local tells whether the server is this host.
func (r record) local() bool {
	return bpfServerFlags(r.Flags)&bpfServerFlagsSERVER_LOCAL != 0
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
		tx.undo = append(tx.undo, func() error { return p.writeServer(id, was) })
		if err := p.writeServer(id, now); err != nil {
			return err
		}
	}
	limit := p.limits[id]
	if limit == limitOf(r) {
		return nil
	}
	tx.undo = append(tx.undo, func() error { return p.writeLimit(id, limit) })
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
	tx.undo = append(tx.undo, func() error {
		p.leaving[key] = d
		return p.addToBase(service, id, true)
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
		errs = append(errs, p.addToBase(old.id, id, true), p.writeServer(id, gone), p.setGroup(id, 0))
		p.leaving[serverKey{old.id, old.service.Servers[i].Addr}] = departed{id, time.Now()}
	}
	return errors.Join(errs...)
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
	r.Flags &^= uint16(bpfServerFlagsSERVER_RESOLVED | bpfServerFlagsSERVER_LOCAL)
	switch {
	case n.Local:
		r.Flags |= uint16(bpfServerFlagsSERVER_LOCAL)
		return r
	case !ok || len(n.MAC) != 6 || len(n.Source) != 6:
		return r
	}
	r.Flags |= uint16(bpfServerFlagsSERVER_RESOLVED)
	r.Mac = [6]byte(n.MAC)
	r.Source = [6]byte(n.Source)
	r.Vlan = n.VLAN
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
