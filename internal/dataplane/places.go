// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"math/bits"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// The sizes of the kernel's tables (ip_vs_sh.c, ip_vs_dh.c, ip_vs_mh.c).
const (
	hashPlaces   = 256
	maglevPlaces = 4093
	mhKeyFirst   = 2654435761
	mhKeyStep    = 2654446892
)

// schedulerPlaces fills the table of sh, dh or mh as the kernel does: each place
// has the index of a server in the list. Other schedulers have none. weights are
// the servers' last ones that were not 0: mh goes by them, so that quiescing
// moves nobody.
func schedulerPlaces(s *lvs.VirtualService, weights []int32) []uint32 {
	switch s.Scheduler {
	case lvs.SourceHashing:
		return shPlaces(s.Servers)
	case lvs.DestinationHashing:
		return dhPlaces(len(s.Servers))
	case lvs.Maglev:
		return mhPlaces(s.Servers, weights)
	}
	return nil
}

// shPlaces: along the list, round and round, each server weight places in a row;
// a quiesced one has one too, and refuses there.
func shPlaces(servers []lvs.RealServer) []uint32 {
	if len(servers) == 0 {
		return nil
	}
	places := make([]uint32, hashPlaces)
	at, run := 0, int32(0)
	for i := range places {
		places[i] = uint32(at)
		if run++; run >= servers[at].Weight {
			at, run = (at+1)%len(servers), 0
		}
	}
	return places
}

// dhPlaces: one place each, whatever the weight.
func dhPlaces(servers int) []uint32 {
	if servers == 0 {
		return nil
	}
	places := make([]uint32, hashPlaces)
	for i := range places {
		places[i] = uint32(i % servers)
	}
	return places
}

// mhPlaces: each server goes through all places in an order of its own, and
// takes the free ones it meets, as many at a turn as its weight says.
func mhPlaces(servers []lvs.RealServer, weights []int32) []uint32 {
	type candidate struct{ at, step, turns uint32 }
	var gcd, most uint32
	for _, w := range weights {
		if w > 0 {
			gcd = greatestCommonDivisor(uint32(w), gcd)
			most = max(most, uint32(w))
		}
	}
	if most == 0 {
		return nil
	}
	shift := max(0, bits.Len32(most/gcd)-6)
	all := make([]candidate, len(servers))
	for i, s := range servers {
		if weights[i] <= 0 {
			continue
		}
		v := addressNumber(s.Addr.AsSlice()) + uint32(s.Port)
		all[i] = candidate{
			at:    hsiphash(v, mhKeyFirst) % maglevPlaces,
			step:  hsiphash(v, mhKeyStep)%(maglevPlaces-1) + 1,
			turns: max(1, uint32(weights[i])/gcd>>shift),
		}
	}
	places := make([]uint32, maglevPlaces)
	taken := make([]bool, maglevPlaces)
	for filled := 0; filled < maglevPlaces; {
		for i := range all {
			c := &all[i]
			for range c.turns {
				for taken[c.at] {
					c.at = (c.at + c.step) % maglevPlaces
				}
				places[c.at], taken[c.at] = uint32(i), true
				if filled++; filled == maglevPlaces {
					return places
				}
			}
		}
	}
	return places
}

func greatestCommonDivisor(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// addressNumber is an address as the kernel's schedulers fold it: of IPv6 the
// four words together.
func addressNumber(addr []byte) uint32 {
	var n uint32
	for ; len(addr) >= 4; addr = addr[4:] {
		n ^= binary.BigEndian.Uint32(addr)
	}
	return n
}

// hsiphash is the kernel's hsiphash_1u32 on a 64-bit machine, SipHash-1-3, with
// both words of the key alike; as in bpf/schedule.h.
func hsiphash(v uint32, key uint64) uint32 {
	a, b := 0x736f6d6570736575^key, 0x646f72616e646f6d^key
	c, d := 0x6c7967656e657261^key, 0x7465646279746573^key
	m := uint64(4)<<56 | uint64(v)
	round := func() {
		a += b
		b = bits.RotateLeft64(b, 13) ^ a
		a = bits.RotateLeft64(a, 32)
		c += d
		d = bits.RotateLeft64(d, 16) ^ c
		a += d
		d = bits.RotateLeft64(d, 21) ^ a
		c += b
		b = bits.RotateLeft64(b, 17) ^ c
		c = bits.RotateLeft64(c, 32)
	}
	d ^= m
	round()
	a ^= m
	c ^= 0xff
	round()
	round()
	round()
	return uint32(a ^ b ^ c ^ d)
}
