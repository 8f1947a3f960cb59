// SPDX-License-Identifier: MIT

package e2e

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// startBoth is a start with a VIP of each family.
func (d *instance) startBoth(t testing.TB, args ...string) result {
	t.Helper()
	return d.start(t, append([]string{"--vip", lab.VIP6().String()}, args...)...)
}

func TestAnIPv6VIPComesAndGoes(t *testing.T) {
	d := newInstance(t, lab.Options{})
	before := snapshot(t, d)
	d.startBoth(t).want(t, 0)
	during := snapshot(t, d)
	var changed []string
	for what := range during {
		if before[what] != during[what] {
			changed = append(changed, what)
		}
	}
	slices.Sort(changed)
	want := []string{"/proc/sys/net/ipv4/conf/eth0/send_redirects", "addresses", "addresses6", "links", "pins", "routes", "routes6"}
	if !slices.Equal(changed, want) {
		t.Errorf("a start changes %q; want %q", changed, want)
	}
	if !strings.Contains(during["addresses6"], lab.VIP6().String()+"/128 ") {
		t.Errorf("addresses: %s", during["addresses6"])
	}
	// The director's own connections come from its own address.
	c, err := d.Client.ListenPacket("udp", netip.AddrPortFrom(d.Client.Addr6(), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := d.node.Dial(t.Context(), "udp", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); got != d.node.Addr6() {
		t.Errorf("the director sends from %v", got)
	}
	// Whoever asks for the VIP finds the director.
	tap, err := d.TapNDP(d.Client)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	if err := d.Client.WhoHas(lab.VIP6()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	f, err := tap.Wait(ctx, func(f lab.Frame) bool {
		return !f.FromNode && f.NDP != nil && f.NDP.Type == lab.NeighbourAdvertisement && f.NDP.Target == lab.VIP6() && f.NDP.Solicited
	})
	if err != nil || !f.NDP.MAC.Is(d.node.MAC()) {
		t.Errorf("the answer: %v, %v", f, err)
	}

	d.stop(t).want(t, 0)
	same(t, before, snapshot(t, d))
	d.startBoth(t).want(t, 0)
	d.kill(t)
	d.do(t, "status").want(t, 1).says(t, lab.VIP6().String()+"/128")
	d.stop(t).want(t, 0)
	same(t, before, snapshot(t, d))

	// A second start takes the VIP over, and a third gives up the one that is
	// no longer wanted.
	d.startBoth(t).want(t, 0)
	d.kill(t)
	d.startBoth(t).want(t, 0)
	if v := d.status(t).VIPs; len(v) != 2 || !v[1].Present {
		t.Errorf("taken over: %+v", v)
	}
	d.kill(t)
	d.start(t).want(t, 0)
	if now := snapshot(t, d); now["addresses6"] != before["addresses6"] || now["addresses"] == before["addresses"] {
		t.Errorf("addresses: %s%s", now["addresses"], now["addresses6"])
	}
}

func TestAnIPv6VIPIsAnnouncedAndDefended(t *testing.T) {
	d := newInstance(t, lab.Options{})
	tap, err := d.TapNDP(d.node)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	unsolicited := func(f lab.Frame) bool {
		return f.FromNode && f.NDP != nil && f.NDP.Type == lab.NeighbourAdvertisement && f.NDP.Target == lab.VIP6() &&
			f.NDP.Override && !f.NDP.Solicited && f.NDP.MAC.Is(d.node.MAC()) && f.IP.Dst.Addr() == netip.MustParseAddr("ff02::1")
	}
	count := func() int {
		n := 0
		for _, f := range tap.Frames() {
			if unsolicited(f) {
				n++
			}
		}
		return n
	}
	d.startBoth(t).want(t, 0)
	eventually(t, "all announcements", func() bool { return count() >= 4 })
	probe := func(f lab.Frame) bool {
		return f.FromNode && f.NDP != nil && f.NDP.Type == lab.NeighbourSolicitation && f.NDP.Target == lab.VIP6() && f.IP.Src.Addr().IsUnspecified()
	}
	frames := tap.Frames()
	first := slices.IndexFunc(frames, unsolicited)
	if asked := slices.IndexFunc(frames, probe); asked < 0 || asked > first {
		t.Error("the VIP was announced before anyone was asked for it")
	}

	// Another machine takes the VIP: its kernel asks first, is told no, and lets
	// it be; but the director has seen it.
	before := count()
	rogue := d.RealServers[0]
	command(t, rogue, "", "ip", "addr", "add", lab.VIP6().String()+"/128", "dev", "eth0").want(t, 0)
	conflict := func() bool { return d.status(t).VIPs[1].Conflict != nil }
	eventually(t, "the conflict in status", conflict)
	s := d.status(t)
	if c := s.VIPs[1].Conflict; c.MAC != rogue.MAC().String() {
		t.Errorf("conflict: %+v", c)
	}
	if all := strings.Join(s.Warnings, "\n"); !strings.Contains(all, rogue.MAC().String()) || !strings.Contains(all, "its lo") {
		t.Errorf("warnings: %q", s.Warnings)
	}
	eventually(t, "an answer to the foreign claim", func() bool { return count() > before })
	eventually(t, "the other kernel to give up", func() bool {
		return strings.Contains(command(t, rogue, "", "ip", "addr", "show", "dev", "eth0").stdout, "dadfailed")
	})

	// One that does not ask is found by the next start.
	d.stop(t).want(t, 0)
	command(t, rogue, "", "ip", "addr", "del", lab.VIP6().String()+"/128", "dev", "eth0").want(t, 0)
	command(t, rogue, "", "ip", "addr", "add", lab.VIP6().String()+"/128", "dev", "eth0", "nodad").want(t, 0)
	d.do(t, "start").want(t, 1).says(t, rogue.MAC().String(), "--force", "its lo")
	d.do(t, "start", "--force").want(t, 0)
	d.stop(t).want(t, 0)

	// On its lo, it is silent.
	command(t, rogue, "", "ip", "addr", "del", lab.VIP6().String()+"/128", "dev", "eth0").want(t, 0)
	command(t, rogue, "", "ip", "addr", "add", lab.VIP6().String()+"/128", "dev", "lo", "nodad").want(t, 0)
	d.do(t, "start").want(t, 0)
}

// The kernel takes IPv6 addresses off an interface that goes down.
func TestAnIPv6VIPThatWasRemovedComesBack(t *testing.T) {
	d := newInstance(t, lab.Options{})
	d.startBoth(t).want(t, 0)
	present := func() bool { return d.status(t).VIPs[1].Present }
	command(t, d.node, "", "ip", "addr", "del", lab.VIP6().String()+"/128", "dev", "eth0").want(t, 0)
	eventually(t, "the VIP", present)
	command(t, d.node, "", "ip", "link", "set", "eth0", "down").want(t, 0)
	command(t, d.node, "", "ip", "link", "set", "eth0", "up").want(t, 0)
	command(t, d.node, "", "ip", "addr", "add", d.node.Addr6().String()+"/64", "dev", "eth0", "nodad").want(t, 0)
	eventually(t, "the VIP after its interface was down", present)
	tap, err := d.TapNDP(d.Client)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	eventually(t, "an answer for it", func() bool {
		if err := d.Client.WhoHas(lab.VIP6()); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(tap.Frames(), func(f lab.Frame) bool {
			return !f.FromNode && f.NDP != nil && f.NDP.Solicited && f.NDP.Target == lab.VIP6() && f.NDP.MAC.Is(d.node.MAC())
		})
	})
}

// On an interface without IPv6 there can be no VIP, and nothing is half done.
func TestAnIPv6VIPNeedsIPv6(t *testing.T) {
	d := newInstance(t, lab.Options{RealServers: -1})
	command(t, d.node, "", "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6").want(t, 0)
	before := snapshot(t, d)
	d.startBoth(t).want(t, 1).says(t, "net.ipv6.conf.eth0.disable_ipv6=0")
	same(t, before, snapshot(t, d))
}
