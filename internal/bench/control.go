// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// aside runs f on another thread than the one that measures packets: without
// its priority, and on any CPU.
func aside(f func() error) error {
	done := make(chan error)
	go func() { done <- f() }()
	return <-done
}

// control: what changes of the rules take, made through the daemon as it is
// installed.
func control(s *session) error { return aside(s.control) }

func (s *session) control() (err error) {
	d, err := newDaemon(s.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	c := &controlled{session: s, daemon: d, services: 10_000, rounds: min(s.rounds, 5), changes: 50, removals: 20}
	if s.quick {
		c.services, c.rounds, c.changes, c.removals = 1000, 1, 10, 3
	}
	for _, part := range []func() error{c.memory, c.bulk, c.one, c.removal} {
		if err := part(); err != nil {
			return fmt.Errorf("%w; the director says:\n%s", err, d.said)
		}
	}
	return nil
}

// controlled is a daemon whose rules are changed.
type controlled struct {
	*session
	*daemon
	table    *table
	services int
	rounds   int
	changes  int // one at a time
	removals int
}

// taken is what something took, again and again, in ms.
type taken struct {
	clock series
	cpu   float64 // of the daemon, in all
}

// note adds a row, and a figure.
func (c *controlled) note(what, by string, t taken) {
	cpu := fmt.Sprintf("%.1f", t.cpu/float64(len(t.clock)))
	if t.cpu == 0 {
		cpu = ""
	}
	c.table.row(what, by, fmt.Sprintf("%.1f (%.1f–%.1f)", median(t.clock), slices.Min(t.clock), slices.Max(t.clock)), cpu)
	c.report.figure(what+", "+by, median(t.clock))
}

// timed does something and adds what it took.
func (c *controlled) timed(to *taken, f func() error) error {
	before, err := c.cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	err = f()
	to.clock = append(to.clock, float64(time.Since(begin).Nanoseconds())/1e6)
	after, failed := c.cpu()
	to.cpu += after - before
	return errors.Join(err, failed)
}

func (c *controlled) change(changes ...lvs.Change) error { return c.client.Change(c.ctx, changes) }

// bulk makes many services at once, through the API and by ipvsadm -R.
func (c *controlled) bulk() error {
	c.table = c.report.table("Changing the rules", fmt.Sprintf("The program as a daemon in a network namespace, %d real servers there for all services. Through the API: one request, sent, carried out, saved and answered. Commands: the whole process. The last column is a mean.", manyServers),
		"what", "by", "ms", "of them of the daemon's CPUs")
	if err := c.start(c.ctx, 0); err != nil {
		return err
	}
	changes := c.manyServices(c.services, manyServers)
	lines, err := c.lines(c.manyServices(c.services, manyServers-1))
	if err != nil {
		return err
	}
	var applied, edited, restored, cleared taken
	var edits []lvs.Change
	for _, change := range changes {
		if change.Operation == lvs.AddServer {
			change.Operation, change.Server.Weight = lvs.EditServer, 2
			edits = append(edits, change)
		}
	}
	clear := func() error { return c.change(lvs.Change{Operation: lvs.Clear}) }
	for range c.rounds {
		err := errors.Join(
			c.timed(&applied, func() error { return c.change(changes...) }),
			c.timed(&edited, func() error { return c.change(edits...) }),
			c.timed(&cleared, clear),
			c.timed(&restored, func() error {
				cmd := c.command(c.ctx, "ipvsadm", "-R")
				cmd.Stdin = bytes.NewReader(lines)
				_, err := cmd.Output()
				return err
			}),
			c.timed(&cleared, clear))
		if err != nil {
			return err
		}
	}
	c.note(fmt.Sprintf("%d services × %d servers", c.services, manyServers), "API", applied)
	c.note("all their weights", "API", edited)
	c.note(fmt.Sprintf("%d lines of rules", c.services*manyServers), "`ipvsadm -R`", restored)
	c.note("none left of all these", "API", cleared)
	return c.change(changes...)
}

// lines writes changes as ipvsadm -S does.
func (c *controlled) lines(changes []lvs.Change) ([]byte, error) {
	t, err := lvs.NewTable().Changed(changes)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = ipvsadm.WriteRules(&b, t)
	return b.Bytes(), err
}

// one makes one change at a time, while all services are there.
func (c *controlled) one() error {
	var inAPI, inProcess, bare taken
	for i := range c.changes {
		id := manyService(i * 37 % c.services)
		r := c.server(id, i%manyServers, int32(2+i%5))
		run := func(args ...string) func() error {
			return func() error { _, err := c.command(c.ctx, args...).Output(); return err }
		}
		err := errors.Join(
			c.timed(&inAPI, func() error {
				return c.change(lvs.Change{Operation: lvs.EditServer, Service: lvs.VirtualService{ServiceID: id}, Server: r})
			}),
			c.timed(&inProcess, run("ipvsadm", "-e", "-t", netip.AddrPortFrom(id.Addr, id.Port).String(), "-r", r.Addr.String(), "-g", "-w", "1")),
			c.timed(&bare, run("ipvsadm", "--version")))
		if err != nil {
			return err
		}
	}
	bare.cpu = 0 // it is not asked
	c.note("one weight", "API", inAPI)
	c.note("one weight", "`ipvsadm -e`", inProcess)
	c.note("no change: what a process takes", "`ipvsadm --version`", bare)
	return nil
}

// removal removes a server while packets of a connection to it come.
func (c *controlled) removal() error {
	var first, answered taken
	for i := range c.removals {
		id := manyService(i * 41 % c.services)
		after, done, err := c.removeOne(id, uint16(20_000+i))
		if err != nil {
			return fmt.Errorf("removing a server of %v: %w", id, err)
		}
		first.clock, answered.clock = append(first.clock, after), append(answered.clock, done)
	}
	c.note("one server removed: the first packet that goes to another", "API", first)
	c.note("one server removed: the answer", "API", answered)
	return nil
}

// removeOne opens a connection to a service, removes its server and adds it again.
// It returns how many ms after the removal was asked for the first packet of the
// connection went elsewhere, and the answer came.
func (c *controlled) removeOne(id lvs.ServiceID, port uint16) (first, answered float64, err error) {
	const every, lead, deadline = 50 * time.Microsecond, 20 * time.Millisecond, 10 * time.Second
	tap, err := c.Tap(c.RealServers...)
	if err != nil {
		return 0, 0, err
	}
	defer tap.Close()
	stream, err := c.openStream(id, port)
	if err != nil {
		return 0, 0, err
	}
	defer stream.Close()
	ctx, cancel := context.WithTimeout(c.ctx, deadline)
	defer cancel()
	of := func(f lab.Frame) bool { return f.IP != nil && f.IP.Src.Port() == port }
	if err := errors.Join(stream.send(stream.syn), stream.next()); err != nil {
		return 0, 0, err
	}
	at, err := tap.Wait(ctx, of)
	if err != nil {
		return 0, 0, err
	}
	ended := make(chan error, 1)
	sending, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for sending.Err() == nil {
			if err := stream.next(); err != nil {
				ended <- err
				return
			}
			time.Sleep(every)
		}
		ended <- nil
	}()
	time.Sleep(lead)
	n := slices.IndexFunc(c.RealServers, func(n *lab.Node) bool { return n.Name() == at.Port })
	service, server := lvs.VirtualService{ServiceID: id}, c.server(id, n, 1)
	asked := time.Now()
	if err := c.change(lvs.Change{Operation: lvs.DeleteServer, Service: service, Server: server}); err != nil {
		return 0, 0, err
	}
	answered = float64(time.Since(asked).Nanoseconds()) / 1e6
	if _, err := tap.Wait(ctx, func(f lab.Frame) bool { return of(f) && f.Port != at.Port }); err != nil {
		return 0, 0, err
	}
	time.Sleep(lead)
	stop()
	if err := <-ended; err != nil {
		return 0, 0, err
	}
	frames, err := tap.Close()
	if err != nil {
		return 0, 0, err
	}
	for _, f := range frames {
		switch {
		case !of(f):
		case f.Port != at.Port && first == 0:
			first = float64(stream.sent[f.IP.Seq].Sub(asked).Nanoseconds()) / 1e6
		case f.Port == at.Port && first != 0:
			return 0, 0, fmt.Errorf("after the first packet that went elsewhere there was one more to %s", at.Port)
		}
	}
	return first, answered, c.change(lvs.Change{Operation: lvs.AddServer, Service: service, Server: server})
}

