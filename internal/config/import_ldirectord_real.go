// SPDX-License-Identifier: MIT

package config

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// real makes servers of a real.
func (v *ldVirtual) real(d *directive) error {
	m := ldReal.FindStringSubmatch(d.value)
	if m == nil {
		return v.fail(d.importPlace, d.value, "", "%s takes ADDRESS[->ADDRESS][:PORT] gate|masq|ipip [WEIGHT] [\"REQUEST\", \"RECEIVE\"], not %q", d.key, d.value)
	}
	r := importedServer{at: d.importPlace, weight: lvs.DefaultWeight}
	first, err := v.hostAddr(d, m[1], &r.comments)
	if err != nil {
		return err
	}
	last := first
	if m[2] != "" {
		if last, err = v.hostAddr(d, m[2], &r.comments); err != nil {
			return err
		}
		if v.six {
			return v.fail(d.importPlace, m[2], "", "there are no ranges of IPv6 addresses")
		}
		if last.Less(first) {
			return v.fail(d.importPlace, m[2], "", "the first address of a range comes first")
		}
	}
	port := uint16(0)
	if m[3] != "" {
		if port, err = v.portOf(d, m[3], v.id.Protocol); err != nil {
			return err
		}
	}
	request, receive, rest := v.request, v.receive, m[5]
	if w := ldWeight.FindStringSubmatch(rest); w != nil {
		if r.weight, err = v.number(d.importPlace, "weight", w[1], 0, 1<<31-1); err != nil {
			return err
		}
		rest = w[2]
	}
	own := false
	if q := ldRequest.FindStringSubmatch(rest); q != nil {
		own, request, receive = true, "/"+strings.TrimPrefix(q[1], "/"), &directive{d.importPlace, "receive", q[2]}
		rest = q[3]
	}
	for _, letter := range []string{"l", "u"} {
		l := ldLimit.FindStringSubmatch(rest)
		if l == nil || l[1] != letter {
			continue
		}
		n, err := v.number(d.importPlace, "threshold", l[2], 0, 1<<31-1)
		if err != nil {
			return err
		}
		if rest = l[3]; letter == "l" {
			r.lower = n
		} else {
			r.upper = n
		}
	}
	switch {
	case strings.TrimSpace(rest) != "":
		return v.fail(d.importPlace, strings.TrimSpace(rest), "", "what is %q in a line of %s?", strings.TrimSpace(rest), d.key)
	case r.lower > r.upper:
		return v.fail(d.importPlace, "l:", "", "the lower threshold %d is above the upper one, %d", r.lower, r.upper)
	}
	r.comments = append(r.comments, v.forwarded(d, m[4], port)...)
	negotiates := (v.check == "negotiate" || v.check == "combined") && v.service != "none"
	if own && (!negotiates || slices.Contains([]string{"smtp", "submission"}, v.service)) {
		r.comments = append(r.comments, d.comment("no check needs its request"))
	}
	return v.realRange(d, r, first, last, port, request, receive, own)
}

// realRange adds a server for each address of a range.
func (v *ldVirtual) realRange(d *directive, r importedServer, first, last netip.Addr, port uint16, request string, receive *directive, own bool) error {
	if v.check == "off" {
		r.weight = 0
	}
	for a := first; ; a = a.Next() {
		if len(v.servers) == maxGroup {
			return v.fail(d.importPlace, "", "", "more than %d servers", maxGroup)
		}
		s := r
		s.addr = a.String()
		if a != first {
			s.comments = nil
		}
		v.checks(&s, d, port, request, receive, own)
		v.servers = append(v.servers, &s)
		if a == last {
			return nil
		}
	}
}

// forwarded says what becomes of a server that is not reached by direct routing,
// or on another port.
func (v *ldVirtual) forwarded(d *directive, method string, port uint16) []importComment {
	mapped := port != 0 && v.id.Mark == 0 && port != v.id.Port
	switch {
	case method != "gate":
		return []importComment{d.comment("%s", v.notDirect(map[string]string{"masq": "NAT", "ipip": "a tunnel"}[method], v.importedService, port))}
	case mapped:
		return []importComment{d.comment("direct routing maps no ports: it is port %d, as ldirectord takes it, too", v.id.Port)}
	}
	return nil
}

var ldFallback = regexp.MustCompile(`^(\S+?)(?::([A-Za-z0-9_-]+))?(?:\s+(\S+))?$`)

// sorryServer makes a sorry server of a fallback.
func (v *ldVirtual) sorryServer(f *ldFile) error {
	d := v.fallback
	if d == nil {
		if d = f.ldSettings.fallback; v.six {
			d = f.fallback6
		}
	}
	if d == nil {
		return nil
	}
	v.used[d.key] = true
	value := d.value
	m := ldFallback.FindStringSubmatch(value)
	if m == nil {
		return v.fail(d.importPlace, value, "", "%s takes ADDRESS[:PORT] [gate|masq|ipip], not %q", d.key, value)
	}
	if v.six && !strings.HasSuffix(m[1], "]") { // the last part is no port
		m = []string{"", strings.Fields(value)[0], "", m[3]}
	}
	method := m[3]
	if method == "" {
		method = "gate"
	}
	if !slices.Contains([]string{"gate", "masq", "ipip"}, method) {
		return v.fail(d.importPlace, method, "", "a forwarding method is gate, masq or ipip, not %q", method)
	}
	addr, err := v.hostAddr(d, m[1], &v.sorryAt)
	if err != nil {
		return err
	}
	port := uint16(0)
	if m[2] != "" {
		if port, err = v.portOf(d, m[2], v.id.Protocol); err != nil {
			return err
		}
	}
	v.sorry = addr.String()
	v.sorryAt = append(v.sorryAt, v.forwarded(d, method, port)...)
	return nil
}
