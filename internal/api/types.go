// SPDX-License-Identifier: MIT

package api

import (
	"net/netip"
	"time"

	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Status is all that a running director says of itself.
type Status struct {
	Instance string    `json:"instance"`
	Version  string    `json:"version"`
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
	Uptime   int64     `json:"uptime"`    // seconds
	TookOver bool      `json:"took_over"` // connections of a predecessor that is gone were kept
	Debug    bool      `json:"debug,omitempty"`
	RunDir   string    `json:"run_dir"`   // see Places
	StateDir string    `json:"state_dir"` // see Places

	// Warnings are what an operator should look at, as sentences.
	Warnings []string `json:"warnings"`

	// Config is the configuration in force; nil: there is none. Its text is not here.
	Config *Site `json:"config,omitempty"`

	Interfaces  []Interface              `json:"interfaces"`
	VIPs        []VIP                    `json:"vips"`
	Services    []Service                `json:"services"`
	Neighbours  []Neighbour              `json:"neighbours"`
	Connections []dataplane.TableUse     `json:"connections"`
	Timeouts    lvs.Timeouts             `json:"timeouts"` // seconds
	Verdicts    []dataplane.VerdictCount `json:"verdicts"`
}

// Interface is one that packets to VIPs come in by.
type Interface struct {
	dataplane.Attachment
	// Notes are what its offloads and kind do to packets there that should be
	// known, each with a way out, as sentences.
	Notes []string `json:"notes,omitempty"`
}

// VIP is one address that the director owns.
type VIP struct {
	Addr      netip.Addr `json:"addr"`
	Interface string     `json:"interface"`
	VLAN      string     `json:"vlan,omitempty"`      // that the interface is, such as "100 of eth0"
	Present   bool       `json:"present"`             // the interface has it
	Withdrawn bool       `json:"withdrawn,omitempty"` // it is not there because no service of it is usable
	Conflict  *Conflict  `json:"conflict,omitempty"`  // another machine claimed it
}

// Conflict tells of a foreign claim, by ARP or NDP, of a VIP.
type Conflict struct {
	MAC   string    `json:"mac"` // the last claimant's
	Last  time.Time `json:"last"`
	Count uint64    `json:"count"` // claims since the director's start
}

// Service is a virtual service, and what the data plane counted for it.
type Service struct {
	lvs.ServiceID
	Marks     []lvs.MarkRule `json:"marks,omitempty"` // of a service by mark: which packets have it
	Scheduler lvs.Scheduler  `json:"scheduler"`
	Policy    lvs.Policy     `json:"policy,omitzero"`
	Deny      []netip.Prefix `json:"deny,omitempty"` // whose packets are dropped
	Counters  lvs.Counters   `json:"counters"`
	Rates     lvs.Rates      `json:"rates"`
	Servers   []RealServer   `json:"servers"` // in the kernel's order
}

// RealServer is a real server of a service.
type RealServer struct {
	lvs.ServerStatus
	Weight int32 `json:"weight"` // of the rule
	// Condition is how it is, and Why the reason; see Condition.
	Condition Condition `json:"condition"`
	Why       string    `json:"why,omitempty"`
	MAC       string    `json:"mac,omitempty"`    // empty: unresolved, or Local
	VLAN      string    `json:"vlan,omitempty"`   // by which it is reached, such as "200 of eth0"
	Reason    string    `json:"reason,omitempty"` // why it is unresolved
	Resolved  bool      `json:"resolved"`         // its packets arrive: the MAC is known, or it is Local
}

// Neighbour is how the director reaches a real server.
type Neighbour struct {
	Addr      netip.Addr `json:"addr"`             // the RIP
	Interface string     `json:"interface"`        // by which it is on-link
	VLAN      string     `json:"vlan,omitempty"`   // that the interface is, such as "200 of eth0"
	Source    netip.Addr `json:"source,omitzero"`  // the DIP that asks for it
	Local     bool       `json:"local,omitempty"`  // it is the director's own: no MAC, no interface
	MAC       string     `json:"mac,omitempty"`    // empty: unresolved
	Reason    string     `json:"reason,omitempty"` // why it is unresolved
	Since     time.Time  `json:"since"`            // of this MAC, or of being unresolved
}

// Reloaded is what a reload did.
type Reloaded struct {
	Services int `json:"services"` // in the table now
	Servers  int `json:"servers"`  // in the table now, of all services
}

// The requests' bodies.
type (
	zeroRequest struct {
		Service lvs.ServiceID `json:"service,omitzero"` // zero: all
	}
	clockRequest struct {
		Advance time.Duration `json:"advance"` // nanoseconds
	}
)
