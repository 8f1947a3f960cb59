// SPDX-License-Identifier: MIT

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestConcurrentLoad makes many connections at a time, of one request (curl,
// wrk) and of many (wrk). None fails, all are counted, and when their time is
// over none is counted any more.
func TestConcurrentLoad(t *testing.T) {
	for _, m := range methods()[:2] {
		t.Run(m.name, func(t *testing.T) {
			c := newCluster(t, lab.Options{})
			for _, rs := range c.RealServers {
				startNginx(t, rs, m.listen)
				c.shunt(rs, append([]string{"realserver", "start", "--vip", lab.VIP().String()}, m.args...)...).want(t, 0)
			}
			c.start()
			c.rules(c.web("wlc")...)

			const n = 2000
			got, err := c.parallel(t.Context(), n)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.failed) > 0 {
				t.Errorf("%d of %d requests failed, the first: %s", len(got.failed), n, got.failed[0])
			}
			conns := c.conns()
			for _, rs := range c.RealServers {
				if conns[rs.Name()] != got.answered[rs.Name()] {
					t.Errorf("ipvsadm counts %v, answered by %v", conns, got.answered)
				}
				// wlc gives less to a server that is slower just now, and on a busy
				// machine one nginx may be; but it lets none stand idle.
				if share := got.answered[rs.Name()]; share < n/4 {
					t.Errorf("%s answered %d of %d", rs.Name(), share, n)
				}
			}
			for _, header := range []string{"Connection: close", "Connection: keep-alive"} {
				c.wrk(header)
			}
			if drops := lost(c); len(drops) > 0 {
				t.Errorf("packets were dropped or left to the director's own stack: %v", drops)
			}
			busy := false
			for addr, r := range c.table("")["TCP "+lab.VIP().String()+":80"] {
				busy = busy || addr != "" && r[1]+r[2] > 0
			}
			if !busy {
				t.Error("nothing is counted before the clock advances, so nothing is tested")
			}
			c.settle()
		})
	}
}

// wrk makes as many requests as it can for some seconds.
func (c *cluster) wrk(header string) {
	c.t.Helper()
	out := c.run(c.Client, "wrk", "-t2", "-c16", "-d2s", "--timeout", "5s", "-H", header, url("/")).want(c.t, 0).stdout
	done := regexp.MustCompile(`(\d+) requests in`).FindStringSubmatch(out)
	if strings.Contains(out, "Socket errors") || strings.Contains(out, "Non-2xx") || done == nil || len(done[1]) < 3 {
		c.t.Errorf("wrk with %s:\n%s", header, out)
	}
}

// TestQuiesceAndRemoveUnderLoad takes a server out, in the two steps in which it
// should be done, and back in, while connections come and go.
func TestQuiesceAndRemoveUnderLoad(t *testing.T) {
	c := newCluster(t, lab.Options{})
	servers := c.reference("wlc")
	want := put(t, servers, "long", longFile)
	l := c.load()
	if b := l.next(); b.answered["rs1"] == 0 || b.answered["rs2"] == 0 {
		t.Fatalf("at first, of a batch, answered by %v", b.answered)
	}
	d := c.downloadFrom("/files/long", "rs2")

	c.rules("-e -t VIP:80 -r RS2 -w 0")
	if b := l.next(); b.answered["rs2"] != 0 || b.answered["rs1"] == 0 || len(b.failed) > 0 {
		t.Errorf("rs2 is quiesced, but of a batch answered by %v, failed %q", b.answered, b.failed)
	}
	d.read(8 << 20)
	c.rules("-e -t VIP:80 -r RS2 -w 1")
	for l.next().answered["rs2"] == 0 {
	}
	c.rules("-e -t VIP:80 -r RS2 -w 0")
	d.finish(want)

	l.next() // whose end means that no request of before is left at rs2
	c.rules("-d -t VIP:80 -r RS2")
	if b := l.next(); b.answered["rs2"] != 0 || b.answered["rs1"] == 0 || len(b.failed) > 0 {
		t.Errorf("rs2 is removed, but of a batch answered by %v, failed %q", b.answered, b.failed)
	}
	c.rules("-a -t VIP:80 -r RS2")
	for l.next().answered["rs2"] == 0 {
	}
	all := l.stop()
	if len(all.failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", len(all.failed), all.total(), all.failed[0])
	}
	c.settle()
}

// TestARealServersMACChanges: the real server's card was replaced, or the
// address went to another one. New connections and old ones go on.
func TestARealServersMACChanges(t *testing.T) {
	for _, announced := range []bool{true, false} {
		t.Run(fmt.Sprintf("announced %v", announced), func(t *testing.T) {
			c := newCluster(t, lab.Options{RealServers: 1})
			want := put(t, c.reference("rr"), "long", longFile)
			d := c.download("/files/long")
			d.read(1 << 20)

			const mac = "02:00:00:00:be:ef"
			rs := c.RealServers[0]
			c.sh(rs, "ip link set dev eth0 address "+mac)
			if announced {
				c.sh(rs, "arping -q -U -c 1 -I eth0 "+rs.Addr().String())
			}
			eventually(t, "the director to know the new MAC address", func() bool { return c.status().Neighbours[0].MAC == mac })
			if got := c.get(10); got["rs1"] != 10 {
				t.Errorf("answered by %v", got)
			}
			d.finish(want)
		})
	}
}
