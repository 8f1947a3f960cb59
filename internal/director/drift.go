// SPDX-License-Identifier: MIT

package director

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// compare tells what a configuration would change: of the one in force as it is
// now, with what was changed at run time. Whoever wants to know calls what it
// returns, which may take a while, outside of the loop.
func (d *director) compare(next *site) (differences func() []config.Difference) {
	now, want, table := &config.Config{}, *next.config, d.table
	if d.site != nil {
		now.Notify = d.site.config.Notify
		now.Services = d.site.config.Services
	}
	want.RealServer = nil // not the director's business
	now.Director, want.Director = d.asConfig(), d.wholeDirector(want.Director)
	return func() []config.Difference {
		now.Services = asRun(now.Services, table, func(id lvs.ServiceID) string { return cmp.Or(want.ServiceName(id), id.String()) })
		return config.Diff(now, &want)
	}
}

// asRun are the services of a configuration as a table has them, with what was
// changed at run time.
func asRun(said []config.Service, t *lvs.Table, name func(lvs.ServiceID) string) []config.Service {
	known, marks := map[lvs.ServiceID]*config.Service{}, map[lvs.ServiceID][]lvs.MarkRule{}
	for i := range said {
		known[said[i].Service.ServiceID] = &said[i]
	}
	for _, m := range t.Marks {
		marks[m.ServiceID()] = append(marks[m.ServiceID()], m)
	}
	all := make([]config.Service, 0, len(t.Services))
	for _, rule := range t.Services {
		s := config.Service{Care: config.Care{QuorumUp: 1, QuorumDown: 1}}
		if k := known[rule.ServiceID]; k != nil {
			s = *k
		} else {
			s.Name = name(rule.ServiceID)
		}
		servers := map[lvs.ServerID]*config.Server{}
		for i := range s.Servers {
			servers[s.Servers[i].Server.ServerID] = &s.Servers[i]
		}
		s.Service, s.Deny, s.Servers, s.Marks = *rule, rule.Deny, nil, marks[rule.ServiceID]
		s.Service.Servers, s.Service.Deny = nil, nil
		for _, r := range slices.Backward(rule.Servers) { // in the order of adding
			of := config.Server{}
			if k := servers[r.ServerID]; k != nil {
				of = *k
			}
			of.Server = r
			s.Servers = append(s.Servers, of)
		}
		all = append(all, s)
	}
	return all
}

// wholeDirector is what a file says of the director; what it does not say is as
// it is.
func (d *director) wholeDirector(said *config.Director) *config.Director {
	is, c := d.asConfig(), *said
	if !c.Section {
		c.Mode, c.LocalClients, c.Connections, c.VLANs = is.Mode, is.LocalClients, is.Connections, is.VLANs
	}
	if len(c.Interfaces) == 0 {
		c.Interfaces = is.Interfaces
	}
	return &c
}

// asConfig are the settings that this director has, as a configuration has them.
func (d *director) asConfig() *config.Director {
	c := &config.Director{Interfaces: d.Interfaces, VIPs: d.VIPs, VLANs: map[string]config.VLAN{}, Mode: string(d.Mode),
		LocalClients: d.LocalClients, Connections: d.Connections, Timeouts: d.table.Timeouts}
	if c.Mode == "" {
		c.Mode = string(dataplane.Auto)
	}
	for name, v := range d.VLANs {
		c.VLANs[name] = config.VLAN{Parent: v.Parent, ID: v.ID}
	}
	return c
}

// Site tells which configuration is in force, and how the running rules differ
// from it.
func (d *director) SiteNow(ctx context.Context) (s api.Site, err error) {
	err = d.inLoop(ctx, func() error {
		if d.site == nil {
			return nil
		}
		s = api.Site{Path: d.site.Path, Text: d.site.Text, Applied: d.site.Applied}
		if d.before != nil {
			s.Until = d.before.Until
		}
		s.Drift = d.drift()
		return nil
	})
	if err == nil && filepath.IsAbs(s.Path) {
		text, err := os.ReadFile(s.Path)
		s.Changed = err != nil || string(text) != s.Text
	}
	return s, err
}

// siteStatus is what status says of the configuration.
func (d *director) siteStatus() *api.Site {
	if d.site == nil {
		return nil
	}
	s := &api.Site{Path: d.site.Path, Applied: d.site.Applied, Drift: d.drift()}
	if d.before != nil {
		s.Until = d.before.Until
	}
	return s
}

// siteWarnings are what an operator should know of the configuration and of what
// was said beside it.
func (d *director) siteWarnings() (all []string) {
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if d.startWith.unusable != nil && d.site == d.startWith.site {
		say("the configuration was not usable at the start, so the copy of the one before is in force: %v", d.startWith.unusable)
	}
	if d.site != nil && d.site.Refused != "" {
		say("what %s said last was not confirmed, and the configuration before is in force, also after a restart: correct the file, or shunt apply it again", d.site.Path)
	}
	if d.before != nil {
		say("the configuration is to be confirmed until %s, or the one before comes back: shunt confirm", d.before.Until.Format(time.TimeOnly))
	}
	if n := len(d.drift()); n > 0 {
		say("the running rules differ from %s (%d times), changed at run time: shunt diff shows them, shunt save writes them back, shunt apply undoes them", d.site.Path, n)
	}
	if d.noWay != "" {
		say("checks through VIPs are not made, what they found last counts: %s", d.noWay)
	}
	return append(all, d.outWarnings()...)
}

// mostOut bounds how many real servers that are out have a line each.
const mostOut = 10

// outWarnings name real servers that get no new connections because of how they
// are, or because an operator wants it so.
func (d *director) outWarnings() (all []string) {
	more := 0
	for _, s := range d.table.Services {
		c := d.cares[s.ServiceID]
		if c == nil {
			continue
		}
		for _, r := range slices.Backward(s.Servers) {
			word, why := c.standings[r.ServerID].condition()
			switch {
			case c.standings[r.ServerID].fit():
			case len(all) == mostOut:
				more++
			default:
				all = append(all, fmt.Sprintf("%s: real server %v is in condition %s%s", d.nameOf(c.id), r.ServerID, word, inWords(why)))
			}
		}
	}
	if more > 0 {
		all = append(all, fmt.Sprintf("%d more real servers are out: shunt health", more))
	}
	return all
}

func inWords(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

// drift is how the running rules differ from a configuration.
type drift struct {
	of    *site
	table *lvs.Table
	all   []config.Difference
}

// drift is how the running rules differ from the configuration in force.
func (d *director) drift() []config.Difference {
	if d.site == nil {
		return nil
	}
	if d.drifted.of == d.site && d.drifted.table == d.table {
		return d.drifted.all
	}
	want, err := d.site.config.Table()
	if err != nil {
		return nil
	}
	d.drifted = drift{d.site, d.table, config.DiffTable(want, d.table, d.nameOf)}
	return d.drifted.all
}

// Merged is the configuration in force with what was changed at run time.
func (d *director) Merged(ctx context.Context) (s api.Site, err error) {
	s, err = d.SiteNow(ctx)
	if err != nil {
		return s, err
	}
	table, err := d.Table(ctx)
	if err != nil {
		return s, err
	}
	if s.Path == "" {
		return s, fmt.Errorf("%w: there is none in force; shunt import ipvsadm-save makes one of the running rules", api.ErrConfig)
	}
	text, err := config.Edit([]byte(s.Text), table)
	s.Text = string(text)
	return s, err
}
