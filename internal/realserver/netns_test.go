// SPDX-License-Identifier: MIT

package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
)

// inNamespace moves the test into a fresh network namespace with lo up, and
// keeps its thread for it; both go when the test ends.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	runtime.LockOSThread() // never unlocked, so the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	ip(t, "link set lo up")
}

// otherNamespace makes a second namespace and returns what runs a function in it.
func otherNamespace(t *testing.T) (fd int, do func(func())) {
	t.Helper()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	other, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { home.Close(); other.Close() })
	do = func(f func()) {
		t.Helper()
		if err := netns.Set(other); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := netns.Set(home); err != nil {
				t.Fatal(err)
			}
		}()
		f()
	}
	if err := netns.Set(home); err != nil {
		t.Fatal(err)
	}
	do(func() { ip(t, "link set lo up") })
	return int(other), do
}

// ip runs the ip command in the namespace of the test's thread.
func ip(t *testing.T, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
	return string(out)
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

const (
	rsMAC  = "02:00:00:00:00:77"
	dirMAC = "02:00:00:00:00:73"
)

var (
	vip = addr("172.16.16.172")
	rip = addr("172.16.16.177")

	vip6 = addr("2001:db8:16::172")
	rip6 = addr("2001:db8:16::177")
)

// host makes this namespace a real server's: lo and eth0, whose other end
// (peer0, the director's) is in the namespace that the result runs a function in.
func host(t *testing.T) func(func()) {
	t.Helper()
	inNamespace(t)
	fd, there := otherNamespace(t)
	ip(t, fmt.Sprintf("link add eth0 address %s type veth peer name peer0 address %s netns /proc/%d/fd/%d", rsMAC, dirMAC, os.Getpid(), fd))
	setSysctl(t, "ipv6/conf/eth0/addr_gen_mode", "1")
	ip(t, "addr add 172.16.16.177/24 dev eth0")
	ip(t, "addr add 2001:db8:16::177/64 dev eth0 nodad")
	ip(t, "addr add fe80::177/64 dev eth0 nodad")
	ip(t, "link set eth0 up")
	there(func() {
		setSysctl(t, "ipv6/conf/peer0/addr_gen_mode", "1")
		ip(t, "addr add 172.16.16.173/24 dev peer0")
		ip(t, "addr add 2001:db8:16::173/64 dev peer0 nodad")
		ip(t, "addr add fe80::173/64 dev peer0 nodad")
		ip(t, "link set peer0 up")
		carrier(t, "peer0")
		delivers(t, "fe80::173", "2001:db8:16::173")
	})
	carrier(t, "eth0")
	delivers(t, "fe80::177", rip6.String())
	return there
}

// delivers waits until the kernel has the local routes to IPv6 addresses, which
// it makes a moment after them.
func delivers(t *testing.T, addrs ...string) {
	t.Helper()
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		routes := ip(t, "-6 route show table local")
		if !slices.ContainsFunc(addrs, func(a string) bool { return !strings.Contains(routes, "local "+a+" ") }) {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%v are not all among %s", addrs, routes)
		}
	}
}

// forwards makes the other side send packets to the VIP to this host's MAC, as
// a director does.
func forwards(t *testing.T, there func(func())) {
	t.Helper()
	there(func() {
		for _, a := range []netip.Addr{vip, vip6} {
			ip(t, "neigh replace "+a.String()+" lladdr "+rsMAC+" dev peer0 nud permanent")
		}
	})
}

func sysctl(t *testing.T, key string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/" + key)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func setSysctl(t *testing.T, key, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// snapshot is all that could be changed on a host, as text: addresses, routes,
// every sysctl of every interface, and the whole nftables ruleset.
func snapshot(t *testing.T) string {
	t.Helper()
	// Duplicate address detection ends by itself, and changes what is listed.
	for until := time.Now().Add(5 * time.Second); ip(t, "-6 addr show tentative") != ""; {
		if time.Now().After(until) {
			t.Fatal("an IPv6 address stays tentative")
		}
		time.Sleep(10 * time.Millisecond)
	}
	var b strings.Builder
	// Not the interfaces' carrier, which comes up by itself.
	b.WriteString(ip(t, "-d -o -4 addr show"))
	b.WriteString(ip(t, "-d -o -6 addr show"))
	b.WriteString(ip(t, "-4 route show table all"))
	b.WriteString(ip(t, "-6 route show table all"))
	err := filepath.WalkDir("/proc/sys/net", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "/conf/") && !strings.HasSuffix(path, "/ip_forward") ||
			strings.HasSuffix(path, "/stable_secret") { // which cannot be read before it was set
			return err
		}
		v, err := os.ReadFile(path)
		if errors.Is(err, os.ErrPermission) {
			return nil // write-only
		}
		fmt.Fprintf(&b, "%s = %s", path, v)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b.WriteString(ruleset(t))
	return b.String()
}

// ruleset is the nftables ruleset without counters' values and handles.
func ruleset(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	chains, err := c.ListChains()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		fmt.Fprintf(&b, "table %d %s flags %x\n", table.Family, table.Name, table.Flags)
		for _, chain := range chains {
			if chain.Table.Name != table.Name || chain.Table.Family != table.Family {
				continue
			}
			fmt.Fprintf(&b, " chain %s %s\n", chain.Name, chain.Type)
			rules, err := c.GetRules(table, chain)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rules {
				key, _, err := canonical(r.Exprs)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&b, "  rule %x\n", key)
			}
		}
	}
	return b.String()
}

// adminsTable makes a table of each family with a chain and a rule that are not
// shunt's.
func adminsTable(t *testing.T, name string) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families() {
		table := c.AddTable(&nftables.Table{Family: f.number, Name: name})
		chain := c.AddChain(&nftables.Chain{Table: table, Name: "input", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

func flushRuleset(t *testing.T) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	c.FlushRuleset()
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

// carrier waits until the kernel has noticed that an interface's link is there,
// which it does a moment after it was set up and which changes routes.
func carrier(t *testing.T, iface string) {
	t.Helper()
	for late := time.Now().Add(10 * time.Second); !strings.Contains(ip(t, "-o link show dev "+iface), "state UP"); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal(iface, " has no carrier")
		}
	}
}
