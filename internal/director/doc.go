// SPDX-License-Identifier: MIT

// Package director is the daemon: it owns the VIPs on the wire, keeps the table
// of virtual services and hands it to the data plane, follows the real servers'
// MAC addresses, and answers the API.
//
// It is the one place that joins the packages below it. What a packet's way is,
// is not decided here (dataplane), nor how a rule is written (ipvsadm).
package director
