// SPDX-License-Identifier: MIT

package realserver

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/shunt-lvs/shunt/internal/link"
	"golang.org/x/sys/unix"
)

// The owners of journal entries.
const (
	ownerGuard    = "guard"
	ownerRedirect = "redirect"
	ownerVIP      = "vip " // and the address
)

// preflight refuses what cannot work, before anything is changed.
func (s *Server) preflight(want state) error {
	all, err := link.Interfaces()
	if err != nil {
		return err
	}
	for _, v := range want.VIPs {
		for _, i := range all {
			for _, p := range i.Addresses {
				if p.Addr() != v.Addr || i.Loopback && p.IsSingleIP() && v.Method == Loopback {
					continue
				}
				return fmt.Errorf("VIP %v: %w: %s", v.Addr, ErrConflict, s.inTheWay(v, i, p))
			}
		}
	}
	for _, i := range all {
		if i.Loopback && !i.Up && len(want.vips(Loopback)) > 0 {
			return fmt.Errorf("interface %s: %w: it is down, so an address on it accepts nothing; 'ip link set %s up'", i.Name, ErrConflict, i.Name)
		}
	}
	return nil
}

func (s *Server) inTheWay(v VIP, i *link.Interface, p netip.Prefix) string {
	answers, unguarded := "ARP", "method redirect sets no ARP guards"
	if v.Addr.Is6() {
		answers, unguarded = "neighbour solicitations", "so this host answers on the VIP's other ports, too"
	}
	switch {
	case !i.Loopback:
		return fmt.Sprintf("%s has it, so this host answers %s for the VIP; 'ip addr del %v dev %s', or is this the director?", i.Name, answers, p, i.Name)
	case v.Method == Redirect:
		return fmt.Sprintf("%s has it, and %s; 'ip addr del %v dev %s', or use method loopback", i.Name, unguarded, p, i.Name)
	}
	return fmt.Sprintf("%s has it as %v, so the kernel takes all of %v for this host; 'ip addr del %v dev %s'", i.Name, p, p.Masked(), p, i.Name)
}

// apply makes the kernel follow the wanted state; what is right already is left
// alone. The order is the point: an address is never there without its guards.
func (s *Server) apply(j *link.Journal, want state) error {
	if err := s.removeAddresses(j, want); err != nil {
		return err
	}
	if want.guarded() {
		if err := s.setGuards(j, want); err != nil {
			return err
		}
		if err := s.checkGuards(want); err != nil {
			return err
		}
	} else if err := j.Undo(owned(ownerGuard)); err != nil {
		return err
	}
	if err := s.addAddresses(j, want); err != nil {
		return err
	}
	return s.applyRedirect(j, want)
}

func (s *Server) removeAddresses(j *link.Journal, want state) error {
	return j.Undo(func(e link.Entry) bool {
		return strings.HasPrefix(e.Owner, ownerVIP) && !want.has(e.Prefix.Addr(), Loopback)
	})
}

func (s *Server) addAddresses(j *link.Journal, want state) error {
	lo, err := loopback()
	if err != nil {
		return err
	}
	for _, v := range want.vips(Loopback) {
		// Scope host keeps the kernel from choosing an IPv4 VIP as the source of
		// this host's own connections; IPv6 ones the journal takes care of.
		adopted, err := j.AddAddress(ownerVIP+v.Addr.String(), lo.Name, netip.PrefixFrom(v.Addr, v.Addr.BitLen()), unix.RT_SCOPE_HOST)
		if err != nil {
			return err
		}
		if adopted {
			s.log.Debug("the VIP was on lo before: stop will leave it", "vip", v.Addr)
		}
	}
	return nil
}

func loopback() (*link.Interface, error) {
	all, err := link.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if i.Loopback {
			return i, nil
		}
	}
	return nil, fmt.Errorf("the loopback interface: %w", link.ErrNoInterface)
}

func owned(by string) func(link.Entry) bool {
	return func(e link.Entry) bool { return e.Owner == by }
}
