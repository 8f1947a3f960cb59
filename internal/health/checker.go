// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Subject is one real server of one service, and how it is checked.
type Subject struct {
	Service  lvs.ServiceID
	Server   lvs.ServerID
	Endpoint Endpoint // its Port is the service's; a check may have another
	Checks   []Check  // none: the server is always well
	Any      bool     // one check that succeeds is enough; otherwise all have to
	// Alpha has the server ill until its checks succeeded once (one success of
	// each is enough then, whatever Rise is). Otherwise it is well until they fail.
	Alpha bool
	Flap  Flap // who is held comes up with the first answer after Hold, if all is well then
	// Up is how it was before, as far as someone remembers it: it goes on so, and
	// Alpha does not count. nil: it is new. Of a subject that is known it is not
	// looked at.
	Up *bool
}

// Transition is a server that went up or down.
type Transition struct {
	Service  lvs.ServiceID
	Server   lvs.ServerID
	Up       bool
	Check    string // the name of the check that was the last cause; empty: none was
	Reason   string // what it said, or what happened
	Flapping bool   // it is down because it changes all the time
	At       time.Time
}

// Options are what a Checker needs.
type Options struct {
	// Probe asks once. It ends soon after its context, whose deadline is the
	// check's; the endpoint has the check's port, and neither mark nor VIP if
	// the check is about the RIP and its kind does not name the VIP. An error that
	// wraps ErrNotAsked counts neither as a success nor as a failure.
	Probe func(context.Context, Check, Endpoint) error
	// Report is told of transitions: of one after the other, and of none twice.
	// It may call the checker, and may take its time. nil: nobody is told.
	Report    func(Transition)
	Log       *slog.Logger // nil: none
	MaxAtOnce int          // probes at the same time; 0: 1024
}

// A Checker asks servers how they are, at the pace of their checks, and judges
// the answers. A check that several subjects have in common (the same one of the
// same endpoint) is asked once for all. Its methods may be called at any time.
type Checker struct {
	probe  func(context.Context, Check, Endpoint) error
	report func(Transition)
	log    *slog.Logger
	epoch  time.Time
	wake   chan struct{} // the schedule has changed
	told   chan struct{} // there is something to report

	mu        sync.Mutex // of all below
	ctx       context.Context
	subjects  map[subjectID]*subject
	order     []*subject // as Set gave them
	round     uint64     // of Set
	inquiries map[inquiryKey]*inquiry
	texts     texts
	schedule  schedule
	born      map[time.Duration]uint64 // inquiries that ever were, by interval
	news      []news
	load      Load
	late      lateness
}

type subjectID struct {
	service lvs.ServiceID
	server  lvs.ServerID
}

// subject is a Subject and what is known of it.
type subject struct {
	subjectID
	endpoint  Endpoint
	given     []Check // as they were given last: the same ones need not be compared
	alpha     bool
	judge     judge
	inquiries []*inquiry // of its checks, in their order
	since     time.Time  // of judge.up
	reason    string
	failure   *Failure
	round     uint64 // of Set, that named it last
	gone      bool
}

// inquiry is one check of one endpoint, for all who want to know.
type inquiry struct {
	inquiryKey
	askers []asker
	record record
	pace   pace
	gone   bool

	// when it is due, and where it waits: schedule's
	due   time.Duration // since the checker's epoch
	lane  *lane
	index int

	slot   time.Duration // the one that it is due for, was begun for, or the last before it was asked for
	began  time.Duration // the last run
	slow   bool          // it took long to fail
	inSlow bool          // the run has a place of the slow ones
	anew   bool          // someone asked while it ran
	stuck  bool          // it did not end when its time was over
	cancel context.CancelFunc
}

type inquiryKey struct {
	check    *text
	endpoint Endpoint
}

// asker is a subject, and which of its checks an inquiry is.
type asker struct {
	subject *subject
	i       int
}

// record is what an inquiry found.
type record struct {
	row         row
	runs, fails uint64
	at          time.Time // the last end; zero: none yet
	took        time.Duration
	reason      string // of the last failure
	ok          bool   // the last one
}

// news is a transition that was not reported yet.
type news struct {
	Transition
	subject *subject
}

