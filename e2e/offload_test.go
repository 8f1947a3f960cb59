// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestOffloadsAreExplained: on interfaces as the kernel makes them a start says
// what is lost and what to do, as long as it is so; status says it, too.
func TestOffloadsAreExplained(t *testing.T) {
	c := newCluster(t, lab.Options{Offload: true, RealServers: 1})
	port := "director, in the network namespace " + c.Switch.Namespace()
	command := "ip netns exec " + c.Switch.Namespace() + " ethtool -K director tx off"
	const program = "has no native XDP program"
	start := func(mode string, want ...string) {
		t.Helper()
		started := c.director("start", "--interface", "eth0", "--vip", lab.VIP().String(), "--connections", "65536", "--mode", mode)
		notes := strings.Join(c.status().Interfaces[0].Notes, "\n")
		for _, out := range []string{started, notes, c.director("status")} {
			for _, words := range append(want, port) {
				if len(want) > 0 && !strings.Contains(out, words) {
					t.Errorf("%s: nothing about %q in\n%s", mode, words, out)
				}
			}
			for _, words := range []string{program, command} {
				if strings.Contains(out, words) && !strings.Contains(strings.Join(want, "\n"), words) {
					t.Errorf("%s: it says %q:\n%s", mode, words, out)
				}
			}
		}
		if len(want) == 0 && notes != "" {
			t.Errorf("%s: nothing is wrong, but %q", mode, notes)
		}
		c.director("stop")
	}
	start("native", program, command)
	start("auto", program, command)
	start("generic", command)
	start("tc")

	if err := c.Switch.NoOffloadOf("director"); err != nil {
		t.Fatal(err)
	}
	start("native", program)
	start("generic")

	// The way out is one: senders that leave their checksums to be filled in are
	// served, and packets are no longer than the MTU.
	servers := c.webBy("generic")
	file, body := filepath.Join(t.TempDir(), "body"), random(1<<20)
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := kept(t, servers, c.curl("-T", file, url("/upload"))); !bytes.Equal(got, body) {
		t.Errorf("an upload of %d bytes arrived as %d others", len(body), len(got))
	}
	c.director("stop")

	// The other end takes longer packets than XDP: auto falls back, and says why.
	c.sh(c.Switch, "ip link set director mtu 9000")
	c.director("start", "--interface", "eth0", "--vip", lab.VIP().String(), "--connections", "65536", "--mode", "auto")
	i := c.status().Interfaces[0]
	if i.Mode != "generic" || !strings.Contains(i.Reason, "native XDP is not possible") || len(i.Notes) != 1 || !strings.Contains(i.Notes[0], "is 9000, and most drivers") {
		t.Errorf("an MTU of 9000: %+v", i)
	}
	c.director("stop")
	c.shunt(c.Director, "director", "start", "--interface", "eth0", "--vip", lab.VIP().String(), "--mode", "native").
		want(t, 1).says(t, "MTU", "--mode")
}
