// SPDX-License-Identifier: MIT

package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// virtualServer is a virtual_server with all that is in it.
type virtualServer struct {
	*keepalivedFile
	*importedService
	at         *statement
	pace       keepalivedPace
	host       string // virtualhost
	method     string // NAT, DR or TUN
	inhibit    bool
	quorum     int
	hysteresis int
	quorumAt   *statement
	granular   *statement
	timeout    int // persistence; 0: none
	sorryMeth  *statement
	sorryS     *statement
	six        bool
	inhibits   map[*importedServer]bool
	inhibitAt  []*statement
	alphaAt    []*statement // of real servers and checks
}

// virtualServer makes a service of a virtual_server, or several of one of a group.
func (k *keepalivedFile) virtualServer(s *statement) error {
	ids, comments, err := k.identify(s)
	if err != nil {
		return err
	}
	for n, id := range ids {
		v := &virtualServer{keepalivedFile: k, importedService: &importedService{at: s.importPlace, id: id, scheduler: string(lvs.DefaultScheduler), cared: true},
			at: s, six: id.Is6(), pace: keepalivedDefaults(), inhibits: map[*importedServer]bool{}}
		v.comments = comments
		if err := v.read(); err != nil {
			return err
		}
		if len(v.servers) == 0 {
			k.lost = append(k.lost, dump(s, "a virtual server without real servers: keepalived leaves it out, too")...)
			return nil
		}
		if n > 0 { // what there is to say was said of the first
			v.before, v.comments, v.sorryAt = []importComment{importRemark("Of the same group as the one above.")}, nil, nil
			for _, r := range v.servers {
				r.comments = nil
				for _, c := range r.checks {
					c.comments = nil
				}
			}
		}
		if id.Mark != 0 {
			k.unmarked(v.importedService, s.importPlace)
		}
		k.services = append(k.services, v.importedService)
	}
	return nil
}

// read reads all lines of a virtual server.
func (v *virtualServer) read() error {
	v.comments = append(slices.Clip(v.comments), oddities(v.at)...)
	for _, c := range v.at.inner {
		if c.name() == "real_server" {
			continue
		}
		if err := v.keyword(c); err != nil {
			return err
		}
	}
	if err := v.complete(); err != nil {
		return err
	}
	for _, c := range v.at.inner {
		if c.name() == "real_server" {
			if err := v.realServer(c); err != nil {
				return err
			}
		}
	}
	if len(v.servers) == 0 {
		return nil
	}
	return v.finish()
}

// keyword is a line of a virtual server that is not about a real server.
func (v *virtualServer) keyword(s *statement) error {
	if s.skipped != "" {
		v.comment(s.comment("%s", s.skipped))
		return nil
	}
	if handled, err := v.pace.read(v.keepalivedFile, s); handled || err != nil {
		return err
	}
	var err error
	switch s.name() {
	case "protocol":
	case "ip_family":
		if v.id.Mark == 0 {
			v.comment(s.comment("the address says which family it is"))
		}
	case "lb_algo", "lvs_sched":
		v.scheduler = s.word(1)
		if !lvs.Scheduler(v.scheduler).Known() {
			return v.fail(s.importPlace, v.scheduler, nearest(v.scheduler, schedulerNames()), "unknown scheduler %q", v.scheduler)
		}
	case "lb_kind", "lvs_method":
		v.method, err = v.forwarding(s)
		if err == nil && v.method != "DR" {
			v.notDirect(v.method, v.importedService, 0)
			v.comment(s.comment("here it is direct routing"))
		}
	case "flag-1", "sh-fallback", "mh-fallback":
		v.flags |= lvs.FlagSched1
	case "flag-2", "sh-port", "mh-port":
		v.flags |= lvs.FlagSched2
	case "flag-3":
		v.flags |= lvs.FlagSched3
	case "ops":
		if v.id.Mark == 0 && v.id.Protocol != lvs.UDP {
			v.comment(s.comment("one-packet scheduling is for UDP; keepalived leaves it out, too"))
		} else {
			v.onePacket = true
		}
	case "persistence_timeout":
		v.timeout = lvs.DefaultPersistence
		if s.word(1) != "" {
			v.timeout, err = v.number(s.importPlace, s.name(), s.word(1), 1, lvs.MaxTimeout)
		}
	case "persistence_granularity":
		v.granular = s
	case "quorum":
		v.quorumAt = s
		v.quorum, err = v.number(s.importPlace, s.name(), s.word(1), 1, 1<<31-1)
	case "hysteresis":
		v.hysteresis, err = v.number(s.importPlace, s.name(), s.word(1), 0, 1<<31-1)
	case "alpha":
		v.alpha, err = v.boolean(s)
	case "inhibit_on_failure":
		v.inhibitAt = append(v.inhibitAt, s)
		v.inhibit, err = v.boolean(s)
	case "virtualhost":
		v.host = s.word(1)
	case "snmp_name":
		v.nameIt(s)
	case "sorry_server":
		v.sorryS = s
	case "sorry_server_lvs_method", "sorry_server_lb_kind":
		v.sorryMeth = s
	case "sorry_server_inhibit":
		v.comment(s.comment("the sorry server is in the table while it is needed only"))
	default:
		v.comments = append(v.comments, dump(s, v.serverReason(s))...)
	}
	return err
}

