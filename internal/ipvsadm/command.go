// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"net/netip"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// command is what a command line asks for. The order is that of
// commandNames.
type command int

const (
	cmdAddService command = iota
	cmdEditService
	cmdDeleteService
	cmdClear
	cmdList
	cmdAddServer
	cmdDeleteServer
	cmdEditServer
	cmdSet
	cmdStartDaemon
	cmdStopDaemon
	cmdRestore
	cmdSave
	cmdZero
	cmdAddMark // this and the next two are not ipvsadm's
	cmdDeleteMark
	cmdListMarks
	cmdAddDeny // nor are these two
	cmdDeleteDeny
	cmdHelp
	cmdVersion
)

// String gives the command's name as ipvsadm's messages have it.
func (c command) String() string {
	return [...]string{"add-service", "edit-service", "delete-service", "flush", "list",
		"add-server", "delete-server", "edit-server", "set", "start-daemon", "stop-daemon",
		"restore", "save", "zero", "add-mark", "delete-mark", "list-marks", "add-deny", "delete-deny", "help", "version"}[c]
}

// option is one of the options that a command allows, demands or forbids. The
// order is that in which ipvsadm checks them, and so decides which of two
// mistakes it reports.
type option int

const (
	optNumeric option = iota
	optConnection
	optService
	optScheduler
	optPersistent
	optNetmask
	optServer
	optForward
	optWeight
	optUpper
	optLower
	optMcastInterface
	optTimeout
	optDaemon
	optStats
	optRate
	optThresholds
	optPersistentConn
	optNoSort
	optSyncID
	optExact
	optOnePacket
	optEngine
	optSchedFlags
	optMcastGroup
	optMcastPort
	optMcastTTL
	optSyncMaxlen
	optTunInfo
	optTunType
	optTunPort
	optTunNocsum
	optTunCsum
	optTunRemcsum
	optStray // this and the next five are not ipvsadm's
	optConnReuse
	optExpireNodest
	optExpireTemplate
	optSecureTCP
	optSourceLimit
	numOptions
)

// String gives the option's name as ipvsadm's messages have it.
func (o option) String() string {
	return [...]string{"numeric", "connection", "service-address", "scheduler", "persistent",
		"netmask", "real-server", "forwarding-method", "weight", "u-threshold", "l-threshold",
		"mcast-interface", "timeout", "daemon", "stats", "rate", "thresholds", "persistent-conn",
		"nosort", "syncid", "exact", "ops", "pe", "sched-flags", "mcast-group", "mcast-port",
		"mcast-ttl", "sync-maxlen", "tun-info", "tun-type", "tun-port", "tun-nocsum", "tun-csum",
		"tun-remcsum", "stray", "conn-reuse-mode", "expire-nodest-conn", "expire-quiescent-template",
		"secure-tcp", "source-limit"}[o]
}

// optionSet is a set of options, one bit each.
type optionSet uint64

func setOf(options ...option) optionSet {
	var s optionSet
	for _, o := range options {
		s |= 1 << o
	}
	return s
}

func (s optionSet) has(o option) bool        { return s&(1<<o) != 0 }
func (s optionSet) any(other optionSet) bool { return s&other != 0 }

// optionRule says what a command does with options: those in none of the sets are
// forbidden.
type optionRule struct {
	required  optionSet
	exclusive optionSet // at most one of these
	allowed   optionSet
}

