// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// otherBinary builds this package's tests with the layout of the maps that these
// here have not.
func otherBinary(t *testing.T) string {
	t.Helper()
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "other.test")
	args := []string{"test", "-c", "-o", path}
	if spec.Maps[bpfMapVips].KeySize != 24 {
		args = append(args, "-tags", "otherlayout")
	}
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		t.Fatalf("building the tests with another layout: %v\n%s", err, out)
	}
	return path
}

// told is what a step of these tests tells the next one, which may be of another
// binary.
type told struct {
	Servers map[string]netip.Addr // by client
	Status  []lvs.ServiceStatus
	Listed  []lvs.Connection
	Long    int // connections to the long list, so far
	Young   [][4]uint64
	Reset   int // connections of the failed server that were reset, so far
}

func carryTable(t *testing.T) *lvs.Table { return carryTableWith(t, 0) }

// carryTableWith has that weight of a server that fails.
func carryTableWith(t *testing.T, failing int32) *lvs.Table {
	rules := limited(denying(table(lvs.TCP, lvs.WeightedRoundRobin, server(0, 3), server(1, 2), server(2, 1)), "203.0.113.0/24", "198.51.100.7/32"), 10000, 9000)
	add := func(s lvs.VirtualService, servers ...lvs.RealServer) {
		mustChange(rules, lvs.Change{Operation: lvs.AddService, Service: s})
		for _, r := range servers {
			mustChange(rules, lvs.Change{Operation: lvs.AddServer, Service: lvs.VirtualService{ServiceID: s.ServiceID}, Server: r})
		}
	}
	port := func(r lvs.RealServer, port uint16) lvs.RealServer { r.Port = port; return r }
	limited := port(server(0, 1), 81)
	limited.Upper, limited.Lower = 6, 2
	add(lvs.VirtualService{ServiceID: lvs.ServiceID{Protocol: lvs.TCP, Addr: vip, Port: 81}, Scheduler: lvs.LeastConnection,
		Flags: lvs.FlagPersistent, Timeout: 300, Netmask: 0xffffffff}, limited, port(server(1, 1), 81))
	add(lvs.VirtualService{ServiceID: lvs.ServiceID{Protocol: lvs.UDP, Addr: vip, Port: 80}, Scheduler: lvs.RoundRobin}, server(0, 1), server(1, 1))
	six := func(n int) lvs.RealServer {
		return lvs.RealServer{ServerID: lvs.ServerID{Addr: rip6(n), Port: 80}, Forward: lvs.DirectRouting, Weight: 1}
	}
	add(lvs.VirtualService{ServiceID: lvs.ServiceID{Protocol: lvs.TCP, Addr: vip6, Port: 80}, Scheduler: lvs.RoundRobin}, six(0), six(1))
	long := make([]lvs.RealServer, carryLong)
	for n := range long {
		long[n] = port(server(n, 1+int32(n)%3), 82)
	}
	add(lvs.VirtualService{ServiceID: longID(), Scheduler: lvs.WeightedLeastConnection}, long...)
	add(lvs.VirtualService{ServiceID: failedID(), Scheduler: lvs.LeastConnection}, seeded(port(server(0, failing), 83), 5), seeded(port(server(1, 0), 83), 6))
	return rules
}

const carryLong = 40 // servers, which are several groups

func longID() lvs.ServiceID { return lvs.ServiceID{Protocol: lvs.TCP, Addr: vip, Port: 82} }

// failedID is a service whose first server fails at the first step: its connections
// are reset, one at each step.
func failedID() lvs.ServiceID { return lvs.ServiceID{Protocol: lvs.TCP, Addr: vip, Port: 83} }

func failedFrame(n int, flags string) []byte {
	return newFrame(lvs.TCP, netip.MustParseAddrPort(client(9000+n)), netip.AddrPortFrom(vip, 83)).flags(flags).bytes()
}

func (s *told) fail(t *testing.T, p *Plane) {
	t.Helper()
	install(t, p, carryTableWith(t, 1))
	for n := range 20 {
		send(t, p, failedFrame(n, "S"))
		send(t, p, failedFrame(n, "A"))
	}
	install(t, p, carryTable(t))
	if n, err := p.End(failedID(), lvs.ServerID{Addr: rip(0), Port: 83}, lvs.FateReset); n != 20 || err != nil {
		t.Fatalf("to be reset: %d, %v", n, err)
	}
}

