// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// carrier carries over what is in maps of another layout. The old program goes
// on with the old maps meanwhile; when little is left to do, the links get the
// new one, and the rest follows.
type carrier struct {
	p         *Plane
	old       *predecessor
	programs  *carryPrograms
	main      bool // the instance's own maps, not those of an upgrade that was killed at its end
	words     wordConverter
	tables    []*oldTable // templates first: connections refer to them
	templates map[uint32]uint32
	mailbox   *ebpf.Memory
	letters   []bpfCarried
	names     []uint32 // beside letters: of templates, the old ones
	lost      int
	differ    []int // of the chunk at hand: where
	counted   []bpfCounters
	verdicts  map[string]uint64
	youngs    []bpfYoung // as they were before the switch
	switched  bool       // packets come to the new program, and this process has seen what was before
}

// carryPrograms are loaded only if there is something to carry over.
type carryPrograms struct {
	Carry         *ebpf.Program `ebpf:"carry"`
	CarryCounters *ebpf.Program `ebpf:"carry_counters"`
}

const (
	mailboxSize      = 2048    // CARRIED
	movingTime       = 5       // seconds; only if the daemon dies is it that long
	fewChanges       = 256     // of connections: then the links may be switched
	maxPasses        = 20      // before that, if it never gets that quiet
	packetsAtATime   = 1 << 31 // that count_verdict takes
	rawChunk         = 4096    // elements of a map copied at a time
	emptyFrame       = 64      // bytes: a test run of XDP wants a frame
	membarrierGlobal = 1       // linux/membarrier.h, MEMBARRIER_CMD_GLOBAL: waits as synchronize_rcu does
)

// step tells of one step of an upgrade, for whoever wants to die after it.
func (p *Plane) step(what string, of any) {
	if len(p.carriers) > 0 && p.carries() {
		p.log.Debug("carrying over to maps of another layout", "step", what, "of", of)
	}
}

// predecessors opens the pinned maps: those of the instance and, if an upgrade was
// killed at its very end, those that it came from.
func (p *Plane) predecessors(spec *ebpf.CollectionSpec, resize bool) error {
	old, err := openPredecessor(p.dir, spec, resize)
	if err != nil {
		return err
	}
	p.carriers = []*carrier{{p: p, old: old, main: true}}
	last := superseded(p.pins.path, p.instance)
	if !exists(last) {
		return nil
	}
	other, err := loadBpf()
	if err != nil {
		return err
	}
	size(other, 0)
	left, err := openPredecessor(last, other, false)
	if err != nil {
		p.log.Warn("what an upgrade that was killed had not yet carried over is lost", "error", err)
		return removePins(last)
	}
	p.carriers = append(p.carriers, &carrier{p: p, old: left})
	return nil
}

// carries tells whether there is anything to be carried over.
func (p *Plane) carries() bool { return p.changed() || len(p.carriers) > 1 }

// changed tells whether any map is made anew.
func (p *Plane) changed() bool {
	return len(p.carriers) > 0 && len(p.carriers[0].old.kept) < len(p.mapsByName())
}

// home is where pins belong: beside the old ones while those are carried over.
func (p *Plane) home() string {
	if p.changed() {
		return successor(p.pins.path, p.instance)
	}
	return p.dir
}

// carryOver fills the maps that were made anew, as far as it can be done while
// the old ones are in use. They are pinned first, beside the old.
func (p *Plane) carryOver(spec *ebpf.CollectionSpec, programs *carryPrograms) error {
	if !p.carries() {
		return nil
	}
	for _, c := range p.carriers {
		c.programs = programs
	}
	main := p.carriers[0]
	if p.changed() {
		p.log.Info("the running data plane has maps of another layout or size: what is in them is carried over", "maps", main.old.changed(spec))
		if err := os.MkdirAll(p.home()+"/"+linksDir, 0o700); err != nil {
			return fmt.Errorf("directory for pins: %w", err)
		}
		if err := p.pinAll(p.home()); err != nil {
			return err
		}
		p.step("pins", p.home())
		for _, name := range main.old.changed(spec) {
			if err := main.copyMap(name, spec.Maps[name]); err != nil {
				return layoutError("map "+name, err)
			}
		}
		p.step("maps", len(p.mapsByName()))
	}
	if err := p.maps.Settings.Lookup(uint32(0), &p.parameters); err != nil {
		return fmt.Errorf("reading the data plane's settings: %w", err)
	}
	for _, c := range p.carriers {
		if c.main && !c.old.anew(bpfMapConnections) {
			continue
		}
		if err := c.open(); err != nil {
			return err
		}
	}
	_, err := p.pass(false)
	p.step("pass", 0)
	return err
}

