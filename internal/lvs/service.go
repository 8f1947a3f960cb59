// SPDX-License-Identifier: MIT

package lvs

import (
	"fmt"
	"net/netip"
	"slices"
)

// ServiceID identifies a virtual service: protocol, VIP and port, or a firewall
// mark and an address family. It is comparable and is the key of a Table.
type ServiceID struct {
	Protocol Protocol   `json:"protocol,omitempty"` // ProtocolNone: selected by Mark
	Addr     netip.Addr `json:"addr,omitzero"`      // the VIP; invalid if selected by Mark
	Port     uint16     `json:"port,omitempty"`     // host byte order; 0: every port
	Mark     uint32     `json:"mark,omitempty"`     // firewall mark; 0: selected by address
	Mark6    bool       `json:"mark6,omitempty"`    // the mark is for IPv6 packets
}

// Is6 tells whether the service is about IPv6 packets.
func (id ServiceID) Is6() bool {
	if id.Mark != 0 {
		return id.Mark6
	}
	return id.Addr.Is6()
}

func (id ServiceID) validate() error {
	byMark := ServiceID{Mark: id.Mark, Mark6: id.Mark6}
	switch {
	case id.Mark != 0 && id != byMark:
		return fmt.Errorf("%v: %w: a service is selected by mark or by address", id, ErrInvalid)
	case id.Mark != 0:
		return nil
	case id.Mark6 || !id.Addr.IsValid():
		return fmt.Errorf("a service without an address: %w", ErrInvalid)
	case id.Addr.Zone() != "":
		return fmt.Errorf("%v: %w: an address with a zone", id, ErrInvalid)
	case id.Protocol != TCP && id.Protocol != UDP && id.Protocol != SCTP:
		return fmt.Errorf("%v: %w: not a protocol for services", id, ErrInvalid)
	}
	return nil
}

// String gives "TCP 172.16.16.172:80", "FWM 7" or "FWM 7 IPv6".
func (id ServiceID) String() string {
	if id.Mark != 0 {
		if id.Mark6 {
			return fmt.Sprintf("FWM %d IPv6", id.Mark)
		}
		return fmt.Sprintf("FWM %d", id.Mark)
	}
	return id.Protocol.String() + " " + netip.AddrPortFrom(id.Addr, id.Port).String()
}

// ServiceFlags are a virtual service's flag bits as the kernel numbers them
// (include/uapi/linux/ip_vs.h, IP_VS_SVC_F_*).
type ServiceFlags uint32

// The service flags. What the three scheduler flags mean depends on the
// scheduler: for sh and mh the first is "fallback" and the second "port".
const (
	FlagPersistent ServiceFlags = 1 << 0
	FlagOnePacket  ServiceFlags = 1 << 2
	FlagSched1     ServiceFlags = 1 << 3
	FlagSched2     ServiceFlags = 1 << 4
	FlagSched3     ServiceFlags = 1 << 5

	allFlags = FlagPersistent | FlagOnePacket | FlagSched1 | FlagSched2 | FlagSched3
)

// VirtualService is one service that a director offers.
type VirtualService struct {
	ServiceID
	Scheduler Scheduler    `json:"scheduler"`
	Flags     ServiceFlags `json:"flags,omitempty"`

	// Timeout is the life of a persistence template in seconds; it counts
	// only with FlagPersistent.
	Timeout uint32 `json:"timeout,omitempty"`
	// Netmask groups clients for persistence: for IPv4 a mask in host byte
	// order (any mask, ipvsadm takes also holes), for IPv6 a prefix length.
	Netmask uint32 `json:"netmask,omitempty"`
	// Engine is the persistence engine ("sip"), or empty.
	Engine string `json:"engine,omitempty"`

	Policy Policy `json:"policy,omitzero"`

	// Deny lists whose packets are dropped: prefixes of the service's family,
	// each once, in the order of netip.Prefix.Compare. As the servers, it is
	// changed by changes of its own.
	Deny []netip.Prefix `json:"deny,omitempty"`

	// Servers is in the kernel's order: the last one added comes first. Every
	// scheduler walks it in this order, so it decides ties.
	Servers []RealServer `json:"servers,omitempty"`

	// Edits counts the edits of real servers, also those that change nothing:
	// wrr begins its round anew at each. Not part of what is saved or compared.
	Edits uint64 `json:"-"`
}

// Persistent tells whether clients stick to their real server.
func (s *VirtualService) Persistent() bool { return s.Flags&FlagPersistent != 0 }

// Clone returns a copy that shares nothing with s.
func (s *VirtualService) Clone() *VirtualService {
	c := *s
	c.Servers, c.Deny = slices.Clone(s.Servers), slices.Clone(s.Deny)
	return &c
}

// Equal tells whether both are the same in all respects, servers and their
// order included.
func (s *VirtualService) Equal(o *VirtualService) bool {
	return s.ServiceID == o.ServiceID && s.Scheduler == o.Scheduler && s.Flags == o.Flags &&
		s.Timeout == o.Timeout && s.Netmask == o.Netmask && s.Engine == o.Engine &&
		s.Policy == o.Policy && slices.Equal(s.Deny, o.Deny) && slices.Equal(s.Servers, o.Servers)
}

// Server returns the real server with this identity, or nil.
func (s *VirtualService) Server(id ServerID) *RealServer {
	for i := range s.Servers {
		if s.Servers[i].ServerID == id {
			return &s.Servers[i]
		}
	}
	return nil
}
