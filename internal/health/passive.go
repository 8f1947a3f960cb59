// SPDX-License-Identifier: MIT

package health

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Sample is how the connections of a server have begun until now, as the data
// plane counts it: each number only grows. (If one does not, counting began anew.)
type Sample struct {
	Server        lvs.ServerID
	Began         uint64 // connections
	Unanswered    uint64 // of them: nothing but SYNs came until they timed out, which may be much later
	Retransmitted uint64 // of them: the SYN came again; each counts once
	Resets        uint64 // of them: the client reset it before or soon after it was established
	Away          bool   // for another reason it gets no new ones (its checks, drained, weight 0)
}

// Outliers finds the servers of services whose clients get no answer, or reset
// what they get, while those of other servers of the same service do well. It
// knows no clock and touches nothing: it is told, and says what to do. Its
// methods may be called at the same time.
//
// A server is ejected if
//   - of at least Minimum connections in the last Window the share that failed has
//     reached the limit;
//   - others of the service, at the same time, have less than half of it: one of
//     them, or all together, with at least half of Minimum connections. If all look
//     alike, clients are the cause (a flood of SYNs from forged addresses is
//     answered by nobody), or the network, or all servers: taking some out helps
//     in no case;
//   - it serves less than half as many connections well as others do in the middle.
//     A flood can hit one server only (one source, with persistence or a scheduler
//     that hashes): it serves its share all the same, and the next one would be hit;
//   - not more than MostOut of the servers are out then (10% of 5 is none), and one
//     remains that gets connections. The worst goes first.
//
// It is out for Hold, twice as long each time, up to ten times Hold. Then it is
// back on probation: half of Minimum is enough to be ejected again, until it has
// been back as long as it was out; then all is forgotten. If nobody is left who
// gets connections, all come back at once.
type Outliers struct {
	mu       sync.Mutex
	services map[lvs.ServiceID]map[lvs.ServerID]*outlier
}

// outlier is what is known of a server.
type outlier struct {
	last     Sample
	lastAt   time.Time
	awaited  float64 // retransmitted ones that may be counted again, as unanswered
	total    begun   // since it is known
	seen     []tick  // of the window, and the last one before it
	away     bool
	out      bool
	since    time.Time // it is out or back
	until    time.Time // it is out
	hold     time.Duration
	times    int // it was ejected, without being well for long in between
	reason   string
	ejected  time.Time
	inWindow begun
}

// begun is how connections began.
type begun struct{ began, failed, resets uint64 }

type tick struct {
	at time.Time
	begun
}

// Ejection is a server that should get no new connections.
type Ejection struct {
	Server lvs.ServerID
	Reason string
	Until  time.Time // then Observe restores it
}

// Outlier is how a server's connections begin.
type Outlier struct {
	Server lvs.ServerID `json:"server"`
	Out    bool         `json:"out"`
	Until  time.Time    `json:"until,omitzero"`   // if it is out
	Last   time.Time    `json:"last,omitzero"`    // the last ejection
	Reason string       `json:"reason,omitempty"` // of it
	Times  int          `json:"times,omitempty"`  // ejections that count for how long the next one is; more than 0 and not Out: on probation
	Began  uint64       `json:"began"`            // in the window that was looked at last
	Failed uint64       `json:"failed"`           // of them: not answered, or late
	Resets uint64       `json:"resets"`           // of them: reset by the client
}

// NewOutliers returns one that knows of nobody.
func NewOutliers() *Outliers {
	return &Outliers{services: map[lvs.ServiceID]map[lvs.ServerID]*outlier{}}
}

// Observe takes samples of all servers of a service, which should come several
// times in p.Window, and tells who has to be ejected and who may be restored. A
// server that is in no sample any more is forgotten, also if it was out.
func (o *Outliers) Observe(now time.Time, service lvs.ServiceID, p Passive, samples []Sample) (eject []Ejection, restore []lvs.ServerID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	servers := make(map[lvs.ServerID]*outlier, len(samples))
	for _, s := range samples {
		known := o.services[service][s.Server]
		if known == nil {
			known = &outlier{since: now}
		}
		known.add(now, p.Window, s)
		servers[s.Server] = known
	}
	o.services[service] = servers

	ids := slices.SortedFunc(maps.Keys(servers), compareServers)
	serving, out := 0, 0
	for _, s := range servers {
		switch {
		case s.out:
			out++
		case !s.away:
			serving++
		}
	}
	for _, id := range ids {
		s := servers[id]
		if s.out && (!now.Before(s.until) || serving == 0 && !s.away) {
			s.restore(now)
			restore = append(restore, id)
			out--
		}
		if !s.out && s.times > 0 && now.Sub(s.since) >= s.hold {
			s.times = 0
		}
	}
	if len(restore) > 0 {
		return nil, restore // whoever is bad is so a moment later, too
	}
	most := int(math.Floor(p.MostOut*float64(len(servers)) + 1e-9))
	for _, f := range p.outliers(servers) {
		if out >= most || serving <= 1 {
			break
		}
		s := servers[f.server]
		s.eject(now, p, f)
		eject = append(eject, Ejection{Server: f.server, Reason: s.reason, Until: s.until})
		out++
		serving--
	}
	return eject, nil
}

// Forget ends the observation of a service, and tells who was out.
func (o *Outliers) Forget(service lvs.ServiceID) (restore []lvs.ServerID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, s := range o.services[service] {
		if s.out {
			restore = append(restore, id)
		}
	}
	delete(o.services, service)
	slices.SortFunc(restore, compareServers)
	return restore
}

