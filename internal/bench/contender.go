// SPDX-License-Identifier: MIT

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// contender is a program that forwards packets, with its tables filled.
type contender struct {
	name    string
	program *ebpf.Program
	tc      bool
	blind   bool // it forwards every packet of IPv4
	// counted tells how many packets left it for each reason
	// (dataplane.VerdictCount); nil if it does not know.
	counted func() (reasons, error)
}

// reasons are numbers of packets by the names of verdicts.
type reasons map[string]uint64

// since is how much larger the numbers are than before.
func (r reasons) since(before reasons) reasons {
	out := reasons{}
	for name, n := range r {
		if n != before[name] {
			out[name] = n - before[name]
		}
	}
	return out
}

func (r reasons) sum() (n uint64) {
	for _, v := range r {
		n += v
	}
	return n
}

// answer is what a contender must say of a packet that is, or is not, to be
// forwarded.
func (c *contender) answer(frame []byte, forwarded bool) uint32 {
	if c.blind {
		forwarded = frame[12] == 8 && frame[13] == 0
	}
	switch {
	case forwarded && c.tc:
		return tcxRedirect
	case forwarded:
		return xdpTX
	case c.tc:
		return tcxNext
	}
	return xdpPass
}

const (
	xdpPass     = 2
	xdpTX       = 3
	tcxRedirect = 7
	tcxNext     = 1<<32 - 1 // -1
)

// yardsticks are the programs of bpf/floor.h.
type yardsticks struct {
	tx, full, assoc *contender
	all             *ebpf.Collection
}

func (y *yardsticks) Close()             { y.all.Close() }
func (y *yardsticks) list() []*contender { return []*contender{y.tx, y.full, y.assoc} }

// openYardsticks loads them with room for so many connections, and with as
// many servers as the director has.
func openYardsticks(connections uint32, servers int, tc bool) (*yardsticks, error) {
	spec, err := loadBench()
	if err != nil {
		return nil, err
	}
	names := map[bool][3]string{
		false: {benchProgFloorTx, benchProgFloorFull, benchProgFloorAssoc},
		true:  {benchProgFloorTxTc, benchProgFloorFullTc, benchProgFloorAssocTc},
	}[tc]
	for name := range spec.Programs {
		if name != names[0] && name != names[1] && name != names[2] {
			delete(spec.Programs, name)
		}
	}
	delete(spec.Maps, benchMapMeasured)
	delete(spec.Maps, benchMapMeasuredTc)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	parts := uint32(1)
	for parts < uint32(cpus) {
		parts *= 2
	}
	const ways = uint32(len(benchSet{}.Way))
	spec.Maps[benchMapFlows].MaxEntries = connections
	spec.Maps[benchMapCache].MaxEntries = parts * connections / ways
	if err := errors.Join(spec.Variables[benchVarSets].Set(connections/ways), spec.Variables[benchVarLastCpu].Set(parts-1)); err != nil {
		return nil, err
	}
	all, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("loading the yardsticks: %w", err)
	}
	y := &yardsticks{all: all}
	for i, c := range []**contender{&y.tx, &y.full, &y.assoc} {
		*c = &contender{name: []string{"floor_tx", "floor_full", "floor_assoc"}[i], program: all.Programs[names[i]], tc: tc}
	}
	y.tx.blind = true
	if err := y.fill(servers); err != nil {
		y.Close()
		return nil, err
	}
	return y, nil
}

// fill gives them one service of each protocol with the same servers.
func (y *yardsticks) fill(servers int) error {
	for i := range servers {
		r := benchReal{Id: uint16(i), Mac: [6]uint8(serverMAC(i))}
		if err := y.all.Maps[benchMapReals].Put(uint32(i), r); err != nil {
			return fmt.Errorf("a yardstick's server: %w", err)
		}
	}
	n := int(y.all.Maps[benchMapRings].MaxEntries())
	places, ids := make([]uint32, n), make([]uint32, n)
	for i := range n {
		places[i], ids[i] = uint32(i), uint32(i%servers)
	}
	if _, err := y.all.Maps[benchMapRings].BatchUpdate(places, ids, nil); err != nil {
		return fmt.Errorf("the yardsticks' hash ring: %w", err)
	}
	for i, protocol := range []lvs.Protocol{lvs.TCP, lvs.UDP} {
		at := benchVirtual{Vip: onWire(vip), Port: bits.ReverseBytes16(webPort), Protocol: uint8(protocol)}
		if err := y.all.Maps[benchMapVirtuals].Put(at, benchVirtualValue{Id: uint32(i)}); err != nil {
			return fmt.Errorf("a yardstick's service: %w", err)
		}
	}
	return nil
}

// onWire is an IPv4 address as BPF programs compare it.
func onWire(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}
