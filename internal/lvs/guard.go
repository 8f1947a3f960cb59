// SPDX-License-Identifier: MIT

package lvs

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// SourceLimit is how many new connections one source may make to a service: an
// IPv4 address, or the /64 of an IPv6 address. The zero value is no limit.
type SourceLimit struct {
	Rate  uint32 // connections a second, from 1 to MaxSourceLimit
	Burst uint32 // at once, likewise
}

// MaxSourceLimit is the greatest rate, and the greatest burst.
const MaxSourceLimit = 10000

// String gives "20:40", a rate of 20 connections a second and 40 at once, or
// "20" if as many may come at once as in a second.
func (l SourceLimit) String() string {
	text := strconv.FormatUint(uint64(l.Rate), 10)
	if l.Burst != l.Rate {
		text += ":" + strconv.FormatUint(uint64(l.Burst), 10)
	}
	return text
}

func (l SourceLimit) validate() error {
	valid := func(n uint32) bool { return n >= 1 && n <= MaxSourceLimit }
	if l != (SourceLimit{}) && (!valid(l.Rate) || !valid(l.Burst)) {
		return fmt.Errorf("source limit %v: %w: rate and burst are from 1 to %d", l, ErrInvalid, MaxSourceLimit)
	}
	return nil
}

// MarshalText gives what String gives.
func (l SourceLimit) MarshalText() ([]byte, error) {
	if err := l.validate(); err != nil {
		return nil, err
	}
	return []byte(l.String()), nil
}

// UnmarshalText reads what String gives; any other text is an error that wraps
// ErrInvalid.
func (l *SourceLimit) UnmarshalText(text []byte) error {
	rate, burst, has := strings.Cut(string(text), ":")
	if !has {
		burst = rate
	}
	r, err := strconv.ParseUint(rate, 10, 32)
	b, err2 := strconv.ParseUint(burst, 10, 32)
	n := SourceLimit{uint32(r), uint32(b)}
	if err := errors.Join(err, err2); err != nil || n == (SourceLimit{}) {
		return fmt.Errorf("source limit %q: %w: RATE or RATE:BURST", text, ErrInvalid)
	}
	if err := n.validate(); err != nil {
		return err
	}
	*l = n
	return nil
}

// ErrDeny is wrapped when a prefix cannot be added to a deny list, or taken off
// it.
var ErrDeny = errors.New("deny list")

// deny adds a prefix to the service's deny list, or takes it off.
func (s *VirtualService) deny(op Operation, p netip.Prefix) error {
	refused := func(format string, args ...any) error {
		return fmt.Errorf("%w of %v: %v: %s", ErrDeny, s.ServiceID, p, fmt.Sprintf(format, args...))
	}
	switch {
	case !p.IsValid() || p.Addr().Zone() != "" || p.Addr().Is4In6():
		return refused("it is no prefix")
	case p != p.Masked():
		return refused("it has bits behind its length; %v has none", p.Masked())
	case p.Addr().Is6() != s.Is6():
		return refused("it is of another address family")
	}
	i, found := slices.BinarySearchFunc(s.Deny, p, netip.Prefix.Compare)
	switch {
	case op == AddDeny && found:
		return refused("it is there already")
	case op == AddDeny:
		s.Deny = slices.Insert(s.Deny, i, p)
	case !found:
		return refused("it is not there")
	default:
		s.Deny = slices.Delete(s.Deny, i, i+1)
	}
	return nil
}
