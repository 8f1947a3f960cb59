// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Target is who is told of events, in one of three ways.
type Target struct {
	// Command is a program and its arguments, run with User's rights (empty:
	// nobody). The event is in its environment: SHUNT_EVENT, all of it in JSON,
	// and one variable for each part, SHUNT_AT, SHUNT_SUBJECT, SHUNT_SERVICE,
	// SHUNT_NAME, SHUNT_SERVER, SHUNT_VIP, SHUNT_FROM, SHUNT_TO, SHUNT_REASON,
	// SHUNT_CHECK and SHUNT_BY, empty if the event has none.
	Command []string
	User    string
	// URL is POSTed the event in JSON. The header Idempotency-Key is the same
	// each time that one event is sent. A status 2xx takes it; after a status
	// 5xx, 408 or 429, or without any answer, it is sent again, five times in
	// all, after 1, 2, 4 and 8 s; any other status refuses it. Redirects are not
	// followed.
	URL string
	// Log is a level of the log: "info", "warn" or "error".
	Log string

	On      []string      // which events; empty: all
	Timeout time.Duration // of the program, or of one request; 0: 10 s
}

func (t Target) equal(o Target) bool {
	return slices.Equal(t.Command, o.Command) && t.User == o.User && t.URL == o.URL && t.Log == o.Log &&
		slices.Equal(t.On, o.On) && t.Timeout == o.Timeout
}

func (t Target) wants(e Event) bool { return len(t.On) == 0 || slices.Contains(t.On, e.Subject) }

func (t Target) timeout() time.Duration {
	if t.Timeout <= 0 {
		return 10 * time.Second
	}
	return t.Timeout
}

// String names the target, without what is secret in a URL.
func (t Target) String() string {
	switch {
	case len(t.Command) > 0:
		return "program " + filepath.Base(t.Command[0])
	case t.URL != "":
		if u, err := url.Parse(t.URL); err == nil {
			return "webhook " + u.Scheme + "://" + u.Host
		}
		return "webhook"
	}
	return "log " + t.Log
}

// Told counts what became of a target's events.
type Told struct {
	Target  string `json:"target"`
	Sent    uint64 `json:"sent"`
	Failed  uint64 `json:"failed"`  // the program failed, or the webhook did not take it
	Dropped uint64 `json:"dropped"` // too many were waiting
	Waiting int    `json:"waiting"`
}

// maxWaiting is how many events wait for one target. Beyond it the oldest is
// dropped: what is true now counts more.
const maxWaiting = 1000

// Notifier tells targets of events, each of them in order and without waiting for
// the others. A target has a goroutine only while there is something to tell it.
// Its methods may be called by several goroutines.
type Notifier struct {
	log    *slog.Logger
	client *http.Client
	pause  time.Duration // before a webhook's second attempt; doubled before each further one

	ctx    context.Context // of all that is on its way; ended by Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex
	queues []*queue
	closed bool
}

// queue is a target and what waits for it. Its fields are the Notifier's mu's.
type queue struct {
	target  Target
	waiting []notice
	busy    bool // a goroutine is at it
	full    bool // since it was last empty, some were dropped
	gone    bool // the target was taken away
	told    Told
}

type notice struct {
	Event
	key string // of this event, whoever gets it
}

// NewNotifier makes a Notifier for these targets.
func NewNotifier(targets []Target, log *slog.Logger) *Notifier {
	ctx, cancel := context.WithCancel(context.Background())
	n := &Notifier{log: log, client: newHookClient(), pause: time.Second, ctx: ctx, cancel: cancel}
	n.Set(targets)
	return n
}

// Set has other targets from now on. One that is as before keeps what waits for it
// and its counts; what waits for one that is gone is not told any more.
func (n *Notifier) Set(targets []Target) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.queues
	n.queues = nil
	for _, t := range targets {
		i := slices.IndexFunc(before, func(q *queue) bool { return q.target.equal(t) })
		if i < 0 {
			n.queues = append(n.queues, &queue{target: t, told: Told{Target: t.String()}})
			continue
		}
		n.queues = append(n.queues, before[i])
		before = slices.Delete(slices.Clone(before), i, i+1)
	}
	for _, q := range before {
		q.gone = true
		if len(q.waiting) > 0 {
			n.log.Info("a target of notifications is gone, and with it what waited for it", "target", q.told.Target, "events", len(q.waiting))
			q.waiting = nil
		}
	}
}

// Tell tells all targets that want to know. It does not wait for any. After Close
// it does nothing.
func (n *Notifier) Tell(e Event) {
	said := notice{Event: e.bounded(), key: rand.Text()}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	for _, q := range n.queues {
		if q.target.wants(e) {
			n.put(q, said)
		}
	}
}

// put is called with mu held.
func (n *Notifier) put(q *queue, said notice) {
	if len(q.waiting) >= maxWaiting {
		q.waiting = slices.Delete(q.waiting, 0, len(q.waiting)-maxWaiting+1)
		q.told.Dropped++
		if !q.full {
			q.full = true
			n.log.Warn("a target of notifications is too slow: the oldest ones that wait are dropped", "target", q.told.Target, "waiting", maxWaiting)
		}
	}
	q.waiting = append(q.waiting, said)
	if !q.busy {
		q.busy = true
		n.work.Go(func() { n.drain(q) })
	}
}

// drain tells a target what waits for it until nothing does.
func (n *Notifier) drain(q *queue) {
	for {
		said, ok := n.take(q)
		if !ok {
			return
		}
		err := n.deliver(q, said)
		n.count(q, err)
		if err != nil {
			n.log.Warn("a notification failed", "target", q.told.Target, "event", said.String(), "reason", err)
		}
	}
}

func (n *Notifier) take(q *queue) (notice, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(q.waiting) == 0 || n.ctx.Err() != nil {
		q.busy = false
		if q.full {
			q.full = false
			n.log.Warn("a target of notifications has caught up", "target", q.told.Target, "dropped in all", q.told.Dropped)
		}
		return notice{}, false
	}
	said := q.waiting[0]
	q.waiting = q.waiting[1:]
	return said, true
}

func (n *Notifier) count(q *queue, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		q.told.Failed++
	} else {
		q.told.Sent++
	}
}

// Told gives the counts of each target, in the order of the targets.
func (n *Notifier) Told() []Told {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []Told
	for _, q := range n.queues {
		t := q.told
		t.Waiting = len(q.waiting)
		all = append(all, t)
	}
	return all
}

// Close takes no more events, and waits until those that it has are told or ctx
// ends; then it ends what is on its way. The error says how many were not told.
func (n *Notifier) Close(ctx context.Context) error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()

	done := make(chan struct{})
	go func() { n.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	n.cancel()
	<-done
	n.client.CloseIdleConnections()

	var errs []error
	for _, t := range n.Told() {
		if t.Waiting > 0 {
			errs = append(errs, fmt.Errorf("%s: %d notifications were not told", t.Target, t.Waiting))
		}
	}
	return errors.Join(errs...)
}
