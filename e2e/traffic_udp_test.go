// SPDX-License-Identifier: MIT

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestUDP asks a UDP service, socat to socat: the answer has to come from the
// VIP, or the client's connected socket does not take it.
func TestUDP(t *testing.T) {
	for _, m := range []method{
		// With method loopback a server has to answer from the address that it
		// was asked at; socat does if it is bound to the VIP.
		{"loopback", 53, nil},
		{"redirect", 53, []string{"--method", "redirect", "--port", "53/udp"}},
		{"redirect to another port", 5353, []string{"--method", "redirect", "--port", "53/udp:5353"}},
	} {
		t.Run(m.name, func(t *testing.T) {
			c := newCluster(t, lab.Options{})
			for _, rs := range c.RealServers {
				c.shunt(rs, append([]string{"realserver", "start", "--vip", lab.VIP().String()}, m.args...)...).want(t, 0)
				bind := ""
				if m.args == nil {
					bind = ",bind=" + lab.VIP().String()
				}
				c.serveUDP(rs, m.listen, bind)
			}
			c.start()
			c.rules("-A -u VIP:53 -s rr", "-a -u VIP:53 -r RS1 -g", "-a -u VIP:53 -r RS2 -g")
			tap, err := c.Tap(c.Director)
			if err != nil {
				t.Fatal(err)
			}

			answered := map[string]int{}
			for range 10 {
				answered[c.askUDP("a")["a"]]++
			}
			if want := map[string]int{"rs1": 5, "rs2": 5}; !maps.Equal(answered, want) {
				t.Errorf("one datagram from each of ten ports: answered by %v", answered)
			}
			// Datagrams of one port belong together.
			lines := []string{"a", "b", "c", "d", "e"}
			answers := c.askUDP(lines...)
			for _, l := range lines {
				if answers[l] == "" || answers[l] != answers["a"] {
					t.Errorf("five datagrams from one port: answered by %v", answers)
				}
			}

			frames, err := tap.Close()
			if err != nil {
				t.Fatal(err)
			}
			passed := 0
			for _, f := range frames {
				switch {
				case f.IP == nil:
				case f.IP.Src.Addr() == lab.VIP():
					t.Fatalf("a reply at the director: %v", f)
				case f.FromNode && f.IP.Protocol == lab.ProtocolUDP:
					passed++
				}
			}
			stats, table := c.table("--stats"), c.table("")
			service := "UDP " + lab.VIP().String() + ":53"
			total, inactive := uint64(0), uint64(0)
			for _, rs := range c.RealServers {
				at := rs.Addr().String() + ":53"
				if len(table[service][at]) != 3 || table[service][at][1] != 0 {
					t.Fatalf("UDP is never active: %v", table)
				}
				total += stats[service][at][0]
				inactive += table[service][at][2]
			}
			if passed != 15 || total != 11 || inactive != 11 {
				t.Errorf("%d datagrams passed the director, %d connections counted, %d inactive; want 15, 11, 11", passed, total, inactive)
			}
			c.settle()
		})
	}
}

// serveUDP answers each datagram with the node's name and what it said.
func (c *cluster) serveUDP(n *lab.Node, port int, options string) {
	c.t.Helper()
	ctx := context.WithoutCancel(c.t.Context())
	cmd := n.Command(ctx, "socat", fmt.Sprintf("UDP4-RECVFROM:%d%s,reuseaddr,fork", port, options),
		fmt.Sprintf("SYSTEM:read text; echo %s $text", n.Name()))
	if err := cmd.Start(); err != nil {
		c.t.Fatalf("%v: apt-get install socat", err)
	}
	c.t.Cleanup(func() { cmd.Stop() })
	eventually(c.t, "socat of "+n.Name(), func() bool { return strings.Contains(c.sh(n, "ss -Hunl"), fmt.Sprintf(":%d ", port)) })
}

// askUDP sends lines, a datagram each, from one port, and returns who answered
// which. The socket is connected: it takes answers from the VIP only.
func (c *cluster) askUDP(lines ...string) map[string]string {
	c.t.Helper()
	conn, err := c.Client.Dial(c.t.Context(), "udp", net.JoinHostPort(lab.VIP().String(), "53"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(commandLimit))
	answers, b := map[string]string{}, make([]byte, 1500)
	for _, l := range lines {
		if _, err := fmt.Fprintln(conn, l); err != nil {
			c.t.Fatal(err)
		}
		n, err := conn.Read(b)
		if err != nil {
			c.t.Fatalf("no answer to %q: %v", l, err)
		}
		if f := strings.Fields(string(b[:n])); len(f) == 2 {
			answers[f[1]] = f[0]
		}
	}
	return answers
}
