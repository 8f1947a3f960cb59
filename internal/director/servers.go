// SPDX-License-Identifier: MIT

package director

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/announce"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/link"
)

// server is one real server's address, whatever number of services it is in,
// and the way to it.
type server struct {
	addr  netip.Addr
	route link.Route
	mac   net.HardwareAddr // nil: unresolved
	fixed bool             // by a permanent neighbour entry; ARP and NDP do not count
	local bool             // it is this host, which answers from its own stack
	// reason says why mac is nil, or what is wrong with it.
	reason   string
	unkept   error     // why the kernel does not keep it resolved; it is asked for all the same
	since    time.Time // of mac, or of its absence
	answered time.Time // the last answer, by ARP or NDP
	asked    int       // questions since then
	next     time.Time // the next question

	resolved chan struct{} // closed when mac is known, or local is true, for the first time
}

// Asking follows a real server that changes its MAC address without a word: it
// is asked at its known MAC, which disturbs nobody else; when it does not
// answer, everyone is asked.
const (
	askEvery   = 2 * time.Second        // a server that answers
	askAgain   = 500 * time.Millisecond // one that has just not answered
	askSeldom  = 5 * time.Second        // one that has not answered eagerAsks times
	eagerAsks  = 10
	unicastTry = 1               // unanswered questions before everyone is asked
	silentFor  = 5 * time.Second // without an answer: worth a word in status
)

var errUnresolved = errors.New("nobody has answered for it yet")

// follow sees that d.servers has these: new ones are asked for at once.
func (d *director) follow(rips uses) {
	var fresh []*server
	for rip := range rips {
		if d.servers[rip] == nil {
			fresh = append(fresh, &server{addr: rip, reason: errUnresolved.Error(), since: time.Now(), resolved: make(chan struct{})})
		}
	}
	slices.SortFunc(fresh, func(a, b *server) int { return a.addr.Compare(b.addr) })
	for _, s := range fresh {
		d.servers[s.addr] = s
		d.reach(s, nil)
	}
	if len(fresh) > 0 {
		d.listen()
	}
	for rip := range rips {
		if s := d.servers[rip]; !s.usable() {
			d.question(s, time.Now())
		}
	}
}

// forget drops the servers that are none of these.
func (d *director) forget(rips uses) {
	before := len(d.servers)
	for rip, s := range d.servers {
		if rips[rip] > 0 {
			continue
		}
		delete(d.servers, rip)
		if err := d.tellPlane(s, nil); err != nil {
			d.log.Warn("forget a real server", "server", s.addr, "error", err)
		}
		d.unmanage(s)
	}
	if len(d.servers) < before {
		d.listen()
	}
}

func (d *director) unmanage(s *server) {
	err := d.journal.Undo(func(e link.Entry) bool { return e.Kind == link.ManagedNeighbour && e.Addr == s.addr })
	if err != nil {
		d.log.Warn("leave a real server's neighbour entry to the kernel", "server", s.addr, "error", err)
	}
}

// where is what status says of the way to the server; empty: unresolved.
func (s *server) where() string {
	if s.local {
		return "this host"
	}
	return s.mac.String()
}

// usable tells whether packets for the server arrive at it.
func (s *server) usable() bool { return s.local || s.mac != nil }

// reach finds the way to a server, and has the kernel keep it resolved. What is
// known of the kernel's neighbours saves asking for each.
func (d *director) reach(s *server, known map[neighbourKey]link.Neighbour) {
	r, err := link.OnLink(s.addr)
	if errors.Is(err, link.ErrLocal) {
		d.here(s)
		return
	}
	if s.local {
		d.lose(s, errUnresolved.Error()) // the host has lost the address, and another may have it
	}
	if err != nil {
		d.lose(s, strings.TrimPrefix(err.Error(), fmt.Sprintf("real server %v: ", s.addr)))
		return
	}
	if s.route != r {
		d.note(r.Interface)
		moved := s.route.Index != 0 && s.route.Index != r.Index
		s.route = r
		if moved {
			d.lose(s, errUnresolved.Error())
		}
	}
	if n, ok := known[neighbourKey{r.Index, s.addr}]; ok && n.Managed {
		s.unkept = nil
		d.neighbour(s, n)
		return
	}
	err = d.journal.ManageNeighbour(forServer, r.Index, s.addr)
	if others, _ := d.unkept(); err != nil && others == 0 { // there may be a thousand
		d.log.Warn("the kernel does not keep the real server resolved; asking alone has to do", "server", s.addr, "error", err)
	}
	s.unkept = err
	if n, err := link.NeighbourOf(r.Index, s.addr); err == nil {
		d.neighbour(s, n)
	}
}

// unkept tells how many servers the kernel does not keep resolved, and why one
// of them.
func (d *director) unkept() (n int, why error) {
	for _, s := range d.servers {
		if s.unkept != nil {
			n, why = n+1, s.unkept
		}
	}
	return n, why
}

// here says that a server is this host. It can become it, and cease to be, with
// the address.
func (d *director) here(s *server) {
	if s.local {
		return
	}
	if err := d.plane.SetNeighbour(dataplane.Neighbour{Addr: s.addr, Local: true}); err != nil {
		s.reason = err.Error()
		d.log.Error("tell the data plane that a real server is this host", "server", s.addr, "error", err)
		return
	}
	d.unmanage(s)
	s.unkept = nil
	d.log.Info("real server is this host", "server", s.addr)
	s.local, s.mac, s.fixed, s.route, s.reason, s.since = true, nil, false, link.Route{}, "", time.Now()
	s.known()
}

