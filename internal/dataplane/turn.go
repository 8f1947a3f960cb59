// SPDX-License-Identifier: MIT

package dataplane

import (
	"slices"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// turn is the state of rr and wrr (bpf/schedule.h): which server was chosen
// last, and wrr's current weight. When the list of servers changes, it moves on
// as the kernel's does, so that the next choice is the kernel's too.
type turn struct {
	place   uint32 // 0: before the list; n: its n-th server
	current int32
}

func unpackTurn(w uint64) (generation uint16, t turn) {
	return uint16(w >> 48), turn{place: uint32(w >> 32 & 0xffff), current: int32(uint32(w))}
}

// round is what wrr derives from the weights: the weight a round starts with
// and by how much it goes down (net/netfilter/ipvs/ip_vs_wrr.c).
type round struct{ greatest, step int32 }

func roundOf(servers []lvs.RealServer) round {
	var gcd, most int32
	for _, s := range servers {
		most = max(most, s.Weight)
		if s.Weight > 0 {
			gcd = int32(greatestCommonDivisor(uint32(s.Weight), uint32(gcd)))
		}
	}
	gcd = max(gcd, 1)
	return round{greatest: most - (gcd - 1), step: gcd}
}

// restart is what any change of the servers does to wrr: back to the head of
// the list, while the current weight stays near where it was.
func (t turn) restart(r round) turn {
	t.place = 0
	switch {
	case t.current > r.greatest || t.current == 0:
		t.current = r.greatest
	case r.step > 1:
		t.current = t.current/r.step*r.step + 1
	}
	return t
}

// moveTurn carries a turn over from the old list of servers to the new one. It
// goes through the change as ipvsadm would make it, server by server: removals,
// edits, then additions, oldest first.
func moveTurn(s lvs.Scheduler, t turn, old, new []lvs.RealServer) turn {
	if s != lvs.RoundRobin && s != lvs.WeightedRoundRobin {
		return t
	}
	had, at := make(map[lvs.ServerID]bool, len(old)), make(map[lvs.ServerID]int, len(new))
	for _, r := range old {
		had[r.ServerID] = true
	}
	for i, r := range new {
		at[r.ServerID] = i
	}
	list := slices.Clone(old)
	changed := func() {
		if s == lvs.WeightedRoundRobin {
			t = t.restart(roundOf(list))
		}
	}
	for i := 0; i < len(list); {
		if _, stays := at[list[i].ServerID]; stays {
			i++
			continue
		}
		list = slices.Delete(list, i, i+1)
		if s == lvs.RoundRobin && t.place > uint32(i) {
			t.place-- // a removed server's turn goes back to the one before it
		}
		changed()
	}
	for i := range list {
		n := new[at[list[i].ServerID]]
		if n.Weight != list[i].Weight {
			list[i] = n
			changed()
		}
	}
	for _, n := range slices.Backward(new) {
		if had[n.ServerID] {
			continue
		}
		list = slices.Insert(list, 0, n)
		if s == lvs.RoundRobin && t.place > 0 {
			t.place++
		}
		changed()
	}
	return t
}
