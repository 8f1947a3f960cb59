// SPDX-License-Identifier: MIT

package config

import (
	"slices"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// realServer is a real_server with its checks.
func (v *virtualServer) realServer(s *statement) error {
	addr, port, err := v.addrPort(s, 1)
	if err != nil {
		return err
	}
	r := &importedServer{at: s.importPlace, addr: addr.String(), port: port, weight: lvs.DefaultWeight}
	ask := asked{port: port, pace: v.pace, host: v.host, alpha: v.alpha}
	method, inhibit := v.method, v.inhibit
	var checks, limits []*statement
	r.comments = append(r.comments, oddities(s)...)
	for _, c := range s.inner {
		if c.skipped != "" {
			r.comments = append(r.comments, c.comment("%s", c.skipped))
			continue
		}
		if handled, err := ask.pace.read(v.keepalivedFile, c); handled || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		switch c.name() {
		case "weight":
			r.weight, err = v.number(c.importPlace, c.name(), c.word(1), 0, 1<<31-1)
		case "uthreshold":
			limits = append(limits, c)
			r.upper, err = v.number(c.importPlace, c.name(), c.word(1), 0, 1<<31-1)
		case "lthreshold":
			limits = append(limits, c)
			r.lower, err = v.number(c.importPlace, c.name(), c.word(1), 0, 1<<31-1)
		case "lb_kind", "lvs_method":
			method, err = v.forwarding(c)
		case "inhibit_on_failure":
			v.inhibitAt = append(v.inhibitAt, c)
			inhibit, err = v.boolean(c)
		case "alpha":
			v.alphaAt = append(v.alphaAt, c)
			ask.alpha, err = v.boolean(c)
		case "virtualhost":
			ask.host = c.word(1)
		case "snmp_name":
			if r.name = c.word(1); !plainName.MatchString(r.name) || slices.ContainsFunc(v.servers, func(o *importedServer) bool { return o.name == r.name }) {
				r.name = ""
				r.comments = append(r.comments, c.comment("a name is of letters, digits, dots and dashes, and once in a service"))
			}
		default:
			if isCheck(c.name()) {
				checks = append(checks, c)
			} else {
				r.comments = append(r.comments, dump(c, v.serverReason(c))...)
			}
		}
		if err != nil {
			return err
		}
	}
	if r.lower > r.upper {
		c := limits[len(limits)-1]
		return v.fail(c.importPlace, c.word(1), "", "the lower threshold %d is above the upper one, %d", r.lower, r.upper)
	}
	switch {
	case slices.ContainsFunc(v.servers, func(o *importedServer) bool { return o.addr == r.addr && o.port == r.port }):
		v.comments = append(v.comments, dump(s, "the same real server again: keepalived leaves it out, too")...)
		return nil
	case slices.ContainsFunc(v.servers, func(o *importedServer) bool { return o.addr == r.addr }):
		v.comments = append(v.comments, dump(s, "the same real server on another port: direct routing has one by address, so this one is left out")...)
		return nil
	case addr.Is6() != v.six:
		v.comments = append(v.comments, dump(s, "a real server of another address family can be reached by a tunnel only, and shunt forwards by direct routing")...)
		return nil
	}
	v.forwarded(r, s, method, port)
	for _, c := range checks {
		if err := v.check(r, c, ask); err != nil {
			return err
		}
	}
	v.inhibits[r] = inhibit
	v.servers = append(v.servers, r)
	return nil
}

// forwarded says what becomes of a server that is not reached by direct routing,
// or on another port.
func (v *virtualServer) forwarded(r *importedServer, s *statement, method string, port uint16) {
	mapped := port != 0 && v.id.Mark == 0 && port != v.id.Port
	switch {
	case method != "DR" && (mapped || method != v.method):
		r.comments = append(r.comments, s.comment("%s", v.notDirect(map[string]string{"NAT": "NAT", "TUN": "a tunnel"}[method], v.importedService, port)))
	case mapped:
		r.comments = append(r.comments, s.comment("direct routing maps no ports: it is port %d, as keepalived takes it, too", v.id.Port))
	}
}
