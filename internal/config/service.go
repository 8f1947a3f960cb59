// SPDX-License-Identifier: MIT

package config

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// service makes a service of its keys. It is not ok if it is not told which
// service it is; then only what is wrong with its parts was reported.
func (r *resolver) service(k *serviceKeys) (s Service, ok bool) {
	before := len(r.list)
	if !k.given() || !r.identity(k, &s) {
		return s, false
	}
	if r.where[written{service: s.Service.ServiceID}] = k.Address.node; !k.Address.given() {
		r.where[written{service: s.Service.ServiceID}] = k.Mark.node
	}
	d := &careKeys{}
	if r.file.Defaults != nil {
		d = &r.file.Defaults.careKeys
	}
	all := k.careKeys.inherit(d)
	r.name(k, &s)
	r.rules(k, d, all, &s)
	r.servers(k, all, &s)
	r.sorry(k, &s)
	r.care(k, all, &s)
	if len(r.list) == before {
		r.applied(k, &s)
	}
	return s, true
}

// identity finds out which service it is, and what packets have its mark.
func (r *resolver) identity(k *serviceKeys, s *Service) bool {
	id := &s.Service.ServiceID
	switch {
	case k.Address.given() == k.Mark.given():
		return false // which was said when it was read
	case k.Address.given():
		id.Addr, id.Port = k.Address.V.Addr(), k.Address.V.Port()
		id.Protocol, _ = protocolOf(k.Protocol.or("tcp"))
		r.vip(id.Addr, k.Address.node)
		if k.Match.given() {
			r.add(k.Match.node, "", "match belongs to a service by mark")
		}
		if k.Family.given() {
			r.add(k.Family.node, "", "family belongs to a service by mark: this one has that of its address")
		}
	default:
		id.Mark, id.Mark6 = uint32(k.Mark.V), k.Family.V == "ipv6"
		r.matches(k, s)
	}
	if first := r.services[*id]; first != nil {
		r.add(k.Address.at(k.Mark.node), "", "service %v is there already, on line %d", *id, first.line)
		return false
	}
	r.services[*id] = k.Address.at(k.Mark.node)
	return true
}

func (r *resolver) matches(k *serviceKeys, s *Service) {
	id := s.Service.ServiceID
	if k.Protocol.given() {
		r.add(k.Protocol.node, "", "a service by mark has the protocols of its match")
	}
	if !k.Match.given() || len(k.Match.Items) == 0 {
		r.add(k.Match.at(k.Mark.node), "", "a service by mark needs match, which says what packets have the mark, such as [tcp 172.16.16.172:21]")
	}
	for _, m := range k.Match.Items {
		if !m.given() {
			continue
		}
		rule := m.V
		rule.Mark = id.Mark
		r.vip(rule.Addr, m.node)
		if rule.Addr.Is6() != id.Mark6 {
			r.add(m.node, "", "%v is of another family than the service: IPv4 and IPv6 are two services, with family: ipv4 and family: ipv6", rule.Addr)
			continue
		}
		s.Marks = append(s.Marks, rule)
	}
}

// defaultName is what a service is called that has no name.
func defaultName(id lvs.ServiceID) string {
	switch {
	case id.Mark != 0 && id.Mark6:
		return fmt.Sprintf("mark-%d-ipv6", id.Mark)
	case id.Mark != 0:
		return fmt.Sprintf("mark-%d", id.Mark)
	case id.Protocol == lvs.TCP:
		return netip.AddrPortFrom(id.Addr, id.Port).String()
	}
	return netip.AddrPortFrom(id.Addr, id.Port).String() + "/" + strings.ToLower(id.Protocol.String())
}

func (r *resolver) name(k *serviceKeys, s *Service) {
	s.Name = k.Name.V
	if s.Name == "" {
		s.Name = defaultName(s.Service.ServiceID)
	}
	at := k.Name.at(k.Address.at(k.Mark.node))
	if first := r.names[s.Name]; first != nil {
		r.add(at, "", "there is a service of the name %s already, on line %d", s.Name, first.line)
	}
	r.names[s.Name] = at
}

