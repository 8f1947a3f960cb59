// SPDX-License-Identifier: MIT

package director

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/shunt-lvs/shunt/internal/dataplane"
)

func TestVLANSettings(t *testing.T) {
	for _, c := range []struct {
		name string
		v    dataplane.VLAN
		ok   bool
	}{
		{"v100", dataplane.VLAN{Parent: "eth0", ID: 100}, true},
		{"v100", dataplane.VLAN{Parent: "eth0", ID: 4094}, true},
		{"v100", dataplane.VLAN{Parent: "eth0", ID: 4095}, false},
		{"v100", dataplane.VLAN{Parent: "eth0", ID: 0}, false},
		{"v100", dataplane.VLAN{ID: 100}, false},
		{"", dataplane.VLAN{Parent: "eth0", ID: 100}, false},
		{"eth0", dataplane.VLAN{Parent: "eth0", ID: 100}, false},
	} {
		s := Settings{Interfaces: []string{"v100"}, VIPs: []netip.Addr{netip.MustParseAddr("172.16.16.172")},
			VLANs: map[string]dataplane.VLAN{c.name: c.v}}
		if err := s.validate(); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrSettings) {
			t.Errorf("%s=%s/%d: %v", c.name, c.v.Parent, c.v.ID, err)
		}
	}
}
