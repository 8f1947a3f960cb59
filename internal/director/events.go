// SPDX-License-Identifier: MIT

package director

import (
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// serverTurned tells that a real server of a service is in another condition.
func (d *director) serverTurned(c *cared, id lvs.ServerID, e health.Event) {
	e.Subject, e.Service, e.Name, e.Server = health.OfServer, c.id, c.name, id
	d.tell(e)
}

// tellAmended tells of servers that another configuration has put into another
// condition: one that was down is no longer checked.
func (d *director) tellAmended(was map[lvs.ServiceID]*cared, table *lvs.Table) {
	now := time.Now()
	for c, rule := range d.sorted() {
		old, had := was[c.id], table.Service(c.id)
		if old == nil || had == nil {
			continue
		}
		for _, r := range rule.Servers {
			s := c.standings[r.ServerID]
			if s == nil || had.Server(r.ServerID) == nil {
				continue
			}
			before, _ := old.standings[r.ServerID].condition()
			after, reason := s.condition()
			if before == after {
				continue
			}
			s.since, d.dirtyStandings = now, true
			if reason == "" {
				reason = "the configuration is another one"
			}
			d.serverTurned(c, r.ServerID, health.Event{At: now, From: string(before), To: string(after), Reason: reason, By: "operator"})
		}
	}
}

// serviceTurned tells that a service has become usable, or no longer is.
func (d *director) serviceTurned(c *cared, now time.Time) {
	from, to := "usable", "unusable"
	if c.usable {
		from, to = to, from
	}
	d.tell(health.Event{At: now, Subject: health.OfService, Service: c.id, Name: c.name, From: from, To: to,
		Reason: c.effect.why(&c.care), By: "quorum"})
}

// vipTurned tells that a VIP has left the wire, or is back.
func (d *director) vipTurned(v *vip) {
	from, to, reason := "withdrawn", "announced", "a service of it is usable"
	if v.withdrawn {
		from, to, reason = to, from, "no service of it is usable"
	}
	d.tell(health.Event{At: time.Now(), Subject: health.OfVIP, VIP: v.addr, From: from, To: to, Reason: reason, By: "quorum"})
}

// tell has an event in the log and in the history, and tells those who want to
// know.
func (d *director) tell(e health.Event) {
	log := d.log.Info
	if e.To == string(api.Down) || e.To == string(api.Ejected) || e.To == "unusable" || e.To == "withdrawn" {
		log = d.log.Warn
	}
	args := []any{"from", e.From, "to", e.To, "reason", e.Reason, "by", e.By}
	if e.Check != "" {
		args = append(args, "check", e.Check)
	}
	switch e.Subject {
	case health.OfServer:
		args = append([]any{"service", d.nameOf(e.Service), "server", e.Server}, args...)
	case health.OfService:
		args = append([]any{"service", d.nameOf(e.Service)}, args...)
	case health.OfVIP:
		args = append([]any{"vip", e.VIP}, args...)
	}
	log(e.Subject+" turned", args...)
	if err := d.history.Append(e); err != nil {
		d.log.Error("keep the history", "error", err)
	}
	d.notifier.Tell(e)
}
