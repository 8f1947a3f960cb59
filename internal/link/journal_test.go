// SPDX-License-Identifier: MIT

package link

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"golang.org/x/sys/unix"
)

func makeTable(t *testing.T, name string) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

func tables(t *testing.T) []string {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	all, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, t := range all {
		names = append(names, t.Name)
	}
	return names
}

func openJournal(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := OpenJournal(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// state is all that the test's changes touch, as text.
func state(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	// Not link-local addresses, which come up by themselves.
	b.WriteString(labtest.IP(t, "-d -o -4 addr show"))
	b.WriteString(labtest.IP(t, "-d -o -6 addr show scope global"))
	b.WriteString(labtest.IP(t, "-4 route show table local proto 115"))
	b.WriteString(labtest.IP(t, "-6 route show table local proto 115"))
	for _, k := range []string{"ipv4/conf/eth0/arp_ignore", "ipv4/conf/eth0/arp_announce", "ipv4/conf/all/arp_ignore", "ipv6/conf/eth0/accept_ra"} {
		v, err := Sysctl(k)
		fmt.Fprintln(&b, k, v, err)
	}
	fmt.Fprintln(&b, tables(t))
	for _, l := range strings.Split(labtest.IP(t, "neigh show"), "\n") {
		fmt.Fprintln(&b, strings.Contains(l, "managed"), strings.Fields(l)[:min(1, len(strings.Fields(l)))])
	}
	return b.String()
}

// makeChanges makes one change of each kind and one that finds its value there.
func makeChanges(t *testing.T, j *Journal) {
	t.Helper()
	eth0, err := InterfaceByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := j.SetSysctl("guard", "ipv4/conf/eth0/arp_ignore", "1"); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if changed, err := j.SetSysctl("guard", "ipv4/conf/eth0/arp_announce", "2"); err != nil || changed {
		t.Fatal(changed, err)
	}
	if adopted, err := j.AddAddress("a", "lo", prefix("172.16.16.172/32"), unix.RT_SCOPE_HOST); err != nil || adopted {
		t.Fatal(adopted, err)
	}
	if adopted, err := j.AddAddress("b", "lo", prefix("172.16.16.99/32"), unix.RT_SCOPE_HOST); err != nil || !adopted {
		t.Fatal(adopted, err)
	}
	if err := j.DeleteAddress("c", "eth0", prefix("192.0.2.1/24")); err != nil {
		t.Fatal(err)
	}
	if changed, err := j.SetSysctl("guard", "ipv6/conf/eth0/accept_ra", "0"); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if adopted, err := j.AddAddress("a6", "eth0", prefix("2001:db8:16::172/128"), unix.RT_SCOPE_UNIVERSE); err != nil || adopted {
		t.Fatal(adopted, err)
	}
	if err := j.DeleteAddress("c", "eth0", prefix("2001:db8:5::1/64")); err != nil {
		t.Fatal(err)
	}
	if err := j.CreateTable("d", TableIPv4, "shunt-test", func() error { makeTable(t, "shunt-test"); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"172.16.16.177", "2001:db8:16::177"} {
		if err := j.ManageNeighbour("e", eth0.Index, addr(a)); err != nil {
			t.Fatal(err)
		}
	}
	for _, net := range []string{"172.16.16.", "2001:db8:16::"} {
		if restored, err := j.PreferSource("f", "eth0", addr(net+"172"), addr(net+"173"), 1400); err != nil || restored {
			t.Fatal(restored, err)
		}
	}
}

func prepare(t *testing.T) (before string) {
	t.Helper()
	pair(t)
	labtest.IP(t, "addr add 192.0.2.1/24 dev eth0 broadcast + label eth0:x scope link")
	labtest.IP(t, "addr add 2001:db8:5::1/64 dev eth0 nodad preferred_lft 0")
	labtest.IP(t, "addr add 172.16.16.99/32 dev lo")
	if err := setSysctl("ipv4/conf/eth0/arp_announce", "2"); err != nil {
		t.Fatal(err)
	}
	makeTable(t, "admins-own")
	return state(t)
}

func TestJournalUndoRestoresExactly(t *testing.T) {
	before := prepare(t)
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	makeChanges(t, j)
	eth0, _ := InterfaceByName("eth0")
	for _, a := range []string{"172.16.16.177", "2001:db8:16::177"} {
		if n, err := NeighbourOf(eth0.Index, addr(a)); err != nil || !n.Managed {
			t.Errorf("managed neighbour: %+v, %v", n, err)
		}
	}
	during := state(t)
	if during == before {
		t.Fatal("nothing was changed")
	}
	makeChanges2(t, j) // a second time nothing is written down again
	if got := len(j.Entries()); got != 13 {
		t.Errorf("%d entries: %v", got, j.Entries())
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if read, err := ReadJournal(path); err != nil || len(read) != 13 || read[0].Owner != "guard" {
		t.Errorf("read: %v, %v", read, err)
	}
	j = openJournal(t, path)
	if err := j.Undo(nil); err != nil {
		t.Fatal(err)
	}
	if after := state(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty journal stays behind: %v", err)
	}
}

// makeChanges2 repeats changes that are in force.
func makeChanges2(t *testing.T, j *Journal) {
	t.Helper()
	if changed, err := j.SetSysctl("guard", "ipv4/conf/eth0/arp_ignore", "1"); err != nil || changed {
		t.Error(changed, err)
	}
	if adopted, err := j.AddAddress("a", "lo", prefix("172.16.16.172/32"), unix.RT_SCOPE_HOST); err != nil || adopted {
		t.Error("our own address was taken for someone else's", adopted, err)
	}
	// Somebody removes it: it is made again, with the entry that is there.
	labtest.IP(t, "addr del 172.16.16.172/32 dev lo")
	if adopted, err := j.AddAddress("a", "lo", prefix("172.16.16.172/32"), unix.RT_SCOPE_HOST); err != nil || adopted {
		t.Error(adopted, err)
	}
	lo, err := InterfaceByName("lo")
	if err != nil || !lo.Has(addr("172.16.16.172")) {
		t.Errorf("the address was not made again: %+v, %v", lo, err)
	}
}

func TestJournalUndoIsSelectiveAndRepeatable(t *testing.T) {
	before := prepare(t)
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	makeChanges(t, j)
	if err := j.Undo(func(e Entry) bool { return e.Owner == "a" }); err != nil {
		t.Fatal(err)
	}
	lo, _ := InterfaceByName("lo")
	if lo.Has(addr("172.16.16.172")) || !lo.Has(addr("172.16.16.99")) || len(j.Entries()) != 12 {
		t.Errorf("lo is %v, entries %v", lo.Addresses, j.Entries())
	}
	for range 2 {
		if err := j.Undo(nil); err != nil {
			t.Fatal(err)
		}
	}
	if after := state(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// dying is a log handler that ends the process's work at the n-th step, as
// SIGKILL would: the panic leaves the journal as it is.
func TestJournalSurvivesDeathBetweenAnyTwoSteps(t *testing.T) {
	before := prepare(t)
	path := filepath.Join(t.TempDir(), "journal")
	for n := 1; ; n++ {
		finished := dies(t, path, n, func(j *Journal) { makeChanges(t, j) })
		j := openJournal(t, path)
		if err := j.Undo(nil); err != nil {
			t.Fatalf("undo after death at step %d: %v", n, err)
		}
		j.Close()
		if after := state(t); after != before {
			t.Fatalf("death at step %d: before:\n%s\nafter:\n%s", n, before, after)
		}
		if finished {
			if n < 10 {
				t.Errorf("only %d steps were tried", n)
			}
			break
		}
	}
	// And in the middle of undoing.
	for n := 1; ; n++ {
		j := openJournal(t, path)
		makeChanges(t, j)
		j.Close()
		finished := dies(t, path, n, func(j *Journal) {
			if err := j.Undo(nil); err != nil {
				t.Error(err)
			}
		})
		j = openJournal(t, path)
		if err := j.Undo(nil); err != nil {
			t.Fatalf("undo after death at undo step %d: %v", n, err)
		}
		j.Close()
		if after := state(t); after != before {
			t.Fatalf("death at undo step %d: before:\n%s\nafter:\n%s", n, before, after)
		}
		if finished {
			break
		}
	}
}

func dies(t *testing.T, path string, n int, work func(*Journal)) (finished bool) {
	t.Helper()
	steps := 0
	h := stepHandler{Handler: slog.DiscardHandler, step: func() {
		if steps++; steps == n {
			panic(n)
		}
	}}
	j, err := OpenJournal(path, slog.New(h))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if r := recover(); r != nil && r != n {
			panic(r)
		}
		if j.file != nil {
			j.file.Close() // the kernel would
		}
	}()
	work(j)
	return true
}

func TestJournalOfAnotherBootIsVoid(t *testing.T) {
	labtest.InNamespace(t)
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	j.place.Boot = "0f0e0d0c-0000-4000-8000-000000000000"
	if _, err := j.AddAddress("a", "lo", prefix("172.16.16.172/32"), 0); err != nil {
		t.Fatal(err)
	}
	j.Close()
	j = openJournal(t, path)
	if !j.Void || len(j.Entries()) != 0 {
		t.Errorf("void %v, entries %v", j.Void, j.Entries())
	}
	if err := j.Undo(nil); err != nil {
		t.Fatal(err)
	}
	if lo, _ := InterfaceByName("lo"); !lo.Has(addr("172.16.16.172")) {
		t.Error("a void journal was undone")
	}
}

func TestJournalOfAnotherNamespaceIsRefused(t *testing.T) {
	labtest.InNamespace(t)
	_, there := labtest.OtherNamespace(t)
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	if _, err := j.AddAddress("a", "lo", prefix("172.16.16.172/32"), 0); err != nil {
		t.Fatal(err)
	}
	j.Close()
	there(func() {
		if _, err := OpenJournal(path, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrOtherNamespace) {
			t.Errorf("opened in another namespace: %v", err)
		}
		if _, err := ReadJournal(path); !errors.Is(err, ErrOtherNamespace) {
			t.Errorf("read in another namespace: %v", err)
		}
	})
	if j = openJournal(t, path); len(j.Entries()) != 1 {
		t.Errorf("the refusal changed the journal: %v", j.Entries())
	}
}

func TestJournalFollowsInterfaces(t *testing.T) {
	labtest.InNamespace(t)
	labtest.IP(t, "link add eth0 type veth peer name peer0")
	labtest.IP(t, "link add eth1 type veth peer name peer1")
	j := openJournal(t, filepath.Join(t.TempDir(), "journal"))
	for _, i := range []string{"eth0", "eth1"} {
		if _, err := j.SetSysctl("guard", conf(i, "arp_ignore"), "1"); err != nil {
			t.Fatal(err)
		}
	}
	labtest.IP(t, "link set eth0 name lan0")
	labtest.IP(t, "link del eth1")
	labtest.IP(t, "link add eth1 type veth peer name peer1")
	if err := setSysctl(conf("eth1", "arp_ignore"), "1"); err != nil { // the admin's, on another eth1
		t.Fatal(err)
	}
	if err := j.Undo(nil); err != nil {
		t.Fatal(err)
	}
	if v, _ := Sysctl(conf("lan0", "arp_ignore")); v != "0" {
		t.Errorf("the renamed interface has arp_ignore %s", v)
	}
	if v, _ := Sysctl(conf("eth1", "arp_ignore")); v != "1" {
		t.Errorf("an interface that only has the old one's name was changed to %s", v)
	}
}

func TestJournalLeavesLaterChangesOfOthers(t *testing.T) {
	labtest.InNamespace(t)
	labtest.IP(t, "link add eth0 type veth peer name peer0")
	var log bytes.Buffer
	j, err := OpenJournal(filepath.Join(t.TempDir(), "journal"), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.SetSysctl("guard", conf("eth0", "arp_ignore"), "1"); err != nil {
		t.Fatal(err)
	}
	if err := setSysctl(conf("eth0", "arp_ignore"), "8"); err != nil {
		t.Fatal(err)
	}
	if err := j.Undo(nil); err != nil {
		t.Fatal(err)
	}
	if v, _ := Sysctl(conf("eth0", "arp_ignore")); v != "8" || !strings.Contains(log.String(), "someone else") {
		t.Errorf("arp_ignore is %s; log: %s", v, log.String())
	}
}

func TestJournalForgetsAChangeThatFailed(t *testing.T) {
	labtest.InNamespace(t)
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	failure := errors.New("no")
	if err := j.CreateTable("d", TableIPv4, "x", func() error { return failure }); !errors.Is(err, failure) {
		t.Fatal(err)
	}
	if len(j.Entries()) != 0 {
		t.Errorf("entries %v", j.Entries())
	}
}

func TestJournalFileToleratesOnlyATornEnd(t *testing.T) {
	labtest.InNamespace(t)
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	for _, p := range []string{"172.16.16.1/32", "172.16.16.2/32"} {
		if _, err := j.AddAddress("a", "lo", prefix(p), 0); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ends := []int{}
	for i, b := range data {
		if b == '\n' {
			ends = append(ends, i+1)
		}
	}
	for n := range len(data) + 1 {
		c, err := parseJournal(data[:n])
		lines := len(slices.DeleteFunc(slices.Clone(ends), func(e int) bool { return e > n }))
		if err != nil || len(c.active) != max(0, lines-1) {
			t.Fatalf("cut to %d bytes: %d entries, %v; want %d", n, len(c.active), err, max(0, lines-1))
		}
	}
	// A torn end is cut off before the next record follows.
	if err := os.WriteFile(path, data[:len(data)-3], 0o644); err != nil {
		t.Fatal(err)
	}
	j = openJournal(t, path)
	if _, err := j.AddAddress("a", "lo", prefix("172.16.16.3/32"), 0); err != nil {
		t.Fatal(err)
	}
	j.Close()
	if j = openJournal(t, path); len(j.Entries()) != 2 || j.Entries()[1].Prefix != prefix("172.16.16.3/32") {
		t.Errorf("entries %v", j.Entries())
	}
	// Any other damage is an error, not a guess.
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 0x10
		c, err := parseJournal(bad)
		if err == nil && i < ends[len(ends)-2] && len(c.active) == 2 {
			t.Fatalf("a flipped bit in byte %d went unnoticed", i)
		}
	}
	if err := os.WriteFile(path, append([]byte("x"), data...), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenJournal(path, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrJournal) {
		t.Errorf("damaged journal: %v", err)
	}
}

func FuzzJournal(f *testing.F) {
	place := Place{Boot: "b", Cookie: 1, Inode: 2}
	var all []byte
	for _, r := range []record{
		{Version: 1, Place: &place},
		{Do: &Entry{ID: 1, Owner: "a", Kind: AddedAddress, Interface: "lo", Index: 1, Prefix: prefix("172.16.16.172/32")}},
		{Do: &Entry{ID: 2, Kind: SetSysctl, Key: "ipv4/conf/eth0/arp_ignore", Found: "0", Set: "1"}},
		{Undone: 1},
		{Do: &Entry{ID: 3, Kind: CreatedTable, Family: TableIPv4, Table: "t"}},
		{Do: &Entry{ID: 4, Kind: ManagedNeighbour, Index: 2, Addr: addr("172.16.16.177")}},
		{Do: &Entry{ID: 5, Kind: AddedAddress, Interface: "eth0", Index: 2, Prefix: prefix("2001:db8:16::172/128"), Deprecated: true}},
		{Do: &Entry{ID: 6, Kind: AddedRoute, Interface: "eth0", Index: 2, Prefix: prefix("2001:db8:16::172/128"), From: prefix("::/1"), MTU: 1500}},
	} {
		line, err := r.line()
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, line...)
		f.Add(bytes.Clone(all))
	}
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseJournal(data)
		if err != nil {
			return
		}
		// What was read is what a cut at its last whole line reads.
		d, err := parseJournal(data[:c.size])
		if err != nil || d.size != c.size || len(d.active) != len(c.active) || d.next != c.next {
			t.Errorf("%+v, then %+v, %v", c, d, err)
		}
		for _, e := range c.active {
			if !e.valid() || e.ID <= 0 || e.ID >= c.next || e.String() == "" {
				t.Errorf("entry %+v", e)
			}
		}
	})
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d", "lock")
	release, err := Lock(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path, false); !errors.Is(err, ErrLocked) {
		t.Errorf("locked twice: %v", err)
	}
	got := make(chan error)
	go func() {
		r, err := Lock(path, true)
		if err == nil {
			r()
		}
		got <- err
	}()
	release()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestUndoLeavesANeighbourThatWasThere(t *testing.T) {
	pair(t)
	eth0, err := InterfaceByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	rips := []netip.Addr{addr("172.16.16.177"), addr("2001:db8:16::177")}
	labtest.IP(t, "neigh add 172.16.16.177 lladdr 02:00:00:00:00:99 dev eth0 nud stale")
	labtest.IP(t, "neigh add 172.16.16.178 lladdr 02:00:00:00:00:78 dev eth0 nud permanent")
	labtest.IP(t, "neigh add 2001:db8:16::177 lladdr 02:00:00:00:00:99 dev eth0 nud stale")
	j := openJournal(t, filepath.Join(t.TempDir(), "journal"))
	for _, a := range []string{"172.16.16.177", "172.16.16.178", "2001:db8:16::177"} {
		if err := j.ManageNeighbour("e", eth0.Index, addr(a)); err != nil {
			t.Fatal(err)
		}
	}
	for _, rip := range rips {
		if n, err := NeighbourOf(eth0.Index, rip); err != nil || !n.Managed || n.MAC == nil {
			t.Errorf("managed: %+v, %v", n, err)
		}
	}
	if n, err := NeighbourOf(eth0.Index, addr("172.16.16.178")); err != nil || n.Managed || n.State != NeighbourPermanent {
		t.Errorf("the permanent one: %+v, %v", n, err)
	}
	if err := j.Undo(nil); err != nil {
		t.Fatal(err)
	}
	for _, rip := range rips {
		if n, err := NeighbourOf(eth0.Index, rip); err != nil || n.Managed {
			t.Errorf("after undo: %+v, %v", n, err)
		}
	}
}

// What a host sends from without being told, the kernel decides: with a VIP of a
// longer prefix than its own address it would be the VIP. It must not be.
func TestAnAddedIPv6AddressIsNeverTheSourceUnasked(t *testing.T) {
	there := pair(t)
	there(func() { // and the peer can be reached
		c, err := net.ListenPacket("udp6", "[2001:db8:16::177]:9")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	})
	source := func() netip.Addr {
		t.Helper()
		c, err := net.Dial("udp6", "[2001:db8:16::177]:9")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return netip.MustParseAddrPort(c.LocalAddr().String()).Addr()
	}
	vip, dip := addr("2001:db8:16::172"), addr("2001:db8:16::173")
	// This test can fail: an address that is added as it comes is taken.
	labtest.IP(t, "addr add 2001:db8:16::172/128 dev eth0 nodad")
	if got := source(); got != vip {
		t.Errorf("with an address added by hand the source is %v", got)
	}
	labtest.IP(t, "addr del 2001:db8:16::172/128 dev eth0")
	for _, iface := range []string{"eth0", "lo"} {
		j := openJournal(t, filepath.Join(t.TempDir(), "journal"))
		if _, err := j.AddAddress("a", iface, netip.PrefixFrom(vip, 128), unix.RT_SCOPE_HOST); err != nil {
			t.Fatal(err)
		}
		if got := source(); got != dip {
			t.Errorf("with the VIP on %s the source is %v", iface, got)
		}
		// It can be used at once, by whoever asks for it.
		if _, err := OnLink(vip); !errors.Is(err, ErrLocal) {
			t.Errorf("packets to the VIP on %s are not delivered: %v", iface, err)
		}
		c, err := net.DialUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(vip, 0)), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[2001:db8:16::177]:9")))
		if err != nil {
			t.Fatalf("the VIP on %s cannot be sent from: %v", iface, err)
		}
		c.Close()
		if err := j.Undo(nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnInterfaceWithoutIPv6SaysSo(t *testing.T) {
	pair(t)
	if err := setSysctl("ipv6/conf/eth0/disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	j := openJournal(t, filepath.Join(t.TempDir(), "journal"))
	_, err := j.AddAddress("a", "eth0", prefix("2001:db8:16::172/128"), unix.RT_SCOPE_UNIVERSE)
	if !errors.Is(err, ErrNoIPv6) || !strings.Contains(err.Error(), "net.ipv6.conf.eth0.disable_ipv6=0") || len(j.Entries()) != 0 {
		t.Errorf("%v, entries %v", err, j.Entries())
	}
}

// A host's own connections to an address come from the preferred one, unless
// they are bound; packets of any source still arrive at the own stack.
func TestPreferSource(t *testing.T) {
	labtest.InNamespace(t)
	pair(t)
	j := openJournal(t, filepath.Join(t.TempDir(), "journal"))
	for vip, own := range map[string]string{"172.16.16.172": "172.16.16.173", "2001:db8:16::172": "2001:db8:16::173"} {
		if _, err := j.AddAddress("a", "eth0", netip.PrefixFrom(addr(vip), addr(vip).BitLen()), unix.RT_SCOPE_UNIVERSE); err != nil {
			t.Fatal(err)
		}
		if got, err := SourceTo(addr(vip)); err != nil || got != addr(vip) {
			t.Fatalf("%s: the source is %v before, %v: the test shows nothing", vip, got, err)
		}
		for n := range 2 { // the second time all is there
			if restored, err := j.PreferSource("f", "eth0", addr(vip), addr(own), 1400); err != nil || restored {
				t.Fatal(n, restored, err)
			}
		}
		if got, err := SourceTo(addr(vip)); err != nil || got != addr(own) {
			t.Errorf("%s: the source is %v, %v; want %s", vip, got, err, own)
		}
		for _, from := range []string{own, vip} {
			if got := labtest.IP(t, "route get "+vip+" from "+from); !strings.HasPrefix(got, "local ") {
				t.Errorf("%s from %s is not this host's: %s", vip, from, got)
			}
		}
		if got := labtest.IP(t, "route get "+vip); !strings.Contains(got, "mtu 1400") {
			t.Errorf("%s: %s", vip, got)
		}
		if addr(vip).Is6() {
			for _, from := range []string{"2001:db8:16::99", "fe80::99", "fc00::99"} {
				if got := labtest.IP(t, "route get "+vip+" from "+from+" iif eth0"); !strings.HasPrefix(got, "local ") {
					t.Errorf("%s from %s is not this host's: %s", vip, from, got)
				}
			}
		}
		gone := "route del local " + vip + " table local proto 115"
		if addr(vip).Is6() {
			gone = "-6 route del local " + vip + " from 8000::/1 table local proto 115"
		}
		labtest.IP(t, gone)
		if restored, err := j.PreferSource("f", "eth0", addr(vip), addr(own), 1400); err != nil || !restored {
			t.Errorf("%s: one was missing; restored %v, %v", vip, restored, err)
		}
	}
	if err := j.Undo(func(e Entry) bool { return e.Kind == AddedRoute }); err != nil {
		t.Fatal(err)
	}
	for _, vip := range []string{"172.16.16.172", "2001:db8:16::172"} {
		if got, err := SourceTo(addr(vip)); err != nil || got != addr(vip) {
			t.Errorf("%s: the source is %v, %v after the undo", vip, got, err)
		}
	}
}
