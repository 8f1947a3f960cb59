// SPDX-License-Identifier: MIT

package director

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// plan is a table that was found to be possible on this director.
type plan struct{ table *lvs.Table }

// premises are what a plan depends on beside the rules.
type premises struct {
	vips []netip.Addr // of this director
	// reachable tells why a real server cannot be reached on the link, or nil.
	reachable func(rip netip.Addr) error
	// fits tells why the data plane could not hold a table, or nil.
	fits func(*lvs.Table) error
}

// planChanges makes the changes on a copy of the table and checks that what
// comes out is possible. An error that one of the changes is to blame for is a
// *lvs.ChangeError.
func planChanges(t *lvs.Table, changes []lvs.Change, p premises) (plan, error) {
	draft := t.Draft()
	for i, c := range changes {
		// The table first: that a service does not exist comes before what
		// could not be done with it.
		if err := explain(c, draft.Apply(c)); err != nil {
			return plan{}, &lvs.ChangeError{Index: i, Err: err}
		}
		if err := p.check(draft.Table(), c); err != nil {
			return plan{}, &lvs.ChangeError{Index: i, Err: err}
		}
	}
	if err := p.fits(draft.Table()); err != nil {
		return plan{}, p.blame(t, changes, err)
	}
	return plan{draft.Table()}, nil
}

// blame finds the first change that led to a table which does not fit.
func (p premises) blame(t *lvs.Table, changes []lvs.Change, whole error) error {
	if p.fits(t) != nil || len(changes) == 0 {
		return whole // it did not fit before, either
	}
	after := func(n int) error {
		next, err := t.Changed(changes[:n])
		if err != nil {
			return err
		}
		return p.fits(next)
	}
	n := sort.Search(len(changes), func(i int) bool { return after(i+1) != nil })
	if n == len(changes) {
		return whole
	}
	return &lvs.ChangeError{Index: n, Err: after(n + 1)}
}

// explain adds the way out to the one refusal of the table that has one.
func explain(c lvs.Change, err error) error {
	if !errors.Is(err, lvs.ErrPortMapping) || c.Server.Forward != lvs.DirectRouting {
		return err
	}
	id := c.Service.ServiceID
	return fmt.Errorf("%w: use port %d; the real server itself can redirect it:"+
		" shunt realserver start --vip %v --method redirect --port %[2]d/%[4]s:%[5]d",
		err, id.Port, id.Addr, strings.ToLower(id.Protocol.String()), c.Server.Port)
}

// check refuses, by name, what shunt does not do. The table is the one with the
// change in it.
func (p premises) check(t *lvs.Table, c lvs.Change) error {
	switch c.Operation {
	case lvs.AddMark:
		return p.checkMark(c.Mark)
	case lvs.AddService, lvs.EditService:
		return p.checkService(t, &c.Service)
	case lvs.AddServer, lvs.EditServer:
		if err := checkKind(c.Service.ServiceID); err != nil {
			return err
		}
		return p.checkServer(c.Service.ServiceID, &c.Server)
	}
	return nil // deleting, and timeouts, are always possible
}

func (p premises) checkMark(r lvs.MarkRule) error {
	if err := checkKind(lvs.ServiceID{Protocol: r.Protocol, Addr: r.Addr, Port: r.First}); err != nil {
		return fmt.Errorf("%w %v: %w", lvs.ErrMark, r, err)
	}
	if !slices.Contains(p.vips, r.Addr) {
		return fmt.Errorf("%w %v: %w", lvs.ErrMark, r, p.foreign(r.Addr))
	}
	return nil
}

func (p premises) foreign(addr netip.Addr) error {
	return fmt.Errorf("%w: %v; it owns %s; start it with --vip %v too", api.ErrForeignVIP, addr, list(p.vips), addr)
}

// hasMark tells whether any packet has a service's mark. With IPVS, a firewall
// gives the mark, and nobody notices if it does not.
func (p premises) hasMark(t *lvs.Table, id lvs.ServiceID) error {
	if slices.ContainsFunc(t.Marks, func(r lvs.MarkRule) bool { return r.ServiceID() == id }) {
		return nil
	}
	vip := "VIP:80" // for a family of which there is none
	if i := slices.IndexFunc(p.vips, func(v netip.Addr) bool { return v.Is6() == id.Is6() }); i >= 0 {
		vip = netip.AddrPortFrom(p.vips[i], 80).String()
	}
	return fmt.Errorf("%v: no packet has this mark, as there is no %w for it: shunt's data plane comes before any firewall;"+
		" say which packets it is about: shunt ipvsadm --add-mark %d -t %s", id, lvs.ErrMark, id.Mark, vip)
}

