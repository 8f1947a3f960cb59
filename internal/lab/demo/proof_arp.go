// SPDX-License-Identifier: MIT

package demo

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// proveOneOwner asks everyone on the wire for the VIP's MAC.
func (s *show) proveOneOwner(ctx context.Context) error {
	s.report.title("Proof, taken from the wire")
	tap, err := s.TapARP()
	if err != nil {
		return err
	}
	// Each node handles what it receives in order. So once it has answered for
	// its own address, asked for last, it has had its say about the VIP.
	asked := []*lab.Node{s.Director}
	asked = append(asked, s.RealServers...)
	if err := s.Client.WhoHas(lab.VIP()); err != nil {
		return err
	}
	for _, n := range asked {
		if err := s.Client.WhoHas(n.Addr()); err != nil {
			return err
		}
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, n := range asked {
		_, err := tap.Wait(wait, func(f lab.Frame) bool {
			return f.Port == n.Name() && f.FromNode && f.ARP != nil && f.ARP.Operation == lab.ARPReply && f.ARP.Sender == n.Addr()
		})
		if err != nil {
			return fmt.Errorf("%s does not answer for its own address %v: %w", n.Name(), n.Addr(), err)
		}
	}
	frames, err := tap.Close()
	if err != nil {
		return err
	}
	answers := map[lab.MAC]int{}
	for _, f := range frames {
		if f.ARP != nil && f.FromNode && f.ARP.Operation == lab.ARPReply && f.ARP.Sender == lab.VIP() {
			answers[f.ARP.SenderMAC]++
		}
	}
	only := len(answers) == 1 && answers[lab.MAC(s.Director.MAC())] > 0
	s.report.proof("one owner", only, fmt.Sprintf("who has %v? Answers: %s", lab.VIP(), s.names(answers)))
	return s.forgetNeighbours()
}

// forgetNeighbours lets the real servers ask for the client's MAC when they have
// to answer it for the first time, as they would without our questions. It is
// then that a real server which is set up wrong asks in the VIP's name.
func (s *show) forgetNeighbours() error {
	for _, rs := range s.RealServers {
		if err := rs.ForgetNeighbours(); err != nil {
			return err
		}
	}
	return nil
}

// proveNobodyElseClaimed looks at all ARP since before the director started: an
// answer that nobody asked for, or a request sent in the VIP's name, would turn
// a neighbour's table just as well.
func (s *show) proveNobodyElseClaimed(context.Context) error {
	frames, err := s.claims.Close()
	if err != nil {
		return err
	}
	claims, all := map[lab.MAC]int{}, 0
	for _, f := range frames {
		if f.ARP == nil {
			continue
		}
		if f.FromNode {
			all++
		}
		// In either direction: some nodes came later, and their ports are not tapped.
		if f.ARP.Sender == lab.VIP() {
			claims[f.ARP.SenderMAC]++
		}
	}
	only := len(claims) == 1 && claims[lab.MAC(s.Director.MAC())] > 0
	s.report.title("And all the while")
	s.report.proof("ARP stayed clean", only, fmt.Sprintf("of %s sent, those in the VIP's name came from: %s",
		count(all, "ARP frame"), s.names(claims)))
	return nil
}

// names lists MACs with whose they are.
func (s *show) names(macs map[lab.MAC]int) string {
	if len(macs) == 0 {
		return "nobody"
	}
	var out []string
	for _, m := range slices.SortedFunc(maps.Keys(macs), func(a, b lab.MAC) int { return slices.Compare(a[:], b[:]) }) {
		whose := "a stranger"
		for _, n := range s.Nodes() {
			if m.Is(n.MAC()) {
				whose = n.Name()
			}
		}
		out = append(out, fmt.Sprintf("%v (%s)", m, whose))
	}
	return strings.Join(out, ", ")
}
