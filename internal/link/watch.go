// SPDX-License-Identifier: MIT

package link

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Topic is a kind of kernel state that can be watched.
type Topic int

// The topics.
const (
	LinkChanges      Topic = iota + 1 // an interface appeared, changed or went
	AddressChanges                    // an address appeared or went
	NeighbourChanges                  // a neighbour entry appeared, changed or went
	RulesetChanges                    // something in nftables changed
)

// Event says that something changed. It is a hint to look again, except for
// neighbours, where it carries the new state.
type Event struct {
	Topic Topic
	// Lost: the kernel had to drop events of this kind of subscription, so
	// everything may have changed; the other fields mean nothing.
	Lost bool
	// Gone: the thing was removed.
	Gone bool
	// Index is the interface's, except for RulesetChanges.
	Index int
	// Neighbour is set for NeighbourChanges.
	Neighbour Neighbour
}

// Watch subscribes to changes in the network namespace of the calling thread.
// Events come until ctx is done or the subscription fails; then the channel is
// closed. An event that is not read in time is not lost silently: an Event with
// Lost comes in its place. To miss nothing, subscribe first, then read the
// present state.
func Watch(ctx context.Context, topics ...Topic) (<-chan Event, error) {
	var route, filter []uint
	for _, t := range topics {
		switch t {
		case LinkChanges:
			route = append(route, unix.RTNLGRP_LINK)
		case AddressChanges:
			route = append(route, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
		case NeighbourChanges:
			route = append(route, unix.RTNLGRP_NEIGH)
		case RulesetChanges:
			filter = append(filter, unix.NFNLGRP_NFTABLES)
		}
	}
	var sockets []*nl.NetlinkSocket
	for _, s := range []struct {
		protocol int
		groups   []uint
	}{{unix.NETLINK_ROUTE, route}, {unix.NETLINK_NETFILTER, filter}} {
		if len(s.groups) == 0 {
			continue
		}
		sock, err := nl.Subscribe(s.protocol, s.groups...)
		if err != nil {
			for _, s := range sockets {
				s.Close()
			}
			return nil, fmt.Errorf("subscribe to kernel network events: %w", err)
		}
		sockets = append(sockets, sock)
	}
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, func() {
		for _, s := range sockets {
			s.Close()
		}
	})
	events := make(chan Event, 64)
	done := make(chan struct{}, len(sockets))
	for _, s := range sockets {
		go func() {
			receive(ctx, s, events)
			done <- struct{}{}
		}()
	}
	go func() {
		// One socket's end is the end of the whole subscription.
		defer close(events)
		defer cancel()
		for i := range sockets {
			<-done
			if i == 0 {
				cancel()
			}
		}
	}()
	return events, nil
}

func receive(ctx context.Context, s *nl.NetlinkSocket, events chan<- Event) {
	for {
		msgs, from, err := s.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			if !send(ctx, events, Event{Lost: true}) {
				return
			}
			continue
		}
		if err != nil {
			return
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		for _, m := range msgs {
			if e, ok := event(m); ok && !send(ctx, events, e) {
				return
			}
		}
	}
}

func send(ctx context.Context, events chan<- Event, e Event) bool {
	select {
	case events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

func event(m syscall.NetlinkMessage) (Event, bool) {
	if m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES {
		return Event{Topic: RulesetChanges}, true
	}
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(m.Data) < unix.SizeofIfInfomsg {
			return Event{}, false
		}
		return Event{Topic: LinkChanges, Gone: m.Header.Type == unix.RTM_DELLINK,
			Index: int(nl.DeserializeIfInfomsg(m.Data).Index)}, true
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(m.Data) < unix.SizeofIfAddrmsg {
			return Event{}, false
		}
		return Event{Topic: AddressChanges, Gone: m.Header.Type == unix.RTM_DELADDR,
			Index: int(nl.DeserializeIfAddrmsg(m.Data).Index)}, true
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		if len(m.Data) < unix.SizeofNdMsg {
			return Event{}, false
		}
		n, err := netlink.NeighDeserialize(m.Data)
		if err != nil || (n.Family != unix.AF_INET && n.Family != unix.AF_INET6) {
			return Event{}, false
		}
		e, ok := neighbour(*n)
		return Event{Topic: NeighbourChanges, Gone: m.Header.Type == unix.RTM_DELNEIGH, Index: n.LinkIndex, Neighbour: e}, ok
	}
	return Event{}, false
}
