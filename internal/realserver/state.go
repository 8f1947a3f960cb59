// SPDX-License-Identifier: MIT

package realserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/shunt-lvs/shunt/internal/link"
)

// state is what is wanted, as it is in the state file. It is written before the
// kernel is changed, so that a call that dies leaves behind what it was about.
type state struct {
	Place link.Place `json:"place"`
	// Interfaces to guard; empty: all but lo.
	Interfaces []string `json:"interfaces,omitempty"`
	VIPs       []VIP    `json:"vips"`
}

func (st state) vips(m Method) []VIP {
	return slices.DeleteFunc(slices.Clone(st.VIPs), func(v VIP) bool { return v.Method != m })
}

// guarded tells whether any VIP needs the ARP guards.
func (st state) guarded() bool { return slices.ContainsFunc(st.VIPs, VIP.guarded) }

func (st state) has(a netip.Addr, m Method) bool {
	return slices.ContainsFunc(st.VIPs, func(v VIP) bool { return v.Addr == a && v.Method == m })
}

// readState returns the state that holds here and now, and what an earlier boot
// left, of which nothing is in the kernel.
func (s *Server) readState() (now, earlier state, err error) {
	here, err := link.Here()
	if err != nil {
		return now, earlier, err
	}
	now.Place = here
	data, err := os.ReadFile(s.statePath())
	if errors.Is(err, os.ErrNotExist) {
		return now, earlier, nil
	}
	if err != nil {
		return now, earlier, fmt.Errorf("state: %w", err)
	}
	st, err := parseState(data)
	switch {
	case err != nil:
		return now, earlier, fmt.Errorf("%s: %w; remove the file, then 'stop' undoes what the journal beside it lists", s.statePath(), err)
	case st.Place.Boot != here.Boot:
		return now, st, nil
	case st.Place.Cookie != here.Cookie:
		return now, earlier, fmt.Errorf("%s: %w: it is about namespace %d (cookie %d), this is %d (cookie %d); run the command there,"+
			" use another --instance, or remove the file and the journal beside it if that namespace is gone", s.statePath(), ErrOtherNamespace,
			st.Place.Inode, st.Place.Cookie, here.Inode, here.Cookie)
	}
	return st, earlier, nil
}

// parseState reads a state file's bytes.
func parseState(data []byte) (state, error) {
	var st state
	if err := json.Unmarshal(data, &st); err != nil {
		return st, fmt.Errorf("%w: %w", ErrState, err)
	}
	if st.Place.Boot == "" {
		return st, fmt.Errorf("%w: it does not say where it belongs", ErrState)
	}
	vips, err := merge(nil, st.VIPs)
	if err != nil {
		return st, fmt.Errorf("%w: %w", ErrState, err)
	}
	st.VIPs = vips
	return st, nil
}

func (s *Server) writeState(st state) error {
	data, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	if err := link.WriteFile(s.statePath(), append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	s.log.Debug("state written", "vips", len(st.VIPs))
	return nil
}

func (s *Server) removeState() error {
	if err := link.RemoveFile(s.statePath()); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	s.log.Debug("state removed")
	return nil
}
