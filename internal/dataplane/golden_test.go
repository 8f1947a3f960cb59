// SPDX-License-Identifier: MIT

package dataplane

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// recording is a file of testdata/golden: packets that went through a real
// kernel's IPVS, and what it did with each. The README there says what is what.
type recording struct {
	Scenarios []scenario `json:"scenarios"`
}

type scenario struct {
	Name       string            `json:"name"`
	Service    string            `json:"service"`
	Scheduler  lvs.Scheduler     `json:"scheduler"`
	Flags      []string          `json:"flags"`
	Persistent uint32            `json:"persistent"`
	Netmask    string            `json:"netmask"`
	Sysctl     map[string]string `json:"sysctl"`
	Servers    []recordedServer  `json:"servers"`
	Initial    *int              `json:"initial_servers"`
	Setup      []string          `json:"setup"`
	Events     []recordedEvent   `json:"events"`
	Result     []json.RawMessage `json:"result"`
	Counts     []struct {
		Addr     netip.AddrPort `json:"addr"`
		Weight   int32          `json:"weight"`
		Active   uint32         `json:"active"`
		Inactive uint32         `json:"inactive"`
	} `json:"counts"`
}

type recordedServer struct {
	Addr   netip.AddrPort `json:"addr"`
	Weight int32          `json:"weight"`
	Upper  uint32         `json:"upper"`
	Lower  uint32         `json:"lower"`
}

type recordedEvent struct {
	Op      string  `json:"op"`
	Src     string  `json:"src"`
	Dst     string  `json:"dst"`
	TTL     *uint8  `json:"ttl"`
	Len     int     `json:"len"`
	Server  int     `json:"server"`
	Weight  int32   `json:"weight"`
	Upper   uint32  `json:"upper"`
	Lower   uint32  `json:"lower"`
	Command string  `json:"cmd"`
	Seconds float64 `json:"seconds"`
	Key     string  `json:"key"`
	Value   string  `json:"value"`
}

// replayer runs one scenario through the BPF program.
type replayer struct {
	t     *testing.T
	p     *Plane
	s     *scenario
	id    lvs.ServiceID
	table *lvs.Table
	began time.Time
	// What the servers have now, by their place in the scenario.
	limits  []bpfLimit
	weights []int32
	// The kernel's switches, by name; those that are not here have its default.
	switches map[string]string
}

// cannotReplay names the first thing in a scenario that is not in shunt yet,
// or that the recording did by means that a test run does not have.
func (s *scenario) cannotReplay() string {
	switch {
	case !slices.Contains(Schedulers(), s.Scheduler):
		return "scheduler " + string(s.Scheduler)
	case slices.ContainsFunc(s.Setup[1:], func(c string) bool { return strings.HasPrefix(c, "ipvsadm -A") }):
		return "more services"
	case s.Sysctl["net.ipv4.vs.sloppy_tcp"] == "1":
		return "shunt adopts by a hash, the kernel schedules: docs/ipvs.md"
	case s.Name == "too long for the way to the server":
		return "the way's MTU is no part of the rules: TestVerdicts"
	}
	for _, e := range s.Events {
		if strings.HasPrefix(e.Op, "forwarded") || strings.HasPrefix(e.Op, "udp-fragment") || strings.HasPrefix(e.Op, "icmp") {
			return e.Op
		}
	}
	return ""
}

