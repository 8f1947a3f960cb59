// SPDX-License-Identifier: MIT

package dataplane

import (
	"container/list"
	"time"
	"unsafe"
)

// How long a fragment waits for the first of its datagram, and how many may
// (each of 2 KiB at most): the oldest gives way.
const (
	parkTime = time.Second
	parkMax  = 2048
)

// datagram is a bpfFragmentKey as it is in memory: what the fragments of one
// datagram have in common.
type datagram [unsafe.Sizeof(bpfFragmentKey{})]byte

// fragment is a frame that came before the first one of its datagram.
type fragment struct {
	of    datagram
	index int // of the interface by which it came
	frame []byte
	until time.Time
}

// parking holds fragments, in the order in which they came.
type parking struct {
	all *list.List
	of  map[datagram][]*list.Element
}

func newParking() *parking {
	return &parking{list.New(), map[datagram][]*list.Element{}}
}

// park takes a fragment in. The one that has to go for it, if any, is returned.
func (p *parking) park(f *fragment) (lost *fragment) {
	if p.all.Len() >= parkMax {
		lost = p.leave(p.all.Front())
	}
	p.of[f.of] = append(p.of[f.of], p.all.PushBack(f))
	return lost
}

// take lets all fragments of a datagram out.
func (p *parking) take(d datagram) (out []*fragment) {
	for _, e := range p.of[d] {
		out = append(out, p.all.Remove(e).(*fragment))
	}
	delete(p.of, d)
	return out
}

// overdue lets the oldest fragment out, if its time is up.
func (p *parking) overdue(now time.Time) *fragment {
	e := p.all.Front()
	if e == nil || now.Before(e.Value.(*fragment).until) {
		return nil
	}
	return p.leave(e)
}

// next is when the oldest fragment's time is up; zero if there is none.
func (p *parking) next() time.Time {
	if e := p.all.Front(); e != nil {
		return e.Value.(*fragment).until
	}
	return time.Time{}
}

// leave lets the oldest fragment out, which is also the oldest of its datagram.
func (p *parking) leave(e *list.Element) *fragment {
	f := p.all.Remove(e).(*fragment)
	if rest := p.of[f.of][1:]; len(rest) > 0 {
		p.of[f.of] = rest
	} else {
		delete(p.of, f.of)
	}
	return f
}
