// SPDX-License-Identifier: MIT

package dataplane

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Plane is an open data plane. Its methods may be called from any goroutine.
type Plane struct {
	log      *slog.Logger
	dir      string // the instance's pins
	pins     pins
	instance string
	tookOver bool
	hz       uint32

	programs    programs
	onLoopback  localProgram
	maps        bpfMaps
	*arrays                // of them, those that are memory
	carriers    []*carrier // what is carried over from other maps; only while Open runs
	attachments []attachment
	interfaces  []string
	local       bool // the program is on the loopback interface too
	vlans       map[string]VLAN

	reset chan struct{} // wakes who provokes: there are servers whose connections are to be reset

	mu          sync.Mutex // guards all below
	parameters  bpfParameters
	applied     lvs.Table // what Apply was given last, or nothing
	begun       uint64    // ids that began to count anew, so far
	installed   map[lvs.ServiceID]*installed
	listening   map[lvs.ServiceID]heard
	settled     bool            // no packet is under way any more that saw what was before the last Apply
	resetting   map[uint32]bool // servers that whoever provokes does not know of yet
	vips        map[netip.Addr]bool
	untidy      bool    // see tidy
	serviceIDs  *idPool // of services and of listeners
	serverIDs   *idPool
	slots       *arena
	memberSpans *arena
	hashSpans   *arena
	groupSpans  *arena
	denyLists   *idPool
	leaving     map[serverKey]departed   // removed servers whose connections live on
	gone        map[lvs.ServiceID]uint32 // ids of removed services and listeners that may be in connections
	reaped      time.Time                // when those were last looked through
	neighbours  map[netip.Addr]Neighbour
	byAddr      map[netip.Addr]map[uint32]bool // server ids
	estimators  estimators
}

// programs are those of the object that are loaded: for packets it has one for
// XDP and one for tc.
type programs struct {
	Director     *ebpf.Program `ebpf:"director"`
	Enter        *ebpf.Program `ebpf:"enter"`
	Copy         *ebpf.Program `ebpf:"copy"`
	CountVerdict *ebpf.Program `ebpf:"count_verdict"`
	End          *ebpf.Program `ebpf:"end_connections"`
	ReadClock    *ebpf.Program `ebpf:"read_clock"`
	SetGroup     *ebpf.Program `ebpf:"set_group"`
	SetLimit     *ebpf.Program `ebpf:"set_limit"`
	StartSweep   *ebpf.Program `ebpf:"start_sweep"`
}

// localProgram is the one that is on the loopback interface; nil if none is.
type localProgram struct {
	DirectorTC *ebpf.Program `ebpf:"director_tc"`
}

func (p *programs) Close() error {
	return errors.Join(p.Director.Close(), p.Enter.Close(), p.Copy.Close(), p.CountVerdict.Close(), p.End.Close(), p.ReadClock.Close(), p.SetGroup.Close(), p.SetLimit.Close(), p.StartSweep.Close())
}

