// SPDX-License-Identifier: MIT

package e2e

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// A flood is made by the kernel: a program that is run with live frames writes
// one of many prepared frames over each and sends it, so that the director's
// interface gets them at the speed of a driver.
const (
	floodFrame  = 128     // bytes of each, padding included
	floodFrames = 1 << 16 // different ones
	floodBurst  = 1 << 14 // sent as fast as it goes
	floodMost   = 8 << 20 // frames in all
)

// flood sends frames to the director until it is stopped: in bursts at full
// speed, between which it rests for as long as a burst took. The director's work
// is done in the same place, so that on a machine with two CPUs the one is
// theirs for half the time, and the clients and real servers have what is left.
type flood struct {
	sent  atomic.Int64
	stop  chan struct{}
	ended chan error
}

// flood begins one of such frames.
func (c *cluster) flood(frame func(r *rand.Rand) []byte) *flood {
	c.t.Helper()
	program, index := c.floodProgram(frame)
	f := &flood{stop: make(chan struct{}), ended: make(chan error, 1)}
	go func() {
		defer program.Close()
		f.ended <- c.Switch.Do(func() error { return f.run(program, index) })
	}()
	c.t.Cleanup(func() { f.end(c.t) })
	return f
}

func (f *flood) run(program *ebpf.Program, index int) error {
	context := struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }{DataEnd: floodFrame, IngressIfindex: uint32(index)}
	for f.sent.Load() < floodMost {
		began := time.Now()
		_, err := program.Run(&ebpf.RunOptions{Data: make([]byte, floodFrame), Context: context, Repeat: floodBurst, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES})
		if err != nil {
			return err
		}
		f.sent.Add(floodBurst)
		select {
		case <-f.stop:
			return nil
		case <-time.After(time.Since(began)):
		}
	}
	return nil
}

// end stops the flood, if it is not stopped, and returns how many frames it was.
func (f *flood) end(t testing.TB) int64 {
	select {
	case <-f.stop:
	default:
		close(f.stop)
		if err := <-f.ended; err != nil {
			t.Errorf("the flood: %v", err)
		}
	}
	return f.sent.Load()
}

// floodProgram makes the program, and finds the interface of the switch at which
// the director is: what is sent there comes in at the director's.
func (c *cluster) floodProgram(frame func(r *rand.Rand) []byte) (p *ebpf.Program, index int) {
	c.t.Helper()
	must := func(err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatal(err)
		}
	}
	frames, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: floodFrame, MaxEntries: floodFrames})
	must(err)
	defer frames.Close()
	next, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(err)
	defer next.Close()
	r := rand.New(rand.NewPCG(4, 3)) // the same ones each time
	keys, values := make([]uint32, floodFrames), make([][floodFrame]byte, floodFrames)
	for i := range keys {
		keys[i] = uint32(i)
		copy(values[i][:], frame(r))
	}
	_, err = frames.BatchUpdate(keys, values, nil)
	must(err)
	lookup := func(m *ebpf.Map) asm.Instructions {
		return asm.Instructions{asm.LoadMapPtr(asm.R1, m.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "drop")}
	}
	code := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1), asm.StoreImm(asm.RFP, -4, 0, asm.Word)}
	code = append(code, lookup(next)...)
	code = append(code, asm.LoadMem(asm.R1, asm.R0, 0, asm.Word), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R0, 0, asm.R1, asm.Word),
		asm.And.Imm(asm.R1, floodFrames-1), asm.StoreMem(asm.RFP, -4, asm.R1, asm.Word))
	code = append(code, lookup(frames)...)
	code = append(code, asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, 0), asm.Mov.Reg(asm.R3, asm.R0), asm.Mov.Imm(asm.R4, floodFrame),
		asm.FnXdpStoreBytes.Call(), asm.Mov.Imm(asm.R0, 3 /* XDP_TX */), asm.Return(),
		asm.Mov.Imm(asm.R0, 1 /* XDP_DROP */).WithSymbol("drop"), asm.Return())
	p, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "flood", Type: ebpf.XDP, Instructions: code, License: "MIT"})
	must(err)
	must(c.Switch.Do(func() error {
		i, err := net.InterfaceByName(c.Director.Name())
		if err == nil {
			index = i.Index
		}
		return err
	}))
	return p, index
}

// forged makes frames to the director, from nobody.
type forged struct{ director, from net.HardwareAddr }

func (g forged) ethernet(ethertype uint16) []byte {
	b := append(make([]byte, 0, floodFrame), g.director...)
	return binary.BigEndian.AppendUint16(append(b, g.from...), ethertype)
}

// source is an IPv4 address of no network that anybody is in.
func source(r *rand.Rand) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(20 + r.IntN(80)), byte(r.Uint32()), byte(r.Uint32()), byte(1 + r.IntN(254))})
}

func source6(r *rand.Rand) netip.Addr {
	a := [16]byte{0x20, 1, 0x0d, 0xb8, 0xff}
	binary.BigEndian.PutUint64(a[5:], r.Uint64())
	return netip.AddrFrom16(a)
}

const (
	protocolICMP = 1
	flagDF       = 0x4000
	flagMF       = 0x2000
)

