// SPDX-License-Identifier: MIT

package link

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

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

// noAutomaticAddresses keeps the kernel from making a link-local address, which
// could not be used before duplicate address detection.
func noAutomaticAddresses(t *testing.T, iface string) {
	t.Helper()
	if err := setSysctl("ipv6/conf/"+iface+"/addr_gen_mode", "1"); err != nil {
		t.Fatal(err)
	}
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

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

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
