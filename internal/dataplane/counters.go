// SPDX-License-Identifier: MIT

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

func addCounters(a, b lvs.Counters) lvs.Counters {
	return lvs.Counters{Connections: a.Connections + b.Connections, Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes}
}

func subCounters(a, b lvs.Counters) lvs.Counters {
	return lvs.Counters{Connections: a.Connections - b.Connections, Packets: a.Packets - b.Packets, Bytes: a.Bytes - b.Bytes}
}

func countersOf(c bpfCounters) lvs.Counters {
	return lvs.Counters{Connections: c.Connections, Packets: c.Packets, Bytes: c.Bytes}
}

func bpfCountersOf(c lvs.Counters) bpfCounters {
	return bpfCounters{Connections: c.Connections, Packets: c.Packets, Bytes: c.Bytes}
}

// counted returns all that a server was ever counted for.
func (p *Plane) counted(id uint32) (lvs.Counters, error) {
	var perCPU []bpfCounters
	if err := p.maps.ServerCounters.Lookup(id, &perCPU); err != nil {
		return lvs.Counters{}, fmt.Errorf("reading a real server's counters: %w", err)
	}
	var sum lvs.Counters
	for _, c := range perCPU {
		sum = addCounters(sum, countersOf(c))
	}
	return sum, nil
}

// serverCounters returns what a server was counted for since the last zeroing.
func (p *Plane) serverCounters(id uint32) (lvs.Counters, error) {
	all, err := p.counted(id)
	if err != nil {
		return all, err
	}
	var base bpfServerBase
	if err := p.maps.ServerBases.Lookup(id, &base); err != nil {
		return all, fmt.Errorf("reading a real server's counters: %w", err)
	}
	return subCounters(all, countersOf(base.Counters)), nil
}

// zeroServer makes an id as new.
func (p *Plane) zeroServer(id uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	err = errors.Join(
		p.maps.ServerCounters.Put(id, make([]bpfCounters, cpus)),
		p.maps.ServerBases.Put(id, bpfServerBase{}),
		p.maps.Loads.Put(id, bpfLoad{}))
	if err != nil {
		return fmt.Errorf("clearing a real server's counters: %w", err)
	}
	delete(p.grouped, id)
	return nil
}

// addToBase keeps a service's counters whole when one of its servers leaves
// (add) or comes back.
func (p *Plane) addToBase(service, server uint32, add bool) error {
	c, err := p.serverCounters(server)
	if err != nil {
		return err
	}
	var base bpfServiceBase
	if err := p.maps.ServiceBases.Lookup(service, &base); err != nil {
		return fmt.Errorf("reading a virtual service's counters: %w", err)
	}
	sum := addCounters(countersOf(base.Counters), c)
	if !add {
		sum = subCounters(countersOf(base.Counters), c)
	}
	base.Counters = bpfCountersOf(sum)
	if err := p.maps.ServiceBases.Put(service, base); err != nil {
		return fmt.Errorf("writing a virtual service's counters: %w", err)
	}
	return nil
}

// Status returns counters, rates and connection counts of all services, in no
// particular order; the servers of each are in the order of its list.
func (p *Plane) Status() ([]lvs.ServiceStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]lvs.ServiceStatus, 0, len(p.installed))
	for _, i := range p.installed {
		s, err := p.serviceStatus(i)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", i.service.ServiceID, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func (p *Plane) serviceStatus(i *installed) (lvs.ServiceStatus, error) {
	s := lvs.ServiceStatus{ServiceID: i.service.ServiceID}
	var base bpfServiceBase
	if err := p.maps.ServiceBases.Lookup(i.id, &base); err != nil {
		return s, fmt.Errorf("reading its counters: %w", err)
	}
	s.Counters = countersOf(base.Counters)
	for n, id := range i.servers {
		c, err := p.serverCounters(id)
		if err != nil {
			return s, err
		}
		var load bpfLoad
		if err := p.maps.Loads.Lookup(id, &load); err != nil {
			return s, fmt.Errorf("reading a real server's connections: %w", err)
		}
		s.Counters = addCounters(s.Counters, c)
		s.Servers = append(s.Servers, lvs.ServerStatus{
			ServerID:   i.service.Servers[n].ServerID,
			Active:     uint32(load.Connections),
			Inactive:   uint32(load.Connections >> 32),
			Persistent: load.Templates,
			Local:      p.records[id].local(),
			Counters:   c,
			Rates:      p.estimators.servers[id].rates(),
		})
	}
	s.Rates = p.estimators.services[i.id].rates()
	return s, nil
}

// Zero sets the counters and rates of a service and its servers to 0.
func (p *Plane) Zero(id lvs.ServiceID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.installed[id]
	if i == nil {
		return fmt.Errorf("%v: %w", id, lvs.ErrNoService)
	}
	return p.zero(i)
}

// ZeroAll sets all counters and rates to 0.
func (p *Plane) ZeroAll() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, i := range p.installed {
		if err := p.zero(i); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plane) zero(i *installed) error {
	for _, id := range i.servers {
		all, err := p.counted(id)
		if err != nil {
			return err
		}
		base := bpfServerBase{Counters: bpfCountersOf(all), Addr: p.records[id].addr.As16()}
		if err := p.maps.ServerBases.Put(id, base); err != nil {
			return fmt.Errorf("zeroing a real server's counters: %w", err)
		}
		delete(p.estimators.servers, id)
	}
	delete(p.estimators.services, i.id)
	if err := p.maps.ServiceBases.Put(i.id, baseOf(i.service.ServiceID)); err != nil {
		return fmt.Errorf("zeroing the counters of %v: %w", i.service.ServiceID, err)
	}
	return nil
}

// Run does what must be done now and then, until ctx ends: it samples rates,
// frees what removed servers held, notices that an interface has another MAC,
// and keeps fragments that come before the first of their datagram. No other
// packets depend on it.
func (p *Plane) Run(ctx context.Context) error {
	var fragments sync.WaitGroup
	defer fragments.Wait()
	fragments.Go(func() {
		if err := newResumer(p).run(ctx); err != nil {
			p.log.Error("fragments of datagrams that come out of order are dropped from now on, and ICMP errors about unknown connections reach one real server only", "error", err)
		}
	})
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := p.refreshInterfaces(); err != nil {
			p.log.Warn("cannot see an interface", "error", err)
		}
		if err := p.sample(); err != nil {
			p.log.Warn("cannot sample rates", "error", err)
		}
	}
}

func (p *Plane) sample() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.untidy {
		p.tidy()
	}
	if err := p.reap(); err != nil {
		return err
	}
	next := newEstimators()
	for _, i := range p.installed {
		s, err := p.serviceStatus(i)
		if err != nil {
			return err
		}
		next.services[i.id] = p.estimators.services[i.id].next(s.Counters)
		for n, id := range i.servers {
			next.servers[id] = p.estimators.servers[id].next(s.Servers[n].Counters)
		}
	}
	p.estimators = next
	return nil
}
