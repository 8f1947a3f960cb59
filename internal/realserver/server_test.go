// SPDX-License-Identifier: MIT

package realserver

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/vishvananda/netns"
)

// server makes a Server with a state directory of the test's.
func server(t *testing.T, log *slog.Logger) *Server {
	t.Helper()
	return serverIn(t, t.TempDir(), log)
}

func serverIn(t *testing.T, dir string, log *slog.Logger) *Server {
	t.Helper()
	s, err := New(Options{StateDir: dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t *testing.T, s *Server, vips ...VIP) {
	t.Helper()
	if err := s.Start(vips, nil); err != nil {
		t.Fatal(err)
	}
}

func ports(t *testing.T, texts ...string) []Port {
	t.Helper()
	var all []Port
	for _, text := range texts {
		p, err := ParsePort(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func onLo(t *testing.T, a netip.Addr) bool {
	t.Helper()
	lo, err := loopback()
	if err != nil {
		t.Fatal(err)
	}
	return lo.Has(a)
}

func same(t *testing.T, what, before, after string) {
	t.Helper()
	if before == after {
		return
	}
	b, a := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, l := range b {
		if !strings.Contains(after, l) {
			t.Errorf("%s: gone: %s", what, l)
		}
	}
	for _, l := range a {
		if !strings.Contains(before, l) {
			t.Errorf("%s: new: %s", what, l)
		}
	}
	t.Errorf("%s: the host is not as it was", what)
}

// both methods, both families.
var both = []VIP{
	{Addr: vip, Method: Loopback},
	{Addr: addr("172.16.16.171"), Method: Redirect, Ports: []Port{{Protocol: 6, Port: 80, Local: 8080}, {Protocol: 17, Port: 53, Local: 53}}},
	{Addr: vip6, Method: Loopback},
	{Addr: addr("2001:db8:16::171"), Method: Redirect, Ports: []Port{{Protocol: 6, Port: 80, Local: 8080}, {Protocol: 17, Port: 53, Local: 53}}},
}

func TestStartIsIdempotentAndStopIsExact(t *testing.T) {
	host(t)
	adminsTable(t, "admins-own")
	labtest.SetSysctl(t, "ipv4/conf/eth0/arp_announce", "1")
	before := snapshot(t)
	s := server(t, nil)
	start(t, s, both...)
	during := snapshot(t)
	start(t, s, both...)
	same(t, "a second start", during, snapshot(t))
	if labtest.Sysctl(t, "ipv4/conf/eth0/arp_ignore") != "1" || labtest.Sysctl(t, "ipv4/conf/eth0/arp_announce") != "2" {
		t.Error("the guards are not set")
	}
	for _, key := range []string{"all/arp_ignore", "all/arp_announce", "default/arp_ignore", "default/arp_announce", "lo/arp_ignore", "lo/arp_announce"} {
		if v := labtest.Sysctl(t, "ipv4/conf/"+key); v != "0" {
			t.Errorf("%s was set to %s", key, v)
		}
	}
	for range 2 {
		if err := s.Stop(nil); err != nil {
			t.Fatal(err)
		}
		same(t, "after stop", before, snapshot(t))
	}
	for _, path := range []string{s.statePath(), s.journalPath()} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left behind: %v", path, err)
		}
	}
}

func TestGuardsStayWhileAnyVIPDoes(t *testing.T) {
	host(t)
	before := snapshot(t)
	s := server(t, nil)
	other := addr("172.16.16.170")
	start(t, s, VIP{Addr: vip, Method: Loopback})
	start(t, s, VIP{Addr: other, Method: Loopback})
	if err := s.Stop([]netip.Addr{vip}); err != nil {
		t.Fatal(err)
	}
	if onLo(t, vip) || !onLo(t, other) || labtest.Sysctl(t, "ipv4/conf/eth0/arp_ignore") != "1" {
		t.Error("after the first stop: the wrong VIP or no guard")
	}
	if err := s.Stop([]netip.Addr{vip}); err != nil { // once more is fine
		t.Fatal(err)
	}
	if err := s.Stop([]netip.Addr{other}); err != nil {
		t.Fatal(err)
	}
	same(t, "after the last stop", before, snapshot(t))
}

// An IPv6 VIP is nothing that the guards are for.
func TestIPv6SetsNoGuards(t *testing.T) {
	host(t)
	before := snapshot(t)
	s := server(t, nil)
	start(t, s, VIP{Addr: vip6, Method: Loopback})
	if out := labtest.IP(t, "-6 addr show dev lo"); !strings.Contains(out, "2001:db8:16::172/128") || !strings.Contains(out, "deprecated") {
		t.Errorf("lo has %s", out)
	}
	for _, key := range []string{"arp_ignore", "arp_announce"} {
		if v := labtest.Sysctl(t, "ipv4/conf/eth0/"+key); v != "0" {
			t.Errorf("%s was set to %s", key, v)
		}
	}
	// They come and go with the IPv4 VIPs.
	start(t, s, VIP{Addr: vip, Method: Loopback})
	if labtest.Sysctl(t, "ipv4/conf/eth0/arp_ignore") != "1" {
		t.Error("no guard for the IPv4 VIP")
	}
	if err := s.Stop([]netip.Addr{vip}); err != nil {
		t.Fatal(err)
	}
	if labtest.Sysctl(t, "ipv4/conf/eth0/arp_ignore") != "0" || !onLo(t, vip6) {
		t.Error("the guards outlive the last IPv4 VIP, or the IPv6 VIP does not")
	}
	if err := s.Start([]VIP{{Addr: vip6, Method: Loopback}}, []string{"eth0"}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "nothing to guard") {
		t.Errorf("an interface to guard: %v", err)
	}
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	same(t, "after the last stop", before, snapshot(t))
}

// One family's table is not the other's.
func TestRedirectFamiliesComeAndGoAlone(t *testing.T) {
	host(t)
	before := snapshot(t)
	s := server(t, nil)
	start(t, s, VIP{Addr: vip, Method: Redirect, Ports: ports(t, "80/tcp")})
	four := ruleset(t)
	start(t, s, VIP{Addr: vip6, Method: Redirect, Ports: ports(t, "80/tcp:8080", "53/udp")})
	if got := strings.Count(ruleset(t), s.tableName()); got != 2 {
		t.Errorf("%d tables", got)
	}
	if err := s.Stop([]netip.Addr{vip6}); err != nil {
		t.Fatal(err)
	}
	same(t, "after the IPv6 VIP's stop", four, ruleset(t))
	start(t, s, VIP{Addr: vip6, Method: Redirect, Ports: ports(t, "80/tcp")})
	if err := s.Stop([]netip.Addr{vip}); err != nil {
		t.Fatal(err)
	}
	if st, err := s.Status(); err != nil || st.Condition != Running || len(st.VIPs) != 1 {
		t.Errorf("the IPv6 VIP alone: %+v, %v", st, err)
	}
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	same(t, "after the last stop", before, snapshot(t))
}

// A host whose lo has no IPv6 says so, and nothing stays.
func TestIPv6SwitchedOff(t *testing.T) {
	host(t)
	labtest.SetSysctl(t, "ipv6/conf/lo/disable_ipv6", "1")
	before := snapshot(t)
	s := server(t, nil)
	err := s.Start(both, nil)
	if !errors.Is(err, link.ErrNoIPv6) || !strings.Contains(err.Error(), "net.ipv6.conf.lo.disable_ipv6=0") {
		t.Errorf("%v", err)
	}
	same(t, "after the failure", before, snapshot(t))
}

func TestRedirectStopsOneVIPOfSeveral(t *testing.T) {
	host(t)
	before := snapshot(t)
	s := server(t, nil)
	start(t, s, VIP{Addr: vip, Method: Redirect, Ports: ports(t, "80/tcp")})
	one := ruleset(t)
	start(t, s, VIP{Addr: addr("172.16.16.170"), Method: Redirect, Ports: ports(t, "80/tcp")})
	if err := s.Stop([]netip.Addr{addr("172.16.16.170")}); err != nil {
		t.Fatal(err)
	}
	same(t, "after the first stop", one, ruleset(t))
	// More ports of the same VIP add up.
	start(t, s, VIP{Addr: vip, Method: Redirect, Ports: ports(t, "53/udp")})
	if st, err := s.Status(); err != nil || len(st.VIPs) != 1 || len(st.VIPs[0].Ports) != 2 || st.Condition != Running {
		t.Errorf("status %+v, %v", st, err)
	}
	if err := s.Stop([]netip.Addr{vip}); err != nil {
		t.Fatal(err)
	}
	same(t, "after the last stop", before, snapshot(t))
}

func TestGuardsOfTheAdminAreLeftAlone(t *testing.T) {
	for _, c := range []struct{ all, own, want string }{
		{"0", "1", "1"}, {"0", "2", "2"}, {"0", "8", "8"}, // strict enough on the interface
		{"1", "0", "0"}, {"2", "1", "1"}, // on all: the greater counts
	} {
		host(t)
		labtest.SetSysctl(t, "ipv4/conf/all/arp_ignore", c.all)
		labtest.SetSysctl(t, "ipv4/conf/eth0/arp_ignore", c.own)
		labtest.SetSysctl(t, "ipv4/conf/eth0/arp_announce", "2")
		s := server(t, nil)
		start(t, s, VIP{Addr: vip, Method: Loopback})
		if v := labtest.Sysctl(t, "ipv4/conf/eth0/arp_ignore"); v != c.want {
			t.Errorf("all %s, eth0 %s: became %s", c.all, c.own, v)
		}
		entries, err := link.ReadJournal(s.journalPath())
		if err != nil || len(entries) != 1 || entries[0].Kind != link.AddedAddress {
			t.Errorf("all %s, eth0 %s: journal %v, %v", c.all, c.own, entries, err)
		}
	}
}

func TestInterfaceFlagAndNewInterfaces(t *testing.T) {
	host(t)
	labtest.IP(t, "link add eth1 type veth peer name peer1")
	s := server(t, nil)
	if err := s.Start([]VIP{{Addr: vip, Method: Loopback}}, []string{"eth0"}); err != nil {
		t.Fatal(err)
	}
	if labtest.Sysctl(t, "ipv4/conf/eth0/arp_ignore") != "1" || labtest.Sysctl(t, "ipv4/conf/eth1/arp_ignore") != "0" {
		t.Error("not exactly the named interface is guarded")
	}
	if err := s.Start([]VIP{{Addr: vip, Method: Loopback}}, nil); err != nil {
		t.Fatal(err)
	}
	if labtest.Sysctl(t, "ipv4/conf/eth1/arp_ignore") != "1" {
		t.Error("an interface that is down is left unguarded: it answers as soon as it is up")
	}
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{{"eth7"}, {"lo"}} {
		if err := s.Start([]VIP{{Addr: vip, Method: Loopback}}, names); err == nil || onLo(t, vip) {
			t.Errorf("interface %v: %v", names, err)
		}
	}
}

func TestConflictsAreRefusedAndNothingIsChanged(t *testing.T) {
	lo := VIP{Addr: vip, Method: Loopback}
	redirect := VIP{Addr: vip, Method: Redirect, Ports: ports(t, "80/tcp")}
	lo6, redirect6 := VIP{Addr: vip6, Method: Loopback}, VIP{Addr: vip6, Method: Redirect, Ports: redirect.Ports}
	for _, c := range []struct {
		name  string
		setup string
		vip   VIP
		want  error
		says  string
	}{
		{"VIP on the wire", "addr add 172.16.16.172/32 dev eth0", lo, ErrConflict, "ip addr del 172.16.16.172/32 dev eth0"},
		{"VIP on the wire, redirect", "addr add 172.16.16.172/24 dev eth0", redirect, ErrConflict, "answers ARP"},
		{"wide VIP on lo", "addr add 172.16.16.172/24 dev lo", lo, ErrConflict, "172.16.16.0/24"},
		{"VIP on lo, redirect", "addr add 172.16.16.172/32 dev lo", redirect, ErrConflict, "no ARP guards"},
		{"lo down", "link set lo down", lo, ErrConflict, "ip link set lo up"},
		{"IPv6 VIP on the wire", "addr add 2001:db8:16::172/128 dev eth0 nodad", lo6, ErrConflict, "neighbour solicitations"},
		{"wide IPv6 VIP on lo", "addr add 2001:db8:16::172/64 dev lo", lo6, ErrConflict, "2001:db8:16::/64"},
		{"IPv6 VIP on lo, redirect", "addr add 2001:db8:16::172/128 dev lo", redirect6, ErrConflict, "other ports"},
		{"IPv4 in IPv6", "", VIP{Addr: addr("::ffff:172.16.16.172"), Method: Loopback}, ErrInvalid, "write 172.16.16.172"},
		{"link-local", "", VIP{Addr: addr("fe80::172"), Method: Loopback}, ErrInvalid, "each link"},
		{"with a zone", "", VIP{Addr: addr("2001:db8:16::172%eth0"), Method: Loopback}, ErrInvalid, "each link"},
		{"IPv6 loopback", "", VIP{Addr: addr("::1"), Method: Loopback}, ErrInvalid, "unicast"},
		{"IPv6 multicast", "", VIP{Addr: addr("ff02::1"), Method: Loopback}, ErrInvalid, "unicast"},
		{"IPv6 loopback with port", "", VIP{Addr: vip6, Method: Loopback, Ports: redirect.Ports}, ErrInvalid, "redirect"},
		{"not unicast", "", VIP{Addr: addr("224.0.0.1"), Method: Loopback}, ErrInvalid, ""},
		{"own 127", "", VIP{Addr: addr("127.0.0.2"), Method: Loopback}, ErrInvalid, ""},
		{"no address", "", VIP{Method: Loopback}, ErrInvalid, ""},
		{"loopback with port", "", VIP{Addr: vip, Method: Loopback, Ports: redirect.Ports}, ErrInvalid, "redirect"},
		{"redirect without port", "", VIP{Addr: vip, Method: Redirect}, ErrInvalid, "--port"},
		{"no such method", "", VIP{Addr: vip, Method: "nat"}, ErrInvalid, "loopback or redirect"},
		{"one port to two", "", VIP{Addr: vip, Method: Redirect, Ports: ports(t, "80/tcp:1", "80/tcp:2")}, ErrInvalid, "one local port"},
	} {
		host(t)
		if c.setup != "" {
			labtest.IP(t, c.setup)
		}
		before := snapshot(t)
		s := server(t, nil)
		err := s.Start([]VIP{{Addr: addr("172.16.16.160"), Method: Redirect, Ports: ports(t, "1/udp")}, c.vip}, nil)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v with %q", c.name, err, c.want, c.says)
		}
		same(t, c.name, before, snapshot(t))
		if st, err := s.Status(); err != nil || st.Condition != Stopped {
			t.Errorf("%s: then %v, %v", c.name, st, err)
		}
	}
}

func TestMethodsDoNotMixForOneVIP(t *testing.T) {
	host(t)
	s := server(t, nil)
	start(t, s, VIP{Addr: vip, Method: Loopback})
	err := s.Start([]VIP{{Addr: vip, Method: Redirect, Ports: ports(t, "80/tcp")}}, nil)
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "stop --vip 172.16.16.172") {
		t.Errorf("%v", err)
	}
}

// all/arp_ignore=5 is 0 to the kernel, and the greater value counts, so no value
// of the interface's own helps: the start fails after it has begun.
func TestFailedStartRollsBack(t *testing.T) {
	host(t)
	s := server(t, nil)
	start(t, s, VIP{Addr: addr("172.16.16.170"), Method: Redirect, Ports: ports(t, "80/tcp")})
	labtest.SetSysctl(t, "ipv4/conf/all/arp_ignore", "5")
	before := snapshot(t)
	err := s.Start([]VIP{{Addr: vip, Method: Loopback}}, nil)
	if !errors.Is(err, ErrGuard) || !strings.Contains(err.Error(), "net.ipv4.conf.all.arp_ignore=1") {
		t.Errorf("%v", err)
	}
	same(t, "after the failure", before, snapshot(t))
	st, err := s.Status()
	if err != nil || st.Condition != Running || len(st.VIPs) != 1 {
		t.Errorf("what was started before: %+v, %v", st, err)
	}
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	labtest.SetSysctl(t, "ipv4/conf/all/arp_ignore", "0")
	labtest.SetSysctl(t, "ipv4/conf/all/arp_announce", "3")
	before = snapshot(t)
	if err := s.Start([]VIP{{Addr: vip, Method: Loopback}}, nil); !errors.Is(err, ErrGuard) {
		t.Errorf("%v", err)
	}
	same(t, "after the second failure", before, snapshot(t))
}

func TestAnAddressThatWasThereIsAdopted(t *testing.T) {
	host(t)
	labtest.IP(t, "addr add 172.16.16.172/32 dev lo")
	before := snapshot(t)
	s := server(t, nil)
	start(t, s, VIP{Addr: vip, Method: Loopback})
	if st, err := s.Status(); err != nil || st.Condition != Running {
		t.Errorf("%+v, %v", st, err)
	}
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	same(t, "after stop", before, snapshot(t))
}

func TestTwoCallsAtOnce(t *testing.T) {
	host(t)
	before := snapshot(t)
	dir := t.TempDir()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for n := range errs {
		wg.Go(func() {
			runtime.LockOSThread()
			if errs[n] = netns.Set(home); errs[n] != nil {
				return
			}
			s, err := New(Options{StateDir: dir})
			if err != nil {
				errs[n] = err
				return
			}
			a := netip.AddrFrom4([4]byte{172, 16, 16, byte(100 + n)})
			errs[n] = s.Start([]VIP{{Addr: a, Method: Loopback}}, nil)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	s := serverIn(t, dir, nil)
	st, err := s.Status()
	if err != nil || st.Condition != Running || len(st.VIPs) != len(errs) {
		t.Errorf("%+v, %v", st, err)
	}
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	same(t, "after stop", before, snapshot(t))
}

func TestInstancesShareAHost(t *testing.T) {
	host(t)
	before := snapshot(t)
	dir := t.TempDir()
	make := func(name string) *Server {
		s, err := New(Options{Instance: name, StateDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b := make("a"), make("b")
	start(t, a, VIP{Addr: vip, Method: Redirect, Ports: ports(t, "80/tcp")})
	start(t, b, VIP{Addr: addr("172.16.16.171"), Method: Redirect, Ports: ports(t, "80/tcp")})
	if err := a.Stop(nil); err != nil {
		t.Fatal(err)
	}
	if st, err := b.Status(); err != nil || st.Condition != Running {
		t.Errorf("%+v, %v", st, err)
	}
	if err := b.Stop(nil); err != nil {
		t.Fatal(err)
	}
	same(t, "after both stops", before, snapshot(t))
	for _, name := range []string{"a/b", "..", "-x", strings.Repeat("x", 65)} {
		if _, err := New(Options{Instance: name}); !errors.Is(err, ErrInvalid) {
			t.Errorf("instance %q: %v", name, err)
		}
	}
}

// reboot makes the kernel and the files look as they do when the host was
// restarted since both were started.
func reboot(t *testing.T, s *Server) {
	t.Helper()
	now, err := link.Here()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(s.statePath())
	if err != nil {
		t.Fatal(err)
	}
	old := strings.ReplaceAll(string(data), now.Boot, "00000000-0000-4000-8000-000000000000")
	// The journal's own test covers what it makes of an earlier boot.
	if err := errors.Join(os.WriteFile(s.statePath(), []byte(old), 0o644), os.RemoveAll(s.journalPath())); err != nil {
		t.Fatal(err)
	}
	for _, a := range []netip.Addr{vip, vip6} {
		if onLo(t, a) {
			labtest.IP(t, "addr del "+netip.PrefixFrom(a, a.BitLen()).String()+" dev lo")
		}
	}
	labtest.SetSysctl(t, "ipv4/conf/eth0/arp_ignore", "0")
	labtest.SetSysctl(t, "ipv4/conf/eth0/arp_announce", "0")
	flushRuleset(t)
}

// After a boot nothing of the old state is in the kernel; start without VIPs
// makes it anew, and one more VIP does not bring the others back unasked.
func TestStateOfAnEarlierBoot(t *testing.T) {
	host(t)
	s := server(t, nil)
	start(t, s, both...)
	reboot(t, s)
	before := snapshot(t)
	if st, err := s.Status(); err != nil || st.Condition != Stopped || !strings.Contains(st.Note, "start") {
		t.Errorf("after boot: %+v, %v", st, err)
	}
	// A start that fails does not forget them.
	labtest.SetSysctl(t, "ipv4/conf/all/arp_ignore", "5")
	if err := s.Start(nil, nil); !errors.Is(err, ErrGuard) {
		t.Errorf("%v", err)
	}
	labtest.SetSysctl(t, "ipv4/conf/all/arp_ignore", "0")
	start(t, s)
	if st, err := s.Status(); err != nil || st.Condition != Running || len(st.VIPs) != len(both) {
		t.Errorf("started again: %+v, %v", st, err)
	}
	reboot(t, s)
	if err := s.Stop([]netip.Addr{vip}); err != nil { // no longer wanted, the other one is
		t.Fatal(err)
	}
	start(t, s)
	if st, err := s.Status(); err != nil || len(st.VIPs) != len(both)-1 || st.VIPs[0].Method != Redirect {
		t.Errorf("started again without %v: %+v, %v", vip, st, err)
	}
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	same(t, "after stop", before, snapshot(t))
	if err := s.Start(nil, nil); !errors.Is(err, ErrNothing) {
		t.Errorf("start of nothing: %v", err)
	}
}

func TestStateOfAnotherNamespaceIsRefused(t *testing.T) {
	there := host(t)
	dir := t.TempDir()
	s := serverIn(t, dir, nil)
	start(t, s, VIP{Addr: vip, Method: Redirect, Ports: ports(t, "80/tcp")})
	there(func() {
		for what, err := range map[string]error{"start": s.Start(both, nil), "stop": s.Stop(nil)} {
			if !errors.Is(err, link.ErrOtherNamespace) && !errors.Is(err, ErrOtherNamespace) {
				t.Errorf("%s in another namespace: %v", what, err)
			}
		}
		if _, err := s.Status(); !errors.Is(err, ErrOtherNamespace) {
			t.Errorf("status in another namespace: %v", err)
		}
		if onLo(t, vip) {
			t.Error("the refused start did something")
		}
	})
}

func TestStatusNamesEachFailingItem(t *testing.T) {
	there := host(t)
	_ = there
	s := server(t, nil)
	check := func(name, says string) {
		t.Helper()
		st, err := s.Status()
		if err != nil {
			t.Fatal(err)
		}
		var failing []string
		found := false
		for _, i := range st.Items {
			if i.Reason == "" {
				t.Errorf("%s has no reason", i.Name)
			}
			if !i.OK {
				failing = append(failing, i.Name+": "+i.Reason)
				found = found || strings.Contains(i.Name, name) && strings.Contains(i.Reason, says)
			}
		}
		if !found || st.Condition != Partly {
			t.Errorf("%s, want one of %q about %q; got %q", st.Condition, name, says, failing)
		}
	}
	well := func() {
		t.Helper()
		start(t, s)
		if st, err := s.Status(); err != nil || st.Condition != Running {
			t.Fatalf("not repaired by start: %+v, %v", st, err)
		}
	}
	if st, err := s.Status(); err != nil || st.Condition != Stopped || len(st.Items) != 0 {
		t.Errorf("at first: %+v, %v", st, err)
	}
	start(t, s, both...)
	well()

	labtest.IP(t, "addr del 172.16.16.172/32 dev lo")
	check("172.16.16.172 on lo", "does not have")
	check("172.16.16.172 delivered", "") // its route went with it
	well()
	labtest.IP(t, "addr add 172.16.16.172/32 dev eth0")
	check("172.16.16.172 on lo", "eth0 has it")
	labtest.IP(t, "addr del 172.16.16.172/32 dev eth0")
	labtest.IP(t, "addr add 172.16.16.171/32 dev lo")
	check("172.16.16.171 on no interface", "no ARP guards")
	labtest.IP(t, "addr del 172.16.16.171/32 dev lo")
	well()
	labtest.SetSysctl(t, "ipv4/conf/eth0/arp_ignore", "0")
	check("eth0 arp_ignore", "arp_ignore is 0 (all 0, eth0 0)")
	well()
	labtest.SetSysctl(t, "ipv4/conf/eth0/arp_announce", "1")
	check("eth0 arp_announce", "sender")
	well()
	labtest.SetSysctl(t, "ipv4/conf/all/arp_ignore", "4")
	check("eth0 arp_ignore", "net.ipv4.conf.all.arp_ignore=1")
	labtest.SetSysctl(t, "ipv4/conf/all/arp_ignore", "0")
	labtest.IP(t, "link add eth1 type veth peer name peer1")
	check("eth1 arp_ignore", "arp_ignore is 0")
	well()
	flushRuleset(t)
	check("172.16.16.171:80/tcp to local port 8080", "nftables table ip shunt-realserver-default is gone")
	check("[2001:db8:16::171]:80/tcp to local port 8080", "nftables table ip6 shunt-realserver-default is gone")
	well()

	// The same for IPv6; instead of guards there is a reason why there are none.
	labtest.IP(t, "addr del 2001:db8:16::172/128 dev lo")
	check("2001:db8:16::172 on lo", "does not have 2001:db8:16::172/128")
	check("2001:db8:16::172 delivered", "")
	well()
	labtest.IP(t, "addr add 2001:db8:16::172/128 dev eth0 nodad")
	check("2001:db8:16::172 on lo", "answers neighbour solicitations")
	labtest.IP(t, "addr del 2001:db8:16::172/128 dev eth0")
	well()
	st, err := s.Status()
	if err != nil || !slices.ContainsFunc(st.Items, func(i Item) bool {
		return i.OK && strings.HasPrefix(i.Name, "2001:db8:16::172") && strings.Contains(i.Reason, "needs no guard")
	}) {
		t.Errorf("nothing says why no guard is needed: %+v, %v", st, err)
	}

	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: s.tableName()}
	chain := &nftables.Chain{Table: table, Name: chainName}
	c.FlushChain(chain)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	check("172.16.16.171:53/udp", "rule is not in")
	well()
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	check("nftables table ip", "someone has added")
	well()
	c.DelTable(table)
	c.AddTable(table)
	c.AddChain(chain)
	for _, r := range redirections(state{VIPs: both}, families()[0]) {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r.expressions()})
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	check("172.16.16.171:80/tcp", "prerouting hook")
	well()
}

func TestStatusWarnsOnly(t *testing.T) {
	host(t)
	labtest.IP(t, "link add eth1 type veth peer name peer1")
	labtest.IP(t, "link set eth1 up")
	labtest.SetSysctl(t, "ipv4/conf/eth0/rp_filter", "1")
	labtest.IP(t, "neigh add proxy 2001:db8:16::172 dev eth0")
	labtest.IP(t, "neigh add proxy 2001:db8:16::99 dev eth0")
	s := server(t, nil)
	start(t, s, both...)
	st, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(st.Warnings, "\n")
	if st.Condition != Running || !strings.Contains(all, "eth0 filters by reverse path") || !strings.Contains(all, "eth1 has no IPv4 address") ||
		!strings.Contains(all, "eth1 has no IPv6 address") || strings.Contains(all, "eth0 has no") ||
		!strings.Contains(all, "ip neigh del proxy 2001:db8:16::172 dev eth0") || strings.Contains(all, "::99") {
		t.Errorf("%s, warnings %q", st.Condition, st.Warnings)
	}
	if labtest.Sysctl(t, "ipv4/conf/eth0/rp_filter") != "1" {
		t.Error("rp_filter was changed")
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]Port{
		"80/tcp": {6, 80, 80}, "53/UDP": {17, 53, 53}, "80/tcp:8080": {6, 80, 8080}, "65535/udp:1": {17, 65535, 1}, "80/sctp:8080": {132, 80, 8080},
	} {
		if p, err := ParsePort(text); err != nil || p != want {
			t.Errorf("%s: %v, %v", text, p, err)
		}
	}
	for _, text := range []string{"", "80", "tcp", "80/dccp", "0/tcp", "65536/tcp", "80/tcp:", "80/tcp:0", "80/tcp:x", "-1/tcp", "+1/tcp", "80/tcp:80:80", "80:80/tcp"} {
		if p, err := ParsePort(text); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
	for text, want := range map[string]netip.Addr{"172.16.16.172": vip, "172.16.16.172/32": vip, "2001:db8:16::172": vip6, "2001:DB8:16:0::172/128": vip6} {
		if a, err := ParseAddr(text); err != nil || a != want {
			t.Errorf("%s: %v, %v", text, a, err)
		}
	}
	for _, text := range []string{"", "$VIP", "172.16.16", "172.16.16.172/24", "172.16.16.172/33", "172.16.16.172/", "0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1", "240.0.0.1", "0.1.2.3",
		"2001:db8:16::172/64", "2001:db8:16::172/32", "2001:db8:16::172%eth0", "fe80::1", "::", "::1", "ff02::1", "::ffff:172.16.16.172", "[2001:db8:16::172]"} {
		if a, err := ParseAddr(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, %v", text, a, err)
		}
	}
}

func FuzzParsePort(f *testing.F) {
	for _, s := range []string{"80/tcp", "80/tcp:8080", "53/udp", "", "/:", "0/tcp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePort(s)
		if err != nil {
			return
		}
		if again, err := ParsePort(p.String()); err != nil || again != p {
			t.Errorf("%q is %v, which is %v, %v", s, p, again, err)
		}
		if err := (VIP{Addr: vip, Method: Redirect, Ports: []Port{p}}).check(); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"place":{"boot":"b","cookie":1,"inode":2},"interfaces":["eth0"],"vips":[{"vip":"172.16.16.172","method":"loopback"}]}`))
	f.Add([]byte(`{"place":{"boot":"b"},"vips":[{"vip":"172.16.16.172","method":"redirect","ports":[{"protocol":6,"port":80,"local":8080}]}]}`))
	f.Add([]byte(`{"place":{"boot":"b"},"vips":[{"vip":"2001:db8:16::172","method":"loopback"},{"vip":"172.16.16.172","method":"loopback"}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := parseState(data)
		if err != nil {
			if !errors.Is(err, ErrState) {
				t.Errorf("%v", err)
			}
			return
		}
		for _, v := range st.VIPs {
			if err := v.check(); err != nil {
				t.Errorf("%v", err)
			}
		}
	})
}
