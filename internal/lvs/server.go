// SPDX-License-Identifier: MIT

package lvs

import "net/netip"

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
	Flags uint16 `json:"flags,omitempty"` // IP_VS_TUNNEL_ENCAP_FLAG_*
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
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
