// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// wire is a director's interface, eth0, and the port of the switch at the other
// end of it, where the generator and the sink are.
type wire struct {
	*session
	cluster    *lab.Cluster
	director   *director
	yardsticks *yardsticks
	leave      *ebpf.Collection // the program that leaves all to the kernel
	racers     []racer
	port       int       // the index of the switch's port
	atPort     link.Link // of the sink's program
	atDirector link.Link // of the director's, and of the others'
	rules      string    // of which racer there are any
}

// racer is who forwards packets on the wire: a program on the director's
// interface, or the kernel by rules of nftables.
type racer struct {
	*contender
	servers int    // that must get packets
	rules   string // of nftables
	tracks  bool   // the kernel remembers connections
}

// openWire makes it, in a lab of its own of that prefix.
func (s *session) openWire(prefix string) (_ *wire, err error) {
	w := &wire{session: s}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	if w.cluster, err = lab.Up(s.ctx, lab.Options{Prefix: prefix, RealServers: -1, Offload: true, Queues: usedCPUs}); err != nil {
		return nil, err
	}
	spec, err := loadBench()
	if err != nil {
		return nil, err
	}
	spec.Programs, spec.Maps, spec.Variables = map[string]*ebpf.ProgramSpec{benchProgLeave: spec.Programs[benchProgLeave]}, nil, nil
	if w.leave, err = ebpf.NewCollection(spec); err != nil {
		return nil, fmt.Errorf("loading a program: %w", err)
	}
	// Before there is one, frames that a program at the other end sends are lost.
	if err := w.cluster.Switch.Do(func() error {
		port, err := net.InterfaceByName(w.cluster.Director.Name())
		if err != nil {
			return err
		}
		w.port = port.Index
		w.atPort, err = link.AttachXDP(link.XDPOptions{Program: w.leave.Programs[benchProgLeave], Interface: port.Index, Flags: link.XDPDriverMode})
		return err
	}); err != nil {
		return nil, fmt.Errorf("the director's port: %w", err)
	}
	if err := w.openDirector(); err != nil {
		return nil, err
	}
	if w.yardsticks, err = openYardsticks(usualConnections, usualServers, false); err != nil {
		return nil, err
	}
	if err := w.prepareKernel(); err != nil {
		return nil, err
	}
	w.racers = []racer{
		{contender: &w.director.contender, servers: usualServers},
		{contender: w.yardsticks.tx, servers: 1},
		{contender: w.yardsticks.full, servers: usualServers},
		{contender: w.yardsticks.assoc, servers: usualServers},
		{contender: w.kernel("nft fwd"), servers: usualServers, rules: w.forwardRules()},
		{contender: w.kernel("nft DNAT"), servers: usualServers, rules: destinationRules(), tracks: true},
	}
	return w, nil
}

func (w *wire) openDirector() error {
	d := &director{}
	err := w.cluster.Director.Do(func() error {
		on, err := net.InterfaceByName("eth0")
		if err == nil {
			d.on = *on
		}
		return err
	})
	if err != nil {
		return err
	}
	table := tableOf(web, lvs.TCP, lvs.WeightedLeastConnection, 1, usualServers)
	if w.director, err = d.open(table, usualConnections, dataplane.Native, w.cluster.Director.Do); err != nil {
		return err
	}
	w.atDirector, err = w.director.link()
	return err
}

func (w *wire) Close() {
	for _, l := range []link.Link{w.atDirector, w.atPort} {
		if l != nil {
			l.Close()
		}
	}
	if w.director != nil {
		w.director.Close()
	}
	if w.yardsticks != nil {
		w.yardsticks.Close()
	}
	if w.leave != nil {
		w.leave.Close()
	}
	if w.cluster != nil {
		w.cluster.Down()
	}
}

// kernel is a contender that leaves packets to the kernel.
func (w *wire) kernel(name string) *contender {
	return &contender{name: name, program: w.leave.Programs[benchProgLeave]}
}

