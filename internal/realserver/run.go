// SPDX-License-Identifier: MIT

package realserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/shunt-lvs/shunt/internal/link"
)

// settling is how long Run lets events come in before it looks: one change
// sends several.
const settling = 50 * time.Millisecond

// Run starts the VIPs as Start does, calls ready, and until ctx is done puts
// right, and logs, what is changed by someone else. Then it stops its VIPs as
// Stop does. It also ends, with nil, when another call stops the instance.
func (s *Server) Run(ctx context.Context, vips []VIP, interfaces []string, ready func()) error {
	if len(vips) == 0 {
		return fmt.Errorf("run: %w was named; add --vip", ErrNothing)
	}
	release, err := link.Lock(s.runLockPath(), false)
	if errors.Is(err, link.ErrLocked) {
		return fmt.Errorf("instance %s: %w; use 'start' to add a VIP to it, or another --instance", s.instance, ErrRunning)
	}
	if err != nil {
		return err
	}
	defer release()

	// Subscribed before anything is looked at, so that nothing is missed.
	watching, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	topics := []link.Topic{link.LinkChanges, link.AddressChanges}
	if slices.ContainsFunc(vips, func(v VIP) bool { return v.Method == Redirect }) {
		topics = append(topics, link.RulesetChanges) // a kernel without nftables cannot
	}
	events, err := link.Watch(watching, topics...)
	if err != nil {
		return err
	}
	if err := s.Start(vips, interfaces); err != nil {
		return err
	}
	ready()
	s.log.Info("running", "vips", len(vips))
	gone := s.follow(ctx, events)
	if gone {
		s.log.Info("stopped by another call")
		return nil
	}
	s.log.Info("stopping")
	var addrs []netip.Addr
	for _, v := range vips {
		addrs = append(addrs, v.Addr)
	}
	return s.Stop(addrs)
}

// follow repairs until ctx is done, or (true) the instance was stopped.
func (s *Server) follow(ctx context.Context, events <-chan link.Event) (gone bool) {
	tick := time.NewTicker(s.interval)
	defer tick.Stop()
	last := "" // an error is logged once, not every time
	for {
		select {
		case <-ctx.Done():
			return false
		case _, ok := <-events:
			if !ok {
				s.log.Warn("the kernel's events ended: looking by the clock only", "interval", s.interval)
				events = nil
				continue
			}
			if !drain(ctx, events) {
				continue
			}
		case <-tick.C:
		}
		gone, err := s.repair()
		if gone {
			return true
		}
		if now := fmt.Sprint(err); err == nil {
			last = ""
		} else if now != last {
			s.log.Error("cannot repair", "error", err)
			last = now
		}
	}
}

// drain reads what comes within the settling time. It is false if ctx is done.
func drain(ctx context.Context, events <-chan link.Event) bool {
	quiet := time.NewTimer(settling)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-quiet.C:
			return true
		case _, ok := <-events:
			if !ok {
				return true // the next read notices
			}
		}
	}
}

// repair makes the kernel follow the wanted state again, if it does not, and
// logs each item that was put right.
func (s *Server) repair() (gone bool, err error) {
	err = s.locked(func(j *link.Journal) error {
		want, _, err := s.readState()
		if err != nil {
			return err
		}
		if gone = len(want.VIPs) == 0; gone {
			return nil
		}
		wrong, err := s.wrong(want)
		if err != nil || len(wrong) == 0 {
			return err
		}
		if err := s.apply(j, want); err != nil {
			return err
		}
		still, err := s.wrong(want)
		if err != nil {
			return err
		}
		for name, reason := range wrong {
			if _, ok := still[name]; !ok {
				s.log.Warn("repaired", "item", name, "was", reason)
			}
		}
		for name, reason := range still {
			return fmt.Errorf("%s: %s", name, reason)
		}
		return nil
	})
	return gone, err
}

func (s *Server) wrong(want state) (map[string]string, error) {
	items, err := s.items(want)
	wrong := map[string]string{}
	for _, i := range items {
		if !i.OK {
			wrong[i.Name] = i.Reason
		}
	}
	return wrong, err
}
