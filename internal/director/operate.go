// SPDX-License-Identifier: MIT

package director

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Operate carries out an operator's word about real servers and tells which
// these are. It is saved before it is carried out, so that it survives a restart.
func (d *director) Operate(ctx context.Context, o api.Operation) (all []api.Member, err error) {
	if o.Wants != api.Draining && o.Wants != api.Maintenance && o.Wants != api.Up {
		return nil, fmt.Errorf("%w: a real server can be drained, put into maintenance, or enabled, not %q", lvs.ErrInvalid, o.Wants)
	}
	err = d.inLoop(ctx, func() error {
		all = d.members(o.Server, o.Service)
		if len(all) == 0 {
			return d.noMember(o)
		}
		now := time.Now()
		wants := api.Operator{Wants: o.Wants, Reason: o.Reason, Since: now, Fate: o.Fate}
		if o.Within > 0 {
			wants.Until = now.Add(o.Within)
		}
		if o.Wants == api.Up {
			wants = api.Operator{}
		}
		before := map[api.Member]api.Operator{}
		for _, m := range all {
			s := d.caredOf(m.Service).standing(m.Server)
			before[m], s.operator = s.operator, wants
		}
		saved := d.saveStandings()
		for m, was := range before {
			d.caredOf(m.Service).standing(m.Server).operator = was
		}
		if saved != nil {
			return saved
		}
		for _, m := range all {
			c := d.caredOf(m.Service)
			checked := c.file[m.Server] != nil && len(c.file[m.Server].Checks) > 0
			d.turn(c, m.Server, "operator", func(s *standing) {
				if s.operator.Wants == api.Maintenance && wants.Wants != api.Maintenance && checked {
					s.ill = uncheckedYet // whatever was true before it
				}
				s.operator = wants
			})
		}
		d.dirtyStandings = true // a slow start may have begun
		d.checkAnew()
		return nil
	})
	return all, err
}

// uncheckedYet is why a server is down that was in maintenance.
const uncheckedYet = "its checks have not succeeded yet since its maintenance"

func (d *director) noMember(o api.Operation) error {
	if o.Service != "" && len(d.members(o.Server, "")) > 0 {
		return fmt.Errorf("%w: real server %s is in no service %s; see shunt health", lvs.ErrNoServer, o.Server, o.Service)
	}
	return fmt.Errorf("%w: no service has a real server %s; name one as shunt health does: a name, an address, or address:port", lvs.ErrNoServer, o.Server)
}

// drained ends what is left of the connections of servers whose time to drain is
// over.
func (d *director) drained(now time.Time) {
	for _, c := range d.cares {
		for id, s := range c.standings {
			o := &s.operator
			if o.Wants == "" || o.Until.IsZero() || now.Before(o.Until) {
				continue
			}
			o.Until = time.Time{}
			d.dirtyStandings = true
			if o.Fate != lvs.FateKeep {
				d.log.Info("the time to drain is over", "service", d.nameOf(c.id), "server", id, "fate", o.Fate)
				d.endConnections(c.id, id, o.Fate)
			}
		}
	}
}

// remembered is a server's standing as it outlives the daemon.
type remembered struct {
	api.Member
	Checked  bool         `json:"checked,omitempty"` // Ill counts
	Ill      string       `json:"ill,omitempty"`
	Operator api.Operator `json:"operator,omitzero"`
	Since    time.Time    `json:"since,omitzero"`
	Rising   time.Time    `json:"rising,omitzero"`    // a slow start began
	Unusable bool         `json:"unusable,omitempty"` // of the service; then there is no server
}

// saveStandings writes what must outlive the daemon: nobody who was down comes up
// by a restart, and what operators said holds.
func (d *director) saveStandings() error {
	var all []remembered
	for _, c := range d.cares {
		if !c.usable {
			all = append(all, remembered{Member: api.Member{Service: c.id}, Unusable: true})
		}
		for _, id := range sortedServers(c.standings) {
			s := c.standings[id]
			f := c.file[id]
			r := remembered{Member: api.Member{Service: c.id, Server: id}, Checked: f != nil && len(f.Checks) > 0, Ill: s.ill, Operator: s.operator, Since: s.since, Rising: s.rising}
			if r.Checked || r.Operator.Wants != "" || !r.Rising.IsZero() {
				all = append(all, r)
			}
		}
	}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	if err := link.WriteFile(d.Standings(), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("remember how the real servers are: %w", err)
	}
	d.dirtyStandings = false
	return nil
}

// rememberStandings reads what a predecessor knew.
func (d *director) rememberStandings() error {
	b, err := os.ReadFile(d.Standings())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var all []remembered
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return fmt.Errorf("how the real servers were, %s: %w; remove the file to start without (maintenance is in it)", d.Standings(), err)
	}
	d.remembered = map[api.Member]remembered{}
	for _, r := range all {
		if c := d.cares[r.Service]; r.Unusable && c != nil {
			c.usable = false
		}
		d.remembered[r.Member] = r
		if r.Operator.Wants != "" {
			s := d.caredOf(r.Service).standing(r.Server)
			s.operator, s.since = r.Operator, r.Operator.Since
		}
	}
	return nil
}
