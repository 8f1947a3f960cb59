// SPDX-License-Identifier: MIT

package lvs

import (
	"encoding/json"
	"net/netip"
	"testing"
)

// TestSeedIsNotSaved: another seed makes another table, so that it is put to work; but
// nothing of it is written down, and no edit by a rule has one.
func TestSeedIsNotSaved(t *testing.T) {
	table := NewTable()
	id := ServiceID{Protocol: TCP, Addr: netip.MustParseAddr("172.16.16.172"), Port: 80}
	r := RealServer{ServerID: ServerID{Addr: netip.MustParseAddr("172.16.16.177"), Port: 80}, Forward: DirectRouting, Weight: 1}
	for _, c := range []Change{
		{Operation: AddService, Service: VirtualService{ServiceID: id, Scheduler: LeastConnection}},
		{Operation: AddServer, Service: VirtualService{ServiceID: id}, Server: r},
	} {
		if err := table.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	seeded := table.Clone()
	seeded.Services[0].Servers[0].Seed = 7
	if seeded.Equal(table) || seeded.Services[0].Equal(table.Services[0]) {
		t.Error("a table with a seed is equal to one without")
	}
	a, err := json.Marshal(table)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(seeded)
	if err != nil || string(a) != string(b) {
		t.Errorf("%v: saved as\n%s\nand as\n%s", err, a, b)
	}
}
