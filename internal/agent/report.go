// SPDX-License-Identifier: MIT

package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/shunt-lvs/shunt/internal/script"
)

// State is what a real server wants.
type State string

// The states.
const (
	Up    State = "up"    // new connections
	Drain State = "drain" // no new connections; those that it has go on
	Maint State = "maint" // none at all, and it need not be checked
	Down  State = "down"  // it is not well; only an agent of HAProxy's says so
)

// What an agent measures.
const (
	CPU         = "cpu"         // the busy share of all CPUs; what a hypervisor took away counts
	Connections = "connections" // established TCP connections, as a share of Options.Full
	Script      = "script"      // what a program prints
)

// Kinds lists what an agent can measure.
func Kinds() []string { return []string{CPU, Connections, Script} }

// MaxLoad is the highest load that is told, in percent.
const MaxLoad = 1000

// Report is what an agent says.
type Report struct {
	State State  `json:"state"` // Up, Drain or Maint: what its operator set
	Kind  string `json:"kind"`  // what Load is of: see Kinds
	Load  int    `json:"load"`  // percent, from 0; 100: all that it can take, and more is possible
	// Connections is how many there are; of the kind "connections".
	Connections int `json:"connections,omitempty"`
	// Problem is why the load is not known; empty: it is. State counts anyway.
	Problem string    `json:"problem,omitempty"`
	At      time.Time `json:"-"` // when it was measured, by the clock of who asks
}

// wire is a report as it travels.
type wire struct {
	Report
	Age  int64          `json:"age_ms"` // since it was measured
	Addr netip.AddrPort `json:"addr"`   // where the agent was asked
}

// encode gives a report's JSON, for who asked at addr.
func (r Report) encode(addr netip.AddrPort, now time.Time) ([]byte, error) {
	return json.Marshal(wire{r, max(0, now.Sub(r.At).Milliseconds()), addr})
}

// maxAge bounds what is believed of an age.
const maxAge = 24 * time.Hour

// decode reads a report that was proved to come from an agent.
func decode(text []byte, addr netip.AddrPort, now time.Time) (Report, error) {
	var w wire
	if err := json.Unmarshal(text, &w); err != nil {
		return Report{}, fmt.Errorf("report: %w", err)
	}
	r := w.Report
	switch {
	case w.Addr != addr:
		return Report{}, fmt.Errorf("the answer is of the agent at %v: somebody led the question there", w.Addr)
	case r.State != Up && r.State != Drain && r.State != Maint:
		return Report{}, fmt.Errorf("report: unknown state %q", r.State)
	case !slices.Contains(Kinds(), r.Kind):
		return Report{}, fmt.Errorf("report: unknown kind %q", r.Kind)
	case r.Load < 0 || r.Load > MaxLoad || r.Connections < 0:
		return Report{}, fmt.Errorf("report: load %d, %d connections: out of range", r.Load, r.Connections)
	case w.Age < 0 || w.Age > maxAge.Milliseconds():
		return Report{}, fmt.Errorf("report: measured %d ms ago: out of range", w.Age)
	}
	r.Problem = script.FirstLine([]byte(r.Problem))
	r.At = now.Add(-time.Duration(w.Age) * time.Millisecond)
	return r, nil
}
