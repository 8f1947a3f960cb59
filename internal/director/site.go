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
	"slices"
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
	Path    string         `json:"path"` // where it came from
	Text    string         `json:"text"`
	Applied time.Time      `json:"applied"`
	config  *config.Config // of Text
}

// before is what comes back unless a configuration is confirmed in time.
type before struct {
	Site  *site     `json:"site,omitempty"`
	Rules string    `json:"rules"` // as ipvsadm -S has them: with what was changed at run time
	Until time.Time `json:"until"`
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
	if next.config.Director == nil && len(next.config.Services) == 0 {
		return done, fmt.Errorf("%w: %s says nothing of a director or its services; a real server's file is for shunt realserver start --config", api.ErrConfig, r.Path)
	}
	var table *lvs.Table
	err = d.inLoop(ctx, func() error {
		table = d.table
		done.Differences, err = d.differences(next)
		if err == nil && d.before != nil && !r.Only {
			err = fmt.Errorf("%w: the last configuration is to be confirmed until %s: shunt confirm, or shunt rollback, first",
				api.ErrConfig, d.before.Until.Format(time.TimeOnly))
		}
		return err
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
		if err := d.replace(next, next.config.Changes(), fresh); err != nil {
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
	b := &before{Site: d.site, Rules: rules.String(), Until: time.Now().Add(within)}
	text, err := json.MarshalIndent(b, "", " ")
	if err == nil {
		err = link.WriteFile(d.Before(), append(text, '\n'), 0o644)
	}
	if err != nil {
		return nil, fmt.Errorf("keep what is in force, to come back to it: %w", err)
	}
	return b, nil
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
	if err := d.replace(was.Site, changes, nil); err != nil {
		return fmt.Errorf("go back to what was in force before: %w", err)
	}
	d.before = nil
	d.log.Warn("went back to the configuration before", "because", why)
	return link.RemoveFile(d.Before())
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

// vipsOf are the VIPs that a configuration wants: those of its director, else
// those that there are.
func (d *director) vipsOf(s *site) []netip.Addr {
	if s == nil || s.config.Director == nil {
		return d.VIPs
	}
	return s.config.Director.VIPs
}

// probeNew asks the link whether someone has the VIPs that come, outside of the
// loop.
func (d *director) probeNew(ctx context.Context, c *config.Config) (fresh []*vip, err error) {
	have, all, err := d.present(ctx)
	if err != nil || c.Director == nil {
		return nil, err
	}
	for _, addr := range c.Director.VIPs {
		if slices.Contains(have, addr) {
			continue
		}
		v, err := d.place(addr, all)
		if err != nil {
			return nil, err
		}
		if err := d.probeOne(ctx, v); err != nil {
			return nil, err
		}
		fresh = append(fresh, v)
	}
	return fresh, nil
}

func (d *director) present(ctx context.Context) (vips []netip.Addr, all []*link.Interface, err error) {
	err = d.inLoop(ctx, func() error {
		vips = slices.Clone(d.VIPs)
		return nil
	})
	if err == nil {
		all, err = link.Interfaces()
	}
	return vips, all, err
}

// replace puts a configuration and rules in force: what packets need first comes
// first, and what goes, goes last. If it fails, all is as before.
func (d *director) replace(next *site, changes []lvs.Change, fresh []*vip) (err error) {
	vips := d.vipsOf(next)
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
		if err := d.putVIP(v); err != nil {
			return back(err)
		}
		d.announce(v)
	}
	if err := errors.Join(d.save(nil), d.saveSite(), d.Settings.save(d.Places)); err != nil {
		return errors.Join(back(err), d.save(nil), d.saveSite(), d.Settings.save(d.Places))
	}
	for id := range was.cares {
		if d.cares[id] == nil {
			d.outliers.Forget(id)
		}
	}
	var gone []netip.Addr
	for _, v := range was.list {
		if slices.Contains(vips, v.addr) {
			continue
		}
		gone = append(gone, v.addr)
		if !v.adopted {
			if err := d.takeVIP(v); err != nil {
				d.log.Error("take a VIP off that is not wanted any more", "vip", v.addr, "iface", v.iface, "error", err)
			}
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

func (d *director) takeVIP(v *vip) error {
	return d.journal.Undo(func(e link.Entry) bool {
		return e.Kind == link.AddedAddress && e.Prefix.Addr() == v.addr && e.Interface == v.iface
	})
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
func (d *director) differences(next *site) ([]config.Difference, error) {
	now := &config.Config{Director: d.asConfig()}
	if d.site != nil {
		text, err := config.Edit([]byte(d.site.Text), d.table)
		if err == nil {
			now, err = config.Parse(d.site.Path, text)
		}
		if err != nil {
			return nil, fmt.Errorf("compare with what runs: %w", err)
		}
		now.Director = d.asConfig()
	}
	want := *next.config
	want.RealServer, now.RealServer = nil, nil // not the director's business
	if want.Director == nil {
		want.Director = now.Director
	}
	all := config.Diff(now, &want)
	if d.site == nil {
		table, err := next.config.Table()
		if err != nil {
			return nil, err
		}
		all = append(all, config.DiffTable(table, d.table, d.nameOf)...)
	}
	return all, nil
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
	if err == nil && s.Path != "" {
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
	if d.before != nil {
		say("the configuration is to be confirmed until %s, or the one before comes back: shunt confirm", d.before.Until.Format(time.TimeOnly))
	}
	if n := len(d.drift()); n > 0 {
		say("the running rules differ from %s in %d points, changed at run time: shunt diff shows them, shunt save writes them back, shunt apply undoes them", d.site.Path, n)
	}
	for _, c := range d.sorted() {
		for _, id := range sortedServers(c.standings) {
			s := c.standings[id]
			word, why := s.condition()
			if d.table.Service(c.id).Server(id) == nil || s.fit() {
				continue
			}
			say("%s: real server %v is in condition %s%s", d.nameOf(c.id), id, word, inWords(why))
		}
	}
	return all
}

func inWords(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

// drift is how the running rules differ from the configuration in force.
func (d *director) drift() []config.Difference {
	if d.site == nil {
		return nil
	}
	want, err := d.site.config.Table()
	if err != nil {
		return nil
	}
	return config.DiffTable(want, d.table, d.nameOf)
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
