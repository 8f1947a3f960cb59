// SPDX-License-Identifier: MIT

package main

import "github.com/shunt-lvs/shunt/internal/lvs"

const (
	population = 1 << 17 // connections that are there while new ones come
	fewNew     = 1 << 15 // new connections in a round: of 7, the default table is a third full then
)

func (s *session) opening(to step) step {
	to.traffic.fresh, to.packets = true, fewNew
	return to
}

// newConnections: SYNs, and the packets that follow them; and what belongs to
// connections that the director does not know.
func newConnections(s *session) error {
	t := s.fieldTable("New TCP connections",
		"An eighth of the director's table is taken by others at first, a third in the end. The yardsticks' tables are full, as theirs are after a while: they never give a place back.")
	f, err := s.field(lvs.TCP, usualConnections, false, t)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.crowd(syn(web), ack(web)); err != nil {
		return err
	}
	opens := s.opening(step{traffic: traffic{frame: syn(web)}, reason: "forward_new"})
	follows := s.opening(step{traffic: traffic{frame: ack(web)}, reason: "forward_connection"})
	if err := f.measure(s, []string{"TCP new, SYN", "TCP new, the ACK after it"}, opens, follows); err != nil {
		return err
	}
	if err := f.director.forget(s.ctx); err != nil {
		return err
	}
	if err := prime(&f.director.contender, population, syn(web), ack(web)); err != nil {
		return err
	}
	stray := s.opening(step{traffic: traffic{frame: ack(web)}, reason: "forward_adopted"})
	return f.measure(s, []string{"TCP new to the director, ACK"}, stray)
}

// crowd fills the yardsticks' tables to the brim, with what is not used any
// more, and the director's with some connections.
func (f *field) crowd(frames ...[]byte) error {
	const brim = 3 * usualConnections // in 4, so that all sets overflow
	for _, c := range f.list() {
		w, err := newWrapper(traffic{frame: frames[len(frames)-1], fresh: true, tc: c.tc})
		if err != nil {
			return err
		}
		_, err = w.run(c.program, allFlows/2, brim)
		w.Close()
		if err != nil {
			return err
		}
	}
	return prime(&f.director.contender, population, frames...)
}
