// SPDX-License-Identifier: MIT

package e2e

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// botnet is a few sources with one prefix that flood a service with SYNs, ACKs
// and datagrams.
func (g forged) botnet(r *rand.Rand) []byte {
	from := netip.AddrFrom4([4]byte{20, 0, 0, byte(1 + r.IntN(bots))})
	switch r.IntN(3) {
	case 0:
		return g.ip(r, from, lab.ProtocolTCP, flagDF, tcp(r, 80, lab.SYN))
	case 1:
		return g.ip(r, from, lab.ProtocolTCP, flagDF, tcp(r, 80, lab.ACK))
	}
	return g.ip(r, from, lab.ProtocolUDP, 0, udp(r, 53, 8))
}

const bots = 20

// TestGuards has a botnet flood a director with a small table: a source limit
// keeps it from filling the table, a deny list keeps it out, and neither is in
// anyone else's way. Both are edited while packets flow, survive the daemon's
// death, and are in what is saved.
func TestGuards(t *testing.T) {
	c := newCluster(t, lab.Options{})
	for _, rs := range c.RealServers {
		startNginx(t, rs, 80)
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String()).want(t, 0)
		c.answersDatagrams(rs)
	}
	c.start("--connections", strconv.Itoa(tableRoom))
	c.rules(append(c.web("wlc"), "-A -u VIP:53 -s rr", "-a -u VIP:53 -r RS1:53", "-a -u VIP:53 -r RS2:53")...)
	mine := c.connect()
	mine.ask(t)
	g := forged{c.Director.MAC(), c.Client.MAC()}
	f := c.flood(g.botnet)
	eventually(t, "the table to be full", func() bool { return c.full("connections") })

	// 20 sources with 20 connections at once and 5 a second, of two services.
	c.rules("-E -t VIP:80 -s wlc --source-limit 5:20", "-E -u VIP:53 -s rr --source-limit 5:20")
	f.end(t)
	mine.ask(t)
	began := time.Now()
	c.shunt(c.Director, "debug", "advance-clock", "850s").want(t, 0)
	mine.ask(t)
	c.shunt(c.Director, "debug", "advance-clock", "850s").want(t, 0)
	eventually(t, "what the flood has left to go", func() bool { return len(c.connections()) == 1 })
	before := c.verdicts()
	f = c.flood(g.botnet)
	for range 5 {
		mine.ask(t)
		if got := c.get(4); got["rs1"]+got["rs2"] != 4 { // 5 a second, and 20 at once
			t.Errorf("of a client within the limit: %v", got)
		}
	}
	eventually(t, "the limit to be counted", func() bool { return c.verdicts()["drop_source_limit"] > before["drop_source_limit"]+1000 })
	most := 2 * bots * (20 + 5*int(time.Since(began).Seconds()+1))
	if n := len(c.connections()); n > most || n < 2*bots*20/2 {
		t.Errorf("within a limit there are %d connections, which should be %d to %d", n, 2*bots*20/2, most)
	}

	// All of the botnet is put out, and one host that is not in it.
	c.rules("--add-deny 20.0.0.0/24 -t VIP:80", "--add-deny 20.0.0.0/24 -u VIP:53", "--add-deny 192.0.2.7 -t VIP:80")
	eventually(t, "the deny list to be counted", func() bool { return c.verdicts()["drop_denied"] > 1000 })
	before = c.verdicts()
	eventually(t, "more of them", func() bool { return c.verdicts()["drop_denied"] > before["drop_denied"]+1000 })
	for name, n := range c.verdicts() {
		if n != before[name] && slices.Contains([]string{"forward_new", "forward_adopted", "forward_untracked", "drop_source_limit"}, name) {
			t.Errorf("the botnet is denied, and there are %d packets more: %s", n-before[name], name)
		}
	}
	mine.ask(t)
	f.end(t)

	// Somebody denies the wrong one: his connection stands still, and goes on.
	c.rules("--add-deny " + c.Client.Addr().String() + " -t VIP:80")
	if _, err := io.WriteString(mine, "GET / HTTP/1.1\r\nHost: vip\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	mine.SetReadDeadline(time.Now().Add(time.Second))
	if n, err := mine.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a denied client was answered: %d %v", n, err)
	}
	want := "deny 3"
	result{stdout: c.rules("-Ln")}.says(t, want, "source-limit 5:20")
	c.rules("--delete-deny " + c.Client.Addr().String() + "/32 -t VIP:80")
	mine.SetReadDeadline(time.Now().Add(commandLimit))
	if _, err := mine.answers.Peek(1); err != nil {
		t.Errorf("a client that is denied no more: %v", err)
	}

	saved := "--add-deny 20.0.0.0/24 -t 172.16.16.172:80\n--add-deny 192.0.2.7/32 -t 172.16.16.172:80\n"
	sees := func(when string) {
		t.Helper()
		if out := c.rules("-Sn"); !strings.Contains(out, saved) || !strings.Contains(out, "-s wlc --source-limit 5:20\n") {
			t.Errorf("%s, saved: %s", when, out)
		}
		result{stdout: c.director("status")}.says(t, "source-limit 5:20", "20.0.0.0/24, 192.0.2.7/32", "drop_denied", "drop_source_limit")
		for _, s := range c.status().Services {
			if s.Protocol.String() != "TCP" || s.Port != 80 || s.Is6() {
				continue
			}
			if s.Policy.SourceLimit.String() != "5:20" || len(s.Deny) != 2 || s.Deny[0].String() != "20.0.0.0/24" {
				t.Errorf("%s: %+v", when, s)
			}
		}
		denied := c.verdict("drop_denied")
		f := c.flood(g.botnet)
		eventually(t, when+", the deny list to count", func() bool { return c.verdict("drop_denied") > denied })
		f.end(t)
	}
	sees("at first")
	c.kill()
	c.start()
	sees("after a daemon's death")
	all := c.rules("-Sn")
	c.rules("-C")
	commandWith(t, c.Director, []string{"SHUNT_INSTANCE=" + instanceOf(c.Director)}, all, program, "ipvsadm", "-R").want(t, 0)
	sees("after a restore")
	c.rules("-E -t VIP:80 -s wlc --source-limit 5:20") // an edit keeps the list
	sees("after an edit")
	c.shunt(c.Director, "ipvsadm", "--add-deny", "20.0.0.1/24", "-t", "172.16.16.172:80").want(t, 255).says(t, "20.0.0.1/24", "20.0.0.0/24 has none")
	c.shunt(c.Director, "ipvsadm", "--add-deny", "20.0.0.0/24", "-t", "172.16.16.172:80").want(t, 255).says(t, "it is there already")
	c.shunt(c.Director, "ipvsadm", "--add-deny", "2001:db8::/32", "-t", "172.16.16.172:80").want(t, 255).says(t, "another address family")
	sees("after mistakes")
	c.settleAll()
}