func (s *told) failed(t *testing.T, p *Plane) {
	t.Helper()
	if o := send(t, p, failedFrame(s.Reset, "A")); o.verdict != bpfVerdictVERDICT_REPLY_ENDED {
		t.Errorf("of the failed server: %v", o.verdict)
	}
	s.Reset++
	i := p.installed[failedID()]
	for n, id := range i.servers {
		if want := i.service.Servers[n].Seed; p.seeds[id].Active != want || want != uint32(6-n) {
			t.Errorf("seed %d and %d, want %d", p.seeds[id].Active, want, 6-n)
		}
	}
}

// least opens connections to the long list, each of which must go to the least
// loaded server.
func (s *told) least(t *testing.T, p *Plane) {
	t.Helper()
	for range 5 {
		status, err := p.Status()
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(status, func(s lvs.ServiceStatus) bool { return s.ServiceID == longID() })
		var least netip.Addr
		var cheapest, weight uint64
		for n, l := range status[i].Servers {
			c, w, ok := cost(lvs.WeightedLeastConnection, p.installed[longID()].service.Servers[n].Weight, l)
			if ok && (!least.IsValid() || cheapest*w > c*weight) {
				least, cheapest, weight = l.Addr, c, w
			}
		}
		s.Long++
		from := netip.MustParseAddrPort(client(5000 + s.Long))
		frame := func(flags string) []byte {
			return newFrame(lvs.TCP, from, netip.AddrPortFrom(vip, 82)).flags(flags).bytes()
		}
		if o := send(t, p, frame("S")); carryChosen(o) != least {
			t.Errorf("long list, connection %d: %v to %v, want %v", s.Long, o.verdict, carryChosen(o), least)
		}
		send(t, p, frame("A"))
	}
}

// carryFrame makes a packet of the n-th client, which is one of four services'.
func carryFrame(n int, flags string) (name string, frame []byte) {
	switch n % 4 {
	case 0:
		return client(n), tcpFrame(client(n), flags)
	case 1:
		at := netip.MustParseAddrPort(client(n / 8 * 8)) // a few connections of each client
		at = netip.AddrPortFrom(at.Addr(), uint16(2000+n))
		return at.String(), newFrame(lvs.TCP, at, netip.AddrPortFrom(vip, 81)).flags(flags).bytes()
	case 2:
		return "udp" + client(n), udpFrame(client(n))
	}
	at := netip.AddrPortFrom(rip6(1000+n), uint16(1024+n))
	return at.String(), tcpFrame6(at.String(), flags)
}

// chosen6 is chosen for either family: the end of the MAC is that of the RIP.
func carryChosen(o outcome) netip.Addr {
	a, _ := o.chosen()
	return a
}

func (s *told) open(t *testing.T, p *Plane, from, to int) {
	for n := from; n < to; n++ {
		name, frame := carryFrame(n, "S")
		addr := carryChosen(send(t, p, frame))
		if n%5 == 0 {
			send(t, p, frame)
		}
		if n%3 == 0 && n%7 == 0 {
			_, reset := carryFrame(n, "R")
			send(t, p, reset)
		}
		if n%3 != 0 { // a third stays embryonic
			_, again := carryFrame(n, "A")
			if o := send(t, p, again); o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
				t.Fatalf("client %s: its ACK: %v", name, o.verdict)
			}
		}
		s.Servers[strconv.Itoa(n)] = addr
	}
}

func (s *told) look(t *testing.T, p *Plane) {
	var err error
	if s.Status, err = p.Status(); err != nil {
		t.Fatal(err)
	}
	s.Young = nil
	for _, all := range mustYoung(t, p) {
		for _, y := range all {
			s.Young = append(s.Young, numbers(y))
		}
	}
	slices.SortFunc(s.Young, func(a, b [4]uint64) int { return slices.Compare(a[:], b[:]) })
	slices.SortFunc(s.Status, func(a, b lvs.ServiceStatus) int {
		return strings.Compare(fmt.Sprint(a.ServiceID), fmt.Sprint(b.ServiceID))
	})
	if s.Listed, err = p.Connections(); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(s.Listed, func(a, b lvs.Connection) int {
		return strings.Compare(fmt.Sprint(a.Protocol, a.Client, a.Virtual), fmt.Sprint(b.Protocol, b.Client, b.Virtual))
	})
}

