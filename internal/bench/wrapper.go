// SPDX-License-Identifier: MIT

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
)

// traffic is which packets come.
type traffic struct {
	frame    []byte
	flows    uint64   // how many come by turns, a power of two; 0: the frame is repeated as it is
	fresh    bool     // every packet is of a flow that was not there before
	inOrder  bool     // flows come in the order of their numbers
	order    []uint32 // flows come in this order, over and over
	services uint32   // to so many ports from the frame's on, by turns; 0 and 1: the frame's only
	tc       bool     // as socket buffers
}

const (
	orderSize = 1 << 20 // ORDER_BITS of bpf/wrap.h
	// Odd and far from round: neighbours in time are not neighbours in memory.
	stride = 0x9E3779B97F4A7C15
	// As many as set_client in bpf/wrap.h can tell apart. Fresh ones are numbers
	// from anywhere in between; few of them happen to be among those that come
	// round.
	allFlows = 1 << (24 + 12)
	// A test run holds up its CPU's soft interrupts, and at our priority everything
	// else there: so it is cut into pieces.
	piece     = 25_000
	longPiece = 100_000 // where time is not taken
)

// wrapper gives programs the packets of one kind of traffic.
type wrapper struct {
	traffic traffic
	program *ebpf.Program
	nothing *ebpf.Program
	target  *ebpf.Map
	all     *ebpf.Collection
}

func newWrapper(t traffic) (*wrapper, error) {
	spec, err := loadBench()
	if err != nil {
		return nil, err
	}
	names := map[bool][3]string{
		false: {benchProgWrap, benchProgNothing, benchMapMeasured},
		true:  {benchProgWrapTc, benchProgNothingTc, benchMapMeasuredTc},
	}[t.tc]
	for name := range spec.Programs {
		if name != names[0] && name != names[1] {
			delete(spec.Programs, name)
		}
	}
	for name := range spec.Maps {
		if name != names[2] && name[0] != '.' {
			delete(spec.Maps, name)
		}
	}
	if err := t.set(spec); err != nil {
		return nil, err
	}
	all, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("loading the wrapper: %w", err)
	}
	w := &wrapper{traffic: t, all: all, program: all.Programs[names[0]], nothing: all.Programs[names[1]], target: all.Maps[names[2]]}
	if t.order != nil {
		must(all.Variables[benchVarOrder].Set(t.order))
	}
	return w, nil
}

// set tells the wrapper's program before it is loaded.
func (t traffic) set(spec *ebpf.CollectionSpec) error {
	var words [frameSize / 8]uint64
	padded := make([]byte, frameSize)
	copy(padded, t.frame)
	for i := range words {
		words[i] = binary.NativeEndian.Uint64(padded[i*8:])
	}
	var varies, tcp, byOrder uint32
	l4, protocol := 34, t.frame[23]
	if t.flows > 0 || t.fresh {
		varies = uint32(t.frame[14] >> 4)
	}
	if varies == 6 {
		l4, protocol = 54, t.frame[20]
	}
	if protocol == 6 {
		tcp = 1
	}
	lastFlow, step := t.flows-1, uint64(stride)
	if t.fresh {
		lastFlow = allFlows - 1
	}
	if t.inOrder {
		step = 1
	}
	if t.order != nil {
		byOrder = 1
	}
	v := spec.Variables
	return errors.Join(
		v[benchVarFrame].Set(words),
		v[benchVarVaries].Set(varies),
		v[benchVarTcp].Set(tcp),
		v[benchVarLastFlow].Set(lastFlow),
		v[benchVarStride].Set(step),
		v[benchVarByOrder].Set(byOrder),
		v[benchVarServices].Set(max(t.services, 1)),
		v[benchVarFirstService].Set(uint32(binary.BigEndian.Uint16(t.frame[l4+2:]))),
	)
}

func (w *wrapper) Close() { w.all.Close() }

// run gives a program so many packets, the first of them with that number, and
// returns what it answered to the last.
func (w *wrapper) run(p *ebpf.Program, first uint64, packets int) (action uint32, err error) {
	_, action, err = w.pieces(p, first, packets, longPiece)
	return action, err
}

// time is run, but returns the ns that each packet took, the wrapper's part
// included: the median of short pieces, so that what disturbs a few of them does
// not count.
func (w *wrapper) time(p *ebpf.Program, first uint64, packets int) (each float64, err error) {
	pieces, _, err := w.pieces(p, first, packets, piece)
	if err != nil {
		return 0, err
	}
	if len(pieces) == 0 {
		return 0, errInterrupted
	}
	return median(pieces), nil
}

func (w *wrapper) pieces(p *ebpf.Program, first uint64, packets, piece int) (each series, action uint32, err error) {
	if err := w.target.Put(uint32(0), p); err != nil {
		return nil, 0, fmt.Errorf("putting the program behind the wrapper: %w", err)
	}
	must(w.all.Variables[benchVarTurn].Set(first))
	for left := packets; left > 0; {
		n := min(left, piece)
		left -= n
		var took time.Duration
		var whole bool
		if took, whole, action, err = w.piece(n); err != nil {
			return nil, 0, err
		}
		if whole {
			each = append(each, float64(took.Nanoseconds())/float64(n-1))
		}
		time.Sleep(took / 10) // or the kernel makes us wait, in the middle of a piece
	}
	return each, action, nil
}

// piece is a run in one go. The clock is read at the first and at the last
// packet, so that the time is of one packet less than there are. It is not
// whole if a signal came in between: then the rest came later, and more.
func (w *wrapper) piece(packets int) (took time.Duration, whole bool, action uint32, err error) {
	var turn, after, began, ended uint64
	v := w.all.Variables
	must(v[benchVarTurn].Get(&turn))
	must(v[benchVarFirstTurn].Set(turn))
	must(v[benchVarLastTurn].Set(turn + uint64(packets) - 1))
	action, err = w.program.Run(&ebpf.RunOptions{Data: w.traffic.frame, Repeat: uint32(packets)})
	if err != nil || packets == 1 {
		return 0, false, action, err
	}
	must(v[benchVarTurn].Get(&after))
	if after < turn+uint64(packets) {
		return 0, false, action, errChanged
	}
	must(v[benchVarBegan].Get(&began))
	must(v[benchVarEnded].Get(&ended))
	return time.Duration(ended - began), after == turn+uint64(packets), action, nil
}

var (
	errInterrupted = errors.New("signals interrupted every test run")
	errChanged     = errors.New("the program changed the packet's length, so it answers instead of forwarding")
)

// bareRuns are the ns that a test run itself takes for a packet, in XDP and in tc.
func bareRuns() (map[bool]float64, error) {
	out := map[bool]float64{}
	for _, tc := range []bool{false, true} {
		w, err := newWrapper(traffic{frame: ack(web), tc: tc})
		if err != nil {
			return nil, err
		}
		var all []float64
		for range 9 {
			_, each, err := w.nothing.Benchmark(w.traffic.frame, 4*piece, nil)
			if err != nil {
				return nil, err
			}
			all = append(all, float64(each.Nanoseconds())+0.5) // the kernel rounds down
		}
		out[tc] = median(all)
		w.Close()
	}
	return out, nil
}
