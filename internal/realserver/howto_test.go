// SPDX-License-Identifier: MIT

package realserver

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/link"
)

// The usual shell scripts for a real server have defects. One test for each that
// is about a real server shows that shunt does not have it.

// Defect 1: the VIP came on lo with a /24, so the host took its neighbours and
// its gateway for itself and went dark.
func TestHowToDefect01LoopbackMaskIs32(t *testing.T) {
	there := host(t)
	there(func() { serveTCP(t, "172.16.16.173:80") })
	s := server(t, nil)
	start(t, s, VIP{Addr: vip, Method: Loopback})
	lo, err := loopback()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range lo.Addresses {
		if p.Addr() == vip && p.Bits() != 32 {
			t.Errorf("the VIP is %v", p)
		}
	}
	if out := labtest.IP(t, "route show table local dev lo"); strings.Contains(out, "172.16.16.0/24") {
		t.Errorf("the network is local: %s", out)
	}
	here := func(f func()) { f() }
	if got, err := askTCP(here, "172.16.16.173:80"); err != nil || got != "served at 172.16.16.173:80" {
		t.Errorf("a neighbour: %q, %v", got, err)
	}
	if _, err := ParseAddr("172.16.16.172/24"); !errors.Is(err, ErrInvalid) {
		t.Errorf("a /24 VIP: %v", err)
	}
}

// Defect 3: status compared two constant strings and always said "Stopped".
func TestHowToDefect03StatusComesFromTheKernel(t *testing.T) {
	host(t)
	s := server(t, nil)
	want := func(c Condition) {
		t.Helper()
		if st, err := s.Status(); err != nil || st.Condition != c {
			t.Errorf("%v, want %s; %v", st, c, err)
		}
	}
	want(Stopped)
	start(t, s, VIP{Addr: vip, Method: Loopback})
	want(Running)
	labtest.IP(t, "addr del 172.16.16.172/32 dev lo")
	want(Partly)
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	want(Stopped)
}

// Defect 4: status looked for an alias that routes never show, and for the VIP as
// a regular expression, so that .17 was found in .172.
func TestHowToDefect04StatusComparesWholeAddresses(t *testing.T) {
	host(t)
	s := server(t, nil)
	start(t, s, VIP{Addr: addr("172.16.16.17"), Method: Loopback})
	if st, err := s.Status(); err != nil || st.Condition != Running {
		t.Errorf("%+v, %v", st, err)
	}
	labtest.IP(t, "addr del 172.16.16.17/32 dev lo")
	labtest.IP(t, "addr add 172.16.16.172/32 dev lo")
	if st, err := s.Status(); err != nil || st.Condition != Partly || st.Items[0].OK {
		t.Errorf("172.16.16.172 passes for 172.16.16.17: %+v, %v", st, err)
	}
}

// Defect 5: start took lo down and up, which ends local connections and removes
// what else was on it.
func TestHowToDefect05LoIsNeverBounced(t *testing.T) {
	host(t)
	labtest.IP(t, "addr add 10.9.9.9/32 dev lo")
	labtest.IP(t, "-6 addr add fd00::9/128 dev lo")
	labtest.IP(t, "route add 198.51.100.0/24 dev lo") // goes when lo goes down
	events, err := link.Watch(t.Context(), link.LinkChanges)
	if err != nil {
		t.Fatal(err)
	}
	before := labtest.IP(t, "addr show lo") + labtest.IP(t, "-6 addr show lo") + labtest.IP(t, "route")
	s := server(t, nil)
	for range 2 {
		start(t, s, VIP{Addr: vip, Method: Loopback})
		start(t, s, VIP{Addr: vip, Method: Loopback})
		if err := s.Stop(nil); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "lo", before, labtest.IP(t, "addr show lo")+labtest.IP(t, "-6 addr show lo")+labtest.IP(t, "route"))
	labtest.IP(t, "link add eth1 type veth peer name peer1") // an event that comes after all others
	eth1, err := link.InterfaceByName("eth1")
	if err != nil {
		t.Fatal(err)
	}
	lo, err := loopback()
	if err != nil {
		t.Fatal(err)
	}
	for e := range events {
		if e.Index == lo.Index {
			t.Error("lo changed")
		}
		if e.Index == eth1.Index {
			break
		}
	}
}

// Defect 6: nothing set the VIP in the script, so it ran commands without one.
func TestHowToDefect06AMissingVIPIsAnError(t *testing.T) {
	host(t)
	t.Setenv("VIP", vip.String()) // no guessing from the environment either
	before := snapshot(t)
	s := server(t, nil)
	if err := s.Start(nil, nil); !errors.Is(err, ErrNothing) {
		t.Errorf("start without a VIP: %v", err)
	}
	if err := s.Start([]VIP{{Method: Loopback}}, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("start of an empty VIP: %v", err)
	}
	if _, err := ParseAddr(""); !errors.Is(err, ErrInvalid) {
		t.Errorf("an empty text: %v", err)
	}
	same(t, "after the refusals", before, snapshot(t))
}