// NewChecker makes a Checker that has nothing to do.
func NewChecker(o Options) *Checker {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxAtOnce <= 0 {
		o.MaxAtOnce = 1024
	}
	return &Checker{
		probe: o.Probe, report: o.Report, log: o.Log, epoch: time.Now(),
		wake: make(chan struct{}, 1), told: make(chan struct{}, 1),
		subjects:  map[subjectID]*subject{},
		inquiries: map[inquiryKey]*inquiry{},
		texts:     texts{},
		schedule:  schedule{most: o.MaxAtOnce},
		born:      map[time.Duration]uint64{},
	}
}

// now is the time since the checker's epoch.
func (c *Checker) now() time.Duration { return time.Since(c.epoch) }

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Run asks until ctx is done. What it began has ended then (it is an error if a
// probe does not end a second later: that one is left behind), and what was found
// out by then is reported. It is an error if it runs already.
func (c *Checker) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.ctx != nil {
		c.mu.Unlock()
		return errors.New("the checker runs already")
	}
	c.ctx = ctx
	c.begin(slices.Collect(maps.Values(c.inquiries)))
	c.mu.Unlock()

	var reporter, probes sync.WaitGroup
	ended := make(chan struct{})
	reporter.Go(func() { c.tell(ended) })
	c.loop(ctx, &probes)
	all := make(chan struct{})
	go func() {
		probes.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-time.After(grace):
	}
	close(ended)
	reporter.Wait()

	c.mu.Lock()
	defer c.mu.Unlock()
	for _, q := range c.inquiries {
		if q.cancel == nil {
			c.schedule.take(q)
		}
	}
	c.ctx = nil
	if n := len(c.schedule.running); n > 0 {
		return fmt.Errorf("%d health checks do not end, the one of %v since %v", n, c.schedule.running[0].endpoint.RIP, c.now()-c.schedule.running[0].began)
	}
	return nil
}

// loop starts what is due.
func (c *Checker) loop(ctx context.Context, probes *sync.WaitGroup) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if at, ok := c.start(ctx, probes); ok {
			timer.Reset(at - c.now())
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-timer.C:
		}
	}
}

// start starts what is due, and tells when the next is.
func (c *Checker) start(ctx context.Context, probes *sync.WaitGroup) (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for q := c.schedule.running.head(); q != nil && q.due <= now; q = c.schedule.running.head() {
		c.overdue(q, now)
	}
	for q := c.schedule.head(); q != nil && q.due <= now; q = c.schedule.head() {
		c.late.add(now, now-q.due)
		c.schedule.take(q)
		q.began, q.anew, q.inSlow = now, false, q.slow
		if q.inSlow {
			c.schedule.slowRunning++
		}
		c.schedule.watch(q, now+q.check.timeout()+grace)
		var within context.Context
		within, q.cancel = context.WithTimeout(ctx, q.check.timeout())
		probes.Go(func() {
			err := c.probe(within, q.check.Check, q.endpoint)
			c.end(q, err)
		})
	}
	c.warnLate(now)
	return c.schedule.wake()
}

// grace is how much later than its time a probe may end. Then it hangs, in
// something that knows no deadline (a file of a dead NFS server).
const grace = time.Second

// overdue counts a failure of what has not ended, and again for each slot in
// which it hangs: it is never begun twice.
func (c *Checker) overdue(q *inquiry, now time.Duration) {
	if !q.stuck {
		q.stuck = true
		c.schedule.stuck++
		c.freeSlow(q)
		c.log.Warn("a health check does not end", "check", q.check.Label(), "server", q.endpoint.RIP, "timeout", q.check.timeout())
	}
	c.heard(q, errStuck, now-q.began)
	at := q.slot
	q.due, q.slot = q.pace.next(at, q.began, now, false, rand.Float64())
	c.schedule.move(q, q.due)
}

var errStuck = errors.New("it did not end in its time, and does not end at all")

// end takes what a probe found.
func (c *Checker) end(q *inquiry, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	q.cancel()
	q.cancel = nil
	c.schedule.take(q)
	c.freeSlow(q)
	stuck := q.stuck
	if stuck {
		q.stuck = false
		c.schedule.stuck--
	}
	switch {
	case c.ctx == nil || c.ctx.Err() != nil:
		return // so may be the answer's cause
	case q.gone:
		poke(c.wake) // there is a place
		return
	case !stuck: // otherwise it was counted
		c.heard(q, err, now-q.began)
	}
	c.again(q, now)
}

