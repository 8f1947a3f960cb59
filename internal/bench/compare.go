// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"slices"
)

// step is one kind of packets that a subject gets, and what must become of them.
type step struct {
	traffic traffic
	pass    bool   // they are left to the host; else they are forwarded
	reason  string // why, in the director's words
	packets int    // in a round
}

// subject is who is measured with which packets. What follows in then are
// further kinds of packets of the same flows.
type subject struct {
	*contender
	step
	then []step
}

// series are the ns that a packet took, one value a round.
type series []float64

const (
	checked = 32      // packets that are looked at one by one before and after each measurement
	warm    = 1 << 16 // packets before a measurement, at most
	usual   = 100_000 // packets of a measurement
)

// compare measures subjects in turn, in each of many rounds, so that what
// disturbs the machine disturbs them alike. It returns the series of each
// subject's steps.
func (s *session) compare(subjects ...subject) ([][]series, error) {
	wrappers := map[string]*wrapper{}
	defer func() {
		for _, w := range wrappers {
			w.Close()
		}
	}()
	out := make([][]series, len(subjects))
	for i, sub := range subjects {
		out[i] = make([]series, 1+len(sub.then))
	}
	for round := range s.rounds {
		if err := s.ctx.Err(); err != nil {
			return nil, err
		}
		first := s.fresh
		for i := range subjects {
			i = (i + round) % len(subjects)
			sub := subjects[i]
			for k, st := range append([]step{sub.step}, sub.then...) {
				if s.quick {
					st.packets = min(st.packets, 2*piece)
				}
				w, err := s.wrapperFor(wrappers, st.traffic)
				if err != nil {
					return nil, err
				}
				ns, err := s.measure(w, sub.contender, st, first)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", sub.name, err)
				}
				out[i][k] = append(out[i][k], ns)
				// Twice: a test run that was interrupted goes further.
				s.fresh = max(s.fresh, first+2*uint64(st.packets)+2*checked)
			}
		}
	}
	return out, nil
}

// wrapperFor keeps one wrapper for each kind of traffic.
func (s *session) wrapperFor(known map[string]*wrapper, t traffic) (*wrapper, error) {
	key := fmt.Sprintf("%x %d %v %v %p %d %v", t.frame, t.flows, t.fresh, t.inOrder, t.order, t.services, t.tc)
	if w := known[key]; w != nil {
		return w, nil
	}
	w, err := newWrapper(t)
	if err == nil {
		known[key] = w
	}
	return w, err
}

// measure returns the ns that a packet takes, the test run's own included, the
// wrapper's not.
func (s *session) measure(w *wrapper, c *contender, st step, first uint64) (float64, error) {
	if !st.traffic.fresh {
		if _, err := w.run(c.program, first, int(min(max(st.traffic.flows, 1000), warm))); err != nil {
			return 0, err
		}
	}
	var before reasons
	var err error
	if c.counted != nil {
		if before, err = c.counted(); err != nil {
			return 0, err
		}
	}
	at := first
	if err := w.check(c, st, at); err != nil {
		return 0, err
	}
	at += checked
	base, err := w.time(w.nothing, at, min(st.packets, 3*piece))
	if err != nil {
		return 0, err
	}
	ns, err := w.time(c.program, at, st.packets)
	if err != nil {
		return 0, err
	}
	at += uint64(st.packets)
	if err := w.check(c, st, at); err != nil {
		return 0, err
	}
	if c.counted != nil {
		after, err := c.counted()
		if err != nil {
			return 0, err
		}
		all := uint64(st.packets + 2*checked)
		// Some buckets overflow in a table that is half full.
		if r := after.since(before); r[st.reason] < all-all/200 || r.sum()-r[st.reason] > all/200 {
			return 0, fmt.Errorf("not all of %d packets were %s: %v", all, st.reason, r)
		}
	}
	return ns - base + s.bare[c.tc], nil
}

// check sends packets one by one and looks at what the program answers.
func (w *wrapper) check(c *contender, st step, first uint64) error {
	want := c.answer(st.traffic.frame, !st.pass)
	for i := range uint64(checked) {
		action, err := w.run(c.program, first+i, 1)
		if err != nil {
			return err
		}
		if action != want {
			return fmt.Errorf("a packet got the answer %d, not %d", int32(action), int32(want))
		}
	}
	return nil
}

// prime makes the flows of some traffic known: each frame comes once of every
// flow.
func prime(c *contender, flows uint64, frames ...[]byte) error {
	for _, f := range frames {
		if err := primeWith(c, traffic{frame: f, flows: flows}); err != nil {
			return err
		}
	}
	return nil
}

// primeWith is prime for one frame and whatever else the traffic says.
func primeWith(c *contender, t traffic) error {
	t.inOrder, t.tc = true, c.tc
	w, err := newWrapper(t)
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.run(c.program, 0, int(t.flows)); err != nil {
		return fmt.Errorf("making %d flows known to %s: %w", t.flows, c.name, err)
	}
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// ratio divides one series by another, round by round.
func ratio(a, b series) series {
	out := make(series, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return out
}