// same compares, but for the seconds that pass.
func (s *told) same(t *testing.T, p *Plane) {
	t.Helper()
	var now told
	now.look(t, p)
	near := cmp.Comparer(func(a, b time.Duration) bool { return a-b < 30*time.Second && b-a < 30*time.Second })
	addr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	port := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	rates := cmp.Comparer(func(a, b lvs.Rates) bool { return true })
	if d := cmp.Diff(s.Status, now.Status, addr, rates); d != "" {
		t.Errorf("status changed:\n%s", d)
	}
	if d := cmp.Diff(s.Young, now.Young); d != "" {
		t.Errorf("young connections changed:\n%s", d)
	}
	if d := cmp.Diff(s.Listed, now.Listed, addr, port, near); d != "" {
		t.Errorf("connections changed:\n%s", d)
	}
	if len(s.Listed) == 0 {
		t.Error("no connections: nothing was tested")
	}
	compareBooks(t, p)
}

func (s *told) keeps(t *testing.T, p *Plane) {
	t.Helper()
	for n, want := range s.Servers {
		i, _ := strconv.Atoi(n)
		name, frame := carryFrame(i, "A")
		if o := send(t, p, frame); carryChosen(o) != want || o.verdict != bpfVerdictVERDICT_FORWARD_CONNECTION {
			t.Errorf("client %d, %s: %v to %v, was at %v", i, name, o.verdict, carryChosen(o), want)
		}
	}
}

// sameGuards: deny lists and limits are what the table has, and work.
func sameGuards(t *testing.T, p *Plane, rules *lvs.Table) {
	t.Helper()
	for _, want := range rules.Services {
		got := p.installed[want.ServiceID].service
		if !slices.Equal(got.Deny, want.Deny) || got.Policy != want.Policy {
			t.Errorf("%v has the deny list %v and %q, want %v and %q", want.ServiceID, got.Deny, got.Policy, want.Deny, want.Policy)
		}
	}
	for _, client := range []string{"203.0.113.9:1000", "198.51.100.7:1000"} {
		if o := send(t, p, tcpFrame(client, "S")); o.verdict != bpfVerdictVERDICT_DROP_DENIED {
			t.Errorf("%s: %v", client, o.verdict)
		}
	}
}

// TestCarryChild is the part of the tests below that is of the other layout.
func TestCarryChild(t *testing.T) {
	dir := os.Getenv("SHUNT_TEST_CARRY")
	if dir == "" {
		t.Skip("it is started by TestCarry")
	}
	carryStep(t, dir, os.Getenv("SHUNT_TEST_KILL"))
}

func carryOptions(dir string) Options {
	if _, err := net.InterfaceByName("eth0"); err == nil {
		return Options{Instance: "test", PinDir: dir, Interfaces: []string{"eth0", "peer0"}, LocalClients: true, Mode: Generic, Connections: 1 << 11}
	}
	return Options{Instance: "test", PinDir: dir, Interfaces: []string{"lo"}, Mode: Generic, Connections: 1 << 9}
}

