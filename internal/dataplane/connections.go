// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

const (
	deadlineMask   = 1<<bpfWordWORD_DEADLINE_BITS - 1
	connectionSize = int(unsafe.Sizeof(bpfConnection{}))
)

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

// each calls f for every live entry of the connection table. The table is read
// from its mapping while packets change it: an entry is of one moment, the
// whole is not.
func (p *Plane) each(now uint32, f func(key uint64, w word, left uint32)) error {
	memory, err := p.maps.Connections.Memory()
	if err != nil {
		return fmt.Errorf("mapping the connection table: %w", err)
	}
	chunk := make([]byte, 1<<16)
	total := int(p.maps.Connections.MaxEntries()) * int(unsafe.Sizeof(bpfBucket{}))
	for at := 0; at < total; at += len(chunk) {
		part := chunk[:min(len(chunk), total-at)]
		if _, err := memory.ReadAt(part, int64(at)); err != nil {
			return fmt.Errorf("reading the connection table: %w", err)
		}
		for i := 0; i < len(part); i += connectionSize {
			w := word(binary.NativeEndian.Uint64(part[i+8:]))
			if w == 0 {
				continue
			}
			if left, ok := w.remaining(now); ok {
				f(binary.NativeEndian.Uint64(part[i:]), w, left)
			}
		}
	}
	return nil
}

// Connections lists the connection table.
func (p *Plane) Connections() ([]lvs.Connection, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, err := p.seconds()
	if err != nil {
		return nil, err
	}
	services := map[uint32]lvs.ServiceID{}
	for id, i := range p.installed {
		services[i.id] = id
	}
	for id, n := range p.gone {
		services[n] = id
	}
	names := stateNames()
	var out []lvs.Connection
	err = p.each(now, func(key uint64, w word, left uint32) {
		service, ok := services[w.service()]
		if !ok {
			return
		}
		client := netip.AddrPortFrom(addrOf(uint32(key)), networkOrder(uint16(key>>32)))
		out = append(out, lvs.Connection{
			Protocol: service.Protocol,
			Client:   client,
			Virtual:  netip.AddrPortFrom(service.Addr, networkOrder(uint16(key>>48))),
			Server:   netip.AddrPortFrom(addrOf(p.records[w.server()].Addr), service.Port),
			State:    names[min(w.state(), bpfStateSTATE_MAX-1)],
			Expires:  time.Duration(left) * time.Second,
		})
	})
	return out, err
}

// TableUse tells how full the connection table is.
func (p *Plane) TableUse() (TableUse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, err := p.seconds()
	if err != nil {
		return TableUse{}, err
	}
	n := uint64(p.maps.Connections.MaxEntries())
	use := TableUse{Capacity: n * uint64(ways), Bytes: n * uint64(unsafe.Sizeof(bpfBucket{}))}
	err = p.each(now, func(uint64, word, uint32) { use.Used++ })
	return use, err
}
