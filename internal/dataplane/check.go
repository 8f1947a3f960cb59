// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"fmt"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// ErrFull: a map has no room for what was to be installed.
var ErrFull = errors.New("the data plane is full")

func schedulerOf(s lvs.Scheduler) (bpfScheduler, bool) {
	switch s {
	case lvs.RoundRobin:
		return bpfSchedulerSCHEDULER_RR, true
	case lvs.WeightedRoundRobin:
		return bpfSchedulerSCHEDULER_WRR, true
	case lvs.LeastConnection:
		return bpfSchedulerSCHEDULER_LC, true
	case lvs.WeightedLeastConnection:
		return bpfSchedulerSCHEDULER_WLC, true
	}
	return 0, false
}

func schedulerName(s uint8) lvs.Scheduler {
	switch bpfScheduler(s) {
	case bpfSchedulerSCHEDULER_RR:
		return lvs.RoundRobin
	case bpfSchedulerSCHEDULER_WRR:
		return lvs.WeightedRoundRobin
	case bpfSchedulerSCHEDULER_LC:
		return lvs.LeastConnection
	case bpfSchedulerSCHEDULER_WLC:
		return lvs.WeightedLeastConnection
	}
	return lvs.Unscheduled
}

// Check tells whether the data plane can carry out a table: an error wraps
// lvs.ErrUnsupported for what it has no means for, or ErrFull.
func (p *Plane) Check(t *lvs.Table) error {
	if len(t.Services) > maxServices {
		return fmt.Errorf("%d virtual services: %w: it has room for %d", len(t.Services), ErrFull, maxServices)
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

// maxTimeout is the longest life that a deadline can express, in seconds.
const maxTimeout = deadlineMask - 65536 - 1

func checkService(s *lvs.VirtualService) error {
	if s.Mark != 0 || s.Port == 0 || !s.Addr.Is4() {
		return fmt.Errorf("%w: a service needs an IPv4 address and a port", lvs.ErrUnsupported)
	}
	if s.Protocol != lvs.TCP && s.Protocol != lvs.UDP {
		return fmt.Errorf("%w: protocol %v", lvs.ErrUnsupported, s.Protocol)
	}
	if _, ok := schedulerOf(s.Scheduler); !ok {
		return fmt.Errorf("%w: scheduler %s", lvs.ErrUnsupported, s.Scheduler)
	}
	if len(s.Servers) > maxPerService {
		return fmt.Errorf("%w: %d real servers, at most %d", ErrFull, len(s.Servers), maxPerService)
	}
	for _, r := range s.Servers {
		if r.Forward != lvs.DirectRouting || !r.Addr.Is4() {
			return fmt.Errorf("real server %v: %w: only direct routing to an IPv4 address", r.ServerID, lvs.ErrUnsupported)
		}
		if r.Port != s.Port {
			return fmt.Errorf("real server %v: %w", r.ServerID, lvs.ErrPortMapping)
		}
	}
	return nil
}
