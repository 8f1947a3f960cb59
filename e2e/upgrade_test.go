// SPDX-License-Identifier: MIT

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// otherProgram builds a shunt whose maps are laid out otherwise.
func otherProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "shunt")
	build := exec.Command("go", "build", "-tags", "otherlayout", "-o", path, "../cmd/shunt")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building shunt with another layout: %v\n%s", err, out)
	}
	return path
}

// everyKind sets up services of each kind: TCP over IPv4, persistent, over IPv6,
// and UDP.
func (c *cluster) everyKind() []*nginx {
	c.t.Helper()
	vip6 := lab.VIP6().String()
	servers := c.reference("wlc")
	for _, rs := range c.RealServers {
		c.shunt(rs, "realserver", "start", "--vip", vip6).want(c.t, 0)
		c.serveUDP(rs, 53, ",bind="+lab.VIP().String())
	}
	c.director("stop")
	c.start("--vip", vip6)
	c.rules("-A -t VIP:81 -s rr -p 300", "-A -u VIP:53 -s rr", "-A -t ["+vip6+"]:80 -s rr")
	for i, rs := range c.RealServers {
		c.rules(fmt.Sprintf("-a -t VIP:81 -r RS%d:81", i+1), fmt.Sprintf("-a -u VIP:53 -r RS%d:53", i+1),
			fmt.Sprintf("-a -t [%s]:80 -r [%v]:80", vip6, rs.Addr6()))
	}
	return servers
}

// TestUpgradeAtLoad replaces the daemon by one whose maps are laid out otherwise,
// and back, and by one whose tables have another size, while requests come and go, downloads last and connections of each
// kind stay open. None of that notices.
func TestUpgradeAtLoad(t *testing.T) {
	c := newCluster(t, lab.Options{})
	other := otherProgram(t)
	want := put(t, c.everyKind(), "long", longFile)
	l := c.load()
	l.next()
	d := c.download("/files/long")
	d.read(1 << 20)
	open := c.openEach(20)
	udp := c.askUDPFrom(nil)

	for i, words := range [][]string{{other}, {program}, {other}, {program}, {program, "--connections=1048576"}, {other, "--connections=262144"}} {
		c.kill()
		c.run(c.Director, words[0], append([]string{"director", "start", "--debug"}, words[1:]...)...).want(t, 0)
		if s := c.status(); !s.TookOver {
			t.Error("the new daemon says that it did not take over")
		}
		d.read(4 << 20)
		for _, o := range open {
			o.ask(t)
		}
		if again := c.askUDPFrom(udp); again.server != udp.server {
			t.Errorf("datagrams of one port went to %s and then to %s", udp.server, again.server)
		}
		if b := l.next(); len(b.failed) > 0 || b.answered["rs1"] == 0 || b.answered["rs2"] == 0 {
			t.Errorf("after upgrade %d, of a batch answered by %v, failed %q", i, b.answered, b.failed)
		}
		open = append(open, c.openEach(4)...)
	}
	d.finish(want)
	for _, o := range open {
		o.Close()
	}
	all := l.finish()
	if len(all.failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", len(all.failed), all.total(), all.failed[0])
	}
	for _, v := range []string{"forward_adopted", "forward_untracked", "drop_no_server", "drop_unresolved", "aborted"} {
		if n := c.verdict(v); n > 0 {
			t.Errorf("%d packets: %s", n, v)
		}
	}
	c.settleAll()
}

// TestUpgradeKilledAtLoad does the same with daemons that are killed at some
// moment of their start.
func TestUpgradeKilledAtLoad(t *testing.T) {
	c := newCluster(t, lab.Options{})
	other := otherProgram(t)
	c.everyKind()
	l := c.load()
	l.next()
	open := c.openEach(20)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	binaries := []string{other, program}
	c.kill()
	for range 12 {
		cmd := c.Director.Command(t.Context(), binaries[r.IntN(2)], "director", "run")
		cmd.Env = append(os.Environ(), "SHUNT_INSTANCE="+instanceOf(c.Director))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(r.IntN(900)) * time.Millisecond) // any moment will do
		cmd.Process.Signal(syscall.SIGKILL)
		cmd.Wait()
	}
	c.run(c.Director, other, "director", "start", "--debug").want(t, 0)
	for _, o := range open {
		o.ask(t)
		o.Close()
	}
	all := l.finish()
	if len(all.failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", len(all.failed), all.total(), all.failed[0])
	}
	c.settleAll()
	c.run(c.Director, program, "director", "stop").want(t, 0)
	for _, at := range []string{"", ":next", ":last", ":new"} {
		if out := c.sh(c.Director, "ls -d /run/shunt/bpf/"+instanceOf(c.Director)+at+" 2>/dev/null || true"); strings.TrimSpace(out) != "" {
			t.Errorf("pins are left: %s", out)
		}
	}
}

// settleAll is settle where there are templates: one that runs out while it has
// connections gets another minute.
func (c *cluster) settleAll() {
	c.t.Helper()
	eventually(c.t, "ActiveConn and InActConn to be 0, and no templates", func() bool {
		c.shunt(c.Director, "debug", "advance-clock", "1000s").want(c.t, 0)
		return c.idle()
	})
}

// openEach opens n connections to each of the web services, and asks on each.
func (c *cluster) openEach(n int) (all []*openConnection) {
	c.t.Helper()
	v4, v6 := lab.VIP().String(), lab.VIP6().String()
	for _, addr := range []string{v4 + ":80", v4 + ":81", "[" + v6 + "]:80"} {
		for range n {
			o := c.connectTo(addr)
			o.ask(c.t)
			all = append(all, o)
		}
	}
	return all
}

// datagrams is a port that asks the UDP service.
type datagrams struct {
	net.Conn
	server string
}

// askUDPFrom asks from that port, or from a new one.
func (c *cluster) askUDPFrom(d *datagrams) *datagrams {
	c.t.Helper()
	if d == nil {
		conn, err := c.Client.Dial(c.t.Context(), "udp", lab.VIP().String()+":53")
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { conn.Close() })
		d = &datagrams{Conn: conn}
	}
	d.SetDeadline(time.Now().Add(commandLimit))
	if _, err := fmt.Fprintln(d, "x"); err != nil {
		c.t.Fatal(err)
	}
	b := make([]byte, 1500)
	n, err := d.Read(b)
	if err != nil {
		c.t.Fatal(err)
	}
	name, _, _ := strings.Cut(string(b[:n]), " ")
	return &datagrams{d.Conn, name}
}
