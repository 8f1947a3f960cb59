// SPDX-License-Identifier: MIT

package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// settle is how long the director may keep a packet.
const settle = time.Second

// requests is how many the proof of the way makes, each on a connection of its own.
const requests = 100

// proveForwarding makes requests and looks at each frame of them.
func (s *show) proveForwarding(ctx context.Context) error {
	tap, err := s.Tap(s.Client, s.Director)
	if err != nil {
		return err
	}
	answered := map[string]int{}
	var failures []error
	b := newBrowser(s.Client, false)
	for range requests {
		who, err := b.get(ctx, "/page")
		if err != nil {
			if failures = append(failures, err); len(failures) == 3 {
				break // it does not work; three times the patience is enough
			}
			continue
		}
		answered[who]++
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	pairs := s.pairs(tap)
	frames, err := tap.Close()
	if err != nil {
		return err
	}
	s.proveSplit(answered, failures)
	s.proveDirectReplies(frames)
	s.proveOnlyMACAndTTL(pairs)
	return nil
}

// pairs is what passed the director's port up to a moment at which it had sent
// on as many packets as it had received: a packet that is just inside would look
// like a lost one. If there is no such moment for a while, it is all there was.
func (s *show) pairs(tap *lab.Tap) (frames []lab.Frame) {
	for end := time.Now().Add(settle); time.Now().Before(end); time.Sleep(settle / 100) {
		frames = tap.Frames()
		inside := 0
		for _, f := range frames {
			switch {
			case !s.atDirector(f):
			case f.FromNode:
				inside--
			default:
				inside++
			}
		}
		if inside == 0 {
			break
		}
	}
	return slices.DeleteFunc(frames, func(f lab.Frame) bool { return !s.atDirector(f) })
}

// atDirector says whether it is a packet for the service at the director's port.
func (s *show) atDirector(f lab.Frame) bool {
	return f.Port == s.Director.Name() && f.IP != nil && f.IP.Dst == netip.AddrPortFrom(lab.VIP(), port)
}

// proveSplit checks the scheduler's work: equal weights, equal shares.
func (s *show) proveSplit(answered map[string]int, failures []error) {
	fair := len(failures) == 0
	says := fmt.Sprintf("%d requests:", requests)
	for _, rs := range s.RealServers {
		n := answered[rs.Name()]
		says += fmt.Sprintf(" %s %d,", rs.Name(), n)
		share := requests / len(s.RealServers)
		fair = fair && n >= share*8/10 && n <= share*12/10
	}
	says += fmt.Sprintf(" failed %d", len(failures))
	s.report.proof("shared by wlc", fair, says)
	if len(failures) > 0 {
		s.report.detail(errors.Join(failures...).Error())
	}
}

// proveDirectReplies counts what has the VIP as its source where it arrives at
// the client, and where it must not pass.
func (s *show) proveDirectReplies(frames []lab.Frame) {
	var client, director, asked int
	for _, f := range frames {
		switch {
		case f.IP == nil:
		case f.IP.Dst.Addr() == lab.VIP() && f.Port == s.Director.Name() && !f.FromNode:
			asked += f.Length
		case f.IP.Src.Addr() != lab.VIP():
		case f.Port == s.Client.Name() && !f.FromNode:
			client += f.Length
		case f.Port == s.Director.Name():
			director += f.Length
		}
	}
	s.report.proof("replies go around", client > 0 && director == 0,
		fmt.Sprintf("the client got %s bytes of replies; the director saw %s of them, and %s of requests",
			thousands(client), thousands(director), thousands(asked)))
}

// flow tells the packets of one connection from others'.
type flow struct{ src, dst netip.AddrPort }

// proveOnlyMACAndTTL puts each packet that the director received beside the one
// that it sent.
func (s *show) proveOnlyMACAndTTL(frames []lab.Frame) {
	in, out := map[flow][]lab.Frame{}, map[flow][]lab.Frame{}
	var first flow
	for _, f := range frames {
		k := flow{f.IP.Src, f.IP.Dst}
		if f.FromNode {
			out[k] = append(out[k], f)
			continue
		}
		if len(in) == 0 {
			first = k
		}
		in[k] = append(in[k], f)
	}
	packets, wrong := 0, ""
	for k, received := range in {
		sent := out[k]
		packets += len(received)
		if len(sent) != len(received) && wrong == "" {
			wrong = fmt.Sprintf("%v: %d packets received, %d sent on", k.src, len(received), len(sent))
		}
		for i := range min(len(sent), len(received)) {
			if why := s.changed(received[i], sent[i]); why != "" && wrong == "" {
				wrong = fmt.Sprintf("%s:\n%v\n%v", why, received[i], sent[i])
			}
		}
	}
	s.report.proof("only MAC and TTL", packets > 0 && wrong == "",
		fmt.Sprintf("%s through the director: addresses, ports and content unchanged", count(packets, "packet")))
	if wrong != "" {
		s.report.detail(wrong)
	}
	if len(in[first]) > 0 && len(out[first]) > 0 {
		for _, line := range []struct {
			when string
			f    lab.Frame
		}{{"before", in[first][0]}, {"after", out[first][0]}} {
			s.report.detail(fmt.Sprintf("%-6s  MAC %v > %v  TTL %d  IP to %v",
				line.when, line.f.Src, line.f.Dst, line.f.IP.TTL, line.f.IP.Dst))
		}
	}
}

// changed says what is wrong with how the director sent a packet on, or nothing.
func (s *show) changed(in, out lab.Frame) string {
	toServer := slices.ContainsFunc(s.RealServers, func(n *lab.Node) bool { return out.Dst.Is(n.MAC()) })
	a, b := *in.IP, *out.IP
	ttl := a.TTL
	a.TTL, b.TTL = 0, 0
	switch {
	case !in.Src.Is(s.Client.MAC()) || !in.Dst.Is(s.Director.MAC()):
		return "it came with other MACs than the client's and the director's"
	case !out.Src.Is(s.Director.MAC()) || !toServer:
		return "it left with other MACs than the director's and a real server's"
	case out.IP.TTL != ttl-1:
		return "its TTL did not go down by one"
	case a != b || in.Length != out.Length:
		return "it was changed otherwise"
	}
	return ""
}
