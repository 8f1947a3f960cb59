// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
)

// udp sends a datagram, empty if none is given. Without an expected answer the
// server is well unless an ICMP error comes: the host does not know more, and a
// server sends such errors at a limited rate.
func (p *Prober) udp(ctx context.Context, t TalkCheck, e Endpoint) error {
	want, err := p.expected(t.Expect, t.Pattern)
	if err != nil {
		return err
	}
	c, err := dial(ctx, "udp", e)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, t.Send); err != nil {
		return unreachable(err)
	}
	buf := make([]byte, mostTalk)
	n, err := c.Read(buf)
	switch {
	case want.anything() && (err == nil || errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(ctx.Err(), context.Canceled)):
		return nil // an answer, or silence to the end
	case err != nil:
		return unreachable(err)
	}
	return want.in(buf[:n], "the answer")
}

// unreachable says what a refused connection means where there are none.
func unreachable(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return &failure{"ICMP port unreachable: nothing listens on the port", err}
	}
	return err
}
