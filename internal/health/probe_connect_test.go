// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"
)

// TestNoConnection has each kind that makes connections tell those that are not
// made from those that are, and on which nothing is said.
func TestNoConnection(t *testing.T) {
	t.Parallel()
	e := full(t)
	p := NewProber()
	var all sync.WaitGroup
	for _, c := range []Check{{Kind: TCP}, {Kind: HTTP}, {Kind: HTTPS}, {Kind: HTTP2}, {Kind: HTTP2, HTTP: HTTPCheck{Plain: true}}, {Kind: TLS}, {Kind: GRPC},
		{Kind: GRPC, GRPC: GRPCCheck{Plain: true}}, {Kind: DNS, DNS: DNSCheck{TCP: true}}, {Kind: SMTP}, {Kind: MySQL}, {Kind: PostgreSQL}, {Kind: Redis}} {
		c.Timeout = quick
		all.Go(func() {
			if err := p.Probe(context.Background(), c, e); err == nil || err.Error() != "no connection within 200ms" {
				t.Errorf("%s (%+v): %v", c.Kind, c, err)
			}
		})
	}
	all.Wait()
}

// full is where a program listens that takes no connections, with as many waiting
// as may: to others the kernel does not answer.
func full(t *testing.T) Endpoint {
	t.Helper()
	s, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(s) })
	if err := syscall.Bind(s, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(s, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(s)
	if err != nil {
		t.Fatal(err)
	}
	at := name.(*syscall.SockaddrInet4)
	addr := &net.TCPAddr{IP: at.Addr[:], Port: at.Port}
	conn, err := net.DialTCP("tcp", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return endpoint(addr)
}
