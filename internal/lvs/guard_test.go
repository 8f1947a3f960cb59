// SPDX-License-Identifier: MIT

package lvs

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"testing"
)

func deny(id ServiceID, op Operation, p netip.Prefix) Change {
	return Change{Operation: op, Service: VirtualService{ServiceID: id}, Deny: p}
}

// TestDeny: a list is in order and has each prefix once; edits of the service
// keep it; what cannot be on it is refused, and changes nothing.
func TestDeny(t *testing.T) {
	four, six := tcp("172.16.16.1:80"), tcp("[2001:db8::1]:80")
	table := NewTable()
	for _, id := range []ServiceID{four, six} {
		if err := table.Apply(add(service(id))); err != nil {
			t.Fatal(err)
		}
	}
	prefix := netip.MustParsePrefix
	for _, c := range []struct {
		id     ServiceID
		op     Operation
		prefix netip.Prefix
		want   error
	}{
		{four, AddDeny, prefix("192.0.2.0/24"), nil},
		{four, AddDeny, prefix("10.0.0.0/8"), nil},
		{four, AddDeny, prefix("192.0.2.0/25"), nil}, // in the one that is there
		{four, AddDeny, prefix("0.0.0.0/0"), nil},
		{four, AddDeny, prefix("192.0.2.0/24"), ErrDeny},
		{four, AddDeny, prefix("192.0.2.1/24"), ErrDeny},
		{four, AddDeny, prefix("2001:db8::/32"), ErrDeny},
		{four, AddDeny, netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 104), ErrDeny},
		{four, AddDeny, netip.Prefix{}, ErrDeny},
		{six, AddDeny, prefix("2001:db8::/32"), nil},
		{six, AddDeny, prefix("10.0.0.0/8"), ErrDeny},
		{four, DeleteDeny, prefix("0.0.0.0/0"), nil},
		{four, DeleteDeny, prefix("0.0.0.0/0"), ErrDeny},
		{six, DeleteDeny, prefix("10.0.0.0/8"), ErrDeny},
		{tcp("172.16.16.9:80"), AddDeny, prefix("10.0.0.0/8"), ErrNoService},
		{tcp("172.16.16.9:80"), DeleteDeny, prefix("10.0.0.0/8"), ErrNoService},
	} {
		before := table.Clone()
		err := table.Apply(deny(c.id, c.op, c.prefix))
		if !errors.Is(err, c.want) || err != nil && !table.Equal(before) || err == nil && table.Equal(before) {
			t.Errorf("%s %v of %v: %v", c.op, c.prefix, c.id, err)
		}
	}
	want := []netip.Prefix{prefix("10.0.0.0/8"), prefix("192.0.2.0/24"), prefix("192.0.2.0/25")}
	if err := table.Apply(Change{Operation: EditService, Service: service(four)}); err != nil {
		t.Fatal(err)
	}
	s := table.Service(four)
	if !slices.Equal(s.Deny, want) {
		t.Errorf("the list is %v, want %v", s.Deny, want)
	}
	clone := s.Clone()
	if err := table.Apply(deny(four, DeleteDeny, want[0])); err != nil || !slices.Equal(clone.Deny, want) || clone.Equal(s) {
		t.Errorf("a clone's list is %v: %v", clone.Deny, err)
	}
	text, err := json.Marshal(table)
	var back Table
	if err == nil {
		err = json.Unmarshal(text, &back)
	}
	if err != nil || !back.Equal(table) {
		t.Errorf("%s comes back otherwise: %v", text, err)
	}
	if err := table.Apply(Change{Operation: DeleteService, Service: VirtualService{ServiceID: four}}); err != nil {
		t.Fatal(err)
	}
	if err := table.Apply(add(service(four))); err != nil || len(table.Service(four).Deny) != 0 {
		t.Errorf("a new service has the list of an old one: %v", err)
	}
}

// TestSourceLimitText: what is written comes back, and nothing else is taken.
func TestSourceLimitText(t *testing.T) {
	for text, want := range map[string]SourceLimit{"1": {1, 1}, "20": {20, 20}, "20:40": {20, 40}, "10000:1": {10000, 1}, "1:10000": {1, 10000}} {
		var got SourceLimit
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want || got.String() != text {
			t.Errorf("%q is %v (%+v): %v", text, got, got, err)
		}
	}
	for _, text := range []string{"", "0", "0:1", "1:0", "10001", "1:10001", "-1", "+1", "1:", ":1", "1:2:3", "20/s", " 1", "4294967297"} {
		got := SourceLimit{7, 7}
		if err := got.UnmarshalText([]byte(text)); !errors.Is(err, ErrInvalid) || got != (SourceLimit{7, 7}) {
			t.Errorf("%q is taken as %v: %v", text, got, err)
		}
	}
	for _, l := range []SourceLimit{{0, 1}, {1, 0}, {MaxSourceLimit + 1, 1}, {1, MaxSourceLimit + 1}} {
		s := service(tcp("172.16.16.1:80"))
		s.Policy.SourceLimit = l
		if err := NewTable().Apply(add(s)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	text, err := json.Marshal(Policy{SourceLimit: SourceLimit{20, 40}})
	if err != nil || string(text) != `{"source_limit":"20:40"}` {
		t.Errorf("20:40 is %s: %v", text, err)
	}
}
