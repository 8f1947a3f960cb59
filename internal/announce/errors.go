// SPDX-License-Identifier: MIT

package announce

import "errors"

// What can go wrong, wrapped with the interface or address it is about.
var (
	// ErrPacket: the bytes are not an ARP packet for IPv4 over Ethernet.
	ErrPacket = errors.New("not an ARP packet")
	// ErrFamily: the address is not an IPv4 unicast address.
	ErrFamily = errors.New("cannot be announced or asked for by ARP")
	// ErrNoAnswer: nobody answered in time.
	ErrNoAnswer = errors.New("no answer")
	// ErrLink: the interface has no Ethernet address, or is not up.
	ErrLink = errors.New("cannot speak ARP")
)