// note remembers the interface's MAC address, which frames are sent from.
func (d *director) note(iface string) {
	if d.ifaces[iface] != nil {
		return
	}
	i, err := link.InterfaceByName(iface)
	if err != nil {
		d.log.Warn("look at an interface", "iface", iface, "error", err)
		return
	}
	d.ifaces[iface] = i
}

// neighbourChanged takes the kernel's word for a neighbour.
func (d *director) neighbourChanged(e link.Event) {
	s := d.servers[e.Neighbour.Addr]
	if s == nil || s.route.Index != e.Index {
		return
	}
	if e.Gone {
		d.reach(s, nil) // it was flushed; the kernel is to keep it
		return
	}
	d.neighbour(s, e.Neighbour)
}

func (d *director) neighbour(s *server, n link.Neighbour) {
	s.fixed = n.State&link.NeighbourPermanent != 0
	switch {
	case n.State.Valid() && n.MAC != nil:
		d.found(s, n.MAC)
	case n.State == link.NeighbourFailed && time.Since(s.answered) > askEvery:
		d.lose(s, fmt.Sprintf("it does not answer %s on %s", protocol(s.addr), s.route.Interface))
	}
}

// claimed takes a packet's word, of ARP or NDP: someone has a VIP of ours, or a
// real server says where it is, or that it is still where it was asked.
func (d *director) claimed(c announce.Claim, now time.Time) {
	if c.Conflict {
		d.contested(c, now)
		return
	}
	s := d.servers[c.Addr]
	if s == nil || s.fixed || s.route.Interface != c.Interface {
		return
	}
	mac := c.MAC
	if mac == nil {
		mac = s.mac
	}
	if mac == nil {
		return // it answered someone else, who knew its MAC address
	}
	s.answered, s.asked, s.next = now, 0, now.Add(askEvery)
	d.found(s, mac)
}

// found sets a server's MAC address; the data plane uses it from the next
// packet on.
func (d *director) found(s *server, mac net.HardwareAddr) {
	if slices.Equal(s.mac, mac) {
		s.reason = ""
		return
	}
	if err := d.tellPlane(s, mac); err != nil {
		s.reason = err.Error()
		d.log.Error("tell the data plane where a real server is", "server", s.addr, "mac", mac.String(), "error", err)
		return
	}
	if s.mac == nil {
		d.log.Info("real server found", "server", s.addr, "mac", mac.String(), "iface", s.route.Interface)
	} else {
		d.log.Info("real server has another MAC address", "server", s.addr, "mac", mac.String(), "was", s.mac.String(), "iface", s.route.Interface)
	}
	s.mac, s.reason, s.since = slices.Clone(mac), "", time.Now()
	s.known()
}

// known ends the wait of those who want to know where the server is.
func (s *server) known() {
	select {
	case <-s.resolved:
	default:
		close(s.resolved)
	}
}

// lose says that the way to a server is not known, and why. Its packets are
// dropped and counted: without an owner of the MAC, a switch would flood them.
func (d *director) lose(s *server, reason string) {
	if !s.usable() {
		s.reason = reason
		return
	}
	if err := d.tellPlane(s, nil); err != nil {
		d.log.Error("tell the data plane that a real server is lost", "server", s.addr, "error", err)
		return
	}
	d.log.Warn("real server lost", "server", s.addr, "was", s.where(), "reason", reason)
	s.local, s.mac, s.reason, s.since = false, nil, reason, time.Now()
}

func (d *director) tellPlane(s *server, mac net.HardwareAddr) error {
	n := dataplane.Neighbour{Addr: s.addr, Interface: s.route.Index, MAC: mac, MTU: s.route.MTU}
	if i := d.ifaces[s.route.Interface]; i != nil {
		w, err := d.wireOf(i)
		if err != nil {
			return err
		}
		n.Source, n.Interface, n.VLAN = i.MAC, w.device.Index, w.vlan
	}
	if mac != nil && n.Source == nil {
		return fmt.Errorf("interface %s: its MAC address is not known", s.route.Interface)
	}
	return d.plane.SetNeighbour(n)
}

// ask sends this tick's questions.
func (d *director) ask(now time.Time) {
	for _, s := range d.servers {
		if !s.fixed && !s.local && !now.Before(s.next) {
			d.question(s, now)
		}
		if s.mac != nil && !s.fixed && s.asked > 0 && s.silent(now) {
			s.reason = fmt.Sprintf("it has not answered %s for %v; its last MAC address is used", protocol(s.addr), now.Sub(s.lastSeen()).Round(time.Second))
		}
	}
}

func (s *server) lastSeen() time.Time {
	if s.answered.IsZero() {
		return s.since
	}
	return s.answered
}

func (s *server) silent(now time.Time) bool { return now.Sub(s.lastSeen()) > silentFor }

func (d *director) question(s *server, now time.Time) {
	w := d.watchers[s.route.Interface]
	source := d.asker(s)
	if w == nil || !source.IsValid() {
		return // the kernel's own question has to do
	}
	to := s.mac
	if s.asked >= unicastTry {
		to = nil
	}
	s.asked++
	s.next = now.Add(askAgain)
	if s.asked > eagerAsks {
		s.next = now.Add(askSeldom)
	}
	if err := w.Ask(source, s.addr, to); err != nil {
		d.log.Debug("ask for a real server", "server", s.addr, "error", err)
	}
}

// asker is the address that a question comes from: for IPv6 the interface's
// link-local one, which also a real server of another prefix can answer to
// directly.
func (d *director) asker(s *server) netip.Addr {
	if i := d.ifaces[s.route.Interface]; s.addr.Is6() && i != nil {
		for _, p := range i.Addresses {
			if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
				return p.Addr()
			}
		}
	}
	return s.route.Source
}
