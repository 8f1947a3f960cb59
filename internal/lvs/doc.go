// SPDX-License-Identifier: MIT

// Package lvs holds the nouns of Linux Virtual Server: virtual services, real
// servers, schedulers, the table they form and the changes it can undergo.
//
// It is the one vocabulary that the rule language, the daemon and the data
// plane share. It does no I/O and depends on the standard library only, so that
// everything above it can be reasoned about, and tested, as plain values.
package lvs
