// SPDX-License-Identifier: MIT

package announce

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Claim is what someone else said by ARP or NDP: this address is at this MAC.
type Claim struct {
	Interface string
	Addr      netip.Addr
	// MAC is nil when a real server confirms that it has the address where it
	// was asked for it, and does not repeat where: Linux does so when it is
	// asked for an IPv6 address at its known MAC. It is never nil in a conflict.
	MAC net.HardwareAddr
	// Conflict: the address is one of our VIPs, and the MAC is not ours. It is
	// false for a real server's answer.
	Conflict bool
}

// Watcher listens on one interface, with one socket for each of ARP and NDP, and
// can ask through them.
type Watcher struct {
	arp, ndp *socket
	interest atomic.Pointer[interest]
}

type interest struct{ vips, rips map[netip.Addr]bool }

// NewWatcher opens the sockets; the caller calls Run and at last Close. The
// interface's MAC address is read now: make a new Watcher when it changes.
func NewWatcher(iface string) (*Watcher, error) {
	a, err := open(iface, arp())
	if err != nil {
		return nil, err
	}
	n, err := open(iface, ndp())
	if err != nil {
		return nil, errors.Join(err, a.close())
	}
	w := &Watcher{arp: a, ndp: n}
	w.Follow(nil, nil)
	return w, nil
}

// socketFor returns the one in whose protocol an address is spoken of.
func (w *Watcher) socketFor(a netip.Addr) *socket {
	if a.Is4() {
		return w.arp
	}
	return w.ndp
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
// source (for IPv6 best the interface's link-local one, see Resolve), and does
// not wait: the answer comes as a Claim, and the kernel sees it too. With a MAC
// the request goes only there, which disturbs nobody else; with nil to everyone.
// It may be called from any goroutine.
func (w *Watcher) Ask(source, rip netip.Addr, mac net.HardwareAddr) error {
	if err := askable(source, rip); err != nil {
		return err
	}
	return w.socketFor(rip).request(source, rip, mac)
}

// Announce sends one round of announcements for a VIP, in all forms there are,
// at once. It may be called from any goroutine.
func (w *Watcher) Announce(vip netip.Addr) error {
	if err := speakable(vip); err != nil {
		return err
	}
	return w.socketFor(vip).announce(vip)
}

// Run reports, until ctx is done, each packet in which someone else claims one
// of the VIPs and each packet in which a real server says that it has its
// address. Of IPv6 also a probe for one of the VIPs is a claim: whoever sends
// one takes the address unless it hears no. Report is called for one claim after
// the other, never twice at once. Run returns nil when ctx is done or Close was
// called, and ErrLink when the interface was removed; it goes on when the
// interface is down for a while.
func (w *Watcher) Run(ctx context.Context, report func(Claim)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var one sync.Mutex
	ended := make(chan error, 2)
	for _, s := range []*socket{w.arp, w.ndp} {
		go func() {
			ended <- w.listen(ctx, s, func(c Claim) {
				one.Lock()
				defer one.Unlock()
				report(c)
			})
		}()
	}
	first := <-ended
	cancel()
	if second := <-ended; first == nil {
		return second
	}
	return first
}

func (w *Watcher) listen(ctx context.Context, s *socket, report func(Claim)) error {
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, bufferLen)
	for {
		// A link that goes down and then away says only the first, so the
		// socket is looked at now and then.
		if err := s.conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil && ctx.Err() == nil &&
			!errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("interface %s: receive %s: %w", s.iface, s.name, err)
		}
		if ctx.Err() != nil {
			return nil
		}
		st, err := s.receive(buf)
		switch {
		case ctx.Err() != nil, errors.Is(err, os.ErrClosed), errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && s.bound():
			continue
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENODEV):
			return fmt.Errorf("interface %s: %w: it was removed", s.iface, ErrLink)
		case err != nil:
			return fmt.Errorf("interface %s: receive %s: %w", s.iface, s.name, err)
		}
		in := w.interest.Load()
		switch {
		case in.vips[st.claims]:
			report(Claim{Interface: s.iface, Addr: st.claims, MAC: st.sender(), Conflict: true})
		case st.probes.Is6() && in.vips[st.probes]:
			report(Claim{Interface: s.iface, Addr: st.probes, MAC: st.sender(), Conflict: true})
		case in.rips[st.claims]:
			report(Claim{Interface: s.iface, Addr: st.claims, MAC: st.mac})
		}
	}
}

// Close closes the sockets and ends Run.
func (w *Watcher) Close() error { return errors.Join(w.arp.close(), w.ndp.close()) }
