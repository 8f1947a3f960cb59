// SPDX-License-Identifier: MIT

package lvs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Stray is what becomes of a packet that belongs to a connection which is in no
// table: of TCP one without SYN, or with RST.
type Stray uint8

// The ways with stray packets. Adopting is what net.ipv4.vs.sloppy_tcp 1 does,
// by a hash in place of the scheduler; passing is what 0 does.
const (
	StrayAdopt Stray = iota // to the real server that a consistent hash names, and remembered
	StrayPass               // to the director's own stack, which answers with a reset
	StrayDrop
	StrayReset // answered with a reset (RFC 9293, 3.10.7.1)
)

// Strays lists the names of all ways with stray packets, the default first.
func Strays() []string { return []string{"adopt", "pass", "drop", "reset"} }

// String gives the name: "adopt", "pass", "drop" or "reset".
func (s Stray) String() string {
	if names := Strays(); int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("stray %d", uint8(s))
}

// MarshalText gives the name.
func (s Stray) MarshalText() ([]byte, error) {
	if int(s) >= len(Strays()) {
		return nil, fmt.Errorf("%v: %w", s, ErrInvalid)
	}
	return []byte(s.String()), nil
}

// UnmarshalText reads a name; any other text is an error that wraps ErrInvalid.
func (s *Stray) UnmarshalText(text []byte) error {
	i := slices.Index(Strays(), string(text))
	if i < 0 {
		return fmt.Errorf("stray packets: %q: %w: one of %s", text, ErrInvalid, strings.Join(Strays(), ", "))
	}
	*s = Stray(i)
	return nil
}

// ConnReuse says on which known connections a SYN opens another one, which is
// scheduled anew: net.ipv4.vs.conn_reuse_mode. The zero value is shunt's
// default, mode 2.
type ConnReuse uint8

// reuseDefault is the mode of ConnReuse's zero value.
const reuseDefault = 2

// ConnReuseOf gives a mode by the kernel's number, 0 to 3; false if it is none:
//
//	0  on none
//	1  on those in TIME_WAIT and CLOSE
//	2  on those in FIN_WAIT too, where direct routing leaves what a client closes
//	3  the same as 2
func ConnReuseOf(mode uint8) (ConnReuse, bool) { return ConnReuse(mode ^ reuseDefault), mode <= 3 }

// Mode gives the kernel's number.
func (c ConnReuse) Mode() uint8 { return uint8(c) ^ reuseDefault }

// MarshalText gives the kernel's number.
func (c ConnReuse) MarshalText() ([]byte, error) {
	if c.Mode() > 3 {
		return nil, fmt.Errorf("conn_reuse_mode %d: %w", c.Mode(), ErrInvalid)
	}
	return strconv.AppendUint(nil, uint64(c.Mode()), 10), nil
}

// UnmarshalText reads the kernel's number; any other text is an error that wraps
// ErrInvalid.
func (c *ConnReuse) UnmarshalText(text []byte) error {
	if len(text) != 1 || text[0] < '0' || text[0] > '3' {
		return fmt.Errorf("conn_reuse_mode %q: %w: a number from 0 to 3", text, ErrInvalid)
	}
	*c, _ = ConnReuseOf(text[0] - '0')
	return nil
}

// Policy is what IPVS leaves to switches of the whole host (net.ipv4.vs.…), for
// one virtual service, and a limit that it has not. The zero value is shunt's
// default, which loses fewer connections than the kernel's does.
type Policy struct {
	Stray     Stray     `json:"stray,omitempty"`           // sloppy_tcp, and more
	ConnReuse ConnReuse `json:"conn_reuse_mode,omitempty"` // as text: "0" to "3"

	// KeepNodest is expire_nodest_conn 0: packets of connections whose server
	// was removed vanish until they time out or it comes back, and a SYN on a
	// connection of a quiesced server stays there. Otherwise both are
	// scheduled anew.
	KeepNodest bool `json:"keep_nodest_conn,omitempty"`
	// KeepTemplate is expire_quiescent_template 0: a persistent client comes
	// back to a quiesced server as long as its template lives.
	KeepTemplate bool `json:"keep_quiescent_template,omitempty"`
	// SecureTCP is secure_tcp 3: a SYN leads to state SYNACK, where there
	// would be SYN_RECV.
	SecureTCP bool `json:"secure_tcp,omitempty"`

	// SourceLimit is not IPVS's. As text: "20:40".
	SourceLimit SourceLimit `json:"source_limit,omitzero"`
}

// Setting is one choice of a Policy, by the name and the value that the rule
// language has for it.
type Setting struct{ Name, Value string }

// Settings lists what differs from the default, always in the same order.
func (p Policy) Settings() []Setting {
	var all []Setting
	if p.Stray != StrayAdopt {
		all = append(all, Setting{"stray", p.Stray.String()})
	}
	if p.ConnReuse != 0 {
		all = append(all, Setting{"conn-reuse-mode", strconv.Itoa(int(p.ConnReuse.Mode()))})
	}
	if p.KeepNodest {
		all = append(all, Setting{"expire-nodest-conn", "0"})
	}
	if p.KeepTemplate {
		all = append(all, Setting{"expire-quiescent-template", "0"})
	}
	if p.SecureTCP {
		all = append(all, Setting{"secure-tcp", "1"})
	}
	if p.SourceLimit != (SourceLimit{}) {
		all = append(all, Setting{"source-limit", p.SourceLimit.String()})
	}
	return all
}

// String gives what differs from the default, as "stray pass conn-reuse-mode 1";
// nothing if nothing does.
func (p Policy) String() string {
	var words []string
	for _, s := range p.Settings() {
		words = append(words, s.Name, s.Value)
	}
	return strings.Join(words, " ")
}

// validate refuses what is no choice, and what would not count for a service: a
// switch without effect is a wrong answer later.
func (p Policy) validate(s *VirtualService) error {
	has := func(protocols ...Protocol) bool { return s.Mark != 0 || slices.Contains(protocols, s.Protocol) }
	invalid := func(what string) error { return fmt.Errorf("%v: %w: %s", s.ServiceID, ErrInvalid, what) }
	switch {
	case int(p.Stray) >= len(Strays()):
		return invalid(p.Stray.String())
	case p.ConnReuse.Mode() > 3:
		return invalid(fmt.Sprintf("conn_reuse_mode %d", p.ConnReuse.Mode()))
	case (p.Stray != StrayAdopt || p.ConnReuse != 0) && !has(TCP, SCTP):
		return invalid("what becomes of stray packets and of a connection that opens again is a matter of TCP and SCTP")
	case p.SecureTCP && !has(TCP):
		return invalid("secure_tcp is for TCP")
	case p.KeepTemplate && !s.Persistent():
		return invalid("expire_quiescent_template needs persistence")
	}
	return p.SourceLimit.validate()
}
