// SPDX-License-Identifier: MIT

package link

import "errors"

// What can go wrong. They are wrapped with the interface, address, key or file
// they are about; match them with errors.Is.
var (
	// ErrNoInterface: there is no interface of this name or index.
	ErrNoInterface = errors.New("no such interface")
	// ErrNotOnLink: packets for the address would go through a router (or
	// nowhere), so direct routing cannot reach it.
	ErrNotOnLink = errors.New("not on the same link")
	// ErrLocal: the address is one of this host's own.
	ErrLocal = errors.New("an address of this host")
	// ErrNoIPv6: the interface is not to have IPv6 addresses.
	ErrNoIPv6 = errors.New("IPv6 is switched off")
	// ErrNoNeighbour: the kernel has no neighbour entry for the address.
	ErrNoNeighbour = errors.New("no neighbour entry")
	// ErrNeighboursFull: the kernel's table of neighbours, one for all network
	// namespaces, takes no more.
	ErrNeighboursFull = errors.New("the kernel's neighbour table is full")
	// ErrNoSysctl: there is no such key; an interface's keys go with it.
	ErrNoSysctl = errors.New("no such sysctl")
	// ErrOtherNamespace: the journal was written in another network namespace
	// of this boot, so what it lists cannot be undone from here.
	ErrOtherNamespace = errors.New("journal of another network namespace")
	// ErrJournal: the journal cannot be understood.
	ErrJournal = errors.New("damaged journal")
	// ErrLocked: another process holds the lock.
	ErrLocked = errors.New("another call is at work")
)
