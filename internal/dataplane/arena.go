// SPDX-License-Identifier: MIT

package dataplane

import (
	"slices"
	"time"
)

// span is a run of elements of an array map.
type span struct{ first, count uint32 }

func (s span) end() uint32 { return s.first + s.count }

// grace is how long given-back elements rest before they are used again, if there
// are others: a packet that is being handled may still read the version it started
// with.
const grace = time.Second

// arena hands out runs of elements of an array map.
type arena struct {
	free    []span // in order, never touching each other
	resting []rest
	now     func() time.Time
	settle  func() // returns when nothing that rests is read any more
}

type rest struct {
	span
	since time.Time
}

// newArena returns an arena of count elements of which those in use are taken.
func newArena(count uint32, used []span) *arena {
	a := &arena{now: time.Now, settle: settleCPUs}
	slices.SortFunc(used, func(x, y span) int { return int(int64(x.first) - int64(y.first)) })
	next := uint32(0)
	for _, u := range used {
		if u.first > next {
			a.free = append(a.free, span{next, u.first - next})
		}
		next = max(next, u.end())
	}
	if next < count {
		a.free = append(a.free, span{next, count - next})
	}
	return a
}

// take returns count elements in a row, and whether there are any.
func (a *arena) take(count uint32) (span, bool) {
	if count == 0 {
		return span{}, true
	}
	a.wake(grace)
	s, ok := a.find(count)
	if !ok && len(a.resting) > 0 {
		a.settle()
		a.wake(0)
		s, ok = a.find(count)
	}
	return s, ok
}

func (a *arena) find(count uint32) (span, bool) {
	for i := range a.free {
		f := &a.free[i]
		if f.count < count {
			continue
		}
		s := span{f.first, count}
		f.first += count
		f.count -= count
		if f.count == 0 {
			a.free = slices.Delete(a.free, i, i+1)
		}
		return s, true
	}
	return span{}, false
}

// give takes elements back; they rest for a grace period first.
func (a *arena) give(s span) {
	if s.count > 0 {
		a.resting = append(a.resting, rest{s, a.now()})
	}
}

// wake frees what has rested that long.
func (a *arena) wake(enough time.Duration) {
	n := 0
	for n < len(a.resting) && a.now().Sub(a.resting[n].since) >= enough {
		a.release(a.resting[n].span)
		n++
	}
	a.resting = slices.Delete(a.resting, 0, n)
}

func (a *arena) release(s span) {
	i, _ := slices.BinarySearchFunc(a.free, s, func(x, y span) int { return int(int64(x.first) - int64(y.first)) })
	a.free = slices.Insert(a.free, i, s)
	if i+1 < len(a.free) && a.free[i].end() == a.free[i+1].first {
		a.free[i].count += a.free[i+1].count
		a.free = slices.Delete(a.free, i+1, i+2)
	}
	if i > 0 && a.free[i-1].end() == a.free[i].first {
		a.free[i-1].count += a.free[i].count
		a.free = slices.Delete(a.free, i, i+1)
	}
}
