// SPDX-License-Identifier: MIT

package director

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/shunt-lvs/shunt/internal/announce"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/health"
)

// A real server whose ARP guard is gone passes every check, and takes the VIP's
// clients away from the director, who does not hear of it: its answers go to the
// clients. So it is asked, at its own MAC address, which disturbs nobody else:
// who guards the VIP says nothing. IPv6 needs no guard.

// guarded is a VIP on a real server.
type guarded struct {
	vip, rip netip.Addr
}

// guard is how one was asked.
type guard struct {
	every time.Duration // the shortest interval of the checks
	next  time.Time
	heard time.Time // when it last answered, which it should not
}

// quietFor is how many questions in a row it leaves unanswered whose guard is
// taken for restored.
const quietFor = 3

// guards tells whether a server is to guard the VIP: what is asked at the RIP only
// (target: rip) need not have it.
func guards(s *config.Server) bool {
	return s != nil && slices.ContainsFunc(s.Checks, func(k health.Check) bool { return !k.ToRIP })
}

// followGuards sees that those are asked which checks through the VIP are for.
func (d *director) followGuards() {
	wanted, broken := map[guarded]time.Duration{}, map[guarded]bool{}
	for c := range d.sorted() {
		if c.id.Mark != 0 || !c.id.Addr.Is4() {
			continue
		}
		for id, f := range c.file {
			for _, k := range f.Checks {
				key := guarded{c.id.Addr, id.Addr}
				if was, ok := wanted[key]; !k.ToRIP && (!ok || k.Interval < was) {
					wanted[key] = k.Interval
				}
			}
			if s := c.standings[id]; s != nil && s.exposed != "" {
				broken[guarded{c.id.Addr, id.Addr}] = true
			}
		}
	}
	for key, g := range d.guards {
		if wanted[key] == 0 {
			delete(d.guards, key)
			if !g.heard.IsZero() {
				d.exposed(key, "")
			}
		}
	}
	for key, every := range wanted {
		g := d.guards[key]
		if g == nil {
			g = &guard{}
			if broken[key] { // when it was last asked: its silence will mend that
				g.heard = time.Now()
			}
			d.guards[key] = g
		}
		g.every = every
	}
}

// askGuards sends the questions that are due, and takes silence for an answer.
func (d *director) askGuards(now time.Time) {
	for key, g := range d.guards {
		if now.Before(g.next) {
			continue
		}
		g.next = now.Add(g.every)
		if !g.heard.IsZero() && now.Sub(g.heard) > quietFor*max(g.every, tick) {
			g.heard = time.Time{}
			d.exposed(key, "")
		}
		s := d.servers[key.rip]
		if s == nil || s.mac == nil || s.local {
			continue
		}
		w := d.watchers[s.route.Interface]
		if w == nil || !s.route.Source.Is4() {
			continue
		}
		if err := w.Ask(s.route.Source, key.vip, s.mac); err != nil {
			d.log.Debug("ask a real server whether it guards the VIP", "server", key.rip, "vip", key.vip, "error", err)
		}
	}
}

// unguarded takes a real server's claim of a VIP.
func (d *director) unguarded(c announce.Claim, now time.Time) {
	for key, g := range d.guards {
		if key.vip != c.Addr {
			continue
		}
		if s := d.servers[key.rip]; s == nil || !slices.Equal(s.mac, c.MAC) {
			continue
		}
		first := g.heard.IsZero()
		g.heard = now
		if first {
			d.exposed(key, fmt.Sprintf("it answers ARP for the VIP %v, so clients may go straight to it: its guard is gone (arp_ignore, arp_announce);"+
				" shunt realserver start sets it", key.vip))
		}
	}
}

// exposed notes that a real server's guard is gone, or (empty) that it is back.
func (d *director) exposed(key guarded, why string) {
	var turn []turning
	for c, rule := range d.sorted() {
		if c.id.Addr != key.vip {
			continue
		}
		for _, r := range rule.Servers {
			if r.Addr == key.rip && guards(c.file[r.ServerID]) && c.standing(r.ServerID).exposed != why {
				turn = append(turn, turning{c, r.ServerID, health.Event{By: "check", Reason: "it no longer answers ARP for the VIP"},
					func(s *standing) { s.exposed = why }})
			}
		}
	}
	if len(turn) > 0 {
		d.turnAll(turn...)
	}
}
