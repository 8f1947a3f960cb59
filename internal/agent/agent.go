// SPDX-License-Identifier: MIT

package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options says what an agent measures, and who may know.
type Options struct {
	Listen netip.AddrPort // TCP
	Secret Secret         // see ReadSecret

	Report   string        // one of Kinds
	Interval time.Duration // how often it measures; 0: 1 s

	// Command prints the load, of the kind Script: a number in percent, alone or
	// with a "%", as the first word of its output. User is whose rights it has
	// (empty: nobody). It has the larger of Interval and 5 s to do so.
	Command []string
	User    string

	// VIPs and Ports say which connections count, of the kind Connections: those
	// to one of these addresses or ports of this host. Full is how many of them
	// are 100 percent; 0: 1000.
	VIPs  []netip.Addr
	Ports []uint16
	Full  int

	// StateFile is where SetState writes; empty: the state is always Up.
	StateFile string

	Log *slog.Logger // nil: none
}

// Agent is a real server's side.
type Agent struct {
	Options
	listener net.Listener
	measure  measurement

	mu      sync.Mutex
	latest  Report
	peers   []net.Conn // being served, the oldest first
	quietTo time.Time  // no word in the log before about who has another secret
}

// The limits of who asks.
const (
	maxPeers = 64              // at a time; one more, and the oldest has to go
	patience = 5 * time.Second // for one
)

// New checks the options and listens. Run does the rest, and closes.
func New(o Options) (*Agent, error) {
	if len(o.Secret.key) == 0 {
		return nil, errors.New("agent: no secret")
	}
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	if o.Full <= 0 {
		o.Full = 1000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m, err := o.measurement()
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	l, err := net.Listen("tcp", o.Listen.String())
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	return &Agent{Options: o, listener: l, measure: m,
		latest: Report{State: Up, Kind: o.Report, Problem: "not measured yet", At: time.Now()}}, nil
}

// Addr is where it listens.
func (a *Agent) Addr() netip.AddrPort { return addrPort(a.listener.Addr()) }

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// Run measures and answers until ctx ends, which is no error.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, a.close)
	defer stop()
	defer a.close()

	work.Go(func() { a.measureAll(ctx) })
	for {
		c, err := a.listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("agent: %w", err)
		case err != nil: // too many files, or the peer is gone already
			a.Log.Warn("the agent cannot take a connection", "reason", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		a.admit(c)
		work.Go(func() {
			defer a.dismiss(c)
			if err := a.serve(c); err != nil {
				a.complain(c, err)
			}
		})
	}
}

// admit makes room for a peer. Who asks is done in no time; so who is there
// longest only keeps others away.
func (a *Agent) admit(c net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.peers) >= maxPeers {
		_ = a.peers[0].Close()
		a.peers = slices.Delete(a.peers, 0, 1)
	}
	a.peers = append(a.peers, c)
}

func (a *Agent) dismiss(c net.Conn) {
	_ = c.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.peers = slices.DeleteFunc(a.peers, func(p net.Conn) bool { return p == c })
}

func (a *Agent) close() {
	_ = a.listener.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.peers {
		_ = c.Close()
	}
}

// serve answers one question.
func (a *Agent) serve(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	in := bufio.NewReaderSize(c, maxMessage)
	line, err := readMessage(in)
	if err != nil {
		return err
	}
	other, err := word(line, greeting)
	if err != nil {
		return err
	}
	own := newNonce()
	if _, err := fmt.Fprintf(c, "nonce %x\n", own); err != nil {
		return err
	}
	if line, err = readMessage(in); err != nil {
		return err
	}
	proof, err := word(line, "proof")
	if err != nil {
		return err
	}
	if !mac(proof).equal(a.Secret.sign(directorLabel, other, own, nil)) {
		_, err := fmt.Fprintln(c, refused)
		return errors.Join(ErrSecret, err)
	}
	text, err := a.report().encode(addrPort(c.LocalAddr()), time.Now())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c, "report %x %s\n", a.Secret.sign(agentLabel, other, own, text), text)
	return err
}

// complain says why a peer got no report. Anybody can make it say so; so it does
// not do it often.
func (a *Agent) complain(c net.Conn, err error) {
	if !errors.Is(err, ErrSecret) {
		a.Log.Debug("a peer of the agent was not served", "peer", c.RemoteAddr(), "reason", err)
		return
	}
	a.mu.Lock()
	now := time.Now()
	quiet := now.Before(a.quietTo)
	if !quiet {
		a.quietTo = now.Add(10 * time.Second)
	}
	a.mu.Unlock()
	if !quiet {
		a.Log.Warn("who asked the agent has another secret: the file of the director and the one here have to be the same", "peer", c.RemoteAddr())
	}
}

// report gives what was measured last, with the state of now.
func (a *Agent) report() Report {
	a.mu.Lock()
	r := a.latest
	a.mu.Unlock()
	if a.StateFile == "" {
		return r
	}
	s, err := ReadState(a.StateFile)
	r.State = s
	if err != nil {
		r.Problem = strings.TrimPrefix(r.Problem+"; "+err.Error(), "; ")
	}
	return r
}
