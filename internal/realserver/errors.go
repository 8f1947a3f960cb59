// SPDX-License-Identifier: MIT

package realserver

import "errors"

// What can go wrong, wrapped with the VIP, interface or file it is about.
var (
	// ErrInvalid: the request cannot be right; nothing was changed.
	ErrInvalid = errors.New("not possible")
	// ErrConflict: the host has something that the VIP cannot live with.
	ErrConflict = errors.New("conflicts with this host")
	// ErrGuard: an interface would answer or ask by ARP for the VIP.
	ErrGuard = errors.New("the ARP guard does not hold")
	// ErrNothing: no VIP was named and none is remembered.
	ErrNothing = errors.New("no VIP")
	// ErrRunning: another 'run' of the same instance is at work.
	ErrRunning = errors.New("already running")
	// ErrOtherNamespace: the state belongs to another network namespace.
	ErrOtherNamespace = errors.New("state of another network namespace")
	// ErrState: the state file cannot be understood.
	ErrState = errors.New("damaged state")
)
