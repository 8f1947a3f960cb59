// SPDX-License-Identifier: MIT

package main

import "fmt"

// target is what a figure should be at most, or at least. Missing one fails
// nothing: it is said, and docs/performance.md says why.
type target struct {
	figure string
	limit  float64
	least  bool
	unit   string // empty: a ratio
}

func (t target) wanted() string {
	if t.least {
		return "≥ " + t.format(t.limit)
	}
	return "≤ " + t.format(t.limit)
}

// missed is by how much of the limit.
func (t target) missed(found float64) float64 {
	if t.least {
		return 1 - found/t.limit
	}
	return found/t.limit - 1
}

func (t target) format(v float64) string {
	if t.unit == "" {
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.1f %s", v, t.unit)
}

func targets() []target {
	return []target{
		{figure: "TCP established, 1 flow ÷ floor_tx", limit: 3.5},
		{figure: "TCP established, 64 Ki flows ÷ floor_assoc", limit: 1.15},
		{figure: "TCP established, 64 Ki flows ÷ floor_full", limit: 0.7},
		{figure: "TCP established, 512 Ki flows ÷ floor_assoc", limit: 1.15},
		{figure: "TCP established, 512 Ki flows ÷ floor_full", limit: 0.7},
		{figure: "TCP new, SYN ÷ floor_assoc", limit: 1.4},
		{figure: "TCP new, SYN ÷ floor_full", limit: 0.45},
		{figure: "UDP established, 64 Ki flows ÷ floor_assoc", limit: 1.15},
		{figure: "UDP established, 64 Ki flows ÷ floor_full", limit: 0.7},
		{figure: "UDP new ÷ floor_assoc", limit: 1.4},
		{figure: "UDP new ÷ floor_full", limit: 0.45},
		{figure: "not for us: another port ÷ floor_assoc", limit: 1.1},
		{figure: "not for us: another address ÷ floor_assoc", limit: 1.1},
		{figure: "not for us: ARP ÷ floor_assoc", limit: 1.1},
		{figure: "new, wlc: 100 servers ÷ 4 servers", limit: 2},
		{figure: "new, wlc: 1000 servers ÷ 4 servers", limit: 5},
		{figure: "IPv6 ÷ IPv4: established, 1 flow", limit: 1.3},
		{figure: "IPv6 ÷ IPv4: established, 64 Ki flows", limit: 1.3},
		{figure: "IPv6 ÷ IPv4: new, SYN", limit: 1.3},
		{figure: "10000 services, one used ÷ 1 service", limit: 1.1},
		{figure: "10000 services, all used ÷ 1 service", limit: 1.1},
		{figure: "live established, 1 CPU: director ÷ floor_assoc", limit: 0.95, least: true},
		{figure: "live established, 2 CPUs: director ÷ floor_assoc", limit: 0.95, least: true},
		{figure: "live new, 1 CPU: director ÷ floor_assoc", limit: 0.9, least: true},
		{figure: "live new, 2 CPUs: director ÷ floor_assoc", limit: 0.9, least: true},
		{figure: "table, of an IPv4 connection", limit: 32, unit: "bytes"},
		{figure: "table, of an IPv6 connection", limit: 64, unit: "bytes"},
		{figure: "10000 services × 10 servers, API", limit: 2000, unit: "ms"},
		{figure: "100000 lines of rules, `ipvsadm -R`", limit: 5000, unit: "ms"},
		{figure: "one weight, API", limit: 5, unit: "ms"},
	}
}
