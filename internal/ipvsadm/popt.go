// SPDX-License-Identifier: MIT

package ipvsadm

import "strings"

// argument says what follows an option.
type argument int

const (
	noArgument argument = iota
	needsArgument
	mayHaveArgument
)

// tag tells one option of the command line from another.
type tag int

const (
	tagNone tag = iota
	tagAddService
	tagEditService
	tagDeleteService
	tagClear
	tagList
	tagZero
	tagAddServer
	tagEditServer
	tagDeleteServer
	tagSet
	tagHelp
	tagVersion
	tagRestore
	tagSave
	tagStartDaemon
	tagStopDaemon
	tagAddMark
	tagDeleteMark
	tagListMarks
	tagAddDeny
	tagDeleteDeny
	tagTCP
	tagUDP
	tagSCTP
	tagFwmark
	tagScheduler
	tagPersistent
	tagNetmask
	tagServer
	tagMasquerading
	tagIPIP
	tagGatewaying
	tagWeight
	tagUpper
	tagLower
	tagNumeric
	tagConnection
	tagMcastInterface
	tagSyncID
	tagTimeout
	tagDaemon
	tagStats
	tagRate
	tagThresholds
	tagPersistentConn
	tagNoSort
	tagSort
	tagExact
	tagIPv6
	tagOnePacket
	tagEngine
	tagSchedFlags
	tagMcastGroup
	tagMcastPort
	tagMcastTTL
	tagSyncMaxlen
	tagTunInfo
	tagTunType
	tagTunPort
	tagTunNocsum
	tagTunCsum
	tagTunRemcsum
	tagStray // this and the next five are not ipvsadm's
	tagConnReuse
	tagExpireNodest
	tagExpireTemplate
	tagSecureTCP
	tagSourceLimit
)

// optionSpec is one row of the options that the command line knows.
type optionSpec struct {
	long     string
	short    byte // 0: none
	argument argument
	tag      tag
}

func optionSpecs() []optionSpec {
	return []optionSpec{
		{"add-service", 'A', noArgument, tagAddService},
		{"edit-service", 'E', noArgument, tagEditService},
		{"delete-service", 'D', noArgument, tagDeleteService},
		{"clear", 'C', noArgument, tagClear},
		{"list", 'L', noArgument, tagList},
		{"list", 'l', noArgument, tagList},
		{"zero", 'Z', noArgument, tagZero},
		{"add-server", 'a', noArgument, tagAddServer},
		{"edit-server", 'e', noArgument, tagEditServer},
		{"delete-server", 'd', noArgument, tagDeleteServer},
		{"set", 0, noArgument, tagSet},
		{"help", 'h', noArgument, tagHelp},
		{"version", 'v', noArgument, tagVersion},
		{"restore", 'R', noArgument, tagRestore},
		{"save", 'S', noArgument, tagSave},
		{"start-daemon", 0, needsArgument, tagStartDaemon},
		{"stop-daemon", 0, needsArgument, tagStopDaemon},
		{"add-mark", 0, needsArgument, tagAddMark},
		{"delete-mark", 0, needsArgument, tagDeleteMark},
		{"list-marks", 0, noArgument, tagListMarks},
		{"add-deny", 0, needsArgument, tagAddDeny},
		{"delete-deny", 0, needsArgument, tagDeleteDeny},
		{"tcp-service", 't', needsArgument, tagTCP},
		{"udp-service", 'u', needsArgument, tagUDP},
		{"sctp-service", 0, needsArgument, tagSCTP},
		{"fwmark-service", 'f', needsArgument, tagFwmark},
		{"scheduler", 's', needsArgument, tagScheduler},
		{"persistent", 'p', mayHaveArgument, tagPersistent},
		{"netmask", 'M', needsArgument, tagNetmask},
		{"real-server", 'r', needsArgument, tagServer},
		{"masquerading", 'm', noArgument, tagMasquerading},
		{"ipip", 'i', noArgument, tagIPIP},
		{"gatewaying", 'g', noArgument, tagGatewaying},
		{"weight", 'w', needsArgument, tagWeight},
		{"u-threshold", 'x', needsArgument, tagUpper},
		{"l-threshold", 'y', needsArgument, tagLower},
		{"numeric", 'n', noArgument, tagNumeric},
		{"connection", 'c', noArgument, tagConnection},
		{"mcast-interface", 0, needsArgument, tagMcastInterface},
		{"syncid", 0, needsArgument, tagSyncID},
		{"timeout", 0, noArgument, tagTimeout},
		{"daemon", 0, noArgument, tagDaemon},
		{"stats", 0, noArgument, tagStats},
		{"rate", 0, noArgument, tagRate},
		{"thresholds", 0, noArgument, tagThresholds},
		{"persistent-conn", 0, noArgument, tagPersistentConn},
		{"nosort", 0, noArgument, tagNoSort},
		{"sort", 0, noArgument, tagSort},
		{"exact", 'X', noArgument, tagExact},
		{"ipv6", '6', noArgument, tagIPv6},
		{"ops", 'o', noArgument, tagOnePacket},
		{"pe", 0, needsArgument, tagEngine},
		{"sched-flags", 'b', needsArgument, tagSchedFlags},
		{"mcast-group", 0, needsArgument, tagMcastGroup},
		{"mcast-port", 0, needsArgument, tagMcastPort},
		{"mcast-ttl", 0, needsArgument, tagMcastTTL},
		{"sync-maxlen", 0, needsArgument, tagSyncMaxlen},
		{"tun-info", 0, noArgument, tagTunInfo},
		{"tun-type", 0, needsArgument, tagTunType},
		{"tun-port", 0, needsArgument, tagTunPort},
		{"tun-nocsum", 0, noArgument, tagTunNocsum},
		{"tun-csum", 0, noArgument, tagTunCsum},
		{"tun-remcsum", 0, noArgument, tagTunRemcsum},
		{"stray", 0, needsArgument, tagStray},
		{"conn-reuse-mode", 0, needsArgument, tagConnReuse},
		{"expire-nodest-conn", 0, needsArgument, tagExpireNodest},
		{"expire-quiescent-template", 0, needsArgument, tagExpireTemplate},
		{"secure-tcp", 0, needsArgument, tagSecureTCP},
		{"source-limit", 0, needsArgument, tagSourceLimit},
	}
}

