// SPDX-License-Identifier: MIT

package director

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// standing is how a real server of a service is, beside what its rule says.
type standing struct {
	ill      string       // why its checks failed it; empty: it is well
	fresh    bool         // its checks have not been heard of since it is new
	exposed  string       // why it is known to answer ARP for the VIP
	ejected  string       // why it is out because of what became of its connections
	operator api.Operator // what an operator wants of it; zero: nothing
	weigh    weighing     // what it says of itself
	rising   time.Time    // when a slow start began; zero: there is none
	since    time.Time    // of its condition
}

// weighing is what a real server says of itself.
type weighing struct {
	heard  bool
	factor float64       // of the configured weight
	state  api.Condition // Up, Draining, Maintenance or Down
	reason string
}

// condition is the one word for how a server is, and the reason. Of several the
// one counts that an operator would have to undo first.
func (s *standing) condition() (api.Condition, string) {
	if s == nil {
		return api.Up, ""
	}
	switch {
	case s.operator.Wants != "":
		return s.operator.Wants, s.operator.Reason
	case s.ill != "":
		return api.Down, s.ill
	case s.exposed != "":
		return api.Down, s.exposed
	case s.ejected != "":
		return api.Ejected, s.ejected
	case s.weigh.heard && s.weigh.state != api.Up:
		return s.weigh.state, s.weigh.reason
	case !s.rising.IsZero():
		return api.Starting, ""
	}
	return api.Up, ""
}

// fit tells whether a server gets new connections.
func (s *standing) fit() bool {
	c, _ := s.condition()
	return c == api.Up || c == api.Starting
}

// failed tells whether a server is out because something is wrong with it, and
// not because someone wants it so.
func (s *standing) failed() bool {
	c, _ := s.condition()
	return c == api.Down || c == api.Ejected
}

// effect is a service as it is carried out, made of its rule and of how its
// servers are.
type effect struct {
	of      *lvs.VirtualService // the rule
	listed  *lvs.VirtualService // with the weights that count, as ipvsadm -L shows them
	applied *lvs.VirtualService // as the data plane gets it: weights in finer steps, and seeds
	fit     int                 // servers of the rule that get new connections
	usable  bool                // there are enough, see config.Care.QuorumUp
	sorry   bool                // the sorry server stands in
	rising  bool                // it changes with time
}

// load is what a server has, in connections.
type load func(lvs.ServerID) float64

// fine is into how many steps a weight of 1 is divided while weights follow from
// something that is not a whole number.
const fine = 100

// judge makes the effect of a rule. was tells whether the service was usable.
func judge(of *lvs.VirtualService, care *config.Care, sorry *lvs.RealServer, standings map[lvs.ServerID]*standing, was bool, held load, now time.Time) effect {
	e := effect{of: of}
	for _, r := range of.Servers {
		if r.Weight > 0 && standings[r.ServerID].fit() {
			e.fit++
		}
	}
	least := max(1, care.QuorumUp)
	if was {
		least = max(1, care.QuorumDown)
	}
	e.usable = e.fit >= least
	e.sorry = !e.usable && sorry != nil
	e.listed = of.Clone()
	e.listed.Servers = e.listed.Servers[:0]
	var gone []lvs.RealServer // those of them whose connections go on
	for _, r := range of.Servers {
		s := standings[r.ServerID]
		if s.failed() && care.Remove {
			gone = append(gone, r)
			continue
		}
		switch {
		case e.sorry && r.ServerID == sorry.ServerID: // someone has added it to the others
			r.Weight = sorry.Weight
		case !s.fit() || e.sorry:
			r.Weight = 0
		case s != nil && s.weigh.heard:
			r.Weight = scaled(r.Weight, s.weigh.factor)
		}
		e.listed.Servers = append(e.listed.Servers, r)
	}
	switch {
	case sorry == nil || of.Server(sorry.ServerID) != nil:
	case e.sorry:
		e.listed.Servers = slices.Insert(e.listed.Servers, 0, *sorry)
	default:
		gone = append(gone, *sorry)
	}
	e.applied = e.listed
	if weighs(of.Scheduler) {
		e.refine(care, standings, held, now)
	}
	if care.Fate == lvs.FateKeep && !choosesQuiesced(of.Scheduler) {
		e.keepOn(gone)
	}
	return e
}

// keepOn leaves servers in the data plane that are no longer listed, for the sake
// of their connections.
func (e *effect) keepOn(gone []lvs.RealServer) {
	if len(gone) == 0 {
		return
	}
	e.applied = e.applied.Clone()
	for _, r := range gone {
		r.Weight = 0
		e.applied.Servers = append(e.applied.Servers, r)
	}
}

