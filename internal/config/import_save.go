// SPDX-License-Identifier: MIT

package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/lvs"
	"github.com/shunt-lvs/shunt/internal/realserver"
)

// savedServer is whose line it was.
type savedServer struct {
	service lvs.ServiceID
	server  lvs.ServerID
}

// ipvsadmSave imports rules: what ipvsadm -S prints, and what shunt's own has
// besides.
func (i *importer) ipvsadmSave(text []byte) error {
	table := lvs.NewTable()
	services, servers := map[lvs.ServiceID]importPlace{}, map[savedServer]importPlace{}
	named := map[importPlace]bool{}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		at := importPlace{line: number, text: strings.TrimRight(line, "\r\n")}
		changes, err := ipvsadm.ParseRulesWith(i.lookup, strings.NewReader(line))
		if err != nil {
			if rule, ok := errors.AsType[*ipvsadm.RuleError](err); ok {
				err = rule.Err
			}
			return i.fail(at, "", "", "%v", err)
		}
		if _, err := ipvsadm.ParseRulesWith(ipvsadm.Names{}, strings.NewReader(line)); err != nil {
			named[at] = true // it needs names
		}
		for _, c := range changes {
			if err := table.Apply(c); err != nil {
				word := ""
				if errors.Is(err, lvs.ErrUnknownScheduler) && c.Service.Engine == "" {
					word = string(c.Service.Scheduler)
				}
				return i.fail(at, word, nearest(word, schedulerNames()), "%v", err)
			}
			switch c.Operation {
			case lvs.AddMark:
				if _, err := realserver.ParseAddr(c.Mark.Addr.String()); err != nil {
					return i.fail(at, "", "", "%v is no address that clients can reach", c.Mark.Addr)
				}
			case lvs.AddService, lvs.EditService:
				services[c.Service.ServiceID] = at
			case lvs.AddServer, lvs.EditServer:
				servers[savedServer{c.Service.ServiceID, c.Server.ServerID}] = at
			}
		}
	}
	if table.Timeouts != lvs.DefaultTimeouts() {
		t := table.Timeouts
		i.timeouts = []string{"tcp: " + yamlSeconds(int(t.TCP)), "tcpfin: " + yamlSeconds(int(t.TCPFin)), "udp: " + yamlSeconds(int(t.UDP))}
	}
	if len(table.Services) > 0 {
		i.note("ipvsadm has no checks, so these services have none. Without the line 'checks: []' a service has shunt's: a TCP connection through the VIP to each server, every 2 s.")
	}
	for _, v := range table.Services {
		s := i.savedService(services[v.ServiceID], v)
		if named[s.at] {
			s.comment(s.at.comment("its names are what they were when this was imported"))
		}
		for _, m := range table.Marks {
			if m.ServiceID() == v.ServiceID {
				s.match = append(s.match, matchText(m))
			}
		}
		if v.Mark != 0 && len(s.match) == 0 {
			i.unmarked(s, s.at)
		}
		for _, r := range slices.Backward(v.Servers) {
			at := servers[savedServer{v.ServiceID, r.ServerID}]
			i.savedServer(s, at, r)
			if named[at] {
				last := s.servers[len(s.servers)-1]
				last.comments = append(last.comments, at.comment("its names are what they were when this was imported"))
			}
		}
		i.services = append(i.services, s)
	}
	if len(i.services) > 0 {
		i.switches()
	}
	return nil
}

func schedulerNames() []string {
	var names []string
	for _, s := range lvs.Schedulers() {
		names = append(names, string(s))
	}
	return names
}

func (i *importer) savedService(at importPlace, v *lvs.VirtualService) *importedService {
	s := &importedService{at: at, id: v.ServiceID, scheduler: string(v.Scheduler), flags: v.Flags, onePacket: v.Flags&lvs.FlagOnePacket != 0}
	if v.Persistent() {
		s.persistence = persistenceText(v)
	}
	if v.Engine != "" {
		s.comment(at.comment("shunt has no persistence engines: clients stick by their address"))
	}
	for _, set := range v.Policy.Settings() {
		switch set.Name {
		case "source-limit":
			s.sourceLimit = set.Value
		case "stray", "conn-reuse-mode":
			s.policy = append(s.policy, yamlPair{strings.ReplaceAll(set.Name, "-", "_"), set.Value})
		default:
			s.policy = append(s.policy, yamlPair{strings.ReplaceAll(set.Name, "-", "_"), fmt.Sprint(set.Value == "1")})
		}
	}
	for _, p := range v.Deny {
		s.deny = append(s.deny, yamlText(p.String()))
	}
	return s
}

func (i *importer) savedServer(s *importedService, at importPlace, r lvs.RealServer) {
	out := &importedServer{at: at, addr: r.Addr.String(), weight: int(r.Weight), upper: int(r.Upper), lower: int(r.Lower)}
	switch r.Forward {
	case lvs.Masquerade:
		out.comments = append(out.comments, at.comment("%s", i.notDirect("NAT", s, r.Port)))
	case lvs.Tunnel:
		out.comments = append(out.comments, at.comment("%s", i.notDirect("a tunnel", s, r.Port)))
	}
	s.servers = append(s.servers, out)
}

// notDirect says what becomes of a server with another forwarding method.
func (i *importer) notDirect(method string, s *importedService, port uint16) string {
	i.note("shunt forwards by direct routing only: a real server needs a path on the link, and takes packets to the VIP ('shunt realserver start --vip VIP' sees to it). Replies go straight to the client, so with NAT its gateway need not be the director any more.")
	if port != 0 && s.id.Mark == 0 && port != s.id.Port {
		i.note("Direct routing maps no ports. Where a real server listens on another port than its service, it maps the port itself, on each of them: 'shunt realserver start --method redirect --vip %v --port %d/%s:%d'.",
			s.id.Addr, s.id.Port, strings.ToLower(s.id.Protocol.String()), port)
		return fmt.Sprintf("it was reached by %s, and on port %d: here it is by direct routing, and maps the port itself", method, port)
	}
	return fmt.Sprintf("it was reached by %s: here it is by direct routing", method)
}

// unmarked makes a comment of a service whose mark a firewall gives.
func (i *importer) unmarked(s *importedService, at importPlace) {
	s.disabled = true
	s.before = append(s.before, at.comment("shunt comes before any firewall, so it is told here which packets are of the mark: write the VIPs, protocols and ports into match, and take the # away from the lines of this service"))
}

// persistenceText is "6m", or with a mask "{timeout: 6m, mask: 255.255.255.0}".
func persistenceText(v *lvs.VirtualService) string {
	timeout := yamlSeconds(int(v.Timeout))
	switch {
	case v.Is6() && v.Netmask != 128:
		return fmt.Sprintf("{timeout: %s, mask: %d}", timeout, v.Netmask)
	case !v.Is6() && v.Netmask != 0xffffffff:
		m := v.Netmask
		return fmt.Sprintf("{timeout: %s, mask: %v}", timeout, netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}))
	}
	return timeout
}

func matchText(m lvs.MarkRule) string {
	text := strings.ToLower(m.Protocol.String()) + " " + netip.AddrPortFrom(m.Addr, m.First).String()
	if m.First == 0 {
		text = strings.TrimSuffix(text, ":0")
	}
	if m.Last != m.First {
		text += fmt.Sprintf("-%d", m.Last)
	}
	if m.Addr.Is6() {
		return yamlText(text)
	}
	return text
}

func yamlSeconds(n int) string { return yamlDuration(time.Duration(n) * time.Second) }
