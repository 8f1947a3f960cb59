// SPDX-License-Identifier: MIT

package lvs_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

func TestMarkRules(t *testing.T) {
	vip := netip.MustParseAddr("172.16.16.172")
	rule := func(mark uint32, p lvs.Protocol, first, last uint16) lvs.MarkRule {
		return lvs.MarkRule{Mark: mark, Protocol: p, Addr: vip, First: first, Last: last}
	}
	table := lvs.NewTable()
	apply := func(op lvs.Operation, r lvs.MarkRule) error {
		return table.Apply(lvs.Change{Operation: op, Mark: r})
	}
	service := func(op lvs.Operation, id lvs.ServiceID) error {
		return table.Apply(lvs.Change{Operation: op, Service: lvs.VirtualService{ServiceID: id, Scheduler: "rr"}})
	}
	web := rule(7, lvs.TCP, 80, 90)
	for _, r := range []lvs.MarkRule{web, rule(7, lvs.UDP, 80, 80), rule(8, lvs.TCP, 91, 91), rule(9, lvs.TCP, 0, 0)} {
		if err := apply(lvs.AddMark, r); err != nil {
			t.Errorf("%v: %v", r, err)
		}
	}
	for _, r := range []lvs.MarkRule{
		rule(0, lvs.TCP, 1, 1), rule(7, 50, 1, 1), rule(7, lvs.TCP, 9, 8), rule(7, lvs.TCP, 0, 8),
		{Mark: 7, Protocol: lvs.TCP, First: 1, Last: 1}, // no address
		rule(8, lvs.TCP, 90, 95), web, rule(1, lvs.TCP, 0, 0),
	} {
		if err := apply(lvs.AddMark, r); !errors.Is(err, lvs.ErrMark) {
			t.Errorf("%v: %v, want ErrMark", r, err)
		}
	}
	if err := service(lvs.AddService, lvs.ServiceID{Protocol: lvs.TCP, Addr: vip, Port: 85}); !errors.Is(err, lvs.ErrMark) {
		t.Errorf("a service for packets that are marked: %v", err)
	}
	if err := service(lvs.AddService, lvs.ServiceID{Protocol: lvs.TCP, Addr: vip, Port: 443}); err != nil {
		t.Error(err)
	}
	if err := apply(lvs.AddMark, rule(7, lvs.TCP, 400, 500)); !errors.Is(err, lvs.ErrMark) {
		t.Errorf("a mark for packets that have a service: %v", err)
	}
	if err := service(lvs.AddService, web.ServiceID()); err != nil {
		t.Error(err)
	}
	if err := apply(lvs.DeleteMark, rule(7, lvs.TCP, 80, 80)); !errors.Is(err, lvs.ErrMark) {
		t.Errorf("half of a rule: %v", err)
	}
	if err := apply(lvs.DeleteMark, web); err != nil {
		t.Error(err)
	}
	if err := apply(lvs.DeleteMark, rule(7, lvs.UDP, 80, 80)); !errors.Is(err, lvs.ErrMark) {
		t.Errorf("the last rule of a service: %v", err)
	}
	copied := table.Clone()
	if !copied.Equal(table) || len(copied.Marks) != 3 {
		t.Errorf("cloned %v as %v", table.Marks, copied.Marks)
	}
	if err := apply(lvs.DeleteMark, rule(8, lvs.TCP, 91, 91)); err != nil || copied.Equal(table) || len(copied.Marks) != 3 {
		t.Errorf("the clone shares the rules: %v", err)
	}
	if n := len(rule(1, lvs.TCP, 1, 65535).Listeners()); n != 65535 {
		t.Errorf("%d listeners", n)
	}
	if got := rule(7, lvs.TCP, 80, 90).String() + rule(7, lvs.UDP, 53, 53).String(); got != "7 TCP 172.16.16.172:80-907 UDP 172.16.16.172:53" {
		t.Error(got)
	}
}
