// SPDX-License-Identifier: MIT

package realserver

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/shunt-lvs/shunt/internal/link"
)

// guard is one ARP parameter that keeps an interface silent about addresses on
// lo. The kernel goes by the greater one of conf/all and conf/INTERFACE; shunt
// sets the interface's only, because all is everybody's.
type guard struct {
	parameter string
	set       int
	holds     func(effective int) bool
	otherwise string // what the interface does when it does not hold
}

var guards = []guard{
	// 2 is 1 and more, 3 leaves out addresses of scope host, which the VIP is,
	// and 8 answers nothing at all. The kernel takes any other value for 0.
	{"arp_ignore", 1, func(v int) bool { return v == 1 || v == 2 || v == 3 || v == 8 }, "answers ARP requests for the VIP"},
	// The kernel takes a value above 2 for 0.
	{"arp_announce", 2, func(v int) bool { return v == 2 }, "may use the VIP as the sender of its ARP requests"},
}

// guarded lists the interfaces that requests can come in by. An interface that
// is down now is one of them: nobody may be there when it comes up.
func guarded(want state) ([]*link.Interface, error) {
	all, err := link.Interfaces()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(i *link.Interface) bool {
		if len(want.Interfaces) > 0 {
			return !slices.Contains(want.Interfaces, i.Name)
		}
		return i.Loopback || i.NoARP
	}), nil
}

func (s *Server) setGuards(j *link.Journal, want state) error {
	interfaces, err := guarded(want)
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		for _, g := range guards {
			ok, _, err := g.check(i.Name)
			if err == nil && !ok {
				_, err = j.SetSysctl(ownerGuard, g.key(i.Name), strconv.Itoa(g.set))
			}
			if err != nil && !vanished(err) {
				return err
			}
		}
	}
	return nil
}

// checkGuards reads the guards back.
func (s *Server) checkGuards(want state) error {
	interfaces, err := guarded(want)
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		for _, g := range guards {
			ok, reason, err := g.check(i.Name)
			switch {
			case vanished(err):
			case err != nil:
				return err
			case !ok:
				return fmt.Errorf("interface %s: %w: %s", i.Name, ErrGuard, reason)
			}
		}
	}
	s.log.Debug("guards read back", "interfaces", len(interfaces))
	return nil
}

// check tells whether the guard holds on an interface, and why.
func (g guard) check(iface string) (ok bool, reason string, err error) {
	effective, all, own, err := link.EffectiveIPv4(iface, g.parameter)
	if err != nil {
		return false, "", err
	}
	reason = fmt.Sprintf("%s is %d (all %d, %s %d)", g.parameter, effective, all, iface, own)
	switch {
	case g.holds(effective):
		return true, reason, nil
	case g.holds(max(all, g.set)):
		return false, fmt.Sprintf("%s, so it %s; %d is wanted", reason, g.otherwise, g.set), nil
	}
	return false, fmt.Sprintf("%s, so it %s, and all counts whatever %s has; 'sysctl net.ipv4.conf.all.%s=%d'",
		reason, g.otherwise, iface, g.parameter, g.set), nil
}

func (g guard) key(iface string) string { return "ipv4/conf/" + iface + "/" + g.parameter }

// vanished: the interface went while we were looking at it.
func vanished(err error) bool {
	return errors.Is(err, link.ErrNoSysctl) || errors.Is(err, link.ErrNoInterface)
}
