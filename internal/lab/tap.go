// SPDX-License-Identifier: MIT

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// snapLen is how much of a frame is read: all headers that are decoded.
	snapLen = 192
	// tapBuffer is how much the kernel may keep for us, in bytes.
	tapBuffer = 64 << 20
)

// ErrMissed is returned by a Tap that could not keep up: frames are missing
// from what it shows, and nothing can be concluded from what is not there.
var ErrMissed = errors.New("the tap missed frames")

// Tap records the frames that pass ports of the switch, in both directions. A
// frame from one node to another is seen twice if both ports are tapped.
//
// What a kernel tells multicast routers of IPv6 (MLD), unasked and whenever it
// likes, is left out.
//
// Because it sits outside of the nodes it also sees what an XDP program in a
// node sends, which a capture within that node would not.
//
// One socket hears all ports, so frames are in the order in which the switch had
// them. The kernel's times do not tell it: it begins to stamp frames a moment
// after it is asked to, and until then the time is that of reading.
type Tap struct {
	mu     sync.Mutex
	frames []Frame
	err    error
	more   chan struct{} // closed and replaced when frames grow

	reader sync.WaitGroup
	socket *os.File
	ports  map[int]string // whose port an interface of the switch is
	closed bool
}

// Tap starts to record at the ports of these nodes; without any, at all ports.
// The last frame before Tap returns may be missed, the first after it is not.
func (c *Cluster) Tap(nodes ...*Node) (*Tap, error) { return c.tap(everyFrame, nodes) }

// TapARP is Tap for ARP frames only; it can run for long and under load.
func (c *Cluster) TapARP(nodes ...*Node) (*Tap, error) { return c.tap(onlyARP, nodes) }

// TapNDP is Tap for neighbour solicitations and advertisements only; it can run
// for long and under load.
func (c *Cluster) TapNDP(nodes ...*Node) (*Tap, error) { return c.tap(onlyNDP, nodes) }

// everyFrame is a classic BPF program, like the two below.
var everyFrame = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff}}

// onlyNDP lets what TapNDP is for through, if no extension header is before it.
var onlyNDP = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: EtherTypeIPv6, Jf: 6},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: etherLen + 6},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: ProtocolICMPv6, Jf: 4},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: etherLen + 40},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: NeighbourSolicitation, Jt: 1},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: NeighbourAdvertisement, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// onlyARP is a classic BPF program: the whole frame if the EtherType is ARP's.
var onlyARP = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: EtherTypeARP, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

func (c *Cluster) tap(filter []unix.SockFilter, nodes []*Node) (*Tap, error) {
	if len(nodes) == 0 {
		nodes = c.Nodes()
	}
	t := &Tap{more: make(chan struct{}), ports: map[int]string{}}
	err := c.Switch.Do(func() (err error) {
		for _, n := range nodes {
			link, err := netlink.LinkByName(n.name)
			if err != nil {
				return fmt.Errorf("cannot tap the port of %s: %w", n.name, err)
			}
			t.ports[link.Attrs().Index] = n.name
		}
		if t.socket, err = openTapSocket(append(atPorts(t.ports), filter...)); err != nil {
			return fmt.Errorf("cannot tap the switch: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.reader.Go(t.read)
	c.taps.add(t)
	return t, nil
}

// atPorts goes on to what is behind it with frames of these interfaces only.
func atPorts(ports map[int]string) []unix.SockFilter {
	const interfaceIndex = 1<<32 - 0x1000 + 8 // SKF_AD_OFF + SKF_AD_IFINDEX
	p := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: interfaceIndex}}
	left := uint8(len(ports))
	for index := range ports {
		p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(index), Jt: left})
		left--
	}
	return append(p, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})
}

// Frames returns what was seen so far, in the order in which the switch had it.
func (t *Tap) Frames() []Frame {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.frames)
}

// Wait returns the first frame, past or to come, for which is holds. It returns
// the context's error if that ends before.
func (t *Tap) Wait(ctx context.Context, is func(Frame) bool) (Frame, error) {
	for {
		t.mu.Lock()
		more := t.more
		i := slices.IndexFunc(t.frames, is)
		var f Frame
		if i >= 0 {
			f = t.frames[i]
		}
		t.mu.Unlock()
		if i >= 0 {
			return f, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return Frame{}, fmt.Errorf("no such frame seen: %w", ctx.Err())
		}
	}
}

// Close stops recording and returns all frames, in the order of Frames, those
// that passed just before included. Its error is ErrMissed, or that of reading.
func (t *Tap) Close() ([]Frame, error) {
	t.mu.Lock()
	again := t.closed
	t.closed = true
	t.mu.Unlock()
	if !again {
		t.fail(t.socket.SetReadDeadline(time.Unix(1, 0)))
		t.reader.Wait()
		t.fail(t.missed())
		t.fail(t.socket.Close())
	}
	frames := t.Frames()
	t.mu.Lock()
	defer t.mu.Unlock()
	return frames, t.err
}

// read runs until Close sets the deadline, and then takes what is left.
func (t *Tap) read() {
	raw, err := t.socket.SyscallConn()
	if err != nil {
		t.fail(err)
		return
	}
	for err == nil {
		err = raw.Read(func(fd uintptr) bool { t.drain(int(fd)); return false })
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.fail(err)
		return
	}
	t.fail(raw.Control(func(fd uintptr) { t.drain(int(fd)) }))
}

// drain takes all frames that wait in the socket.
func (t *Tap) drain(fd int) {
	buf := make([]byte, snapLen)
	var got []Frame
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			if !errors.Is(err, unix.EAGAIN) {
				t.fail(err)
			}
			break
		}
		f := decode(buf[:min(n, len(buf))])
		if f.EtherType == EtherTypeIPv6 && f.Dst == multicastRouters {
			continue
		}
		f.Length = n
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			// The port's "outgoing" is on its way to the node.
			f.Port, f.FromNode = t.ports[ll.Ifindex], ll.Pkttype != unix.PACKET_OUTGOING
		}
		got = append(got, f)
	}
	if len(got) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.frames = append(t.frames, got...)
	close(t.more)
	t.more = make(chan struct{})
}

func (t *Tap) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = errors.Join(t.err, err)
}

// multicastRouters is where reports of MLDv2 go, ff02::16.
var multicastRouters = MAC{0x33, 0x33, 0, 0, 0, 0x16}

// openTapSocket runs in the switch.
func openTapSocket(filter []unix.SockFilter) (_ *os.File, err error) {
	// With protocol 0 it receives nothing until it is bound.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, tapBuffer); err != nil {
		return nil, err
	}
	prog := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, prog); err != nil {
		return nil, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network byte order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all}); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tap"), nil
}

// missed returns ErrMissed if the kernel had to drop frames.
func (t *Tap) missed() error {
	raw, err := t.socket.SyscallConn()
	if err != nil {
		return err
	}
	var stats *unix.TpacketStats
	ctl := raw.Control(func(fd uintptr) {
		stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	})
	if err := errors.Join(ctl, err); err != nil {
		return err
	}
	if stats.Drops > 0 {
		return fmt.Errorf("%w: %d", ErrMissed, stats.Drops)
	}
	return nil
}

// tapSet lets a Cluster close the taps that its user forgot: an open socket
// would keep the switch's namespace alive.
type tapSet struct {
	mu   sync.Mutex
	taps []*Tap
}

func (s *tapSet) add(t *Tap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taps = append(s.taps, t)
}

func (s *tapSet) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.taps {
		t.Close()
	}
	s.taps = nil
}