// Open loads the program and attaches it. If a predecessor of the same instance
// left pins, its maps are taken over, with all connections and counters, and
// its links get the new program; else all is made anew. On failure nothing is
// left that was not there before.
func Open(o Options) (_ *Plane, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	most := len(bpfParameters{}.Interfaces)
	if o.LocalClients {
		most-- // the loopback is one of them
	}
	if len(o.Interfaces) == 0 || len(o.Interfaces) > most {
		return nil, fmt.Errorf("%d interfaces given: it takes 1 to %d", len(o.Interfaces), most)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raising the limit of locked memory: %w", err)
	}
	at, err := openPins(o.PinDir)
	if err != nil {
		return nil, err
	}
	p := &Plane{
		log:        o.Log,
		pins:       at,
		dir:        filepath.Join(at.path, o.Instance),
		instance:   o.Instance,
		interfaces: o.Interfaces,
		local:      o.LocalClients,
		vlans:      o.VLANs,
		neighbours: map[netip.Addr]Neighbour{},
		tookOver:   pinned(at.path, o.Instance),
		reset:      make(chan struct{}, 1),
	}
	if err := settle(at.path, o.Instance); err != nil {
		return nil, errors.Join(err, at.Close())
	}
	if !p.tookOver {
		if err := removeInstance(at.path, o.Instance); err != nil {
			return nil, errors.Join(err, at.Close())
		}
	}
	defer func() {
		if err == nil {
			return
		}
		if !p.tookOver {
			err = errors.Join(err, p.Remove())
		} else {
			err = errors.Join(err, p.abandonCarriers())
			p.Close()
		}
	}()
	if err := p.load(o.Connections, o.Mode); err != nil {
		return nil, err
	}
	if err := p.recoverState(); err != nil {
		return nil, err
	}
	if err := p.refreshInterfaces(); err != nil {
		return nil, err
	}
	if ret, err := p.programs.StartSweep.Run(&ebpf.RunOptions{}); err != nil || ret != 0 {
		return nil, fmt.Errorf("starting the timer that ends connections: code %d: %w", ret, err)
	}
	if err := p.beginMove(); err != nil {
		return nil, err
	}
	if err := p.attach(p.devices(), o.Mode); err != nil {
		return nil, err
	}
	if err := p.endMove(); err != nil {
		return nil, err
	}
	return p, nil
}

// load makes or takes over the maps and loads the programs.
func (p *Plane) load(connections uint32, mode Mode) error {
	spec, err := loadBpf()
	if err != nil {
		return err
	}
	if mode == TC {
		spec.Programs[bpfProgDirector] = spec.Programs[bpfProgDirectorTc]
	}
	size(spec, connections)
	var opts ebpf.CollectionOptions
	if p.tookOver {
		if err := p.predecessors(spec, connections != 0); err != nil {
			return err
		}
		opts.MapReplacements = p.carriers[0].old.kept
	}
	if err := p.setConstants(spec); err != nil {
		return err
	}
	carrying := &carryPrograms{}
	if err := spec.LoadAndAssign(p.objects(carrying), &opts); err != nil {
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			return fmt.Errorf("this kernel refuses the BPF program: %w", err)
		}
		return fmt.Errorf("loading the BPF program (is this root, and Linux 6.1 or newer, with BTF?): %w", err)
	}
	if p.arrays, err = mapArrays(&p.maps); err != nil {
		return err
	}
	if p.tookOver {
		return p.carryOver(spec, carrying)
	}
	return p.pinMaps(spec)
}

// objects are what is loaded: of the programs only those that are needed.
func (p *Plane) objects(carrying *carryPrograms) any {
	type always struct {
		*programs
		*bpfMaps
	}
	all := always{&p.programs, &p.maps}
	switch {
	case p.local && p.carries():
		return &struct {
			always
			*localProgram
			*carryPrograms
		}{all, &p.onLoopback, carrying}
	case p.local:
		return &struct {
			always
			*localProgram
		}{all, &p.onLoopback}
	case p.carries():
		return &struct {
			always
			*carryPrograms
		}{all, carrying}
	}
	return &all
}

// setConstants tells the program what it must know before it is loaded.
func (p *Plane) setConstants(spec *ebpf.CollectionSpec) error {
	var err error
	if p.hz, err = tickRate(); err != nil {
		return err
	}
	n := spec.Maps[bpfMapConnections].MaxEntries
	return errors.Join(
		spec.Variables[bpfVarBucketMask].Set(n-1),
		spec.Variables[bpfVarWideMask].Set(spec.Maps[bpfMapWideConnections].MaxEntries-1),
		spec.Variables[bpfVarTemplateMask].Set(spec.Maps[bpfMapTemplates].MaxEntries-1),
		spec.Variables[bpfVarSecondsPerJiffy].Set(secondsPerJiffy(p.hz)),
		spec.Variables[bpfVarStoresInOrder].Set(storesInOrder()),
		// The whole table in a second, but never long in one go.
		spec.Variables[bpfVarSweepSlice].Set(min(max(n/64, 512), 1024)),
	)
}