// pass carries over what is new in the old tables.
func (p *Plane) pass(last bool) (changes int, err error) {
	for _, c := range p.carriers {
		more, err := c.pass(last)
		if err != nil {
			return 0, err
		}
		changes += more
	}
	return changes, nil
}

// open prepares for the tables.
func (c *carrier) open() (err error) {
	if c.mailbox, err = c.p.maps.Mailbox.Memory(); err != nil {
		return fmt.Errorf("mapping the mailbox: %w", err)
	}
	now, err := c.p.clock()
	if err != nil {
		return err
	}
	c.words = wordConverter{from: fieldsOf(c.old.enums["word"]), to: fieldsOf(c.old.ours["word"]), now: now}
	c.templates = map[uint32]uint32{}
	for _, name := range []string{bpfMapTemplates, bpfMapWideConnections, bpfMapConnections} {
		t, err := c.old.table(name)
		if err != nil {
			return err
		}
		t.seen = make([]byte, t.count*t.size)
		c.tables = append(c.tables, t)
	}
	return nil
}

// pass goes through the old tables and carries over what is not as it was at the
// pass before; it returns how much that was. The last pass is one that no packet
// interferes with.
func (c *carrier) pass(last bool) (changes int, err error) {
	for _, t := range c.tables {
		n, err := c.passTable(t, last)
		if err == nil {
			err = c.flush()
		}
		if err != nil {
			return 0, err
		}
		changes += n
	}
	return changes, nil
}

func (c *carrier) passTable(t *oldTable, last bool) (changes int, err error) {
	memory, err := t.m.Memory()
	if err != nil {
		return 0, fmt.Errorf("mapping the old table of %s: %w", t.name, err)
	}
	chunk := make([]byte, 64<<10/t.size*t.size)
	for at := 0; at < len(t.seen); at += len(chunk) {
		now := chunk[:min(len(chunk), len(t.seen)-at)]
		if _, err := memory.ReadAt(now, int64(at)); err != nil {
			return 0, fmt.Errorf("reading the old table of %s: %w", t.name, err)
		}
		was := t.seen[at:][:len(now)]
		if bytes.Equal(now, was) {
			continue
		}
		n, err := c.passChunk(t, uint32(at/t.size), was, now, last)
		if err != nil {
			return 0, err
		}
		changes += n
	}
	return changes, nil
}

// passChunk tells first what is gone, so that there is room for what came.
func (c *carrier) passChunk(t *oldTable, first uint32, was, now []byte, last bool) (changes int, err error) {
	seconds, err := c.p.clock()
	if err != nil {
		return 0, err
	}
	c.differ = c.differ[:0]
	for i, deadline := 0, c.words.from["DEADLINE"]; i < len(now); i += t.size {
		if before, after := was[i:][:t.size], now[i:][:t.size]; !bytes.Equal(before, after) && !t.later(before, after, deadline, seconds) {
			c.differ = append(c.differ, i)
		}
	}
	for _, going := range []bool{true, false} {
		for _, i := range c.differ {
			before, after := was[i:][:t.size], now[i:][:t.size]
			a, b := t.entry(before), t.entry(after)
			place := first + uint32(i/t.size)
			stays, err := c.sameEntry(a, b)
			if err != nil {
				return 0, err
			}
			if going {
				if a.word != 0 && !stays {
					if err := c.tell(t, place, a, oldEntry{}, 0); err != nil {
						return 0, err
					}
					changes++
				}
				continue
			}
			if b.word != 0 && a != b {
				if !stays {
					a = oldEntry{}
				}
				template, known := uint32(0), true
				if t.kind == bpfKindWIDE && b.template>>t.genBit != 0 {
					template, known = c.templates[b.template]
				}
				if !known && !last { // its template came after we had gone through them
					clear(before)
					changes++
					continue
				}
				if err := c.tell(t, place, a, b, template); err != nil {
					return 0, err
				}
				changes++
			}
			copy(before, after)
		}
	}
	return changes, nil
}

