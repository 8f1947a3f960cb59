// SPDX-License-Identifier: MIT

package lvs

// Young is what clients show of a real server: how its TCP connections began. Each
// number only grows while the server is in the table.
type Young struct {
	ServerID
	// Began are connections that were scheduled to it. (Of a service by mark
	// that also listens on UDP or SCTP: those, too.)
	Began uint64
	// Unanswered are connections of which the client never sent anything but
	// SYNs until they timed out, or gave way when the table was full.
	Unanswered uint64
	// Retransmitted are connections whose SYN came more than once. Each counts once.
	Retransmitted uint64
	// Resets are connections that the client reset before they were established, or
	// soon after: before it sent a packet in another second than the one in
	// which it established them.
	Resets uint64
}