// storesInOrder is 1 on processors whose stores others see in the order of the program.
func storesInOrder() uint32 {
	if runtime.GOARCH == "amd64" {
		return 1
	}
	return 0
}

// shared lists the maps that outlive a process: all but the program's constants
// and the mailbox.
func shared(spec *ebpf.CollectionSpec) map[string]*ebpf.MapSpec {
	out := map[string]*ebpf.MapSpec{}
	for name, m := range spec.Maps {
		if name[0] != '.' && name != bpfMapMailbox {
			out[name] = m
		}
	}
	return out
}

// pinMaps pins the new maps all at once: a directory is filled and then renamed.
func (p *Plane) pinMaps(spec *ebpf.CollectionSpec) error {
	tmp := unfinished(p.pins.path, p.instance)
	if err := os.MkdirAll(filepath.Join(tmp, linksDir), 0o700); err != nil {
		return fmt.Errorf("directory for pins: %w", err)
	}
	seed := make([]byte, 8)
	rand.Read(seed)
	first := bpfParameters{Seed: binary.NativeEndian.Uint64(seed), Timeouts: timeoutsOf(lvs.DefaultTimeouts())}
	if err := p.setParameters(first); err != nil {
		return err
	}
	if err := p.pinAll(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, p.dir); err != nil {
		return fmt.Errorf("pinning: %w", err)
	}
	return nil
}

func (p *Plane) pinAll(dir string) error {
	for name, m := range p.mapsByName() {
		c, err := m.Clone() // a Map remembers where it is pinned, and would move there
		if err == nil {
			err = errors.Join(c.Pin(filepath.Join(dir, name)), c.Close())
		}
		if err != nil {
			return fmt.Errorf("pinning map %s: %w", name, err)
		}
	}
	return nil
}

func (p *Plane) mapsByName() map[string]*ebpf.Map {
	m := &p.maps
	return map[string]*ebpf.Map{
		bpfMapAllowances: m.Allowances, bpfMapArrivals: m.Arrivals, bpfMapFragments: m.Fragments, bpfMapVips: m.Vips, bpfMapDenied: m.Denied, bpfMapSources: m.Sources, bpfMapConnections: m.Connections, bpfMapDestinations: m.Destinations, bpfMapLocality: m.Locality, bpfMapScratch: m.Scratch, bpfMapHashSlots: m.HashSlots, bpfMapGroups: m.Groups, bpfMapSpills: m.Spills, bpfMapWideSpills: m.WideSpills,
		bpfMapListeners: m.Listeners, bpfMapListeners6: m.Listeners6, bpfMapLimits: m.Limits, bpfMapLoads: m.Loads, bpfMapLocks: m.Locks, bpfMapMembers: m.Members,
		bpfMapServerBases: m.ServerBases, bpfMapServerCounters: m.ServerCounters, bpfMapServers: m.Servers, bpfMapSeeds: m.Seeds, bpfMapYoungs: m.Youngs,
		bpfMapServiceBases: m.ServiceBases, bpfMapServices: m.Services, bpfMapSettings: m.Settings,
		bpfMapSweeper: m.Sweeper, bpfMapTemplates: m.Templates, bpfMapTurns: m.Turns, bpfMapLayouts: m.Layouts, bpfMapVerdicts: m.Verdicts, bpfMapWideConnections: m.WideConnections,
	}
}

