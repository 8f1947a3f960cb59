// SPDX-License-Identifier: MIT

package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// identify reads what a virtual server is: an address, a mark or a group.
func (k *keepalivedFile) identify(s *statement) (ids []lvs.ServiceID, comments []importComment, err error) {
	protocol := lvs.ProtocolNone
	if p := s.find("protocol"); p != nil {
		protocol = map[string]lvs.Protocol{"tcp": lvs.TCP, "udp": lvs.UDP, "sctp": lvs.SCTP}[strings.ToLower(p.word(1))]
		if protocol == lvs.ProtocolNone {
			return nil, nil, k.fail(p.importPlace, p.word(1), nearest(p.word(1), []string{"TCP", "UDP", "SCTP"}), "unknown protocol %q", p.word(1))
		}
	}
	switch s.word(1) {
	case "fwmark":
		family := s.find("ip_family")
		id, err := k.mark(s, 2, family != nil && family.word(1) == "inet6" || keepalivedSix(s))
		if err != nil {
			return nil, nil, err
		}
		ids = []lvs.ServiceID{id}
	case "group":
		if ids, comments, err = k.group(s, protocol); err != nil {
			return nil, nil, err
		}
	default:
		addr, port, err := k.addrPort(s, 1)
		if err != nil {
			return nil, nil, err
		}
		ids = []lvs.ServiceID{{Protocol: protocol, Addr: addr, Port: port}}
	}
	for n := range ids {
		if ids[n].Mark == 0 && ids[n].Protocol == lvs.ProtocolNone {
			ids[n].Protocol = lvs.UDP
			if n == 0 {
				comments = append(comments, s.comment("it names no protocol, and to keepalived that is UDP. If TCP is meant, it is written here"))
			}
		}
	}
	return ids, comments, nil
}

// keepalivedSix tells whether the first real server has an IPv6 address, by which
// keepalived knows the family of a mark.
func keepalivedSix(s *statement) bool {
	for _, c := range s.inner {
		if c.name() == "real_server" {
			return strings.Contains(c.word(1), ":")
		}
	}
	return false
}

// group reads the virtual_server_group that a virtual server is of.
func (k *keepalivedFile) group(s *statement, protocol lvs.Protocol) (ids []lvs.ServiceID, comments []importComment, err error) {
	g := k.groups[s.word(2)]
	if g == nil {
		return nil, nil, k.fail(s.importPlace, s.word(2), "", "there is no virtual_server_group %q", s.word(2))
	}
	k.used[g] = true
	for _, entry := range g.inner {
		if entry.skipped != "" {
			comments = append(comments, entry.comment("%s", entry.skipped))
			continue
		}
		more, err := k.groupEntry(entry, protocol, keepalivedSix(s))
		if err != nil {
			return nil, nil, err
		}
		if ids = append(ids, more...); len(ids) > maxGroup {
			return nil, nil, k.fail(entry.importPlace, entry.name(), "", "more than %d addresses in one group", maxGroup)
		}
	}
	if len(ids) == 0 {
		return nil, nil, k.fail(g.importPlace, g.word(1), "", "the group is empty")
	}
	return ids, comments, nil
}

func (k *keepalivedFile) mark(s *statement, n int, six bool) (lvs.ServiceID, error) {
	mark, err := strconv.ParseUint(s.word(n), 0, 32)
	if err != nil || mark == 0 {
		return lvs.ServiceID{}, k.fail(s.importPlace, s.word(n), "", "a mark is a number greater than 0, not %q", s.word(n))
	}
	return lvs.ServiceID{Mark: uint32(mark), Mark6: six}, nil
}

// addrPort reads an address, and a port if there is one, which begin at word n.
func (k *keepalivedFile) addrPort(s *statement, n int) (netip.Addr, uint16, error) {
	addr, err := netip.ParseAddr(s.word(n))
	if err != nil || addr.Zone() != "" || addr.Is4In6() || addr.IsUnspecified() || addr.IsMulticast() {
		return addr, 0, k.fail(s.importPlace, s.word(n), "", "%s takes an address and a port, not %q", s.name(), s.word(n))
	}
	if s.word(n+1) == "" {
		return addr, 0, nil
	}
	port, err := k.number(s.importPlace, "port", s.word(n+1), 0, 65535)
	return addr, uint16(port), err
}

const maxGroup = 4096

// groupEntry reads a line of a virtual_server_group: an address, a range of
// addresses or a mark.
func (k *keepalivedFile) groupEntry(s *statement, protocol lvs.Protocol, six bool) ([]lvs.ServiceID, error) {
	if s.name() == "fwmark" {
		id, err := k.mark(s, 1, s.word(2) == "inet6" || s.word(2) == "" && six)
		return []lvs.ServiceID{id}, err
	}
	bad := func(what string) ([]lvs.ServiceID, error) {
		return nil, k.fail(s.importPlace, s.name(), "", "%s: %s", s.name(), what)
	}
	port := 0
	if s.word(1) != "" {
		n, err := k.number(s.importPlace, "port", s.word(1), 0, 65535)
		if err != nil {
			return nil, err
		}
		port = n
	}
	first, last, err := addressRange(s.name())
	if err != nil {
		return bad(err.Error())
	}
	var ids []lvs.ServiceID
	for a := first; ; a = a.Next() {
		if len(ids) == maxGroup {
			return bad(fmt.Sprintf("more than %d addresses", maxGroup))
		}
		ids = append(ids, lvs.ServiceID{Protocol: protocol, Addr: a, Port: uint16(port)})
		if a == last {
			return ids, nil
		}
	}
}

// addressRange reads "10.0.0.1", "10.0.0.1-9", "10.0.0.1-10.0.1.9", "10.0.0.0/28"
// and the like of IPv6, of which the number behind - is hexadecimal.
func addressRange(text string) (first, last netip.Addr, err error) {
	if p, e := netip.ParsePrefix(text); e == nil {
		for first, last = p.Addr(), p.Addr(); p.Contains(last.Next()); last = last.Next() {
			if p.Bits() < p.Addr().BitLen()-12 {
				return first, last, fmt.Errorf("more than %d addresses", maxGroup)
			}
		}
		return first, last, nil
	}
	from, to, ranged := strings.Cut(text, "-")
	first, err = netip.ParseAddr(from)
	if err != nil || first.Zone() != "" || first.Is4In6() {
		return first, last, fmt.Errorf("not an address, a range of addresses or a mark")
	}
	if !ranged {
		return first, first, nil
	}
	if last, err = netip.ParseAddr(to); err != nil || last.Is4() != first.Is4() {
		end := strings.LastIndexAny(from, ".:")
		if last, err = netip.ParseAddr(from[:end+1] + to); err != nil || last.Zone() != "" || last.Is4() != first.Is4() {
			return first, last, fmt.Errorf("not a range of addresses")
		}
	}
	if last.Less(first) {
		return first, last, fmt.Errorf("the first address of the range comes first")
	}
	return first, last, nil
}