// scanner takes a command line apart the way the popt library does, which
// differs from Go's flag package and from getopt: short options may be bundled,
// also with a value at the end; an optional value is the next word unless that
// begins with "-"; a needed value is the next word whatever it looks like;
// other words may stand between options and are left over.
type scanner struct {
	args     []string
	next     int    // index of the next word
	bundle   string // rest of a word of short options
	onlyRest bool   // after "--"
	rest     []string
	specs    []optionSpec
}

func newScanner(args []string) *scanner { return &scanner{args: args, specs: optionSpecs()} }

// scanned is one option with its value.
type scanned struct {
	tag      tag
	value    string
	hasValue bool
}

// word is the word that the scanner was at last, for messages.
func (s *scanner) word() string {
	if s.next == 0 {
		return ""
	}
	return s.args[s.next-1]
}

// scan returns the next option; ok is false at the end. The text of an error is
// popt's.
func (s *scanner) scan() (got scanned, ok bool, err error) {
	spec, attached, hasAttached, ok, err := s.option()
	if !ok || err != nil {
		return scanned{}, ok, err
	}
	got.tag = spec.tag
	switch {
	case spec.argument == noArgument:
		if hasAttached || strings.HasPrefix(s.bundle, "=") {
			return scanned{}, false, s.bad("option does not take an argument")
		}
	case hasAttached:
		got.value, got.hasValue = attached, true
	case s.bundle != "":
		got.value, got.hasValue = strings.TrimPrefix(s.bundle, "="), true
		s.bundle = ""
	case s.next == len(s.args):
		if spec.argument == needsArgument {
			return scanned{}, false, s.bad("missing argument")
		}
	case spec.argument == mayHaveArgument && strings.HasPrefix(s.args[s.next], "-"):
	default:
		got.value, got.hasValue = s.args[s.next], true
		s.next++
	}
	return got, true, nil
}

// option finds the next option, and the value that a long one has after "=".
func (s *scanner) option() (spec optionSpec, attached string, hasAttached, ok bool, err error) {
	for s.bundle == "" {
		if s.next == len(s.args) {
			return optionSpec{}, "", false, false, nil
		}
		word := s.args[s.next]
		s.next++
		switch {
		case s.onlyRest || len(word) < 2 || word[0] != '-':
			s.rest = append(s.rest, word)
		case word == "--":
			s.onlyRest = true
		case strings.HasPrefix(word, "--"):
			name, value, has := strings.Cut(word[2:], "=")
			for _, spec := range s.specs {
				if spec.long == name {
					return spec, value, has, true, nil
				}
			}
			return optionSpec{}, "", false, false, s.bad("unknown option")
		default:
			s.bundle = word[1:]
		}
	}
	letter := s.bundle[0]
	s.bundle = s.bundle[1:]
	for _, spec := range s.specs {
		if spec.short != 0 && spec.short == letter {
			return spec, "", false, true, nil
		}
	}
	return optionSpec{}, "", false, false, s.bad("unknown option")
}

func (s *scanner) bad(what string) error {
	return &failure{code: exitRefused, text: s.word() + ": " + what}
}
