// SPDX-License-Identifier: MIT

package config

import (
	"net/netip"
	"time"

	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Config is a file as it was meant: names looked up, defaults filled in.
type Config struct {
	Director   *Director   // nil: the file is not about this role
	RealServer *RealServer // likewise
	Notify     []Notify
	Services   []Service // in the file's order
}

// Director is how the director is started.
type Director struct {
	// Section: the file has it. One that has only services says of the director
	// which VIPs it has, and nothing else.
	Section      bool
	Interfaces   []string     // none: the file does not say it
	VIPs         []netip.Addr // those named, then those of services, each once
	VLANs        map[string]VLAN
	Mode         string // "auto", "native", "generic" or "tc"
	LocalClients bool
	Connections  uint32 // 0: the default
	Timeouts     lvs.Timeouts
}

// VLAN is an interface that stands for a VLAN of another one.
type VLAN struct {
	Parent string
	ID     uint16
}

// RealServer is how a real server is started.
type RealServer struct {
	VIPs   []netip.Addr
	Method string   // "loopback" or "redirect"
	Ports  []string // as --port takes them
	Agent  *Agent   // nil: none
}

// Agent is what a real server tells of its load, and to whom.
type Agent struct {
	Listen     string        // "172.16.16.177:9292"
	SecretFile string        // what both sides know
	Report     string        // "cpu", "connections" or "script"
	Command    []string      // of "script": prints a number, the load in percent
	User       string        // of "script": whose rights it has; empty: nobody
	Full       int           // of "connections": how many are a load of 100 percent
	Interval   time.Duration // how often it measures
}

// Service is a virtual service with all that is to be done about its servers.
type Service struct {
	Name string
	// Service has neither servers nor deny list: these are below.
	Service lvs.VirtualService
	Marks   []lvs.MarkRule
	Deny    []netip.Prefix
	Servers []Server // in the file's order, in which they are added
	Sorry   *lvs.RealServer
	Care    Care
}

// Server is a real server of a service.
type Server struct {
	Name   string // empty: its address
	Server lvs.RealServer
	Checks []health.Check
	Any    bool // one check that succeeds is enough; otherwise all have to
	Weigh  *Weigh
}

// Care is what follows from how the servers of a service are.
type Care struct {
	Remove    bool     // a failed server is removed; otherwise it is quiesced
	Fate      lvs.Fate // of its connections
	Alpha     bool     // a new server is down until its checks succeed
	SlowStart time.Duration
	Flap      health.Flap
	Passive   *health.Passive // nil: off
	// QuorumUp is how many servers make the service usable once it was not,
	// and with less than QuorumDown it no longer is; both from 1.
	QuorumUp, QuorumDown int
	Withdraw             bool // the VIP leaves the wire when no service of it is usable
}

// Weigh is how a server's weight follows from what it says of itself.
type Weigh struct {
	// HAProxy is the agent-check protocol: a line of text, without
	// authentication. Otherwise it is shunt's agent.
	HAProxy    bool
	Port       uint16
	SecretFile string
	Interval   time.Duration
	// Least and Most bound the weight, in percent of the configured one.
	Least, Most int
}

// Notify is who is told of a transition.
type Notify struct {
	Command []string      // a program; or
	URL     string        // a POST of JSON; or
	Log     string        // a level of the log: "info", "warn", "error"
	On      []string      // of "server", "service", "vip"; empty: all
	Timeout time.Duration // of the program or the request
	User    string        // whose rights the program has; empty: nobody
}