// freeSlow gives back the place that q has among the slow ones.
func (c *Checker) freeSlow(q *inquiry) {
	if q.inSlow {
		q.inSlow = false
		c.schedule.slowRunning--
	}
}

// again has q, which has ended, run once more.
func (c *Checker) again(q *inquiry, now time.Duration) {
	due := now
	if !q.anew {
		rule, undecided := q.check.rule(), false
		for _, a := range q.askers {
			undecided = undecided || rule.undecided(q.record.row, a.subject.judge.believed[a.i])
		}
		due, q.slot = q.pace.next(q.slot, q.began, now, undecided, rand.Float64())
	}
	c.schedule.put(q, due)
	poke(c.wake)
}

// heard counts an answer, and has everyone judged by it.
func (c *Checker) heard(q *inquiry, err error, took time.Duration) {
	now, r := time.Now(), &q.record
	r.runs++
	c.load.Ran++
	r.at, r.took, r.ok = now, took, err == nil
	q.slow = err != nil && took >= q.check.timeout()/2
	if err != nil {
		r.reason = err.Error()
	}
	if errors.Is(err, ErrNotAsked) {
		c.late.notAsked = fmt.Errorf("check %s of %v: %w", q.check.Label(), q.endpoint.RIP, err)
		return
	}
	r.row.add(err == nil)
	var failure *Failure
	if err != nil {
		failure = &Failure{Check: q.check.Label(), Reason: r.reason, At: now}
		r.fails++
		c.load.Failed++
		c.log.Debug("a health check failed", "check", q.check.Label(), "server", q.endpoint.RIP, "vip", q.endpoint.VIP,
			"in a row", r.row.bad, "of", q.check.rule().fall, "error", err)
	}
	for _, a := range q.askers {
		if err != nil {
			a.subject.failure = failure
		}
		c.judge(a.subject, a.i, now)
	}
}

// judge has a subject judged by the row of its check i.
func (c *Checker) judge(s *subject, i int, now time.Time) {
	q, fresh := s.inquiries[i], s.judge.fresh
	if s.judge.hear(now, i, q.record.row) {
		c.changed(s, q, now, fresh)
	} else if s.judge.well && !s.judge.held.IsZero() {
		s.reason = s.judge.flap.text(s.judge.held)
	}
}

// changed reports that a subject went up or down, because of q if not nil.
func (c *Checker) changed(s *subject, q *inquiry, now time.Time, fresh bool) {
	t := Transition{Service: s.service, Server: s.server, Up: s.judge.up, At: now, Flapping: !s.judge.held.IsZero()}
	if q != nil {
		t.Check = q.check.Label()
	}
	t.Reason = why(s, q, fresh)
	s.since, s.reason = now, t.Reason
	if c.report != nil {
		c.news = append(c.news, news{t, s})
		poke(c.told)
	}
}

// tell reports, until all is told after the end.
func (c *Checker) tell(ended <-chan struct{}) {
	for last := false; ; {
		c.mu.Lock()
		batch := c.news
		c.news = nil
		c.mu.Unlock()
		for _, n := range batch {
			if !c.isGone(n.subject) {
				c.report(n.Transition)
			}
		}
		if last {
			return
		}
		select {
		case <-c.told:
		case <-ended:
			last = true
		}
	}
}

func (c *Checker) isGone(s *subject) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.gone
}

// Ask has a server's checks run now; those that run already, once more when they
// have ended. Their answers count as all do. It tells whether there is such a
// server.
func (c *Checker) Ask(service lvs.ServiceID, server lvs.ServerID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.subjects[subjectID{service, server}]
	if s == nil {
		return false
	}
	now := c.now()
	for _, q := range s.inquiries {
		switch {
		case q.cancel != nil:
			q.anew = true
		case q.lane != nil && q.due > now:
			c.schedule.move(q, now)
			q.slot -= q.pace.interval // it is still to come
		}
	}
	poke(c.wake)
	return true
}
