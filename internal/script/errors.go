// SPDX-License-Identifier: MIT

package script

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unicode"
)

// Why a program did not end by itself, or was not run.
var (
	// ErrTimeout: it took longer than it may, and was killed.
	ErrTimeout = errors.New("timed out")
	// ErrUnsafe: somebody else than root and its user could change what is run.
	ErrUnsafe = errors.New("not safe to run")
)

// ExitError is a program that ended otherwise than with exit code 0.
type ExitError struct {
	Code      int            // -1: by a signal
	Signal    syscall.Signal // 0: none
	FirstLine string         // of its output, as FirstLine gives it
}

// Error gives "exit code 2: no route to database".
func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit code %d", e.Code)
	if e.Signal != 0 {
		how = fmt.Sprintf("ended by signal %d (%v)", int(e.Signal), e.Signal)
	}
	if e.FirstLine == "" {
		return how
	}
	return how + ": " + e.FirstLine
}

// maxLine is how many bytes of a line are a reason.
const maxLine = 200

// FirstLine gives the first line of an output that is not empty, fit to be
// shown: what cannot be printed is a space, and after 200 bytes it is cut off.
func FirstLine(output []byte) string {
	for line := range strings.Lines(string(output)) {
		line = strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
				return ' '
			}
			return r
		}, line)
		if line = strings.TrimSpace(line); line != "" {
			return cut(line)
		}
	}
	return ""
}

func cut(line string) string {
	if len(line) <= maxLine {
		return line
	}
	return strings.ToValidUTF8(line[:maxLine], "") + "…"
}
