// SPDX-License-Identifier: MIT

package director

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Owners of journal entries: what a change was made for.
const (
	forDirector = "director"
	forServer   = "real server"
)

// start goes from nothing, or from what a dead predecessor left, to forwarding.
// First it looks, and may refuse; then it touches, in the order in which a
// packet needs the things; the VIP comes last.
func (d *director) start(ctx context.Context) (err error) {
	if err := d.lookAtInterfaces(); err != nil {
		return err
	}
	vlans, err := d.arrivals()
	if err != nil {
		return err
	}
	if err := d.lookForVIPs(ctx); err != nil {
		return err
	}
	if err := d.clientsPossible(); err != nil {
		return err
	}
	changes, err := d.startRules()
	if err != nil {
		return err
	}
	if _, err := planChanges(lvs.NewTable(), changes.all, d.premises(nil)); err != nil {
		return changes.locate(err)
	}

	d.plane, err = dataplane.Open(dataplane.Options{
		Instance: d.Instance, PinDir: d.Pins(), Interfaces: d.Interfaces, VLANs: vlans,
		Mode: d.Mode, LocalClients: d.LocalClients, Connections: d.Connections, Log: d.log,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.giveUp())
		}
	}()
	if d.plane.TookOver() {
		d.log.Info("taking over from a predecessor: its connections go on", "instance", d.Instance)
	}
	// Once more, now that the data plane can say what it has room for.
	p, err := planChanges(lvs.NewTable(), changes.all, d.premises(d.plane.Check))
	if err != nil {
		return changes.locate(err)
	}
	if err := d.journal.Undo(d.superseded(p)); err != nil {
		return err
	}
	if err := d.startCare(ctx); err != nil {
		return err
	}
	if err := d.put(p); err != nil {
		return err
	}
	d.read(changes)
	if d.startWith.saves {
		if err := d.saveAll(); err != nil {
			return err
		}
		if err := d.settled(); err != nil {
			return err
		}
	}
	if err := d.noRedirects(); err != nil {
		return err
	}
	if err := d.putVIPs(); err != nil {
		return err
	}
	if err := d.putClients(); err != nil {
		return err
	}
	if err := d.Settings.save(d.Places); err != nil {
		return err
	}
	for _, i := range d.interfaceStatus() {
		d.log.Info("attached", "iface", i.Interface, "mode", i.Mode, "reason", i.Reason)
		for _, note := range i.Notes {
			d.log.Warn(note, "iface", i.Interface)
		}
	}
	d.running.Go(func() {
		if err := d.plane.Run(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("rates are no longer measured", "error", err)
		}
	})
	return nil
}

func (d *director) lookAtInterfaces() error {
	for _, name := range d.Interfaces {
		i, err := link.InterfaceByName(name)
		if err != nil {
			return err
		}
		switch {
		case i.Loopback:
			return fmt.Errorf("%w: interface %s is the loopback; name the one that packets to the VIP come in by", ErrSettings, name)
		case len(i.MAC) != 6:
			return fmt.Errorf("%w: interface %s has no Ethernet address; direct routing needs Ethernet", ErrSettings, name)
		case !i.Up:
			return fmt.Errorf("%w: interface %s is down; 'ip link set %[2]s up' first", ErrSettings, name)
		}
		d.ifaces[name] = i
	}
	return nil
}

// superseded finds what a predecessor did and this start does not want.
func (d *director) superseded(p plan) func(link.Entry) bool {
	rips := uses(nil).of(p.table, nil)
	return func(e link.Entry) bool {
		switch e.Kind {
		case link.AddedAddress:
			return !slices.ContainsFunc(d.vips, func(v *vip) bool {
				return v.iface == e.Interface && v.addr == e.Prefix.Addr() && d.ifaces[v.iface].Index == e.Index
			})
		case link.SetSysctl:
			return !slices.ContainsFunc(d.Interfaces, func(name string) bool {
				return e.Key == sendRedirects(name) || d.LocalClients && e.Key == acceptLocal(name)
			})
		case link.AddedRoute:
			return !d.wantedRoute(e)
		case link.ManagedNeighbour:
			return rips[e.Addr] == 0
		}
		return true
	}
}

// noRedirects keeps the kernel from telling clients a shorter way to the VIP
// for those packets that the data plane leaves to it. Of IPv6, it sends redirects
// as a router only, for packets that it forwards: there is nothing to set.
func (d *director) noRedirects() error {
	for _, name := range d.Interfaces {
		if _, err := d.journal.SetSysctl(forDirector, sendRedirects(name), "0"); err != nil {
			return err
		}
	}
	return nil
}

func sendRedirects(iface string) string { return "ipv4/conf/" + iface + "/send_redirects" }

// giveUp ends a start that failed. What a predecessor left goes on, so that a
// typing error does not take down what it was to restart.
func (d *director) giveUp() error {
	if d.plane.TookOver() {
		d.log.Warn("the predecessor's forwarding goes on; shunt director stop ends it", "instance", d.Instance)
		return d.plane.Close()
	}
	return d.undo()
}

// undo takes everything back: first the VIPs, so that no packet to them reaches
// the kernel, which would reset the connection; then the data plane.
func (d *director) undo() error {
	return errors.Join(d.journal.Undo(nil), d.plane.Remove())
}

// leave undoes nothing. That this was wanted is noted, for status.
func (d *director) leave() error {
	d.log.Info("leaving; the data plane goes on forwarding")
	return errors.Join(link.WriteFile(d.Kept(), nil, 0o644), d.plane.Close())
}

// monotonic is what systemd wants to know with a reload.
func monotonic() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return ""
	}
	return "MONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10)
}
