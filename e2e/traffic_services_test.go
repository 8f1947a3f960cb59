// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestIPv6Traffic: the reference cluster in IPv6, rr, beside the one in IPv4.
func TestIPv6Traffic(t *testing.T) {
	c := newCluster(t, lab.Options{})
	vip6 := lab.VIP6().String()
	servers := c.reference("rr")
	for _, rs := range c.RealServers {
		c.shunt(rs, "realserver", "start", "--vip", vip6).want(t, 0)
	}
	c.director("stop")
	c.start("--vip", vip6)
	c.rules("-A -t [" + vip6 + "]:80 -s rr")
	for _, rs := range c.RealServers {
		c.rules(fmt.Sprintf("-a -t [%s]:80 -r [%v]:80 -g", vip6, rs.Addr6()))
	}
	want := put(t, servers, "long", 3<<20)
	for _, base := range []string{"http://[" + vip6 + "]/", "http://" + lab.VIP().String() + "/"} {
		if got := c.getFrom(base, 20); got["rs1"] != 10 || got["rs2"] != 10 {
			t.Errorf("%s is answered by %v", base, got)
		}
		if got := c.curl(base + "files/long"); got != string(want) {
			t.Errorf("%s: a file of %d bytes came as %d others", base, len(want), len(got))
		}
	}
	if r := c.shunt(c.Director, "ipvsadm", "-Ln").want(t, 0); !bytes.Contains([]byte(r.stdout), []byte("TCP  ["+vip6+"]:80 rr")) {
		t.Error(r)
	}
	// The daemon dies, and the next one takes over IPv6 as well.
	c.kill()
	if got := c.getFrom("http://["+vip6+"]/", 10); got["rs1"] != 5 || got["rs2"] != 5 {
		t.Errorf("without a daemon %v", got)
	}
	c.start("--vip", vip6)
	if got := c.getFrom("http://["+vip6+"]/", 10); got["rs1"] != 5 || got["rs2"] != 5 {
		t.Errorf("with the next daemon %v", got)
	}
}

// TestPersistentTraffic: all requests of a client go to one server, until the
// service is persistent no more.
func TestPersistentTraffic(t *testing.T) {
	c := newCluster(t, lab.Options{})
	c.reference("rr")
	c.rules("-E -t VIP:80 -s rr -p 60")
	if got := c.get(20); got["rs1"] != 20 && got["rs2"] != 20 {
		t.Errorf("persistent, and answered by %v", got)
	}
	if out := c.rules("-Ln --persistent-conn"); !bytes.Contains([]byte(out), []byte("rr persistent 60")) {
		t.Error(out)
	}
	if out := c.rules("-Lnc"); !bytes.Contains([]byte(out), []byte(c.Client.Addr().String()+":0")) {
		t.Errorf("no template is listed:\n%s", out)
	}
	c.rules("-E -t VIP:80 -s rr")
	if got := c.get(20); got["rs1"] != 10 || got["rs2"] != 10 {
		t.Errorf("persistent no more, and answered by %v", got)
	}
}

// TestNarrowWay: the way to a real server takes only short packets. The director
// tells the client so, and an upload arrives.
func TestNarrowWay(t *testing.T) {
	c := newCluster(t, lab.Options{})
	for _, rs := range c.RealServers {
		c.sh(c.Director, fmt.Sprintf("ip route add %v/32 dev eth0 mtu 900", rs.Addr()))
	}
	servers := c.reference("wlc")
	body := random(1 << 20)
	file := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	path := c.curl("-T", file, url("/upload"))
	if got := kept(t, servers, path); !bytes.Equal(got, body) {
		t.Errorf("an upload of %d bytes arrived as %d others", len(body), len(got))
	}
	if c.verdict("reply_too_big") == 0 {
		t.Error("the client was told nothing: the test shows nothing")
	}
}
