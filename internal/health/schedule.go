// SPDX-License-Identifier: MIT

package health

import (
	"container/heap"
	"math"
	"time"
)

// When a check is due.
//
// Each has its slots, an interval apart, at a place in the interval that is its
// own; jitter moves it around a slot, but never its slots, so nothing drifts
// into a bunch, and jitter does not add up. It begins
//   - for the first time sooner, by what is its own place in a shorter time;
//   - while a change is undecided (a failure that is not Fall yet, a success that
//     is not Rise yet) as early as jitter allows. So it takes Fall × Interval at
//     most from a server's death to the begin of the check that finds it out, if
//     Fall is 2 or more, Jitter not above 0.375 and Timeout not above Interval ×
//     (1 - 2 × Jitter). (With a Fall of 1, or a Timeout up to Interval, it may be
//     2 × Jitter × Interval more.) What comes on top is that check's own time, at
//     most Timeout, and how late it began if more checks are due than may run;
//   - never before it ended: one that takes longer begins when it ended if that
//     is as near to its slot as jitter allows, and else leaves slots out.

const (
	// sooner is how long a new check waits at most if there are few of them.
	sooner = time.Second
	// startRate is how many checks a second begin for the first time when there
	// are many, unless their intervals need more.
	startRate = 2000
	// leastGap is the share of the interval that is always between two begins.
	leastGap = 4
)

// phase gives the place of the nth check of an interval, 0 to 1. Multiples of
// the golden ratio are spread evenly for any number of checks (the three-distance
// theorem): better than by chance, which hashes would be.
func phase(n uint64) float64 {
	_, f := math.Modf(float64(n) * (math.Phi - 1))
	return f
}

// pace is how often a check is due. Times are since the checker's epoch.
type pace struct {
	interval time.Duration
	jitter   time.Duration // one is so much earlier or later
	place    time.Duration // of the slots in the interval
}

func newPace(c *Check, phase float64) pace {
	p := pace{interval: max(c.Interval, time.Millisecond)}
	p.jitter = time.Duration(min(max(c.Jitter, 0), 0.5) * float64(p.interval))
	p.place = time.Duration(phase * float64(p.interval))
	return p
}

// slot gives the last slot that is not after t.
func (p pace) slot(t time.Duration) time.Duration {
	n := (t - p.place) / p.interval
	if t < p.place {
		n-- // Go rounds towards zero, and the first slot may be yet to come
	}
	return p.place + n*p.interval
}

// first tells when a check is due for the first time that is new at now, as are
// so many others.
func (p pace) first(now time.Duration, others int) time.Duration {
	within := max(min(p.interval/4, sooner), time.Duration(others)*time.Second/startRate)
	if within >= p.interval {
		return p.slot(now) + p.interval
	}
	share := float64(p.slot(now)+p.interval-now) / float64(p.interval)
	return now + time.Duration(share*float64(within))
}

// next tells when a check is due again and which slot that is. It was last of
// slot (or not after it), began at begun and has ended by now; random is from 0 to 1.
func (p pace) next(slot, begun, now time.Duration, undecided bool, random float64) (due, at time.Duration) {
	moved := -p.jitter
	if !undecided {
		moved += time.Duration(random * float64(2*p.jitter))
	}
	at = slot + p.interval
	if behind := (now - at) / p.interval; behind > 0 {
		at += behind * p.interval
	}
	for {
		due = max(at+moved, begun+p.interval/leastGap)
		if due < now && now <= at+p.jitter {
			due = now
		}
		if due >= now {
			return due, at
		}
		at += p.interval
	}
}

// lane is a queue of checks, the one that is due first at its head. Who is in
// one knows its place there.
type lane []*inquiry

func (l lane) Len() int           { return len(l) }
func (l lane) Less(i, j int) bool { return l[i].due < l[j].due }

func (l lane) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].index, l[j].index = i, j
}

// Push is heap.Interface's.
func (l *lane) Push(x any) {
	q := x.(*inquiry)
	q.index = len(*l)
	*l = append(*l, q)
}

// Pop is heap.Interface's.
func (l *lane) Pop() any {
	last := len(*l) - 1
	q := (*l)[last]
	(*l)[last] = nil
	*l = (*l)[:last]
	return q
}

// head is the one that is due first, nil if there is none.
func (l lane) head() *inquiry {
	if len(l) == 0 {
		return nil
	}
	return l[0]
}

// schedule is which check comes when. A lane of its own for checks that last
// took long to fail, with a part of the places: however many servers are silent,
// the others are asked in time.
type schedule struct {
	prompt, slow lane // due to begin
	running      lane // due to have ended

	most        int // run at once
	slowRunning int
	stuck       int // of running: they hold no place, or the last would stop everything
}

func (s *schedule) mostSlow() int { return max(1, s.most-s.most/4) }

// put has q begin at due. It is in no lane.
func (s *schedule) put(q *inquiry, due time.Duration) {
	q.due, q.lane = due, &s.prompt
	if q.slow {
		q.lane = &s.slow
	}
	heap.Push(q.lane, q)
}

// watch has q looked at if it has not ended at due. It is in no lane.
func (s *schedule) watch(q *inquiry, due time.Duration) {
	q.due, q.lane = due, &s.running
	heap.Push(q.lane, q)
}

// move changes when q is due, in the lane where it is.
func (s *schedule) move(q *inquiry, due time.Duration) {
	q.due = due
	heap.Fix(q.lane, q.index)
}

// take takes q out of its lane, if it is in one.
func (s *schedule) take(q *inquiry) {
	if q.lane != nil {
		heap.Remove(q.lane, q.index)
		q.lane = nil
	}
}

// head is the next that may begin: of two the one that is due first. nil: none,
// or all places are taken.
func (s *schedule) head() *inquiry {
	if len(s.running)-s.stuck >= s.most {
		return nil
	}
	q, slow := s.prompt.head(), s.slow.head()
	if slow != nil && s.slowRunning < s.mostSlow() && (q == nil || slow.due < q.due) {
		return slow
	}
	return q
}

// wake tells when there is something to do next, false: nothing until someone
// else does.
func (s *schedule) wake() (time.Duration, bool) {
	q, running := s.head(), s.running.head()
	switch {
	case q == nil && running == nil:
		return 0, false
	case q == nil || running != nil && running.due < q.due:
		return running.due, true
	}
	return q.due, true
}
