// SPDX-License-Identifier: MIT

package link

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// pair puts the test on the director's side of a link, eth0; it returns what runs
// a function on the real server's, peer0.
func pair(t *testing.T) func(func()) {
	t.Helper()
	return labtest.Pair(t, labtest.Director, labtest.RealServer)
}

func TestInterface(t *testing.T) {
	pair(t)
	i, err := InterfaceByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if i.Name != "eth0" || i.Index == 0 || i.MTU != 1500 || !i.Up || i.Loopback || len(i.MAC) != 6 ||
		len(i.Addresses) == 0 || i.Addresses[0] != prefix("172.16.16.173/24") {
		t.Errorf("eth0 is %+v", i)
	}
	if !i.Has(addr("172.16.16.173")) || i.Has(addr("172.16.16.17")) {
		t.Error("Has does not compare whole addresses")
	}
	same, err := InterfaceByIndex(i.Index)
	if err != nil || same.Name != "eth0" {
		t.Errorf("by index: %+v, %v", same, err)
	}
	lo, err := InterfaceByName("lo")
	if err != nil || !lo.Loopback {
		t.Errorf("lo is %+v, %v", lo, err)
	}
	if _, err := InterfaceByName("eth7"); !errors.Is(err, ErrNoInterface) {
		t.Errorf("eth7: %v", err)
	}
	all, err := Interfaces()
	if err != nil || len(all) != 2 {
		t.Errorf("interfaces: %v, %v", all, err)
	}
}

func TestOnLink(t *testing.T) {
	pair(t)
	labtest.IP(t, "route add 203.0.113.9/32 dev eth0") // another prefix, but on the link
	labtest.IP(t, "route add 198.51.100.0/24 via 172.16.16.1")
	labtest.IP(t, "route add blackhole 192.0.2.0/24")
	labtest.IP(t, "route add 2001:db8:77::9/128 dev eth0")
	labtest.IP(t, "route add 2001:db8:51::/64 via 2001:db8:16::1")
	labtest.IP(t, "route add 2001:db8:52::/64 via fe80::1 dev eth0")
	labtest.IP(t, "route add 198.51.101.0/24 via inet6 fe80::1 dev eth0")
	labtest.IP(t, "route add blackhole 2001:db8:2::/64")
	labtest.IP(t, "route add prohibit 2001:db8:3::/64")
	for _, c := range []struct {
		rip  string
		want error
		says string
	}{
		{"172.16.16.177", nil, ""},
		{"203.0.113.9", nil, ""},
		{"198.51.100.7", ErrNotOnLink, "router 172.16.16.1"},
		{"192.0.2.1", ErrNotOnLink, "no route"},
		{"10.9.9.9", ErrNotOnLink, "no route"},
		{"172.16.16.173", ErrLocal, ""},
		{"127.0.0.1", ErrLocal, ""},
		{"172.16.16.255", ErrNotOnLink, "not unicast"},
		{"224.0.0.1", ErrNotOnLink, "unicast"},
		{"0.0.0.0", ErrNotOnLink, "unicast"},
		{"198.51.101.7", ErrNotOnLink, "router fe80::1"},
		{"2001:db8:16::177", nil, ""},
		{"2001:db8:77::9", nil, ""},
		{"2001:db8:51::7", ErrNotOnLink, "router 2001:db8:16::1"},
		{"2001:db8:52::7", ErrNotOnLink, "router fe80::1"},
		{"2001:db8:2::1", ErrNotOnLink, "no route"},
		{"2001:db8:3::1", ErrNotOnLink, "ip route add 2001:db8:3::1/128 dev INTERFACE"},
		{"2001:db8:99::1", ErrNotOnLink, "no route"},
		{"2001:db8:16::173", ErrLocal, ""},
		{"::1", ErrLocal, ""},
		{"ff02::1", ErrNotOnLink, "unicast"},
		{"::", ErrNotOnLink, "unicast"},
		{"fe80::177", ErrNotOnLink, "which link"},
		{"fe80::177%eth0", ErrNotOnLink, "which link"},
	} {
		r, err := OnLink(addr(c.rip))
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v, want %v with %q", c.rip, err, c.want, c.says)
		}
		source := addr("172.16.16.173")
		if addr(c.rip).Is6() {
			source = addr("2001:db8:16::173")
		}
		if c.want == nil && (r.Interface != "eth0" || r.Index == 0 || r.Source != source) {
			t.Errorf("%s: route %+v", c.rip, r)
		}
	}
}

