// SPDX-License-Identifier: MIT

package director

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// handler answers the API. What the data plane knows is asked of it directly;
// all else goes through the loop.
func (d *director) handler() api.Handler {
	return api.Handler{
		Table:       d.Table,
		Services:    func(context.Context) ([]lvs.ServiceStatus, error) { return d.plane.Status() },
		Connections: func(context.Context) ([]lvs.Connection, error) { return d.plane.Connections() },
		Change:      d.Change,
		Zero:        d.zero,
		Status:      d.Status,
		Reload:      d.Reload,
		Stop:        d.Stop,
		Listed: func(ctx context.Context) (t *lvs.Table, err error) {
			err = d.inLoop(ctx, func() error {
				t = d.listed
				return nil
			})
			return t, err
		},
		Health:   d.Health,
		Operate:  d.Operate,
		Apply:    d.Apply,
		Confirm:  d.Confirm,
		Rollback: d.Rollback,
		Site:     d.SiteNow,
		Merged:   d.Merged,
		History:  d.History,
		Leave:    d.Leave,
		AdvanceClock: func(_ context.Context, by time.Duration) error {
			if !d.Debug {
				return fmt.Errorf("%w: instance %q has a clock like everyone's", api.ErrNotDebug, d.Instance)
			}
			return d.plane.AdvanceClock(by)
		},
	}
}

// Table returns the rules as they were given.
func (d *director) Table(ctx context.Context) (t *lvs.Table, err error) {
	err = d.inLoop(ctx, func() error {
		t = d.table // a table in use is never written to: a change makes a new one
		return nil
	})
	return t, err
}

func (d *director) zero(ctx context.Context, id lvs.ServiceID) error {
	if id == (lvs.ServiceID{}) {
		return d.plane.ZeroAll()
	}
	return d.inLoop(ctx, func() error {
		if d.table.Service(id) == nil {
			return fmt.Errorf("%v: %w", id, lvs.ErrNoService)
		}
		return d.plane.Zero(id)
	})
}

// Reload reads the configuration again, or, where there is none, the saved rules;
// on failure the old ones stay.
func (d *director) Reload(ctx context.Context) (api.Reloaded, error) {
	if path, is, err := d.sitePath(ctx); is || err != nil {
		return d.applyAgain(ctx, path, err)
	}
	done, waiting, err := d.readAgain(ctx)
	if err == nil {
		await(ctx, waiting)
	}
	return done, err
}

func (d *director) readAgain(ctx context.Context) (done api.Reloaded, waiting []<-chan struct{}, err error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	r, err := d.savedRules() // outside of the loop: names in it may have to be looked up
	if err != nil {
		return done, nil, err
	}
	err = d.inLoop(ctx, func() (err error) {
		done, waiting, err = d.reload(r)
		return err
	})
	return done, waiting, err
}

// Stop ends the loop and returns when all is undone.
func (d *director) Stop(context.Context) error { return d.end(errStopping) }

// Leave ends the loop and returns when the data plane is on its own.
func (d *director) Leave(context.Context) error { return d.end(errLeaving) }

// end ends the loop in the way that the first one asks for.
func (d *director) end(why error) error {
	d.stop(why)
	<-d.undone
	if d.undoErr == nil && d.why != why {
		return d.why
	}
	return d.undoErr
}

// Status tells all there is to tell.
func (d *director) Status(ctx context.Context) (s api.Status, err error) {
	counted, err := d.plane.Status()
	if err != nil {
		return s, err
	}
	verdicts, err := d.plane.Verdicts()
	if err != nil {
		return s, err
	}
	use, err := d.plane.TableUse()
	if err != nil {
		return s, err
	}
	now := time.Now()
	s = api.Status{
		Instance: d.Instance, Version: d.Version, PID: os.Getpid(), Started: d.started,
		Uptime: int64(now.Sub(d.started).Seconds()), TookOver: d.plane.TookOver(), Debug: d.Debug,
		RunDir: d.Whole().RunDir, StateDir: d.Whole().StateDir,
		Interfaces: d.interfaceStatus(), Connections: use, Verdicts: verdicts,
	}
	err = d.inLoop(ctx, func() error {
		s.Timeouts = d.table.Timeouts
		s.VIPs = d.vipStatus()
		s.Neighbours = d.neighbourStatus()
		s.Services = d.serviceStatus(counted)
		s.Config = d.siteStatus()
		s.Warnings = d.warnings(&s, now)
		return nil
	})
	return s, err
}

func (d *director) vipStatus() []api.VIP {
	var all []api.VIP
	for _, v := range d.vips {
		out := api.VIP{Addr: v.addr, Interface: v.iface, Withdrawn: v.withdrawn}
		if i, err := link.InterfaceByName(v.iface); err == nil {
			out.Present = i.Has(v.addr)
			out.VLAN = d.vlanStatus(i)
		}
		if v.conflict.Count > 0 {
			c := v.conflict
			out.Conflict = &c
		}
		all = append(all, out)
	}
	return all
}