// stream are packets of one connection, as the client's machine sends them. Their
// sequence numbers count them.
type stream struct {
	fd       int
	to       unix.SockaddrLinklayer
	syn, ack []byte
	sent     []time.Time // when, by sequence number
}

func (c *controlled) openStream(id lvs.ServiceID, port uint16) (*stream, error) {
	s := &stream{fd: -1}
	err := c.Client.Do(func() (err error) {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		s.to.Ifindex = i.Index
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	for to, change := range map[*[]byte]func(*layers.TCP){&s.syn: opening, &s.ack: acknowledging} {
		eth := &layers.Ethernet{SrcMAC: c.Client.MAC(), DstMAC: c.Director.MAC(), EthernetType: layers.EthernetTypeIPv4}
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: c.Client.Addr().AsSlice(), DstIP: id.Addr.AsSlice()}
		tcp := &layers.TCP{SrcPort: layers.TCPPort(port), DstPort: layers.TCPPort(id.Port), Window: 1000}
		change(tcp)
		must(tcp.SetNetworkLayerForChecksum(ip))
		b := gopacket.NewSerializeBuffer()
		must(gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, tcp))
		*to = b.Bytes()
	}
	return s, err
}

// next sends the next packet.
func (s *stream) next() error {
	const sequence, sum = 14 + 20 + 4, 14 + 20 + 16 // where they are
	n := uint32(len(s.sent))
	frame := slices.Clone(s.ack) // whose number is 0
	binary.BigEndian.PutUint32(frame[sequence:], n)
	check := uint32(^binary.BigEndian.Uint16(frame[sum:])) + n>>16 + n&0xffff
	check = check>>16 + check&0xffff
	binary.BigEndian.PutUint16(frame[sum:], ^uint16(check>>16+check))
	s.sent = append(s.sent, time.Now())
	return s.send(frame)
}

func (s *stream) send(frame []byte) error { return unix.Sendto(s.fd, frame, 0, &s.to) }

func (s *stream) Close() error { return unix.Close(s.fd) }
