// SPDX-License-Identifier: MIT

package director

import (
	"errors"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// cared is a service of which there is more to know than its rule: what the
// configuration says about it, and how its servers are.
type cared struct {
	id     lvs.ServiceID
	name   string
	inFile bool
	care   config.Care
	sorry  *lvs.RealServer
	file   map[lvs.ServerID]*config.Server // what the configuration says of its servers

	standings map[lvs.ServerID]*standing
	usable    bool   // as last judged
	edits     uint64 // of what the data plane gets, beside those of the rule
	watched   bool   // it is looked at how its connections begin
	dirty     bool   // the standings have changed since the effect was made
	effect    effect
}

func newCared(id lvs.ServiceID) *cared {
	return &cared{id: id, standings: map[lvs.ServerID]*standing{}, usable: true}
}

// standing is that of a server, made if there is none.
func (c *cared) standing(id lvs.ServerID) *standing {
	s := c.standings[id]
	if s == nil {
		s = &standing{since: time.Now()}
		c.standings[id] = s
	}
	return s
}

// cares makes what a configuration says of its services; of what is known of
// their servers all is kept that is known of servers it still has, and what
// operators said.
func cares(c *config.Config, known map[lvs.ServiceID]*cared) map[lvs.ServiceID]*cared {
	all := map[lvs.ServiceID]*cared{}
	for i := range c.Services {
		s := &c.Services[i]
		n := newCared(s.Service.ServiceID)
		n.name, n.inFile, n.care, n.sorry = s.Name, true, s.Care, s.Sorry
		n.file = map[lvs.ServerID]*config.Server{}
		for j := range s.Servers {
			n.file[s.Servers[j].Server.ServerID] = &s.Servers[j]
		}
		all[n.id] = n
	}
	for id, old := range known {
		n := all[id]
		if n == nil {
			n = newCared(id)
			for server, s := range old.standings {
				if s.operator.Wants != "" {
					n.standings[server] = &standing{operator: s.operator, since: s.since}
				}
			}
			if len(n.standings) == 0 {
				continue
			}
			all[id] = n
			continue
		}
		// A copy: if the new configuration is refused, the old one stays.
		for server, s := range old.standings {
			c := *s
			if f := n.file[server]; f == nil || len(f.Checks) == 0 {
				c.ill = ""
			}
			if !guards(n.file[server]) {
				c.exposed = ""
			}
			if n.care.Passive == nil {
				c.ejected = ""
			}
			if f := n.file[server]; f == nil || f.Weigh == nil {
				c.weigh = weighing{}
			}
			n.standings[server] = &c
		}
		n.usable, n.edits, n.effect, n.dirty, n.watched = old.usable, old.edits, old.effect, true, old.watched
	}
	return all
}

// caredOf is what is known of a service, made if there is nothing.
func (d *director) caredOf(id lvs.ServiceID) *cared {
	c := d.cares[id]
	if c == nil {
		c = newCared(id)
		d.cares[id] = c
	}
	return c
}

// noteServers begins the standing of servers that a table has and the running one
// has not: they start slowly if their service says so, and are ill until checked
// if it says that.
func (d *director) noteServers(t *lvs.Table, now time.Time) {
	if len(d.cares) == 0 {
		return
	}
	for _, s := range t.Services {
		c := d.cares[s.ServiceID]
		if c == nil || c.effect.of == s {
			continue
		}
		var before *lvs.VirtualService
		if d.table != nil {
			before = d.table.Service(s.ServiceID)
		}
		for _, r := range s.Servers {
			if before != nil && before.Server(r.ServerID) != nil && c.standings[r.ServerID] != nil {
				continue
			}
			st := c.standing(r.ServerID)
			f := c.file[r.ServerID]
			checked := f != nil && len(f.Checks) > 0
			was, known := d.remembered[api.Member{Service: s.ServiceID, Server: r.ServerID}]
			if known {
				st.since, st.rising = was.Since, was.Rising
			}
			switch {
			case checked && known && was.Checked:
				st.ill = was.Ill
			case checked && c.care.Alpha:
				st.ill, st.fresh = "its checks have not succeeded yet", true
			}
			if before != nil && c.care.SlowStart > 0 && st.fit() {
				st.rising = now
			}
		}
	}
}

// effects makes what the data plane is to get for a table. The judgements count
// when keep is called.
func (d *director) effects(t *lvs.Table, now time.Time) (applied *lvs.Table, keep func()) {
	if len(d.cares) == 0 {
		return t, func() { d.listed = t }
	}
	given, listed := map[lvs.ServiceID]*lvs.VirtualService{}, map[lvs.ServiceID]*lvs.VirtualService{}
	next := map[*cared]effect{}
	for _, s := range t.Services {
		c := d.cares[s.ServiceID]
		if c == nil {
			continue
		}
		e := c.effect
		if e.of != s || c.dirty || e.rising {
			e = judge(s, &c.care, c.sorry, c.standings, c.usable, d.held(c), now)
			e.settle(&c.effect, c.edits)
			next[c] = e
		}
		given[s.ServiceID], listed[s.ServiceID] = e.applied, e.listed
	}
	return t.With(given), func() {
		d.listed = t.With(listed)
		for c, e := range next {
			if e.applied != c.effect.applied {
				c.edits++
			}
			c.effect, c.dirty = e, false
		}
	}
}

// settle keeps what did not change as it was, so that the data plane has nothing
// to do, and counts a change as an edit, as the rule's own are (see
// lvs.VirtualService.Edits).
func (e *effect) settle(was *effect, edits uint64) {
	e.listed.Edits, e.applied.Edits = e.of.Edits+edits, e.of.Edits+edits
	if was.listed != nil && e.listed.Equal(was.listed) {
		e.listed = was.listed
	}
	if was.of == e.of && was.applied != nil && e.applied.Equal(was.applied) {
		e.applied = was.applied
		return
	}
	e.applied.Edits = e.of.Edits + edits + 1
}

// held tells what a service's servers hold, asked for once.
func (d *director) held(c *cared) load {
	var known map[lvs.ServerID]float64
	return func(id lvs.ServerID) float64 {
		if known == nil {
			known = map[lvs.ServerID]float64{}
			for _, r := range d.plane.Loads(c.id) {
				known[r.ServerID] = float64(r.Active) + float64(r.Inactive)/256 // as wlc weighs them
			}
		}
		return known[id]
	}
}

// judged carries out what a change of how servers are means for the running
// table, and tells the news before what follows from it for services and VIPs.
// What cannot be carried out now is tried again at the next tick.
func (d *director) judged(now time.Time, news ...func()) {
	applied, keep := d.effects(d.table, now)
	err := d.plane.Apply(applied)
	if d.unsettled = err != nil; !d.unsettled {
		keep()
	}
	for _, tell := range news {
		tell()
	}
	if err != nil {
		d.log.Error("what is known of the real servers' health cannot be carried out; it is tried again", "error", err)
		return
	}
	d.usability(now)
	d.withdraw()
}

// usability tells of services that have become usable, or no longer are.
func (d *director) usability(now time.Time) {
	for c := range d.sorted() {
		if c.effect.of == nil || c.effect.usable == c.usable {
			continue
		}
		c.usable, d.dirtyStandings = c.effect.usable, true
		d.serviceTurned(c, now)
	}
}

// sorted are the services of the running table that are cared for, in its order,
// each with its rule: to look it up again would go through the table for each.
func (d *director) sorted() iter.Seq2[*cared, *lvs.VirtualService] {
	return func(yield func(*cared, *lvs.VirtualService) bool) {
		if len(d.cares) == 0 {
			return
		}
		for _, s := range d.table.Services {
			if c := d.cares[s.ServiceID]; c != nil && !yield(c, s) {
				return
			}
		}
	}
}

// rise moves slow starts on, and what could not be carried out.
func (d *director) rise(now time.Time) {
	due := d.unsettled
	for _, c := range d.cares {
		step := max(time.Second, c.care.SlowStart/20)
		for id, s := range c.standings {
			if s.rising.IsZero() || now.Sub(s.rising) < c.care.SlowStart {
				continue
			}
			s.rising = time.Time{}
			c.dirty, due, d.dirtyStandings = true, true, true
			rule := d.table.Service(c.id)
			if after, reason := s.condition(); after == api.Up && rule != nil && rule.Server(id) != nil {
				s.since = now
				d.serverTurned(c, id, health.Event{At: now, From: string(api.Starting), To: string(after), Reason: reason, By: "slow start"})
			}
		}
		if c.effect.rising && now.Sub(d.risen) >= step {
			due = true
		}
	}
	if due {
		d.risen = now
		d.judged(now)
	}
}

// turning is a change of a server's standing.
type turning struct {
	of *cared
	id lvs.ServerID
	// cause has what there is to tell but for the conditions: who did, perhaps the
	// check, and a reason for where a condition has none of its own.
	cause  health.Event
	change func(*standing)
}

// turn changes a server's standing and carries out what follows; by is who did.
func (d *director) turn(c *cared, id lvs.ServerID, by string, change func(*standing)) {
	d.turnAll(turning{c, id, health.Event{By: by}, change})
}

// turnAll changes standings and carries out what follows, in one go: when a switch
// fails, thousands turn.
func (d *director) turnAll(all ...turning) {
	now := time.Now()
	var news []func()
	for _, t := range all {
		if tell := d.amend(t, now); tell != nil {
			news = append(news, tell)
		}
	}
	d.judged(now, news...)
	d.keepStandings(now)
}

// amend changes a standing and returns what tells of it, nil if there is nothing
// to tell.
func (d *director) amend(t turning, now time.Time) func() {
	c, s, e := t.of, t.of.standing(t.id), t.cause
	before, _ := s.condition()
	fit := s.fit()
	t.change(s)
	c.dirty = true
	after, reason := s.condition()
	if !fit && s.fit() && c.care.SlowStart > 0 {
		s.rising = now
		after = api.Starting
	}
	if !s.fit() {
		s.rising = time.Time{}
	}
	if before == after {
		return nil
	}
	s.since = now
	if reason != "" {
		e.Reason = reason
	}
	e.At, e.From, e.To = now, string(before), string(after)
	ends := fit && s.failed() && c.care.Fate != lvs.FateKeep
	return func() {
		d.serverTurned(c, t.id, e)
		if ends {
			d.endConnections(c.id, t.id, c.care.Fate)
		}
	}
}

// endConnections ends a server's connections, beside the loop: there may be
// millions to look through.
func (d *director) endConnections(service lvs.ServiceID, server lvs.ServerID, fate lvs.Fate) {
	d.running.Go(func() {
		n, err := d.plane.End(service, server, fate)
		if errors.Is(err, lvs.ErrInvalid) {
			return // it has recovered meanwhile, and keeps them
		}
		if err != nil {
			d.log.Error("end a real server's connections", "service", service, "server", server, "fate", fate, "error", err)
			return
		}
		d.log.Info("ended a real server's connections", "service", service, "server", server, "fate", fate, "connections", n)
	})
}

// members finds the servers that a word is about: a name, an address, or address
// and port.
func (d *director) members(server, service string) (all []api.Member) {
	for _, s := range d.table.Services {
		c := d.cares[s.ServiceID]
		if service != "" && service != s.ServiceID.String() && (c == nil || service != c.name) {
			continue
		}
		for _, r := range s.Servers {
			named := c != nil && c.file[r.ServerID] != nil && c.file[r.ServerID].Name != "" && c.file[r.ServerID].Name == server
			if named || server == r.Addr.String() || server == r.ServerID.String() {
				all = append(all, api.Member{Service: s.ServiceID, Server: r.ServerID})
			}
		}
	}
	return all
}

// nameOf is what people call a service.
func (d *director) nameOf(id lvs.ServiceID) string {
	if c := d.cares[id]; c != nil && c.name != "" {
		return c.name
	}
	return id.String()
}

func sortedServers(m map[lvs.ServerID]*standing) []lvs.ServerID {
	return slices.SortedFunc(maps.Keys(m), func(a, b lvs.ServerID) int {
		if c := a.Addr.Compare(b.Addr); c != 0 {
			return c
		}
		return int(a.Port) - int(b.Port)
	})
}
