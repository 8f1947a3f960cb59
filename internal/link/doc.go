// SPDX-License-Identifier: MIT

// Package link reads and changes the kernel's network state: interfaces,
// addresses, routes, neighbours and sysctls, by netlink and /proc only.
//
// Every change that must be taken back later goes through a Journal, which
// writes down what was found, durably, before the change is made. What is not
// here: any decision about what to change, packets (see announce) and the rules
// of nftables, of which link only knows how to make a table go away again.
//
// Functions act on the network namespace of the calling thread. They start no
// goroutine that would look at the namespace again, so a caller that is locked
// to a thread in another namespace stays in it.
package link
