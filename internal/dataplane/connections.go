// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

const deadlineMask = 1<<bpfWordWORD_DEADLINE_BITS - 1

func stateNames() [bpfStateSTATE_MAX]lvs.State {
	return [bpfStateSTATE_MAX]lvs.State{
		bpfStateSTATE_NONE:        lvs.StateNone,
		bpfStateSTATE_ESTABLISHED: lvs.StateEstablished,
		bpfStateSTATE_SYN_SENT:    lvs.StateSynSent,
		bpfStateSTATE_SYN_RECV:    lvs.StateSynRecv,
		bpfStateSTATE_FIN_WAIT:    lvs.StateFinWait,
		bpfStateSTATE_TIME_WAIT:   lvs.StateTimeWait,
		bpfStateSTATE_CLOSE:       lvs.StateClose,
		bpfStateSTATE_CLOSE_WAIT:  lvs.StateCloseWait,
		bpfStateSTATE_LAST_ACK:    lvs.StateLastAck,
		bpfStateSTATE_LISTEN:      lvs.StateListen,
		bpfStateSTATE_SYNACK:      lvs.StateSynAck,
		bpfStateSTATE_UDP:         lvs.StateUDP,
		bpfStateSTATE_ASSURED:     lvs.StateAssured,
	}
}

// sctpStateNames are the names that the same numbers have in SCTP (bpf/types.h,
// enum sctp_state). A template's are as of any protocol.
func sctpStateNames() [bpfStateSTATE_MAX]lvs.State {
	return [bpfStateSTATE_MAX]lvs.State{
		bpfSctpStateSCTP_NONE:              lvs.StateNone,
		bpfSctpStateSCTP_INIT1:             lvs.StateInit1,
		bpfSctpStateSCTP_INIT:              lvs.StateInit,
		bpfSctpStateSCTP_COOKIE_ECHOED:     lvs.StateCookieEchoed,
		bpfSctpStateSCTP_ESTABLISHED:       lvs.StateEstablished,
		bpfSctpStateSCTP_SHUTDOWN_RECEIVED: lvs.StateShutdownReceived,
		bpfSctpStateSCTP_CLOSED:            lvs.StateClosed,
	}
}

// word is what a connection's word says (bpf/types.h).
type word uint64

func (w word) deadline() uint32 { return uint32(w) & deadlineMask }
func (w word) state() bpfState  { return bpfState(w >> bpfWordWORD_STATE_SHIFT & 0xf) }
func (w word) server() uint32 {
	return uint32(w >> bpfWordWORD_SERVER_SHIFT & (1<<bpfWordWORD_SERVER_BITS - 1))
}
func (w word) service() uint32 { return uint32(w >> bpfWordWORD_SERVICE_SHIFT) }

// remaining is how many seconds a connection has left; false if it is expired.
func (w word) remaining(now uint32) (uint32, bool) {
	left := (w.deadline() - now) & deadlineMask
	return left, left <= maxTimeout
}

// entry is one live entry of a table, whichever it is of.
type entry struct {
	client netip.Addr
	ports  uint32 // as on the wire: the client's, then the virtual one
	word   word
	left   uint32 // seconds
	held   bool   // of a template: it has connections
}

// narrowEntry and wideEntry read an entry as the two kinds of tables have it.
func narrowEntry(b []byte) (e entry) {
	var c bpfConnection
	key := binary.NativeEndian.Uint64(b[unsafe.Offsetof(c.Key):])
	e.client, e.ports = addrOf(uint32(key)), uint32(key>>32)
	e.word = word(binary.NativeEndian.Uint64(b[unsafe.Offsetof(c.Word):]))
	return e
}

func wideEntry(b []byte) (e entry) {
	var c bpfWideConnection
	e.client = netip.AddrFrom16([16]byte(b[unsafe.Offsetof(c.Client):][:16]))
	e.ports = binary.NativeEndian.Uint32(b[unsafe.Offsetof(c.Ports):])
	e.held = binary.NativeEndian.Uint32(b[unsafe.Offsetof(c.Template):])&(1<<bpfLayoutTEMPLATE_BITS-1) != 0
	e.word = word(binary.NativeEndian.Uint64(b[unsafe.Offsetof(c.Word):]))
	return e
}

// connectionTable is one of the three of them, and how to read it.
type connectionTable struct {
	name     string
	m        *ebpf.Map
	size     int // of an entry, in bytes
	template bool
	read     func([]byte) entry
}

