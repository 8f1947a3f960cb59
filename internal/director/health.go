// SPDX-License-Identifier: MIT

package director

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// checkAnew tells the checker whom to check from now on, and by which way.
func (d *director) checkAnew() {
	if d.checker == nil {
		return
	}
	if d.path != nil {
		err := d.path.Interfaces(d.checkInterfaces())
		if text := fmt.Sprint(err); err != nil && text != d.noWay {
			d.log.Error("checks through the VIP do not find their way; what they found last counts until they do", "error", err)
		}
		if d.noWay = ""; err != nil {
			d.noWay = err.Error()
		}
	}
	d.checker.Set(d.subjects())
	d.followGuards()
	d.followAgents()
}

// checkInterfaces are the indexes of those by which real servers are reached.
func (d *director) checkInterfaces() (all []int) {
	for _, s := range d.servers {
		if s.route.Index == 0 || slices.Contains(all, s.route.Index) {
			continue
		}
		if _, err := link.InterfaceByIndex(s.route.Index); err == nil { // one that is gone would fail the others
			all = append(all, s.route.Index)
		}
	}
	slices.Sort(all)
	return all
}

// subjects are the real servers that are checked: those of the running table that
// the configuration has checks for, but for those in maintenance.
func (d *director) subjects() (all []health.Subject) {
	for c, rule := range d.sorted() {
		for _, r := range rule.Servers {
			f := c.file[r.ServerID]
			if f == nil || len(f.Checks) == 0 {
				continue
			}
			s := c.standing(r.ServerID)
			if s.operator.Wants == api.Maintenance {
				continue
			}
			one := health.Subject{Service: c.id, Server: r.ServerID, Endpoint: d.endpoint(c.id, r.ServerID),
				Checks: f.Checks, Any: f.Any, Alpha: c.care.Alpha, Flap: c.care.Flap}
			if up := s.ill == ""; !s.fresh {
				one.Up = &up
			}
			all = append(all, one)
		}
	}
	return all
}

// endpoint is where a server's checks go.
func (d *director) endpoint(id lvs.ServiceID, server lvs.ServerID) health.Endpoint {
	e := health.Endpoint{Protocol: id.Protocol, VIP: id.Addr, RIP: server.Addr, Port: id.Port}
	if s := d.servers[server.Addr]; s != nil && s.local {
		// Where there is no VIP it is asked at its own address, or it would never
		// come back.
		e.Local = !slices.ContainsFunc(d.vips, func(v *vip) bool { return v.addr == id.Addr && v.withdrawn })
		return e
	}
	if d.path == nil || !id.Addr.IsValid() {
		return e
	}
	// Without its programs an interface would send the check to the RIP, where it
	// may succeed.
	s := d.servers[server.Addr]
	if s == nil || !d.path.Attached(s.route.Index) {
		e.NoWay = "the way through the VIP is not ready on this host"
		return e
	}
	mark, err := d.path.Mark(id.Addr)
	if err != nil {
		e.NoWay = err.Error()
		return e
	}
	e.Mark, e.Device = mark, s.route.Interface
	return e
}

// openPath has the way of checks through VIPs, if a configuration needs it.
func (d *director) openPath(c *config.Config) error {
	if d.path != nil || !throughVIP(c) {
		return nil
	}
	path, err := dataplane.OpenCheckPath(d.log)
	if err != nil {
		return fmt.Errorf("checks through the VIP: %w", err)
	}
	d.path = path
	return nil
}

func throughVIP(c *config.Config) bool {
	for _, s := range c.Services {
		for _, r := range s.Servers {
			for _, k := range r.Checks {
				if !k.ToRIP && k.Kind != health.Script && k.Kind != health.File && s.Service.Mark == 0 {
					return true
				}
			}
		}
	}
	return false
}

