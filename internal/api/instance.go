// SPDX-License-Identifier: MIT

package api

import (
	"fmt"
	"path/filepath"
	"regexp"
)

// Where instances keep their things, and the name of the one that nobody named.
const (
	DefaultInstance = "default"
	DefaultRunDir   = "/run/shunt"
	DefaultStateDir = "/var/lib/shunt"
)

// maxName bounds an instance's name: its socket's path has to fit into the 107
// bytes of a Unix address, also below a longer --run-dir.
const maxName = 32

// pinName is the entry of the run directory that is not an instance: the bpffs
// where the data planes of all instances are pinned.
const pinName = "bpf"

var nameShape = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// CheckName says whether an instance may have this name. The error, if any, is
// an ErrInstanceName.
func CheckName(name string) error {
	switch {
	case name == pinName:
		return fmt.Errorf("%w: %q is reserved for the pinned data planes", ErrInstanceName, name)
	case len(name) > maxName:
		return fmt.Errorf("%w: %q is longer than %d characters", ErrInstanceName, name, maxName)
	case !nameShape.MatchString(name):
		return fmt.Errorf("%w: %q: use a-z, 0-9 and -, and start with a letter or a digit", ErrInstanceName, name)
	}
	return nil
}

// Places says where one instance keeps what.
type Places struct {
	Instance string
	RunDir   string // of all instances; empty: DefaultRunDir
	StateDir string // of all instances; empty: DefaultStateDir
}

func (p Places) run(name string) string {
	return filepath.Join(or(p.RunDir, DefaultRunDir), or(p.Instance, DefaultInstance), name)
}

func (p Places) state(name string) string {
	return filepath.Join(or(p.StateDir, DefaultStateDir), or(p.Instance, DefaultInstance), name)
}

// Run is the instance's run directory: it is emptied by a reboot.
func (p Places) Run() string { return p.run("") }

// State is the instance's state directory: it survives a reboot.
func (p Places) State() string { return p.state("") }

// Socket is where the director serves this API.
func (p Places) Socket() string { return p.run("api.sock") }

// Whole returns p with the defaults filled in.
func (p Places) Whole() Places {
	return Places{Instance: or(p.Instance, DefaultInstance), RunDir: or(p.RunDir, DefaultRunDir), StateDir: or(p.StateDir, DefaultStateDir)}
}

// Lock is the file that a running director holds a lock on. It guards the
// journal, so it is beside it.
func (p Places) Lock() string { return p.state("lock") }

// Kept is there while the data plane forwards because the director was told to
// end without undoing anything.
func (p Places) Kept() string { return p.run("kept") }

// Log is where a director that was put in the background writes its log.
func (p Places) Log() string { return p.run("director.log") }

// Pins is the bpffs directory of all instances' data planes.
func (p Places) Pins() string { return filepath.Join(or(p.RunDir, DefaultRunDir), pinName) }

// Rules is the saved table, in the format of ipvsadm -S.
func (p Places) Rules() string { return p.state("rules") }

// Site is the configuration in force, with its text, as JSON.
func (p Places) Site() string { return p.state("site.json") }

// Before is what comes back unless the configuration in force is confirmed.
func (p Places) Before() string { return p.state("before.json") }

// Standings is how real servers are, and what operators said of them, as JSON.
func (p Places) Standings() string { return p.state("standings.json") }

// History is the file of what turned, as lines of JSON.
func (p Places) History() string { return p.state("history") }

// Settings is how the director was last started, as JSON.
func (p Places) Settings() string { return p.state("director.json") }

// Journal is what has to be undone when the director stops.
func (p Places) Journal() string { return p.state("director.journal") }

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