func (p premises) checkService(t *lvs.Table, s *lvs.VirtualService) error {
	if err := checkKind(s.ServiceID); err != nil {
		return err
	}
	if err := checkFeatures(s); err != nil {
		return err
	}
	if s.Mark != 0 {
		return p.hasMark(t, s.ServiceID)
	}
	if !slices.Contains(p.vips, s.Addr) {
		return fmt.Errorf("%v: %w", s.ServiceID, p.foreign(s.Addr))
	}
	return nil
}

// checkKind refuses services that are told apart by something else than TCP, UDP
// or SCTP, an address and a port, or by a mark, for which its rules are checked.
func checkKind(id lvs.ServiceID) error {
	switch {
	case id.Mark != 0:
		return nil
	case id.Protocol != lvs.TCP && id.Protocol != lvs.UDP && id.Protocol != lvs.SCTP:
		return unsupported(id, "services of this protocol")
	}
	return nil
}

func checkFeatures(s *lvs.VirtualService) error {
	switch {
	case s.Engine != "":
		return unsupported(s.ServiceID, "persistence engines (--pe)")
	case s.Scheduler.Known() && !slices.Contains(dataplane.Schedulers(), s.Scheduler):
		return unsupported(s.ServiceID, fmt.Sprintf("scheduler %s (-s %[1]s); there are %s", s.Scheduler, list(dataplane.Schedulers())))
	}
	return nil
}

func (p premises) checkServer(id lvs.ServiceID, r *lvs.RealServer) error {
	switch {
	case r.Forward == lvs.Masquerade:
		return fmt.Errorf("%v of %v: %w: masquerading (-m): shunt forwards by direct routing (-g) only", r.ServerID, id, lvs.ErrUnsupported)
	case r.Forward == lvs.Tunnel:
		return fmt.Errorf("%v of %v: %w: tunnels (-i): shunt forwards by direct routing (-g) only", r.ServerID, id, lvs.ErrUnsupported)
	case r.Forward != lvs.DirectRouting:
		return fmt.Errorf("%v of %v: %w: forwarding method %v: shunt forwards by direct routing (-g) only", r.ServerID, id, lvs.ErrUnsupported, r.Forward)
	}
	if id.Mark != 0 && r.Port != 0 {
		return fmt.Errorf("%v of %v: %w: a packet keeps the port that the client sent it to; name the real server without a port: -r %v",
			r.ServerID, id, lvs.ErrPortMapping, r.Addr)
	}
	if slices.Contains(p.vips, r.Addr) {
		// It would be this host only as long as the VIP is here.
		return fmt.Errorf("%v of %v: %w: it is a VIP of this director; if the director itself is to be a real server, name it by"+
			" another address of its own, such as -r %v", r.ServerID, id, link.ErrLocal, loopback(r.Addr))
	}
	return p.reachable(r.Addr)
}

func loopback(like netip.Addr) netip.Addr {
	if like.Is6() {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// unsupported: every such text names the feature, so that a rule is never
// half-obeyed.
func unsupported(id lvs.ServiceID, feature string) error {
	return fmt.Errorf("%v: %w yet: %s", id, lvs.ErrUnsupported, feature)
}

// uses are real servers by RIP, and how many services have each.
type uses map[netip.Addr]int

// of are those of a table that was made from an old one (nil: from nothing), of
// which u are.
func (u uses) of(t, old *lvs.Table) uses {
	if old == nil {
		old = lvs.NewTable()
	}
	now := uses{}
	maps.Copy(now, u)
	gone, come := t.Since(old)
	for _, s := range come {
		for _, r := range s.Servers {
			now[r.Addr]++
		}
	}
	for _, s := range gone {
		for _, r := range s.Servers {
			if now[r.Addr]--; now[r.Addr] == 0 {
				delete(now, r.Addr)
			}
		}
	}
	return now
}

func list[T any](all []T) string {
	if len(all) == 0 {
		return "none"
	}
	var b strings.Builder
	for i, v := range all {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprint(&b, v)
	}
	return b.String()
}