// checked takes the checker's word.
func (d *director) checked(all []health.Transition) {
	var turn []turning
	for _, t := range all {
		c := d.cares[t.Service]
		if c == nil || c.standings[t.Server] == nil || c.file[t.Server] == nil {
			continue // it was taken out of the configuration meanwhile
		}
		d.dirtyStandings = true
		turn = append(turn, turning{c, t.Server, health.Event{By: "check", Check: t.Check, Reason: t.Reason}, func(s *standing) {
			s.ill, s.fresh = "", false
			if !t.Up {
				s.ill = t.Reason
			}
		}})
	}
	if len(turn) > 0 {
		d.turnAll(turn...)
	}
}

// Health tells how the services and their real servers are.
func (d *director) Health(ctx context.Context) (all []api.ServiceHealth, err error) {
	judgements := map[api.Member]health.Judgement{}
	if d.checker != nil {
		for _, j := range d.checker.Subjects() {
			judgements[api.Member{Service: j.Service, Server: j.Server}] = j
		}
	}
	err = d.inLoop(ctx, func() error {
		for _, s := range d.table.Services {
			all = append(all, d.healthOf(s, judgements))
		}
		return nil
	})
	return all, err
}

func (d *director) healthOf(s *lvs.VirtualService, judgements map[api.Member]health.Judgement) api.ServiceHealth {
	c := d.cares[s.ServiceID]
	if c == nil {
		c = newCared(s.ServiceID)
		c.effect = judge(s, &c.care, nil, c.standings, true, nil, time.Now())
	}
	out := api.ServiceHealth{Service: s.ServiceID, Name: c.name, InFile: c.inFile, Usable: c.effect.usable || c.effect.sorry,
		Reason: c.effect.why(&c.care), Servers: []api.ServerHealth{}}
	loads := map[lvs.ServerID]lvs.ServerStatus{}
	for _, l := range d.plane.Loads(s.ServiceID) {
		loads[l.ServerID] = l
	}
	for _, r := range slices.Backward(s.Servers) { // in the order of adding
		h := d.serverHealth(c, r, loads[r.ServerID])
		if j, ok := judgements[api.Member{Service: s.ServiceID, Server: r.ServerID}]; ok {
			h.Failure, h.Checks = j.Failure, j.Checks
		}
		out.Servers = append(out.Servers, h)
	}
	if c.sorry != nil {
		l := loads[c.sorry.ServerID]
		h := api.ServerHealth{Server: c.sorry.ServerID, Condition: api.Unused, Weight: c.sorry.Weight, Active: l.Active, Inactive: l.Inactive}
		if c.effect.sorry {
			h.Condition, h.Effective = api.Sorry, float64(c.sorry.Weight)
		}
		out.Servers = append(out.Servers, h)
	}
	return out
}

func (d *director) serverHealth(c *cared, r lvs.RealServer, l lvs.ServerStatus) api.ServerHealth {
	s := c.standings[r.ServerID]
	h := api.ServerHealth{Server: r.ServerID, Weight: r.Weight, Active: l.Active, Inactive: l.Inactive}
	h.Condition, h.Reason = s.condition()
	if s != nil {
		h.Since = s.since
		if s.operator.Wants != "" {
			o := s.operator
			h.Operator = &o
		}
	}
	if f := c.file[r.ServerID]; f != nil {
		h.Name = f.Name
	} else if c.inFile {
		h.Reason = joined(h.Reason, "not in the configuration: it is not checked")
	}
	if note := d.agentNote(c, r.ServerID); note != "" {
		h.Reason = joined(h.Reason, note)
	}
	if n := d.servers[r.Addr]; n != nil && !n.usable() {
		h.Reason = joined(h.Reason, n.reason)
	}
	if c.effect.applied != nil {
		if a, e := c.effect.applied.Server(r.ServerID), c.effect.listed.Server(r.ServerID); a != nil && e != nil {
			h.Effective = float64(e.Weight)
			if a.Weight != e.Weight {
				h.Effective = float64(a.Weight) / fine
			}
		}
	}
	return h
}

func joined(a, b string) string {
	switch "" {
	case a:
		return b
	case b:
		return a
	}
	return a + "; " + b
}

// forgetMarks gives back the marks of VIPs that are gone.
func (d *director) forgetMarks(gone []netip.Addr) {
	if d.path == nil {
		return
	}
	for _, vip := range gone {
		d.path.Forget(vip)
	}
}
