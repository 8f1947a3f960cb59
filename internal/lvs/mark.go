// SPDX-License-Identifier: MIT

package lvs

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// ErrMark is wrapped when a mark rule cannot be added or removed as it is.
var ErrMark = errors.New("mark rule")

// MarkRule says which packets have a firewall mark. With IPVS it is the firewall
// that marks; shunt's data plane comes before any firewall, so it is told here.
// Several rules of one mark make a group: one virtual service for several VIPs,
// ports and protocols.
type MarkRule struct {
	Mark     uint32     `json:"mark"`
	Protocol Protocol   `json:"protocol"` // TCP, UDP or SCTP
	Addr     netip.Addr `json:"addr"`     // VIP
	First    uint16     `json:"first"`    // port, host byte order; First and Last 0: every port
	Last     uint16     `json:"last"`
}

// String gives "7 TCP 172.16.16.172:80", "7 UDP [2001:db8::1]:5000-5010" or
// "7 TCP 172.16.16.172:0" for every port.
func (r MarkRule) String() string {
	s := fmt.Sprintf("%d %v %v", r.Mark, r.Protocol, netip.AddrPortFrom(r.Addr, r.First))
	if r.Last != r.First {
		s += fmt.Sprintf("-%d", r.Last)
	}
	return s
}

// ServiceID names the service that the rule's packets are for.
func (r MarkRule) ServiceID() ServiceID { return ServiceID{Mark: r.Mark, Mark6: r.Addr.Is6()} }

// Listeners lists the address, port and protocol of each of the rule's ports.
func (r MarkRule) Listeners() []ServiceID {
	var out []ServiceID
	for port := int(r.First); port <= int(r.Last); port++ {
		out = append(out, ServiceID{Protocol: r.Protocol, Addr: r.Addr, Port: uint16(port)})
	}
	return out
}

func (r MarkRule) validate() error {
	switch {
	case r.Mark == 0:
		return fmt.Errorf("%w %v: a mark is a number greater than 0", ErrMark, r)
	case r.Protocol != TCP && r.Protocol != UDP && r.Protocol != SCTP:
		return fmt.Errorf("%w %v: it needs a protocol: TCP, UDP or SCTP", ErrMark, r)
	case !r.Addr.IsValid() || r.Addr.Zone() != "":
		return fmt.Errorf("%w %v: it needs an address", ErrMark, r)
	case r.First > r.Last || r.First == 0 && r.Last != 0:
		return fmt.Errorf("%w %v: ports are from 1 to 65535, the first before the last; or 0 for every port", ErrMark, r)
	}
	return nil
}

// overlaps tells whether a packet could be meant by both. A rule for every port
// takes only what no other takes, as a service for port 0 does.
func (r MarkRule) overlaps(protocol Protocol, addr netip.Addr, first, last uint16) bool {
	return r.Protocol == protocol && r.Addr == addr && r.First <= last && first <= r.Last
}

func (t *Table) addMark(r MarkRule) error {
	if err := r.validate(); err != nil {
		return err
	}
	for _, o := range t.Marks {
		if r.overlaps(o.Protocol, o.Addr, o.First, o.Last) {
			return fmt.Errorf("%w %v: there is %v", ErrMark, r, o)
		}
	}
	for _, s := range t.Services {
		if s.Mark == 0 && r.overlaps(s.Protocol, s.Addr, s.Port, s.Port) {
			return fmt.Errorf("%w %v: there is the service %v", ErrMark, r, s.ServiceID)
		}
	}
	t.Marks = append(t.Marks, r)
	return nil
}

func (t *Table) deleteMark(r MarkRule) error {
	i := slices.Index(t.Marks, r)
	if i < 0 {
		return fmt.Errorf("%w %v: there is none such", ErrMark, r)
	}
	others := slices.Delete(slices.Clone(t.Marks), i, i+1)
	id := r.ServiceID()
	last := !slices.ContainsFunc(others, func(o MarkRule) bool { return o.ServiceID() == id })
	if last && t.Service(id) != nil {
		return fmt.Errorf("%w %v: it is the last of %v, which would get no packet any more: delete the service first", ErrMark, r, id)
	}
	t.Marks = others
	return nil
}

// marked returns the mark rule that has a service's packets already, if any.
func (t *Table) marked(id ServiceID) error {
	for _, r := range t.Marks {
		if id.Mark == 0 && r.overlaps(id.Protocol, id.Addr, id.Port, id.Port) {
			return fmt.Errorf("%v: %w: its packets have a mark already: %v", id, ErrMark, r)
		}
	}
	return nil
}
