// SPDX-License-Identifier: MIT

package link

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Kind is what an Entry is about.
type Kind string

// The kinds of change a journal knows.
const (
	AddedAddress     Kind = "add-address"
	DeletedAddress   Kind = "delete-address"
	SetSysctl        Kind = "set-sysctl"
	CreatedTable     Kind = "create-nftables-table"
	ManagedNeighbour Kind = "manage-neighbour"
	AddedRoute       Kind = "add-route" // in table local
)

// TableFamily is the family of an nftables table.
type TableFamily string

// The families that shunt makes tables of.
const (
	TableIPv4 TableFamily = "ip"
	TableIPv6 TableFamily = "ip6"
	TableInet TableFamily = "inet"
)

// Entry is one change in a journal, with what it takes to undo it.
type Entry struct {
	ID    int    `json:"id"`
	Owner string `json:"owner"` // what the change is for; the caller's word, to undo by
	Kind  Kind   `json:"kind"`

	Interface string `json:"interface,omitempty"` // its name when the change was made
	Index     int    `json:"index,omitempty"`     // its index, which no other interface gets

	Prefix netip.Prefix `json:"prefix,omitzero"`
	Scope  int          `json:"scope,omitempty"` // RT_SCOPE_*
	Label  string       `json:"label,omitempty"`
	// Broadcast is a deleted IPv4 address's, if it had one.
	Broadcast netip.Addr `json:"broadcast,omitzero"`
	// Deprecated: the kernel sends from the IPv6 address only if it has no
	// other (RFC 6724), or is told to.
	Deprecated bool `json:"deprecated,omitempty"`

	Key   string `json:"key,omitempty"` // as for Sysctl
	Found string `json:"found,omitempty"`
	Set   string `json:"set,omitempty"`

	Family TableFamily `json:"family,omitempty"`
	Table  string      `json:"table,omitempty"`

	Addr    netip.Addr `json:"addr,omitzero"`
	Existed bool       `json:"existed,omitempty"` // the neighbour entry was there before

	// Of a route to Prefix: its MTU, and which sources it is for (IPv6; invalid:
	// all). Addr is the source that it has the kernel choose.
	MTU  int          `json:"mtu,omitempty"`
	From netip.Prefix `json:"from,omitzero"`

	create func() error
}

// String says what the change is, such as "add 172.16.16.172/32 to lo".
func (e Entry) String() string {
	switch e.Kind {
	case AddedAddress:
		return fmt.Sprintf("add %v to %s", e.Prefix, e.Interface)
	case DeletedAddress:
		return fmt.Sprintf("delete %v from %s", e.Prefix, e.Interface)
	case SetSysctl:
		return fmt.Sprintf("set net/%s from %s to %s", e.Key, e.Found, e.Set)
	case CreatedTable:
		return fmt.Sprintf("create nftables table %s %s", e.Family, e.Table)
	case ManagedNeighbour:
		return fmt.Sprintf("keep %v on %s resolved", e.Addr, e.Interface)
	case AddedRoute:
		text := fmt.Sprintf("add a local route to %v", e.Prefix)
		if e.From.IsValid() {
			text += fmt.Sprintf(" from %v", e.From)
		}
		if e.Addr.IsValid() {
			text += fmt.Sprintf(" with source %v", e.Addr)
		}
		return text
	}
	return string(e.Kind)
}

func (e Entry) valid() bool {
	switch e.Kind {
	case AddedAddress, DeletedAddress:
		return e.Index > 0 && e.Prefix.IsValid()
	case SetSysctl:
		return e.Key != "" && fs.ValidPath(e.Key) && e.Set != ""
	case CreatedTable:
		return e.Table != "" && e.Family.number() != nftables.TableFamilyUnspecified
	case ManagedNeighbour:
		return e.Index > 0 && e.Addr.IsValid()
	case AddedRoute:
		return e.Index > 0 && e.Prefix.IsValid() && (e.Addr.IsValid() || e.From.IsValid())
	}
	return false
}

// same tells whether two entries are the same change of the same thing.
func (e Entry) same(o Entry) bool {
	return e.Kind == o.Kind && e.Index == o.Index && e.Prefix == o.Prefix && e.Key == o.Key && e.Set == o.Set &&
		e.Family == o.Family && e.Table == o.Table && e.Addr == o.Addr && e.MTU == o.MTU && e.From == o.From
}

// make makes the change; what is made already is fine.
func (e Entry) make() error {
	switch e.Kind {
	case AddedAddress:
		return e.addAddress()
	case DeletedAddress:
		return e.deleteAddress()
	case SetSysctl:
		return setSysctl(e.Key, e.Set)
	case CreatedTable:
		return e.create()
	case ManagedNeighbour:
		return manage(e.Index, e.Addr)
	case AddedRoute:
		_, err := e.addRoute()
		return err
	}
	return fmt.Errorf("change %q: %w", e.Kind, errors.ErrUnsupported)
}

