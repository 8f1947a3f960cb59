// SPDX-License-Identifier: MIT

package dataplane

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// provoker has clients whose connections are to be reset send a packet: only its
// numbers make a RST right, and a client that waits for a server that is dead sends
// none. It gets a bare ACK from the VIP with a number that is in no window (nobody
// here knows one that is), and answers that with what it expects (RFC 9293, 3.10.7.4;
// RFC 5961). The kernel finds the way. Nothing has to be cleaned up should the
// daemon die: which servers it is about is in their records.
type provoker struct {
	*Plane
	servers map[uint32]*resetting
	sockets map[int]int // by address family
	ahead   time.Time   // when what was sent would be due at the rate
}

// resetting is a server whose connections are being reset.
type resetting struct {
	round   int
	due     time.Time // when the next round is, once all are asked
	clients []flow
	failed  error // the first that could not be asked
}

// flow is a client's connection.
type flow struct{ client, virtual netip.AddrPort }

const (
	provokeEvery = time.Second / 10000
	provokeBurst = 10 * time.Millisecond
)

// provokePauses are what follows each round: an answer, or the question, may be lost.
func provokePauses() []time.Duration {
	return []time.Duration{time.Second, 2 * time.Second, 5 * time.Second}
}

func newProvoker(p *Plane) *provoker {
	return &provoker{Plane: p, servers: map[uint32]*resetting{}, sockets: map[int]int{}}
}

// run provokes until ctx ends.
func (v *provoker) run(ctx context.Context) {
	defer func() {
		for _, fd := range v.sockets {
			unix.Close(fd)
		}
	}()
	v.take()
	for {
		v.begin(time.Now())
		v.ask(time.Now())
		timer, stop := v.timer(time.Now())
		select {
		case <-ctx.Done():
			stop()
			return
		case <-v.reset:
			v.take()
		case <-timer:
		}
		stop()
	}
}

// timer is when there is something to be done; never, if there are no servers.
func (v *provoker) timer(now time.Time) (<-chan time.Time, func() bool) {
	var next time.Time
	for _, s := range v.servers {
		due := s.due
		if len(s.clients) > 0 {
			due = now.Add(provokeBurst / 2)
		}
		if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	if next.IsZero() {
		return nil, func() bool { return true }
	}
	t := time.NewTimer(next.Sub(now))
	return t.C, t.Stop
}

// take begins with the servers that have come, or come again.
func (v *provoker) take() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id := range v.resetting {
		v.servers[id] = &resetting{due: time.Now()}
	}
	clear(v.resetting)
}

func (v *provoker) look(id uint32) record {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.record(id)
}

// begin begins the rounds that are due, and ends what had its last.
func (v *provoker) begin(now time.Time) {
	due := map[uint32]*resetting{}
	for id, s := range v.servers {
		if len(s.clients) > 0 || s.due.After(now) {
			continue
		}
		r := v.look(id)
		if s.failed != nil {
			v.log.Warn("a client of a real server whose connections are to be reset cannot be asked for a packet; its next one is answered by a reset", "server", r.addr, "error", s.failed)
			s.failed = nil
		}
		if !r.resets() {
			delete(v.servers, id)
			continue
		}
		if s.round == len(provokePauses()) || v.loadOf(id).Connections == 0 {
			v.finish(id, r)
			continue
		}
		due[id] = s
		s.due = now.Add(provokePauses()[s.round])
		s.round++
	}
	if len(due) == 0 {
		return
	}
	if err := v.find(due); err != nil {
		v.log.Warn("cannot find the connections that are to be reset; they are when their next packet comes", "error", err)
	}
}

func (v *provoker) finish(id uint32, r record) {
	delete(v.servers, id)
	ended, err := v.finishReset(id)
	if err != nil {
		v.log.Warn("connections that were to be reset are left; they are when their next packet comes", "server", r.addr, "error", err)
	}
	if ended > 0 {
		v.log.Info("some clients did not answer, so their connections ended without a reset", "server", r.addr, "connections", ended)
	}
}

