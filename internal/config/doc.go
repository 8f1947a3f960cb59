// SPDX-License-Identifier: MIT

// Package config reads the file that describes a site: the director, its
// services, the checks of their servers and what follows from them, and the real
// server's role. It says what is wrong with one by line and column, what would
// change, and it writes one from what others have (keepalived, ldirectord,
// ipvsadm).
package config
