// SPDX-License-Identifier: MIT

package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/shunt-lvs/shunt/internal/script"
)

// Answer is what an agent of HAProxy's agent-check says (HAProxy's configuration
// manual, "agent-check"). It says as much as it likes; what it does not say stays as
// it was: see After.
type Answer struct {
	Percent int // of the configured weight; 0 drains; -1: not said
	MaxConn int // the most connections; -1: not said
	// Admin is what the operator wants: "ready" ends "drain" and "maint". Empty:
	// not said.
	Admin string
	// Health is "up", or "down", "fail" or "stopped", which differ for people only.
	// Empty: not said.
	Health string
	Reason string // what follows a "#", one line
	// Unknown is the first word that the protocol does not have; the others count.
	Unknown string
}

// Unsaid is what is known of an agent that said nothing yet.
func Unsaid() Answer { return Answer{Percent: -1, MaxConn: -1} }

// After gives what is true now if before was, and a was said then.
func (a Answer) After(before Answer) Answer {
	if a.Percent < 0 {
		a.Percent = before.Percent
	}
	if a.MaxConn < 0 {
		a.MaxConn = before.MaxConn
	}
	if a.Admin == "" {
		a.Admin = before.Admin
	}
	if a.Health == "" {
		a.Health, a.Reason = before.Health, before.Reason
	}
	return a
}

// State gives the state that follows: what the operator wants comes before how the
// server is.
func (a Answer) State() State {
	switch {
	case a.Admin == "maint":
		return Maint
	case a.Health != "" && a.Health != "up":
		return Down
	case a.Admin == "drain" || a.Percent == 0:
		return Drain
	}
	return Up
}

// maxPercent and maxConn bound what is believed.
const (
	maxPercent = 100_000
	maxConn    = 1 << 30
)

// AskHAProxy connects to an agent of HAProxy's agent-check and reads what it says,
// within ctx. Nothing is sent. An agent that cannot be reached says nothing: how the
// server is, is for checks to find.
func AskHAProxy(ctx context.Context, dial Dial, addr netip.AddrPort) (Answer, error) {
	a, err := within(ctx, dial, addr, func(c net.Conn) (Answer, error) { return readAnswer(c) })
	if err != nil {
		return Unsaid(), fmt.Errorf("agent at %v: %w", addr, err)
	}
	return a, nil
}

// readAnswer reads the first line, which ends with CR or LF. One that is cut off is
// no answer: it may have been going to say something else.
func readAnswer(r io.Reader) (Answer, error) {
	in := bufio.NewReader(io.LimitReader(r, maxMessage))
	var line []byte
	for {
		switch b, err := in.ReadByte(); {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return Unsaid(), errors.New("it closed the connection and said nothing")
		case errors.Is(err, io.EOF):
			return Unsaid(), fmt.Errorf("its line has no end after %d bytes", len(line))
		case err != nil:
			return Unsaid(), err
		case b == '\n' || b == '\r':
			return parseAnswer(string(line)), nil
		default:
			line = append(line, b)
		}
	}
}

// parseAnswer reads words that are separated by spaces, tabs and commas. Case does
// not count, and of words that contradict each other the last one does.
func parseAnswer(line string) Answer {
	a := Unsaid()
	words, reason, _ := strings.Cut(line, "#")
	a.Reason = script.FirstLine([]byte(reason))
	for word := range strings.FieldsFuncSeq(words, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' }) {
		if !a.take(strings.ToLower(word)) && a.Unknown == "" {
			a.Unknown = script.FirstLine([]byte(word))
		}
	}
	return a
}

// take takes a word; ok: the protocol has it.
func (a *Answer) take(word string) (ok bool) {
	switch word {
	case "ready", "drain", "maint":
		a.Admin = word
		return true
	case "up", "down", "fail", "stopped":
		a.Health = word
		return true
	}
	if number, is := strings.CutSuffix(word, "%"); is {
		return digits(number, maxPercent, &a.Percent)
	}
	if number, is := strings.CutPrefix(word, "maxconn:"); is {
		return digits(number, maxConn, &a.MaxConn)
	}
	return false
}

// digits reads digits only, up to a limit.
func digits(text string, limit uint64, to *int) bool {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || n > limit {
		return false
	}
	*to = int(n)
	return true
}
