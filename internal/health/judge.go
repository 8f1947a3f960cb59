// SPDX-License-Identifier: MIT

package health

import "time"

// Flap keeps a server out that goes up and down all the time. The zero value
// does nothing.
type Flap struct {
	Changes int           // after so many changes
	Within  time.Duration // in so short a time
	Hold    time.Duration // it stays down so long, whatever its checks say
}

// Passive says when the connections of a server die so young that it is taken
// out before a check finds it.
type Passive struct {
	Window     time.Duration // what is looked at
	Minimum    int           // connections in it, below which nothing is concluded
	Unanswered float64       // share that never got beyond a SYN, or sent it again; 0: do not care
	Resets     float64       // share that the client reset; 0: do not care
	Hold       time.Duration // how long it is out before it is tried again; doubled each time, up to 10 times
	MostOut    float64       // share of the service's servers that may be out because of this
}

// row is how often in a row a check succeeded or failed; one of them is zero.
// It belongs to the check, and all who share the check are judged by it.
type row struct{ good, bad int }

func (r *row) add(success bool) {
	if success {
		*r = row{good: r.good + 1}
	} else {
		*r = row{bad: r.bad + 1}
	}
}

// rule is a check's Rise and Fall.
type rule struct{ rise, fall int }

func (c *Check) rule() rule { return rule{max(c.Rise, 1), max(c.Fall, 1)} }

// undecided tells whether a row has begun that would change what is believed,
// and is not long enough yet.
func (r rule) undecided(of row, believed bool) bool {
	if believed {
		return of.bad > 0
	}
	return of.good > 0
}

// judge decides whether one server is well. It knows neither clock nor network:
// it is told what happened and when.
type judge struct {
	rules []rule // of the server's checks
	any   bool
	flap  Flap

	believed []bool      // of each check: that the server is well
	well     bool        // what the checks say together
	up       bool        // what was told: well, and not held
	fresh    bool        // down because nothing is known: one success of a check is enough
	changes  []time.Time // of well, the last flap.Changes of them
	held     time.Time   // down until then because it was flapping; zero: it is not
}

// newJudge begins with what is known of a server: was is how it was before, nil
// if it is new.
func newJudge(rules []rule, any bool, flap Flap, alpha bool, was *bool) judge {
	j := judge{rules: rules, any: any, flap: flap, up: !alpha, fresh: alpha}
	if was != nil {
		j.up, j.fresh = *was, false
	}
	j.well = j.up
	j.believed = make([]bool, len(rules))
	for i := range j.believed {
		j.believed[i] = j.up
	}
	return j
}

// hear takes the row of check i after an answer, and settles.
func (j *judge) hear(now time.Time, i int, r row) bool {
	j.believe(i, r)
	return j.settle(now)
}

// believe takes the row of check i.
func (j *judge) believe(i int, r row) {
	rule := j.rules[i]
	if j.fresh {
		rule.rise = 1
	}
	switch {
	case r.good >= rule.rise:
		j.believed[i] = true
	case r.bad >= rule.fall:
		j.believed[i] = false
	}
}

// settle finds out whether the server is up, and tells whether that is a change.
func (j *judge) settle(now time.Time) bool {
	if well := j.together(); well != j.well {
		j.well = well
		j.count(now)
	}
	if !j.held.IsZero() && !now.Before(j.held) {
		j.held = time.Time{}
		j.hold(now) // if it was flapping meanwhile
	}
	up := j.well && j.held.IsZero()
	if up == j.up {
		return false
	}
	j.up = up
	if up {
		j.fresh = false
	}
	return true
}

// together is what all checks say: a server without any is well.
func (j *judge) together() bool {
	for _, b := range j.believed {
		if b == j.any {
			return j.any
		}
	}
	return !j.any || len(j.believed) == 0
}

// count notes a change, and holds the server if it is one too many. Changes of a
// server that is held are counted anew, for what comes afterwards.
func (j *judge) count(now time.Time) {
	if j.flap.Changes <= 0 {
		return
	}
	if over := len(j.changes) + 1 - j.flap.Changes; over > 0 {
		j.changes = append(j.changes[:0], j.changes[over:]...)
	}
	j.changes = append(j.changes, now)
	if j.held.IsZero() {
		j.hold(now)
	}
}

// hold holds the server if the last flap.Changes changes were within flap.Within.
func (j *judge) hold(now time.Time) {
	n := len(j.changes) - j.flap.Changes
	if j.flap.Changes > 0 && n >= 0 && now.Sub(j.changes[n]) <= j.flap.Within {
		j.held = now.Add(j.flap.Hold)
		j.changes = j.changes[:0]
	}
}

// amend gives the server other checks and other rules. What is believed of them
// is the caller's to say.
func (j *judge) amend(rules []rule, believed []bool, any bool, flap Flap) {
	if flap != j.flap {
		j.held = time.Time{}
		if over := len(j.changes) - flap.Changes; over > 0 {
			j.changes = append([]time.Time(nil), j.changes[over:]...)
		}
	}
	j.rules, j.believed, j.any, j.flap = rules, believed, any, flap
}
