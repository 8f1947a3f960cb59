// SPDX-License-Identifier: MIT

package agent

import (
	"math"
	"time"
)

// Share gives percent percent of a configured weight, with the percentage kept
// within least and most. It is 0 only if the configured weight or percent is: a
// server that is to get less still gets something.
func Share(configured int32, percent, least, most int) int32 {
	if configured <= 0 || percent <= 0 {
		return 0
	}
	percent = max(min(percent, most), least)
	w := math.Round(float64(configured) * float64(percent) / 100)
	return int32(max(1, min(w, math.MaxInt32)))
}

// Weight gives the weight for a load in percent. A server without load has most
// percent of its configured weight, one at 100 percent and more has least, and in
// between it is a line: weights are to what servers have free. The weight is
// rounded, so a configured one of 100 follows the load and one of 1 hardly does.
func Weight(configured int32, load, least, most int) int32 {
	load = max(0, min(load, 100))
	most = max(most, least, 1)
	return Share(configured, max(1, most-(most-least)*load/100), least, most)
}

// How steady a weight is: what a load was counts for some ten seconds, and a weight
// does not move for less than five points of load.
const (
	smoothing = 10 * time.Second
	deadBand  = 5.0
)

// Steady gives weights that follow a load and not each breath of it. Otherwise a
// server that was idle for a second would be flooded in the next, and the schedulers
// that work by turns would begin anew all the time.
//
// The load is smoothed: exponentially, with a time constant of ten seconds, by the
// times at which it was measured. The weight stays until the smoothed load is five
// points away from the one that it was made for; so a load that is steady within
// two points has a weight that does not change. The zero value is ready, and one
// is for one server.
type Steady struct {
	known    bool
	at       time.Time
	smoothed float64
	held     float64
}

// Weight gives the weight for a load that was measured at a time. A load that is not
// newer than the last one counts for nothing; the weight then follows from what is
// known, with the configured weight and the bounds as they are now.
func (s *Steady) Weight(at time.Time, load int, configured int32, least, most int) int32 {
	l := float64(max(0, min(load, 100)))
	switch {
	case !s.known:
		s.known, s.at, s.smoothed, s.held = true, at, l, l
	case at.After(s.at):
		s.smoothed += (l - s.smoothed) * (1 - math.Exp(-at.Sub(s.at).Seconds()/smoothing.Seconds()))
		s.at = at
	}
	if math.Abs(s.smoothed-s.held) >= deadBand {
		s.held = s.smoothed
	}
	return Weight(configured, int(math.Round(s.held)), least, most)
}
