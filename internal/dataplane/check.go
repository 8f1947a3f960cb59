// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// ErrFull: a map has no room for what was to be installed.
var ErrFull = errors.New("the data plane is full")

// schedulers pairs IPVS's names with the program's.
func schedulers() map[lvs.Scheduler]bpfScheduler {
	return map[lvs.Scheduler]bpfScheduler{
		lvs.RoundRobin:              bpfSchedulerSCHEDULER_RR,
		lvs.WeightedRoundRobin:      bpfSchedulerSCHEDULER_WRR,
		lvs.LeastConnection:         bpfSchedulerSCHEDULER_LC,
		lvs.WeightedLeastConnection: bpfSchedulerSCHEDULER_WLC,
		lvs.ShortestExpectedDelay:   bpfSchedulerSCHEDULER_SED,
		lvs.NeverQueue:              bpfSchedulerSCHEDULER_NQ,
		lvs.WeightedFailover:        bpfSchedulerSCHEDULER_FO,
		lvs.WeightedOverflow:        bpfSchedulerSCHEDULER_OVF,
		lvs.SourceHashing:           bpfSchedulerSCHEDULER_SH,
		lvs.DestinationHashing:      bpfSchedulerSCHEDULER_DH,
		lvs.Maglev:                  bpfSchedulerSCHEDULER_MH,
		lvs.TwoChoices:              bpfSchedulerSCHEDULER_TWOS,
		lvs.LocalityLeastConnection: bpfSchedulerSCHEDULER_LBLC,
		lvs.LocalityReplicated:      bpfSchedulerSCHEDULER_LBLCR,
		lvs.Unscheduled:             bpfSchedulerSCHEDULER_NONE,
	}
}

// Schedulers lists the schedulers that the data plane has.
func Schedulers() []lvs.Scheduler { return slices.Sorted(maps.Keys(schedulers())) }

func schedulerName(n uint8) lvs.Scheduler {
	for name, number := range schedulers() {
		if number == bpfScheduler(n) {
			return name
		}
	}
	return lvs.Unscheduled
}

// flagsOf are the flags of a service that count for packets.
func flagsOf(s *lvs.VirtualService) bpfServiceFlags {
	var f bpfServiceFlags
	if s.Persistent() {
		f |= bpfServiceFlagsSERVICE_PERSISTENT
	}
	if s.Persistent() || s.Is6() {
		f |= bpfServiceFlagsSERVICE_WIDE
	}
	if s.Is6() {
		f |= bpfServiceFlagsSERVICE_SIX
	}
	if s.Port == 0 || isFTP(s) {
		f |= bpfServiceFlagsSERVICE_EVERY_PORT
	}
	if s.Flags&lvs.FlagOnePacket != 0 {
		f |= bpfServiceFlagsSERVICE_ONE_PACKET
	}
	if s.Scheduler == lvs.SourceHashing || s.Scheduler == lvs.Maglev {
		if s.Flags&lvs.FlagSched1 != 0 {
			f |= bpfServiceFlagsSERVICE_FALLBACK
		}
		if s.Flags&lvs.FlagSched2 != 0 {
			f |= bpfServiceFlagsSERVICE_SOURCE_PORT
		}
	}
	if len(s.Deny) > 0 {
		f |= bpfServiceFlagsSERVICE_DENIES
	}
	return f | policyFlags(s.Policy)
}

// isFTP tells whether a service gets its data connections too: they come to
// other ports, and only persistence keeps them together (ip_vs_ctl.c).
func isFTP(s *lvs.VirtualService) bool {
	return s.Protocol == lvs.TCP && s.Port == 21 && s.Persistent()
}

// recoveredFlags is flagsOf the other way round.
func recoveredFlags(f bpfServiceFlags) lvs.ServiceFlags {
	var out lvs.ServiceFlags
	for from, to := range map[bpfServiceFlags]lvs.ServiceFlags{
		bpfServiceFlagsSERVICE_PERSISTENT:  lvs.FlagPersistent,
		bpfServiceFlagsSERVICE_ONE_PACKET:  lvs.FlagOnePacket,
		bpfServiceFlagsSERVICE_FALLBACK:    lvs.FlagSched1,
		bpfServiceFlagsSERVICE_SOURCE_PORT: lvs.FlagSched2,
	} {
		if f&from != 0 {
			out |= to
		}
	}
	return out
}

