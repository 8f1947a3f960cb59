// SPDX-License-Identifier: MIT

package config

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/shunt-lvs/shunt/internal/lvs"
	"github.com/shunt-lvs/shunt/internal/realserver"
)

// Parse reads a file; name is what it is called in errors. All that is wrong with
// it is in one error, of type Errors; then there is no Config.
func Parse(name string, text []byte) (*Config, error) {
	c, _, err := parse(name, text)
	return c, err
}

func parse(name string, text []byte) (*Config, *fileKeys, error) {
	ps := newProblems(name, text)
	r, c := resolved(ps, text)
	if err := ps.err(); r == nil || err != nil {
		return nil, nil, err
	}
	return c, r.file, nil
}

// resolved is a file as far as it can be understood; nil if it is no YAML.
func resolved(ps *problems, text []byte) (*resolver, *Config) {
	root := parseYAML(ps, text)
	if root == nil {
		return nil, nil
	}
	file := &fileKeys{}
	r := &reader{problems: ps, known: map[reflect.Type][]field{}}
	r.into(root, reflect.ValueOf(file), wholeFile, "")
	v := newResolver(ps, file)
	return v, v.resolve()
}

// resolver makes a Config of what a file says: names are looked up, defaults
// filled in, and what only the whole tells is checked.
type resolver struct {
	*problems
	file     *fileKeys
	names    map[string]*node        // of services
	services map[lvs.ServiceID]*node // that there are already
	where    map[written]*node
	draft    *lvs.Draft // the rules so far, which the nouns check
}

func newResolver(ps *problems, file *fileKeys) *resolver {
	return &resolver{problems: ps, file: file, names: map[string]*node{}, services: map[lvs.ServiceID]*node{},
		where: map[written]*node{}, draft: lvs.NewTable().Draft()}
}

func (r *resolver) resolve() *Config {
	c := &Config{}
	for i := range r.file.Checks.Items {
		r.namedCheck(&r.file.Checks.Items[i])
	}
	if d := r.file.Defaults; d != nil {
		r.unusedDefaults(&d.careKeys)
	}
	for i := range r.file.Services.Items {
		if s, ok := r.service(&r.file.Services.Items[i]); ok {
			c.Services = append(c.Services, s)
		}
	}
	if r.file.Director != nil || r.file.Services.given() {
		c.Director = r.director(c.Services)
	}
	if r.file.RealServer != nil {
		c.RealServer = r.realServer(r.file.RealServer)
	}
	for i := range r.file.Notify.Items {
		c.Notify = append(c.Notify, r.notify(&r.file.Notify.Items[i]))
	}
	return c
}

func (r *resolver) director(services []Service) *Director {
	k := r.file.Director
	if k == nil {
		k = &directorKeys{}
	}
	d := &Director{
		Section:      r.file.Director != nil,
		Interfaces:   values(k.Interfaces),
		Mode:         k.Mode.or("auto"),
		LocalClients: k.LocalClients.V,
		Connections:  uint32(k.Connections.V),
		Timeouts:     lvs.DefaultTimeouts(),
	}
	r.unique(k.Interfaces, "interface")
	for _, a := range k.VIPs.Items {
		if a.given() && r.vip(a.V, a.node) {
			if slices.Contains(d.VIPs, a.V) {
				r.add(a.node, "", "VIP %v is there already", a.V)
			} else {
				d.VIPs = append(d.VIPs, a.V)
			}
		}
	}
	there := map[netip.Addr]bool{}
	for _, a := range d.VIPs {
		there[a] = true
	}
	for i := range services {
		for _, a := range services[i].vips() {
			if !there[a] {
				there[a] = true
				d.VIPs = append(d.VIPs, a)
			}
		}
	}
	for _, v := range k.VLANs.Items {
		if v.Value.given() {
			if d.VLANs == nil {
				d.VLANs = map[string]VLAN{}
			}
			d.VLANs[v.Name.V] = vlanOf(v.Value.V)
		}
	}
	if t := k.Timeouts; t != nil {
		for _, v := range []struct {
			from duration
			to   *uint32
		}{{t.TCP, &d.Timeouts.TCP}, {t.TCPFin, &d.Timeouts.TCPFin}, {t.UDP, &d.Timeouts.UDP}} {
			if v.from.given() {
				*v.to = uint32(v.from.V.Seconds())
			}
		}
	}
	return d
}

// vip checks an address that clients are to reach.
func (r *resolver) vip(a netip.Addr, at *node) bool {
	if _, err := realserver.ParseAddr(a.String()); err != nil {
		r.add(at, "", "%v is no address that clients can reach", a)
		return false
	}
	return true
}