// carryStep opens the plane, after another binary as a rule, sees that all is as
// that one left it, and makes some more. The process is killed after the first step
// of the upgrade that has that name, if any.
func carryStep(t *testing.T, dir, kill string) {
	t.Helper()
	s := told{Servers: map[string]netip.Addr{}}
	file := filepath.Join(filepath.Dir(dir), "told")
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	first := errors.Is(err, os.ErrNotExist)
	if err != nil && !first {
		t.Fatal(err)
	}
	o := carryOptions(dir)
	o.Log = slog.New(killer(kill))
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(p.attachments, func(a, b attachment) int { // test runs go by the first one
		return strings.Compare(string(a.Mode), string(b.Mode))
	})
	if p.TookOver() == first {
		t.Errorf("took over: %v", p.TookOver())
	}
	if first {
		s.fail(t, p)
	} else {
		s.same(t, p)
		sameGuards(t, p, carryTable(t))
		if err := p.Apply(carryTable(t)); err != nil {
			t.Fatal(err)
		}
		s.same(t, p)
		s.keeps(t, p)
	}
	s.failed(t, p)
	s.least(t, p)
	s.open(t, p, len(s.Servers), len(s.Servers)+40)
	for i := range len(s.Servers) { // and some end
		if n := strconv.Itoa(i); i%7 == 0 && s.Servers[n].IsValid() {
			_, f := carryFrame(i, "FA")
			send(t, p, f)
		}
	}
	s.look(t, p)
	if b, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestResize: a start with another size carries all over, and refuses one that has
// no room for what is there.
func TestResize(t *testing.T) {
	labtest.InNamespace(t)
	dir := bpffs(t)
	t.Cleanup(func() { RemovePins(dir, "test") })
	s := told{Servers: map[string]netip.Addr{}}
	open := func(connections uint32) (*Plane, error) {
		o := carryOptions(dir)
		o.Connections = connections
		return Open(o)
	}
	for n, size := range []uint32{1 << 10, 1 << 14, 1 << 14, 0, 1 << 11} {
		p, err := open(size)
		if err != nil {
			t.Fatalf("%d: %v", size, err)
		}
		if n == 0 {
			install(t, p, carryTable(t))
		} else {
			s.same(t, p)
			if err := p.Apply(carryTable(t)); err != nil {
				t.Fatal(err)
			}
			s.keeps(t, p)
		}
		want := map[int]uint64{0: 1 << 10, 4: 1 << 11}[n]
		if want == 0 {
			want = 1 << 14
		}
		if use, err := p.TableUse(); err != nil || use[0].Capacity != want {
			t.Errorf("start %d, with %d: room for %d: %v", n, size, use[0].Capacity, err)
		}
		s.least(t, p)
		s.open(t, p, len(s.Servers), len(s.Servers)+40)
		s.look(t, p)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := open(1 << 4); !errors.Is(err, ErrResize) {
		if err == nil {
			p.Close()
		}
		t.Fatalf("much smaller: %v", err)
	}
	p, err := open(0)
	if err != nil {
		t.Fatal(err)
	}
	s.same(t, p)
	s.keeps(t, p)
	if err := p.Remove(); err != nil {
		t.Error(err)
	}
}

// killer kills the process after one of the steps of an upgrade.
func killer(after string) steps {
	return func(step string) {
		fmt.Fprintf(os.Stderr, "step: %v\n", step)
		if step == after {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

// steps is a log that tells the steps of an upgrade.
type steps func(step string)

func (f steps) Enabled(context.Context, slog.Level) bool { return true }
func (f steps) WithAttrs([]slog.Attr) slog.Handler       { return f }
func (f steps) WithGroup(string) slog.Handler            { return f }
func (f steps) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "step" {
			f(a.Value.String())
		}
		return true
	})
	return nil
}

func carryChild(t *testing.T, binary, dir, kill string) (out []byte, err error) {
	t.Helper()
	cmd := exec.Command(binary, "-test.run=^TestCarryChild$", "-test.v")
	cmd.Env = append(os.Environ(), "SHUNT_TEST_CARRY="+dir, "SHUNT_TEST_KILL="+kill)
	return cmd.CombinedOutput()
}

// TestCarry: binaries of two layouts take over from each other, and whatever they
// find is as the other left it.
func TestCarry(t *testing.T) {
	labtest.InNamespace(t)
	other, dir := otherBinary(t), bpffs(t)
	t.Cleanup(func() { RemovePins(dir, "test") })
	for round := range 2 {
		carryStep(t, dir, "")
		if t.Failed() {
			return
		}
		if round == 1 {
			forgetGroups(t, filepath.Join(dir, "test"))
		}
		if out, err := carryChild(t, other, dir, ""); err != nil {
			t.Fatalf("with the other layout: %v\n%s", err, out)
		}
	}
	o := carryOptions(dir)
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AdvanceClock(4000 * time.Second); err != nil {
		t.Fatal(err)
	}
	sweepAll(t, p)
	compareBooks(t, p)
	if n := spilled(t, p); n != 0 {
		t.Errorf("after all has expired: %d words of spills are left", n)
	}
	status, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range status {
		for _, r := range s.Servers {
			if r.Active != 0 || r.Inactive != 0 || r.Persistent != 0 {
				t.Errorf("%v: after all has expired: %+v", s.ServiceID, r)
			}
		}
	}
	if err := p.Remove(); err != nil {
		t.Fatal(err)
	}
	leftPins(t, dir)
}

// forgetGroups makes pinned maps as if this version had known neither groups nor
// spills.
func forgetGroups(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{bpfMapGroups, bpfMapSpills, bpfMapWideSpills} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, bpfMapLoads), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	loads, err := readArray[bpfLoad](m)
	if err != nil {
		t.Fatal(err)
	}
	known := 0
	for id, l := range loads {
		if l.Flags>>bpfLoadFlagsLOAD_GROUP_SHIFT == 0 {
			continue
		}
		known++
		l.Flags &= 1<<bpfLoadFlagsLOAD_GROUP_SHIFT - 1
		if err := m.Put(uint32(id), l); err != nil {
			t.Fatal(err)
		}
	}
	if known != carryLong {
		t.Errorf("%d servers were in groups, want %d", known, carryLong)
	}
}

func leftPins(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	left = slices.DeleteFunc(left, func(e os.DirEntry) bool { return strings.HasSuffix(e.Name(), ".debug") }) // the kernel's own
	if err != nil || len(left) > 0 {
		t.Errorf("pins are left: %v, %v", left, err)
	}
}

// TestCarryKilled: a start with another layout is killed after some of its steps.
// Whichever binary starts then finds all connections.
func TestCarryKilled(t *testing.T) {
	const killPoints = 4
	labtest.InNamespace(t)
	labtest.IP(t, "link add eth0 type veth peer name peer0")
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binaries, dir := []string{own, otherBinary(t)}, bpffs(t)
	t.Cleanup(func() { RemovePins(dir, "test") })
	start := func(binary string) []byte {
		t.Helper()
		out, err := carryChild(t, binary, dir, "")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return out
	}
	killed := func(binary, after string) {
		t.Helper()
		out, err := carryChild(t, binary, dir, after)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("to be killed after %s: %v\n%s", after, err, out)
		}
	}
	start(own)
	runs := 0
	steps := []string{"pins", "maps", "pass", "begin", "link", "pin of a link", "old maps aside", "new maps in place",
		"last pass", "counters", "old maps removed"}
	some := rand.Perm(len(steps))[:killPoints] // a start takes a second or two
	for _, n := range some {
		killed(binaries[(runs+1)%2], steps[n])
		again := rand.IntN(2)
		t.Logf("killed after %q, then %s starts", steps[n], []string{"the version before", "the killed one"}[again])
		runs += again
		start(binaries[runs%2])
	}
	// And a stop after any of them leaves nothing.
	step := steps[rand.IntN(len(steps))]
	t.Logf("killed after %q, then a stop", step)
	killed(binaries[(runs+1)%2], step)
	if err := RemovePins(dir, "test"); err != nil {
		t.Fatal(err)
	}
	leftPins(t, dir)
	os.Remove(filepath.Join(filepath.Dir(dir), "told"))
	start(binaries[runs%2])
	var seen []string
	for line := range strings.Lines(string(start(binaries[(runs+1)%2]))) {
		if step, ok := strings.CutPrefix(strings.TrimSpace(line), "step: "); ok && !slices.Contains(seen, step) {
			seen = append(seen, step)
		}
	}
	if !slices.Equal(seen, steps) {
		t.Errorf("steps of an upgrade: %q, killed after %q", seen, steps)
	}
}

