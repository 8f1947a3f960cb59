// SPDX-License-Identifier: MIT

package director

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/shunt-lvs/shunt/internal/link"
)

// The director as a client of its own VIPs (Settings.LocalClients). A VIP is an
// address of this host, so its own connections to it would be answered by its own
// stack. Three things make them what other clients' are:
//
//   - they come from the host's own address and not from the VIP, which real
//     servers have, too (link.Journal.PreferSource);
//   - the data plane sees them, on the loopback interface;
//   - the kernel takes the replies, which come from the wire although their
//     source is an address of this host (accept_local; IPv6 does not mind).

const forClients = "clients on the director"

// clientAddr is the address that the host's own connections to a VIP are to come
// from: the first one of its family that the VIP's interface has.
func (d *director) clientAddr(v *vip) (netip.Addr, error) {
	for _, p := range d.ifaces[v.iface].Addresses {
		a := p.Addr()
		if a.Is4() == v.addr.Is4() && !a.IsLinkLocalUnicast() && !slices.Contains(d.VIPs, a) {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%w: --local-clients: %s has no address of its own beside the VIP %v, which connections of"+
		" this host to it could come from; give it one, or start without", ErrSettings, v.iface, v.addr)
}

// clientsPossible refuses what putClients could not do.
func (d *director) clientsPossible() error {
	if !d.LocalClients {
		return nil
	}
	for _, v := range d.vips {
		if _, err := d.clientAddr(v); err != nil {
			return err
		}
	}
	return nil
}

// putClients makes connections of this host to its VIPs what other clients' are.
func (d *director) putClients() error {
	if !d.LocalClients {
		return nil
	}
	for _, name := range d.Interfaces {
		if _, err := d.journal.SetSysctl(forClients, acceptLocal(name), "1"); err != nil {
			return err
		}
	}
	for _, v := range d.vips {
		if v.withdrawn {
			continue
		}
		if _, err := d.preferClientAddr(v); err != nil {
			return err
		}
	}
	return nil
}

func acceptLocal(iface string) string { return "ipv4/conf/" + iface + "/accept_local" }

func (d *director) preferClientAddr(v *vip) (restored bool, err error) {
	a, err := d.clientAddr(v)
	if err != nil {
		return false, err
	}
	// Another address, or another MTU: those routes are not wanted any more.
	if err := d.journal.Undo(func(e link.Entry) bool {
		return e.Kind == link.AddedRoute && e.Prefix.Addr() == v.addr && !d.wantedRoute(e)
	}); err != nil {
		return false, err
	}
	return d.journal.PreferSource(forClients, v.iface, v.addr, a, d.ifaces[v.iface].MTU)
}

// wantedRoute tells whether putClients would make a journal's route.
func (d *director) wantedRoute(e link.Entry) bool {
	return d.LocalClients && slices.ContainsFunc(d.vips, func(v *vip) bool {
		i := d.ifaces[v.iface]
		a, err := d.clientAddr(v)
		return err == nil && e.Prefix.Addr() == v.addr && e.Index == i.Index && e.MTU == i.MTU && (!e.Addr.IsValid() || e.Addr == a)
	})
}

// refreshClients repairs what someone has changed since.
func (d *director) refreshClients() {
	if !d.LocalClients {
		return
	}
	for _, v := range d.vips {
		if v.withdrawn || !d.ifaces[v.iface].Up || !d.ifaces[v.iface].Has(v.addr) {
			continue // there is nothing to connect to
		}
		restored, err := d.preferClientAddr(v)
		if err == nil && !restored {
			// The kernel takes the source off an IPv6 route whose source was gone.
			if a, e := link.SourceTo(v.addr); e == nil && !d.isClientAddr(v, a) {
				err = d.journal.Undo(func(e link.Entry) bool { return e.Kind == link.AddedRoute && e.Prefix.Addr() == v.addr })
				if err == nil {
					_, err = d.preferClientAddr(v)
				}
				restored = true
			}
		}
		switch {
		case err != nil:
			d.log.Error("this host's own connections to the VIP go wrong", "vip", v.addr, "error", err)
		case restored:
			d.log.Warn("a route for this host's own connections to the VIP was gone: put it back", "vip", v.addr)
		}
	}
}

func (d *director) isClientAddr(v *vip, a netip.Addr) bool {
	want, err := d.clientAddr(v)
	return err == nil && a == want
}

// clientsWarnings tell what is not as putClients made it.
func (d *director) clientsWarnings() (all []string) {
	if !d.LocalClients {
		return nil
	}
	for _, v := range d.vips {
		if v.withdrawn {
			continue
		}
		want, err := d.clientAddr(v)
		if err != nil {
			all = append(all, err.Error())
			continue
		}
		if a, err := link.SourceTo(v.addr); err == nil && a != want {
			all = append(all, fmt.Sprintf("this host's own connections to VIP %v come from %v, and not from %v:"+
				" a route of table local is gone; it is put back within %v", v.addr, a, want, refreshEvery))
		}
	}
	for _, name := range d.Interfaces {
		own, err := link.SysctlInt(acceptLocal(name))
		everywhere, errAll := link.SysctlInt(acceptLocal("all"))
		if err == nil && errAll == nil && own == 0 && everywhere == 0 {
			all = append(all, fmt.Sprintf("%s does not take replies to this host's own connections to the VIPs: someone has changed it since;"+
				" 'sysctl net.ipv4.conf.%[1]s.accept_local=1'", name))
		}
	}
	return all
}
