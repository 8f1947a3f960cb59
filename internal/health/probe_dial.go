// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn is a connection that ends with its context: nothing on it takes longer.
type conn struct {
	net.Conn
	stop func() bool
}

func (c conn) Close() error {
	c.stop()
	return c.Conn.Close()
}

// dial connects to the endpoint by "tcp" or "udp". A connection of TCP is closed
// with a reset: a director that checks a thousand servers a second would run out
// of ports in TIME_WAIT. So whoever has something to say at the end says it before.
func dial(ctx context.Context, network string, e Endpoint) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1, LocalAddr: anyPort(network, e), Control: func(_, _ string, raw syscall.RawConn) error {
		return control(raw, func(fd int) error { return prepare(fd, network, e) })
	}}
	c, err := d.DialContext(ctx, network, netip.AddrPortFrom(e.RIP, e.Port).String())
	if err != nil {
		return nil, err
	}
	return bound(ctx, c), nil
}

// once gives a connection to a library that wants to make one itself, and would
// try again. What it then says of one that was not made is no reason.
func once(c net.Conn) func() (net.Conn, error) {
	given := make(chan net.Conn, 1)
	given <- c
	return func() (net.Conn, error) {
		select {
		case c := <-given:
			return c, nil
		default:
			return nil, net.ErrClosed
		}
	}
}

// bound gives a connection the end of its context.
func bound(ctx context.Context, c net.Conn) net.Conn {
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline) // a socket that has none of it fails at the first read
	}
	return conn{c, context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })}
}

// anyPort is what a socket is bound to before it connects: the kernel then gives
// it a port that no other socket has. Ports that it gives while connecting are
// shared by connections to different servers, and what is sent to the VIP by
// marks would be one connection to all who look at ports only. Of the VIP on this
// host what comes from the VIP is asked there: else a director that is its own
// client would have the check balanced as clients are.
func anyPort(network string, e Endpoint) net.Addr {
	ip := net.IPv4zero
	switch {
	case e.Local:
		ip = e.RIP.AsSlice() // which is the VIP
	case e.RIP.Is6() && !e.RIP.Is4In6():
		ip = net.IPv6unspecified
	}
	if network == "udp" {
		return &net.UDPAddr{IP: ip}
	}
	return &net.TCPAddr{IP: ip}
}

// prepare sets a socket's options before it is bound.
func prepare(fd int, network string, e Endpoint) error {
	if e.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(e.Mark)); err != nil {
			return notAsked(errors.New("no right to set a mark (CAP_NET_ADMIN): " + err.Error()))
		}
	}
	if e.Mark != 0 && e.Device != "" {
		if err := unix.BindToDevice(fd, e.Device); err != nil {
			return notAsked(errors.New("interface " + e.Device + ": " + err.Error()))
		}
	}
	if network == "tcp" {
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	// Without these, of all ICMP errors only "port unreachable" is told.
	if e.RIP.Unmap().Is4() {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
}

func control(raw syscall.RawConn, f func(fd int) error) error {
	var err error
	if failed := raw.Control(func(fd uintptr) { err = f(int(fd)) }); failed != nil {
		return failed
	}
	return err
}
