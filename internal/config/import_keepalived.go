// SPDX-License-Identifier: MIT

package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// keepalivedFile is a keepalived.conf under way: what its virtual servers refer
// to.
type keepalivedFile struct {
	*importer
	groups     map[string]*statement
	ssl        *statement
	scriptUser *statement
	used       map[*statement]bool // of the above
}

// keepalived imports a keepalived.conf.
func (i *importer) keepalived(text []byte) error {
	r := &keepalivedReader{importer: i, macros: map[string]macro{}}
	if err := r.file("", text); err != nil {
		return err
	}
	root, err := i.tree(r.out)
	if err != nil {
		return err
	}
	k := &keepalivedFile{importer: i, groups: map[string]*statement{}, used: map[*statement]bool{}}
	for _, s := range root.inner {
		switch s.name() {
		case "virtual_server_group":
			k.groups[s.word(1)] = s
		case "SSL":
			k.ssl = s
		case "global_defs":
			if user := s.find("script_user"); user != nil {
				k.scriptUser = user
			}
			if device := s.find("default_interface"); device != nil {
				k.device(device.word(1))
			}
		case "vrrp_instance":
			if device := s.find("interface"); device != nil {
				k.device(device.word(1))
			}
		}
	}
	for _, s := range root.inner {
		if s.name() == "virtual_server" {
			if err := k.virtualServer(s); err != nil {
				return err
			}
		}
	}
	for _, s := range root.inner {
		if err := k.top(s); err != nil {
			return err
		}
	}
	if len(i.services) > 0 {
		i.note("keepalived asks a server at its own address. These checks go through the VIP on that server (target: vip), so that it also fails when the VIP is missing there or the service does not listen on it. Where a check has a port of its own it is asked at its own address, as before (target: rip).")
		i.switches()
	}
	return nil
}

// switches says what no file of IPVS's users has.
func (i *importer) switches() {
	i.note("IPVS's switches of the whole host (sysctl net.ipv4.vs) are not in the file. shunt has them by service, under policy, with other defaults: expire_nodest_conn and expire_quiescent_template are on, conn_reuse_mode is 2, and stray packets are adopted.")
}

func (i *importer) device(name string) {
	if plainName.MatchString(name) && len(name) < 16 && !slices.Contains(i.interfaces, name) {
		i.interfaces = append(i.interfaces, name)
	}
}

// dump makes comments of a statement and all that is in it.
func dump(s *statement, reason string) (out []importComment) {
	if s.skipped != "" {
		return []importComment{s.comment("%s", s.skipped)}
	}
	out = append(out, s.comment("%s", reason))
	for _, c := range s.inner {
		for _, d := range dump(c, reason) {
			// Of what stands in one line, one comment is enough.
			if last := out[len(out)-1]; last.importPlace != d.importPlace {
				out = append(out, d)
			}
		}
	}
	return out
}

// What keepalived has and shunt does not, by the begin of a keyword.
const (
	noVRRP   = "shunt has no VRRP yet, and its director owns the VIPs of its services while it runs: run it on one machine only, or have the notify scripts of a keepalived that does VRRP alone call 'shunt director start' and 'stop'"
	noMail   = "shunt sends no mail. Who is told is said under notify, for all services: a program (which may send one), a URL or the log"
	noStatic = "the system's own network configuration has these; shunt sets up its VIPs and nothing else"
	noBFD    = "shunt has no BFD"
	noTrack  = "a file is watched by a check (type: file), whose first word is up, down or a number; it does not change weights"
	noOwn    = "it is about keepalived's own processes"
	noSync   = "directors of shunt do not share their connections yet"
)

