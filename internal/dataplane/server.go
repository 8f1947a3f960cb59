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
		out[i] = lastWeight(p.record(id), n.service.Servers[i])
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
func (tx *transaction) serverID(had map[lvs.ServerID]uint32, service uint32, id lvs.ServerID) (uint32, bool) {
	if n, ok := had[id]; ok {
		return n, true
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
	was := p.record(id)
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
	tx.publishSeed(id, r)
	now.LastWeight = lastWeight(was, r)
	now.Flags |= was.Flags & uint16(bpfServerFlagsSERVER_RESETS)
	now.Flags &^= uint16(bpfServerFlagsSERVER_QUIESCED)
	if r.Weight == 0 {
		now.Flags |= uint16(bpfServerFlagsSERVER_QUIESCED)
	} else { // its connections of before go on, and those that come are not to be reset
		now.Flags &^= uint16(bpfServerFlagsSERVER_RESETS)
	}
	if now != was {
		tx.written = append(tx.written, written{id, was})
		p.writeServer(id, now)
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
	if err := p.addToBase(service, id, false, p.counted); err != nil {
		return err
	}
	delete(p.leaving, key)
	tx.undo = append(tx.undo, func() error {
		p.leaving[key] = d
		return p.addToBase(service, id, true, p.counted)
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
	if p.limits[id] == l {
		return nil
	}
	ret, err := p.programs.SetLimit.Run(&ebpf.RunOptions{Context: &bpfLimitUpdate{Id: id, Upper: l.Upper, Lower: l.Lower}})
	if err != nil || ret != 0 {
		return fmt.Errorf("writing thresholds (code %d): %w", ret, err)
	}
	return nil
}

// depart takes servers that are not in the new version out of service. Their
// ids stay theirs until their last connection is gone.
func (p *Plane) depart(old *installed, still []uint32, counted tally) error {
	stays := make(map[uint32]bool, len(still))
	for _, id := range still {
		stays[id] = true
	}
	var errs []error
	for i, id := range old.servers {
		if stays[id] {
			continue
		}
		gone := p.record(id)
		gone.Flags &^= uint16(bpfServerFlagsSERVER_EXISTS)
		errs = append(errs, p.addToBase(old.id, id, true, counted), p.setGroup(id, 0))
		p.writeServer(id, gone)
		p.estimators.servers.forget(id)
		p.leaving[serverKey{old.id, old.service.Servers[i].Addr}] = departed{id, time.Now()}
	}
	return errors.Join(errs...)
}

// record is what an id stands for now.
func (p *Plane) record(id uint32) record { return record{p.servers[id], p.addrOf(id)} }

// addrOf is the address of the real server that has an id; invalid: none has it.
func (p *Plane) addrOf(id uint32) netip.Addr {
	a := p.serverBases[id].Addr
	if a == ([16]uint8{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(a).Unmap()
}

// writeServer writes a server's record, and which server the id is, for a
// successor to find.
func (p *Plane) writeServer(id uint32, r record) {
	p.setServer(id, &r.bpfServer)
	was := p.addrOf(id)
	if was == r.addr {
		return
	}
	delete(p.byAddr[was], id)
	p.serverBases[id].Addr = [16]uint8{}
	if r.addr.IsValid() {
		p.serverBases[id].Addr = r.addr.As16()
		p.noteAddr(id, r.addr)
	}
}

func (p *Plane) noteAddr(id uint32, addr netip.Addr) {
	if p.byAddr[addr] == nil {
		p.byAddr[addr] = map[uint32]bool{}
	}
	p.byAddr[addr][id] = true
}

// resets tells whether the server's connections end with their next packet.
func (r record) resets() bool {
	return bpfServerFlags(r.Flags)&bpfServerFlagsSERVER_RESETS != 0
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
		p.writeServer(id, p.withNeighbour(p.record(id)))
	}
	return nil
}
