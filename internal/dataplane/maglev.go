// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"hash/fnv"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// maglevSize returns how many places the consistent-hash table of a service
// with n available servers has: a prime, some 25 or more for each server.
func maglevSize(n int) uint32 {
	if n == 0 {
		return 0
	}
	for _, prime := range []uint32{251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521} {
		if uint32(n)*25 <= prime {
			return prime
		}
	}
	return 131071
}

// maglev fills a table of that size with indices into servers, each server as
// often as its weight says (Eisenbud et al., Maglev, NSDI 2016, section 3.4). It
// depends on nothing but addresses and weights, so that every director, and
// every restart, comes to the same table.
func maglev(servers []lvs.RealServer) []uint32 {
	type candidate struct {
		index        int
		next, step   uint32
		weight, turn int64
	}
	var cs []candidate
	var most int64
	for i, s := range servers {
		if s.Weight > 0 {
			cs = append(cs, candidate{index: i, weight: int64(s.Weight)})
			most = max(most, int64(s.Weight))
		}
	}
	size := maglevSize(len(cs))
	for i := range cs {
		addr := servers[cs[i].index].Addr
		cs[i].next = addressHash(addr.AsSlice(), 0) % size
		cs[i].step = addressHash(addr.AsSlice(), 1)%(size-1) + 1
	}
	table := make([]uint32, size)
	taken := make([]bool, size)
	for filled := uint32(0); filled < size; {
		for i := range cs {
			c := &cs[i]
			// The heaviest takes a place in every round, the others in the
			// fraction of rounds that their weight is of its.
			c.turn += c.weight
			if c.turn < most {
				continue
			}
			c.turn -= most
			for taken[c.next] {
				c.next = (c.next + c.step) % size
			}
			table[c.next], taken[c.next] = uint32(c.index), true
			if filled++; filled == size {
				break
			}
		}
	}
	return table
}

func addressHash(addr []byte, salt byte) uint32 {
	h := fnv.New64a()
	h.Write([]byte{salt})
	h.Write(addr)
	// FNV leaves the high bits of short inputs alike: mix them.
	x := binary.BigEndian.Uint64(h.Sum(nil))
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return uint32(x)
}
