// SPDX-License-Identifier: MIT

// Package announce speaks ARP and, for IPv6, neighbour discovery (NDP) on one
// interface: it tells the neighbours where a VIP is, asks whether someone else
// has it, asks real servers for their MAC address and listens to what others
// claim.
//
// It reports what it sees and never decides anything; it changes no kernel
// state. The kernel's own ARP and NDP go on beside it. Whether an address is
// spoken of in one or the other follows from its family; an address that no
// link knows, such as a multicast or a link-local one, is refused with
// ErrFamily.
//
// Sockets are opened in the network namespace of the calling thread.
package announce
