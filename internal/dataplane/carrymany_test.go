// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

// How many connections TestCarryMany carries over, in tables that they fill to a
// quarter.
const (
	manyNarrow = 1_000_000
	manyWide   = 100_000
)

// TestCarryMany carries over a million connections that all have packets every
// second, and a hundred thousand of IPv6. None may be missing. What it took is in
// docs/performance.md; -v tells it.
func TestCarryMany(t *testing.T) {
	if dir := os.Getenv("SHUNT_TEST_MANY"); dir != "" { // the process below
		manyStep(t, dir)
		return
	}
	labtest.InNamespace(t)
	other, dir := otherBinary(t), bpffs(t)
	t.Cleanup(func() { RemovePins(dir, "test") })
	p, err := Open(manyOptions(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	install(t, p, carryTable(t))
	began := time.Now()
	c := manyLetters(t, p)
	t.Logf("made in %v", time.Since(began))
	if c.lost > 0 {
		t.Logf("%d find no place", c.lost)
	}

	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Second):
				if err := secondLater(p.maps.Connections, 16, 8); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	cmd := exec.Command(other, "-test.run=^TestCarryMany$", "-test.v")
	cmd.Env = append(os.Environ(), "SHUNT_TEST_MANY="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("with the other layout: %v\n%s", err, out)
	}
	t.Logf("%s", out)
	want := fmt.Sprintf("%d active connections\n", manyNarrow+manyWide-c.lost)
	if !bytes.Contains(out, []byte(want)) {
		t.Errorf("want %s", want)
	}
}

func manyOptions(dir string) Options {
	o := carryOptions(dir)
	o.Connections = 1 << 22
	return o
}

// manyLetters makes connections by what carries them over, which is faster than
// packets.
func manyLetters(t *testing.T, p *Plane) *carrier {
	t.Helper()
	c := carrierOf(t, p, Options{Connections: 1 << 22})
	now, err := p.seconds()
	if err != nil {
		t.Fatal(err)
	}
	listener := func(at string, six bool) (id, server uint32) {
		for of, i := range p.installed {
			if of.Is6() == six && strings.HasSuffix(fmt.Sprint(of), at) {
				return i.listeners[0].id, i.servers[0]
			}
		}
		t.Fatalf("there is no service %s", at)
		return 0, 0
	}
	narrow, first := listener(":80", false)
	wide, firstWide := listener(":80", true)
	word := func(service, server uint32) uint64 {
		return uint64((now+900)&deadlineMask) | uint64(bpfStateSTATE_ESTABLISHED)<<bpfWordWORD_STATE_SHIFT |
			uint64(bpfRankRANK_ESTABLISHED)<<bpfWordWORD_RANK_SHIFT |
			uint64(server)<<bpfWordWORD_SERVER_SHIFT | uint64(service)<<bpfWordWORD_SERVICE_SHIFT
	}
	add := func(l bpfCarried) {
		c.letters, c.names = append(c.letters, l), append(c.names, 0)
		if len(c.letters) == mailboxSize {
			if err := c.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for n := range uint32(manyNarrow) { // each with another address
		add(bpfCarried{Client: [2]uint64{0, uint64(10|n<<8) << 32}, Ports: r.Uint32()&0xffff | 80<<24, Kind: uint32(bpfKindNARROW), Word: word(narrow, first)})
	}
	for n := range uint64(manyWide) {
		add(bpfCarried{Client: [2]uint64{0xb80d0120, n}, Ports: r.Uint32()&0xffff | 80<<24, Kind: uint32(bpfKindWIDE), Word: word(wide, firstWide)})
	}
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	return c
}

// secondLater is what a second of packets does to a table: all deadlines move on.
func secondLater(m *ebpf.Map, size, at int) error {
	memory, err := m.Memory()
	if err != nil {
		return err
	}
	b := make([]byte, 8)
	chunk := make([]byte, 64<<10)
	for from := int64(0); from < int64(memory.Size()); from += int64(len(chunk)) {
		if _, err := memory.ReadAt(chunk, from); err != nil {
			return err
		}
		for i := at; i < len(chunk); i += size {
			if w := binary.NativeEndian.Uint64(chunk[i:]); w != 0 {
				binary.NativeEndian.PutUint64(b, w&^deadlineMask|(w+1)&deadlineMask)
				if _, err := memory.WriteAt(b, from+int64(i)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// manyStep takes over and tells what it took.
func manyStep(t *testing.T, dir string) {
	began, at := time.Now(), map[string]time.Time{}
	o := manyOptions(dir)
	o.Log = slog.New(steps(func(step string) {
		fmt.Printf("%v %s\n", time.Since(began).Round(time.Millisecond), step)
		if _, known := at[step]; !known {
			at[step] = time.Now()
		}
	}))
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%v in all; TCP without SYN of unknown connections dropped for %v; %d MiB of maps, and as much of old ones; the process needed %s at most\n",
		time.Since(began).Round(time.Millisecond), at["last pass"].Sub(at["link"]).Round(time.Millisecond), mapMemory(t, p)>>20, peak(t))
	defer p.Close()
	compareBooks(t, p)
	status, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	active := uint64(0)
	for _, s := range status {
		for _, r := range s.Servers {
			active += uint64(r.Active)
		}
	}
	fmt.Printf("%d active connections\n", active)
}

// mapMemory is what all maps take, in bytes.
func mapMemory(t *testing.T, p *Plane) (sum uint64) {
	t.Helper()
	for name, m := range p.mapsByName() {
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		bytes, ok := info.Memlock()
		if !ok {
			t.Fatalf("nobody tells how much memory map %s takes", name)
		}
		sum += bytes
	}
	return sum
}

// peak is the most memory that this process had.
func peak(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "VmHWM:")
	line, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(line)
}

// TestLater: of two entries that differ in their deadlines only, the later one need
// not be carried over, unless it is much later or the other is about to end.
func TestLater(t *testing.T) {
	t1 := &oldTable{size: 16, at: offsets{word: 8}}
	deadline := field{0, 20}
	const other = 5 << 20
	for _, c := range []struct {
		now, was, is uint64
		key          byte
		want         bool
	}{
		{1000, 1900, 1901, 0, true},
		{1000, 1900, 1909, 0, true},
		{1000, 1900, 1910, 0, false},
		{1000, 1060, 1061, 0, true},
		{1000, 1059, 1060, 0, false},
		{1000, 999, 1001, 0, false},
		{1000, 1901, 1900, 0, false},
		{1000, 1900, 1901 | other, 0, false},
		{1000, 1900 | other, 1901 | other, 0, true},
		{1000, 1900, 1901, 1, false},
		{1<<20 - 10, 100, 101, 0, true}, // the clock wraps
		{1<<21 - 100, 1<<20 - 5, 3, 0, true},
	} {
		was, is := make([]byte, 16), make([]byte, 16)
		binary.NativeEndian.PutUint64(was[8:], c.was)
		binary.NativeEndian.PutUint64(is[8:], c.is)
		is[0] = c.key
		if got := t1.later(was, is, deadline, c.now); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