// Defect 7: stop wrote 0 to the guards, whatever the administrator had there and
// whatever other VIPs needed.
func TestHowToDefect07StopRestoresTheGuards(t *testing.T) {
	host(t)
	labtest.IP(t, "link add eth1 type veth peer name peer1")
	labtest.SetSysctl(t, "ipv4/conf/eth0/arp_ignore", "2")
	labtest.SetSysctl(t, "ipv4/conf/eth0/arp_announce", "1")
	labtest.SetSysctl(t, "ipv4/conf/default/arp_announce", "1")
	labtest.SetSysctl(t, "ipv4/conf/lo/arp_ignore", "1")
	before := snapshot(t)
	s := server(t, nil)
	other := addr("172.16.16.170")
	start(t, s, VIP{Addr: vip, Method: Loopback}, VIP{Addr: other, Method: Loopback})
	if err := s.Stop([]netip.Addr{vip}); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"eth0/arp_ignore": "2", "eth0/arp_announce": "2", "eth1/arp_ignore": "1", "eth1/arp_announce": "2"} {
		if v := labtest.Sysctl(t, "ipv4/conf/"+key); v != want {
			t.Errorf("%s is %s while a VIP remains, want %s", key, v, want)
		}
	}
	if err := s.Stop([]netip.Addr{other}); err != nil {
		t.Fatal(err)
	}
	same(t, "after stop", before, snapshot(t))
}

// atEachStep is a log handler that looks at the host at each step.
type atEachStep struct {
	slog.Handler
	look func(step string)
}

func (a atEachStep) Enabled(context.Context, slog.Level) bool { return true }
func (a atEachStep) WithAttrs([]slog.Attr) slog.Handler       { return a }
func (a atEachStep) Handle(_ context.Context, r slog.Record) error {
	a.look(r.Message)
	return nil
}

// Defect 8: the VIP was added before the guards were set, so for a while the host
// answered and announced it.
func TestHowToDefect08GuardsBeforeTheVIP(t *testing.T) {
	host(t)
	steps, withVIP := 0, 0
	s := server(t, slog.New(atEachStep{slog.DiscardHandler, func(step string) {
		steps++
		if !onLo(t, vip) {
			return
		}
		withVIP++
		if i, a := labtest.Sysctl(t, "ipv4/conf/eth0/arp_ignore"), labtest.Sysctl(t, "ipv4/conf/eth0/arp_announce"); i != "1" || a != "2" {
			t.Errorf("after %q the VIP is there with arp_ignore %s, arp_announce %s", step, i, a)
		}
	}}))
	start(t, s, VIP{Addr: vip, Method: Loopback})
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	if steps < 10 || withVIP < 2 || withVIP == steps {
		t.Errorf("%d steps were looked at, %d with the VIP", steps, withVIP)
	}
}

// Defect 13: the script depended on one distribution's tools and on the name eth0.
func TestHowToDefect13NoToolsAndNoInterfaceNames(t *testing.T) {
	there := host(t)
	labtest.IP(t, "link set eth0 down")
	labtest.IP(t, "link set eth0 name lan.7") // a dot, which sysctl's own notation cannot have
	labtest.IP(t, "link set lan.7 up")
	labtest.Carrier(t, "lan.7")
	before := snapshot(t)
	s := server(t, nil)
	path := os.Getenv("PATH")
	t.Setenv("PATH", "/nowhere")
	start(t, s, both...)
	t.Setenv("PATH", path)
	if answered(t, there, vip) {
		t.Error("lan.7 answers ARP for the VIP")
	}
	t.Setenv("PATH", "/nowhere")
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", path)
	same(t, "after stop", before, snapshot(t))

	unit, err := os.ReadFile("../../packaging/systemd/shunt-realserver.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Type=notify", "ExecStart=/usr/bin/shunt realserver run", "WantedBy=multi-user.target"} {
		if !strings.Contains(string(unit), want) {
			t.Errorf("the systemd unit lacks %s", want)
		}
	}
}

// Defect 14: a route was added for an address that is local anyway.
func TestHowToDefect14NoRouteForALocalAddress(t *testing.T) {
	host(t)
	before := labtest.IP(t, "route show table main")
	s := server(t, nil)
	start(t, s, VIP{Addr: vip, Method: Loopback})
	same(t, "table main", before, labtest.IP(t, "route show table main"))
	if out := labtest.IP(t, "route show table local "+vip.String()); strings.Count(out, "local "+vip.String()) != 1 {
		t.Errorf("table local: %s", out)
	}
}

// Defect 15: some of the set-up came back after a boot, from two owners, and the
// real server's none.
func TestHowToDefect15OneSourceOfTruthAfterABoot(t *testing.T) {
	host(t)
	s := server(t, nil)
	start(t, s, both...)
	want := snapshot(t)
	reboot(t, s)
	if st, err := s.Status(); err != nil || st.Condition != Stopped {
		t.Errorf("%+v, %v", st, err)
	}
	start(t, s)
	same(t, "after the boot and start", want, snapshot(t))
	start(t, s) // loading it twice adds nothing
	same(t, "after another start", want, snapshot(t))
}

// Defect 16: the VIP had a broadcast address, which got a route of its own, and
// as a secondary address it went with another one.
func TestHowToDefect16NoBroadcastAndNotSecondary(t *testing.T) {
	host(t)
	labtest.IP(t, "addr add 172.16.16.99/32 dev lo")
	s := server(t, nil)
	start(t, s, VIP{Addr: vip, Method: Loopback})
	for _, l := range strings.Split(labtest.IP(t, "-o addr show dev lo"), "\n") {
		if strings.Contains(l, vip.String()) && (strings.Contains(l, "brd") || strings.Contains(l, "secondary") || !strings.Contains(l, "scope host")) {
			t.Errorf("the VIP is %s", l)
		}
	}
	if out := labtest.IP(t, "route show table local type broadcast"); strings.Contains(out, vip.String()) {
		t.Errorf("broadcast routes: %s", out)
	}
	labtest.IP(t, "addr del 172.16.16.99/32 dev lo")
	if !onLo(t, vip) {
		t.Error("the VIP went with another address")
	}
}