// sameEntry tells whether an entry only changed, and did not give way to another.
func (c *carrier) sameEntry(a, b oldEntry) (bool, error) {
	if a.word == 0 || b.word == 0 || a.client != b.client || a.ports != b.ports || a.template != b.template {
		return false, nil
	}
	x, err := c.words.convert(a.word)
	if err != nil {
		return false, layoutError("a table of connections", err)
	}
	y, err := c.words.convert(b.word)
	if err != nil {
		return false, layoutError("a table of connections", err)
	}
	return word(x).service() == word(y).service() && word(x).server() == word(y).server(), nil
}

// tell writes a letter to the program carry: an entry was a, and is b.
func (c *carrier) tell(t *oldTable, place uint32, a, b oldEntry, template uint32) error {
	was, err := c.words.convert(a.word)
	if err != nil {
		return layoutError("a table of connections", err)
	}
	is, err := c.words.convert(b.word)
	if err != nil {
		return layoutError("a table of connections", err)
	}
	key := b
	if b.word == 0 {
		key = a
	}
	l := bpfCarried{Client: key.client, Ports: key.ports, Kind: uint32(t.kind), Was: was, Word: is, Template: template}
	if c.switched && a.word == 0 {
		l.Counted = 1
	}
	c.letters = append(c.letters, l)
	c.names = append(c.names, place|key.template)
	if len(c.letters) == mailboxSize {
		return c.flush()
	}
	return nil
}

// flush has the program read the letters.
func (c *carrier) flush() error {
	n := len(c.letters)
	if n == 0 {
		return nil
	}
	defer func() { c.letters, c.names = c.letters[:0], c.names[:0] }()
	sent := c.letters
	if n < mailboxSize {
		sent = append(sent, bpfCarried{Kind: uint32(bpfKindKIND_END)})
	}
	if _, err := c.mailbox.WriteAt(bytesOf(sent), 0); err != nil {
		return fmt.Errorf("writing to the mailbox: %w", err)
	}
	done, err := c.programs.Carry.Run(&ebpf.RunOptions{Data: make([]byte, emptyFrame)})
	if err != nil || int(done) != n {
		return fmt.Errorf("carrying over %d entries of the old tables, of which %d came: %w", n, done, errors.Join(err))
	}
	if _, err := c.mailbox.ReadAt(bytesOf(sent), 0); err != nil {
		return fmt.Errorf("reading the mailbox: %w", err)
	}
	for i, l := range sent[:n] {
		if l.Word != 0 && l.Stands == 0 {
			c.lost++
		}
		if bpfKind(l.Kind) != bpfKindTEMPLATE {
			continue
		}
		if l.Word == 0 {
			delete(c.templates, c.names[i])
		} else if l.Template != 0 {
			c.templates[c.names[i]] = l.Template
		}
	}
	return nil
}

func bytesOf[T any](s []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(s[0])))
}

// beginMove is the moment before the links get the new program.
func (p *Plane) beginMove() error {
	moving := uint32(0)
	defer func() { p.step("begin", moving) }()
	if p.carries() {
		for n := range maxPasses {
			changes, err := p.pass(false)
			if err != nil {
				return err
			}
			p.step("pass", n+1)
			if changes < fewChanges {
				break
			}
		}
		if slices.ContainsFunc(p.carriers, func(c *carrier) bool { return c.tables != nil }) {
			// What was scheduled before is carried over now; what comes from here on
			// goes to the same server by either program.
			until, err := p.within(3 * movingTime)
			if err != nil {
				return err
			}
			if err := p.setByHash(until); err != nil {
				return err
			}
			settleCPUs()
			if _, err := p.pass(false); err != nil {
				return err
			}
			if err := p.carriers[0].overloads(); err != nil {
				return err
			}
			if moving, err = p.within(movingTime); err != nil {
				return err
			}
		}
	}
	if p.changed() {
		p.carriers[0].noteYoungs()
	}
	if moving == 0 { // unless a predecessor was killed it is so
		if err := p.setByHash(0); err != nil {
			return err
		}
	}
	return p.setMoving(moving)
}

// within is the second until which something may last; it is never 0.
func (p *Plane) within(seconds uint32) (uint32, error) {
	now, err := p.seconds()
	return max((now+seconds)&deadlineMask, 1), err
}

