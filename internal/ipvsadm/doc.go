// SPDX-License-Identifier: MIT

// Package ipvsadm is the rule language: it understands what ipvsadm understands
// on its command line and on its standard input, and prints what it prints, to
// the byte, so that scripts written for ipvsadm go on working. Where it differs
// on purpose, docs/ipvsadm.md says so and why.
//
// It does not change anything by itself: what a command line says goes to a
// Director, which is the daemon, over its API, or in tests a plain table. It
// does not decide what a director can do either; the Director refuses that by
// name.
package ipvsadm