// choosesQuiesced tells whether a scheduler's choice can fall on a server of
// weight 0, and the client is then sent to nobody.
func choosesQuiesced(s lvs.Scheduler) bool {
	return s == lvs.SourceHashing || s == lvs.DestinationHashing
}

// weighs tells whether a scheduler's choice follows weights step by step. For the
// hashes another weight is another table, in which clients move; fo takes the
// greatest one; rr and lc know of 0 only, but lc minds a seed.
func weighs(s lvs.Scheduler) bool {
	switch s {
	case lvs.WeightedRoundRobin, lvs.WeightedLeastConnection, lvs.LeastConnection, lvs.ShortestExpectedDelay,
		lvs.NeverQueue, lvs.LocalityLeastConnection, lvs.LocalityReplicated, lvs.TwoChoices:
		return true
	}
	return false
}

// refine gives the data plane weights in finer steps, if one of them is a part of
// the configured one, and servers that start slowly a seed.
func (e *effect) refine(care *config.Care, standings map[lvs.ServerID]*standing, held load, now time.Time) {
	parts := make([]float64, len(e.listed.Servers))
	some := false
	for i, r := range e.listed.Servers {
		parts[i] = 1
		s := standings[r.ServerID]
		if s == nil || r.Weight == 0 {
			continue
		}
		if !s.rising.IsZero() {
			parts[i] = risen(now.Sub(s.rising), care.SlowStart)
			e.rising, some = true, true
		}
		if s.weigh.heard && s.weigh.factor != 1 {
			some = true
		}
	}
	if !some {
		return
	}
	a := e.listed.Clone()
	for i := range a.Servers {
		r := &a.Servers[i]
		if r.Weight == 0 {
			continue
		}
		w := float64(r.Weight)
		if rule := e.of.Server(r.ServerID); rule != nil {
			if s := standings[r.ServerID]; s != nil && s.weigh.heard {
				w = float64(rule.Weight) * s.weigh.factor
			}
		}
		r.Weight = int32(min(max(1, math.Round(w*fine*parts[i])), math.MaxInt32))
	}
	if e.rising {
		seed(a, e.listed, standings, parts, care.SlowStart, held, now)
	}
	e.applied = a
}

// scaled is a weight by a factor: 0 stays 0, and nothing else becomes 0.
func scaled(weight int32, factor float64) int32 {
	if weight == 0 {
		return 0
	}
	return int32(min(max(1, math.Round(float64(weight)*factor)), math.MaxInt32))
}

// risen is the part of its weight that a server has after some time of a slow
// start: a tenth at first.
func risen(after, whole time.Duration) float64 {
	if whole <= 0 || after >= whole {
		return 1
	}
	return 0.1 + 0.9*max(0, float64(after)/float64(whole))
}

// seed has servers that start slowly count as if they held as many connections,
// for their weight, as the others do; less and less so, so that what they lack
// comes to them over the whole time and not at its end.
func seed(a, listed *lvs.VirtualService, standings map[lvs.ServerID]*standing, parts []float64, whole time.Duration, held load, now time.Time) {
	var connections, weights float64
	starting := func(id lvs.ServerID) bool { s := standings[id]; return s != nil && !s.rising.IsZero() }
	for _, r := range a.Servers {
		if r.Weight > 0 && !starting(r.ServerID) {
			connections, weights = connections+held(r.ServerID), weights+float64(r.Weight)
		}
	}
	if weights == 0 {
		return // all are new: none is to be spared
	}
	for i := range a.Servers {
		r := &a.Servers[i]
		if r.Weight == 0 || !starting(r.ServerID) {
			continue
		}
		due := float64(r.Weight) * connections / weights // at the part of its weight that it has now
		left := 1 - min(1, float64(now.Sub(standings[r.ServerID].rising))/float64(max(whole, 1)))
		r.Seed = uint32(min(max(0, math.Round(left*(due-held(r.ServerID)))), math.MaxInt32))
	}
}

// why tells in words how a service's servers are.
func (e *effect) why(care *config.Care) string {
	switch {
	case e.sorry:
		return fmt.Sprintf("%d of %d real servers are fit, %d are needed: the sorry server stands in", e.fit, len(e.of.Servers), max(1, care.QuorumUp))
	case !e.usable:
		return fmt.Sprintf("%d of %d real servers are fit, %d are needed", e.fit, len(e.of.Servers), max(1, care.QuorumUp))
	}
	return fmt.Sprintf("%d of %d real servers are fit", e.fit, len(e.of.Servers))
}