// rules fills in what the rule language could say, too.
func (r *resolver) rules(k *serviceKeys, d *careKeys, all careKeys, s *Service) {
	v := &s.Service
	v.Scheduler = lvs.Scheduler(all.Scheduler.or(string(lvs.DefaultScheduler)))
	for _, w := range k.SchedulerFlags.Items {
		if !w.given() {
			continue
		}
		flags, err := ipvsadm.ParseSchedulerFlags(v.Scheduler, w.V)
		if err != nil {
			r.add(w.node, "", "scheduler flag %s is nothing for scheduler %s", w.V, v.Scheduler)
		}
		v.Flags |= flags
	}
	r.persistence(k, v)
	if v.Mark == 0 && v.Port == 0 && !v.Persistent() {
		r.add(k.Address.node, "", "port 0 stands for every port, and needs persistence")
	}
	if k.OnePacket.V {
		v.Flags |= lvs.FlagOnePacket
		if v.Mark == 0 && v.Protocol != lvs.UDP {
			r.add(k.OnePacket.node, "", "one_packet is for UDP")
		}
	}
	v.Policy = r.policy(all.Policy, all.Policy != d.Policy, v)
	v.Policy.SourceLimit = all.SourceLimit.V
	for _, p := range k.Deny.Items {
		if !p.given() {
			continue
		}
		if p.V.Addr().Is6() != v.Is6() {
			r.add(p.node, "", "%v is of another address family than the service", p.V)
		}
		s.Deny = append(s.Deny, p.V)
	}
}

func (r *resolver) persistence(k *serviceKeys, v *lvs.VirtualService) {
	p := k.Persistence
	if p == nil || !p.given() {
		return
	}
	v.Flags |= lvs.FlagPersistent
	v.Timeout = lvs.DefaultPersistence
	if p.Timeout.given() {
		v.Timeout = uint32(p.Timeout.V.Seconds())
	}
	v.Netmask = 1<<32 - 1
	if v.Is6() {
		v.Netmask = 128
	}
	m := p.Mask
	switch {
	case !m.given():
	case m.bits < 0 && v.Is6():
		r.add(m.node, "", "mask of an IPv6 service is a prefix length, such as 64")
	case m.bits < 0:
		a := m.dotted.As4()
		v.Netmask = binary.BigEndian.Uint32(a[:])
	case v.Is6():
		v.Netmask = uint32(m.bits)
	case m.bits > 32:
		r.add(m.node, "", "mask of an IPv4 service is a prefix length from 1 to 32, not %d", m.bits)
	default:
		v.Netmask = ^uint32(0) << (32 - m.bits)
	}
}

// policy of a service. What defaults say (own is false) is left out where it means
// nothing; what a service says itself has to mean something.
func (r *resolver) policy(k *policyKeys, own bool, v *lvs.VirtualService) (p lvs.Policy) {
	if k == nil {
		return p
	}
	has := func(at place, key string, possible, isDefault bool, needs string) bool {
		if at.given() && !possible && own && !isDefault {
			r.add(at.node, "", "%s means nothing here: %s", key, needs)
		}
		return at.given() && possible
	}
	streams := v.Mark != 0 || v.Protocol == lvs.TCP || v.Protocol == lvs.SCTP
	if has(k.Stray.place, "stray", streams, k.Stray.V == lvs.StrayAdopt.String(), "it is a matter of TCP and SCTP") {
		_ = p.Stray.UnmarshalText([]byte(k.Stray.V)) // a word of Strays
	}
	if has(k.ConnReuse.place, "conn_reuse_mode", streams, lvs.ConnReuse(0).Mode() == uint8(k.ConnReuse.V), "it is a matter of TCP and SCTP") {
		p.ConnReuse, _ = lvs.ConnReuseOf(uint8(k.ConnReuse.V))
	}
	p.KeepNodest = !k.ExpireNodest.or(true)
	if has(k.ExpireQuiescent.place, "expire_quiescent_template", v.Persistent(), k.ExpireQuiescent.V, "it needs persistence") {
		p.KeepTemplate = !k.ExpireQuiescent.V
	}
	if has(k.SecureTCP.place, "secure_tcp", v.Mark != 0 || v.Protocol == lvs.TCP, !k.SecureTCP.V, "it is a matter of TCP") {
		p.SecureTCP = k.SecureTCP.V
	}
	return p
}

