// SPDX-License-Identifier: MIT

package api

import (
	"errors"

	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// What can go wrong between a command and a director, beside the errors of
// package lvs about a change. Match them with errors.Is, on either side of the
// socket.
var (
	ErrInstanceName = errors.New("not a name for an instance")
	ErrNotRunning   = errors.New("no director runs")
	ErrRunning      = errors.New("a director runs already")
	// ErrNotDebug: only an instance that was started with --debug does this.
	ErrNotDebug = errors.New("the instance was not started with --debug")
	// ErrForeignVIP: the service's address is none of the director's VIPs.
	ErrForeignVIP = errors.New("not a VIP of this director")
	// ErrVIPTaken: another machine answers for the VIP.
	ErrVIPTaken = errors.New("another machine answers for the VIP")
	// ErrRules: the saved rules cannot be read; the text names file and line.
	ErrRules = errors.New("the saved rules are not usable")
	// ErrConfig: a configuration cannot be put in force; the text names file,
	// line and column where there is one.
	ErrConfig = errors.New("the configuration is not usable")
)

// kinds are the names of errors on the wire; they are stable.
var kinds = []struct {
	name string
	err  error
}{
	{"instance-name", ErrInstanceName},
	{"not-running", ErrNotRunning},
	{"running", ErrRunning},
	{"not-debug", ErrNotDebug},
	{"foreign-vip", ErrForeignVIP},
	{"vip-taken", ErrVIPTaken},
	{"rules", ErrRules},
	{"config", ErrConfig},
	{"not-on-link", link.ErrNotOnLink},
	{"local", link.ErrLocal},
}

// problem is an error on its way through the socket: its text, and the names
// of all the sentinels it wraps.
type problem struct {
	Text   string   `json:"error"`
	Kinds  []string `json:"kinds,omitempty"`
	Change *int     `json:"change,omitempty"` // index in a lvs.ChangeError
}

func problemOf(err error) problem {
	p := problem{Text: err.Error()}
	if c, ok := errors.AsType[*lvs.ChangeError](err); ok {
		p.Change = &c.Index
	}
	if k := lvs.ErrorKind(err); k != "" {
		p.Kinds = append(p.Kinds, k)
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			p.Kinds = append(p.Kinds, k.name)
		}
	}
	return p
}

// err is what arrives: its text is the one that left.
func (p problem) err() error {
	e := &remoteError{text: p.Text}
	for _, name := range p.Kinds {
		e.wraps = append(e.wraps, sentinel(name)...)
	}
	if p.Change != nil {
		return &lvs.ChangeError{Index: *p.Change, Err: e}
	}
	return e
}

func sentinel(name string) []error {
	for _, k := range kinds {
		if k.name == name {
			return []error{k.err}
		}
	}
	if err := lvs.ErrorOfKind(name, name); errors.Unwrap(err) != nil {
		return []error{errors.Unwrap(err)}
	}
	return nil // the director is newer than this client
}

type remoteError struct {
	text  string
	wraps []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.wraps }
