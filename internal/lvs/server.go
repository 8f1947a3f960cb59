// SPDX-License-Identifier: MIT

package lvs

import (
	"fmt"
	"net/netip"
)

// ServerID identifies a real server within its virtual service.
type ServerID struct {
	Addr netip.Addr `json:"addr"` // the RIP
	Port uint16     `json:"port"` // host byte order; direct routing: the service's port
}

// String gives "172.16.16.177:80".
func (id ServerID) String() string { return netip.AddrPortFrom(id.Addr, id.Port).String() }

// Forward is a forwarding method as the kernel numbers it
// (include/uapi/linux/ip_vs.h, IP_VS_CONN_F_*).
type Forward uint8

// The forwarding methods. shunt forwards by DirectRouting ("gatewaying") only;
// the others exist so that a rule that names them can be refused by name.
const (
	Masquerade    Forward = 0
	LocalNode     Forward = 1
	Tunnel        Forward = 2
	DirectRouting Forward = 3
)

// String gives the name that ipvsadm lists.
func (f Forward) String() string {
	switch f {
	case Masquerade:
		return "Masq"
	case LocalNode:
		return "Local"
	case Tunnel:
		return "Tunnel"
	case DirectRouting:
		return "Route"
	}
	return "Unknown"
}

// TunnelOptions is how packets to a tunnelled real server are wrapped.
type TunnelOptions struct {
	Type  string `json:"type,omitempty"`  // "ipip", "gue" or "gre"
	Port  uint16 `json:"port,omitempty"`  // gue: destination port, host byte order
	Flags uint16 `json:"flags,omitempty"` // gue and gre: one of the Tunnel… flags, or 0 for no checksum
}

// The flags of a tunnel as the kernel numbers them
// (include/uapi/linux/ip_vs.h, IP_VS_TUNNEL_ENCAP_FLAG_*).
const (
	TunnelChecksum       uint16 = 1 << 0
	TunnelRemoteChecksum uint16 = 1 << 1 // gue only
)

func (o TunnelOptions) validate() error {
	checksum := o.Flags == 0 || o.Flags == TunnelChecksum
	switch {
	case o.Type == "ipip" && o.Port == 0 && o.Flags == 0:
	case o.Type == "gue" && o.Port != 0 && (checksum || o.Flags == TunnelRemoteChecksum):
	case o.Type == "gre" && o.Port == 0 && checksum:
	default:
		return fmt.Errorf("tunnel type %q with port %d and flags %d: %w", o.Type, o.Port, o.Flags, ErrInvalid)
	}
	return nil
}

// RealServer is one server that answers for a virtual service.
type RealServer struct {
	ServerID
	Forward Forward `json:"forward"`
	// Weight is the server's capacity, 0 and up; 0 quiesces it: its
	// connections go on and it gets no new ones.
	Weight int32 `json:"weight"`
	// Upper and Lower are connection thresholds: at Upper the server gets no
	// new connections until it has fewer than Lower (Lower 0: ¾ of Upper).
	// Upper 0: no limit.
	Upper  uint32        `json:"upper,omitempty"`
	Lower  uint32        `json:"lower,omitempty"`
	Tunnel TunnelOptions `json:"tunnel,omitzero"`
	// Seed is how many active connections the server counts as having beyond
	// those that it has, for schedulers that compare loads: so one that is new
	// gets its share little by little. Thresholds do not know it. It is never
	// saved and no rule says it; above MaxSeed it counts as that.
	Seed uint32 `json:"-"`
}

// MaxSeed is the most that a seed counts for.
const MaxSeed = 1 << 24

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
