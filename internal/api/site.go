// SPDX-License-Identifier: MIT

package api

import (
	"time"

	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Condition is how a real server of a service is.
type Condition string

// The conditions.
const (
	Up          Condition = "up"
	Starting    Condition = "starting"    // up, with less than its weight: a slow start
	Down        Condition = "down"        // its checks, or its agent, say so
	Ejected     Condition = "ejected"     // too many of its connections died young
	Draining    Condition = "draining"    // it gets no new connections because someone wants it so
	Maintenance Condition = "maintenance" // likewise, and it is not checked
	Sorry       Condition = "sorry"       // it stands in for the others
	Unused      Condition = "unused"      // it would stand in, and need not
)

// Operator is what an operator wants of a real server.
type Operator struct {
	Wants  Condition `json:"wants,omitempty"` // Draining or Maintenance; empty: nothing
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	// Until is when what is left of its connections is ended; zero: never.
	Until time.Time `json:"until,omitzero"`
	Fate  lvs.Fate  `json:"fate,omitempty"` // of the connections then, as text
}

// Operation is an operator's word about real servers.
type Operation struct {
	// Server is the name of a real server, its address, or address and port.
	Server string `json:"server"`
	// Service is a service's name, or as ServiceID prints it; empty: every
	// service that the server is in.
	Service string        `json:"service,omitempty"`
	Wants   Condition     `json:"wants"` // Draining, Maintenance or Up
	Reason  string        `json:"reason,omitempty"`
	Within  time.Duration `json:"within,omitempty"` // nanoseconds; then Fate comes over what is left; 0: never
	Fate    lvs.Fate      `json:"fate,omitempty"`
}

// Member is a real server in one of its services.
type Member struct {
	Service lvs.ServiceID `json:"service"`
	Server  lvs.ServerID  `json:"server"`
}

// ServiceHealth is how a service is.
type ServiceHealth struct {
	Service lvs.ServiceID `json:"service"`
	Name    string        `json:"name,omitempty"`
	Usable  bool          `json:"usable"` // enough real servers get new connections
	Reason  string        `json:"reason"`
	// InFile: the applied configuration has it; otherwise it was made at run time.
	InFile  bool           `json:"in_file"`
	Servers []ServerHealth `json:"servers"`
}

// ServerHealth is how a real server of a service is.
type ServerHealth struct {
	Server    lvs.ServerID `json:"server"`
	Name      string       `json:"name,omitempty"`
	Condition Condition    `json:"condition"`
	Reason    string       `json:"reason,omitempty"`
	Since     time.Time    `json:"since,omitzero"`
	Weight    int32        `json:"weight"`    // configured
	Effective float64      `json:"effective"` // what counts now
	Active    uint32       `json:"active"`    // connections
	Inactive  uint32       `json:"inactive"`  // connections
	Operator  *Operator    `json:"operator,omitempty"`
	// Failure is the last one of a check, also when it is over.
	Failure *health.Failure      `json:"failure,omitempty"`
	Checks  []health.CheckStatus `json:"checks,omitempty"`
}

// Site is the configuration that is in force.
type Site struct {
	Path    string    `json:"path"` // where it came from; empty: there is none
	Text    string    `json:"text,omitempty"`
	Applied time.Time `json:"applied,omitzero"`
	// Until is when the one before comes back, unless this one is confirmed.
	Until time.Time `json:"until,omitzero"`
	// Drift is how the running rules differ from it.
	Drift []config.Difference `json:"drift,omitempty"`
	// Changed tells that the file at Path has another text by now.
	Changed bool `json:"changed,omitempty"`
}

// ApplyRequest is a configuration to be put in force.
type ApplyRequest struct {
	Path string `json:"path"`
	Text string `json:"text"`
	// Confirm is how long the one before waits to come back; 0: it does not.
	Confirm time.Duration `json:"confirm,omitempty"`
	// Only tells what would change.
	Only bool `json:"only,omitempty"`
}

// Applied is what an apply changed, or would.
type Applied struct {
	Differences []config.Difference `json:"differences"`
	Until       time.Time           `json:"until,omitzero"`
}

// HistoryRequest asks for events, the newest last.
type HistoryRequest struct {
	Since   time.Time `json:"since,omitzero"`
	Service string    `json:"service,omitempty"` // by name, or as ServiceID prints it
	Server  string    `json:"server,omitempty"`  // an address, or address:port
	Limit   int       `json:"limit,omitempty"`
}
