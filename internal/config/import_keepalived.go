// SPDX-License-Identifier: MIT

package config

import (
	"slices"
	"strings"

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
	if n := slices.IndexFunc(root.inner, func(s *statement) bool { return s.skipped == "" }); n >= 0 && !slices.ContainsFunc(root.inner, keepalivedOwn) {
		s := root.inner[n]
		return i.fail(s.importPlace, s.name(), "", "nothing here is keepalived's: no virtual_server, and no other block that it has")
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
	return unknownTop
}

const unknownTop = "it is not known here: keepalived 2.2 does not have it"

// keepalivedOwn tells whether a statement is one that keepalived has.
func keepalivedOwn(s *statement) bool {
	return slices.Contains([]string{"virtual_server", "virtual_server_group", "SSL", "global_defs"}, s.name()) || topReason(s.name()) != unknownTop
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
