// SPDX-License-Identifier: MIT

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/shunt-lvs/shunt/internal/link"
)

// SetState writes what a real server wants into a file, from which its agent takes
// it at the next question: Up, Drain or Maint. It outlives the agent and the host.
func SetState(file string, s State) error {
	if s != Up && s != Drain && s != Maint {
		return fmt.Errorf("state %q: one of %s, %s, %s", s, Up, Drain, Maint)
	}
	if err := link.WriteFile(file, []byte(s+"\n"), 0o644); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// ReadState reads what SetState wrote. Without a file it is Up.
func ReadState(file string) (State, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return Up, nil
	}
	if err != nil {
		return Up, fmt.Errorf("state: %w", err)
	}
	switch s := State(strings.TrimSpace(string(text))); s {
	case Up, Drain, Maint:
		return s, nil
	default:
		return Up, fmt.Errorf("state %s: %.20q: one of %s, %s, %s; shunt realserver enable, drain or maintenance writes it anew", file, s, Up, Drain, Maint)
	}
}
