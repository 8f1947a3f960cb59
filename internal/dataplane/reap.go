// SPDX-License-Identifier: MIT

package dataplane

import "time"

// reap frees the ids of departed servers that no connection needs any more.
func (p *Plane) reap() error {
	for key, d := range p.leaving {
		load := p.loadOf(d.id)
		if load.Connections != 0 || load.Templates != 0 || time.Since(d.since) < grace {
			continue
		}
		if err := p.writeLimit(d.id, bpfLimit{}); err != nil {
			return err
		}
		p.writeServer(d.id, record{})
		delete(p.leaving, key)
		p.serverIDs.give(d.id)
	}
	return nil
}

// reapPeriod is how often the tables are searched for ids that are gone. That
// takes milliseconds, and nothing waits for it.
const reapPeriod = 30 * time.Second

// reapIDs frees the ids of removed services and listeners that stand in no
// connection any more.
func (p *Plane) reapIDs() error {
	if len(p.gone) == 0 || time.Since(p.reaped) < reapPeriod {
		return nil
	}
	p.reaped = time.Now()
	now, err := p.seconds()
	if err != nil {
		return err
	}
	used := map[uint32]bool{}
	if err := p.each(now, func(e entry, _ bool) { used[e.word.service()] = true }); err != nil {
		return err
	}
	for _, d := range p.leaving {
		used[p.servers[d.id].Service] = true
	}
	for id, n := range p.gone {
		if used[n] {
			continue
		}
		p.serviceBases[n] = bpfServiceBase{}
		delete(p.gone, id)
		p.serviceIDs.give(n)
	}
	return nil
}
