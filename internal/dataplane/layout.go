// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Maps of another version of shunt have their structures in another order or
// size. BTF says how theirs are, and what is below puts a value of theirs into
// the form of ours, member by member, by name.

// sameType tells whether two types are alike in memory and in names.
func sameType(a, b btf.Type) bool {
	a, b = btf.UnderlyingType(a), btf.UnderlyingType(b)
	switch a := a.(type) {
	case *btf.Int:
		b, ok := b.(*btf.Int)
		return ok && a.Size == b.Size && a.Encoding == b.Encoding
	case *btf.Array:
		b, ok := b.(*btf.Array)
		return ok && a.Nelems == b.Nelems && sameType(a.Type, b.Type)
	case *btf.Enum:
		b, ok := b.(*btf.Enum)
		return ok && a.Size == b.Size && a.Signed == b.Signed
	case *btf.Struct:
		b, ok := b.(*btf.Struct)
		return ok && a.Size == b.Size && slices.EqualFunc(a.Members, b.Members, func(x, y btf.Member) bool {
			return x.Name == y.Name && x.Offset == y.Offset && x.BitfieldSize == y.BitfieldSize && sameType(x.Type, y.Type)
		})
	}
	return false
}

// move takes an integer, or bytes that are alike in both, to its new place.
type move struct {
	name              string
	from, to          int // offsets
	size, width       int // of theirs and of ours; alike for bytes
	signed            bool
	beyond, oversized bool // it has no place in ours, and must be 0
}

// converter makes values of one type into those of another.
type converter struct {
	moves []move
	size  int // of the result
}

// newConverter compares two types. What theirs has and ours has not is left out.
func newConverter(ours, theirs btf.Type) (converter, error) {
	size, err := btf.Sizeof(ours)
	if err != nil {
		return converter{}, err
	}
	c := converter{size: size}
	return c, c.add("value", ours, theirs, 0, 0)
}

func (c *converter) add(name string, ours, theirs btf.Type, to, from int) error {
	ours, theirs = btf.UnderlyingType(ours), btf.UnderlyingType(theirs)
	size, err := btf.Sizeof(theirs)
	if err != nil {
		return err
	}
	if sameType(ours, theirs) {
		c.moves = append(c.moves, move{name: name, from: from, to: to, size: size, width: size})
		return nil
	}
	switch o := ours.(type) {
	case *btf.Struct:
		t, ok := theirs.(*btf.Struct)
		if !ok {
			break
		}
		for _, m := range o.Members {
			i := slices.IndexFunc(t.Members, func(x btf.Member) bool { return x.Name == m.Name })
			if i < 0 {
				continue
			}
			if m.BitfieldSize != 0 || t.Members[i].BitfieldSize != 0 {
				return fmt.Errorf("%s.%s is a bit field", name, m.Name)
			}
			if err := c.add(name+"."+m.Name, m.Type, t.Members[i].Type, to+int(m.Offset.Bytes()), from+int(t.Members[i].Offset.Bytes())); err != nil {
				return err
			}
		}
		return nil
	case *btf.Array:
		t, ok := theirs.(*btf.Array)
		if !ok {
			break
		}
		width, err := btf.Sizeof(o.Type)
		if err != nil {
			return err
		}
		size, err := btf.Sizeof(t.Type)
		if err != nil {
			return err
		}
		for i := range int(t.Nelems) {
			at := fmt.Sprintf("%s[%d]", name, i)
			if i >= int(o.Nelems) {
				c.moves = append(c.moves, move{name: at, from: from + i*size, size: size, beyond: true})
				continue
			}
			if err := c.add(at, o.Type, t.Type, to+i*width, from+i*size); err != nil {
				return err
			}
		}
		return nil
	}
	width, signed, ok := integer(ours)
	_, signedToo, alike := integer(theirs)
	if !ok || !alike || signed != signedToo {
		return fmt.Errorf("%s was %v and is %v", name, theirs, ours)
	}
	c.moves = append(c.moves, move{name: name, from: from, to: to, size: size, width: width, signed: signed, oversized: true})
	return nil
}

func integer(t btf.Type) (size int, signed, ok bool) {
	switch t := t.(type) {
	case *btf.Int:
		return int(t.Size), t.Encoding == btf.Signed, t.Size <= 8
	case *btf.Enum:
		return int(t.Size), false, true
	}
	return 0, false, false
}

// convert makes one value. An error names the member that does not fit.
func (c converter) convert(theirs []byte) ([]byte, error) {
	out := make([]byte, c.size)
	for _, m := range c.moves {
		part := theirs[m.from:][:m.size]
		switch {
		case m.beyond:
			if !zeros(part) {
				return nil, fmt.Errorf("%s has no place any more", m.name)
			}
		case !m.oversized:
			copy(out[m.to:], part)
		default:
			n := readInteger(part, m.signed)
			if !fits(n, m.width, m.signed) {
				return nil, fmt.Errorf("%s is %d, for which there is no room any more", m.name, n)
			}
			var b [8]byte
			binary.LittleEndian.PutUint64(b[:], n)
			copy(out[m.to:], b[:m.width])
		}
	}
	return out, nil
}

func readInteger(b []byte, signed bool) uint64 {
	var whole [8]byte
	copy(whole[:], b)
	n := binary.LittleEndian.Uint64(whole[:])
	if unused := 64 - 8*len(b); signed {
		return uint64(int64(n<<unused) >> unused)
	}
	return n
}

func fits(n uint64, width int, signed bool) bool {
	unused := 64 - 8*width
	if signed {
		return uint64(int64(n<<unused)>>unused) == n
	}
	return n<<unused>>unused == n
}

func zeros(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// enumerators are the numbers of the enums that the map layouts tells, by name.
type enumerators map[string]uint64

func enumeratorsOf(layouts btf.Type) (map[string]enumerators, error) {
	s, ok := layouts.(*btf.Struct)
	if !ok {
		return nil, fmt.Errorf("the map %s is of %v", bpfMapLayouts, layouts)
	}
	out := map[string]enumerators{}
	for _, m := range s.Members {
		e, ok := btf.UnderlyingType(m.Type).(*btf.Enum)
		if !ok {
			return nil, fmt.Errorf("%s in the map %s is %v", m.Name, bpfMapLayouts, m.Type)
		}
		out[m.Name] = enumerators{}
		for _, v := range e.Values {
			out[m.Name][v.Name] = v.Value
		}
	}
	return out, nil
}

// structType finds what a pinned map's keys or values are: a type of the name
// that ours has, or the integer that ours is.
func structType(m *ebpf.Map, ours btf.Type, size uint32) (btf.Type, error) {
	s, ok := btf.UnderlyingType(ours).(*btf.Struct)
	if !ok {
		return &btf.Int{Name: "integer", Size: size}, nil
	}
	h, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("it has no BTF: %w", err)
	}
	defer h.Close()
	spec, err := h.Spec(nil)
	if err != nil {
		return nil, fmt.Errorf("its BTF: %w", err)
	}
	all, err := spec.AnyTypesByName(s.Name)
	if err != nil {
		return nil, fmt.Errorf("its BTF has no struct %s: %w", s.Name, err)
	}
	for _, t := range all {
		if t, ok := t.(*btf.Struct); ok {
			return t, nil
		}
	}
	return nil, fmt.Errorf("its BTF has no struct %s", s.Name)
}