// server is a RIP as a server of a service.
func (r *resolver) server(e endpoint, weight int32, v *lvs.VirtualService) (lvs.RealServer, bool) {
	rs := lvs.RealServer{ServerID: lvs.ServerID{Addr: e.V.Addr(), Port: v.Port}, Forward: lvs.DirectRouting, Weight: weight}
	port := e.V.Port()
	switch {
	case rs.Addr.Is6() != v.Is6():
		r.add(e.node, "", "%v is of another address family than the service", rs.Addr)
	case rs.Addr == v.Addr:
		r.add(e.node, "", "%v is the VIP: if the director itself is to be a real server, name another address of its own, such as 127.0.0.1 or ::1", rs.Addr)
	case e.hasPort && v.Mark != 0:
		r.add(e.node, "", "a packet keeps the port that the client sent it to: leave :%d out", port)
	case e.hasPort && port != v.Port:
		r.add(e.node, "", "port %d is not the service's port %d, and direct routing changes no port: leave it out, and have the real server"+
			" redirect it: shunt realserver start --vip %v --method redirect --port %d/%s:%d",
			port, v.Port, v.Addr, v.Port, strings.ToLower(v.Protocol.String()), port)
	default:
		return rs, true
	}
	return rs, false
}

func (r *resolver) servers(k *serviceKeys, all careKeys, s *Service) {
	seen, names := map[lvs.ServerID]*node{}, map[string]*node{}
	for i := range k.Servers.Items {
		sk := &k.Servers.Items[i]
		if !sk.Address.given() {
			continue
		}
		rs, ok := r.server(sk.Address, int32(sk.Weight.or(lvs.DefaultWeight)), &s.Service)
		if !ok {
			continue
		}
		if at := seen[rs.ServerID]; at != nil {
			r.add(sk.Address.node, "", "server %v is there already, on line %d", rs.Addr, at.line)
			continue
		}
		seen[rs.ServerID] = sk.Address.node
		r.where[written{s.Service.ServiceID, rs.ServerID}] = sk.Address.node
		if at := names[sk.Name.V]; sk.Name.given() && at != nil {
			r.add(sk.Name.node, "", "there is a server of the name %s already, on line %d", sk.Name.V, at.line)
		}
		names[sk.Name.V] = sk.Name.node
		rs.Upper, rs.Lower = uint32(sk.Upper.V), uint32(sk.Lower.V)
		if rs.Lower > rs.Upper {
			r.add(sk.Lower.node, "", "lower %d is above upper %d", rs.Lower, rs.Upper)
		}
		out := Server{Name: sk.Name.V, Server: rs, Any: first(sk.Require, all.Require).V == "any"}
		inherited := sk.Check.values().inherit(all.Check.timing)
		if uses := first(sk.Checks, all.Checks); uses.given() {
			own := sk.Checks.given() || k.Checks.given()
			for i := range uses.Items {
				if c, ok := r.check(&uses.Items[i], own, s, inherited); ok {
					out.Checks = append(out.Checks, c)
				}
			}
		} else {
			out.Checks = r.defaultChecks(&s.Service, inherited)
		}
		if a := firstOf(sk.Agent, all.Agent); a != nil {
			out.Weigh = r.weigh(a)
		}
		s.Servers = append(s.Servers, out)
	}
}

func (r *resolver) sorry(k *serviceKeys, s *Service) {
	if !k.Sorry.given() {
		return
	}
	rs, ok := r.server(k.Sorry, lvs.DefaultWeight, &s.Service)
	if !ok {
		return
	}
	for _, o := range s.Servers {
		if o.Server.ServerID == rs.ServerID {
			r.add(k.Sorry.node, "", "%v is a server of the service already: a sorry server is another one", rs.Addr)
			return
		}
	}
	s.Sorry = &rs
}

