// SPDX-License-Identifier: MIT

package director

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/announce"
	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/link"
)

// vip is one address that this director owns.
type vip struct {
	addr  netip.Addr
	iface string
	// adopted: the interface had the address before us, so it is not ours to
	// remove or to repair.
	adopted   bool
	withdrawn bool      // it is not on the interface, because nothing serves it
	told      bool      // that it cannot be withdrawn
	announce  int       // how many more times to announce it
	next      time.Time // and when next

	conflict  api.Conflict
	complaint time.Time // when the conflict was last logged
}

// Announcements are repeated: switches and neighbours may be slow to listen.
const (
	announcements = 3
	announceEvery = time.Second
)

// How often a foreign claim is logged and answered. RFC 5227, 2.4 (c): whoever
// must keep its address defends it at most once in a while, or two hosts fill
// the link with their quarrel. What holds for ARP does for IPv6.
const (
	complainEvery = 10 * time.Second
	conflictLasts = time.Minute // a conflict is a warning in status for this long
)

// lookForVIPs finds out where each VIP is, or is to be, and refuses one that is
// somewhere else.
func (d *director) lookForVIPs(ctx context.Context) error {
	all, err := link.Interfaces()
	if err != nil {
		return err
	}
	for _, addr := range d.VIPs {
		v, err := d.place(addr, all)
		if err != nil {
			return err
		}
		d.vips = append(d.vips, v)
	}
	return d.probe(ctx)
}

// place finds out where a VIP is, or is to be.
func (d *director) place(addr netip.Addr, all []*link.Interface) (*vip, error) {
	v := &vip{addr: addr, iface: d.Interfaces[0]}
	for _, i := range all {
		if !i.Has(addr) {
			continue
		}
		if !slices.Contains(d.Interfaces, i.Name) {
			return nil, fmt.Errorf("%w: VIP %v is an address of %s already; a host is either director or real server of a VIP,"+
				" so remove it there first (ip addr del %[2]v dev %s)", ErrSettings, addr, i.Name, i.Name)
		}
		v.iface, v.adopted = i.Name, !d.inJournal(addr, i.Index)
	}
	return v, nil
}

func (d *director) inJournal(vip netip.Addr, index int) bool {
	return slices.ContainsFunc(d.journal.Entries(), func(e link.Entry) bool {
		return e.Kind == link.AddedAddress && e.Prefix.Addr() == vip && e.Index == index
	})
}

// probe asks the link whether someone else has a VIP. One that a predecessor
// put in place is ours already: nobody is asked.
func (d *director) probe(ctx context.Context) error {
	errs := make([]error, len(d.vips))
	var wait sync.WaitGroup
	for i, v := range d.vips {
		if d.inJournal(v.addr, d.ifaces[v.iface].Index) {
			continue
		}
		wait.Go(func() { errs[i] = d.probeOne(ctx, v, ", or use --force") })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// probeOne asks for one VIP; another way out than the usual ones is told as well.
func (d *director) probeOne(ctx context.Context, v *vip, way string) error {
	mac, err := announce.Probe(ctx, v.iface, v.addr)
	if err != nil {
		return fmt.Errorf("ask whether VIP %v is taken: %w", v.addr, err)
	}
	if mac == nil {
		return nil
	}
	if d.Force {
		d.log.Warn("another machine answers for the VIP; going on because of --force", "vip", v.addr, "iface", v.iface, "mac", mac.String())
		return nil
	}
	return fmt.Errorf("%w: %v is at %v on %s: stop that machine's director, or %s if it is a real server%s",
		api.ErrVIPTaken, v.addr, mac, v.iface, silence(v.addr), way)
}

// silence says how a real server is kept from telling that it has a VIP.
func silence(vip netip.Addr) string {
	if vip.Is6() {
		return "move the VIP to its lo (shunt realserver start does)"
	}
	return "guard its ARP (shunt realserver start does)"
}

// protocol is how a link is asked for an address.
func protocol(a netip.Addr) string {
	if a.Is6() {
		return "neighbour solicitations"
	}
	return "ARP"
}

// putVIPs gives the interfaces their VIPs and announces them. Who else claims one
// is heard from then on, also while there are no real servers to listen for.
func (d *director) putVIPs() error {
	d.listen()
	for _, v := range d.vips {
		if v.withdrawn {
			continue
		}
		if v.adopted {
			d.log.Info("the interface has the VIP already: it stays after a stop, too", "vip", v.addr, "iface", v.iface)
		} else if err := d.putVIP(v); err != nil {
			return err
		}
		d.announce(v)
	}
	return nil
}

func (d *director) putVIP(v *vip) error {
	_, err := d.journal.AddAddress(forDirector, v.iface, netip.PrefixFrom(v.addr, v.addr.BitLen()), unix.RT_SCOPE_UNIVERSE)
	return err
}

// showVIP gives an interface a VIP later than at the start, with all that belongs to
// it, and announces it.
func (d *director) showVIP(v *vip) error {
	if err := d.putVIP(v); err != nil {
		return err
	}
	if d.LocalClients {
		if _, err := d.preferClientAddr(v); err != nil {
			return errors.Join(err, d.takeVIP(v))
		}
	}
	d.announce(v)
	return nil
}

// takeVIP takes a VIP off its interface. Its route for clients on this host has to
// go as well: the kernel answers for an address that it has a local route to.
func (d *director) takeVIP(v *vip) error {
	return d.journal.Undo(func(e link.Entry) bool {
		return e.Kind == link.AddedRoute && e.Prefix.Addr() == v.addr ||
			e.Kind == link.AddedAddress && e.Prefix.Addr() == v.addr && e.Interface == v.iface
	})
}

// announce tells the link where the VIP is, now and a few more times.
func (d *director) announce(v *vip) {
	v.announce, v.next = announcements, time.Now().Add(announceEvery)
	d.announceOnce(v)
}

func (d *director) announceAgain(now time.Time) {
	for _, v := range d.vips {
		if v.announce > 0 && !now.Before(v.next) {
			v.announce--
			v.next = now.Add(announceEvery)
			d.announceOnce(v)
		}
	}
}

func (d *director) announceOnce(v *vip) {
	w := d.watchers[v.iface]
	if w == nil {
		return // refresh makes one when the interface is there again
	}
	if err := w.Announce(v.addr); err != nil {
		d.log.Warn("announce the VIP", "vip", v.addr, "iface", v.iface, "error", err)
	}
}

// contested: someone else claims one of our VIPs.
func (d *director) contested(c announce.Claim, now time.Time) {
	i := slices.IndexFunc(d.vips, func(v *vip) bool { return v.addr == c.Addr })
	if i < 0 || d.isOurs(c.MAC) {
		return
	}
	d.unguarded(c, now)
	v := d.vips[i]
	if v.withdrawn {
		return // whoever has it now is welcome
	}
	v.conflict = api.Conflict{MAC: c.MAC.String(), Last: now, Count: v.conflict.Count + 1}
	if now.Sub(v.complaint) < complainEvery {
		return
	}
	v.complaint = now
	d.log.Warn("another machine claims the VIP; announcing ours again", "vip", v.addr, "iface", c.Interface,
		"mac", c.MAC.String(), "claims", v.conflict.Count)
	d.announce(v)
}

// isOurs tells whether a MAC address is one of our own interfaces', which the
// kernel may answer with for any address of the host.
func (d *director) isOurs(mac net.HardwareAddr) bool {
	for _, i := range d.ifaces {
		if slices.Equal(i.MAC, mac) {
			return true
		}
	}
	return false
}