// TestCarryMeanwhile: packets that come while connections are carried over are
// counted once, and those of one client's port go to one server, whichever program
// gets them.
func TestCarryMeanwhile(t *testing.T) {
	if dir := os.Getenv("SHUNT_TEST_MEANWHILE"); dir != "" { // the process below
		meanwhileStep(t, dir)
		return
	}
	labtest.InNamespace(t)
	other, dir := otherBinary(t), bpffs(t)
	t.Cleanup(func() { RemovePins(dir, "test") })
	p, err := Open(meanwhileOptions(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	install(t, p, carryTable(t))
	cmd := exec.Command(other, "-test.run=^TestCarryMeanwhile$", "-test.v")
	cmd.Env = append(os.Environ(), "SHUNT_TEST_MEANWHILE="+dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	const clients = 1000
	want := told{Servers: map[string]netip.Addr{}}
	more := func(n int) {
		_, f := carryFrame(n, "S")
		want.Servers[strconv.Itoa(n)] = carryChosen(run(t, p, f))
		_, f = carryFrame(n, "A")
		run(t, p, f)
	}
	for n := 0; !exists(beside(dir, "carried")); n++ {
		more(n % clients)
		select {
		case err := <-ended:
			t.Fatalf("with the other layout: %v\n%s", err, out.Bytes())
		case <-time.After(time.Millisecond):
		}
	}
	for n := range 200 { // that are in no table of the successor yet
		more(clients + n)
	}
	want.look(t, p)
	writeTold(t, dir, "sent", &want)
	if err := <-ended; err != nil {
		t.Fatalf("with the other layout: %v\n%s", err, out.Bytes())
	}
	rates := cmp.Comparer(func(a, b lvs.Rates) bool { return true })
	addr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	got := readTold(t, dir, "counted")
	if d := cmp.Diff(onlyConnections(want.Status), onlyConnections(got.Status), addr, rates); d != "" {
		t.Errorf("what the predecessor counted, and what its successor has:\n%s", d)
	}
}

// onlyConnections leaves out packets and bytes.
func onlyConnections(all []lvs.ServiceStatus) []lvs.ServiceStatus {
	for i := range all {
		all[i].Counters.Packets, all[i].Counters.Bytes = 0, 0
		for n := range all[i].Servers {
			all[i].Servers[n].Counters.Packets, all[i].Servers[n].Counters.Bytes = 0, 0
		}
	}
	return all
}

func meanwhileOptions(dir string) Options {
	o := carryOptions(dir)
	o.Connections = 1 << 14
	return o
}

func beside(dir, name string) string { return filepath.Join(filepath.Dir(dir), name) }

func writeTold(t *testing.T, dir, name string, s *told) {
	t.Helper()
	b, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(beside(dir, name+".new"), b, 0o600)
	}
	if err == nil {
		err = os.Rename(beside(dir, name+".new"), beside(dir, name))
	}
	if err != nil {
		t.Error(err)
	}
}

func readTold(t *testing.T, dir, name string) (s told) {
	t.Helper()
	b, err := os.ReadFile(beside(dir, name))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		t.Error(err)
	}
	return s
}

// meanwhileStep takes over. Before the links get the new program it lets the other
// process send more by the old one; and when they have it, and not all is carried
// over, it sends a packet of each client.
func meanwhileStep(t *testing.T, dir string) {
	o := meanwhileOptions(dir)
	o.Log = slog.New(steps(func(step string) {
		switch step {
		case "begin":
			writeTold(t, dir, "carried", &told{})
			for end := time.Now().Add(time.Minute); !exists(beside(dir, "sent")) && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		case "new maps in place":
			sent := readTold(t, dir, "sent")
			sendByLink(t, filepath.Join(dir, "test", linksDir), sent.Servers)
		}
	}))
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	compareBooks(t, p)
	var s told
	s.look(t, p)
	writeTold(t, dir, "counted", &s)
}

// sendByLink has the program of a link get a packet of each client.
func sendByLink(t *testing.T, dir string, servers map[string]netip.Addr) {
	t.Helper()
	pins, err := os.ReadDir(dir)
	if err != nil || len(pins) != 1 {
		t.Errorf("links: %v, %v", pins, err)
		return
	}
	l, err := link.LoadPinnedLink(filepath.Join(dir, pins[0].Name()), nil)
	if err != nil {
		t.Error(err)
		return
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		t.Error(err)
		return
	}
	program, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		t.Error(err)
		return
	}
	defer program.Close()
	dropped := 0
	for client, want := range servers {
		n, _ := strconv.Atoi(client)
		for _, flags := range []string{"A", "S"} { // the first may be dropped
			name, f := carryFrame(n, flags)
			r := ebpf.RunOptions{Data: f, DataOut: make([]byte, len(f)+256)}
			action, err := program.Run(&r)
			if err != nil {
				t.Error(err)
				return
			}
			if action == xdpDrop && flags == "A" {
				dropped++
				continue
			}
			if got, _ := (outcome{action: action, out: r.DataOut}).chosen(); got != want {
				t.Errorf("%s %s: to %v, before to %v", name, flags, got, want)
			}
			break
		}
	}
	if dropped == 0 || dropped == len(servers) {
		t.Errorf("of %d packets %d were dropped: nothing is tested", len(servers), dropped)
	}
}