func ruleOf(c command) optionRule {
	service := setOf(optService)
	switch c {
	case cmdAddService, cmdEditService:
		return optionRule{required: service, allowed: setOf(optScheduler, optPersistent, optNetmask,
			optOnePacket, optEngine, optSchedFlags) | policyOptions()}
	case cmdDeleteService, cmdAddMark, cmdDeleteMark, cmdAddDeny, cmdDeleteDeny:
		return optionRule{required: service}
	case cmdAddServer, cmdEditServer:
		return optionRule{required: service | setOf(optServer), allowed: setOf(optForward, optWeight,
			optUpper, optLower, optTunType, optTunPort, optTunNocsum, optTunCsum, optTunRemcsum)}
	case cmdDeleteServer:
		return optionRule{required: service | setOf(optServer)}
	case cmdList:
		return optionRule{exclusive: service | setOf(optConnection, optTimeout, optDaemon),
			allowed: setOf(optNumeric, optStats, optRate, optThresholds, optPersistentConn, optNoSort,
				optExact, optTunInfo)}
	case cmdZero:
		return optionRule{allowed: service}
	case cmdSave, cmdListMarks:
		return optionRule{allowed: setOf(optNumeric)}
	case cmdStartDaemon:
		return optionRule{allowed: setOf(optSyncID, optMcastInterface, optMcastGroup, optMcastPort,
			optMcastTTL, optSyncMaxlen)}
	case cmdStopDaemon:
		return optionRule{allowed: setOf(optSyncID)}
	}
	return optionRule{} // clear, set, restore: none
}

// check compares the options given with a rule, in ipvsadm's order. kind and
// name say what the rule belongs to: "command", "add-service".
func (r optionRule) check(given optionSet, options []option, name, kind string) error {
	first := option(-1)
	for _, o := range options {
		switch {
		case !given.has(o):
			if r.required.has(o) {
				return fail("You need to supply the '%v' option for the '%s' %s", o, name, kind)
			}
		case r.exclusive.has(o) && first >= 0:
			return fail("The option '%v' conflicts with the '%v' option in the '%s' %s", o, first, name, kind)
		case r.exclusive.has(o):
			first = o
		case !r.required.has(o) && !r.allowed.has(o):
			return fail("Illegal '%v' option with the '%s' %s", o, name, kind)
		}
	}
	return nil
}

func allOptions() []option {
	all := make([]option, numOptions)
	for i := range all {
		all[i] = option(i)
	}
	return all
}

// tunnelRule says which options a type of tunnel takes.
func tunnelRule(kind string) optionRule {
	switch kind {
	case "gue":
		return optionRule{required: setOf(optTunPort), exclusive: setOf(optTunNocsum, optTunCsum, optTunRemcsum)}
	case "gre":
		return optionRule{exclusive: setOf(optTunNocsum, optTunCsum)}
	}
	return optionRule{}
}

// commandLine is a command line, understood.
type commandLine struct {
	command command
	options optionSet
	service lvs.VirtualService
	server  lvs.RealServer
	mark    lvs.MarkRule
	deny    netip.Prefix

	timeouts lvs.Timeouts
}

// change gives the edit that the command asks for, if it is of that kind.
func (l *commandLine) change() (lvs.Change, bool) {
	id := lvs.VirtualService{ServiceID: l.service.ServiceID}
	switch l.command {
	case cmdAddService:
		return lvs.Change{Operation: lvs.AddService, Service: l.service}, true
	case cmdEditService:
		return lvs.Change{Operation: lvs.EditService, Service: l.service}, true
	case cmdDeleteService:
		return lvs.Change{Operation: lvs.DeleteService, Service: id}, true
	case cmdClear:
		return lvs.Change{Operation: lvs.Clear}, true
	case cmdAddServer:
		return lvs.Change{Operation: lvs.AddServer, Service: id, Server: l.server}, true
	case cmdEditServer:
		return lvs.Change{Operation: lvs.EditServer, Service: id, Server: l.server}, true
	case cmdDeleteServer:
		return lvs.Change{Operation: lvs.DeleteServer, Service: id,
			Server: lvs.RealServer{ServerID: l.server.ServerID}}, true
	case cmdAddMark:
		return lvs.Change{Operation: lvs.AddMark, Mark: l.mark}, true
	case cmdDeleteMark:
		return lvs.Change{Operation: lvs.DeleteMark, Mark: l.mark}, true
	case cmdAddDeny:
		return lvs.Change{Operation: lvs.AddDeny, Service: id, Deny: l.deny}, true
	case cmdDeleteDeny:
		return lvs.Change{Operation: lvs.DeleteDeny, Service: id, Deny: l.deny}, true
	case cmdSet:
		return lvs.Change{Operation: lvs.SetTimeouts, Timeouts: l.timeouts}, true
	}
	return lvs.Change{}, false
}
