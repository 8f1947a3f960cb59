// SPDX-License-Identifier: MIT

package health

import (
	"reflect"
	"slices"
	"time"
)

// Set says what is to be checked from now on, all of it; the first of two with
// the same service and server counts. Who stays keeps state and history. A check
// of which only the pace (or name, Rise, Fall) changed keeps its history, too. One
// that asks something else has none, and changes nothing until it has an answer
// Rise or Fall times. Who is new and has a check in common with others is judged
// by its answers so far. Who is not named is no longer asked nor reported when Set
// returns, except for a report that is under way. The list may be
// used again, but the checks in it must not change any more.
func (c *Checker) Set(list []Subject) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.round++
	e := edit{}
	order := make([]*subject, 0, len(list))
	for i := range list {
		spec := &list[i]
		id := subjectID{spec.Service, spec.Server}
		s := c.subjects[id]
		switch {
		case s == nil:
			s = c.add(&e, id, spec, now)
		case s.round == c.round:
			continue
		case !s.is(spec):
			c.amend(&e, s, spec, now)
		}
		s.round = c.round
		order = append(order, s)
	}
	for _, s := range c.order {
		if s.round != c.round {
			s.gone = true
			delete(c.subjects, s.subjectID)
			c.release(&e, s, s.inquiries)
		}
	}
	c.order = order
	for _, q := range e.left {
		c.drop(q)
	}
	if c.ctx != nil {
		c.begin(slices.DeleteFunc(e.added, func(q *inquiry) bool { return q.gone }))
	}
	poke(c.wake)
}

// edit is what a Set does to inquiries.
type edit struct {
	added []*inquiry
	left  []*inquiry // by an asker; perhaps by the last one
}

// add takes a new subject.
func (c *Checker) add(e *edit, id subjectID, spec *Subject, now time.Time) *subject {
	s := &subject{subjectID: id, since: now, endpoint: spec.Endpoint, alpha: spec.Alpha}
	switch {
	case spec.Up != nil:
		s.reason = "so it was before"
	case spec.Alpha:
		s.reason = "no check has succeeded yet"
	}
	s.judge = newJudge(rules(spec.Checks), spec.Any, spec.Flap, spec.Alpha, spec.Up)
	s.inquiries = c.acquire(e, s, spec)
	c.subjects[id] = s
	c.rejudge(s, now)
	return s
}

// amend changes a subject to spec.
func (c *Checker) amend(e *edit, s *subject, spec *Subject, now time.Time) {
	old, believed := s.inquiries, s.judge.believed
	s.endpoint, s.alpha = spec.Endpoint, spec.Alpha
	s.inquiries = c.acquire(e, s, spec)
	believes := make([]bool, len(s.inquiries))
	for i, q := range s.inquiries {
		// Of a check that was not asked before nothing is known but how the server is.
		believes[i] = s.judge.up
		if j := slices.IndexFunc(old, q.asksAs); j >= 0 {
			believes[i] = believed[j]
			if q.record.at.IsZero() {
				q.record, q.slow = old[j].record, old[j].slow
			}
		}
	}
	s.judge.amend(rules(spec.Checks), believes, spec.Any, spec.Flap)
	c.release(e, s, old)
	c.rejudge(s, now)
}

// rejudge judges a subject by what its checks have said so far.
func (c *Checker) rejudge(s *subject, now time.Time) {
	fresh := s.judge.fresh
	for i, q := range s.inquiries {
		s.judge.believe(i, q.record.row)
	}
	if !s.judge.settle(now) {
		return
	}
	var cause *inquiry
	if i := slices.Index(s.judge.believed, false); i >= 0 && !s.judge.up {
		cause = s.inquiries[i]
	}
	c.changed(s, cause, now, fresh)
}

func rules(checks []Check) []rule {
	all := make([]rule, len(checks))
	for i := range checks {
		all[i] = checks[i].rule()
	}
	return all
}

// is tells whether a subject is as spec has it.
func (s *subject) is(spec *Subject) bool {
	if s.endpoint != spec.Endpoint || s.alpha != spec.Alpha || s.judge.any != spec.Any || s.judge.flap != spec.Flap || len(s.inquiries) != len(spec.Checks) {
		return false
	}
	if len(spec.Checks) == 0 || &spec.Checks[0] == &s.given[0] {
		return true
	}
	for i, q := range s.inquiries {
		if !q.check.equal(&spec.Checks[i]) {
			return false
		}
	}
	s.given = spec.Checks
	return true
}

