// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// failure is an error whose text is for people and whose cause is for programs.
type failure struct {
	text  string
	cause error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.cause }

// notAsked marks an error as none of the server's.
func notAsked(err error) error {
	return &failure{err.Error(), errors.Join(ErrNotAsked, err)}
}

// longest is how many bytes a reason has at most.
const longest = 200

// explain says in one line why a probe failed.
func explain(ctx context.Context, err error, e Endpoint, within time.Duration) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return &failure{"the check was cancelled", errors.Join(ErrNotAsked, context.Canceled)}
	}
	if hostsFault(err) && !errors.Is(err, ErrNotAsked) {
		err = errors.Join(ErrNotAsked, err)
	}
	return &failure{clean(reason(err, e, within), longest), err}
}

func reason(err error, e Endpoint, within time.Duration) string {
	var said *failure
	if errors.As(err, &said) {
		return said.text
	}
	who := "the server"
	if e.Mark != 0 {
		who = "the VIP"
	}
	var op *net.OpError
	dialing := errors.As(err, &op) && op.Op == "dial"
	var netErr net.Error
	timeout := errors.As(err, &netErr) && netErr.Timeout()

	var errno syscall.Errno
	if errors.As(err, &errno) && !timeout {
		switch {
		case errno == syscall.ECONNREFUSED && e.Mark != 0:
			return "connection refused: nothing listens on the VIP there, or a firewall refuses"
		case errno == syscall.ECONNREFUSED:
			return "connection refused"
		case errno == syscall.ECONNRESET:
			return "connection reset by " + who
		case errno == syscall.EPIPE:
			return "connection closed by " + who
		case errno == syscall.EHOSTUNREACH:
			return "host unreachable: no answer to ARP, or a firewall says so"
		case errno == syscall.EACCES:
			return "a firewall refuses (administratively prohibited)"
		case errno == syscall.ENETUNREACH:
			return "network unreachable: this host has no route"
		case hostsFault(errno):
			return "could not ask: " + errno.Error()
		}
		return errno.Error()
	}
	var body *unfinished
	switch {
	case timeout && errors.As(err, &body):
		return fmt.Sprintf("the body does not end within %v, %d bytes came", within, body.bytes)
	case errors.Is(err, io.ErrUnexpectedEOF) && errors.As(err, &body):
		return fmt.Sprintf("connection closed after %d bytes of the body", body.bytes)
	case timeout && dialing && e.Mark != 0:
		return fmt.Sprintf("no connection to the VIP within %v", within)
	case timeout && dialing:
		return fmt.Sprintf("no connection within %v", within)
	case timeout, errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %v", within)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed in the middle of the answer"
	case errors.Is(err, io.EOF):
		return "connection closed without an answer"
	}
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		return "no TLS: the answer is something else"
	}
	if isAlert(err) {
		_, alert, _ := strings.Cut(err.Error(), "tls: ")
		return "TLS alert: " + alert
	}
	text := err.Error()
	for _, prefix := range []string{"net/http: ", "HTTP/1.x transport connection broken: ", "net/http: ", "http2: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return text
}

// isAlert reports whether the other side broke off TLS, and said why.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// hostsFault reports whether it was this host that could not ask.
func hostsFault(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE,
		syscall.EPERM, syscall.EAFNOSUPPORT} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// clean makes one line of at most limit bytes of a text that may come from a
// server: no control characters, nothing that changes the direction of writing,
// no bytes that are not UTF-8.
func clean(text string, limit int) string {
	var b strings.Builder
	gap := false
	for _, r := range text {
		switch {
		case unicode.IsSpace(r):
			gap = b.Len() > 0
			continue
		case r == utf8.RuneError, !unicode.IsGraphic(r):
			r = '?'
		}
		if gap {
			b.WriteByte(' ')
			gap = false
		}
		b.WriteRune(r)
		if b.Len() > limit {
			break
		}
	}
	out := b.String()
	if len(out) <= limit {
		return out
	}
	const more = "…"
	end := limit - len(more)
	for end > 0 && !utf8.RuneStart(out[end]) {
		end--
	}
	return out[:end] + more
}

// quote is what a server said, as part of a reason.
func quote[T string | []byte](text T) string {
	return `"` + clean(string(text[:min(len(text), 400)]), 80) + `"`
}
