// SPDX-License-Identifier: MIT

package dataplane

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"
)

// markRest is how long a mark is nobody's: longer than a health check takes, and
// TCP's TIME_WAIT, so that no socket of its last owner is left.
const markRest = 5 * time.Minute

// markCount is how many marks there are: all but the one without a number.
const markCount = uint32(checkPathCheckMarkCHECK_MARK_LAST - checkPathCheckMarkCHECK_MARK)

// marks gives VIPs their marks.
type marks struct {
	of      map[netip.Addr]uint32
	first   uint32        // the number that is given first, from 0
	given   uint32        // how many were given that nobody had before
	resting []restingMark // the longest first
}

type restingMark struct {
	mark  uint32
	since time.Time
}

// newMarks begins anywhere: while the programs of a daemon that was killed are
// still there, for a moment, the marks of its successor mean nothing to them
// rather than another VIP.
func newMarks() marks {
	return marks{of: map[netip.Addr]uint32{}, first: rand.Uint32N(markCount)}
}

// take returns a mark that is nobody's.
func (m *marks) take(now time.Time) (uint32, error) {
	if len(m.resting) > 0 && now.Sub(m.resting[0].since) >= markRest {
		mark := m.resting[0].mark
		m.resting = m.resting[1:]
		return mark, nil
	}
	if m.given == markCount {
		return 0, fmt.Errorf("all %d marks are in use, or were a moment ago: give some checks `target: rip`", markCount)
	}
	mark := uint32(checkPathCheckMarkCHECK_MARK) + 1 + (m.first+m.given)%markCount
	m.given++
	return mark, nil
}

func (m *marks) giveBack(mark uint32, now time.Time) {
	m.resting = append(m.resting, restingMark{mark, now})
}
