// SPDX-License-Identifier: MIT

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

func TestReferenceTopology(t *testing.T) {
	c := labtest.Up(t, lab.Options{})
	want := map[string]string{
		"client": "172.16.16.10", "director": "172.16.16.173", "rs1": "172.16.16.177", "rs2": "172.16.16.178",
	}
	if len(c.Nodes()) != len(want) || len(c.RealServers) != 2 || c.Router != nil {
		t.Errorf("%d nodes, %d real servers, router %v", len(c.Nodes()), len(c.RealServers), c.Router)
	}
	for name, ip := range want {
		n := c.Node(name)
		if n == nil {
			t.Errorf("no node %s", name)
			continue
		}
		if n.Addr() != netip.MustParseAddr(ip) {
			t.Errorf("%s has %v, want %s", name, n.Addr(), ip)
		}
		if ip6 := strings.Replace(ip, "172.16.16.", "2001:db8:16::", 1); n.Addr6() != netip.MustParseAddr(ip6) {
			t.Errorf("%s has %v, want %s", name, n.Addr6(), ip6)
		}
		// What iproute2 finds under the name is that node.
		out, err := exec.Command("ip", "-n", n.Namespace(), "-br", "-4", "address", "show", "eth0").CombinedOutput()
		if err != nil || !strings.Contains(string(out), ip+"/24") {
			t.Errorf("ip -n %s: %v: %s", n.Namespace(), err, out)
		}
		out, err = exec.Command("ip", "-n", n.Namespace(), "-br", "link", "show", "eth0").CombinedOutput()
		if err != nil || !strings.Contains(string(out), n.MAC().String()) {
			t.Errorf("%s is not %v: %v: %s", name, n.MAC(), err, out)
		}
	}
	for _, from := range c.Nodes() {
		for _, to := range c.Nodes() {
			for _, ip := range []netip.Addr{to.Addr(), to.Addr6()} {
				if err := reach(t, from, to, ip); err != nil {
					t.Errorf("%s to %s, %v: %v", from.Name(), to.Name(), ip, err)
				}
			}
		}
	}
}