// Servers tells how the servers of a service are, in the order of addresses.
func (o *Outliers) Servers(service lvs.ServiceID) []Outlier {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make([]Outlier, 0, len(o.services[service]))
	for id, s := range o.services[service] {
		one := Outlier{Server: id, Out: s.out, Last: s.ejected, Reason: s.reason, Times: s.times,
			Began: s.inWindow.began, Failed: s.inWindow.failed, Resets: s.inWindow.resets}
		if s.out {
			one.Until = s.until
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Outlier) int { return compareServers(a.Server, b.Server) })
	return all
}

func compareServers(a, b lvs.ServerID) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
}

// unansweredComes is about how long after its SYN came again a connection is
// counted as unanswered, at most.
const unansweredComes = 5 * time.Minute

// add takes a sample. A connection that fails counts once, when its SYN comes
// again: that it timed out unanswered says the same much later, when its server
// may be well again. So as many unanswered ones are left out as there were
// retransmitted ones not long ago.
func (s *outlier) add(now time.Time, window time.Duration, sample Sample) {
	was := s.last
	first := s.lastAt.IsZero() || sample.Began < was.Began || sample.Unanswered < was.Unanswered ||
		sample.Retransmitted < was.Retransmitted || sample.Resets < was.Resets
	since := now.Sub(s.lastAt)
	s.last, s.lastAt, s.away = sample, now, sample.Away
	if first {
		s.awaited, s.seen, s.inWindow = 0, []tick{{now, s.total}}, begun{}
		return
	}
	s.awaited *= math.Exp(-float64(since) / float64(unansweredComes))
	retransmitted, unanswered := sample.Retransmitted-was.Retransmitted, sample.Unanswered-was.Unanswered
	s.awaited += float64(retransmitted)
	again := min(unanswered, uint64(s.awaited))
	s.awaited -= float64(again)
	s.total.began += sample.Began - was.Began
	s.total.failed += retransmitted + unanswered - again
	s.total.resets += sample.Resets - was.Resets

	// A sixteenth of the window is near enough, however often samples come.
	if n := len(s.seen); n >= 2 && now.Sub(s.seen[n-2].at) < window/16 {
		s.seen = s.seen[:n-1]
	}
	s.seen = append(s.seen, tick{now, s.total})
	old := 0
	for old+1 < len(s.seen) && now.Sub(s.seen[old+1].at) >= window {
		old++
	}
	s.seen = slices.Delete(s.seen, 0, old)
	from := s.seen[0]
	s.inWindow = begun{s.total.began - from.began, s.total.failed - from.failed, s.total.resets - from.resets}
}

func (s *outlier) restore(now time.Time) {
	s.out, s.since = false, now
	s.seen, s.inWindow = []tick{{now, s.total}}, begun{}
}

func (s *outlier) eject(now time.Time, p Passive, f finding) {
	s.hold = p.Hold << min(s.times, 4)
	s.hold = min(s.hold, 10*p.Hold)
	s.times++
	s.out, s.since, s.until, s.ejected = true, now, now.Add(s.hold), now
	what := "got no answer, or a late one"
	if f.resets {
		what = "were reset by the client"
	}
	s.reason = fmt.Sprintf("%d of %d connections within %v %s (elsewhere %d of %d)",
		min(f.own.bad, f.own.of), f.own.of, now.Sub(s.seen[0].at).Round(10*time.Millisecond), what, f.others.bad, f.others.of)
}

// share is how many of how many failed.
type share struct{ bad, of uint64 }

func (s share) value() float64 {
	if s.of == 0 {
		return 0
	}
	return min(1, float64(s.bad)/float64(s.of))
}

func (s share) well() uint64 { return s.of - min(s.of, s.bad) }

// finding is a server that is worse than others.
type finding struct {
	server      lvs.ServerID
	resets      bool
	own, others share
}

// outliers are those who should be ejected, the worst first.
func (p Passive) outliers(servers map[lvs.ServerID]*outlier) []finding {
	var found []finding
	known := map[lvs.ServerID]bool{}
	for _, cause := range []struct {
		resets bool
		limit  float64
	}{{false, p.Unanswered}, {true, p.Resets}} {
		if cause.limit <= 0 {
			continue
		}
		shares := map[lvs.ServerID]share{}
		for id, s := range servers {
			if s.out || s.away {
				continue
			}
			shares[id] = share{s.inWindow.failed, s.inWindow.began}
			if cause.resets {
				shares[id] = share{s.inWindow.resets, s.inWindow.began}
			}
		}
		for id, own := range shares {
			minimum := uint64(max(p.Minimum, 1))
			if servers[id].times > 0 {
				minimum = (minimum + 1) / 2
			}
			if own.of < minimum || own.value() < cause.limit || known[id] {
				continue
			}
			if others, ok := p.better(id, own, shares, cause.limit); ok {
				known[id] = true
				found = append(found, finding{id, cause.resets, own, others})
			}
		}
	}
	slices.SortFunc(found, func(a, b finding) int {
		return cmp.Or(cmp.Compare(b.own.value(), a.own.value()), cmp.Compare(b.own.of, a.own.of), compareServers(a.server, b.server))
	})
	return found
}

// better finds others that do well while id does not.
func (p Passive) better(id lvs.ServerID, own share, shares map[lvs.ServerID]share, limit float64) (share, bool) {
	var together share
	var wells []uint64
	enough := uint64(max(p.Minimum+1, 2)) / 2
	best, found := share{}, false
	consider := func(s share) {
		if s.of >= enough && s.value() < limit/2 && (!found || s.value() < best.value()) {
			best, found = s, true
		}
	}
	for other, s := range shares {
		if other != id {
			together.bad += s.bad
			together.of += s.of
			wells = append(wells, s.well())
			consider(s)
		}
	}
	if consider(together); !found {
		return share{}, false
	}
	slices.Sort(wells)
	return together, own.well() < max(wells[len(wells)/2]/2, 1)
}