// care fills in what follows from how the servers are.
func (r *resolver) care(k *serviceKeys, all careKeys, s *Service) {
	c := &s.Care
	c.Remove = all.OnFailure.V == "remove"
	_ = c.Fate.UnmarshalText([]byte(all.Connections.or(lvs.FateKeep.String()))) // a word of Fates
	c.SlowStart = all.SlowStart.V
	c.Flap = r.flap(all.Flap)
	c.Passive = r.passive(all.Passive)
	c.QuorumUp, c.QuorumDown = r.quorum(all.Quorum, len(s.Servers), s.Name)
	unchecked := ""
	for _, o := range s.Servers {
		if len(o.Checks) == 0 && unchecked == "" {
			unchecked = o.Server.Addr.String()
		}
	}
	// What is said for all services is not meant for those without checks.
	c.Alpha = all.Alpha.V && unchecked == ""
	if k.Alpha.V && unchecked != "" {
		r.add(k.Alpha.node, "", "alpha: server %s has no checks that could find it well", unchecked)
	}
	c.Withdraw = all.Withdraw.V
	if k.Withdraw.V && unchecked != "" && c.Passive == nil {
		r.add(k.Withdraw.node, "", "withdraw_vip: server %s has no checks that could find it ill", unchecked)
	}
}

func (r *resolver) flap(k *flapKeys) health.Flap {
	if k == nil || k.off || !k.given() {
		return health.Flap{}
	}
	return health.Flap{Changes: int(k.Changes.or(5)), Within: k.Within.or(60 * second), Hold: k.Hold.or(300 * second)}
}

func (r *resolver) passive(k *passiveKeys) *health.Passive {
	if k == nil || k.off || !k.given() {
		return nil
	}
	p := &health.Passive{Window: k.Window.or(5 * second), Minimum: int(k.Minimum.or(10)), Unanswered: k.Unanswered.or(0.5),
		Resets: k.Resets.or(0.5), Hold: k.Hold.or(10 * second), MostOut: k.MostOut.or(0.5)}
	if p.Unanswered == 0 && p.Resets == 0 {
		r.add(k.node, "", "passive looks neither at unanswered connections nor at resets: passive: false says so")
	}
	return p
}

// quorum of a service with so many servers; -1 if it is of no service.
func (r *resolver) quorum(k *quorumKeys, servers int, service string) (up, down int) {
	if k == nil || !k.given() {
		return 1, 1
	}
	up = int(k.Up.or(1))
	down = int(k.Down.or(int64(up)))
	switch {
	case down > up:
		r.add(k.Down.at(k.node), "", "quorum: down %d is above up %d", down, up)
	case servers >= 0 && up > max(1, servers): // without servers yet it is no mistake
		r.add(k.Up.at(k.node), "", "quorum %d is more than the servers of service %s, which has %d", up, service, servers)
	}
	return up, down
}

func (r *resolver) weigh(k *weighKeys) *Weigh {
	if k.off || !k.given() {
		return nil
	}
	w := &Weigh{HAProxy: k.Protocol.V == "haproxy", Port: uint16(k.Port.or(9292)), SecretFile: k.SecretFile.V,
		Interval: k.Interval.or(2 * second), Least: 10, Most: 200}
	if k.Weight.given() {
		w.Least, w.Most = k.Weight.Least, k.Weight.Most
	}
	switch {
	case w.HAProxy && !k.Port.given():
		r.add(k.node, "", "agent: protocol haproxy needs port: it has no usual one")
	case w.HAProxy && k.SecretFile.given():
		r.add(k.SecretFile.node, "", "secret_file belongs to protocol shunt: haproxy's has no authentication")
	case !w.HAProxy && !k.SecretFile.given():
		r.add(k.node, "", "agent: protocol shunt needs secret_file, with what both sides know")
	}
	return w
}

// applied has the nouns check the service as a change of the rules, so that what
// a table would refuse is refused here, and is told by its place.
func (r *resolver) applied(k *serviceKeys, s *Service) {
	at := k.Address.at(k.Mark.node)
	places := make([]*node, 0, 1+len(s.Marks)+len(s.Deny)+len(s.Servers))
	for _, m := range k.Match.Items {
		places = append(places, m.at(at))
	}
	places = append(places, at)
	for _, p := range k.Deny.Items {
		places = append(places, p.at(at))
	}
	for i := range k.Servers.Items {
		places = append(places, k.Servers.Items[i].Address.at(at))
	}
	for i, c := range s.changes() {
		if err := r.draft.Apply(c); err != nil {
			r.add(places[i], "", "%s", reason(err))
			if c.Operation == lvs.AddService {
				return
			}
		}
	}
}

// reason is a noun's error in the words of the file.
func reason(err error) string {
	if errors.Is(err, lvs.ErrMark) {
		return strings.Replace(err.Error(), lvs.ErrMark.Error(), "match", 1)
	}
	return err.Error()
}
