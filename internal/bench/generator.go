// SPDX-License-Identifier: MIT

package main

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// generator sends the packets of one kind of traffic out by an interface, on
// several CPUs at once, and has the sink that counts what comes back there.
// Each CPU has its share of the flows, as a network card would deal them.
type generator struct {
	traffic traffic
	cpus    []int
	all     *ebpf.Collection
}

// burst is what became of packets that were sent.
type burst struct {
	rate    float64 // of those that arrived, a second, while all CPUs were sending
	sent    uint64
	arrived uint64 // at servers, in all
	moved   uint64 // of those, on another CPU than they were sent by
	servers int    // that anything arrived for
}

func (b burst) lost() float64 { return 1 - float64(b.arrived)/float64(b.sent) }

func newGenerator(t traffic, cpus []int) (*generator, error) {
	spec, err := loadBench()
	if err != nil {
		return nil, err
	}
	for name := range spec.Programs {
		if name != benchProgGenerate && name != benchProgGenerateNothing && name != benchProgSink {
			delete(spec.Programs, name)
		}
	}
	for name := range spec.Maps {
		if name[0] != '.' {
			delete(spec.Maps, name)
		}
	}
	if err := t.set(spec); err != nil {
		return nil, err
	}
	all, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("loading the generator: %w", err)
	}
	return &generator{traffic: t, cpus: cpus, all: all}, nil
}

func (g *generator) Close() { g.all.Close() }

// testRunLive has the kernel do with each packet what the program says
// (BPF_F_TEST_XDP_LIVE_FRAMES of include/uapi/linux/bpf.h).
const testRunLive = 1 << 1

// arrival is struct xdp_md: what a test run says of a packet.
type arrival struct {
	Data, End, Meta, Interface, Queue, Egress uint32
}

// send sends so many packets, the first with that number, out by an interface of
// a node.
func (g *generator) send(from *lab.Node, index int, first uint64, packets int) (burst, error) {
	return g.run(g.all.Programs[benchProgGenerate], from, index, first, packets)
}

// sendNowhere does the same, but the packets are dropped where they were made.
func (g *generator) sendNowhere(from *lab.Node, index int, first uint64, packets int) (burst, error) {
	return g.run(g.all.Programs[benchProgGenerateNothing], from, index, first, packets)
}

func (g *generator) run(p *ebpf.Program, from *lab.Node, index int, first uint64, packets int) (burst, error) {
	n, each, v := uint64(len(g.cpus)), packets/len(g.cpus), g.all.Variables
	var lanes [laneCount]benchLane
	for i, cpu := range g.cpus {
		turn := first + uint64(i)
		lanes[cpu%laneCount] = benchLane{Turn: turn, Step: n, FirstTurn: turn, LastTurn: turn + uint64(each-1)*n}
	}
	must(errors.Join(v[benchVarLanes].Set(&lanes), v[benchVarLanesWanted].Set(n), v[benchVarSending].Set(uint64(0)),
		v[benchVarBegan].Set(uint64(0)), v[benchVarEnded].Set(uint64(0))))
	o := ebpf.RunOptions{Data: g.traffic.frame, Repeat: uint32(each), Flags: testRunLive,
		Context: arrival{End: uint32(len(g.traffic.frame)), Interface: uint32(index)}}
	errs := make([]error, n)
	var ready, ended sync.WaitGroup
	ready.Add(int(n))
	for i, cpu := range g.cpus {
		ended.Go(func() {
			// The thread ends with f: settle has locked it once more.
			errs[i] = from.Do(func() error {
				err := settle(cpu)
				ready.Done()
				ready.Wait()
				if err == nil {
					_, err = p.Run(&o)
				}
				return err
			})
		})
	}
	ended.Wait()
	if err := errors.Join(errs...); err != nil {
		return burst{}, fmt.Errorf("live frames: %w", err)
	}
	return g.count()
}

const laneCount = 256 // LANES of bpf/live.h

func (g *generator) count() (b burst, err error) {
	v := g.all.Variables
	var lanes [laneCount]benchLane
	var began, ended, servers, arrived uint64
	must(errors.Join(v[benchVarLanes].Get(&lanes), v[benchVarBegan].Get(&began), v[benchVarEnded].Get(&ended)))
	for _, l := range lanes {
		var sent uint64
		if l.Step > 0 {
			sent = (l.Turn - l.FirstTurn) / l.Step
		}
		b.sent += sent
		b.arrived += l.Sunk
		b.moved += l.Sunk - min(l.Sunk, sent)
		arrived += l.Arrived
		servers |= l.Servers
	}
	b.servers = bits.OnesCount64(servers)
	if b.arrived == 0 {
		return b, errNoneArrived
	}
	if began == 0 || ended <= began || arrived < b.arrived/2 {
		return b, errNotTogether
	}
	b.rate = float64(arrived) / float64(ended-began) * 1e9
	return b, nil
}

var (
	errNoneArrived = errors.New("not one packet arrived")
	errNotTogether = errors.New("the CPUs were not sending at the same time")
)
