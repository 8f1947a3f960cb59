// SPDX-License-Identifier: MIT

package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

var (
	vip = addr("172.16.16.172")
	rip = addr("172.16.16.177")

	vip6 = addr("2001:db8:16::172")
	rip6 = addr("2001:db8:16::177")
)

// host puts the test on a real server: lo and eth0, whose other end (peer0, the
// director's) is in the namespace that the result runs a function in.
func host(t *testing.T) func(func()) {
	t.Helper()
	return labtest.Pair(t, labtest.RealServer, labtest.Director)
}

// forwards makes the other side send packets to the VIP to this host's MAC, as
// a director does.
func forwards(t *testing.T, there func(func())) {
	t.Helper()
	there(func() {
		for _, a := range []netip.Addr{vip, vip6} {
			labtest.IP(t, "neigh replace "+a.String()+" lladdr "+labtest.RealServer.MAC()+" dev peer0 nud permanent")
		}
	})
}

// snapshot is all that could be changed on a host, as text: addresses, routes,
// every sysctl of every interface, and the whole nftables ruleset.
func snapshot(t *testing.T) string {
	t.Helper()
	// Duplicate address detection ends by itself, and changes what is listed.
	for until := time.Now().Add(5 * time.Second); labtest.IP(t, "-6 addr show tentative") != ""; {
		if time.Now().After(until) {
			t.Fatal("an IPv6 address stays tentative")
		}
		time.Sleep(10 * time.Millisecond)
	}
	var b strings.Builder
	// Not the interfaces' carrier, which comes up by itself.
	b.WriteString(labtest.IP(t, "-d -o -4 addr show"))
	b.WriteString(labtest.IP(t, "-d -o -6 addr show"))
	b.WriteString(labtest.IP(t, "-4 route show table all"))
	b.WriteString(labtest.IP(t, "-6 route show table all"))
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
