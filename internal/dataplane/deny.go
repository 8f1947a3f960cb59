// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// denyList is a version of a service's deny list, as the map denied has it. Like
// all that packets read it is never changed, but written anew beside what is in
// use, under another number.
type denyList struct {
	id       uint32 // 0: none
	prefixes []netip.Prefix
}

const deniedBits = 8 * uint32(unsafe.Sizeof(bpfDeniedKey{}.List)+unsafe.Sizeof(bpfDeniedKey{}.Client))

// keys are the list's elements in the map.
func (l denyList) keys() []bpfDeniedKey {
	keys := make([]bpfDeniedKey, len(l.prefixes))
	for i, p := range l.prefixes {
		var b [16]byte
		copy(b[16-p.Addr().BitLen()/8:], p.Addr().AsSlice())
		keys[i] = bpfDeniedKey{
			Prefix: deniedBits - uint32(p.Addr().BitLen()-p.Bits()),
			List:   l.id,
			Client: [2]uint64{binary.NativeEndian.Uint64(b[:8]), binary.NativeEndian.Uint64(b[8:])},
		}
	}
	return keys
}

// prefixOf is the prefix that a key of a service's list stands for.
func prefixOf(k bpfDeniedKey, six bool) netip.Prefix {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:8], k.Client[0])
	binary.NativeEndian.PutUint64(b[8:], k.Client[1])
	addr := netip.AddrFrom16(b)
	if !six {
		addr = netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.PrefixFrom(addr, addr.BitLen()-int(deniedBits-k.Prefix))
}

// denyList gives a service's list: that of the version before, or a new one.
func (tx *transaction) denyList(old *installed, s *lvs.VirtualService) (uint32, error) {
	p := tx.p
	if len(s.Deny) == 0 {
		return 0, nil
	}
	if old != nil && slices.Equal(old.service.Deny, s.Deny) {
		return old.denied, nil
	}
	id, ok := p.denyLists.take()
	if !ok {
		return 0, fmt.Errorf("%w: no room for another deny list", ErrFull)
	}
	l := denyList{id, s.Deny}
	tx.freshLists = append(tx.freshLists, l)
	if _, err := p.maps.Denied.BatchUpdate(l.keys(), make([]bpfDenial, len(l.prefixes)), nil); err != nil {
		return 0, fmt.Errorf("writing a deny list of %d prefixes: %w", len(l.prefixes), err)
	}
	return id, nil
}

// forgetList removes a list that no packet can look at any more. Not all of it
// may be there.
func (p *Plane) forgetList(l denyList) error {
	for _, k := range l.keys() {
		if err := p.maps.Denied.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("removing a deny list: %w", err)
		}
	}
	p.denyLists.give(l.id)
	return nil
}

// replacedLists are those that the versions of before had, and nobody has now.
func (tx *transaction) replacedLists() (all []denyList) {
	add := func(old *installed, id uint32) {
		if old != nil && old.denied != 0 && old.denied != id {
			all = append(all, denyList{old.denied, old.service.Deny})
		}
	}
	for _, c := range tx.prepared {
		add(c.old, c.new.denied)
	}
	for _, old := range tx.removed {
		add(old, 0)
	}
	return all
}

// recoverDenyLists reads the lists of the services that were found, and removes
// what a predecessor was killed over.
func (p *Plane) recoverDenyLists() error {
	of := map[uint32]*lvs.VirtualService{}
	used := map[uint32]bool{0: true}
	for _, i := range p.installed {
		if i.denied != 0 {
			of[i.denied], used[i.denied] = i.service, true
		}
	}
	var (
		k      bpfDeniedKey
		unused bpfDenial
		left   []bpfDeniedKey
	)
	each := p.maps.Denied.Iterate()
	for each.Next(&k, &unused) {
		s := of[k.List]
		if s == nil {
			left = append(left, k)
			continue
		}
		s.Deny = append(s.Deny, prefixOf(k, s.Is6()))
	}
	if err := each.Err(); err != nil {
		return fmt.Errorf("reading the deny lists: %w", err)
	}
	for _, s := range of {
		slices.SortFunc(s.Deny, netip.Prefix.Compare)
	}
	for _, k := range left {
		if err := p.maps.Denied.Delete(k); err != nil {
			return fmt.Errorf("removing what is left of a deny list: %w", err)
		}
	}
	p.denyLists = newIDPool(maxSlots, used)
	return nil
}

// checkDenied counts the prefixes of all lists.
func checkDenied(t *lvs.Table) error {
	all := 0
	for _, s := range t.Services {
		all += len(s.Deny)
	}
	if all > maxDenied {
		return fmt.Errorf("%d prefixes on deny lists: %w: it has room for %d", all, ErrFull, maxDenied)
	}
	return nil
}
