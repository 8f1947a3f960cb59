// SPDX-License-Identifier: MIT

// Package realserver prepares a host to be a real server of direct routing: it
// makes the host accept packets whose destination is a VIP while it never tells
// anyone that it has the VIP.
//
// Method loopback puts VIP/32 on lo, behind ARP guards that are set and read
// back before the address appears; an IPv6 VIP, as /128, needs no guard, because
// Linux answers neighbour solicitations only for addresses of the interface that
// they come in by. Method redirect has no VIP on the host: a rule in a table of
// its own, one for each family, sends VIP:port to a local port.
//
// The result is in the kernel and needs no process. What was found is in a
// journal (see link), what is wanted in a state file; Start and Stop change the
// wanted state and then make the kernel follow, so a call that was killed
// half-way is finished, or undone, by the next. Whether the service behind the
// port works is not this package's business.
//
// Calls act on the network namespace of the calling thread.
package realserver