// setByHash has both programs choose by the hash until then; 0: no more.
func (p *Plane) setByHash(until uint32) error {
	if len(p.carriers) > 0 {
		if err := p.carriers[0].setByHash(until); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.parameters
	now.ByHash = until
	return p.setParameters(now)
}

// setByHash tells the old program, if its settings are not ours.
func (c *carrier) setByHash(until uint32) error {
	m := c.old.maps[bpfMapSettings]
	if m == nil || !c.old.anew(bpfMapSettings) {
		return nil
	}
	of, _ := btf.UnderlyingType(c.old.types[bpfMapSettings].value).(*btf.Struct)
	if of == nil {
		return nil
	}
	i := slices.IndexFunc(of.Members, func(m btf.Member) bool { return m.Name == "by_hash" })
	if i < 0 {
		return nil // it knows nothing of that
	}
	raw := make([]byte, m.ValueSize())
	if err := m.Lookup(uint32(0), &raw); err != nil {
		return fmt.Errorf("reading the old program's settings: %w", err)
	}
	binary.NativeEndian.PutUint32(raw[of.Members[i].Offset.Bytes():], until)
	if err := m.Put(uint32(0), raw); err != nil {
		return fmt.Errorf("writing the old program's settings: %w", err)
	}
	return nil
}

func (p *Plane) setMoving(until uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.parameters
	now.Moving = until
	return p.setParameters(now)
}

// endMove is what is left to do when the links have the new program: the new
// maps' pins become the instance's, what the old program did last is carried
// over, and the old maps go.
func (p *Plane) endMove() error {
	if !p.carries() {
		p.closeCarriers()
		return nil
	}
	last := superseded(p.pins.path, p.instance)
	if p.changed() {
		if err := errors.Join(removePins(last), os.Rename(p.dir, last)); err != nil {
			return fmt.Errorf("putting the old maps aside: %w", err)
		}
		p.step("old maps aside", last)
		if err := os.Rename(p.home(), p.dir); err != nil {
			return fmt.Errorf("pinning: %w", err)
		}
		p.step("new maps in place", p.dir)
	}
	p.carriers[0].switched = true
	// Once for what came before the switch; once more for what packets that were
	// under way at that moment did.
	for range 2 {
		if _, err := p.pass(true); err != nil {
			return err
		}
		if err := p.setMoving(0); err != nil {
			return err
		}
		p.step("last pass", p.dir)
		settleCPUs()
	}
	if err := p.setByHash(0); err != nil {
		return err
	}
	for _, c := range p.carriers {
		if c.lost > 0 {
			p.log.Warn("the new tables had no room for some connections, which go by the hash from now on", "connections", c.lost)
		}
		if c.main && p.changed() {
			if err := c.addCounts(); err != nil {
				return err
			}
		}
	}
	p.step("counters", p.dir)
	err := removePins(last)
	p.step("old maps removed", last)
	return errors.Join(err, p.closeCarriers())
}

// settleCPUs returns when no CPU runs a program any more that had begun before.
func settleCPUs() {
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); errno != 0 {
		time.Sleep(grace)
	}
}

// abandonCarriers takes back what was prepared, if no link has the new program.
func (p *Plane) abandonCarriers() error {
	if len(p.carriers) == 0 {
		return nil
	}
	defer p.closeCarriers()
	if !p.changed() || !exists(p.home()) || !exists(p.dir) {
		return nil
	}
	if program, err := switched(p.dir, p.home()); program != nil || err != nil {
		return err // the next start finishes it
	}
	return errors.Join(p.carriers[0].setByHash(0), removePins(p.home()))
}

func (p *Plane) closeCarriers() error {
	var errs []error
	for _, c := range p.carriers {
		errs = append(errs, c.old.Close())
		if c.main && c.programs != nil && c.programs.Carry != nil {
			errs = append(errs, c.programs.Carry.Close(), c.programs.CarryCounters.Close())
		}
	}
	p.carriers = nil
	return errors.Join(errs...)
}

