// SPDX-License-Identifier: MIT

package lvs

import (
	"net/netip"
	"time"
)

// State is a connection's state as IPVS names it.
type State string

// The states of TCP as seen from one side only, UDP's single one, and those that
// SCTP has beside NONE and ESTABLISHED.
const (
	StateNone        State = "NONE"
	StateEstablished State = "ESTABLISHED"
	StateSynSent     State = "SYN_SENT"
	StateSynRecv     State = "SYN_RECV"
	StateFinWait     State = "FIN_WAIT"
	StateTimeWait    State = "TIME_WAIT"
	StateClose       State = "CLOSE"
	StateCloseWait   State = "CLOSE_WAIT"
	StateLastAck     State = "LAST_ACK"
	StateListen      State = "LISTEN"
	StateSynAck      State = "SYNACK"
	StateUDP         State = "UDP"

	StateInit1            State = "INIT1"      // the first INIT
	StateInit             State = "INIT"       // another one
	StateCookieEchoed     State = "C-ECHOED"   // the client was called by the server: INIT ACK
	StateShutdownReceived State = "S-RECEIVED" // the client closes
	StateClosed           State = "CLOSED"

	StateAssured State = "ASSURED" // of a persistence template
)

// Connection is one entry of the connection table.
type Connection struct {
	Protocol Protocol       `json:"protocol"`
	Client   netip.AddrPort `json:"client"`
	Virtual  netip.AddrPort `json:"virtual"`
	Server   netip.AddrPort `json:"server"`
	State    State          `json:"state"`
	Expires  time.Duration  `json:"expires"` // remaining life
}
