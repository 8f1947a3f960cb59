// SPDX-License-Identifier: MIT

package dataplane

import (
	"fmt"
	"strings"
)

// field is where a part of a connection's word is.
type field struct{ shift, bits uint }

// fieldsOf reads enum word: a part goes up to where the next one begins. The
// deadline is the lowest.
func fieldsOf(e enumerators) map[string]field {
	out := map[string]field{"DEADLINE": {0, uint(e["WORD_DEADLINE_BITS"])}}
	for name, shift := range e {
		name, ok := strings.CutSuffix(name, "_SHIFT")
		if !ok {
			continue
		}
		end := uint64(64)
		for other, at := range e {
			if strings.HasSuffix(other, "_SHIFT") && at > shift {
				end = min(end, at)
			}
		}
		out[strings.TrimPrefix(name, "WORD_")] = field{uint(shift), uint(end - shift)}
	}
	return out
}

// wordConverter makes words of another layout into ours. It is a function: the
// same word gives the same word as long as the converter is used.
type wordConverter struct {
	from, to map[string]field
	now      uint64 // of the clock, when it was made
}

func (c wordConverter) convert(w uint64) (uint64, error) {
	if w == 0 {
		return 0, nil
	}
	out := uint64(0)
	for name, to := range c.to {
		from, ok := c.from[name]
		if !ok {
			continue
		}
		part := w >> from.shift & (1<<from.bits - 1)
		if name == "DEADLINE" && from.bits != to.bits {
			left := (part - c.now) & (1<<from.bits - 1)
			if int64(left) >= int64(1<<from.bits)-deadlineSlack {
				left -= 1 << from.bits // it is past
			}
			part = (c.now + left) & (1<<to.bits - 1)
		}
		if part >= 1<<to.bits {
			return 0, fmt.Errorf("a connection's %s is %d, for which there is no room any more", strings.ToLower(name), part)
		}
		if name == "STATE" && part >= uint64(bpfStateSTATE_MAX) {
			return 0, fmt.Errorf("a connection is in state %d, which this version does not know", part)
		}
		out |= part << to.shift
	}
	return out, nil
}

// deadlineSlack is DEADLINE_SLACK.
const deadlineSlack = 65536