// topReason is why there is no equivalent of what stands at the top, or in
// global_defs.
func topReason(name string) string {
	for _, r := range []struct{ prefixes, reason string }{
		{"lvs_sync_daemon lvs_syncd", noSync},
		{"lvs_flush", "a start takes over what is there, and stop undoes what start did"},
		{"lvs_notify checker_log", "shunt logs each transition, and keeps the reason of each failure"},
		{"vrrp garp_ router_id default_interface bfd_rlimit linkbeat interface_up_down static_track_group track_process", noVRRP},
		{"notification_email smtp email_faults no_email", noMail},
		{"static_", noStatic},
		{"bfd_", noBFD},
		{"track_file", noTrack},
		{"script_user enable_script_security", "a script runs as the user of its check or notify, which is nobody if none is named"},
		{"net_namespace instance namespace_with_ipsets", "a director is of the network namespace that it is started in; --instance names it"},
		{"snmp enable_snmp enable_dbus dbus json", "shunt's status is 'shunt director status --json'"},
		{"checker bfd process_name use_pid_dir child_wait reload startup_script shutdown_script max_auto_priority min_auto_priority data_use_instance umask tmp_config config_save random_seed dynamic_interfaces allow_if_changes nftables iptables", noOwn},
	} {
		for prefix := range strings.FieldsSeq(r.prefixes) {
			if strings.HasPrefix(name, prefix) {
				return r.reason
			}
		}
	}
	return "shunt has no equivalent"
}

// top is a statement outside of virtual servers.
func (k *keepalivedFile) top(s *statement) error {
	switch {
	case s.skipped != "":
		k.lost = append(k.lost, s.comment("%s", s.skipped))
	case s.name() == "virtual_server" || s.name() == "global_defs" && len(s.inner) == 0 || k.used[s]:
	case s.name() == "global_defs":
		for _, c := range s.inner {
			switch {
			case k.used[c]:
			case c.name() == "lvs_timeouts":
				if err := k.lvsTimeouts(c); err != nil {
					return err
				}
			default:
				k.lost = append(k.lost, dump(c, topReason(c.name()))...)
			}
		}
	case s.name() == "virtual_server_group":
		k.lost = append(k.lost, dump(s, "no virtual_server is of this group")...)
	case s.name() == "SSL":
		k.lost = append(k.lost, dump(s, "no SSL_GET needs it; https and tls checks have ca_file, cert_file and key_file")...)
	default:
		k.lost = append(k.lost, dump(s, topReason(s.name()))...)
	}
	return nil
}

func (k *keepalivedFile) lvsTimeouts(s *statement) error {
	for n := 1; n < len(s.words); n += 2 {
		name := s.word(n)
		if !slices.Contains([]string{"tcp", "tcpfin", "udp"}, name) {
			return k.fail(s.importPlace, name, nearest(name, []string{"tcp", "tcpfin", "udp"}), "unknown timeout %q", name)
		}
		seconds, err := k.number(s.importPlace, "timeout "+name, s.word(n+1), 0, lvs.MaxTimeout)
		if err != nil {
			return err
		}
		if seconds > 0 {
			k.timeouts = append(k.timeouts, name+": "+yamlSeconds(seconds))
		}
	}
	return nil
}

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
	ids        []lvs.ServiceID
	six        bool
	inhibits   map[*importedServer]bool
	inhibitAt  []*statement // of real servers
	alphaAt    []*statement // of real servers and checks
}