// undo restores what was there before; what is restored already, or gone with
// its interface, is fine.
func (e Entry) undo(log *slog.Logger) error {
	switch e.Kind {
	case AddedAddress:
		return e.deleteAddress()
	case DeletedAddress:
		return gone(e.addAddress())
	case SetSysctl:
		return e.restoreSysctl(log)
	case CreatedTable:
		return deleteTable(e.Family, e.Table)
	case ManagedNeighbour:
		return e.unmanage()
	case AddedRoute:
		return e.deleteRoute()
	}
	return fmt.Errorf("change %q: %w", e.Kind, errors.ErrUnsupported)
}

func (e Entry) addAddress() error {
	l, err := netlink.LinkByIndex(e.Index)
	if err != nil {
		return interfaceError(e.Interface, err)
	}
	a := &netlink.Addr{IPNet: ipNet(e.Prefix), Scope: e.Scope, Label: e.Label}
	switch {
	case e.Prefix.Addr().Is6():
		a.Flags = unix.IFA_F_NODAD
		if e.Deprecated {
			a.ValidLft, a.PreferedLft = math.MaxUint32, 0 // valid for ever, preferred never
		}
	case e.Broadcast.IsValid():
		a.Broadcast = e.Broadcast.AsSlice()
	default:
		a.Broadcast = net.IPv4zero // none: for nil the library makes one up
	}
	err = netlink.AddrAdd(l, a)
	switch {
	case errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.EACCES) && e.Prefix.Addr().Is6():
		return fmt.Errorf("%w on %s; 'sysctl net.ipv6.conf.%[2]s.disable_ipv6=0'", ErrNoIPv6, e.Interface)
	case err == nil && e.Prefix.Addr().Is6() && l.Attrs().Flags&net.FlagUp != 0:
		awaitDelivery(e.Prefix.Addr())
	}
	return err
}

// deliveryLimit is far more than the kernel needs.
const deliveryLimit = 500 * time.Millisecond

// awaitDelivery waits until the kernel takes packets to a new IPv6 address for
// this host: it makes that route a moment after it has said that the address is
// added. Whether the route comes is not for whoever adds an address to judge.
func awaitDelivery(a netip.Addr) {
	for late := time.Now().Add(deliveryLimit); time.Now().Before(late); time.Sleep(time.Millisecond) {
		if _, err := OnLink(a); errors.Is(err, ErrLocal) {
			return
		}
	}
}

func (e Entry) deleteAddress() error {
	l, err := netlink.LinkByIndex(e.Index)
	if err != nil {
		return gone(interfaceError(e.Interface, err))
	}
	err = netlink.AddrDel(l, &netlink.Addr{IPNet: ipNet(e.Prefix)})
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return err
}

func (e Entry) restoreSysctl(log *slog.Logger) error {
	key := e.Key
	if e.Index != 0 {
		// The interface may have another name now.
		l, err := netlink.LinkByIndex(e.Index)
		if err != nil {
			return gone(interfaceError(e.Interface, err))
		}
		key = strings.Replace(key, "/"+e.Interface+"/", "/"+l.Attrs().Name+"/", 1)
	}
	now, err := Sysctl(key)
	switch {
	case errors.Is(err, ErrNoSysctl), err == nil && now == e.Found:
		return nil
	case err != nil:
		return err
	case now != e.Set:
		log.Warn("someone else has changed a sysctl since: left as it is", "sysctl", "net/"+key, "value", now,
			"set", e.Set, "found", e.Found)
		return nil
	}
	return setSysctl(key, e.Found)
}

func (e Entry) unmanage() error {
	n, err := NeighbourOf(e.Index, e.Addr)
	if errors.Is(err, ErrNoNeighbour) {
		return nil
	}
	if err != nil {
		return err
	}
	if e.Existed {
		if !n.Managed {
			return nil
		}
		msg := message(Neighbour{Addr: e.Addr, Index: e.Index})
		msg.Flags = netlink.NTF_USE
		return netlink.NeighSet(msg)
	}
	err = netlink.NeighDel(message(Neighbour{Addr: e.Addr, Index: e.Index}))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func (f TableFamily) number() nftables.TableFamily {
	switch f {
	case TableIPv4:
		return nftables.TableFamilyIPv4
	case TableIPv6:
		return nftables.TableFamilyIPv6
	case TableInet:
		return nftables.TableFamilyINet
	}
	return nftables.TableFamilyUnspecified
}

func deleteTable(family TableFamily, name string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	c.DelTable(&nftables.Table{Family: family.number(), Name: name})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// address returns an interface's address as the kernel has it, or nil.
func address(index int, p netip.Prefix) (*netlink.Addr, error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, interfaceError(fmt.Sprintf("of index %d", index), err)
	}
	all, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, interfaceError(l.Attrs().Name, err)
	}
	for _, a := range all {
		if q, ok := prefixOf(a.IPNet); ok && q == p {
			return &a, nil
		}
	}
	return nil, nil
}

// interfaceOfKey returns the interface that a key such as
// "ipv4/conf/eth0/arp_ignore" is about.
func interfaceOfKey(key string) (string, bool) {
	part := strings.Split(key, "/")
	if len(part) != 4 || part[1] != "conf" && part[1] != "neigh" || part[2] == "all" || part[2] == "default" {
		return "", false
	}
	return part[2], true
}

func gone(err error) error {
	if errors.Is(err, ErrNoInterface) {
		return nil
	}
	return err
}
