// SPDX-License-Identifier: MIT

package director

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// rules are the saved ones, with their places in the file, or those of a
// configuration.
type rules struct {
	site *site // nil: they are the saved ones
	path string
	file os.FileInfo // nil: there is none, or only a part of it counts
	all  []lvs.Change
	text []string // of each change
	line []int    // of each change, from 1
}

// savedRules reads the rules file; none is no rules.
func (d *director) savedRules() (rules, error) {
	r := rules{path: d.Rules()}
	r.file, _ = os.Stat(r.path)
	b, err := os.ReadFile(r.path)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("%w: %w", api.ErrRules, err)
	}
	whole, err := d.wholeChanges(b)
	if err != nil {
		return r, fmt.Errorf("%w: %s: %w", api.ErrRules, r.path, err)
	}
	if len(whole) < len(b) || !bytes.HasSuffix(b, []byte("\n")) {
		b, r.file = whole, nil
	}
	if r.all, err = ipvsadm.ParseRules(bytes.NewReader(b)); err != nil {
		return r, fmt.Errorf("%w: %s: %w", api.ErrRules, r.path, err)
	}
	// As ParseRules has it: each line is a change, or says nothing.
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		if text := strings.TrimSpace(line); text != "" && text[0] != '#' {
			r.line, r.text = append(r.line, n), append(r.text, text)
		}
	}
	return r, nil
}

// locate says in which line of the file the change is that was refused.
func (r rules) locate(err error) error {
	if r.site != nil {
		return r.site.locate(r.all, err)
	}
	c, ok := errors.AsType[*lvs.ChangeError](err)
	if !ok || c.Index >= len(r.line) {
		return fmt.Errorf("%w: %s: %w", api.ErrRules, r.path, err)
	}
	return fmt.Errorf("%w: %s: line %d: %s: %w", api.ErrRules, r.path, r.line[c.Index], r.text[c.Index], c.Err)
}

// premises are those of one plan: what is found out about a real server holds
// while it is made.
func (d *director) premises(fits func(*lvs.Table) error) premises {
	if fits == nil {
		fits = func(*lvs.Table) error { return nil }
	}
	known := map[netip.Addr]error{}
	return premises{
		vips: d.VIPs,
		fits: fits,
		reachable: func(rip netip.Addr) error {
			err, asked := known[rip]
			if !asked {
				if _, err = link.OnLink(rip); errors.Is(err, link.ErrLocal) {
					err = nil // a local node
				}
				known[rip] = err
			}
			return err
		},
	}
}

// put makes a plan the running state: the real servers' MAC addresses first,
// then the table in one step. If it fails, all is as before.
func (d *director) put(p plan) error {
	now := time.Now()
	had := d.withSorry(d.uses)
	rips := d.uses.of(p.table, d.table)
	d.follow(d.withSorry(rips))
	d.noteServers(p.table, now)
	applied, keep := d.effects(p.table, now)
	if err := d.plane.Apply(applied); err != nil {
		if d.table != nil {
			d.forget(had)
		}
		return err
	}
	keep()
	d.table, d.uses = p.table, rips
	d.forget(d.withSorry(rips))
	d.usability(now)
	d.withdraw()
	d.checkAnew()
	return nil
}

// withSorry are uses with the servers that stand in for others.
func (d *director) withSorry(u uses) uses {
	all := maps.Clone(u)
	if all == nil {
		all = uses{}
	}
	for _, c := range d.cares {
		if c.sorry != nil {
			all[c.sorry.Addr]++
		}
	}
	return all
}

// change makes a plan, to which changes led, the running state and saves it.
func (d *director) change(p plan, changes []lvs.Change) error {
	old := plan{d.table}
	if err := d.put(p); err != nil {
		return err
	}
	if err := d.save(changes); err != nil {
		return errors.Join(err, d.put(old))
	}
	return nil
}

// Change makes all the changes, in their order, or none, saves the new table,
// and waits a moment for new real servers to be resolved.
func (d *director) Change(ctx context.Context, changes []lvs.Change) error {
	var waiting []<-chan struct{}
	d.editing.Lock()
	err := d.inLoop(ctx, func() error {
		p, err := planChanges(d.table, changes, d.premises(d.plane.Check))
		if err != nil {
			return err
		}
		if err := d.change(p, changes); err != nil {
			return err
		}
		waiting = d.unresolved()
		d.log.Info("rules changed", "changes", len(changes), "services", len(d.table.Services), "servers", len(d.uses))
		return nil
	})
	d.editing.Unlock()
	if err != nil {
		return err
	}
	await(ctx, waiting)
	return nil
}

func (d *director) unresolved() []<-chan struct{} {
	var all []<-chan struct{}
	for _, s := range d.servers {
		// One that was lost is not waited for: its channel is closed.
		if !s.usable() {
			all = append(all, s.resolved)
		}
	}
	return all
}

// reload makes rules that were read again the running ones.
func (d *director) reload(r rules) (api.Reloaded, []<-chan struct{}, error) {
	p, err := planChanges(lvs.NewTable(), r.all, d.premises(d.plane.Check))
	if err != nil {
		return api.Reloaded{}, nil, r.locate(err)
	}
	if err := d.put(p); err != nil {
		return api.Reloaded{}, nil, err
	}
	d.read(r)
	done := api.Reloaded{Services: len(p.table.Services)}
	for _, s := range p.table.Services {
		done.Servers += len(s.Servers)
	}
	return done, d.unresolved(), nil
}
