// SPDX-License-Identifier: MIT

package director

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/link"
)

// Leftovers tells, of an instance that does not run, what its last director
// left because it was killed, or was told to (see Kept): as sentences, none if it
// left nothing. The error is an api.ErrRunning if it does run.
func Leftovers(p api.Places) (left []string, err error) {
	release, err := lockOfOld(p)
	if err != nil {
		return nil, err
	}
	defer release()
	if dataplane.Pinned(p.Pins(), p.Instance) {
		left = append(left, "its data plane is still attached and forwards packets")
	}
	entries, err := link.ReadJournal(p.Journal())
	for _, e := range entries {
		left = append(left, "not undone: "+e.String())
	}
	return left, err
}

// Kept tells whether what a director left was left on purpose, and when.
func Kept(p api.Places) (since time.Time, kept bool) {
	i, err := os.Stat(p.Kept())
	if err != nil {
		return since, false
	}
	return i.ModTime(), true
}

// lockOfOld takes the lock of an instance that does not run. One that never ran
// has none, and is not given one.
func lockOfOld(p api.Places) (release func(), err error) {
	if _, err := os.Stat(p.Lock()); errors.Is(err, os.ErrNotExist) {
		return func() {}, nil
	}
	return lock(p)
}

// LeftHere names the instances that were killed, or left on purpose, in this
// network namespace and left something, as far as this user may know.
func LeftHere(p api.Places) (instances []string) {
	found, err := filepath.Glob(api.Places{Instance: "*", RunDir: p.RunDir, StateDir: p.StateDir}.Journal())
	if err != nil {
		return nil
	}
	for _, journal := range found {
		// The error for one of another namespace, or one that is damaged, is
		// told when that instance is named.
		if entries, err := link.ReadJournal(journal); err == nil && len(entries) > 0 {
			instances = append(instances, filepath.Base(filepath.Dir(journal)))
		}
	}
	return instances
}

// CleanUp undoes what an instance's last director left. It does nothing if
// there is nothing.
func CleanUp(p api.Places, log *slog.Logger) error {
	release, err := lockOfOld(p)
	if err != nil {
		return err
	}
	defer release()
	j, err := link.OpenJournal(p.Journal(), log)
	if err != nil {
		return err
	}
	// As in a stop: the VIPs first, then the data plane.
	err = errors.Join(j.Undo(nil), dataplane.RemovePins(p.Pins(), p.Instance), link.RemoveFile(p.Socket()), link.RemoveFile(p.Kept()))
	if err := errors.Join(err, j.Close()); err != nil {
		return fmt.Errorf("clean up after instance %q: %w", p.Instance, err)
	}
	return nil
}
