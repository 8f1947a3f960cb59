// SPDX-License-Identifier: MIT

package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/shunt-lvs/shunt/internal/link"
)

// Condition sums a Status up.
type Condition string

// The conditions.
const (
	Running Condition = "running" // every item is right
	Stopped Condition = "stopped" // nothing is wanted, and nothing is left
	Partly  Condition = "partly"  // an item is not right
)

// Item is one thing that has to be so in the kernel.
type Item struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason"` // what was found; if not OK also what to do
}

// Status is what the kernel says about one instance.
type Status struct {
	Instance  string    `json:"instance"`
	Condition Condition `json:"condition"`
	VIPs      []VIP     `json:"vips"` // what is wanted
	Items     []Item    `json:"items"`
	// Warnings are about settings of the host that may stand in the way and
	// are not shunt's to change.
	Warnings []string `json:"warnings,omitempty"`
	// Note says something about a stopped instance.
	Note string `json:"note,omitempty"`
}

// Status compares the kernel with what is wanted. It changes nothing and does
// not wait for a Start or Stop at work.
func (s *Server) Status() (Status, error) {
	want, earlier, err := s.readState()
	if err != nil {
		return Status{}, err
	}
	st := Status{Instance: s.instance, VIPs: want.VIPs, Condition: Stopped, Items: []Item{}}
	if st.VIPs == nil {
		st.VIPs = []VIP{}
	}
	if n := len(earlier.VIPs); n > 0 {
		st.Note = fmt.Sprintf("the host was started anew since %d VIPs were started; 'start' without --vip starts them again", n)
	}
	if st.Items, err = s.items(want); err != nil {
		return Status{}, err
	}
	if len(want.VIPs) > 0 {
		st.Condition = Running
		if st.Warnings, err = warnings(want); err != nil {
			return Status{}, err
		}
	}
	for _, i := range st.Items {
		if !i.OK {
			st.Condition = Partly
		}
	}
	return st, nil
}

// items looks at each thing that the wanted state asks for, and at what is left
// of what it no longer asks for.
func (s *Server) items(want state) ([]Item, error) {
	items := []Item{}
	all, err := link.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, v := range want.VIPs {
		items = append(items, s.onlyWhereItBelongs(v, all))
		if v.Method == Loopback {
			items = append(items, delivered(v.Addr))
		}
		if v.Method == Loopback && !v.guarded() {
			items = append(items, Item{Name: fmt.Sprintf("%v unannounced", v.Addr), OK: true,
				Reason: "an IPv6 address on lo needs no guard: Linux answers neighbour solicitations only for addresses of the interface they come in by"})
		}
	}
	if want.guarded() {
		guarding, err := guardItems(want)
		if err != nil {
			return nil, err
		}
		items = append(items, guarding...)
	}
	for _, f := range families() {
		found, err := s.readTable(f)
		if err != nil {
			return nil, err
		}
		items = append(items, s.tableItems(f, found, redirections(want, f))...)
	}
	left, err := s.leftovers(want)
	return append(items, left...), err
}

// onlyWhereItBelongs: on lo as /32 or /128 for method loopback, nowhere for redirect.
func (s *Server) onlyWhereItBelongs(v VIP, all []*link.Interface) Item {
	it := Item{Name: fmt.Sprintf("%v on lo only", v.Addr)}
	if v.Method == Redirect {
		it = Item{Name: fmt.Sprintf("%v on no interface", v.Addr), OK: true, Reason: "no interface has it"}
	}
	for _, i := range all {
		for _, p := range i.Addresses {
			if p.Addr() != v.Addr {
				continue
			}
			if !i.Loopback || !p.IsSingleIP() || v.Method == Redirect {
				it.OK, it.Reason = false, s.inTheWay(v, i, p)
				return it
			}
			it.OK, it.Reason = true, fmt.Sprintf("%s has %v", i.Name, p)
		}
	}
	if !it.OK {
		it.Reason = fmt.Sprintf("lo does not have %v/%d, so packets to the VIP are dropped; 'start' adds it", v.Addr, v.Addr.BitLen())
	}
	return it
}

// delivered asks the kernel whether packets to the VIP are this host's.
func delivered(vip netip.Addr) Item {
	it := Item{Name: fmt.Sprintf("%v delivered locally", vip)}
	_, err := link.OnLink(vip)
	switch {
	case errors.Is(err, link.ErrLocal):
		it.OK, it.Reason = true, "the local routing table has it"
	case err == nil:
		it.Reason = "the kernel would send packets to it out again; is lo up?"
	default:
		it.Reason = fmt.Sprintf("the kernel has no local route to it; is lo up? (%v)", err)
	}
	return it
}

