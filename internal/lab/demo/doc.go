// SPDX-License-Identifier: MIT

// Package demo shows LVS direct routing at work: it makes the reference cluster
// in a lab, sets it up with shunt's own commands, exactly as a person would type
// them, proves on the wire what direct routing promises, and takes a server out
// and back in under load.
//
// It looks at shunt only from outside: its commands' output and exit codes, and
// the frames at the ports of the lab's switch. Nothing here can make a broken
// director look right.
package demo
