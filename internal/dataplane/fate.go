// SPDX-License-Identifier: MIT

package dataplane

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// endChunk is how many buckets are gone through at a time.
const endChunk = 1024

const anyListener = 1<<32 - 1 // ANY_LISTENER

// End decides about the connections of a real server: one of weight 0, as a rule, or
// one that was removed, as long as it has any. It tells how many it is about.
//
// FateExpire takes them out of the tables at once, and the server's persistence
// templates: what else comes of them is a stray, of which the service's policy says
// what happens.
//
// FateReset answers each client's next packet of TCP by a RST that it believes, with
// which the connection ends; a SYN is scheduled anew. While Run runs, clients that
// are silent are sent something that they answer at once; after about eight
// seconds, and the time that it takes to ask all of them (10,000 a second), what is
// left expires, unless the service drops strays: then it is answered when it comes.
// What is not TCP expires, and so does all of a service that was removed. A server
// that has a weight gets new connections, which could not be told from the old ones,
// so that is an error (lvs.ErrInvalid); once it gets a weight again, what is left of
// its connections goes on. This is in the maps, and a successor goes on with it.
// The server is sent a RST, too, when its client was, if its MAC address is known.
//
// FateKeep takes a FateReset back. A server that is not known has no connections;
// that is no error.
func (p *Plane) End(service lvs.ServiceID, server lvs.ServerID, fate lvs.Fate) (ended int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, known := p.serverOf(service, server)
	if !known {
		return 0, nil
	}
	i := p.installed[service]
	if fate == lvs.FateReset && i == nil {
		fate = lvs.FateExpire
	}
	switch fate {
	case lvs.FateKeep:
		p.setResets(id, false)
		return 0, nil
	case lvs.FateExpire:
		p.setResets(id, false)
		ended, err = p.expire(id)
	case lvs.FateReset:
		ended, err = p.resetAll(i, id)
	default:
		return 0, fmt.Errorf("%v: %w", fate, lvs.ErrInvalid)
	}
	if err != nil {
		err = fmt.Errorf("connections of real server %v of %v: %w", server, service, err)
	}
	return ended, err
}

// serverOf is the id of a server that is in its service, or was.
func (p *Plane) serverOf(service lvs.ServiceID, server lvs.ServerID) (uint32, bool) {
	of, ok := p.gone[service]
	if i := p.installed[service]; i != nil {
		for n, r := range i.service.Servers {
			if r.ServerID == server {
				return i.servers[n], true
			}
		}
		of, ok = i.id, true
	}
	if !ok {
		return 0, false
	}
	d, ok := p.leaving[serverKey{of, server.Addr}]
	return d.id, ok
}

func (p *Plane) setResets(id uint32, resets bool) {
	r := p.record(id)
	if r.resets() == resets {
		return
	}
	r.Flags ^= uint16(bpfServerFlagsSERVER_RESETS)
	p.writeServer(id, r)
}

// expire takes all entries of a server out of the tables.
func (p *Plane) expire(id uint32) (ended int, err error) {
	if err := p.endTemplates(id); err != nil {
		return 0, err
	}
	return p.endConnections(id, anyListener)
}

// resetAll has the server's connections of TCP end with their next packet, and the
// others end now.
func (p *Plane) resetAll(i *installed, id uint32) (ended int, err error) {
	r := p.record(id)
	if r.exists() && bpfServerFlags(r.Flags)&bpfServerFlagsSERVER_QUIESCED == 0 {
		return 0, fmt.Errorf("it has a weight, so it gets new ones: %w: only those of a server of weight 0, or that was removed, can be reset", lvs.ErrInvalid)
	}
	p.setResets(id, true)
	if err := p.endTemplates(id); err != nil {
		return 0, err
	}
	for _, l := range i.listeners {
		if l.Protocol == lvs.TCP {
			continue
		}
		n, err := p.endConnections(id, l.id)
		if ended += n; err != nil {
			return ended, err
		}
	}
	load := p.loadOf(id).Connections
	left := int(uint32(load)) + int(load>>32)
	if left == 0 {
		p.setResets(id, false)
		return ended, nil
	}
	p.resetting[id] = true
	select {
	case p.reset <- struct{}{}:
	default:
	}
	return ended + left, nil
}

// endTemplates sees that no packet makes a connection of the server any more. One
// that found it, or its template, a moment ago has done so when this returns.
func (p *Plane) endTemplates(id uint32) error {
	if !p.settled { // once for all servers that a change took out
		settleCPUs()
		p.settled = true
	}
	if p.loadOf(id).Templates == 0 {
		return nil
	}
	if _, err := p.end(id, anyListener, bpfKindTEMPLATE, p.maps.Templates); err != nil {
		return err
	}
	settleCPUs()
	return nil
}

// endConnections takes the connections of a server out of their tables.
func (p *Plane) endConnections(id, listener uint32) (ended int, err error) {
	if p.loadOf(id).Connections == 0 {
		return 0, nil
	}
	narrow, err := p.end(id, listener, bpfKindNARROW, p.maps.Connections)
	if err != nil {
		return narrow, err
	}
	wide, err := p.end(id, listener, bpfKindWIDE, p.maps.WideConnections)
	return narrow + wide, err
}

// end runs end_connections (bpf/fate.h) over a table.
func (p *Plane) end(id, listener uint32, kind bpfKind, table *ebpf.Map) (ended int, err error) {
	n := table.MaxEntries()
	for first := uint32(0); first < n; first += endChunk {
		u := &bpfEnding{Server: id, Listener: listener, Kind: uint32(kind), First: first, Count: min(endChunk, n-first)}
		o := ebpf.RunOptions{Context: u, ContextOut: u}
		if ret, err := p.programs.End.Run(&o); err != nil || ret != 0 {
			return ended, fmt.Errorf("taking entries out of the tables (code %d): %w", ret, err)
		}
		ended += int(u.Ended)
	}
	return ended, nil
}

// finishReset ends the connections of a server that were not reset in time. Where
// strays are dropped they stay, so that their clients are told when they come.
func (p *Plane) finishReset(id uint32) (ended int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.record(id).resets() {
		return 0, nil
	}
	for _, i := range p.installed {
		if i.id == p.servers[id].Service && i.service.Policy.Stray == lvs.StrayDrop && p.loadOf(id).Connections != 0 {
			return 0, nil
		}
	}
	ended, err = p.endConnections(id, anyListener)
	if err == nil {
		p.setResets(id, false)
	}
	return ended, err
}
