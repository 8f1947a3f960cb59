// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

const (
	instance = "bench"
	loopback = 1 // the interface that a test run says packets come in by, in every network namespace
)

// director is the product's data plane with its default settings, in a network
// namespace of its own. Nothing of it outlives this process.
type director struct {
	contender
	plane     *dataplane.Plane
	on        net.Interface // that packets come in by and leave by
	pins      *os.File      // a bpffs that is mounted nowhere
	namespace *os.File
	stop      func()
}

// openDirector opens it with room for so many connections (0: the default) and
// carries out a table.
func openDirector(table *lvs.Table, connections uint32, tc bool) (*director, error) {
	d := &director{on: net.Interface{Index: loopback, Name: "lo", HardwareAddr: ownMAC}}
	mode := dataplane.Generic
	if tc {
		mode = dataplane.TC
	}
	return d.open(table, connections, mode, d.inNamespace)
}

// open does so in the network namespace that do runs a function in.
func (d *director) open(table *lvs.Table, connections uint32, mode dataplane.Mode, do func(func() error) error) (_ *director, err error) {
	d.stop = func() {}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if d.pins, err = unmountedBPF(); err != nil {
		return nil, err
	}
	o := dataplane.Options{Instance: instance, PinDir: d.pinDir(), Interfaces: []string{d.on.Name}, Mode: mode, Connections: connections}
	if err := do(func() (err error) { d.plane, err = dataplane.Open(o); return err }); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		do(func() error { return d.plane.Run(ctx) }) // it looks at its interfaces now and then
	}()
	d.stop = func() { cancel(); <-ended }
	if d.contender, err = d.asContender(mode == dataplane.TC); err != nil {
		return nil, err
	}
	return d, d.carryOut(table)
}

func (d *director) pinDir() string { return fmt.Sprintf("/proc/self/fd/%d", d.pins.Fd()) }

// Close ends the data plane.
func (d *director) Close() {
	d.stop()
	if d.program != nil {
		d.program.Close()
	}
	if d.plane != nil {
		d.plane.Remove()
	}
	for _, f := range []*os.File{d.pins, d.namespace} {
		if f != nil {
			f.Close()
		}
	}
}

// unmountedBPF makes a bpffs that is reached by its descriptor only.
func unmountedBPF() (*os.File, error) {
	fs, err := unix.Fsopen("bpf", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a bpffs: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("making a bpffs: %w", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making a bpffs: %w", err)
	}
	return os.NewFile(uintptr(mount), "bpffs"), nil
}

// inNamespace runs f in a network namespace that d has for itself.
func (d *director) inNamespace(f func() error) (err error) {
	const here = "/proc/thread-self/ns/net"
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open(here)
	if err != nil {
		return err
	}
	defer home.Close()
	if d.namespace == nil {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			d.namespace, err = os.Open(here)
		}
	} else {
		err = unix.Setns(int(d.namespace.Fd()), unix.CLONE_NEWNET)
	}
	if err != nil {
		err = fmt.Errorf("a network namespace: %w", err)
	} else {
		err = f()
	}
	return errors.Join(err, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET))
}

// link is what holds its program on the interface.
func (d *director) link() (link.Link, error) {
	links, err := filepath.Glob(filepath.Join(d.pinDir(), instance, "links", "*"))
	if err != nil || len(links) != 1 {
		return nil, fmt.Errorf("the director has %d links, not one: %w", len(links), err)
	}
	l, err := link.LoadPinnedLink(links[0], nil)
	if err != nil {
		return nil, fmt.Errorf("the director's link: %w", err)
	}
	return l, nil
}

// asContender finds the program by its link.
func (d *director) asContender(tc bool) (contender, error) {
	l, err := d.link()
	if err != nil {
		return contender{}, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return contender{}, fmt.Errorf("the director's link: %w", err)
	}
	program, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return contender{}, fmt.Errorf("the director's program: %w", err)
	}
	return contender{name: "director", program: program, tc: tc, counted: d.verdicts}, nil
}

func (d *director) verdicts() (reasons, error) {
	all, err := d.plane.Verdicts()
	if err != nil {
		return nil, err
	}
	out := reasons{}
	for _, v := range all {
		out[v.Name] = v.Packets
	}
	return out, nil
}

// carryOut applies a table and says where its servers are.
func (d *director) carryOut(table *lvs.Table) error {
	if err := d.plane.Apply(table); err != nil {
		return err
	}
	told := map[netip.Addr]bool{}
	for _, s := range table.Services {
		for _, r := range s.Servers {
			if told[r.Addr] {
				continue
			}
			told[r.Addr] = true
			n := dataplane.Neighbour{Addr: r.Addr, Interface: d.on.Index, MAC: serverMAC(len(told)), Source: d.on.HardwareAddr, MTU: 1500}
			if err := d.plane.SetNeighbour(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// forget has all connections run out and waits until they are gone.
func (d *director) forget(ctx context.Context) error {
	if err := d.plane.AdvanceClock(time.Hour); err != nil {
		return err
	}
	for {
		used, err := d.used()
		if err != nil || used == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (d *director) used() (n uint64, err error) {
	use, err := d.plane.TableUse()
	for _, u := range use {
		n += u.Used
	}
	return n, err
}

// tableOf makes a table with services of a protocol at consecutive ports of the
// VIP (of its family), each with that many servers.
func tableOf(vip netip.AddrPort, protocol lvs.Protocol, scheduler lvs.Scheduler, services int, servers ...int) *lvs.Table {
	t := lvs.NewTable()
	for i := range services {
		id := lvs.ServiceID{Protocol: protocol, Addr: vip.Addr(), Port: vip.Port() + uint16(i)}
		addService(t, id, scheduler, servers[min(i, len(servers)-1)])
	}
	return t
}

func addService(t *lvs.Table, id lvs.ServiceID, scheduler lvs.Scheduler, servers int) {
	s := lvs.VirtualService{ServiceID: id, Scheduler: scheduler}
	must(t.Apply(lvs.Change{Operation: lvs.AddService, Service: s}))
	weight := int32(1)
	if scheduler == lvs.WeightedOverflow {
		weight = 1 << 24 // it takes no more connections than that
	}
	for n := range servers {
		r := lvs.RealServer{ServerID: lvs.ServerID{Addr: serverAddr(n, id.Is6()), Port: id.Port}, Forward: lvs.DirectRouting, Weight: weight}
		must(t.Apply(lvs.Change{Operation: lvs.AddServer, Service: s, Server: r}))
	}
}

// serverAddr is the n-th server's: 198.18.1.0 and on, 2001:db8::100 and on.
func serverAddr(n int, six bool) netip.Addr {
	a := vip6.As16()
	binary.BigEndian.PutUint16(a[14:], uint16(0x100+n))
	if six {
		return netip.AddrFrom16(a)
	}
	return netip.AddrFrom4([4]byte{198, 18, a[14], a[15]})
}

func serverMAC(n int) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 1, byte(n >> 8), byte(n)}
}