func (p *Plane) tables() []connectionTable {
	narrow, wide := int(unsafe.Sizeof(bpfConnection{})), int(unsafe.Sizeof(bpfWideConnection{}))
	return []connectionTable{
		{bpfMapConnections, p.maps.Connections, narrow, false, narrowEntry},
		{bpfMapWideConnections, p.maps.WideConnections, wide, false, wideEntry},
		{bpfMapTemplates, p.maps.Templates, wide, true, wideEntry},
	}
}

// each calls f for every live entry. The table is read from its mapping while
// packets change it: an entry is of one moment, the whole is not.
func (t connectionTable) each(now uint32, f func(entry)) error {
	memory, err := t.m.Memory()
	if err != nil {
		return fmt.Errorf("mapping the table of %s: %w", t.name, err)
	}
	chunk := make([]byte, 1<<16)
	total := int(t.m.MaxEntries()) * int(ways) * t.size
	for at := 0; at < total; at += len(chunk) {
		part := chunk[:min(len(chunk), total-at)]
		if _, err := memory.ReadAt(part, int64(at)); err != nil {
			return fmt.Errorf("reading the table of %s: %w", t.name, err)
		}
		for ; len(part) > 0; part = part[t.size:] {
			e := t.read(part)
			if e.word == 0 {
				continue
			}
			left, ok := e.word.remaining(now)
			if !ok {
				if left = 0; !t.template || !e.held {
					continue
				}
			}
			e.left = left
			f(e)
		}
	}
	return nil
}

// each calls f for every live connection, and for every template.
func (p *Plane) each(now uint32, f func(e entry, template bool)) error {
	for _, t := range p.tables() {
		if err := t.each(now, func(e entry) { f(e, t.template) }); err != nil {
			return err
		}
	}
	return nil
}

// Connections lists the connection table, persistence templates included.
func (p *Plane) Connections() ([]lvs.Connection, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, err := p.seconds()
	if err != nil {
		return nil, err
	}
	services := map[uint32]lvs.ServiceID{}
	for id, n := range p.gone {
		services[n] = id
	}
	for id, i := range p.installed {
		for _, l := range i.listeners {
			services[l.id] = l.ServiceID
		}
		services[i.id] = id
	}
	names, sctp := stateNames(), sctpStateNames()
	var out []lvs.Connection
	err = p.each(now, func(e entry, template bool) {
		service, ok := services[e.word.service()]
		if !ok {
			return
		}
		client := e.client
		if !service.Is6() && client.Is6() { // ::a.b.c.d
			b := client.As16()
			client = netip.AddrFrom4([4]byte(b[12:]))
		}
		virtual := networkOrder(uint16(e.ports >> 16))
		state := names[min(e.word.state(), bpfStateSTATE_MAX-1)]
		if service.Protocol == lvs.SCTP && !template {
			state = sctp[min(e.word.state(), bpfStateSTATE_MAX-1)]
		}
		out = append(out, lvs.Connection{
			Protocol: service.Protocol,
			Client:   netip.AddrPortFrom(client, networkOrder(uint16(e.ports))),
			Virtual:  netip.AddrPortFrom(virtualAddr(service), virtual),
			Server:   netip.AddrPortFrom(p.addrOf(e.word.server()), virtual),
			State:    state,
			Expires:  time.Duration(e.left) * time.Second,
		})
	})
	return out, err
}

// virtualAddr is the VIP of a connection, or, of a mark's template, the mark as
// the kernel writes it: as an address.
func virtualAddr(id lvs.ServiceID) netip.Addr {
	if id.Mark == 0 {
		return id.Addr
	}
	var b [16]byte
	binary.BigEndian.PutUint32(b[12:], id.Mark)
	if id.Mark6 {
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte(b[12:]))
}

// TableUse tells how full the connection tables are.
func (p *Plane) TableUse() ([]TableUse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, err := p.seconds()
	if err != nil {
		return nil, err
	}
	var all []TableUse
	for _, t := range p.tables() {
		n := uint64(t.m.MaxEntries()) * uint64(ways)
		use := TableUse{Name: t.name, Capacity: n, Bytes: n * uint64(t.size)}
		if err := t.each(now, func(entry) { use.Used++ }); err != nil {
			return nil, err
		}
		all = append(all, use)
	}
	return all, nil
}
