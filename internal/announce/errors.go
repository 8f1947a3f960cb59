// SPDX-License-Identifier: MIT

package announce

import "errors"

// What can go wrong, wrapped with the interface or address it is about.
var (
	// ErrPacket: the bytes are not an ARP packet for IPv4 over Ethernet, or not
	// a neighbour discovery message that may be believed.
	ErrPacket = errors.New("not an ARP packet or neighbour discovery message")
	// ErrFamily: the address is not one that a link can be told of or asked for.
	ErrFamily = errors.New("cannot be announced or asked for")
	// ErrNoAnswer: nobody answered in time.
	ErrNoAnswer = errors.New("no answer")
	// ErrLink: the interface has no Ethernet address, or is not up.
	ErrLink = errors.New("cannot speak ARP or NDP")
)
