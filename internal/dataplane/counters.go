// SPDX-License-Identifier: MIT

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// tally tells what a server was ever counted for.
type tally func(id uint32) (lvs.Counters, error)

const (
	countChunk = 4096 // servers whose counters are read or written at a time
	fewServers = 16   // whose counters are as soon read one by one
)

// tally reads the counters of all servers at once.
func (p *Plane) tally() (tally, error) {
	all, err := p.countedAll(p.serverIDs.next)
	return func(id uint32) (lvs.Counters, error) { return all[id], nil }, err
}

// countedAll reads the counters of all servers whose ids are below a limit.
func (p *Plane) countedAll(limit uint32) ([]lvs.Counters, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	all := make([]lvs.Counters, limit)
	n := min(int(limit), countChunk)
	keys, values := make([]uint32, n), make([]bpfCounters, n*cpus)
	var cursor ebpf.MapBatchCursor
	for first := 0; first < int(limit); {
		n := min(len(keys), int(limit)-first)
		got, err := p.maps.ServerCounters.BatchLookup(&cursor, keys[:n], values[:n*cpus], nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) || got == 0 {
			return nil, fmt.Errorf("reading real servers' counters: %w", err)
		}
		for i, c := range values[:got*cpus] {
			at := &all[first+i/cpus]
			*at = addCounters(*at, countersOf(c))
		}
		first += got
	}
	return all, nil
}

// serverCounters returns what a server was counted for since the last zeroing.
func (p *Plane) serverCounters(id uint32, counted tally) (lvs.Counters, error) {
	all, err := counted(id)
	return subCounters(all, countersOf(p.serverBases[id].Counters)), err
}

// zeroServers makes ids as new.
func (p *Plane) zeroServers(ids []uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	nothing := make([]bpfCounters, min(len(ids), countChunk)*cpus)
	for some := range slices.Chunk(ids, countChunk) {
		if _, err := p.maps.ServerCounters.BatchUpdate(some, nothing[:len(some)*cpus], nil); err != nil {
			return fmt.Errorf("clearing real servers' counters: %w", err)
		}
	}
	p.begun += uint64(len(ids))
	for _, id := range ids {
		p.serverBases[id], p.loads[id] = bpfServerBase{}, bpfLoad{}
		p.seeds[id], p.youngs[id] = bpfSeed{}, bpfYoung{}
		p.estimators.servers.forget(id)
	}
	return nil
}

// addToBase keeps a service's counters whole when one of its servers leaves
// (add) or comes back.
func (p *Plane) addToBase(service, server uint32, add bool, counted tally) error {
	c, err := p.serverCounters(server, counted)
	if err != nil {
		return err
	}
	base := &p.serviceBases[service].Counters
	sum := addCounters(countersOf(*base), c)
	if !add {
		sum = subCounters(countersOf(*base), c)
	}
	*base = bpfCountersOf(sum)
	return nil
}

// Status returns counters, rates and connection counts of all services, in no
// particular order; the servers of each are in the order of its list.
func (p *Plane) Status() ([]lvs.ServiceStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	counted, err := p.tally()
	if err != nil {
		return nil, err
	}
	out := make([]lvs.ServiceStatus, 0, len(p.installed))
	for _, i := range p.installed {
		s, err := p.serviceStatus(i, counted)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", i.service.ServiceID, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func (p *Plane) serviceStatus(i *installed, counted tally) (lvs.ServiceStatus, error) {
	s := lvs.ServiceStatus{ServiceID: i.service.ServiceID, Counters: countersOf(p.serviceBases[i.id].Counters)}
	for n, id := range i.servers {
		c, err := p.serverCounters(id, counted)
		if err != nil {
			return s, err
		}
		s.Counters = addCounters(s.Counters, c)
		one := p.holds(i, n)
		one.Local, one.Counters, one.Rates = p.record(id).local(), c, p.estimators.servers.of(id).rates()
		s.Servers = append(s.Servers, one)
	}
	s.Rates = p.estimators.services.of(i.id).rates()
	return s, nil
}

// Loads tells what the servers of a service hold, and nothing else of them; none
// if there is no such service.
func (p *Plane) Loads(id lvs.ServiceID) (all []lvs.ServerStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.installed[id]
	if i == nil {
		return nil
	}
	for n := range i.servers {
		all = append(all, p.holds(i, n))
	}
	return all
}

// holds is what the nth server of a service holds.
func (p *Plane) holds(i *installed, n int) lvs.ServerStatus {
	load := p.loadOf(i.servers[n])
	return lvs.ServerStatus{
		ServerID:   i.service.Servers[n].ServerID,
		Active:     uint32(load.Connections),
		Inactive:   uint32(load.Connections >> 32),
		Persistent: load.Templates,
	}
}

// Zero sets the counters and rates of a service and its servers to 0.
func (p *Plane) Zero(id lvs.ServiceID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.installed[id]
	if i == nil {
		return fmt.Errorf("%v: %w", id, lvs.ErrNoService)
	}
	return p.zero(i, p.counted)
}

// ZeroAll sets all counters and rates to 0.
func (p *Plane) ZeroAll() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	counted, err := p.tally()
	if err != nil {
		return err
	}
	for _, i := range p.installed {
		if err := p.zero(i, counted); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plane) zero(i *installed, counted tally) error {
	for _, id := range i.servers {
		all, err := counted(id)
		if err != nil {
			return err
		}
		p.serverBases[id].Counters = bpfCountersOf(all)
		p.estimators.servers.forget(id)
	}
	p.estimators.services.forget(i.id)
	p.serviceBases[i.id] = baseOf(i.service.ServiceID)
	return nil
}

// Run does what must be done now and then, until ctx ends: it samples rates,
// frees what removed servers held, notices that an interface has another MAC,
// keeps fragments that come before the first of their datagram, and has clients
// whose connections are to be reset send the packet that is answered so (End). No
// other packets depend on it. It must run in the network namespace of the interfaces.
func (p *Plane) Run(ctx context.Context) error {
	var others sync.WaitGroup
	defer others.Wait()
	others.Go(func() {
		if err := newResumer(p).run(ctx); err != nil {
			p.log.Error("fragments of datagrams that come out of order are dropped from now on, and ICMP errors about unknown connections reach one real server only", "error", err)
		}
	})
	others.Go(func() { newProvoker(p).run(ctx) })
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
	begun, servers := p.begun, p.serverIDs.next
	p.mu.Unlock()
	all, err := p.countedAll(servers) // which takes a while, if they are many
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.untidy {
		p.tidy()
	}
	if err := errors.Join(p.reap(), p.reapIDs()); err != nil {
		return err
	}
	if p.begun != begun { // an id is another server's now
		if all, err = p.countedAll(p.serverIDs.next); err != nil {
			return err
		}
	}
	counted := func(id uint32) (lvs.Counters, error) { return all[id], nil }
	for _, i := range p.installed {
		sum := countersOf(p.serviceBases[i.id].Counters)
		for _, id := range i.servers {
			c, err := p.serverCounters(id, counted)
			if err != nil {
				return err
			}
			sum = addCounters(sum, c)
			p.estimators.servers.next(id, c)
		}
		p.estimators.services.next(i.id, sum)
	}
	return nil
}
