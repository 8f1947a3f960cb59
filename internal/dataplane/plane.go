// SPDX-License-Identifier: MIT

// Package dataplane owns the BPF programs in bpf/: it loads, attaches and pins
// them, installs an lvs.Table in their maps and reads counters and connections
// back. The programs and maps outlive the process that loaded them, so Open
// takes over what a killed or upgraded predecessor left.
//
// It knows nothing of rules, health or addresses: what is on the interface and
// which MAC a real server has, it is told.
package dataplane

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
)

// Mode is how the program is attached to an interface.
type Mode string

// The attach modes. Auto tries Native, then Generic. TC is by choice: the
// program is then one of tc (tcx), which sees what the kernel has already made
// of frames, and takes GSO packets whole.
const (
	Auto    Mode = "auto"
	Native  Mode = "native"
	Generic Mode = "generic"
	TC      Mode = "tc"
)

// Modes lists the modes that Options takes.
func Modes() []Mode { return []Mode{Auto, Native, Generic, TC} }

// Options tells Open what to do.
type Options struct {
	// Instance names the pins: PinDir/Instance.
	Instance string
	// PinDir is a directory for pins; a bpffs is mounted there unless there is one.
	PinDir string
	// Interfaces are the names of the interfaces that packets to VIPs come in
	// by, at least one, at most 8.
	Interfaces []string
	// VLANs are those of Interfaces that are a VLAN of another: the program is on
	// that, and takes there what has the tag and the interface's own MAC address.
	VLANs map[string]VLAN
	Mode  Mode // empty: Auto
	// LocalClients attaches the program of tc to the loopback interface too: by it
	// come the packets of this host's own connections to a VIP.
	LocalClients bool
	// Connections is how many of IPv4 there is room for, rounded up to a power
	// of two; 0: 1 Mi. Half as many have room that are of IPv6 or persistent,
	// and a quarter as many persistence templates (16 Mi at most). If a
	// predecessor's tables have another size, its connections are carried over
	// to new ones, or, if those are too small for them, ErrResize is the error;
	// 0 takes any size.
	Connections uint32
	Log         *slog.Logger
}

// VLAN is an interface as frames are on the wire.
type VLAN struct {
	Parent string // name of the interface that has the wire
	ID     uint16 // 1 to 4094
}

// Attachment tells how one interface is served.
type Attachment struct {
	Interface string `json:"interface"`
	Mode      Mode   `json:"mode"`             // Native, Generic or TC
	Reason    string `json:"reason,omitempty"` // why not Native
	// Arrivals are what is taken there.
	Arrivals []Arrival `json:"arrivals"`
}

// Arrival is a name in Options.Interfaces, and the VLAN that it stands for.
type Arrival struct {
	Interface string `json:"interface"`
	VLAN      uint16 `json:"vlan,omitempty"` // 0: untagged frames
}

// Neighbour is how to reach a real server on the link.
type Neighbour struct {
	Addr      netip.Addr       // the RIP
	Interface int              // index of the interface to send by
	VLAN      uint16           // to tag its frames for; 0: untagged
	MAC       net.HardwareAddr // the real server's; nil: unresolved, its packets are dropped and counted
	Source    net.HardwareAddr // the sending interface's own, or that of the VLAN's
	MTU       int              // of the way, bytes from the IP header on; 0: do not care
	// Local: the RIP is this host's own, so its packets are left to the own
	// stack as they came. The other fields mean nothing then.
	Local bool
}

// VerdictCount says how many packets left the program for one reason.
type VerdictCount struct {
	Name    string `json:"name"`   // as in bpf/verdict.h, lower case
	Action  string `json:"action"` // "forward", "pass", "drop" or "reply"
	Help    string `json:"help"`
	Packets uint64 `json:"packets"`
}

// TableUse is how full one of the connection tables is: that of IPv4, that of
// IPv6 and persistent services, and that of persistence templates.
type TableUse struct {
	Name     string `json:"name"`     // "connections", "wide_connections" or "templates"
	Capacity uint64 `json:"capacity"` // entries
	Used     uint64 `json:"used"`     // entries that live
	Bytes    uint64 `json:"bytes"`    // memory of the table
}

// ErrAttach is wrapped when the program could not be attached.
var ErrAttach = errors.New("cannot attach the BPF program")
