// SPDX-License-Identifier: MIT

package dataplane

import (
	"fmt"
	"net/netip"
	"time"
)

// markRest is how long a mark is nobody's: longer than a health check takes, and
// TCP's TIME_WAIT, so that no socket of its last owner is left.
const markRest = 5 * time.Minute

// marks gives VIPs their marks.
type marks struct {
	of      map[netip.Addr]uint32
	next    uint32        // never given before, and all above it
	resting []restingMark // the longest first
}

type restingMark struct {
	mark  uint32
	since time.Time
}

func newMarks() marks {
	return marks{of: map[netip.Addr]uint32{}, next: uint32(checkPathCheckMarkCHECK_MARK) + 1}
}

// take returns a mark that is nobody's.
func (m *marks) take(now time.Time) (uint32, error) {
	if len(m.resting) > 0 && now.Sub(m.resting[0].since) >= markRest {
		mark := m.resting[0].mark
		m.resting = m.resting[1:]
		return mark, nil
	}
	if m.next > uint32(checkPathCheckMarkCHECK_MARK_LAST) {
		return 0, fmt.Errorf("all %d marks are in use, or were a moment ago: give some checks `target: rip`",
			checkPathCheckMarkCHECK_MARK_LAST-checkPathCheckMarkCHECK_MARK)
	}
	m.next++
	return m.next - 1, nil
}

func (m *marks) giveBack(mark uint32, now time.Time) {
	m.resting = append(m.resting, restingMark{mark, now})
}
