// SPDX-License-Identifier: MIT

package link

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Journal is an undo log in a file. Each change is written down with what was
// found, and synced to disk, before it is made; Undo takes changes back in
// reverse order and writes that down too. Whenever the process dies, a later
// one that opens the file can restore exactly what was there at first.
//
// A Journal does not lock its file: hold a Lock from before OpenJournal until
// after Close. It is not safe for concurrent use.
type Journal struct {
	path   string
	place  Place
	log    *slog.Logger
	file   *os.File // nil until the first record
	active []Entry  // made (or about to be) and not undone, oldest first
	next   int
	// Void tells that the file was of an earlier boot. Nothing of what it
	// lists is left in the kernel, so it was discarded.
	Void bool
}

// OpenJournal reads the journal at path; no file is an empty journal. A journal
// of another boot is void and discarded. The error is ErrOtherNamespace if it
// belongs to another network namespace of this boot, and ErrJournal if it is
// damaged elsewhere than in a last line that was cut off.
//
// Each step (a record written, a change made, a change undone) is logged at
// level debug before the next one begins.
func OpenJournal(path string, log *slog.Logger) (*Journal, error) {
	here, err := Here()
	if err != nil {
		return nil, err
	}
	j := &Journal{path: path, place: here, log: log.With("journal", path), next: 1}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	content, err := parseJournal(data)
	if content.place != (Place{}) && content.place.Boot != here.Boot {
		j.Void = true
		j.log.Info("the journal is of an earlier boot: nothing to undo")
		return j, j.discard()
	}
	if err != nil {
		return nil, damaged(path, err)
	}
	if content.place == (Place{}) {
		return j, j.discard() // not even the first line was finished
	}
	if content.place.Cookie != here.Cookie {
		return nil, elsewhere(path, content.place, here)
	}
	j.active, j.next = content.active, content.next
	if j.file, err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := errors.Join(j.file.Truncate(content.size), seekEnd(j.file)); err != nil {
		j.file.Close()
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	return j, nil
}

// ReadJournal returns the entries in force of the journal at path, oldest
// first, and changes nothing; it needs no Lock. No file, or one of an earlier
// boot, has none. The errors are OpenJournal's.
func ReadJournal(path string) ([]Entry, error) {
	here, err := Here()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	c, err := parseJournal(data)
	switch {
	case c.place != (Place{}) && c.place.Boot != here.Boot:
		return nil, nil
	case err != nil:
		return nil, damaged(path, err)
	case c.place != (Place{}) && c.place.Cookie != here.Cookie:
		return nil, elsewhere(path, c.place, here)
	}
	return c.active, nil
}

// Close closes the file. A journal without entries leaves none behind.
func (j *Journal) Close() error {
	if len(j.active) == 0 {
		return j.discard()
	}
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}

// Entries returns the changes that are in force, oldest first.
func (j *Journal) Entries() []Entry { return slices.Clone(j.active) }

// AddAddress gives an interface an address. An address that is already there,
// and not by an entry of this journal, is adopted: it is not written down and
// Undo leaves it. Scope is RT_SCOPE_UNIVERSE (0) or RT_SCOPE_HOST (254); for
// IPv6 it means nothing.
//
// An IPv6 address comes deprecated: of two addresses on one interface the kernel
// would choose the one of the longer prefix, so a /128, as the source of the
// host's own connections. And it comes without duplicate address detection, so
// that it works at once: to ask first whether it is free is the caller's.
func (j *Journal) AddAddress(owner, iface string, p netip.Prefix, scope int) (adopted bool, err error) {
	i, err := InterfaceByName(iface)
	if err != nil {
		return false, err
	}
	e := Entry{Owner: owner, Kind: AddedAddress, Interface: i.Name, Index: i.Index, Prefix: p, Scope: scope, Deprecated: p.Addr().Is6()}
	known := j.find(e) != nil
	if slices.Contains(i.Addresses, p) {
		return !known, nil
	}
	return false, j.do(e, known)
}

// DeleteAddress takes an address from an interface; Undo brings it back with
// its scope and label. One that is not there is fine.
func (j *Journal) DeleteAddress(owner, iface string, p netip.Prefix) error {
	i, err := InterfaceByName(iface)
	if err != nil {
		return err
	}
	a, err := address(i.Index, p)
	if err != nil || a == nil {
		return err
	}
	e := Entry{Owner: owner, Kind: DeletedAddress, Interface: i.Name, Index: i.Index, Prefix: p, Scope: a.Scope, Label: a.Label,
		Deprecated: a.Flags&unix.IFA_F_DEPRECATED != 0}
	if b, ok := netip.AddrFromSlice(a.Broadcast); ok {
		e.Broadcast = b.Unmap()
	}
	return j.do(e, j.find(e) != nil)
}

// SetSysctl sets a key (see Sysctl). If it has the value already nothing is
// written down and changed is false. A key under an interface's name follows
// the interface when it is renamed and is forgotten when it goes.
func (j *Journal) SetSysctl(owner, key, value string) (changed bool, err error) {
	found, err := Sysctl(key)
	if err != nil || found == value {
		return false, err
	}
	e := Entry{Owner: owner, Kind: SetSysctl, Key: key, Found: found, Set: value}
	if name, ok := interfaceOfKey(key); ok {
		i, err := InterfaceByName(name)
		if err != nil {
			return false, err
		}
		e.Interface, e.Index = i.Name, i.Index
	}
	return true, j.do(e, j.find(e) != nil)
}

// CreateTable writes down that the caller is about to create an nftables table
// of its own and calls create. Undo deletes the table with all that is in it.
// With an entry for the table already there it only calls create.
func (j *Journal) CreateTable(owner string, family TableFamily, name string, create func() error) error {
	e := Entry{Owner: owner, Kind: CreatedTable, Family: family, Table: name}
	e.create = create
	return j.do(e, j.find(e) != nil)
}

// ManageNeighbour makes the kernel resolve an address at once and keep it
// resolved by itself (NTF_EXT_MANAGED). A permanent entry, or one that someone
// else has made managed, is left alone. Undo makes an entry that was there
// before unmanaged and removes one that was not.
func (j *Journal) ManageNeighbour(owner string, index int, addr netip.Addr) error {
	i, err := InterfaceByIndex(index)
	if err != nil {
		return err
	}
	e := Entry{Owner: owner, Kind: ManagedNeighbour, Interface: i.Name, Index: index, Addr: addr}
	n, err := NeighbourOf(index, addr)
	switch {
	case errors.Is(err, ErrNoNeighbour):
	case err != nil:
		return err
	case n.Managed || n.State&(NeighbourPermanent|NeighbourNoARP) != 0:
		return nil
	default:
		e.Existed = true
	}
	return j.do(e, j.find(e) != nil)
}

// Undo takes back, newest first, the entries for which match is true (nil: all)
// and restores what was found. It stops at the first one that fails, so that
// nothing is taken back that a later change still leans on; it can be called
// again. Things that are gone already, or that someone else has changed since,
// are left as they are.
func (j *Journal) Undo(match func(Entry) bool) error {
	for _, e := range slices.Backward(slices.Clone(j.active)) {
		if match != nil && !match(e) {
			continue
		}
		if err := e.undo(j.log); err != nil {
			return fmt.Errorf("undo %v: %w", e, err)
		}
		j.log.Debug("undone", "change", e.String())
		if err := j.forget(e); err != nil {
			return err
		}
	}
	return nil
}

// do writes an entry down, unless it is known, and makes the change.
func (j *Journal) do(e Entry, known bool) error {
	if !known {
		e.ID = j.next
		if err := j.append(record{Do: &e}); err != nil {
			return err
		}
		j.next++
		j.active = append(j.active, e)
		j.log.Debug("written down", "change", e.String())
	}
	if err := e.make(); err != nil {
		err = fmt.Errorf("%v: %w", e, err)
		if !known {
			err = errors.Join(err, j.forget(e))
		}
		return err
	}
	j.log.Debug("made", "change", e.String())
	return nil
}

func (j *Journal) forget(e Entry) error {
	if err := j.append(record{Undone: e.ID}); err != nil {
		return err
	}
	j.active = slices.DeleteFunc(j.active, func(o Entry) bool { return o.ID == e.ID })
	j.log.Debug("undo written down", "change", e.String())
	return nil
}

func (j *Journal) find(e Entry) *Entry {
	for i := range j.active {
		if j.active[i].same(e) {
			return &j.active[i]
		}
	}
	return nil
}

func damaged(path string, err error) error {
	return fmt.Errorf("journal %s: %w; it says what to restore, so look at it before you remove it", path, err)
}

func elsewhere(path string, there, here Place) error {
	return fmt.Errorf("journal %s: %w: it is about namespace %d (cookie %d), this is %d (cookie %d); run the command"+
		" there, use another --instance, or remove the file if that namespace is gone", path, ErrOtherNamespace,
		there.Inode, there.Cookie, here.Inode, here.Cookie)
}
