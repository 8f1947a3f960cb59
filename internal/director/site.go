// SPDX-License-Identifier: MIT

package director

import (
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
	var differences func() []config.Difference
	err = d.inLoop(ctx, func() error {
		differences = d.compare(next)
		if d.before != nil && !r.Only {
			return fmt.Errorf("%w: the last configuration is to be confirmed until %s: shunt confirm, or shunt rollback, first",
				api.ErrConfig, d.before.Until.Format(time.TimeOnly))
		}
		return nil
	})
	if err != nil {
		return done, err
	}
	if done.Differences = differences(); r.Only {
		return done, nil
	}
	if err := needsRestart(done.Differences); err != nil {
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
		d.log.Info("configuration applied", "path", next.Path, "differences", len(done.Differences), "services", len(d.table.Services))
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

// needsRestart refuses what cannot be changed while packets flow.
func needsRestart(differences []config.Difference) error {
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
		return next.locate(changes, err)
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
	d.forgetMarks(gone)
	return nil
}

// locate says where in the file is what was refused.
func (s *site) locate(changes []lvs.Change, err error) error {
	if s == nil {
		return err
	}
	if c, ok := errors.AsType[*lvs.ChangeError](err); ok && c.Index < len(changes) {
		if p, ok := config.Locate(s.Path, []byte(s.Text), changes[c.Index], err.Error()); ok {
			return fmt.Errorf("%w: %w", api.ErrConfig, &located{p, err})
		}
	}
	return fmt.Errorf("%w: %s: %w", api.ErrConfig, s.Path, err)
}

// located is an error with its place in a file.
type located struct {
	config.Problem
	err error
}

// Unwrap gives the error without its place.
func (l *located) Unwrap() error { return l.err }

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
