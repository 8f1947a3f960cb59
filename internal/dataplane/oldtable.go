// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// oldTable is a predecessor's table of connections.
type oldTable struct {
	name   string
	kind   bpfKind
	m      *ebpf.Map
	size   int // of an entry, in bytes
	count  int // of entries
	at     offsets
	seen   []byte // what the last pass has carried over, as it was then
	genBit uint   // where a template's generation begins
}

// offsets are where an entry's members are, in bytes.
type offsets struct{ key, client, ports, template, word int }

// oldEntry is an entry as the old table has it, its word too.
type oldEntry struct {
	client   [2]uint64
	ports    uint32
	template uint32
	word     uint64
}

func (o *predecessor) table(name string) (*oldTable, error) {
	fail := func(why string) (*oldTable, error) { return nil, layoutError("map "+name, errors.New(why)) }
	m := o.maps[name]
	bucket, ok := o.types[name].value.(*btf.Struct)
	if !ok || len(bucket.Members) != 1 || bucket.Members[0].Name != "way" {
		return fail("its buckets are of another kind")
	}
	way, ok := btf.UnderlyingType(bucket.Members[0].Type).(*btf.Array)
	if !ok {
		return fail("its buckets are of another kind")
	}
	s, ok := btf.UnderlyingType(way.Type).(*btf.Struct)
	if !ok || way.Nelems*s.Size != bucket.Size {
		return fail("its entries are of another kind")
	}
	t := &oldTable{name: name, m: m, size: int(s.Size), count: int(m.MaxEntries() * way.Nelems),
		genBit: uint(o.enums["layout"]["TEMPLATE_BITS"])}
	want := map[string]int{"client": 16, "ports": 4, "template": 4, "word": 8}
	switch name {
	case bpfMapConnections:
		t.kind, want = bpfKindNARROW, map[string]int{"key": 8, "word": 8}
	case bpfMapWideConnections:
		t.kind = bpfKindWIDE
	default:
		t.kind = bpfKindTEMPLATE
	}
	at := map[string]int{}
	for _, member := range s.Members {
		size, err := btf.Sizeof(member.Type)
		if err == nil && want[member.Name] == size {
			at[member.Name] = int(member.Offset.Bytes())
		}
	}
	for member := range want {
		if _, ok := at[member]; !ok {
			return fail(fmt.Sprintf("its entries have no %s, or one of another size", member))
		}
	}
	t.at = offsets{at["key"], at["client"], at["ports"], at["template"], at["word"]}
	return t, nil
}

// live counts the entries.
func (t *oldTable) live() (n int, err error) {
	memory, err := t.m.Memory()
	if err != nil {
		return 0, fmt.Errorf("mapping the old table of %s: %w", t.name, err)
	}
	chunk := make([]byte, 64<<10/t.size*t.size)
	for at := 0; at < t.count*t.size; at += len(chunk) {
		now := chunk[:min(len(chunk), t.count*t.size-at)]
		if _, err := memory.ReadAt(now, int64(at)); err != nil {
			return 0, fmt.Errorf("reading the old table of %s: %w", t.name, err)
		}
		for ; len(now) > 0; now = now[t.size:] {
			if t.entry(now).word != 0 {
				n++
			}
		}
	}
	return n, nil
}

func (t *oldTable) entry(b []byte) (e oldEntry) {
	e.word = binary.NativeEndian.Uint64(b[t.at.word:])
	if e.word == 0 {
		return oldEntry{}
	}
	if t.kind == bpfKindNARROW {
		key := binary.NativeEndian.Uint64(b[t.at.key:])
		e.client[1], e.ports = key<<32, uint32(key>>32)
		return e
	}
	client := b[t.at.client:]
	e.client = [2]uint64{binary.NativeEndian.Uint64(client), binary.NativeEndian.Uint64(client[8:])}
	e.ports = binary.NativeEndian.Uint32(b[t.at.ports:])
	e.template = binary.NativeEndian.Uint32(b[t.at.template:])
	if t.kind == bpfKindTEMPLATE {
		e.template &^= 1<<t.genBit - 1 // how many connections it has is counted anew
	}
	return e
}

// Deadlines move on with packets, of busy connections once a second. One that is
// far away need not be carried over each time: then a connection ends so much too
// early, unless another packet comes.
const (
	deadlineLag  = 10 // seconds, less than that
	deadlineNear = 60 // seconds: always
)

// later tells whether an entry is as it was, but for a deadline that matters little.
func (t *oldTable) later(was, is []byte, deadline field, now uint64) bool {
	a, b := binary.NativeEndian.Uint64(was[t.at.word:]), binary.NativeEndian.Uint64(is[t.at.word:])
	mask := uint64(1)<<deadline.bits - 1
	if a == 0 || (a^b)&^mask != 0 || (b-a)&mask >= deadlineLag {
		return false
	}
	if left := (a - now) & mask; left < deadlineNear || left > maxTimeout {
		return false
	}
	at := t.at.word
	return bytes.Equal(was[:at], is[:at]) && bytes.Equal(was[at+8:], is[at+8:])
}
