// SPDX-License-Identifier: MIT

// Package lab makes whole clusters out of network namespaces on one machine:
// a client, a director and real servers, joined by a switch. The demo shows
// shunt at work in one, and the tests prove shunt right in others.
//
//	namespace  client      director     rs1         rs2        …
//	           eth0        eth0         eth0        eth0
//	            │           │            │           │            one veth each
//	           client      director     rs1         rs2           (ports)
//	           └────────────── bridge br0 ───────────┘
//	                        namespace switch
//
// Every machine has an IPv4 and an IPv6 address that end in the same digits:
// 172.16.16.173 and 2001:db8:16::173 is the director.
//
// With Options.Router the client lives in another network, on a second bridge
// of the same switch, and a router joins the two.
//
// Everything is done through netlink, mounts and /proc: no other program is
// run. A namespace is known to `ip netns exec` under the lab's prefix and the
// node's name. No interface of a lab is ever in the caller's namespace, not for
// a moment, so that a crash can leave nothing but namespaces; and those are on
// record before they are made (see ledger.go), so that the next Up or Down of
// the same prefix removes exactly them.
//
// The package knows nothing of shunt's own commands. That is for the callers.
package lab
