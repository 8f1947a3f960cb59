// SPDX-License-Identifier: MIT

package director

import (
	"context"
	"net/netip"
	"slices"

	"github.com/shunt-lvs/shunt/internal/announce"
	"github.com/shunt-lvs/shunt/internal/link"
)

// watcher listens to ARP and NDP on one interface for the loop.
type watcher struct {
	*announce.Watcher
	cancel context.CancelFunc
}

func (w *watcher) close() {
	w.cancel()
	_ = w.Close() // only ever read from and written to: nothing is lost
}

// deafen ends all watchers.
func (d *director) deafen() {
	for _, w := range d.watchers {
		w.close()
	}
}

// listen has a watcher on each interface in use, for the present addresses.
func (d *director) listen() {
	var rips []netip.Addr
	names := slices.Clone(d.Interfaces)
	for _, s := range d.servers {
		if s.local {
			continue // nobody else can say anything about it
		}
		rips = append(rips, s.addr)
		if s.route.Interface != "" && !slices.Contains(names, s.route.Interface) {
			names = append(names, s.route.Interface)
		}
	}
	for _, name := range names {
		if d.watchers[name] == nil {
			d.watch(name)
		}
	}
	for name, w := range d.watchers {
		if !slices.Contains(names, name) {
			w.close()
			delete(d.watchers, name)
			continue
		}
		w.Follow(d.VIPs, rips)
	}
}

func (d *director) watch(iface string) {
	aw, err := announce.NewWatcher(iface)
	if err != nil {
		d.log.Warn("no ARP and NDP on an interface for now", "iface", iface, "error", err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{aw, cancel}
	d.watchers[iface] = w
	d.running.Go(func() {
		err := aw.Run(ctx, func(c announce.Claim) {
			select {
			case d.claims <- c:
			case <-ctx.Done():
			}
		})
		if err != nil {
			d.log.Warn("listening to ARP and NDP ended", "iface", iface, "error", err)
		}
	})
}

// refresh compares the kernel's interfaces, addresses and routes with ours and
// repairs what is ours to repair.
func (d *director) refresh() {
	for name, old := range d.ifaces {
		now, err := link.InterfaceByName(name)
		if err != nil {
			d.log.Error("an interface in use cannot be looked at", "iface", name, "error", err)
			continue
		}
		d.ifaces[name] = now
		d.interfaceChanged(old, now)
	}
	d.listen()
	for _, v := range d.vips {
		i := d.ifaces[v.iface]
		if v.adopted || v.withdrawn || i.Has(v.addr) {
			continue
		}
		if err := d.putVIP(v); err != nil {
			d.log.Error("the VIP is gone from its interface", "vip", v.addr, "iface", v.iface, "error", err)
			continue
		}
		d.log.Warn("the VIP was gone from its interface: put it back", "vip", v.addr, "iface", v.iface)
		d.announce(v)
	}
	d.refreshClients()
	known := map[neighbourKey]link.Neighbour{}
	all, err := link.Neighbours(0)
	if err != nil {
		d.log.Warn("look at the kernel's neighbours", "error", err)
	}
	for _, n := range all {
		known[neighbourKey{n.Index, n.Addr}] = n
	}
	for _, s := range d.servers {
		d.reach(s, known)
	}
	d.checkAnew() // the ways to them may be others
}

type neighbourKey struct {
	index int
	addr  netip.Addr
}

func (d *director) interfaceChanged(old, now *link.Interface) {
	moved := !slices.Equal(old.MAC, now.MAC)
	if !moved && (old.Up || !now.Up) && old.Index == now.Index {
		return
	}
	d.log.Info("interface changed", "iface", now.Name, "up", now.Up, "mac", now.MAC.String(), "was", old.MAC.String())
	if w := d.watchers[now.Name]; w != nil {
		w.close()
		delete(d.watchers, now.Name)
	}
	d.listen()
	for _, s := range d.servers {
		if s.route.Interface == now.Name && s.mac != nil {
			if err := d.tellPlane(s, s.mac); err != nil {
				d.log.Error("tell the data plane of the interface's MAC address", "server", s.addr, "error", err)
			}
		}
	}
	for _, v := range d.vips {
		if v.iface == now.Name && !v.withdrawn {
			d.announce(v)
		}
	}
}
