// SPDX-License-Identifier: MIT

package health

import (
	"fmt"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Judgement is how a server is, and why.
type Judgement struct {
	Service lvs.ServiceID `json:"service"`
	Server  lvs.ServerID  `json:"server"`
	Up      bool          `json:"up"`
	Known   bool          `json:"known"` // each check has had an answer; otherwise Up is what is assumed, or was before
	Since   time.Time     `json:"since"` // it went up or down, or was new
	Reason  string        `json:"reason,omitempty"`
	// Held is until when it stays down for flapping.
	Held time.Time `json:"held,omitzero"`
	// Failure is the last one of a check, also if all is well again.
	Failure *Failure      `json:"failure,omitempty"`
	Checks  []CheckStatus `json:"checks,omitempty"`
}

// Failure is a check that failed.
type Failure struct {
	Check  string    `json:"check"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// CheckStatus is how one check of a server goes. What was counted may be of
// another subject's time, if they have the check in common.
type CheckStatus struct {
	Check     string        `json:"check"` // see Check.Label
	Kind      Kind          `json:"kind"`
	Up        bool          `json:"up"` // Rise and Fall are taken account of
	OK        bool          `json:"ok"` // the last answer
	Reason    string        `json:"reason,omitempty"`
	Last      time.Time     `json:"last,omitzero"` // the last answer; zero: none yet
	Took      time.Duration `json:"took"`          // nanoseconds
	Successes int           `json:"successes"`     // in a row
	Failures  int           `json:"failures"`      // in a row
	Runs      uint64        `json:"runs"`          // with an end
	Failed    uint64        `json:"failed"`        // of them
	Running   bool          `json:"running,omitempty"`
	Next      time.Time     `json:"next,omitzero"` // zero: it runs, or the checker does not
}

// Label is what a check is called: its name, or else its kind.
func (c *Check) Label() string {
	if c.Name != "" {
		return c.Name
	}
	return string(c.Kind)
}

// Subjects tells how all servers are, in the order of Set.
func (c *Checker) Subjects() []Judgement {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]Judgement, len(c.order))
	for i, s := range c.order {
		all[i] = c.judgement(s)
	}
	return all
}

// Subject tells how one server is, and whether it is there.
func (c *Checker) Subject(service lvs.ServiceID, server lvs.ServerID) (Judgement, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.subjects[subjectID{service, server}]
	if s == nil {
		return Judgement{}, false
	}
	return c.judgement(s), true
}

func (c *Checker) judgement(s *subject) Judgement {
	j := Judgement{Service: s.service, Server: s.server, Up: s.judge.up, Known: true, Since: s.since, Reason: s.reason, Held: s.judge.held}
	if s.failure != nil {
		failure := *s.failure
		j.Failure = &failure
	}
	if len(s.inquiries) > 0 {
		j.Checks = make([]CheckStatus, len(s.inquiries))
	}
	for i, q := range s.inquiries {
		r := &q.record
		j.Known = j.Known && r.row != row{}
		status := CheckStatus{
			Check: q.check.Label(), Kind: q.check.Kind, Up: s.judge.believed[i], OK: r.ok, Reason: r.reason,
			Last: r.at, Took: r.took, Successes: r.row.good, Failures: r.row.bad, Runs: r.runs, Failed: r.fails, Running: q.cancel != nil,
		}
		if q.lane != nil && !status.Running {
			status.Next = c.epoch.Add(q.due)
		}
		j.Checks[i] = status
	}
	return j
}

// why says why a subject is as it is, now that it changed because of q.
func why(s *subject, q *inquiry, fresh bool) string {
	j := &s.judge
	switch {
	case !j.held.IsZero() && q != nil && q.record.reason != "":
		return j.flap.text(j.held) + "; " + q.record.reason
	case !j.held.IsZero():
		return j.flap.text(j.held)
	case q == nil && len(s.inquiries) == 0:
		return "it has no checks any more"
	case j.up && fresh:
		return "its checks succeeded for the first time"
	case q == nil && j.up:
		return "of the checks that there are now, enough succeed"
	case q == nil:
		return "of the checks that there are now, too few succeed"
	case j.up && len(s.inquiries) > 1 && !j.any:
		return fmt.Sprintf("all %d checks succeed", len(s.inquiries))
	case j.up:
		return fmt.Sprintf("%d of %[2]s in a row succeeded", q.record.row.good, q.check.Label())
	case len(s.inquiries) > 1 && j.any:
		return fmt.Sprintf("none of %d checks succeeds; %s: %s", len(s.inquiries), q.check.Label(), q.record.reason)
	}
	return q.record.reason
}

func (f Flap) text(until time.Time) string {
	return fmt.Sprintf("it changed %d times within %v and is held down until %s", f.Changes, f.Within, until.Format(time.TimeOnly))
}

// Load is what the checker has to do.
type Load struct {
	Checks  int           `json:"checks"`  // one that several subjects have in common counts once
	Running int           `json:"running"` // of at most Options.MaxAtOnce
	Waiting int           `json:"waiting"` // due, and without a place
	Stuck   int           `json:"stuck"`   // of Running: not ended when their time was over
	Ran     uint64        `json:"ran"`
	Failed  uint64        `json:"failed"`
	Late    time.Duration `json:"late"` // nanoseconds; the most that one began later than due in the last minute or two
}

// Load tells how busy the checker is.
func (c *Checker) Load() Load {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, now := c.load, c.now()
	l.Checks, l.Running, l.Stuck, l.Late = len(c.inquiries), len(c.schedule.running), c.schedule.stuck, c.late.most(now)
	for _, lane := range []lane{c.schedule.prompt, c.schedule.slow} {
		for _, q := range lane {
			if q.due < now {
				l.Waiting++
			}
		}
	}
	return l
}

// lateness is the most that a check began later than due, in this minute and the
// one before; and what else is to be complained about, once a minute.
type lateness struct {
	minute       time.Duration // the begin of this one
	this, before time.Duration
	complained   time.Duration
	notAsked     error
}

func (l *lateness) roll(now time.Duration) {
	switch minutes := (now - l.minute) / time.Minute; {
	case minutes <= 0:
		return
	case minutes == 1:
		l.before = l.this
	default:
		l.before = 0
	}
	l.this, l.minute = 0, now.Truncate(time.Minute)
}

func (l *lateness) add(now, by time.Duration) {
	l.roll(now)
	l.this = max(l.this, by)
}

func (l *lateness) most(now time.Duration) time.Duration {
	l.roll(now)
	return max(l.this, l.before)
}

// tooLate is worth a warning: failures are found so much later than promised.
const tooLate = time.Second

// warnLate complains about what keeps this host from asking.
func (c *Checker) warnLate(now time.Duration) {
	l := &c.late
	if l.this < tooLate && l.notAsked == nil || l.complained != 0 && now-l.complained < time.Minute {
		return
	}
	if l.this >= tooLate {
		c.log.Warn("health checks begin late: more of them at once are needed, longer intervals or shorter timeouts",
			"late", l.this, "at once", c.schedule.most, "checks", len(c.inquiries))
	}
	if l.notAsked != nil {
		c.log.Warn("health checks cannot be made on this host, so nothing is concluded from them", "error", l.notAsked)
	}
	l.complained, l.notAsked = now, nil
}
