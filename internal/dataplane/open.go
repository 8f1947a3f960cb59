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
	policy   policy

	programs    programs
	maps        bpfMaps
	carriers    []*carrier // what is carried over from other maps; only while Open runs
	attachments []attachment
	interfaces  []string

	mu         sync.Mutex // guards all below
	parameters bpfParameters
	installed  map[lvs.ServiceID]*installed
	listening  map[lvs.ServiceID]heard
	vips       map[netip.Addr]bool
	serviceIDs *idPool // of services and of listeners
	serverIDs  *idPool
	slots      *arena
	members    *arena
	hashSlots  *arena
	leaving    map[serverKey]departed   // removed servers whose connections live on
	gone       map[lvs.ServiceID]uint32 // ids of removed services and listeners that may be in connections
	reaped     time.Time                // when those were last looked through
	neighbours map[netip.Addr]Neighbour
	byAddr     map[netip.Addr]map[uint32]bool // server ids
	records    map[uint32]record              // by server id
	limits     map[uint32]bpfLimit            // by server id
	estimators estimators
}

// programs are those of the object that are loaded: for packets it has one for
// XDP and one for tc.
type programs struct {
	Director     *ebpf.Program `ebpf:"director"`
	Enter        *ebpf.Program `ebpf:"enter"`
	CountVerdict *ebpf.Program `ebpf:"count_verdict"`
	ReadClock    *ebpf.Program `ebpf:"read_clock"`
	SetLimit     *ebpf.Program `ebpf:"set_limit"`
	SetServer    *ebpf.Program `ebpf:"set_server"`
	StartSweep   *ebpf.Program `ebpf:"start_sweep"`
}

func (p *programs) Close() error {
	return errors.Join(p.Director.Close(), p.Enter.Close(), p.CountVerdict.Close(), p.ReadClock.Close(), p.SetLimit.Close(), p.SetServer.Close(), p.StartSweep.Close())
}

// policy is where IPVS leaves a choice or shunt deviates from it on purpose.
type policy struct {
	stray bpfStray
	flags bpfServiceFlags
}

// defaultPolicy loses fewer connections than IPVS's defaults do: docs/design.md.
func defaultPolicy() policy {
	return policy{
		stray: bpfStraySTRAY_ADOPT,
		flags: bpfServiceFlagsSERVICE_REOPENS_FIN_WAIT | bpfServiceFlagsSERVICE_LEAVES_REMOVED |
			bpfServiceFlagsSERVICE_LEAVES_QUIESCED,
	}
}

// Open loads the program and attaches it. If a predecessor of the same instance
// left pins, its maps are taken over, with all connections and counters, and
// its links get the new program; else all is made anew. On failure nothing is
// left that was not there before.
func Open(o Options) (_ *Plane, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if len(o.Interfaces) == 0 || len(o.Interfaces) > len(bpfParameters{}.Interfaces) {
		return nil, fmt.Errorf("%d interfaces given: it takes 1 to %d", len(o.Interfaces), len(bpfParameters{}.Interfaces))
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
		policy:     defaultPolicy(),
		neighbours: map[netip.Addr]Neighbour{},
		tookOver:   pinned(at.path, o.Instance),
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
	if err := p.attach(p.programs.Director, o.Interfaces, o.Mode); err != nil {
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
		if err := p.predecessors(spec); err != nil {
			return err
		}
		opts.MapReplacements = p.carriers[0].old.kept
	}
	if err := p.setConstants(spec); err != nil {
		return err
	}
	objects := struct {
		*programs
		*bpfMaps
	}{&p.programs, &p.maps}
	carrying := struct {
		*programs
		*bpfMaps
		*carryPrograms
	}{&p.programs, &p.maps, &carryPrograms{}}
	if p.carries() {
		err = spec.LoadAndAssign(&carrying, &opts)
	} else {
		err = spec.LoadAndAssign(&objects, &opts)
	}
	if err != nil {
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			return fmt.Errorf("this kernel refuses the BPF program: %w", err)
		}
		return fmt.Errorf("loading the BPF program (is this root, and Linux 6.1 or newer, with BTF?): %w", err)
	}
	if p.tookOver {
		return p.carryOver(spec, carrying.carryPrograms)
	}
	return p.pinMaps(spec)
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
		// The whole table in a second, but never long in one go.
		spec.Variables[bpfVarSweepSlice].Set(min(max(n/64, 1024), 2048)),
	)
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
	p.parameters.Seed = binary.NativeEndian.Uint64(seed)
	p.setTimeouts(lvs.DefaultTimeouts())
	if err := p.writeParameters(); err != nil {
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
		bpfMapAllowances: m.Allowances, bpfMapArrivals: m.Arrivals, bpfMapFragments: m.Fragments, bpfMapVips: m.Vips, bpfMapConnections: m.Connections, bpfMapDestinations: m.Destinations, bpfMapLocality: m.Locality, bpfMapScratch: m.Scratch, bpfMapHashSlots: m.HashSlots,
		bpfMapListeners: m.Listeners, bpfMapListeners6: m.Listeners6, bpfMapLimits: m.Limits, bpfMapLoads: m.Loads, bpfMapLocks: m.Locks, bpfMapMembers: m.Members,
		bpfMapServerBases: m.ServerBases, bpfMapServerCounters: m.ServerCounters, bpfMapServers: m.Servers,
		bpfMapServiceBases: m.ServiceBases, bpfMapServices: m.Services, bpfMapSettings: m.Settings,
		bpfMapSweeper: m.Sweeper, bpfMapTemplates: m.Templates, bpfMapTurns: m.Turns, bpfMapLayouts: m.Layouts, bpfMapVerdicts: m.Verdicts, bpfMapWideConnections: m.WideConnections,
	}
}

// refreshInterfaces tells the program which MAC addresses are the host's own.
func (p *Plane) refreshInterfaces() error {
	var now [len(bpfParameters{}.Interfaces)]bpfInterface
	for i, name := range p.interfaces {
		f, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		now[i].Index = uint32(f.Index)
		copy(now[i].Mac[:], f.HardwareAddr)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now == p.parameters.Interfaces {
		return nil
	}
	p.parameters.Interfaces = now
	return p.writeParameters()
}

func (p *Plane) setTimeouts(t lvs.Timeouts) {
	p.parameters.Timeouts = [16]uint32{
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
	}
}

func (p *Plane) writeParameters() error {
	if err := p.maps.Settings.Put(uint32(0), p.parameters); err != nil {
		return fmt.Errorf("writing the data plane's settings: %w", err)
	}
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
	return errors.Join(append(errs, p.programs.Close(), p.maps.Close(), p.pins.Close())...)
}

// Remove takes the program off all interfaces and leaves nothing: connections
// end.
func (p *Plane) Remove() error {
	var errs []error
	for _, a := range p.attachments {
		errs = append(errs, a.link.Unpin(), a.link.Close())
	}
	p.attachments = nil
	errs = append(errs, removeInstance(p.pins.path, p.instance), p.programs.Close(), p.maps.Close(), p.pins.Close())
	return errors.Join(errs...)
}
