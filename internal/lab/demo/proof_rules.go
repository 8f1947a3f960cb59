// SPDX-License-Identifier: MIT

package demo

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// proveAnyAddress adds a real server with an address of another network, which
// is on the same wire, and takes it out again when it has answered.
func (s *show) proveAnyAddress(ctx context.Context) error {
	const name = "any address"
	rs, err := s.Add(elsewhereRS, elsewhere)
	if err != nil {
		return err
	}
	reference := netip.PrefixFrom(lab.VIP(), 24).Masked()
	for _, r := range []struct {
		n   *lab.Node
		dst netip.Prefix
	}{{s.Director, elsewhere.Masked()}, {s.Client, elsewhere.Masked()}, {rs, reference}} {
		if err := r.n.Route(r.dst, netip.Addr{}); err != nil {
			return err
		}
	}
	s.report.quiet(true)
	defer s.report.quiet(false)
	if err := s.startServer(ctx, rs, s.method(0)); err != nil {
		return err
	}
	if err := s.run(ctx, s.Director, "ipvsadm", "-a", "-t", service(), "-r", at(rs), "-g", "-w", "1"); err != nil {
		s.report.proof(name, false, err.Error())
		return nil
	}
	// The new one has the fewest connections, so wlc takes it soon.
	b := newBrowser(s.Client, false)
	var who string
	for i := 0; i < requests && who != rs.Name() && err == nil; i++ {
		who, err = b.get(ctx, "/")
	}
	says := fmt.Sprintf("%s at %v, in no network of the VIP's: answered", rs.Name(), rs.Addr())
	if who != rs.Name() {
		says = fmt.Sprintf("%s at %v never answered (%v)", rs.Name(), rs.Addr(), err)
	}
	s.report.proof(name, who == rs.Name(), says)
	return s.run(ctx, s.Director, "ipvsadm", "-d", "-t", service(), "-r", at(rs))
}

// proveRefusals asks for what direct routing cannot do.
func (s *show) proveRefusals(ctx context.Context) error {
	rules := func() (string, error) { return s.output(ctx, s.Director, "ipvsadm", "-S", "-n") }
	before, err := rules()
	if err != nil {
		return err
	}
	// A network that the director reaches through a gateway, whoever that is.
	if err := s.Director.Route(behind, s.Client.Addr()); err != nil {
		return err
	}
	beyond := netip.AddrPortFrom(behind.Addr().Next(), port)
	mapped := netip.AddrPortFrom(s.RealServers[0].Addr(), mappedPort)
	for _, try := range []struct {
		name, what string
		rip        netip.AddrPort
	}{{"one network", "behind a router", beyond}, {"no port mapping", "on another port", mapped}} {
		args := []string{"ipvsadm", "-a", "-t", service(), "-r", try.rip.String(), "-g", "-w", "1"}
		said, ok := s.refused(ctx, s.Director, args...)
		after, err := rules()
		if err != nil {
			return err
		}
		says := fmt.Sprintf("-r %v, %s, is refused:", try.rip, try.what)
		if !ok {
			says = fmt.Sprintf("-r %v, %s, is not refused as it should be:", try.rip, try.what)
		}
		s.report.proof(try.name, ok && before == after, says)
		s.report.detail(said)
		if before == after {
			continue
		}
		s.report.detail("and now the rules are:\n" + after)
		// It would swallow connections, and that the rest could not be shown for.
		if err := s.run(ctx, s.Director, "ipvsadm", "-d", "-t", service(), "-r", try.rip.String()); err != nil {
			return err
		}
	}
	return nil
}
