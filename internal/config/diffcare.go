// SPDX-License-Identifier: MIT

package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

func (d deltas) director(before, now *Director) {
	switch {
	case before == nil && now == nil:
		return
	case before == nil:
		d.added("director", "director", "mode "+now.Mode)
		return
	case now == nil:
		d.removed("director", "director")
		return
	}
	d.timeouts(before.Timeouts, now.Timeouts)
	d = d.in("director", "")
	d.set("vips", "VIP", texts(before.VIPs), texts(now.VIPs))
	d.restart = "director"
	d.changed("interfaces", "interfaces", strings.Join(before.Interfaces, ", "), strings.Join(now.Interfaces, ", "))
	d.changed("mode", "mode", before.Mode, now.Mode)
	d.changed("local_clients", "local_clients", yes(before.LocalClients), yes(now.LocalClients))
	d.changed("connections", "connections", orDefault(before.Connections), orDefault(now.Connections))
	d.changed("vlans", "vlans", vlanTexts(before.VLANs), vlanTexts(now.VLANs))
}

func orDefault(n uint32) string {
	if n == 0 {
		return "the default"
	}
	return fmt.Sprint(n)
}

func vlanTexts(vlans map[string]VLAN) string {
	var all []string
	for name, v := range vlans {
		all = append(all, fmt.Sprintf("%s is %s/%d", name, v.Parent, v.ID))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (d deltas) realServer(before, now *RealServer) {
	d.restart = "real server"
	switch {
	case before == nil && now == nil:
		return
	case before == nil:
		d.added("realserver", "real server", counted(len(now.VIPs), "VIP")+" by "+now.Method)
		return
	case now == nil:
		d.removed("realserver", "real server")
		return
	}
	d = d.in("realserver", "")
	d.set("vips", "VIP", texts(before.VIPs), texts(now.VIPs))
	d.changed("method", "method", before.Method, now.Method)
	d.changed("ports", "ports", strings.Join(before.Ports, ", "), strings.Join(now.Ports, ", "))
	d.changed("agent", "agent", agentText(before.Agent), agentText(now.Agent))
}

func agentText(a *Agent) string {
	if a == nil {
		return ""
	}
	what := a.Report
	if len(a.Command) > 0 {
		what += " " + strings.Join(a.Command, " ")
	}
	if a.User != "" {
		what += " as " + a.User
	}
	if a.Full > 0 {
		what += fmt.Sprintf(" (of %d)", a.Full)
	}
	return fmt.Sprintf("%s at %s every %s (secret %s)", what, a.Listen, shortDuration(a.Interval), a.SecretFile)
}

func (d deltas) notify(before, now []Notify) {
	d.set("notify", "notify", notifyTexts(before), notifyTexts(now))
}

func notifyTexts(all []Notify) []string {
	var out []string
	for _, n := range all {
		text := "by log at level " + n.Log
		switch {
		case n.URL != "":
			text = "of " + n.URL + " within " + shortDuration(n.Timeout)
		case len(n.Command) > 0:
			text = "by " + strings.Join(n.Command, " ") + " within " + shortDuration(n.Timeout)
			if n.User != "" {
				text += " as " + n.User
			}
		}
		if len(n.On) > 0 {
			text += " on " + strings.Join(n.On, ", ")
		}
		out = append(out, text)
	}
	return out
}

// services compares the rules, and then what else services have.
func (d deltas) services(before, now []Service) {
	names := map[lvs.ServiceID]string{}
	byID := func(all []Service) (map[lvs.ServiceID]*Service, *lvs.Table) {
		m, t := map[lvs.ServiceID]*Service{}, &lvs.Table{}
		for i := range all {
			s := &all[i]
			names[s.Service.ServiceID] = s.Name
			m[s.Service.ServiceID] = s
			t.Services = append(t.Services, s.virtual())
			t.Marks = append(t.Marks, s.Marks...)
		}
		return m, t
	}
	was, oldTable := byID(before)
	_, newTable := byID(now) // names: those of now
	d.tables(oldTable, newTable, func(id lvs.ServiceID) string { return names[id] })
	d = d.in("services", "")
	for i := range now {
		if old := was[now[i].Service.ServiceID]; old != nil {
			d.in(now[i].Name, "service "+now[i].Name).care(old, &now[i])
		}
	}
}

// virtual is the service as a table has it.
func (s *Service) virtual() *lvs.VirtualService {
	v := s.Service
	v.Deny = slices.SortedFunc(slices.Values(s.Deny), netip.Prefix.Compare)
	v.Servers = nil
	for _, r := range slices.Backward(s.Servers) {
		v.Servers = append(v.Servers, r.Server)
	}
	return &v
}

// care compares what is no rule of a service.
func (d deltas) care(before, now *Service) {
	d.changed("name", "name", before.Name, now.Name)
	a, b := before.Care, now.Care
	d.changed("on_failure", "on_failure", failure(a), failure(b))
	d.changed("connections", "connections", a.Fate.String(), b.Fate.String())
	d.changed("sorry_server", "sorry server", sorryText(before), sorryText(now))
	d.changed("quorum", "quorum", quorumText(a), quorumText(b))
	d.changed("withdraw_vip", "withdraw_vip", yes(a.Withdraw), yes(b.Withdraw))
	d.changed("alpha", "alpha", yes(a.Alpha), yes(b.Alpha))
	d.changed("slow_start", "slow_start", shortDuration(a.SlowStart), shortDuration(b.SlowStart))
	d.changed("flap", "flap", flapText(a.Flap), flapText(b.Flap))
	d.changed("passive", "passive", passiveText(a.Passive), passiveText(b.Passive))
	d.serverCare(before, now)
}

// serverCare compares the servers' checks, names and agents: once if all servers
// have the same, else server by server.
func (d deltas) serverCare(before, now *Service) {
	type care struct {
		checks []health.Check
		any    bool
		weigh  *Weigh
	}
	common := func(s *Service) (care, bool) {
		var c care
		for i, r := range s.Servers {
			this := care{r.Checks, r.Any, r.Weigh}
			if i > 0 && !reflect.DeepEqual(c, this) {
				return c, false
			}
			c = this
		}
		return c, len(s.Servers) > 0
	}
	compare := func(d deltas, a, b care) {
		d.checks(a.checks, b.checks)
		d.changed("require", "require", requireText(a.any), requireText(b.any))
		d.changed("agent", "agent", weighText(a.weigh), weighText(b.weigh))
	}
	a, same1 := common(before)
	b, same2 := common(now)
	if same1 && same2 {
		compare(d, a, b)
	}
	for _, r := range now.Servers {
		i := slices.IndexFunc(before.Servers, func(o Server) bool { return o.Server.ServerID == r.Server.ServerID })
		if i < 0 {
			continue
		}
		old := before.Servers[i]
		rip := r.Server.Addr.String()
		below := d.in("servers", "").in(rip, "real server "+rip)
		below.changed("name", "name", old.Name, r.Name)
		if !same1 || !same2 {
			compare(below, care{old.Checks, old.Any, old.Weigh}, care{r.Checks, r.Any, r.Weigh})
		}
	}
}

// checks compares lists of checks: key by key if they are of the same kinds.
func (d deltas) checks(before, now []health.Check) {
	names := func(all []health.Check) string {
		var out []string
		for _, c := range all {
			out = append(out, checkName(c))
		}
		return strings.Join(out, ", ")
	}
	alike := func(a, b health.Check) bool { return a.Kind == b.Kind && checkName(a) == checkName(b) }
	if !slices.EqualFunc(before, now, alike) {
		d.changed("checks", "checks", names(before), names(now))
		return
	}
	for i := range now {
		below := d.in("checks", "").in(checkName(now[i]), "check "+checkName(now[i]))
		was, is := checkSettings(before[i]), checkSettings(now[i])
		for j := range is {
			below.changed(is[j].Name, is[j].Name, was[j].Value, is[j].Value)
		}
		for _, h := range []struct {
			key    string
			before []health.Header
			now    []health.Header
		}{{"headers", before[i].HTTP.Headers, now[i].HTTP.Headers}, {"answer_headers", before[i].HTTP.Answer, now[i].HTTP.Answer}} {
			if slices.Equal(headerNames(h.before), headerNames(h.now)) && !slices.Equal(h.before, h.now) {
				below.changed(h.key, "values of "+h.key, "those of before", "others")
			}
		}
	}
}

func failure(c Care) string {
	if c.Remove {
		return "remove"
	}
	return "quiesce"
}

func sorryText(s *Service) string {
	if s.Sorry == nil {
		return ""
	}
	return s.Sorry.Addr.String()
}

func quorumText(c Care) string { return fmt.Sprintf("up %d, down %d", c.QuorumUp, c.QuorumDown) }

func flapText(f health.Flap) string {
	if f == (health.Flap{}) {
		return ""
	}
	return fmt.Sprintf("%d changes within %s, held %s", f.Changes, shortDuration(f.Within), shortDuration(f.Hold))
}

func passiveText(p *health.Passive) string {
	if p == nil {
		return "off"
	}
	return fmt.Sprintf("window %s, minimum %d, unanswered %s, resets %s, hold %s, most out %s", shortDuration(p.Window), p.Minimum,
		percent(p.Unanswered), percent(p.Resets), shortDuration(p.Hold), percent(p.MostOut))
}

func requireText(anyOf bool) string {
	if anyOf {
		return "any"
	}
	return "all"
}

func weighText(w *Weigh) string {
	if w == nil {
		return ""
	}
	protocol := "shunt"
	if w.HAProxy {
		protocol = "haproxy"
	}
	return fmt.Sprintf("%s at port %d every %s, weight %d%%-%d%%%s", protocol, w.Port, shortDuration(w.Interval), w.Least, w.Most, secretText(w.SecretFile))
}

func secretText(file string) string {
	if file == "" {
		return ""
	}
	return ", secret " + file
}
