// SPDX-License-Identifier: MIT

package lvs

import (
	"encoding/json"
	"errors"
	"testing"
)

func TestPolicyRefused(t *testing.T) {
	web, dns, mark := tcp("172.16.16.1:80"), udp("172.16.16.1:53"), ServiceID{Mark: 7}
	sctp := with(web, func(id *ServiceID) { id.Protocol = SCTP })
	reuse1, _ := ConnReuseOf(1)
	persistent := func(s *VirtualService) { s.Flags, s.Timeout, s.Netmask = FlagPersistent, 300, 1<<32-1 }
	for _, c := range []struct {
		name   string
		id     ServiceID
		policy Policy
		more   func(*VirtualService)
		ok     bool
	}{
		{"strays of TCP", web, Policy{Stray: StrayReset}, nil, true},
		{"strays of SCTP", sctp, Policy{Stray: StrayDrop}, nil, true},
		{"strays of UDP", dns, Policy{Stray: StrayPass}, nil, false},
		{"strays of a mark", mark, Policy{Stray: StrayPass}, nil, true},
		{"no such way", web, Policy{Stray: 4}, nil, false},
		{"reuse", web, Policy{ConnReuse: reuse1}, nil, true},
		{"reuse of UDP", dns, Policy{ConnReuse: reuse1}, nil, false},
		{"mode 4", web, Policy{ConnReuse: 6}, nil, false},
		{"removed servers' connections of UDP", dns, Policy{KeepNodest: true}, nil, true},
		{"templates", dns, Policy{KeepTemplate: true}, persistent, true},
		{"templates without persistence", web, Policy{KeepTemplate: true}, nil, false},
		{"secure TCP", web, Policy{SecureTCP: true}, nil, true},
		{"secure SCTP", sctp, Policy{SecureTCP: true}, nil, false},
	} {
		s := service(c.id)
		s.Policy = c.policy
		if c.more != nil {
			c.more(&s)
		}
		if err := NewTable().Apply(add(s)); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestPolicyJSON: nothing of the default is written, and what is written comes
// back.
func TestPolicyJSON(t *testing.T) {
	for mode := range uint8(4) {
		reuse, ok := ConnReuseOf(mode)
		if !ok || reuse.Mode() != mode {
			t.Errorf("mode %d becomes %d", mode, reuse.Mode())
		}
		for stray := range Stray(4) {
			in := service(tcp("172.16.16.1:80"))
			in.Policy = Policy{Stray: stray, ConnReuse: reuse, SecureTCP: mode == 1, KeepNodest: stray == 1, KeepTemplate: stray == 2}
			text, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			var out VirtualService
			if err := json.Unmarshal(text, &out); err != nil || !out.Equal(&in) {
				t.Errorf("%s comes back as %+v: %v", text, out, err)
			}
			if plain := service(tcp("172.16.16.1:80")); in.Policy != (Policy{}) && in.Equal(&plain) {
				t.Errorf("%s equals the default", text)
			}
		}
	}
	text, err := json.Marshal(Policy{Stray: StrayReset})
	if err != nil || string(text) != `{"stray":"reset"}` {
		t.Errorf("reset is %s: %v", text, err)
	}
	for _, bad := range []string{`{"stray":"sloppy"}`, `{"stray":1}`, `{"conn_reuse_mode":"4"}`, `{"conn_reuse_mode":"-1"}`, `{"conn_reuse_mode":""}`} {
		var p Policy
		if err := json.Unmarshal([]byte(bad), &p); err == nil {
			t.Errorf("%s is taken as %+v", bad, p)
		}
	}
	if _, ok := ConnReuseOf(4); ok {
		t.Error("mode 4 is taken")
	}
}