func guardItems(want state) ([]Item, error) {
	var items []Item
	interfaces, err := guarded(want)
	if err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		for _, g := range guards {
			it := Item{Name: i.Name + " " + g.parameter}
			it.OK, it.Reason, err = g.check(i.Name)
			if vanished(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			items = append(items, it)
		}
	}
	for _, name := range want.Interfaces {
		if _, err := link.InterfaceByName(name); errors.Is(err, link.ErrNoInterface) {
			items = append(items, Item{Name: name + " is there", Reason: "the interface to guard is gone; 'stop', then 'start' with another --interface"})
		}
	}
	return items, nil
}

func (s *Server) tableItems(f family, found table, rules []redirection) []Item {
	var items []Item
	name := fmt.Sprintf("nftables table %s %s", f.name, s.tableName())
	for _, r := range rules {
		it := Item{Name: r.String()}
		packets, ok := found.has(r)
		switch {
		case !found.exists:
			it.Reason = fmt.Sprintf("%s is gone; 'start' makes it", name)
		case !ok:
			it.Reason = fmt.Sprintf("the rule is not in %s; 'start' adds it", name)
		case !found.hooked:
			it.Reason = fmt.Sprintf("chain %s of %s is not at the prerouting hook; 'start' repairs it", chainName, name)
		default:
			it.OK, it.Reason = true, fmt.Sprintf("the rule is there and redirected %d connections", packets)
		}
		items = append(items, it)
	}
	if len(rules) > 0 && found.exists && (len(found.rules) > len(rules) || found.chains > 1) {
		items = append(items, Item{Name: name,
			Reason: "someone has added to it; 'start' makes it anew, keep your own rules in a table of your own"})
	}
	if len(rules) == 0 && found.exists {
		items = append(items, Item{Name: name, Reason: "left from before; 'stop' removes it"})
	}
	return items
}

// leftovers are changes in the journal that nothing asks for any more: a call
// was killed before it was done.
func (s *Server) leftovers(want state) ([]Item, error) {
	entries, err := link.ReadJournal(s.journalPath())
	if err != nil {
		return nil, err
	}
	var items []Item
	for _, e := range entries {
		needed := e.Owner == ownerGuard && want.guarded() ||
			e.Owner == ownerRedirect && len(want.vips(Redirect)) > 0 ||
			strings.HasPrefix(e.Owner, ownerVIP) && want.has(e.Prefix.Addr(), Loopback)
		if !needed && e.Owner != ownerRedirect { // the table has an item of its own
			items = append(items, Item{Name: e.String(), Reason: "a call was cut off before it had undone this; 'stop' does it"})
		}
	}
	return items, nil
}

func warnings(want state) ([]string, error) {
	all, err := link.Interfaces()
	if err != nil {
		return nil, err
	}
	var facing []*link.Interface
	for _, i := range all {
		if !i.Loopback && i.Up {
			facing = append(facing, i)
		}
	}
	var w []string
	if len(facing) == 0 {
		w = append(w, "no interface but lo is up: no request can come in")
	}
	for _, i := range facing {
		if v, _, _, err := link.EffectiveIPv4(i.Name, "rp_filter"); err == nil && v == 1 && len(facing) > 1 &&
			slices.ContainsFunc(want.VIPs, func(v VIP) bool { return v.Addr.Is4() }) {
			w = append(w, fmt.Sprintf("%s filters by reverse path strictly (rp_filter 1): a request whose client is routed by another interface"+
				" is dropped; 2 is the loose form", i.Name))
		}
		for _, f := range families() {
			if len(redirections(want, f)) > 0 && !reachable(i, f) {
				w = append(w, fmt.Sprintf("%s has no %v address: method redirect has nothing to redirect to for requests that come in by it", i.Name, f))
			}
		}
	}
	proxied, err := proxyWarnings(want)
	return append(w, proxied...), err
}

// reachable tells whether an interface has an address that a redirect can go to.
func reachable(i *link.Interface, f family) bool {
	return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() == f.six })
}

// proxyWarnings are about the one way in which Linux does answer neighbour
// solicitations for an address that is not the interface's: somebody told it to.
func proxyWarnings(want state) ([]string, error) {
	var w []string
	for _, v := range want.VIPs {
		if v.Addr.Is4() {
			continue
		}
		names, err := link.ProxiesOf(v.Addr)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			w = append(w, fmt.Sprintf("%s is a proxy for %v and may answer for it; 'ip neigh del proxy %[2]v dev %[1]s'", name, v.Addr))
		}
	}
	return w, nil
}