func (k *keepalivedFile) virtualServer(s *statement) error {
	v := &virtualServer{keepalivedFile: k, importedService: &importedService{at: s.importPlace, scheduler: string(lvs.DefaultScheduler), cared: true}, at: s,
		pace: keepalivedDefaults(), inhibits: map[*importedServer]bool{}}
	if err := v.identify(); err != nil {
		return err
	}
	for _, c := range s.inner {
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
	for _, c := range s.inner {
		if c.name() == "real_server" {
			if err := v.realServer(c); err != nil {
				return err
			}
		}
	}
	return v.finish()
}

// identify reads what the virtual server is: an address, a mark or a group.
func (v *virtualServer) identify() error {
	protocol := lvs.ProtocolNone
	if p := v.at.find("protocol"); p != nil {
		protocol = map[string]lvs.Protocol{"tcp": lvs.TCP, "udp": lvs.UDP, "sctp": lvs.SCTP}[strings.ToLower(p.word(1))]
		if protocol == lvs.ProtocolNone {
			return v.fail(p.importPlace, p.word(1), nearest(p.word(1), []string{"TCP", "UDP", "SCTP"}), "unknown protocol %q", p.word(1))
		}
	}
	switch v.at.word(1) {
	case "fwmark":
		six := v.at.find("ip_family")
		id, err := v.mark(v.at, 2, six != nil && six.word(1) == "inet6")
		if err != nil {
			return err
		}
		v.ids = []lvs.ServiceID{id}
	case "group":
		g := v.groups[v.at.word(2)]
		if g == nil {
			return v.fail(v.at.importPlace, v.at.word(2), "", "there is no virtual_server_group %q", v.at.word(2))
		}
		v.used[g] = true
		for _, entry := range g.inner {
			if entry.skipped != "" {
				v.comments = append(v.comments, entry.comment("%s", entry.skipped))
				continue
			}
			ids, err := v.groupEntry(entry, protocol)
			if err != nil {
				return err
			}
			v.ids = append(v.ids, ids...)
		}
		if len(v.ids) == 0 {
			return v.fail(g.importPlace, g.word(1), "", "the group is empty")
		}
	default:
		addr, port, err := v.addrPort(v.at, 1)
		if err != nil {
			return err
		}
		v.ids = []lvs.ServiceID{{Protocol: protocol, Addr: addr, Port: port}}
	}
	v.six = v.ids[0].Is6()
	if protocol == lvs.ProtocolNone && slices.ContainsFunc(v.ids, func(id lvs.ServiceID) bool { return id.Mark == 0 }) {
		v.comment(v.at.comment("it names no protocol, and to keepalived that is UDP. If TCP is meant, it is written here"))
		for n := range v.ids {
			if v.ids[n].Mark == 0 {
				v.ids[n].Protocol = lvs.UDP
			}
		}
	}
	return nil
}

func (v *virtualServer) mark(s *statement, n int, six bool) (lvs.ServiceID, error) {
	mark, err := strconv.ParseUint(s.word(n), 0, 32)
	if err != nil || mark == 0 {
		return lvs.ServiceID{}, v.fail(s.importPlace, s.word(n), "", "a mark is a number greater than 0, not %q", s.word(n))
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
func (v *virtualServer) groupEntry(s *statement, protocol lvs.Protocol) ([]lvs.ServiceID, error) {
	if s.name() == "fwmark" {
		id, err := v.mark(s, 1, s.word(2) == "inet6")
		return []lvs.ServiceID{id}, err
	}
	bad := func(what string) ([]lvs.ServiceID, error) {
		return nil, v.fail(s.importPlace, s.name(), "", "%s: %s", s.name(), what)
	}
	port := 0
	if s.word(1) != "" {
		n, err := v.number(s.importPlace, "port", s.word(1), 0, 65535)
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
		if v.ids[0].Mark == 0 {
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
			v.comment(s.comment("%s", v.notDirect(map[string]string{"NAT": "NAT", "TUN": "a tunnel"}[v.method], &importedService{}, 0)))
		}
	case "flag-1", "sh-fallback", "mh-fallback":
		v.flags |= lvs.FlagSched1
	case "flag-2", "sh-port", "mh-port":
		v.flags |= lvs.FlagSched2
	case "flag-3":
		v.flags |= lvs.FlagSched3
	case "ops":
		if v.ids[0].Mark == 0 && v.ids[0].Protocol != lvs.UDP {
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
	return fmt.Sprintf("unknown here, as %s is to the keepalived whose manual this follows (2.2)", s.name())
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
		v.comment(v.at.comment("it names no lvs_method, and to keepalived that is NAT. %s", v.notDirect("NAT", &importedService{}, 0)))
	}
	if v.timeout == 0 && v.ids[0].Mark == 0 && slices.ContainsFunc(v.ids, func(id lvs.ServiceID) bool { return id.Port == 0 }) {
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

// realServer is a real_server with its checks.
func (v *virtualServer) realServer(s *statement) error {
	addr, port, err := v.addrPort(s, 1)
	if err != nil {
		return err
	}
	r := &importedServer{at: s.importPlace, addr: addr.String(), weight: lvs.DefaultWeight}
	ask := asked{port: port, pace: v.pace, host: v.host, alpha: v.alpha}
	method, inhibit := v.method, v.inhibit
	var checks, limits []*statement
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
	case slices.ContainsFunc(v.servers, func(o *importedServer) bool { return o.addr == r.addr }):
		v.comments = append(v.comments, dump(s, "the same real server again: keepalived leaves it out, too")...)
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
	mapped := port != 0 && v.ids[0].Mark == 0 && port != v.ids[0].Port
	switch {
	case method != "DR" && (mapped || method != v.method):
		id := &importedService{id: v.ids[0]}
		r.comments = append(r.comments, s.comment("%s", v.notDirect(map[string]string{"NAT": "NAT", "TUN": "a tunnel"}[method], id, port)))
	case mapped:
		r.comments = append(r.comments, s.comment("direct routing maps no ports: it is port %d, as keepalived takes it, too", v.ids[0].Port))
	}
}

// finish makes services of a virtual server.
func (v *virtualServer) finish() error {
	if len(v.servers) == 0 {
		v.lost = append(v.lost, dump(v.at, "a virtual server without real servers: keepalived leaves it out, too")...)
		return nil
	}
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
	for n, id := range v.ids {
		s := *v.importedService
		s.id = id
		if n > 0 {
			s.before, s.comments, s.sorryAt, s.name = []importComment{importRemark("Of the same group as the one above.")}, nil, nil, ""
			s.servers = slices.Clone(s.servers)
			for m, r := range s.servers {
				c := *r
				c.comments, c.checks = nil, slices.Clone(r.checks)
				for l, check := range c.checks {
					bare := *check
					bare.comments = nil
					c.checks[l] = &bare
				}
				s.servers[m] = &c
			}
		}
		if id.Mark != 0 {
			v.unmarked(&s, v.at.importPlace)
		}
		v.services = append(v.services, &s)
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
	total, equal := 0, true
	for _, r := range v.servers {
		total += r.weight
		equal = equal && r.weight == v.servers[0].weight
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
	weight := v.servers[0].weight
	if !equal || weight == 0 {
		weight = max(1, total/len(v.servers))
		v.comment(at.comment("keepalived adds up weights, shunt counts servers, and they do not weigh the same here: these numbers are for the mean weight of %d", weight))
	} else if weight > 1 {
		v.comment(importRemark("keepalived adds up weights (%d each), shunt counts servers.", weight))
	}
	least := func(sum int) int { return min(max(1, (sum+weight-1)/weight), len(v.servers)) }
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

// keepalivedPace is how often a checker asks.
type keepalivedPace struct {
	loop, timeout time.Duration
	retry         int           // -1: the checker's default
	retryDelay    time.Duration // -1: the checker's default
}

func keepalivedDefaults() keepalivedPace {
	return keepalivedPace{loop: 60 * time.Second, timeout: 5 * time.Second, retry: -1, retryDelay: -1}
}

// read takes a line if it is about the pace.
func (p *keepalivedPace) read(k *keepalivedFile, s *statement) (handled bool, err error) {
	switch s.name() {
	case "delay_loop":
		p.loop, err = k.timer(s)
	case "connect_timeout":
		p.timeout, err = k.timer(s)
	case "delay_before_retry":
		p.retryDelay, err = k.timer(s)
	case "retry", "nb_get_retry", "nb_sock_retry":
		p.retry, err = k.number(s.importPlace, s.name(), s.word(1), 0, 999)
	default:
		return false, nil
	}
	return true, err
}

// timer reads a time in seconds, with a fraction.
func (k *keepalivedFile) timer(s *statement) (time.Duration, error) {
	seconds, err := strconv.ParseFloat(s.word(1), 64)
	if err != nil || !(seconds >= 0 && seconds <= 4294) {
		return 0, k.fail(s.importPlace, s.word(1), "", "%s takes seconds, up to 4294, not %q", s.name(), s.word(1))
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond), nil
}
