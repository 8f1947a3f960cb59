// SPDX-License-Identifier: MIT

package director

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// site is the configuration that is in force.
type site struct {
	Path    string    `json:"path"` // where it came from
	Text    string    `json:"text"`
	Applied time.Time `json:"applied"`
	// Refused is the text at Path that was in force after this one and was not
	// confirmed: it is not what a start is to begin with.
	Refused string         `json:"refused,omitempty"`
	config  *config.Config // of Text
}

// before is what comes back unless a configuration is confirmed in time.
type before struct {
	Site  *site        `json:"site,omitempty"`
	VIPs  []netip.Addr `json:"vips"`
	Rules string       `json:"rules"` // as ipvsadm -S has them: with what was changed at run time
	Until time.Time    `json:"until"`
}

// save has it outlive the daemon. One whose time is over is what a start begins
// with.
func (b *before) save(p api.Places) error {
	text, err := json.MarshalIndent(b, "", " ")
	if err == nil {
		err = link.WriteFile(p.Before(), append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("keep what is in force, to come back to it: %w", err)
	}
	return nil
}

// Apply puts a configuration in force, all of it or nothing, or only tells what
// it would change.
func (d *director) Apply(ctx context.Context, r api.ApplyRequest) (done api.Applied, err error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	next := &site{Path: r.Path, Text: r.Text, Applied: time.Now()}
	if next.config, err = config.Parse(r.Path, []byte(r.Text)); err != nil {
		return done, fmt.Errorf("%w: %w", api.ErrConfig, err)
	}
	if next.config.Director == nil {
		return done, fmt.Errorf("%w: %s says nothing of a director or its services; a real server's file is for shunt realserver start --config", api.ErrConfig, r.Path)
	}
	var table *lvs.Table
	err = d.inLoop(ctx, func() error {
		table = d.table
		done.Differences = d.differences(next)
		if d.before != nil && !r.Only {
			return fmt.Errorf("%w: the last configuration is to be confirmed until %s: shunt confirm, or shunt rollback, first",
				api.ErrConfig, d.before.Until.Format(time.TimeOnly))
		}
		return nil
	})
	if err != nil || r.Only {
		return done, err
	}
	if err := d.needsRestart(next.config, done.Differences); err != nil {
		return done, err
	}
	if err := secretsReadable(next.config); err != nil {
		return done, err
	}
	fresh, err := d.probeNew(ctx, next.config)
	if err != nil {
		return done, err
	}
	var waiting []<-chan struct{}
	err = d.inLoop(ctx, func() error {
		var was *before
		if r.Confirm > 0 {
			if was, err = d.remember(r.Confirm); err != nil {
				return err
			}
			done.Until = was.Until
		}
		if err := d.replace(next, next.config.Director.VIPs, next.config.Changes(), fresh); err != nil {
			return errors.Join(err, link.RemoveFile(d.Before()))
		}
		d.before = was
		waiting = d.unresolved()
		d.log.Info("configuration applied", "path", next.Path, "differences", len(done.Differences), "services", len(d.table.Services), "was", len(table.Services))
		return nil
	})
	if err == nil {
		await(ctx, waiting)
	}
	return done, err
}

// sitePath is where the configuration in force came from, if there is one.
func (d *director) sitePath(ctx context.Context) (path string, is bool, err error) {
	err = d.inLoop(ctx, func() error {
		if d.site != nil {
			path, is = d.site.Path, true
		}
		return nil
	})
	return path, is, err
}

// applyAgain puts the file in force as it is now.
func (d *director) applyAgain(ctx context.Context, path string, err error) (api.Reloaded, error) {
	var done api.Reloaded
	if err != nil {
		return done, err
	}
	if !filepath.IsAbs(path) {
		return done, fmt.Errorf("%w: it came by %s, which cannot be read again: shunt apply FILE", api.ErrConfig, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return done, fmt.Errorf("%w: %w", api.ErrConfig, err)
	}
	if _, err := d.Apply(ctx, api.ApplyRequest{Path: path, Text: string(text)}); err != nil {
		return done, err
	}
	t, err := d.Table(ctx)
	if err != nil {
		return done, err
	}
	done.Services = len(t.Services)
	for _, s := range t.Services {
		done.Servers += len(s.Servers)
	}
	return done, nil
}

// remember keeps what is in force, so that it can come back, also if this
// process does not live so long.
func (d *director) remember(within time.Duration) (*before, error) {
	var rules bytes.Buffer
	if err := ipvsadm.WriteRules(&rules, d.table, ipvsadm.CreationOrder()); err != nil {
		return nil, err
	}
	b := &before{Site: d.site, VIPs: d.VIPs, Rules: rules.String(), Until: time.Now().Add(within)}
	return b, b.save(d.Places)
}

// Confirm keeps the configuration that was applied last.
func (d *director) Confirm(ctx context.Context) error {
	d.editing.Lock()
	defer d.editing.Unlock()
	return d.inLoop(ctx, func() error {
		if d.before == nil {
			return fmt.Errorf("%w: there is nothing to confirm: the last apply was without --confirm, or its time is over", api.ErrConfig)
		}
		if err := link.RemoveFile(d.Before()); err != nil {
			return fmt.Errorf("forget what was in force before: %w", err)
		}
		d.before = nil
		d.log.Info("configuration confirmed")
		return nil
	})
}

// Rollback goes back to what was in force before the last apply.
func (d *director) Rollback(ctx context.Context) error {
	d.editing.Lock()
	defer d.editing.Unlock()
	return d.inLoop(ctx, func() error {
		if d.before == nil {
			return fmt.Errorf("%w: there is nothing to go back to: the last apply was without --confirm, or is confirmed", api.ErrConfig)
		}
		return d.comeBack("asked for")
	})
}

// comeBack puts in force what was so before.
func (d *director) comeBack(why string) error {
	was := d.before
	changes, err := ipvsadm.ParseRules(bytes.NewReader([]byte(was.Rules)))
	if err != nil {
		return fmt.Errorf("what was in force before: %w", err)
	}
	if was.Site != nil && was.Site.config == nil {
		if was.Site.config, err = config.Parse(was.Site.Path, []byte(was.Site.Text)); err != nil {
			return fmt.Errorf("what was in force before: %w", err)
		}
	}
	over := before{was.Site.after(d.site), was.VIPs, was.Rules, was.Until}
	if now := time.Now(); now.Before(over.Until) {
		over.Until = now
	}
	if err := over.save(d.Places); err != nil { // if this is all that is done, the next start does the rest
		return err
	}
	if err := d.replace(over.Site, was.VIPs, changes, nil); err != nil {
		return errors.Join(fmt.Errorf("go back to what was in force before: %w", err), was.save(d.Places))
	}
	d.before = nil
	d.log.Warn("went back to the configuration before", "because", why)
	return link.RemoveFile(d.Before())
}

// after is a configuration (nil: none) that is in force again after another one,
// which was not confirmed.
func (s *site) after(refused *site) *site {
	if s == nil || refused == nil || s.Path != refused.Path {
		return s
	}
	c := *s
	c.Refused = refused.Text
	return &c
}

// expire goes back when nobody has confirmed in time.
func (d *director) expire(now time.Time) {
	if d.before == nil || now.Before(d.before.Until) || !d.editing.TryLock() {
		return
	}
	defer d.editing.Unlock()
	if err := d.comeBack("it was not confirmed in time"); err != nil {
		d.log.Error("cannot go back; it is tried again", "error", err)
		d.before.Until = now.Add(time.Second)
	}
}

// needsRestart refuses what cannot be changed while packets flow.
func (d *director) needsRestart(c *config.Config, differences []config.Difference) error {
	for _, x := range differences {
		if x.Restart {
			return fmt.Errorf("%w: %s; it loses no connection: shunt director stop --keep-forwarding,"+
				" then shunt director start --config FILE; nothing was changed", api.ErrConfig, x.Text)
		}
	}
	return nil
}

// probeNew asks the link whether someone has the VIPs that come, outside of the
// loop.
func (d *director) probeNew(ctx context.Context, c *config.Config) (fresh []*vip, err error) {
	if err := d.inLoop(ctx, func() error {
		all, err := link.Interfaces()
		if err != nil {
			return err
		}
		for _, addr := range c.Director.VIPs {
			if slices.Contains(d.VIPs, addr) {
				continue
			}
			v, err := d.place(addr, all)
			if err != nil {
				return err
			}
			fresh = append(fresh, v)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	errs := make([]error, len(fresh))
	var wait sync.WaitGroup
	for i, v := range fresh {
		wait.Go(func() { errs[i] = d.probeOne(ctx, v, "") })
	}
	wait.Wait()
	return fresh, errors.Join(errs...)
}

// replace puts a configuration and rules in force: what packets need first comes
// first, and what goes, goes last. If it fails, all is as before.
func (d *director) replace(next *site, vips []netip.Addr, changes []lvs.Change, fresh []*vip) (err error) {
	premises := d.premises(d.plane.Check)
	premises.vips = vips
	p, err := planChanges(lvs.NewTable(), changes, premises)
	if err != nil {
		return d.inFile(next, err)
	}
	c := &config.Config{}
	if next != nil {
		c = next.config
	}
	if err := d.openPath(c); err != nil {
		return err
	}
	was := struct {
		site  *site
		cares map[lvs.ServiceID]*cared
		vips  []netip.Addr
		list  []*vip
		table *lvs.Table
	}{d.site, d.cares, d.VIPs, d.vips, d.table}
	back := func(err error) error {
		d.site, d.cares, d.VIPs, d.vips = was.site, was.cares, was.vips, was.list
		undo := d.put(plan{was.table})
		for _, v := range fresh {
			if !v.adopted {
				undo = errors.Join(undo, d.takeVIP(v))
			}
		}
		d.checkAnew()
		return errors.Join(err, undo)
	}
	for _, addr := range vips {
		if !slices.Contains(was.vips, addr) && !slices.ContainsFunc(fresh, func(v *vip) bool { return v.addr == addr }) {
			fresh = append(fresh, &vip{addr: addr, iface: d.Interfaces[0]}) // a way back: it was here a moment ago
		}
	}
	d.site, d.cares = next, cares(c, d.cares)
	d.VIPs, d.vips = vips, nil
	for _, v := range append(slices.Clone(was.list), fresh...) {
		if slices.Contains(vips, v.addr) {
			d.vips = append(d.vips, v)
		}
	}
	if err := d.put(p); err != nil {
		return back(err)
	}
	for _, v := range fresh {
		if v.adopted || v.withdrawn {
			continue
		}
		if err := d.showVIP(v); err != nil {
			return back(err)
		}
	}
	if err := d.saveAll(); err != nil {
		return errors.Join(back(err), d.saveAll())
	}
	for id := range was.cares {
		if d.cares[id] == nil {
			d.outliers.Forget(id)
		}
	}
	d.tellAmended(was.cares, was.table)
	var gone []netip.Addr
	for _, v := range was.list {
		if slices.Contains(vips, v.addr) {
			continue
		}
		gone = append(gone, v.addr)
		if err := d.takeVIP(v); err != nil { // of one that was there before the director, only what is the director's
			d.log.Error("take a VIP off that is not wanted any more", "vip", v.addr, "iface", v.iface, "error", err)
		}
	}
	d.listen()
	d.notifier.Set(targets(c))
	d.checkAnew()
	d.forgetMarks(gone)
	return nil
}

// inFile says where in the file is what was refused.
func (d *director) inFile(s *site, err error) error {
	if s == nil {
		return err
	}
	return fmt.Errorf("%w: %s: %w", api.ErrConfig, s.Path, err)
}

// saveAll saves the configuration, its rules and the settings. The configuration
// comes first: rules that do not belong to it do not count for a start.
func (d *director) saveAll() error {
	if err := d.saveSite(); err != nil {
		return err
	}
	return errors.Join(d.save(nil), d.Settings.save(d.Places))
}

// saveSite writes what is in force into the state directory, from where a start
// has it if the file itself is not usable.
func (d *director) saveSite() error {
	if d.site == nil {
		return link.RemoveFile(d.Site())
	}
	b, err := json.MarshalIndent(d.site, "", " ")
	if err == nil {
		err = link.WriteFile(d.Site(), append(b, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("save the configuration in force: %w", err)
	}
	return nil
}

// differences tells what a configuration would change: of the one in force as it
// is now, with what was changed at run time.
func (d *director) differences(next *site) []config.Difference {
	now := &config.Config{}
	if d.site != nil {
		now.Notify = d.site.config.Notify
		now.Services = d.site.config.Services
	}
	now.Services = asRun(now.Services, d.table, d.nameOf)
	want := *next.config
	want.RealServer = nil // not the director's business
	now.Director, want.Director = d.asConfig(), d.wholeDirector(want.Director)
	return config.Diff(now, &want)
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