// singles are the keywords that count once in a block, and how many words they
// may have, their name included.
var singles = map[string]int{"delay_loop": 2, "connect_timeout": 2, "delay_before_retry": 2, "retry": 2, "nb_get_retry": 2, "lb_algo": 2, "lvs_sched": 2,
	"lb_kind": 7, "lvs_method": 7, "persistence_timeout": 2, "persistence_granularity": 2, "protocol": 2, "ip_family": 2, "quorum": 2, "hysteresis": 2,
	"alpha": 2, "inhibit_on_failure": 2, "virtualhost": 2, "snmp_name": 2, "sorry_server": 3, "weight": 2, "uthreshold": 2, "lthreshold": 2,
	"ops": 1, "connect_port": 2, "connect_ip": 2, "helo_name": 2, "type": 2, "name": 2, "misc_timeout": 2, "misc_path": 1 << 10, "user": 3, "path": 2, "digest": 2,
	"regex": 2, "enable_sni": 2, "http_protocol": 2, "payload": 1 << 10, "require_reply": 1 << 10, "status_code": 1 << 10, "regex_options": 1 << 10}

// oddities finds what keepalived passes over in a block: words that are too many,
// and what is said again.
func oddities(block *statement) (out []importComment) {
	last := map[string]*statement{}
	for _, s := range block.inner {
		most, single := singles[s.name()]
		if !single {
			continue
		}
		if len(s.words) > most {
			out = append(out, s.comment("what follows %s is not looked at, nor is it by keepalived", s.word(most-1)))
		}
		if before := last[s.name()]; before != nil {
			out = append(out, before.comment("%s is said again, by line %d, and that counts", s.name(), s.line))
		}
		last[s.name()] = s
	}
	return out
}

// nameIt takes the name that SNMP knows a virtual server by.
func (v *virtualServer) nameIt(s *statement) {
	if v.name != "" || !v.called(s.word(1)) {
		v.comment(s.comment("a name is of letters, digits, dots and dashes, and once in a file"))
		return
	}
	v.name = s.word(1)
}

// serverReason is why a line of a virtual or real server has no equivalent.
func (v *virtualServer) serverReason(s *statement) string {
	told := func(on string) string {
		if words := s.words[1:]; len(words) > 0 {
			return fmt.Sprintf("who is told is said under notify, for all services: {command: %s, on: [%s]}. What happened is in the program's environment (SHUNT_…), not in its arguments", yamlTexts(scriptWords(words)), on)
		}
		return "who is told is said under notify"
	}
	switch s.name() {
	case "quorum_up", "quorum_down":
		return told("service")
	case "notify_up", "notify_down":
		return told("server")
	case "ha_suspend":
		return "a director has the VIPs of its services while it runs, so there is no time without them in which not to check"
	case "omega":
		return "a stop of shunt is no failure of servers: nobody is told"
	case "smtp_alert":
		return noMail
	case "warmup":
		return "shunt spreads its checks by itself (see jitter)"
	case "persistence_engine":
		return "shunt has no persistence engines: clients stick by their address"
	case "nat_mask", "est_timeout":
		return "keepalived does nothing with it"
	}
	return fmt.Sprintf("%s is not known here: keepalived 2.2 does not have it at this place", s.name())
}

func (k *keepalivedFile) boolean(s *statement) (bool, error) {
	switch strings.ToLower(s.word(1)) {
	case "", "on", "true", "yes":
		return true, nil
	case "off", "false", "no":
		return false, nil
	}
	return false, k.fail(s.importPlace, s.word(1), "", "%s takes on or off, not %q", s.name(), s.word(1))
}

func (k *keepalivedFile) forwarding(s *statement) (string, error) {
	method := s.word(1)
	if !slices.Contains([]string{"NAT", "DR", "TUN"}, method) {
		return "", k.fail(s.importPlace, method, nearest(method, []string{"NAT", "DR", "TUN"}), "%s is NAT, DR or TUN, not %q", s.name(), method)
	}
	return method, nil
}