// devices are the interfaces that have the wires, each once: the program is on
// those.
func (p *Plane) devices() (out []string) {
	for _, name := range p.interfaces {
		if d := p.device(name); !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

func (p *Plane) device(name string) string {
	if v, ok := p.vlans[name]; ok {
		return v.Parent
	}
	return name
}

// refreshInterfaces tells the program which MAC addresses are the host's own, and
// in which VLANs.
func (p *Plane) refreshInterfaces() error {
	var all [len(bpfParameters{}.Interfaces)]bpfInterface
	for i, name := range p.interfaces {
		f, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		copy(all[i].Mac[:], f.HardwareAddr)
		all[i].Vlan = p.vlans[name].ID
		if f, err = net.InterfaceByName(p.device(name)); err != nil {
			return fmt.Errorf("interface %s, of which %s is a VLAN: %w", p.device(name), name, err)
		}
		all[i].Index = uint32(f.Index)
	}
	if p.local {
		all[len(p.interfaces)].Index = loopbackIndex // its MAC address is zeros
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.parameters
	now.Interfaces = all
	return p.setParameters(now)
}

func timeoutsOf(t lvs.Timeouts) [bpfTimeoutsTIMEOUTS]uint32 {
	const sctp, rto = bpfTimeoutsTIMEOUTS_SCTP, 61 // the longest retransmission, and a second
	return [bpfTimeoutsTIMEOUTS]uint32{
		bpfStateSTATE_NONE:        2,
		bpfStateSTATE_ESTABLISHED: t.TCP,
		bpfStateSTATE_SYN_SENT:    120,
		bpfStateSTATE_SYN_RECV:    60,
		bpfStateSTATE_FIN_WAIT:    t.TCPFin,
		bpfStateSTATE_TIME_WAIT:   120,
		bpfStateSTATE_CLOSE:       10,
		bpfStateSTATE_CLOSE_WAIT:  60,
		bpfStateSTATE_LAST_ACK:    30,
		bpfStateSTATE_LISTEN:      120,
		bpfStateSTATE_SYNACK:      120,
		bpfStateSTATE_UDP:         t.UDP,

		// ip_vs_proto_sctp.c, sctp_timeouts: --set does not change them.
		sctp + bpfTimeouts(bpfSctpStateSCTP_NONE):              2,
		sctp + bpfTimeouts(bpfSctpStateSCTP_INIT1):             4,
		sctp + bpfTimeouts(bpfSctpStateSCTP_INIT):              rto,
		sctp + bpfTimeouts(bpfSctpStateSCTP_COOKIE_ECHOED):     rto,
		sctp + bpfTimeouts(bpfSctpStateSCTP_ESTABLISHED):       900,
		sctp + bpfTimeouts(bpfSctpStateSCTP_SHUTDOWN_RECEIVED): rto,
		sctp + bpfTimeouts(bpfSctpStateSCTP_CLOSED):            rto,
	}
}

// setParameters changes what the program goes by, or nothing.
func (p *Plane) setParameters(now bpfParameters) error {
	if now == p.parameters {
		return nil
	}
	if err := p.maps.Settings.Put(uint32(0), now); err != nil {
		return fmt.Errorf("writing the data plane's settings: %w", err)
	}
	p.parameters = now
	return nil
}

// TookOver tells whether Open found a predecessor's pins and kept them.
func (p *Plane) TookOver() bool { return p.tookOver }

// Close lets go of the data plane and leaves it running: programs, links and
// maps stay pinned, packets flow and connections expire.
func (p *Plane) Close() error {
	var errs []error
	for _, a := range p.attachments {
		errs = append(errs, a.link.Close())
	}
	return errors.Join(append(errs, p.programs.Close(), p.onLoopback.DirectorTC.Close(), p.maps.Close(), p.pins.Close())...)
}

// Remove takes the program off all interfaces and leaves nothing: connections
// end.
func (p *Plane) Remove() error {
	var errs []error
	for _, a := range p.attachments {
		errs = append(errs, a.link.Unpin(), a.link.Close())
	}
	p.attachments = nil
	errs = append(errs, removeInstance(p.pins.path, p.instance), p.programs.Close(), p.onLoopback.DirectorTC.Close(), p.maps.Close(), p.pins.Close())
	return errors.Join(errs...)
}
