// SPDX-License-Identifier: MIT

package dataplane

import "github.com/shunt-lvs/shunt/internal/lvs"

// strays pairs the ways with stray packets with the program's.
func strays() map[lvs.Stray]bpfStray {
	return map[lvs.Stray]bpfStray{
		lvs.StrayAdopt: bpfStraySTRAY_ADOPT,
		lvs.StrayPass:  bpfStraySTRAY_PASS,
		lvs.StrayDrop:  bpfStraySTRAY_DROP,
		lvs.StrayReset: bpfStraySTRAY_RESET,
	}
}

// The bits of conn_reuse_mode.
const (
	reopens        = 1 << 0
	reopensFinWait = 1 << 1
)

// policyFlags is a policy as a service's record has it, but for its stray
// packets and the numbers of its source limit.
func policyFlags(p lvs.Policy) bpfServiceFlags {
	var f bpfServiceFlags
	for flag, set := range map[bpfServiceFlags]bool{
		bpfServiceFlagsSERVICE_REOPENS:          p.ConnReuse.Mode()&reopens != 0,
		bpfServiceFlagsSERVICE_REOPENS_FIN_WAIT: p.ConnReuse.Mode()&reopensFinWait != 0,
		bpfServiceFlagsSERVICE_LEAVES_REMOVED:   !p.KeepNodest,
		bpfServiceFlagsSERVICE_LEAVES_QUIESCED:  !p.KeepTemplate,
		bpfServiceFlagsSERVICE_SECURE_TCP:       p.SecureTCP,
		bpfServiceFlagsSERVICE_LIMITS_SOURCES:   p.SourceLimit != (lvs.SourceLimit{}),
	} {
		if set {
			f |= flag
		}
	}
	return f
}

// recoveredPolicy is the policy that a service's record has.
func recoveredPolicy(s bpfService) (p lvs.Policy) {
	has := func(f bpfServiceFlags) bool { return bpfServiceFlags(s.Flags)&f != 0 }
	for stray, n := range strays() {
		if uint8(n) == s.Stray {
			p.Stray = stray
		}
	}
	var mode uint8
	if has(bpfServiceFlagsSERVICE_REOPENS) {
		mode |= reopens
	}
	if has(bpfServiceFlagsSERVICE_REOPENS_FIN_WAIT) {
		mode |= reopensFinWait
	}
	p.ConnReuse, _ = lvs.ConnReuseOf(mode)
	p.KeepNodest = !has(bpfServiceFlagsSERVICE_LEAVES_REMOVED)
	p.KeepTemplate = !has(bpfServiceFlagsSERVICE_LEAVES_QUIESCED)
	p.SecureTCP = has(bpfServiceFlagsSERVICE_SECURE_TCP)
	p.SourceLimit = lvs.SourceLimit{Rate: s.SourceRate, Burst: s.SourceBurst}
	return p
}
