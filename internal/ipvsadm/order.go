// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"cmp"
	"encoding/binary"
	"net/netip"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// ipvsadm orders by the sign of a 32-bit difference, which is no order at all
// for addresses more than 2^31 apart: 172.16.0.1 comes before 8.8.8.8, that
// before 127.0.0.1, and that before 172.16.0.1. What comes out depends on how
// the sorting goes about it, so mergeSort goes about it as glibc's qsort does.

// difference compares as ipvsadm does: by the sign of a - b in 32 bits.
func difference(a, b uint32) int { return int(int32(a - b)) }

// words gives an address as 32-bit words; an IPv4 address has one.
func words(a netip.Addr) []uint32 {
	b := a.AsSlice()
	w := make([]uint32, 0, 4)
	for ; len(b) >= 4; b = b[4:] {
		w = append(w, binary.BigEndian.Uint32(b))
	}
	return w
}

// compareAddr compares as many words as a has; where b has fewer, the rest is
// zero, as it is in the kernel's answer.
func compareAddr(a, b netip.Addr) int {
	bw := words(b)
	for i, w := range words(a) {
		var other uint32
		if i < len(bw) {
			other = bw[i]
		}
		if d := difference(w, other); d != 0 {
			return d
		}
	}
	return 0
}

func compareServices(a, b *lvs.VirtualService) int {
	return cmp.Or(
		difference(a.Mark, b.Mark),
		family(a)-family(b),
		int(a.Protocol)-int(b.Protocol),
		compareAddr(a.Addr, b.Addr),
		int(a.Port)-int(b.Port),
	)
}

// compareMarks puts the rules of one group together. ipvsadm has no such list,
// so this is an order like any other.
func compareMarks(a, b lvs.MarkRule) int {
	return cmp.Or(
		cmp.Compare(a.Mark, b.Mark),
		a.Addr.Compare(b.Addr),
		cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.First, b.First),
	)
}

// family numbers address families so that IPv4 comes first.
func family(s *lvs.VirtualService) int {
	if s.Is6() {
		return 1
	}
	return 0
}

func compareServers(a, b lvs.RealServer) int {
	return cmp.Or(compareAddr(a.Addr, b.Addr), int(a.Port)-int(b.Port))
}

// mergeSort sorts s: the first half (the smaller one) and the second half by
// themselves, then merged, the first half's element first unless it is greater.
func mergeSort[T any](s []T, compare func(a, b T) int) {
	mergeSortWith(s, make([]T, len(s)), compare)
}

func mergeSortWith[T any](s, scratch []T, compare func(a, b T) int) {
	if len(s) < 2 {
		return
	}
	left, right := s[:len(s)/2], s[len(s)/2:]
	mergeSortWith(left, scratch, compare)
	mergeSortWith(right, scratch, compare)
	merged := scratch[:0]
	for len(left) > 0 && len(right) > 0 {
		if compare(left[0], right[0]) <= 0 {
			merged, left = append(merged, left[0]), left[1:]
		} else {
			merged, right = append(merged, right[0]), right[1:]
		}
	}
	merged = append(append(merged, left...), right...)
	copy(s, merged)
}
