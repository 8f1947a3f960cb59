// SPDX-License-Identifier: MIT

package lvs

import (
	"fmt"
	"slices"
	"strings"
)

// Fate is what becomes of the connections of a real server that gets no new ones.
type Fate uint8

// The fates. IPVS has the first only.
const (
	FateKeep   Fate = iota // they go on until they end or time out
	FateExpire             // they are forgotten: their packets are strays (see Stray)
	FateReset              // the clients are told by a TCP reset (RFC 9293, 3.10.7.1); others expire
)

// Fates lists the names of all fates, the default first.
func Fates() []string { return []string{"keep", "expire", "reset"} }

// String gives the name: "keep", "expire" or "reset".
func (f Fate) String() string {
	if names := Fates(); int(f) < len(names) {
		return names[f]
	}
	return fmt.Sprintf("fate %d", uint8(f))
}

// MarshalText gives the name.
func (f Fate) MarshalText() ([]byte, error) {
	if int(f) >= len(Fates()) {
		return nil, fmt.Errorf("%v: %w", f, ErrInvalid)
	}
	return []byte(f.String()), nil
}

// UnmarshalText reads a name; any other text is an error that wraps ErrInvalid.
func (f *Fate) UnmarshalText(text []byte) error {
	i := slices.Index(Fates(), string(text))
	if i < 0 {
		return fmt.Errorf("fate of connections: %q: %w: one of %s", text, ErrInvalid, strings.Join(Fates(), ", "))
	}
	*f = Fate(i)
	return nil
}
