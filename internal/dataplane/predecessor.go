// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// ErrLayout: the pinned maps are those of a shunt that laid them out so that
// this one cannot make its own of them.
var ErrLayout = errors.New("the running data plane was made by another version of shunt")

// layoutError says what to do.
func layoutError(what string, err error) error {
	return fmt.Errorf("%s: %w: %w: stop the director with the version that runs and start it again (its connections end)", what, ErrLayout, err)
}

// predecessor is what pinned maps hold, and how.
type predecessor struct {
	dir   string
	maps  map[string]*ebpf.Map
	types map[string]mapTypes // of those whose keys or values are structures of the same name
	enums map[string]enumerators
	ours  map[string]enumerators
	kept  map[string]*ebpf.Map // those that can be used as they are
}

type mapTypes struct{ key, value btf.Type }

// connectionGroup are maps that speak of each other: if one is laid out anew, all
// are. Their contents are not copied but entered again.
func connectionGroup() []string {
	return []string{bpfMapConnections, bpfMapWideConnections, bpfMapTemplates, bpfMapSpills, bpfMapWideSpills,
		bpfMapLoads, bpfMapGroups, bpfMapLocks, bpfMapSweeper}
}

// forgotten are maps that begin empty when they are made anew: hints, and what is
// of one moment only.
func forgotten() []string {
	return []string{bpfMapAllowances, bpfMapArrivals, bpfMapDestinations, bpfMapFragments, bpfMapLocality,
		bpfMapLocks, bpfMapScratch, bpfMapSources, bpfMapSweeper, bpfMapLayouts}
}

// openPredecessor opens the maps pinned in a directory and compares them with
// what the specification wants. The tables of connections keep their size, unless
// they are to be resized to what the specification says.
func openPredecessor(dir string, spec *ebpf.CollectionSpec, resize bool) (_ *predecessor, err error) {
	o := &predecessor{dir: dir, maps: map[string]*ebpf.Map{}, types: map[string]mapTypes{}, kept: map[string]*ebpf.Map{}}
	defer func() {
		if err != nil {
			o.Close()
		}
	}()
	changed := map[string]error{}
	for name, s := range shared(spec) {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			changed[name] = errors.New("it is new")
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("opening the pinned map %s: %w", name, err)
		}
		o.maps[name] = m
		if isTable(name) && !resize {
			s.MaxEntries = m.MaxEntries()
		}
		changed[name] = o.compare(name, s, m)
	}
	if o.maps[bpfMapLayouts] == nil || o.types[bpfMapLayouts].value == nil {
		return nil, layoutError("map "+bpfMapLayouts, errors.New("it is missing"))
	}
	if o.enums, err = enumeratorsOf(o.types[bpfMapLayouts].value); err != nil {
		return nil, layoutError("map "+bpfMapLayouts, err)
	}
	if o.ours, err = enumeratorsOf(spec.Maps[bpfMapLayouts].Value); err != nil {
		return nil, err
	}
	o.spread(changed)
	for name, m := range o.maps {
		if changed[name] == nil {
			o.kept[name] = m
		}
	}
	if resize {
		sizeSpills(spec)
		return o, o.fit(spec)
	}
	return o, o.sizeTables(spec)
}

// compare says why a map cannot be used as it is; nil: it can.
func (o *predecessor) compare(name string, s *ebpf.MapSpec, m *ebpf.Map) error {
	err := s.Compatible(m)
	if s.Value == nil { // the ring
		return err
	}
	key, keyErr := structType(m, s.Key, m.KeySize())
	value, valueErr := structType(m, s.Value, m.ValueSize())
	if keyErr != nil || valueErr != nil {
		return errors.Join(keyErr, valueErr)
	}
	o.types[name] = mapTypes{key, value}
	if err != nil {
		return err
	}
	if !alike(s.Key, key) || !alike(s.Value, value) {
		return errors.New("its structures are others")
	}
	return nil
}

// alike is sameType, for which an integer's BTF need not be known.
func alike(ours, theirs btf.Type) bool {
	_, ok := btf.UnderlyingType(ours).(*btf.Struct)
	return !ok || sameType(ours, theirs)
}

func isTable(name string) bool {
	switch name {
	case bpfMapConnections, bpfMapWideConnections, bpfMapTemplates, bpfMapSpills, bpfMapWideSpills:
		return true
	}
	return false
}

// spread adds the maps that have to be made anew because others are, or because
// numbers mean something else.
func (o *predecessor) spread(changed map[string]error) {
	if !maps.Equal(o.enums["verdict"], o.ours["verdict"]) {
		changed[bpfMapVerdicts] = errors.New("its verdicts are others")
	}
	words := maps.Equal(o.enums["word"], o.ours["word"])
	if !words {
		changed[bpfMapFragments] = errors.New("its words are others")
	}
	group := !words || !maps.Equal(o.enums["layout"], o.ours["layout"])
	for _, name := range connectionGroup() {
		group = group || changed[name] != nil
	}
	for _, name := range connectionGroup() {
		if group {
			changed[name] = errors.New("the tables of connections are laid out otherwise")
		}
	}
	if group { // both programs count what ends, each of its own tables
		changed[bpfMapYoungs] = errors.New("the tables of connections are laid out otherwise")
	}
	if enumsChanged := !words || changed[bpfMapVerdicts] != nil || group; enumsChanged {
		changed[bpfMapLayouts] = errors.New("it tells other numbers")
	}
}

// sizeTables gives tables that are made anew room for as many as the old ones had.
func (o *predecessor) sizeTables(spec *ebpf.CollectionSpec) error {
	if o.kept[bpfMapConnections] != nil {
		return nil
	}
	for _, name := range []string{bpfMapConnections, bpfMapWideConnections, bpfMapTemplates} {
		if o.maps[name] == nil {
			return layoutError("map "+name, errors.New("it is missing"))
		}
		t, err := o.table(name)
		if err != nil {
			return err
		}
		spec.Maps[name].MaxEntries = max(buckets(uint32(t.count)), 1)
	}
	sizeSpills(spec)
	return nil
}

// ErrResize: there are more connections than the wanted tables have room for.
var ErrResize = errors.New("too small for the connections that are there")

// fit refuses smaller tables that would be more than a quarter full from the
// beginning: when they are half full some connections find no place.
func (o *predecessor) fit(spec *ebpf.CollectionSpec) error {
	if o.kept[bpfMapConnections] != nil {
		return nil
	}
	for _, name := range []string{bpfMapConnections, bpfMapWideConnections, bpfMapTemplates} {
		t, err := o.table(name)
		if err != nil {
			return err
		}
		places := int(spec.Maps[name].MaxEntries * ways)
		if places >= t.count {
			continue
		}
		there, err := t.live()
		if err != nil {
			return err
		}
		if most := places / 4; there > most {
			return fmt.Errorf("a table of %s with %d places, of which %d would be in use: %w: --connections has to be %d times what it is, at least;"+
				" or stop the director and start it again (its connections end)", name, places, there, ErrResize, (there+most-1)/most)
		}
	}
	return nil
}

// anew tells whether a map is made anew.
func (o *predecessor) anew(name string) bool { return o.kept[name] == nil }

// changed lists the maps that are.
func (o *predecessor) changed(spec *ebpf.CollectionSpec) (all []string) {
	for name := range shared(spec) {
		if o.anew(name) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// Close lets go of the maps.
func (o *predecessor) Close() error {
	var errs []error
	for _, m := range o.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
