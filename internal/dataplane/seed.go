// SPDX-License-Identifier: MIT

package dataplane

import (
	"slices"
	"sync/atomic"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// seedOf is what a server counts as having beyond its connections. It is bounded
// so that costs by weight stay below 2^63 (bpf/schedule.h).
func seedOf(r lvs.RealServer) uint32 { return min(r.Seed, lvs.MaxSeed) }

// sameWeights tells whether two lists have the same servers and differ in their
// seeds at most, of which rr and wrr know nothing.
func sameWeights(a, b []lvs.RealServer) bool {
	return slices.EqualFunc(a, b, func(x, y lvs.RealServer) bool {
		x.Seed, y.Seed = 0, 0
		return x == y
	})
}

// reseed writes the seeds of a service that is otherwise as it is installed: in
// its version that is in use, so that no turn and no table begins anew.
func (tx *transaction) reseed(i *installed, s *lvs.VirtualService) {
	p := tx.p
	for n, r := range s.Servers {
		was := p.seeds[i.servers[n]].Active
		if now := seedOf(r); now != was || now != p.members[i.members.first+uint32(n)].Seed {
			p.setSeed(i, n, now)
			tx.undo = append(tx.undo, func() error { p.setSeed(i, n, was); return nil })
		}
	}
}

// setSeed writes the seed of a version's n-th server, and then that the least one of
// its group has to be found out again, as packets do when they change a load.
func (p *Plane) setSeed(i *installed, n int, seed uint32) {
	atomic.StoreUint32(&p.members[i.members.first+uint32(n)].Seed, seed)
	atomic.StoreUint32(&p.seeds[i.servers[n]].Active, seed)
	if g := i.groupOf(n); g != 0 {
		atomic.AddUint32(&p.groups[g-1].Changes, 1)
	}
}

// publishSeed writes the seed of a server by its id, beside that of a new version's list.
func (tx *transaction) publishSeed(id uint32, r lvs.RealServer) {
	at := &tx.p.seeds[id].Active
	if was := atomic.LoadUint32(at); was != seedOf(r) {
		atomic.StoreUint32(at, seedOf(r))
		tx.undo = append(tx.undo, func() error { atomic.StoreUint32(at, was); return nil })
	}
}
