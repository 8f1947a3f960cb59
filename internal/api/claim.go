// SPDX-License-Identifier: MIT

package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// claimName is an abstract Unix socket: it lives in a network namespace, not in
// a file system, and goes with the process that holds it. So it is at once the
// lock "one director per network namespace" and the way to find that director.
const claimName = "@shunt/director"

// Holder is the director of a network namespace, as it introduces itself.
type Holder struct {
	Instance string `json:"instance"`
	Socket   string `json:"socket"` // path of its API socket
	PID      int    `json:"-"`      // as the kernel tells it, in our PID namespace; 0: not visible there
}

// Claim is a held claim to be the director of this network namespace.
type Claim struct {
	listener net.Listener
	wait     sync.WaitGroup

	mu     sync.Mutex
	conns  []net.Conn
	closed bool
}

// ClaimNamespace makes this process the director of the calling thread's
// network namespace until Close or its end. If there is one already, the error
// is an ErrRunning that names it.
func ClaimNamespace(h Holder) (*Claim, error) {
	l, err := listenOnce()
	// A holder that was killed at this moment still has the name, and says
	// nothing any more.
	for until := time.Now().Add(dying); errors.Is(err, ErrNotRunning) && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
		l, err = listenOnce()
	}
	if err != nil {
		return nil, err
	}
	hello, err := json.Marshal(h)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	c := &Claim{listener: rootOnly{l}}
	c.wait.Go(func() { c.serve(append(hello, '\n')) })
	return c, nil
}

// dying is how long a killed process may take to give up its sockets.
const dying = 3 * time.Second

// listenOnce takes the name. The error is ErrRunning if a director has it, and
// ErrNotRunning if something has it that does not answer.
func listenOnce() (net.Listener, error) {
	l, err := net.Listen("unix", claimName)
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("claim this network namespace: %w", err)
	}
	h, err := FindHolder()
	if err != nil {
		return nil, fmt.Errorf("the socket %s of this network namespace is in use: %w", claimName, err)
	}
	return nil, fmt.Errorf("%w: instance %q, pid %d, is the director of this network namespace; stop it first (shunt director stop --instance %s)",
		ErrRunning, h.Instance, h.PID, h.Instance)
}

// serve introduces us to whoever asks, and keeps the connection: that it ends
// tells the other side that this process has ended.
func (c *Claim) serve(hello []byte) {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write(hello); err != nil {
			_ = conn.Close()
			continue
		}
		c.keep(conn)
	}
}

func (c *Claim) keep(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = conn.Close()
		return
	}
	c.conns = append(c.conns, conn)
	c.wait.Go(func() {
		_, _ = io.Copy(io.Discard, conn) // until either side closes it
		_ = conn.Close()
		c.drop(conn)
	})
}

func (c *Claim) drop(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = slices.DeleteFunc(c.conns, func(o net.Conn) bool { return o == conn })
}

// Close gives the claim up.
func (c *Claim) Close() error {
	err := c.listener.Close()
	c.mu.Lock()
	c.closed = true
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.mu.Unlock()
	c.wait.Wait()
	return err
}

// FindHolder asks for the director of the calling thread's network namespace.
// If there is none, the error is an ErrNotRunning.
func FindHolder() (Holder, error) {
	h, conn, err := meet()
	if err == nil {
		_ = conn.Close()
	}
	return h, err
}

// AwaitNone returns when this network namespace has no director, or with ctx's
// error.
func AwaitNone(ctx context.Context) error {
	for {
		_, conn, err := meet()
		if errors.Is(err, ErrNotRunning) {
			return nil
		}
		if err != nil {
			return err
		}
		done := context.AfterFunc(ctx, func() { _ = conn.Close() })
		_, _ = io.Copy(io.Discard, conn)
		done()
		_ = conn.Close()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func meet() (_ Holder, _ net.Conn, err error) {
	conn, err := net.DialTimeout("unix", claimName, 2*time.Second)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		return Holder{}, nil, fmt.Errorf("%w in this network namespace", ErrNotRunning)
	}
	if err != nil {
		return Holder{}, nil, fmt.Errorf("ask for this network namespace's director: %w", err)
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	peer, err := peerOf(conn)
	if err != nil {
		return Holder{}, nil, err
	}
	if peer.Uid != 0 {
		return Holder{}, nil, fmt.Errorf("the socket %s of this network namespace is held by pid %d of user %d, who is not root: end that process",
			claimName, peer.Pid, peer.Uid)
	}
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	var h Holder
	line, err := bufio.NewReader(io.LimitReader(conn, 4096)).ReadBytes('\n')
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) { // it ends at this moment, or we are not root
		return Holder{}, nil, fmt.Errorf("%w in this network namespace, or it does not talk to this user", ErrNotRunning)
	}
	if err != nil {
		return Holder{}, nil, fmt.Errorf("this network namespace's director (pid %d) does not introduce itself: %w", peer.Pid, err)
	}
	if err := json.Unmarshal(line, &h); err != nil {
		return Holder{}, nil, fmt.Errorf("this network namespace's director (pid %d): %w", peer.Pid, err)
	}
	_ = conn.SetReadDeadline(time.Time{})
	h.PID = int(peer.Pid)
	return h, conn, nil
}

// rootOnly accepts connections of user 0 only.
type rootOnly struct{ net.Listener }

func (l rootOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if peer, err := peerOf(conn); err == nil && peer.Uid == 0 {
			return conn, nil
		}
		_ = conn.Close()
	}
}

func peerOf(conn net.Conn) (*unix.Ucred, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%T is no Unix connection", conn)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var sockErr error
	if err := raw.Control(func(fd uintptr) {
		cred, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if sockErr != nil {
		return nil, fmt.Errorf("who is on the other side: %w", sockErr)
	}
	return cred, nil
}