func TestSysctlFollowsTheThreadsNamespace(t *testing.T) {
	pair(t)
	const key = "ipv4/conf/eth0/arp_ignore"
	if err := setSysctl(key, "1"); err != nil {
		t.Fatal(err)
	}
	if v, err := Sysctl(key); err != nil || v != "1" {
		t.Errorf("eth0.arp_ignore = %q, %v", v, err)
	}
	if err := setSysctl("ipv4/conf/all/arp_ignore", "2"); err != nil {
		t.Fatal(err)
	}
	effective, all, own, err := EffectiveIPv4("eth0", "arp_ignore")
	if err != nil || effective != 2 || all != 2 || own != 1 {
		t.Errorf("effective %d, all %d, own %d, %v", effective, all, own, err)
	}
	for _, key := range []string{"ipv4/conf/eth7/arp_ignore", "../kernel/hostname", "/etc/passwd", ""} {
		if _, err := Sysctl(key); !errors.Is(err, ErrNoSysctl) {
			t.Errorf("read %q: %v", key, err)
		}
		if err := setSysctl(key, "1"); !errors.Is(err, ErrNoSysctl) {
			t.Errorf("write %q: %v", key, err)
		}
	}
	if err := setSysctl(key, "no number"); err == nil {
		t.Error("the kernel took a word for a number")
	}
}

func TestSysctlOfAnotherNamespaceIsAnother(t *testing.T) {
	there := pair(t)
	if err := setSysctl("ipv4/conf/all/arp_ignore", "2"); err != nil {
		t.Fatal(err)
	}
	there(func() {
		if v, err := Sysctl("ipv4/conf/all/arp_ignore"); err != nil || v != "0" {
			t.Errorf("there: %q, %v", v, err)
		}
	})
}

func TestHereTellsNamespacesApart(t *testing.T) {
	labtest.InNamespace(t)
	_, there := labtest.OtherNamespace(t)
	a, err := Here()
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := Here(); a != b || a.Boot == "" || a.Cookie == 0 || a.Inode == 0 {
		t.Errorf("here is %+v, then %+v", a, b)
	}
	there(func() {
		if b, err := Here(); err != nil || b.Cookie == a.Cookie || b.Inode == a.Inode || b.Boot != a.Boot {
			t.Errorf("there is %+v, %v; here %+v", b, err, a)
		}
	})
}

// waitFor returns the first event that is wanted.
func waitFor(t *testing.T, events <-chan Event, what string, wanted func(Event) bool) Event {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("the events ended before %s", what)
			}
			if wanted(e) {
				return e
			}
		case <-late:
			t.Fatalf("no event: %s", what)
		}
	}
}

func TestNeighbours(t *testing.T) {
	for family, rip := range map[string]string{"ipv4": "172.16.16.177", "ipv6": "2001:db8:16::177"} {
		t.Run(family, func(t *testing.T) { testNeighbours(t, family, addr(rip)) })
	}
}

