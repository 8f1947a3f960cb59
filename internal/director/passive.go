// SPDX-License-Identifier: MIT

package director

import (
	"time"

	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// youngEvery is how often the data plane is asked how connections began.
const youngEvery = 500 * time.Millisecond

// lookAtYoung ejects servers whose connections die young, and tries them again
// after a while.
func (d *director) lookAtYoung(now time.Time) {
	if now.Sub(d.looked) < youngEvery {
		return
	}
	d.looked = now
	var watched []*cared
	for c := range d.sorted() {
		switch {
		case c.care.Passive != nil:
			watched = append(watched, c)
		case c.watched:
			c.watched = false
			for _, id := range d.outliers.Forget(c.id) {
				d.turn(c, id, "passive", func(s *standing) { s.ejected = "" })
			}
		}
	}
	if len(watched) == 0 {
		return
	}
	young, err := d.plane.Young()
	if err != nil {
		d.log.Error("how connections begin cannot be read", "error", err)
		return
	}
	for _, c := range watched {
		c.watched = true
		d.observe(c, young[c.id], now)
	}
}

// observe looks at how the connections of a service's servers begin.
func (d *director) observe(c *cared, young []lvs.Young, now time.Time) {
	var samples []health.Sample
	for _, y := range young {
		s := c.standings[y.ServerID]
		r := c.effect.of.Server(y.ServerID)
		if r == nil {
			continue // the sorry server
		}
		samples = append(samples, health.Sample{Server: y.ServerID, Began: y.Began, Unanswered: y.Unanswered,
			Retransmitted: y.Retransmitted, Resets: y.Resets, Away: r.Weight == 0 || !s.fit() && (s.ejected == "" || s.ill != "")})
	}
	eject, restore := d.outliers.Observe(now, c.id, *c.care.Passive, samples)
	for _, e := range eject {
		d.turn(c, e.Server, "passive", func(s *standing) { s.ejected = e.Reason })
		d.checker.Ask(c.id, e.Server)
	}
	for _, id := range restore {
		d.turn(c, id, "passive", func(s *standing) { s.ejected = "" })
	}
}