// vips are the addresses that a service is about.
func (s *Service) vips() []netip.Addr {
	if s.Service.Mark == 0 {
		return []netip.Addr{s.Service.Addr}
	}
	var all []netip.Addr
	for _, m := range s.Marks {
		all = append(all, m.Addr)
	}
	return all
}

func (r *resolver) unique(l list[text], what string) {
	seen := map[string]bool{}
	for _, t := range l.Items {
		if t.given() && seen[t.V] {
			r.add(t.node, "", "%s %s is there already", what, t.V)
		}
		seen[t.V] = true
	}
}

func (r *resolver) realServer(k *realServerKeys) *RealServer {
	s := &RealServer{Method: k.Method.or("loopback"), Ports: values(k.Ports)}
	for _, a := range k.VIPs.Items {
		if a.given() && r.vip(a.V, a.node) {
			if slices.Contains(s.VIPs, a.V) {
				r.add(a.node, "", "VIP %v is there already", a.V)
			}
			s.VIPs = append(s.VIPs, a.V)
		}
	}
	switch {
	case k.VIPs.given() && len(k.VIPs.Items) == 0:
		r.add(k.VIPs.node, "", "realserver needs at least one VIP")
	case s.Method == "loopback" && k.Ports.given():
		r.add(k.Ports.node, "", "ports belong to method redirect: loopback accepts every port")
	case s.Method == "redirect" && len(s.Ports) == 0 && (!k.Ports.given() || len(k.Ports.Items) == 0):
		r.add(k.Ports.at(k.Method.node), "", "method redirect needs to know what to redirect: ports: [80/tcp]")
	}
	r.clashes(k.Ports)
	if k.Agent != nil && k.Agent.given() {
		s.Agent = r.report(k.Agent)
	}
	return s
}

// clashes finds ports that are redirected twice.
func (r *resolver) clashes(ports list[text]) {
	type origin struct {
		port     uint16
		protocol lvs.Protocol
	}
	seen := map[origin]*node{}
	for _, t := range ports.Items {
		p, err := realserver.ParsePort(t.V)
		if !t.given() || err != nil {
			continue
		}
		o := origin{p.Port, p.Protocol}
		if first := seen[o]; first != nil {
			r.add(t.node, "", "port %s is redirected already, by %s on line %d", t.V, first.text, first.line)
			continue
		}
		seen[o] = t.node
	}
}

func (r *resolver) report(k *reportKeys) *Agent {
	a := &Agent{Listen: k.Listen.V, SecretFile: k.SecretFile.V, Report: k.Report.or("cpu"), Interval: k.Interval.or(second)}
	a.Command = r.command(k.Command, a.Report == "script", "report script", k.node)
	if a.User = k.User.V; k.User.given() && a.Report != "script" {
		r.add(k.User.node, "", "user belongs to report script")
	}
	if a.Report == "connections" {
		a.Full = 1000
	}
	if k.Full.given() {
		if a.Full = int(k.Full.V); a.Report != "connections" {
			r.add(k.Full.node, "", "full belongs to report connections")
		}
	}
	return a
}

// command checks a program with its arguments.
func (r *resolver) command(l list[text], wanted bool, by string, at *node) []string {
	words := values(l)
	switch {
	case !wanted && l.given():
		r.add(l.node, "", "command belongs to %s", by)
	case !l.given() && wanted:
		r.add(at, "", "%s needs a command", by)
	case l.given() && len(l.Items) == 0:
		r.add(l.node, "", "command is empty: [/path/of/program, argument]")
	case len(words) > 0 && l.Items[0].given() && !filepath.IsAbs(words[0]):
		r.add(l.Items[0].node, "", "command takes the absolute path of a program, not %s", words[0])
	}
	return words
}

func (r *resolver) notify(k *notifyKeys) Notify {
	n := Notify{Command: r.command(k.Command, k.Command.given(), "", k.node), URL: k.URL.V, Log: k.Log.V,
		Timeout: k.Timeout.or(10 * second), User: k.User.V}
	for _, w := range k.On.Items {
		if w.given() {
			if slices.Contains(n.On, w.V) {
				r.add(w.node, "", "on: %s is there already", w.V)
			}
			n.On = append(n.On, w.V)
		}
	}
	if k.User.given() && !k.Command.given() {
		r.add(k.User.node, "", "user belongs to a command")
	}
	if k.Timeout.given() && k.Log.given() {
		r.add(k.Timeout.node, "", "timeout belongs to a command or a url")
	}
	return n
}

// values are the texts of a list, those that are right.
func values(l list[text]) []string {
	var all []string
	for _, t := range l.Items {
		if t.given() {
			all = append(all, t.V)
		}
	}
	return all
}
