// SPDX-License-Identifier: MIT

// Package health finds out how real servers are: it asks them (checks), at their
// pace and without bunching, and judges the answers (rise, fall, flapping). What
// follows from it is not decided here but in director.
package health
