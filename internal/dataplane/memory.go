// SPDX-License-Identifier: MIT

package dataplane

import (
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// arrays are the array maps of which the daemon writes much, as memory: what is
// written there the program sees, without a system call an element. They stay
// mapped as long as anybody has them, also after Close.
type arrays struct {
	services     []bpfService
	members      []bpfMember
	groups       []bpfGroup
	hashSlots    []uint32 // by twos in the map's elements
	turns        []uint64
	servers      []bpfServer
	loads        []bpfLoad
	limits       []bpfLimit
	seeds        []bpfSeed
	youngs       []bpfYoung
	serverBases  []bpfServerBase
	serviceBases []bpfServiceBase
}

func mapArrays(m *bpfMaps) (*arrays, error) {
	a := &arrays{}
	var mapped [][]byte
	var err error
	for _, f := range []func() ([]byte, error){
		func() ([]byte, error) { return mapArray(m.Services, &a.services) },
		func() ([]byte, error) { return mapArray(m.Members, &a.members) },
		func() ([]byte, error) { return mapArray(m.Groups, &a.groups) },
		func() ([]byte, error) {
			var twos []bpfHashPair
			b, err := mapArray(m.HashSlots, &twos)
			a.hashSlots = unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(twos))), 2*len(twos))
			return b, err
		},
		func() ([]byte, error) { return mapArray(m.Turns, &a.turns) },
		func() ([]byte, error) { return mapArray(m.Servers, &a.servers) },
		func() ([]byte, error) { return mapArray(m.Loads, &a.loads) },
		func() ([]byte, error) { return mapArray(m.Limits, &a.limits) },
		func() ([]byte, error) { return mapArray(m.Seeds, &a.seeds) },
		func() ([]byte, error) { return mapArray(m.Youngs, &a.youngs) },
		func() ([]byte, error) { return mapArray(m.ServerBases, &a.serverBases) },
		func() ([]byte, error) { return mapArray(m.ServiceBases, &a.serviceBases) },
	} {
		var b []byte
		if b, err = f(); err != nil {
			break
		}
		mapped = append(mapped, b)
	}
	runtime.AddCleanup(a, func(all [][]byte) {
		for _, b := range all {
			unix.Munmap(b)
		}
	}, mapped)
	return a, err
}

// mapArray maps a whole array, whose elements are of that type.
func mapArray[V any](m *ebpf.Map, to *[]V) ([]byte, error) {
	const unit = 8 // of which the kernel makes elements multiples
	size := int(m.ValueSize()+unit-1) / unit * unit
	if size != int(unsafe.Sizeof((*to)[0])) {
		return nil, fmt.Errorf("map %v: its elements have %d bytes, not %d", m, size, unsafe.Sizeof((*to)[0]))
	}
	n := int(m.MaxEntries())
	page := os.Getpagesize()
	b, err := unix.Mmap(m.FD(), 0, (n*size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping map %v: %w", m, err)
	}
	*to = unsafe.Slice((*V)(unsafe.Pointer(unsafe.SliceData(b))), n)
	return b, nil
}

// at are the elements of a span.
func at[V any](all []V, s span) []V { return all[s.first:s.end()] }

// loadOf reads how busy a server is, of which packets change each half at any time.
func (a *arrays) loadOf(id uint32) bpfLoad {
	l := &a.loads[id]
	return bpfLoad{
		Connections: atomic.LoadUint64(&l.Connections),
		Templates:   atomic.LoadUint32(&l.Templates),
		Flags:       atomic.LoadUint32(&l.Flags),
	}
}

// setServer writes a server's record so that a packet sees a MAC address whole or
// not yet: the word with MAC and flags is one store, and it comes last.
func (a *arrays) setServer(id uint32, r *bpfServer) {
	s := &a.servers[id]
	atomic.StoreUint64(word8(&s.Source), *word8(&r.Source))
	s.Interface, s.Service, s.LastWeight, s.Mtu = r.Interface, r.Service, r.LastWeight, r.Mtu
	atomic.StoreUint64(word8(&s.Mac), *word8(&r.Mac))
}

// word8 are a MAC address and the two bytes behind it.
func word8(mac *[6]uint8) *uint64 { return (*uint64)(unsafe.Pointer(mac)) }