// copyMap fills a map that was made anew.
func (c *carrier) copyMap(name string, spec *ebpf.MapSpec) error {
	from, to := c.old.maps[name], c.p.mapsByName()[name]
	switch {
	case from == nil && name != bpfMapGroups, isTable(name), slices.Contains(forgotten(), name):
		return nil
	case name == bpfMapVerdicts:
		return c.copyVerdicts()
	case name == bpfMapHashSlots: // one behind the other, whatever an element is
		return eachChunk(from, 1, func(first, n int, raw []byte) error {
			at := first * int(from.ValueSize())
			ours := bytesOf(c.p.hashSlots)
			if at+len(raw) > len(ours) && !zeros(raw) {
				return fmt.Errorf("element %d of it has no place any more", first)
			}
			copy(ours[min(at, len(ours)):], raw)
			return nil
		})
	case name == bpfMapGroups:
		newGroups(c.p.groups)
		return nil
	}
	types, known := c.old.types[name]
	if !known {
		return errors.New("what is in it has another name")
	}
	if name == bpfMapServerCounters {
		return c.copyCounters()
	}
	value, err := newConverter(spec.Value, types.value)
	if err != nil {
		return err
	}
	if err := c.copyElements(name, spec, from, to, value); err != nil {
		return err
	}
	if name == bpfMapLoads {
		return c.emptyLoads()
	}
	return nil
}

func (c *carrier) copyElements(name string, spec *ebpf.MapSpec, from, to *ebpf.Map, value converter) error {
	if spec.Type == ebpf.Hash || spec.Type == ebpf.LPMTrie {
		key, err := newConverter(spec.Key, c.old.types[name].key)
		if err != nil {
			return err
		}
		return copyHash(from, to, key, value)
	}
	return eachChunk(from, 1, func(first, n int, raw []byte) error {
		if zeros(raw) {
			return nil
		}
		if first+n > int(to.MaxEntries()) {
			return fmt.Errorf("element %d of it has no place any more", to.MaxEntries())
		}
		keys := make([]uint32, n)
		values, out := rawSlice(n, value.size)
		size := len(raw) / n
		for i := range n {
			v, err := value.convert(raw[i*size:][:size])
			if err != nil {
				return fmt.Errorf("element %d: %w", first+i, err)
			}
			copy(out[i*value.size:], v)
		}
		for i := range keys {
			keys[i] = uint32(first + i)
		}
		_, err := to.BatchUpdate(keys, values, nil)
		return err
	})
}

// rawSlice makes a slice of n arrays of bytes, and a view on their bytes.
func rawSlice(n, size int) (any, []byte) {
	of := reflect.SliceOf(reflect.ArrayOf(size, reflect.TypeFor[byte]()))
	v := reflect.MakeSlice(of, n, n)
	return v.Interface(), unsafe.Slice((*byte)(v.UnsafePointer()), n*size)
}

// eachChunk reads an array map, many elements at a time.
func eachChunk(m *ebpf.Map, cpus int, f func(first, n int, raw []byte) error) error {
	var cursor ebpf.MapBatchCursor
	for first := 0; first < int(m.MaxEntries()); {
		n := min(rawChunk, int(m.MaxEntries())-first)
		keys := make([]uint32, n)
		values, raw := rawSlice(n*cpus, int(m.ValueSize()))
		got, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("reading it: %w", err)
		}
		if got == 0 {
			return nil
		}
		if err := f(first, got, raw[:got*cpus*int(m.ValueSize())]); err != nil {
			return err
		}
		first += got
	}
	return nil
}

func copyHash(from, to *ebpf.Map, key, value converter) error {
	k, v := make([]byte, from.KeySize()), make([]byte, from.ValueSize())
	each := from.Iterate()
	for each.Next(&k, &v) {
		newKey, err := key.convert(k)
		if err != nil {
			return err
		}
		newValue, err := value.convert(v)
		if err != nil {
			return err
		}
		if err := to.Put(newKey, newValue); err != nil {
			return err
		}
	}
	return each.Err()
}

// emptyLoads leaves the flags, and the groups among them: the numbers come with
// the connections.
func (c *carrier) emptyLoads() error {
	if !c.old.anew(bpfMapConnections) {
		return nil
	}
	for id, l := range c.p.loads {
		c.p.loads[id] = bpfLoad{Flags: l.Flags}
	}
	return nil
}

