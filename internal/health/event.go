// SPDX-License-Identifier: MIT

package health

import (
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// The subjects of events.
const (
	OfServer  = "server"  // a real server of a service
	OfService = "service" // a service: whether it has its quorum
	OfVIP     = "vip"     // a VIP: whether it is on the wire
)

// Subjects lists all subjects.
func Subjects() []string { return []string{OfServer, OfService, OfVIP} }

// Event is a transition: something was in one state and now is in another. It is
// what is kept in the history, and what is told. Its JSON form is that of
// both.
type Event struct {
	At      time.Time     `json:"at"`               // UTC
	Subject string        `json:"subject"`          // OfServer, OfService or OfVIP
	Service lvs.ServiceID `json:"service,omitzero"` // of a server or service
	Name    string        `json:"name,omitempty"`   // the service's
	Server  lvs.ServerID  `json:"server,omitzero"`  // of a server
	VIP     netip.Addr    `json:"vip,omitzero"`     // of a VIP; of the others: where they have one
	From    string        `json:"from"`             // the state before; empty: there was none
	To      string        `json:"to"`               // the state now
	Reason  string        `json:"reason,omitempty"` // a line, at most 1 KiB of it is kept
	Check   string        `json:"check,omitempty"`  // the check that decided it
	By      string        `json:"by,omitempty"`     // who did: "check", "passive", "operator", "agent", "quorum" or "slow start"
}

// String gives a sentence: "server 172.16.16.177:80 of web: up → down: connection
// refused (check tcp)".
func (e Event) String() string {
	var b strings.Builder
	b.WriteString(e.Subject)
	switch e.Subject {
	case OfServer:
		b.WriteString(" " + e.Server.String() + " of " + e.service())
	case OfService:
		b.WriteString(" " + e.service())
	case OfVIP:
		b.WriteString(" " + e.VIP.String())
	}
	b.WriteString(": ")
	if e.From != "" {
		b.WriteString(e.From + " → ")
	}
	b.WriteString(e.To)
	if e.Reason != "" {
		b.WriteString(": " + e.Reason)
	}
	if e.Check != "" {
		b.WriteString(" (check " + e.Check + ")")
	}
	return b.String()
}

func (e Event) service() string {
	if e.Name != "" {
		return e.Name
	}
	return e.Service.String()
}

const (
	maxReason = 1 << 10
	maxName   = 256
)

// bounded gives the event as it is kept: texts have an end, and are UTF-8.
func (e Event) bounded() Event {
	e.At = e.At.Round(0).UTC()
	e.Reason = shorten(e.Reason, maxReason)
	for _, s := range []*string{&e.Name, &e.From, &e.To, &e.Check, &e.By} {
		*s = shorten(*s, maxName)
	}
	return e
}

func shorten(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "")
	}
	return s
}

// Filter says which events are asked for. Its zero value is all of them.
type Filter struct {
	Since, Until time.Time     // Since included, Until not; zero: open
	Subjects     []string      // empty: all
	Service      lvs.ServiceID // zero: all
	Name         string        // of the service; empty: all
	Server       lvs.ServerID  // Addr not valid: all; Port 0: every port
	VIP          netip.Addr    // not valid: all
	Limit        int           // the last so many; 0: all
}

// Match tells whether an event is asked for; Limit does not count.
func (f Filter) Match(e Event) bool {
	switch {
	case !f.Since.IsZero() && e.At.Before(f.Since),
		!f.Until.IsZero() && !e.At.Before(f.Until),
		len(f.Subjects) > 0 && !slices.Contains(f.Subjects, e.Subject),
		f.Service != (lvs.ServiceID{}) && e.Service != f.Service,
		f.Name != "" && e.Name != f.Name,
		f.Server.Addr.IsValid() && e.Server.Addr != f.Server.Addr,
		f.Server.Port != 0 && e.Server.Port != f.Server.Port,
		f.VIP.IsValid() && e.VIP != f.VIP:
		return false
	}
	return true
}
