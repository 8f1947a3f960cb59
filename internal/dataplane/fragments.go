// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// resumer keeps the fragments that came before the first of their datagram
// (bpf/fragment.h) and puts them in again when that is there. It does not
// forward: a frame goes in where it came in, and the program does with it what
// it does with any. What else the program tells is in related.go.
type resumer struct {
	*Plane
	parked *parking
	native map[int]bool // by interface index: the program is a native one there
	wire   int          // a packet socket, for what is in farewell.go; -1: none yet
}

func newResumer(p *Plane) *resumer {
	return &resumer{p, newParking(), map[int]bool{}, -1}
}

// run serves the program until ctx ends. It must run in the network namespace of
// the interfaces.
func (r *resumer) run(ctx context.Context) error {
	ring, err := ringbuf.NewReader(r.maps.Arrivals)
	if err != nil {
		return fmt.Errorf("listening for what the program tells: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { ring.Close() })
	defer func() {
		if stop() {
			ring.Close()
		}
		if r.wire >= 0 {
			unix.Close(r.wire)
		}
	}()
	var rec ringbuf.Record
	for {
		ring.SetDeadline(r.parked.next())
		err := ring.ReadInto(&rec)
		switch {
		case err == nil:
			r.arrive(rec.RawSample, time.Now())
		case errors.Is(err, ringbuf.ErrClosed):
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("listening for what the program tells: %w", err)
		}
		r.giveUp(time.Now())
	}
}

// arrive takes what the program tells: a struct arrival, with a frame or without.
func (r *resumer) arrive(b []byte, now time.Time) {
	var a bpfArrival
	number := func(at uintptr) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	of := datagram(b[:len(datagram{})])
	if bpfArrivalKind(number(unsafe.Offsetof(a.Kind))) == bpfArrivalKindARRIVAL_ENDED {
		r.farewell(b)
		return
	}
	frame := b[unsafe.Sizeof(a):][:number(unsafe.Offsetof(a.Length))]
	switch bpfArrivalKind(number(unsafe.Offsetof(a.Kind))) {
	case bpfArrivalKindARRIVAL_FIRST:
		r.putIn(r.parked.take(of)...)
		return
	case bpfArrivalKindARRIVAL_RELATED:
		r.copy(frame, number(unsafe.Offsetof(a.Server)), number(unsafe.Offsetof(a.Second)))
		return
	}
	f := &fragment{
		of:    of,
		index: int(number(unsafe.Offsetof(a.Interface))),
		frame: withTag(frame, number(unsafe.Offsetof(a.Tag))),
		until: now.Add(parkTime),
	}
	if r.first(of) { // on another CPU, just now
		r.putIn(f)
		return
	}
	if lost := r.parked.park(f); lost != nil {
		r.lose(1)
	}
}

// withTag returns a copy of a frame with the tag of a VLAN that it had, as in
// bpf/vlan.h; 0: none.
func withTag(frame []byte, tag uint32) []byte {
	const macs, ethertype = 12, 0x8100
	if tag == 0 {
		return bytes.Clone(frame)
	}
	out := append(make([]byte, 0, len(frame)+4), frame[:macs]...)
	out = binary.BigEndian.AppendUint16(out, ethertype)
	out = binary.BigEndian.AppendUint16(out, uint16(tag))
	return append(out, frame[macs:]...)
}

// first tells whether the first fragment of a datagram has come.
func (r *resumer) first(of datagram) bool {
	var w word
	err := r.maps.Fragments.Lookup(of[:], &w)
	return err == nil && bpfNote(w.state()) != bpfNoteNOTE_PARKED
}

// giveUp ends the wait of fragments that waited long enough.
func (r *resumer) giveUp(now time.Time) {
	lost := uint32(0)
	for f := r.parked.overdue(now); f != nil; f = r.parked.overdue(now) {
		if r.first(f.of) { // and the ring had no room to say so
			r.putIn(f)
		} else {
			lost++
		}
	}
	r.lose(lost)
}

func (r *resumer) lose(n uint32) {
	if n == 0 {
		return
	}
	c := &bpfVerdictCount{Verdict: uint32(bpfVerdictVERDICT_DROP_PARK_LOST), Packets: n}
	if _, err := r.programs.CountVerdict.Run(&ebpf.RunOptions{Context: c}); err != nil {
		r.log.Warn("cannot count fragments that were given up", "error", err)
	}
}

// putIn has the kernel receive frames once more.
func (r *resumer) putIn(fragments ...*fragment) {
	for _, f := range fragments {
		if err := r.receive(f); err != nil {
			r.log.Warn("a fragment that was kept is lost", "error", err)
			r.lose(1)
		}
	}
}

// xdpContext is the kernel's struct xdp_md.
type xdpContext struct {
	Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32
}

// receive puts a frame through the XDP program and carries out what it says. A
// program that is not a native one sees the frame after that, so then there is
// nothing to be said before.
func (r *resumer) receive(f *fragment) error {
	native, err := r.isNative(f.index)
	if err != nil {
		return err
	}
	program := r.programs.Enter
	if native {
		program = r.programs.Director
	}
	_, err = program.Run(&ebpf.RunOptions{
		Data:    f.frame,
		Context: xdpContext{DataEnd: uint32(len(f.frame)), IngressIfindex: uint32(f.index)},
		Flags:   unix.BPF_F_TEST_XDP_LIVE_FRAMES,
	})
	if err != nil {
		return fmt.Errorf("putting in a frame of interface number %d: %w", f.index, err)
	}
	return nil
}

func (r *resumer) isNative(index int) (bool, error) {
	native, known := r.native[index]
	if known {
		return native, nil
	}
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		return false, fmt.Errorf("interface number %d: %w", index, err)
	}
	for _, a := range r.Attachments() {
		native = native || a.Interface == i.Name && a.Mode == Native
	}
	r.native[index] = native
	return native, nil
}
