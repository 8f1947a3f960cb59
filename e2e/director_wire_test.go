// SPDX-License-Identifier: MIT

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// beRealServer makes a node a real server of the VIP, by shunt's own command, with a
// server that greets with the node's name and echoes lines.
func beRealServer(t *testing.T, d *instance, n *lab.Node) {
	t.Helper()
	dir := t.TempDir()
	vip := lab.VIP().String()
	shunt(t, n, "realserver", "start", "--vip", vip, "--state-dir", dir).want(t, 0)
	l, err := n.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, n.Name())
				io.Copy(c, c)
			}()
		}
	}()
}

// talk opens a connection to the VIP and says which real server took it.
func talk(t testing.TB, d *instance) (conn net.Conn, lines *bufio.Reader, server string, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err = d.Client.Dial(ctx, "tcp", lab.VIP().String()+":80")
	if err != nil {
		return nil, nil, "", err
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	lines = bufio.NewReader(conn)
	server, err = lines.ReadString('\n')
	if err != nil {
		conn.Close()
		return nil, nil, "", err
	}
	return conn, lines, strings.TrimSpace(server), nil
}

// echo fails the test unless the connection still works.
func echo(t testing.TB, conn net.Conn, lines *bufio.Reader, text string) {
	t.Helper()
	if _, err := fmt.Fprintln(conn, text); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	got, err := lines.ReadString('\n')
	if err != nil || strings.TrimSpace(got) != text {
		t.Fatalf("%s: %q, %v", text, got, err)
	}
}

func TestConnectionsOutliveTheDaemon(t *testing.T) {
	d := newInstance(t, lab.Options{})
	for _, rs := range d.RealServers {
		beRealServer(t, d, rs)
	}
	d.start(t).want(t, 0)
	d.rules(t, web()...)
	conn, lines, server, err := talk(t, d)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	echo(t, conn, lines, "before")
	d.kill(t)
	echo(t, conn, lines, "without a daemon")
	fresh, _, _, err := talk(t, d)
	if err != nil {
		t.Fatalf("a new connection without a daemon: %v", err)
	}
	defer fresh.Close()
	d.do(t, "start").want(t, 0)
	echo(t, conn, lines, "after")
	s := d.status(t)
	var active uint32
	for _, r := range s.Services[0].Servers {
		active += r.Active
	}
	if active != 2 || s.Services[0].Counters.Connections != 2 {
		t.Errorf("two connections are %+v", s.Services[0])
	}
	if r := d.ipvsadm(t, "-L -n -c").want(t, 0); strings.Count(r.stdout, "ESTABLISHED") != 2 {
		t.Errorf("of %s: %v", server, r)
	}
	d.do(t, "reload").want(t, 0)
	echo(t, conn, lines, "after a reload")
}

func TestARealServersNewMACIsFollowed(t *testing.T) {
	d := newInstance(t, lab.Options{RealServers: 1})
	rs := d.RealServers[0]
	beRealServer(t, d, rs)
	d.start(t).want(t, 0)
	vip := lab.VIP().String() + ":80"
	d.rules(t, "-A -t "+vip, "-a -t "+vip+" -r "+rs.Addr().String())
	conn, lines, _, err := talk(t, d)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	const mac = "02:00:00:00:17:17"
	command(t, rs, "", "ip", "link", "set", "eth0", "address", mac).want(t, 0)
	eventually(t, "the new MAC address in status", func() bool { return d.status(t).Neighbours[0].MAC == mac })
	echo(t, conn, lines, "to the new address")
	if log := d.do(t, "status").stdout; !strings.Contains(log, mac) {
		t.Error(log)
	}
}

func TestARealServerThatIsNotThereYet(t *testing.T) {
	d := newInstance(t, lab.Options{RealServers: 1})
	d.start(t).want(t, 0)
	vip, late := lab.VIP().String()+":80", "172.16.16.190"
	d.rules(t, "-A -t "+vip, "-a -t "+vip+" -r "+late)
	s := d.status(t)
	if n := s.Neighbours; len(n) != 1 || n[0].MAC != "" || n[0].Reason == "" {
		t.Errorf("neighbours: %+v", n)
	}
	if text := strings.Join(s.Warnings, "\n"); !strings.Contains(text, "real server "+late) || !strings.Contains(text, "no real server for new") {
		t.Errorf("warnings: %s", text)
	}
	d.do(t, "status").want(t, 0).says(t, "UNRESOLVED", "WARNING")
	n, err := d.Add("late", netip.MustParsePrefix(late+"/24"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "its MAC address", func() bool { return d.status(t).Neighbours[0].MAC == n.MAC().String() })
	if w := d.status(t).Warnings; len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
	// It dies, and is told so.
	command(t, n, "", "ip", "link", "set", "eth0", "down").want(t, 0)
	eventually(t, "a word about its silence", func() bool { return d.status(t).Neighbours[0].Reason != "" })
}

func TestTheVIPIsAnnouncedAndDefended(t *testing.T) {
	d := newInstance(t, lab.Options{})
	tap, err := d.TapARP(d.node)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	gratuitous := func(f lab.Frame) bool {
		return f.FromNode && f.ARP != nil && f.ARP.Sender == lab.VIP() && f.ARP.Target == lab.VIP() && f.Dst.Broadcast()
	}
	count := func() int {
		n := 0
		for _, f := range tap.Frames() {
			if gratuitous(f) {
				n++
			}
		}
		return n
	}
	d.start(t).want(t, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := tap.Wait(ctx, gratuitous); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all announcements", func() bool { return count() >= 8 }) // two forms, four times

	// A real server without guards turns up.
	before := count()
	rogue := d.RealServers[0]
	command(t, rogue, "", "ip", "addr", "add", lab.VIP().String()+"/32", "dev", "eth0").want(t, 0)
	if err := d.Client.ForgetNeighbours(); err != nil {
		t.Fatal(err)
	}
	if err := rogue.Send(gratuitousARP(rogue.MAC(), lab.VIP())); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the conflict in status", func() bool { return d.status(t).VIPs[0].Conflict != nil })
	s := d.status(t)
	if c := s.VIPs[0].Conflict; c.MAC != rogue.MAC().String() || c.Count == 0 {
		t.Errorf("conflict: %+v", c)
	}
	if !strings.Contains(strings.Join(s.Warnings, "\n"), rogue.MAC().String()) {
		t.Errorf("warnings: %q", s.Warnings)
	}
	eventually(t, "an answer to the foreign claim", func() bool { return count() > before })

	// And now a start finds it.
	d.do(t, "stop").want(t, 0)
	d.do(t, "start").want(t, 1).says(t, rogue.MAC().String(), "--force")
	d.do(t, "start", "--force").want(t, 0)
}

func gratuitousARP(mac net.HardwareAddr, addr netip.Addr) []byte {
	b := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	b = append(b, mac...)
	b = append(b, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	b = append(append(b, mac...), addr.AsSlice()...)
	return append(append(b, 0, 0, 0, 0, 0, 0), addr.AsSlice()...)
}

// Nobody has to tell the director that its VIP is gone.
func TestAVIPThatWasRemovedComesBack(t *testing.T) {
	d := newInstance(t, lab.Options{})
	d.start(t).want(t, 0)
	command(t, d.node, "", "ip", "addr", "del", lab.VIP().String()+"/32", "dev", "eth0").want(t, 0)
	eventually(t, "the VIP", func() bool { return d.status(t).VIPs[0].Present })
}

// A real server may be on a network of its own, behind another interface of the
// director that no client's packet comes in by.
func TestARealServerOnAnotherInterface(t *testing.T) {
	d := newInstance(t, lab.Options{RealServers: 1})
	rs := d.RealServers[0]
	const rip = "10.5.5.2"
	command(t, d.node, "", "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", rs.Namespace()).want(t, 0)
	for _, side := range []struct {
		n    *lab.Node
		addr string
	}{{d.node, "10.5.5.1/24"}, {rs, rip + "/24"}} {
		command(t, side.n, "", "ip", "addr", "add", side.addr, "dev", "eth1").want(t, 0)
		command(t, side.n, "", "ip", "link", "set", "eth1", "up").want(t, 0)
	}
	beRealServer(t, d, rs)
	before := snapshot(t, d)
	// Generic: native needs the help of the other end of this veth.
	d.start(t, "--mode", "generic").want(t, 0)
	vip := lab.VIP().String() + ":80"
	d.rules(t, "-A -t "+vip, "-a -t "+vip+" -r "+rip)
	if n := d.status(t).Neighbours; len(n) != 1 || n[0].Interface != "eth1" || n[0].MAC == "" || n[0].Source.String() != "10.5.5.1" {
		t.Fatalf("neighbours: %+v", n)
	}
	conn, lines, server, err := talk(t, d)
	if err != nil {
		t.Fatalf("%v\n%v", err, d.do(t, "status"))
	}
	defer conn.Close()
	if server != rs.Name() {
		t.Errorf("answered by %s", server)
	}
	echo(t, conn, lines, "through eth1")

	// The interface goes, and the director says so.
	command(t, d.node, "", "ip", "link", "set", "eth1", "down").want(t, 0)
	eventually(t, "a word about eth1", func() bool { n := d.status(t).Neighbours[0]; return n.Reason != "" && n.MAC == "" })
	command(t, d.node, "", "ip", "link", "set", "eth1", "up").want(t, 0)
	eventually(t, "the real server again", func() bool { return d.status(t).Neighbours[0].MAC != "" })
	echo(t, conn, lines, "through eth1 again")
	conn.Close()
	d.do(t, "stop").want(t, 0)
	same(t, before, snapshot(t, d))
}

// ip netns exec gives each command a mount namespace of its own; what one pins
// the next one must find.
func TestCommandsByIPNetnsExec(t *testing.T) {
	d := newInstance(t, lab.Options{})
	before := snapshot(t, d)
	exec := func(args ...string) result {
		t.Helper()
		return command(t, d.Client, "", "ip", append([]string{"netns", "exec", d.node.Namespace(), program}, args...)...)
	}
	places := []string{"--instance", "test", "--run-dir", d.places.RunDir, "--state-dir", d.places.StateDir}
	exec(append([]string{"director", "start", "--interface", "eth0", "--vip", lab.VIP().String()}, places...)...).want(t, 0)
	for _, line := range web() {
		exec(append([]string{"ipvsadm"}, strings.Fields(line)...)...).want(t, 0)
	}
	d.kill(t)
	exec(append([]string{"director", "status"}, places...)...).want(t, 1).says(t, "still attached")
	exec(append([]string{"director", "start"}, places...)...).want(t, 0)
	exec(append([]string{"director", "status"}, places...)...).want(t, 0).says(t, "took over")
	exec(append([]string{"director", "stop"}, places...)...).want(t, 0)
	same(t, before, snapshot(t, d))
}
