// SPDX-License-Identifier: MIT

package announce

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Claim is what someone else said in an ARP packet: this address is at this MAC.
type Claim struct {
	Interface string
	Addr      netip.Addr
	MAC       net.HardwareAddr
	// Conflict: the address is one of our VIPs, and the MAC is not ours. It is
	// false for a real server's answer.
	Conflict bool
}

// Watcher listens on one interface, with one socket, and can ask through it.
type Watcher struct {
	socket   *socket
	interest atomic.Pointer[interest]
}

type interest struct{ vips, rips map[netip.Addr]bool }

// NewWatcher opens the socket; the caller calls Run and at last Close. The
// interface's MAC address is read now: make a new Watcher when it changes.
func NewWatcher(iface string) (*Watcher, error) {
	s, err := open(iface)
	if err != nil {
		return nil, err
	}
	w := &Watcher{socket: s}
	w.Follow(nil, nil)
	return w, nil
}

// Follow says which addresses matter from now on: our VIPs and the real
// servers' addresses. It may be called at any time, from any goroutine.
func (w *Watcher) Follow(vips, rips []netip.Addr) {
	in := &interest{vips: map[netip.Addr]bool{}, rips: map[netip.Addr]bool{}}
	for _, a := range vips {
		in.vips[a] = true
	}
	for _, a := range rips {
		in.rips[a] = true
	}
	w.interest.Store(in)
}

// Ask sends one request for a real server's MAC address, from the address
// source, and does not wait: the answer comes as a Claim, and the kernel sees
// it too. With a MAC the request goes only there, which disturbs nobody else;
// with nil to everyone. It may be called from any goroutine.
func (w *Watcher) Ask(source, rip netip.Addr, mac net.HardwareAddr) error {
	if err := speakable(source, rip); err != nil {
		return err
	}
	return w.socket.request(source, rip, mac)
}

// Announce sends one round of gratuitous ARP for a VIP, in both forms, at once.
// It may be called from any goroutine.
func (w *Watcher) Announce(vip netip.Addr) error {
	if err := speakable(vip); err != nil {
		return err
	}
	return w.socket.announce(vip)
}

// Run reports, until ctx is done, each ARP packet in which someone else claims
// one of the VIPs and each packet in which a real server names its MAC address.
// It calls report from its own goroutine, one claim after the other. It returns
// nil when ctx is done or Close was called, and ErrLink when the interface was
// removed; it goes on when the interface is down for a while.
func (w *Watcher) Run(ctx context.Context, report func(Claim)) error {
	stop := context.AfterFunc(ctx, func() { w.socket.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 128)
	for {
		// A link that goes down and then away says only the first, so the
		// socket is looked at now and then.
		if err := w.socket.conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil && ctx.Err() == nil &&
			!errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("interface %s: receive ARP: %w", w.socket.iface, err)
		}
		if ctx.Err() != nil {
			return nil
		}
		p, err := w.socket.receive(buf)
		switch {
		case ctx.Err() != nil, errors.Is(err, os.ErrClosed), errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && w.socket.bound():
			continue
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENODEV):
			return fmt.Errorf("interface %s: %w: it was removed", w.socket.iface, ErrLink)
		case err != nil:
			return fmt.Errorf("interface %s: receive ARP: %w", w.socket.iface, err)
		}
		c := Claim{Interface: w.socket.iface, Addr: p.SenderAddr, MAC: p.SenderMAC}
		in := w.interest.Load()
		switch {
		case in.vips[p.SenderAddr]:
			c.Conflict = true
			report(c)
		case in.rips[p.SenderAddr]:
			report(c)
		}
	}
}

// Close closes the socket and ends Run.
func (w *Watcher) Close() error { return w.socket.close() }