func TestRouter(t *testing.T) {
	c := labtest.Up(t, lab.Options{Router: true, RealServers: 1})
	if got := c.Client.Addr(); got != netip.MustParseAddr("10.0.0.10") {
		t.Errorf("the client has %v", got)
	}
	if got := c.Client.Addr6(); got != netip.MustParseAddr("2001:db8:10::10") {
		t.Errorf("the client has %v", got)
	}
	tap, err := c.Tap(c.RealServers[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []func(*lab.Node) netip.Addr{(*lab.Node).Addr, (*lab.Node).Addr6} {
		if err := reach(t, c.Client, c.RealServers[0], addr(c.RealServers[0])); err != nil {
			t.Fatal(err)
		}
		if err := reach(t, c.Client, c.Director, addr(c.Director)); err != nil {
			t.Error(err)
		}
		f, err := tap.Wait(waitTime(t), func(f lab.Frame) bool { return f.IP != nil && !f.FromNode && f.IP.Src.Addr() == addr(c.Client) })
		if err != nil {
			t.Fatal(err)
		}
		if f.IP.TTL != 63 || !f.Src.Is(c.Router.MAC()) {
			t.Errorf("the request did not come through the router: %v", f)
		}
	}
}

func TestAddedNodeInAnotherPrefix(t *testing.T) {
	c := labtest.Up(t, lab.Options{RealServers: -1})
	n, err := c.Add("rs9", netip.MustParsePrefix("198.51.100.9/24"))
	if err != nil {
		t.Fatal(err)
	}
	if err := reach(t, c.Director, n, n.Addr()); err == nil {
		t.Fatal("reached without a route")
	}
	if err := c.Director.Route(netip.PrefixFrom(n.Addr(), 32), netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if err := n.Route(netip.MustParsePrefix("172.16.16.0/24"), netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if err := reach(t, c.Director, n, n.Addr()); err != nil {
		t.Error(err)
	}
	if _, err := c.Add("rs9"); !errors.Is(err, lab.ErrForeign) {
		t.Errorf("the same name again: %v", err)
	}
}

func TestCommandRunsInTheNode(t *testing.T) {
	c := labtest.Up(t, lab.Options{RealServers: -1})
	out, err := c.Client.Command(t.Context(), "readlink", "/proc/self/ns/net", "/proc/self/ns/mnt").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	var want string
	err = c.Client.Do(func() (err error) { want, err = os.Readlink("/proc/thread-self/ns/net"); return err })
	if err != nil || got[0] != want {
		t.Errorf("it ran in %s, want %s (%v)", got[0], want, err)
	}
	if mnt, _ := os.Readlink("/proc/self/ns/mnt"); got[1] != mnt {
		t.Errorf("it has its own mounts, %s and not %s", got[1], mnt)
	}
	if here, _ := os.Readlink("/proc/self/ns/net"); here == want {
		t.Error("the test itself moved into the node")
	}
	_, err = c.Client.Command(t.Context(), "sh", "-c", "echo the reason >&2; exit 3").Output()
	if err == nil || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("the error does not say why: %v", err)
	}
}

func TestDownLeavesNothing(t *testing.T) {
	before := surroundings(t)
	c := labtest.Up(t, lab.Options{RealServers: 1})
	stubborn := c.Client.Command(context.WithoutCancel(t.Context()), "sh", "-c", `trap "" TERM; echo ready; while :; do sleep 1; done`)
	pipe, err := stubborn.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := stubborn.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(pipe, make([]byte, len("ready"))); err != nil {
		t.Fatal(err)
	}
	pids, err := c.Client.Processes()
	if err != nil || len(pids) == 0 {
		t.Fatalf("processes in the client: %v, %v", pids, err)
	}
	if _, err := c.Tap(); err != nil { // and nobody closes it
		t.Fatal(err)
	}
	if during := surroundings(t); during == before {
		t.Fatal("this test would not see a lab")
	}
	if err := c.Down(); err != nil {
		t.Fatal(err)
	}
	if err := stubborn.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
	if after := surroundings(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if err := c.Down(); err != nil {
		t.Errorf("a second Down: %v", err)
	}
}

// TestCrash kills a process that made a lab, and checks that the next one cleans
// up after it.
func TestCrash(t *testing.T) {
	labtest.NeedRoot(t)
	const prefix = "crash-test-0-"
	if os.Getenv("LAB_TEST_CRASH") != "" {
		crash(t, prefix)
		return
	}
	before := surroundings(t)
	child := exec.Command(os.Args[0], "-test.run=^TestCrash$")
	child.Env = append(os.Environ(), "LAB_TEST_CRASH=1")
	if out, err := child.CombinedOutput(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the child was to be killed: %v\n%s", err, out)
	}
	if left := surroundings(t); left == before {
		t.Fatal("the child left nothing, so nothing is tested")
	}
	c, err := lab.Up(t.Context(), lab.Options{Prefix: prefix, RealServers: 1})
	if err != nil {
		t.Fatal(err)
	}
	if c.Node("extra") != nil {
		t.Error("the old lab's node is in the new one")
	}
	if err := reach(t, c.Client, c.Director, c.Director.Addr()); err != nil {
		t.Error(err)
	}
	if err := c.Down(); err != nil {
		t.Error(err)
	}
	if after := surroundings(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func crash(t *testing.T, prefix string) {
	c, err := lab.Up(t.Context(), lab.Options{Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Add("extra"); err != nil {
		t.Fatal(err)
	}
	// Not a child that dies with the pipe of its parent's output.
	if err := c.Director.Command(context.Background(), "sleep", "3600").Start(); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func TestOneHolderAtATime(t *testing.T) {
	const prefix = "busy-test-"
	c := labtest.Up(t, lab.Options{Prefix: prefix, RealServers: -1})
	held := strings.TrimSuffix(c.Client.Namespace(), "client")
	if err := lab.Down(held); !errors.Is(err, lab.ErrBusy) {
		t.Errorf("Down of a lab in use: %v", err)
	}
	if _, err := lab.Up(t.Context(), lab.Options{Prefix: held}); !errors.Is(err, lab.ErrBusy) {
		t.Errorf("Up of a lab in use: %v", err)
	}
	mac := c.Director.MAC()
	for _, vip := range []string{lab.VIP().String() + "/32", lab.VIP6().String() + "/128"} { // a director's, which is not its own
		if out, err := exec.Command("ip", "-n", c.Director.Namespace(), "addr", "add", vip, "dev", "eth0").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if err := c.Detach(); err != nil {
		t.Fatal(err)
	}
	o, err := lab.Open(lab.Options{Prefix: held})
	if err != nil {
		t.Fatal(err)
	}
	if o.Director.Addr() != netip.MustParseAddr("172.16.16.173") || o.Director.Addr6() != netip.MustParseAddr("2001:db8:16::173") || o.Director.MAC().String() != mac.String() {
		t.Errorf("the director came back as %v, %v", o.Director.Addr(), o.Director.MAC())
	}
	if err := reach(t, o.Client, o.Director, o.Director.Addr()); err != nil {
		t.Error(err)
	}
	if err := o.Detach(); err != nil {
		t.Fatal(err)
	}
	if err := lab.Down(held); err != nil {
		t.Fatal(err)
	}
	if _, err := lab.Open(lab.Options{Prefix: held}); !errors.Is(err, lab.ErrNoLab) {
		t.Errorf("Open of no lab: %v", err)
	}
}

func TestForeignNamespaceIsLeftAlone(t *testing.T) {
	labtest.NeedRoot(t)
	const name = "foreign-test-rs1"
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "delete", name).Run() })
	before := surroundings(t)
	if _, err := lab.Up(t.Context(), lab.Options{Prefix: "foreign-test-"}); !errors.Is(err, lab.ErrForeign) {
		t.Errorf("got %v", err)
	}
	if err := lab.Down("foreign-test-"); err != nil {
		t.Error(err)
	}
	if after := surroundings(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestNames(t *testing.T) {
	labtest.NeedRoot(t)
	for _, prefix := range []string{"../x", "a b", "ä", strings.Repeat("x", 65)} {
		if _, err := lab.Up(t.Context(), lab.Options{Prefix: prefix}); !errors.Is(err, lab.ErrName) {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
	c := labtest.Up(t, lab.Options{RealServers: -1})
	for _, name := range []string{"", "a/b", "sixteen-letters-"} {
		if _, err := c.Add(name); !errors.Is(err, lab.ErrName) {
			t.Errorf("node %q: %v", name, err)
		}
	}
}

// reach sends a line over TCP to a node and waits for its echo.
func reach(t *testing.T, from, to *lab.Node, ip netip.Addr) error {
	t.Helper()
	l, err := to.Listen("tcp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		return err
	}
	defer l.Close()
	return echo(t, from, l)
}

func echo(t *testing.T, from *lab.Node, l net.Listener) error {
	go func() {
		if c, err := l.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	conn, err := from.Dial(waitTime(t), "tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	message := strings.Repeat("through the lab ", 1000)
	go func() {
		io.WriteString(conn, message)
		conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err == nil && string(got) != message {
		err = fmt.Errorf("%d bytes came back of %d", len(got), len(message))
	}
	return err
}

// waitTime bounds what may take a moment. Nothing is concluded from how long it took.
func waitTime(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// surroundings describes all that a lab of this test binary could leave behind.
// What labs of other programs do at the same time is not in it.
func surroundings(t *testing.T) string {
	t.Helper()
	ours := func(s string) bool {
		for _, p := range []string{"crash-test-", "busy-test-", "foreign-test-", labtest.Prefix(t)} {
			if strings.Contains(s, p) {
				return true
			}
		}
		return false
	}
	var b strings.Builder
	for _, pattern := range []string{"/run/netns/*", "/run/shunt-lab/*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if ours(n) {
				fmt.Fprintln(&b, n)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if ours(line) {
			b.WriteString("mount " + line)
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		switch name := l.Attrs().Name; name {
		case "client", "director", "rs1", "rs2", "br0", "extra":
			fmt.Fprintln(&b, "link", name)
		}
	}
	return b.String()
}
