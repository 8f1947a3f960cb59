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
	"time"
)

// ErrSecret: the other side has another secret, or none.
var ErrSecret = errors.New("the secret differs")

// Dial makes a connection, as net.Dialer.DialContext does.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// Ask asks the agent at addr for its report, within ctx. The error wraps ErrSecret
// if the agent does not know the secret, or refused ours.
func Ask(ctx context.Context, dial Dial, addr netip.AddrPort, secret Secret) (Report, error) {
	r, err := within(ctx, dial, addr, func(c net.Conn) (Report, error) { return ask(c, addr, secret) })
	if errors.Is(err, ErrSecret) {
		return r, fmt.Errorf("%w from that of the agent at %v: both files have to be the same", err, addr)
	}
	if err != nil {
		return r, fmt.Errorf("agent at %v: %w", addr, err)
	}
	return r, nil
}

// within connects, and does something with the connection for as long as ctx goes.
func within[T any](ctx context.Context, dial Dial, addr netip.AddrPort, do func(net.Conn) (T, error)) (T, error) {
	c, err := dial(ctx, "tcp", addr.String())
	if err != nil {
		var none T
		return none, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	answer, err := do(c)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return answer, err
}

func ask(c net.Conn, addr netip.AddrPort, secret Secret) (Report, error) {
	own, in := newNonce(), bufio.NewReaderSize(c, maxMessage)
	if _, err := fmt.Fprintf(c, "%s %x\n", greeting, own); err != nil {
		return Report{}, err
	}
	line, err := readMessage(in)
	if err != nil {
		return Report{}, closed(err)
	}
	other, err := word(line, "nonce")
	if err != nil {
		return Report{}, err
	}
	if _, err := fmt.Fprintf(c, "proof %x\n", secret.sign(directorLabel, own, other, nil)); err != nil {
		return Report{}, err
	}
	switch line, err = readMessage(in); {
	case err != nil:
		return Report{}, closed(err)
	case line == refused:
		return Report{}, ErrSecret
	}
	proof, text, err := splitReport(line)
	switch {
	case err != nil:
		return Report{}, err
	case !proof.equal(secret.sign(agentLabel, own, other, text)):
		return Report{}, ErrSecret
	}
	return decode(text, addr, time.Now())
}

// closed says what an end of the connection means.
func closed(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("it closed the connection without an answer")
	}
	return err
}
