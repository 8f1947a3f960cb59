// SPDX-License-Identifier: MIT

package lvs

import (
	"encoding/json"
	"errors"
	"fmt"
)

// ChangeError says which one of several changes was refused, and why. None of
// the changes was made. It survives JSON: what comes out still matches, with
// errors.Is, the sentinel of this package that went in.
type ChangeError struct {
	Index int   // position of the change among those given together, from 0
	Err   error // why; never nil
}

// Error gives the reason only: who sent the changes knows better how to call
// the change with this index (a line of a file, a command line).
func (e *ChangeError) Error() string { return e.Err.Error() }

// Unwrap gives the reason.
func (e *ChangeError) Unwrap() error { return e.Err }

type wireChangeError struct {
	Index int    `json:"index"`
	Kind  string `json:"kind,omitempty"`
	Text  string `json:"text"`
}

// MarshalJSON writes the index, the kind of error and its text.
func (e *ChangeError) MarshalJSON() ([]byte, error) {
	return json.Marshal(wireChangeError{e.Index, ErrorKind(e.Err), e.Err.Error()})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (e *ChangeError) UnmarshalJSON(b []byte) error {
	var w wireChangeError
	if err := json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("reading a change error: %w", err)
	}
	e.Index, e.Err = w.Index, ErrorOfKind(w.Kind, w.Text)
	return nil
}

var errorKinds = []struct {
	name string
	err  error
}{
	{"service-exists", ErrServiceExists},
	{"no-service", ErrNoService},
	{"server-exists", ErrServerExists},
	{"no-server", ErrNoServer},
	{"unknown-scheduler", ErrUnknownScheduler},
	{"thresholds", ErrThresholds},
	{"weight", ErrWeight},
	{"unsupported", ErrUnsupported},
	{"port-mapping", ErrPortMapping},
	{"invalid", ErrInvalid},
	{"mark", ErrMark},
	{"deny", ErrDeny},
}

// ErrorKind names the sentinel of this package that err wraps, or gives "".
// The names are stable: they go over the API.
func ErrorKind(err error) string {
	for _, k := range errorKinds {
		if errors.Is(err, k.err) {
			return k.name
		}
	}
	return ""
}

// ErrorOfKind gives an error with this text that wraps the sentinel of this
// kind. An unknown kind gives a plain error: the other end may be newer.
func ErrorOfKind(kind, text string) error {
	for _, k := range errorKinds {
		if k.name == kind {
			return &kindError{text: text, kind: k.err}
		}
	}
	return errors.New(text)
}

type kindError struct {
	text string
	kind error
}

func (e *kindError) Error() string { return e.text }
func (e *kindError) Unwrap() error { return e.kind }