// find lists the connections of TCP of some servers.
func (v *provoker) find(of map[uint32]*resetting) error {
	v.mu.Lock()
	tcp := map[uint32]lvs.ServiceID{}
	for _, i := range v.installed {
		for _, l := range i.listeners {
			if l.Protocol == lvs.TCP {
				tcp[l.id] = l.ServiceID
			}
		}
	}
	now, err := v.seconds()
	v.mu.Unlock()
	if err != nil {
		return err
	}
	return v.each(now, func(e entry, template bool) {
		s := of[e.word.server()]
		l, ok := tcp[e.word.service()]
		if template || s == nil || !ok {
			return
		}
		client := e.client
		if b := client.As16(); l.Addr.Is4() && client.Is6() { // ::a.b.c.d
			client = netip.AddrFrom4([4]byte(b[12:]))
		}
		s.clients = append(s.clients, flow{
			netip.AddrPortFrom(client, networkOrder(uint16(e.ports))),
			netip.AddrPortFrom(l.Addr, networkOrder(uint16(e.ports>>16))),
		})
	})
}

// ask sends as many as the rate has it, of all servers in turn.
func (v *provoker) ask(now time.Time) {
	if v.ahead.Before(now) {
		v.ahead = now
	}
	for more := true; more; {
		more = false
		for _, s := range v.servers {
			if len(s.clients) == 0 {
				continue
			}
			if v.ahead.Sub(now) >= provokeBurst {
				return
			}
			v.ahead = v.ahead.Add(provokeEvery)
			c := s.clients[0]
			if s.clients = s.clients[1:]; len(s.clients) == 0 {
				s.clients = nil
				s.due = now.Add(provokePauses()[s.round-1])
			}
			if err := v.provoke(c); err != nil && s.failed == nil {
				s.failed = fmt.Errorf("%v: %w", c.client, err)
			}
			more = true
		}
	}
}

// provoke sends a client what it answers.
func (v *provoker) provoke(c flow) error {
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(c.client.Addr().AsSlice()[:4])})
	if c.client.Addr().Is6() {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: c.client.Addr().As16()}
	}
	fd, open := v.sockets[family]
	if !open {
		var err error
		// This protocol says that what is sent begins with an IP header.
		if fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return fmt.Errorf("opening a raw socket: %w", err)
		}
		v.sockets[family] = fd
	}
	return unix.Sendto(fd, segment(c.virtual, c.client, tcpACK, rand.Uint32(), rand.Uint32()), 0, to)
}

const (
	tcpRST = 1 << 2
	tcpACK = 1 << 4
)

// segment is a segment of TCP without data, with its IP header.
func segment(from, to netip.AddrPort, flags byte, seq, ack uint32) []byte {
	const length, window = 20, 1 << 10
	var tcp []byte
	tcp = binary.BigEndian.AppendUint16(tcp, from.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, to.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, seq)
	tcp = binary.BigEndian.AppendUint32(tcp, ack)
	tcp = append(tcp, length/4<<4, flags)
	tcp = binary.BigEndian.AppendUint16(tcp, window)
	tcp = append(tcp, 0, 0, 0, 0)
	source, destination := from.Addr().AsSlice(), to.Addr().AsSlice()
	binary.BigEndian.PutUint16(tcp[16:], ^sum16(length+unix.IPPROTO_TCP, source, destination, tcp))
	if from.Addr().Is6() {
		ip := []byte{0x60, 0, 0, 0, 0, length, unix.IPPROTO_TCP, 64}
		return slices.Concat(ip, source, destination, tcp)
	}
	ip := slices.Concat([]byte{0x45, 0, 0, 20 + length, 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0}, source, destination)
	binary.BigEndian.PutUint16(ip[10:], ^sum16(0, ip))
	return append(ip, tcp...)
}

// sum16 is the sum of RFC 1071, of what has an even length.
func sum16(sum uint32, parts ...[]byte) uint16 {
	for _, b := range parts {
		for ; len(b) > 0; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
	}
	sum = sum>>16 + sum&0xffff
	return uint16(sum + sum>>16)
}