func TestConverter(t *testing.T) {
	u8, u32, u64 := &btf.Int{Size: 1}, &btf.Int{Size: 4}, &btf.Int{Size: 8}
	s32 := &btf.Int{Size: 4, Encoding: btf.Signed}
	s64 := &btf.Int{Size: 8, Encoding: btf.Signed}
	member := func(name string, of btf.Type, at uint32) btf.Member {
		return btf.Member{Name: name, Type: of, Offset: btf.Bits(at * 8)}
	}
	small := &btf.Struct{Size: 16, Members: []btf.Member{member("a", u32, 0), member("b", s32, 4), member("c", &btf.Array{Type: u8, Nelems: 4}, 8), member("gone", u32, 12)}}
	large := &btf.Struct{Size: 32, Members: []btf.Member{member("new", u64, 0), member("b", s64, 8), member("a", u64, 16), member("c", &btf.Array{Type: u8, Nelems: 6}, 24)}}
	up, err := newConverter(large, small)
	if err != nil {
		t.Fatal(err)
	}
	got, err := up.convert([]byte{1, 2, 3, 4, 0xfe, 0xff, 0xff, 0xff, 5, 6, 7, 8, 9, 9, 9, 9})
	want := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 0, 0, 0, 0, 5, 6, 7, 8, 0, 0, 0, 0}
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v, %v; want %v", got, err, want)
	}
	down, err := newConverter(small, large)
	if err != nil {
		t.Fatal(err)
	}
	if got, err = down.convert(want); err != nil || !bytes.Equal(got, []byte{1, 2, 3, 4, 0xfe, 0xff, 0xff, 0xff, 5, 6, 7, 8, 0, 0, 0, 0}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, at := range []int{20, 12, 28} { // a too large, b no negative number any more, c too long
		bad := bytes.Clone(want)
		bad[at] = 1
		if got, err := down.convert(bad); err == nil {
			t.Errorf("byte %d does not fit, but came out as %v", at, got)
		}
	}
	if _, err := newConverter(&btf.Struct{Size: 4, Members: []btf.Member{member("c", u32, 0)}}, small); err == nil {
		t.Error("an array became a number")
	}
}