// overloads marks the servers that are overloaded once more: while connections
// come in, it may look as if they were below the lower threshold.
func (c *carrier) overloads() error {
	if c.tables == nil {
		return nil
	}
	value, err := newConverterOf(c, bpfMapLoads)
	if err != nil {
		return err
	}
	return eachChunk(c.old.maps[bpfMapLoads], 1, func(first, n int, raw []byte) error {
		size := len(raw) / n
		for i := range n {
			if zeros(raw[i*size:][:size]) {
				continue
			}
			b, err := value.convert(raw[i*size:][:size])
			if err != nil {
				return err
			}
			was := *(*bpfLoad)(unsafe.Pointer(&b[0]))
			now := &c.p.loads[first+i]
			const own = 1<<bpfLoadFlagsLOAD_GROUP_SHIFT - 1 // the groups are set already
			now.Flags = now.Flags&^own | was.Flags&own
		}
		return nil
	})
}

func newConverterOf(c *carrier, name string) (converter, error) {
	spec, err := loadBpf()
	if err != nil {
		return converter{}, err
	}
	return newConverter(spec.Maps[name].Value, c.old.types[name].value)
}

// copyCounters copies what each server was counted for, as if by one CPU. What is
// counted from then on is the difference to this.
func (c *carrier) copyCounters() (err error) {
	if c.counted, err = c.oldCounters(); err != nil {
		return err
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	for id, n := range c.counted {
		if n == (bpfCounters{}) {
			continue
		}
		perCPU := make([]bpfCounters, cpus)
		perCPU[0] = n
		if err := c.p.maps.ServerCounters.Put(uint32(id), perCPU); err != nil {
			return err
		}
	}
	return nil
}

// oldCounters are the sums of what the old program has counted for each server.
func (c *carrier) oldCounters() ([]bpfCounters, error) {
	m := c.old.maps[bpfMapServerCounters]
	value, err := newConverterOf(c, bpfMapServerCounters)
	if err != nil {
		return nil, err
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	out := make([]bpfCounters, m.MaxEntries())
	return out, eachChunk(m, cpus, func(first, n int, raw []byte) error {
		if zeros(raw) {
			return nil
		}
		size := len(raw) / (n * cpus)
		for i := range n * cpus {
			b, err := value.convert(raw[i*size:][:size])
			if err != nil {
				return err
			}
			at := &out[first+i/cpus]
			*at = bpfCountersOf(addCounters(countersOf(*at), countersOf(*(*bpfCounters)(unsafe.Pointer(&b[0])))))
		}
		return nil
	})
}

// copyVerdicts goes by their names.
func (c *carrier) copyVerdicts() error {
	c.verdicts = map[string]uint64{}
	for name, number := range c.old.enums["verdict"] {
		ours, ok := c.old.ours["verdict"][name]
		if !ok || number >= uint64(c.old.maps[bpfMapVerdicts].MaxEntries()) {
			continue
		}
		var perCPU []uint64
		if err := c.old.maps[bpfMapVerdicts].Lookup(uint32(number), &perCPU); err != nil {
			return err
		}
		if err := c.p.maps.Verdicts.Put(uint32(ours), perCPU); err != nil {
			return err
		}
		for _, n := range perCPU {
			c.verdicts[name] += n
		}
	}
	return nil
}

// addCounts adds what the old program counted after its counters were copied.
func (c *carrier) addCounts() error {
	if c.counted != nil {
		now, err := c.oldCounters()
		if err != nil {
			return err
		}
		for id, n := range now {
			more := subCounters(countersOf(n), countersOf(c.counted[id]))
			if more == (lvs.Counters{}) {
				continue
			}
			u := &bpfCountersUpdate{Id: uint32(id), Counters: bpfCountersOf(more)}
			if ret, err := c.programs.CarryCounters.Run(&ebpf.RunOptions{Context: u}); err != nil || ret != 0 {
				return fmt.Errorf("carrying over a real server's counters (code %d): %w", ret, err)
			}
		}
	}
	if err := c.addYoungs(); err != nil {
		return err
	}
	for name, was := range c.verdicts {
		now, err := sumVerdict(c.old.maps[bpfMapVerdicts], uint32(c.old.enums["verdict"][name]))
		if err != nil {
			return err
		}
		for more := now - was; more > 0; {
			u := &bpfVerdictCount{Verdict: uint32(c.old.ours["verdict"][name]), Packets: uint32(min(more, packetsAtATime))}
			if _, err := c.p.programs.CountVerdict.Run(&ebpf.RunOptions{Context: u}); err != nil {
				return fmt.Errorf("carrying over the counter of %s: %w", name, err)
			}
			more -= uint64(u.Packets)
		}
	}
	return nil
}