func (d *director) neighbourStatus() []api.Neighbour {
	var all []api.Neighbour
	for _, s := range slices.SortedFunc(maps.Values(d.servers), func(a, b *server) int { return a.addr.Compare(b.addr) }) {
		n := api.Neighbour{Addr: s.addr, Interface: s.route.Interface, Source: s.route.Source, Local: s.local, Reason: s.reason, Since: s.since}
		if s.mac != nil {
			n.MAC = s.mac.String()
		}
		if i := d.ifaces[s.route.Interface]; i != nil {
			n.VLAN = d.vlanStatus(i)
		}
		all = append(all, n)
	}
	return all
}

func (d *director) serviceStatus(counted []lvs.ServiceStatus) []api.Service {
	by := map[lvs.ServiceID]*lvs.ServiceStatus{}
	for i := range counted {
		by[counted[i].ServiceID] = &counted[i]
	}
	all := []api.Service{}
	for _, s := range d.table.Services {
		c := cmp.Or(by[s.ServiceID], &lvs.ServiceStatus{})
		out := api.Service{ServiceID: s.ServiceID, Scheduler: s.Scheduler, Policy: s.Policy, Deny: s.Deny, Counters: c.Counters, Rates: c.Rates, Servers: []api.RealServer{}}
		for _, m := range d.table.Marks {
			if m.ServiceID() == s.ServiceID {
				out.Marks = append(out.Marks, m)
			}
		}
		for _, r := range s.Servers {
			rs := api.RealServer{ServerStatus: c.Server(r.ServerID), Weight: r.Weight, Condition: api.Up}
			if known := d.cares[s.ServiceID]; known != nil {
				rs.Condition, rs.Why = known.standings[r.ServerID].condition()
			}
			if n := d.servers[r.Addr]; n != nil {
				rs.Resolved, rs.Reason = n.usable(), n.reason
				if n.mac != nil {
					rs.MAC = n.mac.String()
				}
				if i := d.ifaces[n.route.Interface]; i != nil {
					rs.VLAN = d.vlanStatus(i)
				}
			}
			out.Servers = append(out.Servers, rs)
		}
		all = append(all, out)
	}
	return all
}

// warnings are what an operator should look at, the worst first.
func (d *director) warnings(s *api.Status, now time.Time) []string {
	all := []string{}
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for _, a := range s.Interfaces {
		if i, err := link.InterfaceByName(a.Interface); errors.Is(err, link.ErrNoInterface) {
			say("interface %s is gone: stop the director and start it again when it is back", a.Interface)
		} else if err == nil && !i.Up {
			say("interface %s is down", a.Interface)
		}
	}
	for _, a := range s.Interfaces {
		tagged := func(a dataplane.Arrival) bool { return a.VLAN != 0 }
		if a.Mode != dataplane.TC && slices.ContainsFunc(a.Arrivals, tagged) && d.hidesTags(a.Interface) {
			say("%s takes the tags of VLANs off frames now, so XDP takes them for untagged: 'ethtool -K %[1]s rxvlan off'", a.Interface)
		}
	}
	for _, v := range s.VIPs {
		if !v.Present && !v.Withdrawn {
			say("VIP %v is not on %s: nobody answers for it", v.Addr, v.Interface)
		}
		if v.Conflict != nil && now.Sub(v.Conflict.Last) < conflictLasts {
			say("VIP %v is claimed by another machine, %s (%d times): stop its director, or %s if it is a real server",
				v.Addr, v.Conflict.MAC, v.Conflict.Count, silence(v.Addr))
		}
	}
	all = append(all, d.clientsWarnings()...)
	all = append(all, d.siteWarnings()...)
	for _, n := range s.Neighbours {
		if n.Reason != "" {
			say("real server %v: %s", n.Addr, n.Reason)
		}
	}
	if n, why := d.unkept(); n > 0 {
		say("the kernel does not keep %d of %d real servers resolved, so the director asks for them by itself: %v", n, len(d.servers), why)
	}
	for _, svc := range s.Services {
		usable := func(r api.RealServer) bool {
			return r.Resolved && r.Weight > 0 && (r.Condition == api.Up || r.Condition == api.Starting)
		}
		if !slices.ContainsFunc(svc.Servers, usable) {
			say("%v has no real server for new connections", svc.ServiceID)
		}
	}
	for _, m := range d.table.Marks {
		if d.table.Service(m.ServiceID()) == nil {
			say("mark rule %v: there is no service %v for its packets", m, m.ServiceID())
		}
	}
	for _, a := range s.Interfaces {
		if a.Mode == dataplane.Generic && a.Reason != "" && d.Mode != dataplane.Generic {
			say("%s is attached in %s mode: %s", a.Interface, a.Mode, a.Reason)
		}
	}
	for _, c := range s.Connections {
		if c.Used > c.Capacity/10*9 {
			say("the table of %s is %d %% full (%d of %d): see --connections", c.Name, c.Used*100/c.Capacity, c.Used, c.Capacity)
		}
	}
	return all
}