// TestReplayKernel sends the packets of every recorded scenario that uses what
// shunt has through the BPF program, and demands the kernel's choices,
// connections and counters.
func TestReplayKernel(t *testing.T) {
	least := map[string]int{"rr": 25, "wrr": 21, "lc": 34, "wlc": 33, "states": 50, "udp": 12, "scheduler-change": 1, "reuse": 13, "packets": 2,
		"sed": 32, "nq": 35, "fo": 33, "ovf": 29, "sh": 40, "mh": 34, "thresholds": 12, "persistence": 9, "dh": 4, "lblc": 4, "lblcr": 4}
	for file, want := range least {
		data, err := os.ReadFile(filepath.Join("testdata", "golden", file+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var r recording
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatal(err)
		}
		modes := []Mode{Generic}
		if slices.Contains([]string{"reuse", "udp", "persistence"}, file) { // what depends on the packet
			modes = append(modes, TC)
		}
		for _, mode := range modes {
			t.Run(file+"/"+string(mode), func(t *testing.T) { replayAll(t, newPlane(t, inMode(mode)), r, want) })
		}
	}
}

func replayAll(t *testing.T, p *Plane, r recording, want int) {
	t.Helper()
	replayed := 0
	for i := range r.Scenarios {
		s := &r.Scenarios[i]
		if why := s.cannotReplay(); why != "" {
			t.Logf("left out: %s: %s", s.Name, why)
			continue
		}
		replayed++
		if bad := replay(t, p, s); bad != "" {
			t.Errorf("%s (%s):\n%s", s.Name, s.Scheduler, bad)
		}
	}
	t.Logf("%d of %d scenarios replayed", replayed, len(r.Scenarios))
	if replayed < want {
		t.Errorf("%d scenarios replayed, there were %d", replayed, want)
	}
}

// replay returns what differed, or nothing.
func replay(t *testing.T, p *Plane, s *scenario) string {
	t.Helper()
	r := &replayer{t: t, p: p, s: s, table: lvs.NewTable(), id: s.id(), began: time.Now(), switches: maps.Clone(s.Sysctl)}
	for _, v := range s.Servers {
		r.limits = append(r.limits, bpfLimit{Upper: v.Upper, Lower: v.Lower})
		r.weights = append(r.weights, v.Weight)
	}
	// Nothing is left of the scenario before.
	install(t, p, r.table)
	if err := p.AdvanceClock(3000 * time.Second); err != nil {
		t.Fatal(err)
	}
	sweepAll(t, p)

	for _, m := range s.marks() {
		mustChange(r.table, lvs.Change{Operation: lvs.AddMark, Mark: m})
	}
	r.change(lvs.Change{Operation: lvs.AddService, Service: lvs.VirtualService{ServiceID: r.id, Scheduler: s.Scheduler, Flags: s.serviceFlags(),
		Timeout: s.Persistent, Netmask: s.mask(), Policy: r.policy()}})
	for _, c := range s.Setup {
		r.timeouts(c)
	}
	initial := len(s.Servers)
	if s.Initial != nil {
		initial = *s.Initial
	}
	for n := range initial {
		r.addServer(n, s.Servers[n].Weight)
	}
	for i, e := range s.Events {
		var want any
		if err := json.Unmarshal(s.Result[i], &want); err != nil {
			t.Fatal(err)
		}
		if bad := r.event(e, want, s.Result[i]); bad != "" {
			return fmt.Sprintf("event %d %+v: %s", i, e, bad)
		}
	}
	return r.compareCounts()
}

func (s *scenario) id() lvs.ServiceID {
	kind, at, _ := strings.Cut(s.Service, " ")
	if kind == "fwmark" {
		mark, _ := strconv.ParseUint(at, 10, 32)
		return lvs.ServiceID{Mark: uint32(mark)}
	}
	a := netip.MustParseAddrPort(at)
	return lvs.ServiceID{Protocol: map[string]lvs.Protocol{"tcp": lvs.TCP, "udp": lvs.UDP}[kind], Addr: a.Addr(), Port: a.Port()}
}

// marks has a rule for everything that the scenario's packets go to: in the
// recording every packet has the mark.
func (s *scenario) marks() (rules []lvs.MarkRule) {
	if s.id().Mark == 0 {
		return nil
	}
	for _, e := range s.Events {
		if e.Dst == "" {
			continue
		}
		to := netip.MustParseAddrPort(e.Dst)
		m := lvs.MarkRule{Mark: s.id().Mark, Protocol: e.protocol(), Addr: to.Addr(), First: to.Port(), Last: to.Port()}
		if !slices.Contains(rules, m) {
			rules = append(rules, m)
		}
	}
	return rules
}

func (e recordedEvent) protocol() lvs.Protocol {
	if e.Op == "udp" {
		return lvs.UDP
	}
	return lvs.TCP
}

func (s *scenario) serviceFlags() (f lvs.ServiceFlags) {
	for _, name := range s.Flags {
		f |= map[string]lvs.ServiceFlags{"ops": lvs.FlagOnePacket,
			"sh-fallback": lvs.FlagSched1, "mh-fallback": lvs.FlagSched1,
			"sh-port": lvs.FlagSched2, "mh-port": lvs.FlagSched2}[name]
	}
	if s.Persistent > 0 {
		f |= lvs.FlagPersistent
	}
	return f
}

func (s *scenario) mask() uint32 {
	if s.Netmask == "" {
		return 0xffffffff
	}
	a := netip.MustParseAddr(s.Netmask).As4()
	return binary.BigEndian.Uint32(a[:])
}

// policy is what the scenario's switches, and the kernel's defaults, are for its
// service; of them what counts for it.
func (r *replayer) policy() (p lvs.Policy) {
	is := func(name, value string) bool {
		v, set := r.switches["net.ipv4.vs."+name]
		return set && v == value
	}
	if r.id.Mark != 0 || r.id.Protocol == lvs.TCP {
		p.Stray = lvs.StrayPass
		p.ConnReuse, _ = lvs.ConnReuseOf(1)
		if mode, set := r.switches["net.ipv4.vs.conn_reuse_mode"]; set {
			if err := p.ConnReuse.UnmarshalText([]byte(mode)); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	p.KeepNodest = !is("expire_nodest_conn", "1")
	p.KeepTemplate = r.s.Persistent > 0 && !is("expire_quiescent_template", "1")
	return p
}

// timeouts does what an ipvsadm command says of them.
func (r *replayer) timeouts(command string) {
	r.t.Helper()
	var n lvs.Timeouts
	if got, _ := fmt.Sscanf(command, "ipvsadm --set %d %d %d", &n.TCP, &n.TCPFin, &n.UDP); got == 3 {
		r.change(lvs.Change{Operation: lvs.SetTimeouts, Timeouts: n})
	}
}

func (r *replayer) change(c lvs.Change) {
	r.t.Helper()
	c.Service.ServiceID = r.id
	mustChange(r.table, c)
	install(r.t, r.p, r.table)
}

func (r *replayer) serverAt(n int, weight int32) lvs.RealServer {
	a := r.s.Servers[n].Addr
	limit := r.limits[n]
	return lvs.RealServer{ServerID: lvs.ServerID{Addr: a.Addr(), Port: a.Port()}, Forward: lvs.DirectRouting,
		Weight: weight, Upper: limit.Upper, Lower: limit.Lower}
}

func (r *replayer) addServer(n int, weight int32) {
	r.t.Helper()
	r.change(lvs.Change{Operation: lvs.AddServer, Server: r.serverAt(n, weight)})
}

func (r *replayer) event(e recordedEvent, want any, raw json.RawMessage) string {
	flags := map[string]string{"syn": "S", "ack": "A", "fin": "FA", "rst": "R", "data": "PA", "synack": "SA", "rstack": "RA",
		"psh": "P", "none": "", "finonly": "F", "synfin": "SF", "synrst": "SR"}
	if f, ok := flags[e.Op]; ok || e.Op == "udp" {
		return r.packet(e, f, want)
	}
	switch e.Op {
	case "set-threshold":
		r.limits[e.Server] = bpfLimit{Upper: e.Upper, Lower: e.Lower}
		err := r.table.Apply(lvs.Change{Operation: lvs.EditServer, Service: lvs.VirtualService{ServiceID: r.id},
			Server: r.serverAt(e.Server, r.weights[e.Server])})
		if said, _ := want.(string); (err == nil) != (said == "ok") {
			return fmt.Sprintf("threshold: %v, the kernel says %v", err, want)
		}
		install(r.t, r.p, r.table)
	case "set-weight":
		r.weights[e.Server] = e.Weight
		r.change(lvs.Change{Operation: lvs.EditServer, Server: r.serverAt(e.Server, e.Weight)})
	case "add":
		weight := int32(1)
		fmt.Sscanf(e.Command[strings.LastIndex(e.Command, "-w"):], "-w %d", &weight)
		r.addServer(r.serverOf(e), weight)
	case "del":
		r.change(lvs.Change{Operation: lvs.DeleteServer, Server: r.serverAt(r.serverOf(e), 0)})
	case "edit-service":
		f := strings.Fields(e.Command)
		r.change(lvs.Change{Operation: lvs.EditService, Service: lvs.VirtualService{Scheduler: lvs.Scheduler(f[len(f)-1]), Policy: r.policy()}})
	case "timeouts":
		r.timeouts(e.Command)
	case "wait":
		if err := r.p.AdvanceClock(time.Duration(e.Seconds * float64(time.Second))); err != nil {
			r.t.Fatal(err)
		}
		sweepAll(r.t, r.p)
	case "counts":
		return r.counts(want)
	case "conns":
		return r.connections(raw)
	case "ipvsadm": // listings are ipvsadm's business
	default:
		r.t.Fatalf("unknown event %q", e.Op)
	}
	return ""
}

func (r *replayer) serverOf(e recordedEvent) int {
	f := strings.Fields(e.Command)
	addr := f[slices.Index(f, "-r")+1]
	for n, s := range r.s.Servers {
		if s.Addr.String() == addr || s.Addr.Addr().String() == addr {
			return n
		}
	}
	// One that the scenario has not announced.
	r.s.Servers = append(r.s.Servers, recordedServer{Addr: netip.MustParseAddrPort(addr)})
	r.limits, r.weights = append(r.limits, bpfLimit{}), append(r.weights, 0)
	return len(r.s.Servers) - 1
}

func (r *replayer) packet(e recordedEvent, flags string, want any) string {
	to := netip.AddrPortFrom(r.id.Addr, r.id.Port)
	protocol := r.id.Protocol
	if r.id.Mark != 0 {
		protocol = e.protocol()
	}
	if e.Dst != "" {
		to = netip.MustParseAddrPort(e.Dst)
	}
	f := newFrame(protocol, netip.MustParseAddrPort(e.Src), to).flags(flags)
	if e.TTL != nil {
		f.ip.TTL = *e.TTL
	}
	f.payload = make([]byte, e.Len)
	o := run(r.t, r.p, f.bytes())
	var got any
	if addr, ok := o.chosen(); ok {
		for n, s := range r.s.Servers {
			if s.Addr.Addr() == addr {
				got = float64(n)
			}
		}
	} else {
		switch {
		case o.action == xdpPass && !strings.Contains(flags, "R"):
			got = "rst" // what the director's own stack answers
		case o.action == xdpPass || o.action == xdpDrop:
			got = nil
		case o.action == xdpTX && o.out[34] == 3:
			got = "icmp-port-unreach"
		case o.action == xdpTX && o.out[34] == 11:
			got = "icmp-time-exceeded"
		}
	}
	if !reflect.DeepEqual(got, want) {
		return fmt.Sprintf("went to %v, the kernel says %v", got, want)
	}
	return ""
}

func (r *replayer) counts(want any) string {
	var got []any
	status, err := r.p.Status()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range r.s.Servers {
		var of any
		for _, have := range status[0].Servers {
			if have.Addr == s.Addr.Addr() {
				of = []any{float64(have.Active), float64(have.Inactive)}
			}
		}
		got = append(got, of)
	}
	if !reflect.DeepEqual(any(got), want) {
		return fmt.Sprintf("counts %v, the kernel says %v", got, want)
	}
	return ""
}

type recordedConnection struct {
	Proto, Client, Virtual, Dest, State string
	Expires                             int
}

func (r *replayer) connections(raw json.RawMessage) string {
	var want []recordedConnection
	if err := json.Unmarshal(raw, &want); err != nil {
		r.t.Fatal(err)
	}
	// The kernel lists a template that was replaced until its connections have
	// ended, with port 65535. In shunt it is gone at once.
	want = slices.DeleteFunc(want, func(w recordedConnection) bool { return strings.HasSuffix(w.Dest, ":65535") })
	got, err := r.p.Connections()
	if err != nil {
		r.t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b lvs.Connection) int {
		return cmp.Or(a.Client.Compare(b.Client), a.Virtual.Compare(b.Virtual))
	})
	if len(got) != len(want) {
		return fmt.Sprintf("%d connections %+v, the kernel has %d %+v", len(got), got, len(want), want)
	}
	slices.SortFunc(want, func(a, b recordedConnection) int {
		return cmp.Or(netip.MustParseAddrPort(a.Client).Compare(netip.MustParseAddrPort(b.Client)),
			netip.MustParseAddrPort(a.Virtual).Compare(netip.MustParseAddrPort(b.Virtual)))
	})
	late := int(time.Since(r.began) / time.Second) // beside the time that the scenario has advanced; on a busy machine
	for i, w := range want {
		g := got[i]
		off := int(g.Expires/time.Second) - w.Expires
		proto := g.Protocol.String()
		if g.Protocol == lvs.ProtocolNone {
			proto = "IP" // a mark's template
		}
		if proto != w.Proto || g.Client.String() != w.Client || g.Virtual.String() != w.Virtual ||
			g.Server.String() != w.Dest || string(g.State) != w.State || off < -late || off > 2 {
			return fmt.Sprintf("connection %+v, the kernel has %+v", g, w)
		}
	}
	return ""
}

// compareCounts compares the end: servers in the order of the list.
func (r *replayer) compareCounts() string {
	status, err := r.p.Status()
	if err != nil {
		r.t.Fatal(err)
	}
	got := status[0].Servers
	if len(got) != len(r.s.Counts) {
		return fmt.Sprintf("%d servers at the end, the kernel has %d", len(got), len(r.s.Counts))
	}
	for i, w := range r.s.Counts {
		if got[i].Addr != w.Addr.Addr() || got[i].Active != w.Active || got[i].Inactive != w.Inactive {
			return fmt.Sprintf("at the end %+v, the kernel has %+v", got[i], w)
		}
	}
	return ""
}

// sweepAll waits until the timer has gone round the whole table.
func sweepAll(t testing.TB, p *Plane) {
	t.Helper()
	rounds := func() uint32 {
		var s bpfSweep
		if err := p.maps.Sweeper.Lookup(uint32(0), &s); err != nil {
			t.Fatal(err)
		}
		return s.Rounds
	}
	for from, until := rounds(), time.Now().Add(20*time.Second); rounds()-from < 2; {
		if time.Now().After(until) {
			t.Fatal("the sweep's timer does not run")
		}
		time.Sleep(5 * time.Millisecond)
	}
}