// prepareKernel makes the director a router to the servers.
func (w *wire) prepareKernel() error {
	n := w.cluster.Director
	err := n.Do(func() error {
		for key, value := range map[string]string{"ip_forward": "1", "conf/all/rp_filter": "0", "conf/eth0/rp_filter": "0",
			"conf/all/send_redirects": "0", "conf/eth0/send_redirects": "0"} {
			if err := os.WriteFile(filepath.Join("/proc/sys/net/ipv4", key), []byte(value), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	commands := []string{fmt.Sprintf("ip route add default via %v dev eth0", w.cluster.Client.Addr()), "ip route add 198.18.1.0/24 dev eth0"}
	for i := range usualServers {
		commands = append(commands, fmt.Sprintf("ip neigh add %v lladdr %v dev eth0 nud permanent", serverAddr(i, false), serverMAC(i)))
	}
	for _, c := range commands {
		if err := w.command(c); err != nil {
			return err
		}
	}
	return nil
}

// command runs one in the director.
func (w *wire) command(line string) error {
	f := strings.Fields(line)
	return w.feed("", f[0], f[1:]...)
}

func (w *wire) feed(stdin, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
	defer cancel()
	c := w.cluster.Director.Command(ctx, name, args...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// Both choose by the hash of the client's address and port.
const chosen = "jhash ip saddr . tcp sport mod %d map { %s }"

func choose(server func(int) string) string {
	var all []string
	for i := range usualServers {
		all = append(all, fmt.Sprintf("%d : %s", i, server(i)))
	}
	return fmt.Sprintf(chosen, usualServers, strings.Join(all, ", "))
}

// forwardRules do what direct routing is, before the kernel looks at the packet,
// and remember no connection.
func (w *wire) forwardRules() string {
	return fmt.Sprintf(`table netdev bench {
	chain in {
		type filter hook ingress device "eth0" priority 0
		ip daddr %v tcp dport %d ether saddr set %v ether daddr set %s fwd to "eth0"
	}
}`, vip, webPort, w.director.on.HardwareAddr, choose(func(i int) string { return serverMAC(i).String() }))
}

// destinationRules have the kernel's connection tracking do it, and its routing.
func destinationRules() string {
	return fmt.Sprintf(`table ip bench {
	chain in {
		type nat hook prerouting priority -100
		ip daddr %v tcp dport %d dnat to %s
	}
}`, vip, webPort, choose(func(i int) string { return serverAddr(i, false).String() }))
}

// enter has a racer forward what comes from now on.
func (w *wire) enter(r racer) error {
	if err := w.atDirector.Update(r.program); err != nil {
		return fmt.Errorf("%s on the interface: %w", r.name, err)
	}
	if w.rules == r.rules {
		return nil
	}
	if w.rules != "" {
		if err := w.command("nft flush ruleset"); err != nil {
			return err
		}
	}
	w.rules = r.rules
	if r.rules == "" {
		return nil
	}
	return w.feed(r.rules, "nft", "-f", "-")
}

func (w *wire) generator(t traffic, cpus []int) (*generator, error) {
	t.frame = slices.Clone(t.frame)
	copy(t.frame, w.director.on.HardwareAddr)
	return newGenerator(t, cpus)
}

// sinkOf has a generator's sink take what comes back.
func (w *wire) sinkOf(g *generator) error {
	if err := w.atPort.Update(g.all.Programs[benchProgSink]); err != nil {
		return fmt.Errorf("the sink at the director's port: %w", err)
	}
	return nil
}

// flood has a racer forward so many packets that are not measured.
func (w *wire) flood(r racer, t traffic, cpus []int, first uint64, packets int) error {
	g, err := w.generator(t, cpus)
	if err != nil {
		return err
	}
	defer g.Close()
	if err := errors.Join(w.sinkOf(g), w.enter(r)); err != nil {
		return err
	}
	_, err = g.send(w.cluster.Switch, w.port, first, packets)
	if errors.Is(err, errNotTogether) {
		return nil
	}
	return err
}