// Check tells whether the data plane can carry out a table: an error wraps
// lvs.ErrUnsupported for what it has no means for, or ErrFull.
func (p *Plane) Check(t *lvs.Table) error {
	if len(t.Services) > maxServices {
		return fmt.Errorf("%d virtual services: %w: it has room for %d", len(t.Services), ErrFull, maxServices)
	}
	if err := errors.Join(checkListeners(t), checkDenied(t)); err != nil {
		return err
	}
	for _, v := range []uint32{t.Timeouts.TCP, t.Timeouts.TCPFin, t.Timeouts.UDP} {
		if v > maxTimeout {
			return fmt.Errorf("timeout of %d s: %w: at most %d s (12 days)", v, lvs.ErrUnsupported, maxTimeout)
		}
	}
	for _, s := range t.Services {
		if err := checkService(s); err != nil {
			return fmt.Errorf("%v: %w", s.ServiceID, err)
		}
	}
	return nil
}

// checkListeners counts addresses and ports. Those of a mark that has no service
// take no room, so they count only for themselves: a mark whose rules are too
// many for any service is refused with the rule, not with the service.
func checkListeners(t *lvs.Table) error {
	marked := map[lvs.ServiceID]int{}
	for _, r := range t.Marks {
		marked[r.ServiceID()] += int(r.Last) - int(r.First) + 1
	}
	for id, n := range marked {
		if n > maxListeners {
			return fmt.Errorf("%v: its mark rules have %d addresses and ports: %w: it has room for %d; a rule for every port (port 0) is one", id, n, ErrFull, maxListeners)
		}
	}
	all := 0
	for _, s := range t.Services {
		if s.Mark == 0 {
			all++
		} else {
			all += marked[s.ServiceID]
		}
	}
	if all > maxListeners {
		return fmt.Errorf("%d addresses and ports of services and marks: %w: it has room for %d; a rule for every port (port 0) is one", all, ErrFull, maxListeners)
	}
	return nil
}

// maxTimeout is the longest life that a deadline can express, in seconds.
const maxTimeout = deadlineMask - 65536 - 1

func checkService(s *lvs.VirtualService) error {
	if s.Mark == 0 && !s.Addr.IsValid() {
		return fmt.Errorf("%w: a service needs an address or a mark", lvs.ErrUnsupported)
	}
	if s.Mark == 0 && s.Protocol != lvs.TCP && s.Protocol != lvs.UDP && s.Protocol != lvs.SCTP {
		return fmt.Errorf("%w: protocol %v", lvs.ErrUnsupported, s.Protocol)
	}
	if _, ok := schedulers()[s.Scheduler]; !ok {
		return fmt.Errorf("%w: scheduler %s", lvs.ErrUnsupported, s.Scheduler)
	}
	if s.Mark == 0 && s.Port == 0 && !s.Persistent() {
		return fmt.Errorf("%w: a service for every port must be persistent", lvs.ErrUnsupported)
	}
	if s.Engine != "" {
		return fmt.Errorf("%w: persistence engine %s", lvs.ErrUnsupported, s.Engine)
	}
	if s.Persistent() && s.Timeout > maxTimeout {
		return fmt.Errorf("persistence of %d s: %w: at most %d s (12 days)", s.Timeout, lvs.ErrUnsupported, maxTimeout)
	}
	if len(s.Servers) > maxPerService {
		return fmt.Errorf("%w: %d real servers, at most %d", ErrFull, len(s.Servers), maxPerService)
	}
	for _, r := range s.Servers {
		if r.Forward != lvs.DirectRouting || r.Addr.Is6() != s.Is6() {
			return fmt.Errorf("real server %v: %w: only direct routing to an address of the VIP's family", r.ServerID, lvs.ErrUnsupported)
		}
		if r.Port != s.Port {
			return fmt.Errorf("real server %v: %w", r.ServerID, lvs.ErrPortMapping)
		}
	}
	return nil
}
