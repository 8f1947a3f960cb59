// SPDX-License-Identifier: MIT

package lvs

import "strconv"

// Protocol is a transport protocol by its IP protocol number (RFC 5237).
type Protocol uint8

// The protocols a virtual service can have. ProtocolNone belongs to services
// that are selected by a firewall mark, whatever their packets' protocol.
const (
	ProtocolNone Protocol = 0
	TCP          Protocol = 6
	UDP          Protocol = 17
	SCTP         Protocol = 132
)

// String gives the name that ipvsadm prints: "TCP", "UDP", "SCTP" or, for
// services by mark, "FWM".
func (p Protocol) String() string {
	switch p {
	case ProtocolNone:
		return "FWM"
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "protocol " + strconv.Itoa(int(p))
}