// acquire makes s an asker of what spec has to be asked.
func (c *Checker) acquire(e *edit, s *subject, spec *Subject) []*inquiry {
	s.given = spec.Checks
	all := make([]*inquiry, len(spec.Checks))
	for i := range spec.Checks {
		check := &spec.Checks[i]
		key := inquiryKey{c.texts.of(check), check.destination(spec.Endpoint)}
		q := c.inquiries[key]
		if q == nil {
			n := c.born[check.Interval]
			c.born[check.Interval] = n + 1
			q = &inquiry{inquiryKey: key, pace: newPace(check, phase(n))}
			q.check.users++
			c.inquiries[key] = q
			e.added = append(e.added, q)
		}
		q.askers = append(q.askers, asker{s, i})
		all[i] = q
	}
	return all
}

// release ends that s asks what it asked before: once for each of old, the first
// times that it is among the askers.
func (c *Checker) release(e *edit, s *subject, old []*inquiry) {
	for _, q := range old {
		i := slices.IndexFunc(q.askers, func(a asker) bool { return a.subject == s })
		last := len(q.askers) - 1
		copy(q.askers[i:], q.askers[i+1:])
		q.askers[last] = asker{}
		q.askers = q.askers[:last]
		e.left = append(e.left, q)
	}
}

// drop ends an inquiry that nobody needs any more.
func (c *Checker) drop(q *inquiry) {
	if len(q.askers) > 0 || q.gone {
		return
	}
	q.gone = true
	delete(c.inquiries, q.inquiryKey)
	c.texts.release(q.check)
	if q.cancel != nil {
		q.cancel() // it keeps its place until it has ended
	} else {
		c.schedule.take(q)
	}
}

// begin has new inquiries run for the first time.
func (c *Checker) begin(all []*inquiry) {
	now := c.now()
	for _, q := range all {
		if q.cancel != nil {
			continue // it was left behind by an earlier Run, and goes on when it has ended
		}
		due := q.pace.first(now, len(all))
		q.slot = q.pace.slot(due)
		c.schedule.put(q, due)
	}
}

// text is what a check says, once for all who have the same.
type text struct {
	Check
	users int // inquiries
}

// texts are all there are. Checks have slices, and so are no keys: those that
// agree in a sketch are compared.
type texts map[sketch][]*text

type sketch struct {
	name, path, host, server, send, question, query string
	kind                                            Kind
	rip                                             bool
	port                                            uint16
	interval, timeout                               time.Duration
}

func (c *Check) sketch() sketch {
	return sketch{name: c.Name, kind: c.Kind, rip: c.ToRIP, port: c.Port, interval: c.Interval, timeout: c.Timeout,
		path: c.HTTP.Path, host: c.HTTP.Host, server: c.TLS.ServerName, send: c.Talk.Send, question: c.DNS.Name, query: c.File.Path}
}

func (t texts) of(c *Check) *text {
	key := c.sketch()
	for _, known := range t[key] {
		if known.equal(c) {
			return known
		}
	}
	one := &text{Check: *c}
	t[key] = append(t[key], one)
	return one
}

// release forgets a text whose last user is gone.
func (t texts) release(one *text) {
	if one.users--; one.users > 0 {
		return
	}
	key := one.sketch()
	t[key] = slices.DeleteFunc(t[key], func(other *text) bool { return other == one })
	if len(t[key]) == 0 {
		delete(t, key)
	}
}

// timeout is how long one may take.
func (c *Check) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return max(c.Interval, time.Second)
}

func (c *Check) equal(d *Check) bool { return reflect.DeepEqual(c, d) }

// asksAs tells whether old asks the same of the same: how often, and what is
// made of the answers, may differ.
func (q *inquiry) asksAs(old *inquiry) bool {
	if q == old {
		return true
	}
	if q.endpoint != old.endpoint || q.check.Kind != old.check.Kind {
		return false
	}
	a, b := q.check.Check, old.check.Check
	for _, c := range []*Check{&a, &b} {
		c.Name, c.Interval, c.Timeout, c.Rise, c.Fall, c.Jitter = "", 0, 0, 0, 0, 0
	}
	return a.equal(&b)
}

// destination is where a check of a subject goes. What it does not look at is
// not there, so that those who differ in nothing else have it in common: the VIP
// in what is asked of the RIP (unless the question names it), the protocol except
// for programs, the port of an echo.
func (c *Check) destination(e Endpoint) Endpoint {
	if c.Port != 0 {
		e.Port = c.Port
	}
	if c.ToRIP {
		e.Mark, e.Device, e.NoWay, e.Local = 0, "", "", false
	}
	switch c.Kind {
	case Script: // is told everything
		return e
	case ICMP:
		e.Port = 0
	}
	e.Protocol = 0
	switch c.Kind {
	case TCP, TLS, DNS, UDP, SMTP, ICMP, MySQL, PostgreSQL, Redis:
		if c.ToRIP {
			e.VIP = Endpoint{}.VIP
		}
	}
	return e
}
