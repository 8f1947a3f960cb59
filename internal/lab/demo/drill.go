// SPDX-License-Identifier: MIT

package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

const (
	// clients is how many make requests at once during the drill.
	clients = 8
	// pause is between a client's requests: the drill is to show that none
	// fails, not how many there can be.
	pause = 2 * time.Millisecond
	// enough is how many requests a step of the drill sees before the next one.
	enough = 500
)

// drill takes a server out and back in while requests come in all the time.
func (s *show) drill(ctx context.Context) error {
	victim, other := s.RealServers[1], s.RealServers[0]
	if err := s.forgetNeighbours(); err != nil {
		return err
	}
	s.report.title(fmt.Sprintf("Drill: %d clients make requests all the time", clients))
	l := startLoad(ctx, s.Client, s.stepLimit)
	defer l.stop()

	if _, err := l.step(ctx, func(t tally) bool { return t.answered[victim.Name()] > 0 && t.total() >= enough }); err != nil {
		return err
	}
	kept, why := s.holdConnection(ctx, victim)
	defer kept.CloseIdleConnections()

	edit := []string{"ipvsadm", "-e", "-t", service(), "-r", at(victim), "-g", "-w", "0"}
	t, err := s.stepAfter(ctx, l, edit, nil)
	if err != nil {
		return err
	}
	s.report.proof("quiesced", t.failed == 0 && t.answered[victim.Name()] == 0 && t.answered[other.Name()] > 0,
		fmt.Sprintf("%s, new connections to %s %d", t, victim.Name(), t.answered[victim.Name()]))
	t.explain(s.report)

	who := ""
	if why == nil {
		who, why = kept.get(ctx, "/page")
	}
	s.report.proof("connection kept", why == nil && who == victim.Name(),
		fmt.Sprintf("the one that %s had from before is now served by %s", victim.Name(), or(who, "nobody")))
	if why != nil {
		s.report.detail(why.Error())
	}
	kept.CloseIdleConnections()

	t, err = s.stepAfter(ctx, l, []string{"ipvsadm", "-d", "-t", service(), "-r", at(victim)}, nil)
	if err != nil {
		return err
	}
	s.report.proof("removed", t.failed == 0 && t.answered[victim.Name()] == 0 && t.answered[other.Name()] > 0,
		fmt.Sprintf("%s, new connections to %s %d", t, victim.Name(), t.answered[victim.Name()]))
	t.explain(s.report)

	add := []string{"ipvsadm", "-a", "-t", service(), "-r", at(victim), "-g", "-w", "1"}
	t, err = s.stepAfter(ctx, l, add, func(t tally) bool { return t.answered[victim.Name()] > 0 })
	if err != nil {
		return err
	}
	s.report.proof("back in", t.failed == 0 && t.answered[victim.Name()] > 0,
		fmt.Sprintf("%s, new connections to %s %d", t, victim.Name(), t.answered[victim.Name()]))
	t.explain(s.report)
	l.stop()
	all := l.all()
	s.report.proof("the whole drill", all.failed == 0, fmt.Sprintf("%s, the slowest took %v", all, all.slowest.Round(time.Millisecond)))
	return nil
}

// stepAfter runs a command on the director and returns how the requests fared
// that were made from its end on, until enough were and done holds (nil: always).
// Those that were under way while it ran are only in the load's own tally.
func (s *show) stepAfter(ctx context.Context, l *load, command []string, done func(tally) bool) (tally, error) {
	if err := s.run(ctx, s.Director, command...); err != nil {
		return tally{}, err
	}
	return l.step(ctx, func(t tally) bool { return t.total() >= enough && (done == nil || done(t)) })
}

// holdConnection returns a browser with an open connection to that server; with
// an error, the browser has none.
func (s *show) holdConnection(ctx context.Context, rs *lab.Node) (*browser, error) {
	b := newBrowser(s.Client, true)
	for range requests {
		who, err := b.get(ctx, "/")
		if err != nil {
			return b, fmt.Errorf("cannot connect to the service: %w", err)
		}
		if who == rs.Name() {
			return b, nil
		}
		b.CloseIdleConnections()
	}
	return b, fmt.Errorf("%s got none of %d connections", rs.Name(), requests)
}

// tally is how a number of requests fared.
type tally struct {
	answered map[string]int // by the server's name
	failed   int
	first    error // of the failures
	slowest  time.Duration
}

func (t tally) total() int {
	n := t.failed
	for _, a := range t.answered {
		n += a
	}
	return n
}

func (t tally) String() string {
	return fmt.Sprintf("%s, %d failed", count(t.total(), "request"), t.failed)
}

func (t tally) explain(r *report) {
	if t.first != nil {
		r.detail("the first failure: " + t.first.Error())
	}
}

// load is clients that make one request after the other, each on a connection of
// its own, until it is stopped.
type load struct {
	cancel  context.CancelFunc
	clients sync.WaitGroup
	limit   time.Duration // of a step

	mu      sync.Mutex
	changed chan struct{}
	whole   tally
	current tally     // of requests begun since
	since   time.Time // when the current step began
}

func startLoad(ctx context.Context, from *lab.Node, limit time.Duration) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{limit: limit, cancel: cancel, changed: make(chan struct{}), since: time.Now()}
	l.whole.answered, l.current.answered = map[string]int{}, map[string]int{}
	for range clients {
		l.clients.Go(func() {
			b := newBrowser(from, false)
			for ctx.Err() == nil {
				began := time.Now()
				who, err := b.get(ctx, "/")
				l.record(ctx, began, who, err)
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		})
	}
	return l
}

func (l *load) record(ctx context.Context, began time.Time, who string, err error) {
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return // cut short by stop
	}
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whole.add(who, err, took)
	if !began.Before(l.since) {
		l.current.add(who, err, took)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

func (t *tally) add(who string, err error, took time.Duration) {
	t.slowest = max(t.slowest, took)
	if err == nil {
		t.answered[who]++
		return
	}
	t.failed++
	if t.first == nil {
		t.first = err
	}
}

// step begins a new tally and returns it when it is done, or after a while: then
// it is for the caller to see what is missing.
func (l *load) step(ctx context.Context, done func(tally) bool) (tally, error) {
	l.mu.Lock()
	l.current, l.since = tally{answered: map[string]int{}}, time.Now()
	l.mu.Unlock()
	tooLong := time.After(l.limit)
	for {
		l.mu.Lock()
		changed, t := l.changed, l.current.clone()
		l.mu.Unlock()
		if done(t) {
			return t, nil
		}
		select {
		case <-changed:
		case <-tooLong:
			return t, nil
		case <-ctx.Done():
			return t, ctx.Err()
		}
	}
}

func (l *load) all() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.whole.clone()
}

func (t tally) clone() tally {
	t.answered = maps.Clone(t.answered)
	return t
}

// stop ends the load; requests that are under way are cut short and not counted.
func (l *load) stop() {
	l.cancel()
	l.clients.Wait()
}
