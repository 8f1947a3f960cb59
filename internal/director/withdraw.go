// SPDX-License-Identifier: MIT

package director

import (
	"net/netip"
	"slices"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// A VIP of which no service works may leave the wire (config.Care.Withdraw), so
// that another director, or another site, gets its clients.

// withdraw takes VIPs off the wire that nothing serves, and puts back those that
// something does.
func (d *director) withdraw() {
	turned := false
	for _, v := range d.vips {
		gone := d.unserved(v.addr)
		if gone == v.withdrawn || v.adopted && gone && v.told {
			continue
		}
		if v.adopted {
			if v.told = gone; gone {
				d.log.Warn("no service of the VIP is usable, but it was on the interface before the director: it stays", "vip", v.addr, "iface", v.iface)
			}
			continue
		}
		was := d.inJournal(v.addr, d.ifaces[v.iface].Index)
		if err := d.setWithdrawn(v, gone); err != nil {
			d.log.Error("withdraw a VIP, or put it back; it is tried again", "vip", v.addr, "iface", v.iface, "withdraw", gone, "error", err)
			d.unsettled = true
			continue
		}
		if was || !gone { // else it has never been there
			d.vipTurned(v)
		}
		turned = true
	}
	if turned {
		d.checkAnew() // this host is asked elsewhere, see endpoint
	}
}

func (d *director) setWithdrawn(v *vip, gone bool) error {
	if gone {
		if err := d.takeVIP(v); err != nil {
			return err
		}
		v.withdrawn, v.announce = true, 0
		return nil
	}
	if err := d.showVIP(v); err != nil {
		return err
	}
	v.withdrawn = false
	return nil
}

// unserved tells whether a VIP is to be withdrawn: a service of it says so, and
// none is usable.
func (d *director) unserved(addr netip.Addr) bool {
	asked := false
	for _, s := range d.table.Services {
		if !d.isOn(s, addr) {
			continue
		}
		c := d.cares[s.ServiceID]
		if c == nil {
			if slices.ContainsFunc(s.Servers, func(r lvs.RealServer) bool { return r.Weight > 0 }) {
				return false
			}
			continue
		}
		if c.effect.usable || c.effect.sorry {
			return false
		}
		asked = asked || c.care.Withdraw
	}
	return asked
}

// isOn tells whether a service has an address: its own, or that of a mark rule.
func (d *director) isOn(s *lvs.VirtualService, addr netip.Addr) bool {
	if s.Mark == 0 {
		return s.Addr == addr
	}
	return slices.ContainsFunc(d.table.Marks, func(m lvs.MarkRule) bool { return m.ServiceID() == s.ServiceID && m.Addr == addr })
}