// ip puts a header in front of a payload. fragment is the header's field of flags
// and offset.
func (g forged) ip(r *rand.Rand, from netip.Addr, protocol uint8, fragment uint16, payload []byte) []byte {
	to := lab.VIP()
	if from.Is6() {
		b := append(g.ethernet(lab.EtherTypeIPv6), 6<<4, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
		b = append(append(b, protocol, 64), from.AsSlice()...)
		return append(append(b, lab.VIP6().AsSlice()...), payload...)
	}
	return append(append(g.ethernet(lab.EtherTypeIPv4), header4(from, to, protocol, uint16(r.Uint32()), fragment, len(payload))...), payload...)
}

func header4(from, to netip.Addr, protocol uint8, id, fragment uint16, payload int) []byte {
	b := []byte{0x45, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(20+payload))
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, fragment)
	b = append(append(append(b, 64, protocol, 0, 0), from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return b
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum)
}

// ports are the first four bytes of TCP and UDP: from any port to this one.
func ports(r *rand.Rand, to uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, uint16(1024+r.IntN(64000))), to)
}

func tcp(r *rand.Rand, to uint16, flags byte) []byte {
	b := binary.BigEndian.AppendUint64(ports(r, to), r.Uint64())
	return append(b, 5<<4, flags, 0xff, 0xff, byte(r.Uint32()), byte(r.Uint32()), 0, 0)
}

func udp(r *rand.Rand, to uint16, length int) []byte {
	b := binary.BigEndian.AppendUint16(ports(r, to), uint16(8+length))
	return append(b, make([]byte, 2+length)...)
}

func (g forged) syn(r *rand.Rand) []byte {
	return g.ip(r, source(r), lab.ProtocolTCP, flagDF, tcp(r, 80, lab.SYN))
}

func (g forged) syn6(r *rand.Rand) []byte {
	return g.ip(r, source6(r), lab.ProtocolTCP, 0, tcp(r, 80, lab.SYN))
}

// synPersistent is for the service where each client also has a template.
func (g forged) synPersistent(r *rand.Rand) []byte {
	return g.ip(r, source(r), lab.ProtocolTCP, flagDF, tcp(r, 81, lab.SYN))
}

// stray has any flags but SYN, none and RST among them, ACK in most.
func (g forged) stray(r *rand.Rand) []byte {
	flags := byte(r.Uint32()) &^ lab.SYN
	if r.IntN(4) > 0 {
		flags = flags&^lab.RST | lab.ACK
	}
	return g.ip(r, source(r), lab.ProtocolTCP, flagDF, tcp(r, 80, flags))
}

func (g forged) datagram(r *rand.Rand) []byte {
	return g.ip(r, source(r), lab.ProtocolUDP, 0, udp(r, 53, r.IntN(40)))
}

// fragment is the first of a datagram, or a later one that no first will follow.
func (g forged) fragment(r *rand.Rand) []byte {
	switch r.IntN(4) {
	case 0:
		return g.ip(r, source(r), lab.ProtocolTCP, flagMF, tcp(r, 80, lab.SYN))
	case 1:
		return g.ip(r, source(r), lab.ProtocolUDP, flagMF, udp(r, 53, 24))
	}
	protocol := []uint8{lab.ProtocolTCP, lab.ProtocolUDP}[r.IntN(2)]
	more := uint16(r.IntN(2)) * flagMF
	return g.ip(r, source(r), protocol, more|uint16(1+r.IntN(180)), make([]byte, 32))
}

// icmp is an error about any packet, of the VIP's in most, or an echo request.
func (g forged) icmp(r *rand.Rand) []byte {
	if r.IntN(4) == 0 {
		return g.ip(r, source(r), protocolICMP, 0, icmp(8, 0, r.Uint32(), make([]byte, 32)))
	}
	about, protocol := lab.VIP(), []uint8{lab.ProtocolTCP, lab.ProtocolUDP}[r.IntN(2)]
	if r.IntN(4) == 0 {
		about, protocol = source(r), uint8(r.Uint32())
	}
	port := []uint16{80, 81, 53, uint16(r.Uint32())}[r.IntN(4)]
	quoted := header4(about, source(r), protocol, uint16(r.Uint32()), flagDF, 1000)
	quoted = binary.BigEndian.AppendUint32(quoted, uint32(port)<<16|r.Uint32()&0xffff)
	quoted = binary.BigEndian.AppendUint32(quoted, r.Uint32())
	kind := []struct{ kind, code byte }{{3, 4}, {3, 1}, {3, 3}, {11, 0}, {4, 0}}[r.IntN(5)]
	return g.ip(r, source(r), protocolICMP, 0, icmp(kind.kind, kind.code, uint32(68+r.IntN(1400)), quoted))
}

func icmp(kind, code byte, word uint32, data []byte) []byte {
	b := append(binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, word), data...)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// any is one of all the others.
func (g forged) any(r *rand.Rand) []byte {
	kinds := []func(*rand.Rand) []byte{g.syn, g.syn6, g.synPersistent, g.stray, g.datagram, g.fragment, g.icmp}
	return kinds[r.IntN(len(kinds))](r)
}