// carrierOf makes what writes entries into the tables of a plane.
func carrierOf(t *testing.T, p *Plane, o Options) *carrier {
	t.Helper()
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	size(spec, o.Connections)
	if err := p.setConstants(spec); err != nil {
		t.Fatal(err)
	}
	shared := p.mapsByName()
	shared[bpfMapMailbox] = p.maps.Mailbox
	c := &carrier{p: p, programs: &carryPrograms{}, templates: map[uint32]uint32{}}
	if err := spec.LoadAndAssign(c.programs, &ebpf.CollectionOptions{MapReplacements: shared}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.programs.Carry.Close(); c.programs.CarryCounters.Close() })
	if c.mailbox, err = p.maps.Mailbox.Memory(); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCarriedSpills: what was carried over to another line than its own, and is
// gone at the next pass, leaves the line as if it had never been.
func TestCarriedSpills(t *testing.T) {
	var o Options
	p := newPlane(t, oneBucket, func(of *Options) { o = *of })
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 1)))
	c := carrierOf(t, p, o)
	now, err := p.seconds()
	if err != nil {
		t.Fatal(err)
	}
	is := uint64((now+600)&deadlineMask) | uint64(bpfStateSTATE_ESTABLISHED)<<bpfWordWORD_STATE_SHIFT | 1<<bpfWordWORD_SERVICE_SHIFT
	most := 0
	for range 20 {
		var ports [ways - 3]uint32 // of a bucket: some line has more than its share
		for n := range ports {
			ports[n] = rand.Uint32()
		}
		for _, kind := range []bpfKind{bpfKindNARROW, bpfKindWIDE} {
			for _, letter := range []bpfCarried{{Word: is}, {Was: is}} {
				for _, letter.Ports = range ports {
					letter.Kind = uint32(kind)
					c.letters, c.names = append(c.letters, letter), append(c.names, 0)
				}
				if err := c.flush(); err != nil {
					t.Fatal(err)
				}
				if letter.Was == 0 {
					most = max(most, spilled(t, p))
				}
				compareBooks(t, p)
			}
		}
		if n := spilled(t, p); n != 0 {
			t.Fatalf("%d words are left", n)
		}
	}
	if most == 0 || c.lost > 0 {
		t.Errorf("%d words of spills at most, %d entries lost: the test shows nothing", most, c.lost)
	}
}
