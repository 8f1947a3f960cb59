// SPDX-License-Identifier: MIT

// Package announce speaks ARP on one interface: it tells the neighbours where a
// VIP is, asks whether someone else has it, asks real servers for their MAC
// address and listens to what others claim.
//
// It reports what it sees and never decides anything; it changes no kernel
// state. The kernel's own ARP goes on beside it. IPv4 only so far; IPv6
// addresses are refused with ErrFamily.
//
// Sockets are opened in the network namespace of the calling thread.
package announce
