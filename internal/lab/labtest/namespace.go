// SPDX-License-Identifier: MIT

package labtest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// InNamespace moves the test into a fresh network namespace with lo up, and
// keeps its thread for it; both go when the test ends.
func InNamespace(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	runtime.LockOSThread() // never unlocked, so the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	IP(t, "link set lo up")
}

// OtherNamespace makes a second namespace with lo up, and returns what runs a
// function in it.
func OtherNamespace(t testing.TB) (fd int, do func(func())) {
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
	do(func() { IP(t, "link set lo up") })
	return int(other), do
}

// Host is a machine of the reference topology, by the last two digits of its
// addresses: 172.16.16.173/24, 2001:db8:16::173/64, fe80::173/64 and the MAC
// address 02:00:00:00:00:73 are the director's.
type Host string

// The two machines that a Pair is made of.
const (
	Director   Host = "73"
	RealServer Host = "77"
)

// MAC is the hardware address of the host's interface.
func (h Host) MAC() string { return "02:00:00:00:00:" + string(h) }

func (h Host) setUp(t testing.TB, iface string) {
	t.Helper()
	// No link-local address of the kernel's own making, which could not be used
	// before duplicate address detection.
	SetSysctl(t, "ipv6/conf/"+iface+"/addr_gen_mode", "1")
	IP(t, "addr add 172.16.16.1"+string(h)+"/24 dev "+iface)
	IP(t, "addr add 2001:db8:16::1"+string(h)+"/64 dev "+iface+" nodad")
	IP(t, "addr add fe80::1"+string(h)+"/64 dev "+iface+" nodad")
	IP(t, "link set "+iface+" up")
}

func (h Host) ready(t testing.TB, iface string) {
	t.Helper()
	Carrier(t, iface)
	Delivers(t, "fe80::1"+string(h), "2001:db8:16::1"+string(h))
}

// Pair moves the test into a fresh network namespace with one end of a veth,
// eth0, that has the addresses of one host. The other end, peer0, is another
// host in a namespace of its own. It returns what runs a function there.
func Pair(t testing.TB, here, there Host) (do func(func())) {
	t.Helper()
	InNamespace(t)
	fd, do := OtherNamespace(t)
	IP(t, fmt.Sprintf("link add eth0 address %s type veth peer name peer0 address %s netns /proc/%d/fd/%d",
		here.MAC(), there.MAC(), os.Getpid(), fd))
	here.setUp(t, "eth0")
	do(func() {
		there.setUp(t, "peer0")
		there.ready(t, "peer0")
	})
	here.ready(t, "eth0")
	return do
}

// IP runs the ip command in the namespace of the test's thread.
func IP(t testing.TB, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
	return string(out)
}

// Sysctl reads a key below /proc/sys/net in the namespace of the test's thread.
func Sysctl(t testing.TB, key string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/" + key)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// SetSysctl writes a key below /proc/sys/net in the namespace of the test's thread.
func SetSysctl(t testing.TB, key, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// Carrier waits until the kernel has noticed that an interface's link is there,
// which it does a moment after it was set up and which changes routes.
func Carrier(t testing.TB, iface string) {
	t.Helper()
	until(t, iface+" has a carrier", func() bool { return strings.Contains(IP(t, "-o link show dev "+iface), "state UP") })
}

// Delivers waits until the kernel has the local routes to IPv6 addresses, which
// it makes a moment after them.
func Delivers(t testing.TB, addrs ...string) {
	t.Helper()
	until(t, fmt.Sprintf("%v are delivered", addrs), func() bool {
		routes := IP(t, "-6 route show table local")
		return !slices.ContainsFunc(addrs, func(a string) bool { return !strings.Contains(routes, "local "+a+" ") })
	})
}

func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for late := time.Now().Add(10 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("waited in vain until ", what)
		}
	}
}