// complete fills in what keepalived fills in.
func (v *virtualServer) complete() error {
	if v.method == "" {
		v.method = "NAT"
		v.notDirect("NAT", v.importedService, 0)
		v.comment(v.at.comment("it names no lvs_method, and to keepalived that is NAT: here it is direct routing"))
	}
	if v.timeout == 0 && v.id.Mark == 0 && v.id.Port == 0 {
		v.timeout = lvs.DefaultPersistence
		v.comment(v.at.comment("it names no port, and every port needs persistence: 6 minutes, as keepalived has it"))
	}
	if v.timeout > 0 {
		v.persistence = yamlSeconds(v.timeout)
	}
	s := v.granular
	switch {
	case s == nil:
		return nil
	case v.timeout == 0:
		v.comment(s.comment("without persistence_timeout it means nothing"))
		return nil
	}
	mask := s.word(1)
	if v.six {
		if _, err := v.number(s.importPlace, s.name(), mask, 1, 128); err != nil {
			return err
		}
	} else if a, err := netip.ParseAddr(mask); err != nil || !a.Is4() {
		return v.fail(s.importPlace, mask, "", "%s takes a mask such as 255.255.255.0, not %q", s.name(), mask)
	}
	v.persistence = fmt.Sprintf("{timeout: %s, mask: %s}", v.persistence, mask)
	return nil
}

// finish decides what needs all of the real servers.
func (v *virtualServer) finish() error {
	if err := v.sorryServer(); err != nil {
		return err
	}
	v.quorums()
	v.inhibitions()
	for _, s := range v.alphaAt {
		if on, _ := v.boolean(s); on != v.alpha {
			v.comment(s.comment("shunt has alpha by service only"))
		}
	}
	return nil
}

func (v *virtualServer) sorryServer() error {
	s := v.sorryS
	if s == nil {
		if v.sorryMeth != nil {
			v.comment(v.sorryMeth.comment("there is no sorry server"))
		}
		return nil
	}
	addr, port, err := v.addrPort(s, 1)
	if err != nil {
		return err
	}
	method := v.method
	if v.sorryMeth != nil {
		if method, err = v.forwarding(v.sorryMeth); err != nil {
			return err
		}
	}
	if addr.Is6() != v.six {
		v.sorryAt = append(v.sorryAt, s.comment("a server of another address family can be reached by a tunnel only, and shunt forwards by direct routing"))
		return nil
	}
	v.sorry = addr.String()
	var r importedServer
	v.forwarded(&r, s, method, port)
	v.sorryAt = append(v.sorryAt, r.comments...)
	return nil
}

// quorums makes numbers of servers of sums of weights.
func (v *virtualServer) quorums() {
	if v.quorumAt == nil && v.hysteresis == 0 {
		return
	}
	at := v.at
	if v.quorumAt != nil {
		at = v.quorumAt
	}
	total, able, equal, weight := 0, 0, true, 0 // of those that may get connections
	for _, r := range v.servers {
		if r.weight == 0 {
			continue
		}
		able++
		total += r.weight
		equal = equal && (weight == 0 || r.weight == weight)
		weight = r.weight
	}
	quorum := max(v.quorum, 1)
	if quorum > total {
		v.comment(at.comment("more than all real servers weigh, %d: it is that, as keepalived takes it, too", total))
		quorum = max(total, 1)
	}
	hysteresis := v.hysteresis
	if hysteresis >= quorum {
		hysteresis = quorum - 1
		v.comment(at.comment("the hysteresis is not less than the quorum: it is %d, as keepalived takes it, too", hysteresis))
	}
	if weight = max(weight, 1); !equal {
		weight = max(1, total/able)
		v.comment(at.comment("keepalived adds up weights, shunt counts servers, and they do not weigh the same here: these numbers are for the mean weight of %d", weight))
	} else if weight > 1 {
		v.comment(importRemark("keepalived adds up weights (%d each), shunt counts servers.", weight))
	}
	least := func(sum int) int { return min(max(1, (sum+weight-1)/weight), max(able, 1)) }
	v.up, v.down = least(quorum+hysteresis), least(quorum-hysteresis)
}

// inhibitions decides for the service what keepalived has by real server.
func (v *virtualServer) inhibitions() {
	all := true
	for _, r := range v.servers {
		all = all && v.inhibits[r]
	}
	v.remove = !all
	for _, s := range v.inhibitAt {
		if on, _ := v.boolean(s); on != all {
			v.comment(s.comment("shunt has on_failure by service only: %s is for all of its servers", map[bool]string{true: "quiesce", false: "remove"}[all]))
		}
	}
}