func testNeighbours(t *testing.T, family string, rip netip.Addr) {
	there := pair(t)
	var mac string
	there(func() {
		i, err := InterfaceByName("peer0")
		if err != nil {
			t.Fatal(err)
		}
		mac = i.MAC.String()
	})
	eth0, err := InterfaceByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NeighbourOf(eth0.Index, rip); !errors.Is(err, ErrNoNeighbour) {
		t.Fatalf("before anything: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	events, err := Watch(ctx, NeighbourChanges)
	if err != nil {
		t.Fatal(err)
	}
	resolved := func(e Event) bool {
		return e.Index == eth0.Index && e.Neighbour.Addr == rip && e.Neighbour.MAC.String() == mac && e.Neighbour.State == NeighbourReachable
	}

	if err := Resolve(eth0.Index, rip); err != nil {
		t.Fatal(err)
	}
	waitFor(t, events, "the entry is resolved", resolved)
	n, err := NeighbourOf(eth0.Index, rip)
	if err != nil || n.MAC.String() != mac || !n.State.Valid() || n.Managed {
		t.Errorf("resolved entry is %+v, %v", n, err)
	}

	// The real server changes its MAC address. Asking the old one finds out
	// that it is gone, and asking again gets the new one.
	if err := setSysctl(family+"/neigh/eth0/retrans_time_ms", "20"); err != nil {
		t.Fatal(err)
	}
	there(func() {
		labtest.IP(t, "link set peer0 address 02:00:00:00:00:99")
		labtest.IP(t, "link set peer0 arp on")
	})
	mac = "02:00:00:00:00:99"
	if err := Resolve(eth0.Index, rip); err != nil {
		t.Fatal(err)
	}
	waitFor(t, events, "the old MAC failed", func(e Event) bool {
		return e.Neighbour.Addr == rip && e.Neighbour.State == NeighbourFailed
	})
	if err := Resolve(eth0.Index, rip); err != nil {
		t.Fatal(err)
	}
	waitFor(t, events, "the new MAC", resolved)

	labtest.IP(t, "neigh del "+rip.String()+" dev eth0")
	waitFor(t, events, "the entry has gone", func(e Event) bool {
		return e.Neighbour.Addr == rip && (e.Gone || !e.Neighbour.State.Valid())
	})

	cancel()
	for range events { // ends, or the test does not
	}
}

func TestResolveLeavesPermanentEntriesAlone(t *testing.T) {
	pair(t)
	labtest.IP(t, "neigh add 172.16.16.200 lladdr 02:00:00:00:00:01 dev eth0 nud permanent")
	eth0, err := InterfaceByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := Resolve(eth0.Index, addr("172.16.16.200")); err != nil {
		t.Fatal(err)
	}
	n, err := NeighbourOf(eth0.Index, addr("172.16.16.200"))
	if err != nil || n.State != NeighbourPermanent || n.MAC.String() != "02:00:00:00:00:01" {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestWatchSeesLinksAndAddresses(t *testing.T) {
	labtest.InNamespace(t)
	events, err := Watch(t.Context(), LinkChanges, AddressChanges, RulesetChanges)
	if err != nil {
		t.Fatal(err)
	}
	labtest.IP(t, "link add veth0 type veth peer name veth1")
	i, err := InterfaceByName("veth0")
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, events, "veth0 appears", func(e Event) bool { return e.Topic == LinkChanges && e.Index == i.Index && !e.Gone })
	labtest.IP(t, "addr add 172.16.16.1/24 dev veth0")
	waitFor(t, events, "its address appears", func(e Event) bool { return e.Topic == AddressChanges && e.Index == i.Index && !e.Gone })
	labtest.IP(t, "addr del 172.16.16.1/24 dev veth0")
	waitFor(t, events, "its address goes", func(e Event) bool { return e.Topic == AddressChanges && e.Index == i.Index && e.Gone })
	makeTable(t, "watched")
	waitFor(t, events, "the ruleset changes", func(e Event) bool { return e.Topic == RulesetChanges })
	labtest.IP(t, "link del veth0")
	waitFor(t, events, "veth0 goes", func(e Event) bool { return e.Topic == LinkChanges && e.Index == i.Index && e.Gone })
}
