// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// webBy sets up the reference cluster, scheduled by rr, with an attach mode.
func (c *cluster) webBy(mode string) (servers []*nginx) {
	c.t.Helper()
	for _, rs := range c.RealServers {
		servers = append(servers, startNginx(c.t, rs, 80))
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String()).want(c.t, 0)
	}
	c.start("--mode", mode)
	c.rules(c.web("rr")...)
	return servers
}

// TestTCOffload: on interfaces as the kernel makes them (no XDP at the other end,
// checksums that nobody has filled in, packets far longer than the MTU) tc
// forwards all, whole.
func TestTCOffload(t *testing.T) {
	c := newCluster(t, lab.Options{Offload: true})
	servers := c.webBy("tc")
	tap, err := c.Tap(c.Client, c.Director)
	if err != nil {
		t.Fatal(err)
	}
	body := random(5 << 20)
	upload := filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(upload, body, 0o644); err != nil {
		t.Fatal(err)
	}
	path := c.curl("-H", "Expect:", "--data-binary", "@"+upload, url("/upload"))
	if got := kept(t, servers, path); !bytes.Equal(got, body) {
		t.Errorf("%d bytes with sum %s arrived; want %d with %s", len(got), sum(got), len(body), sum(body))
	}
	// As IPVS counts bytes, and as the wire has packets. The last ones may be late.
	var seen, counted passed
	eventually(t, "ipvsadm's counters to agree with the wire", func() bool {
		seen, counted = sentOn(tap.Frames()), c.passed()
		return counted.packets == seen.packets && counted.bytes == seen.bytes
	})
	frames, err := tap.Close()
	if err != nil {
		t.Fatal(err)
	}
	checkPath(t, c, frames)
	if seen.long == 0 {
		t.Error("no packet was longer than the MTU: nothing was tested")
	}
	c.rules("-Z")
	checkSpread(t, c, cycles()[0])
	if drops := lost(c); len(drops) > 0 {
		t.Errorf("packets were dropped or left to the director's own stack: %v", drops)
	}

	checkTagged(t, c)
	checkRefused(t, c)
}

// passed is what a director sent on.
type passed struct {
	packets, bytes int
	long           int // packets that stand for several
}

// sentOn is that as the wire has it.
func sentOn(frames []lab.Frame) (p passed) {
	const mss = 1500 - 20 - 32 // TCP has timestamps
	for _, f := range frames {
		if f.IP == nil || f.Port != "director" || !f.FromNode {
			continue
		}
		p.bytes += f.IP.Length
		p.packets += max(1, (f.IP.Payload+mss-1)/mss)
		if f.IP.Length > 1500 {
			p.long++
		}
	}
	return p
}

// passed is that as ipvsadm counts it.
func (c *cluster) passed() (p passed) {
	c.t.Helper()
	for addr, r := range c.table("--stats")["TCP "+lab.VIP().String()+":80"] {
		if addr != "" {
			p.packets, p.bytes = p.packets+int(r[1]), p.bytes+int(r[3])
		}
	}
	return p
}

// checkRefused: nobody serves, and the client is told, although its SYN's checksum
// is not filled in. The director's interface is one that fills in what it has
// to: were that still to be done, the answer would be damaged.
func checkRefused(t *testing.T, c *cluster) {
	t.Helper()
	if err := c.Director.NoOffload(); err != nil {
		t.Fatal(err)
	}
	c.rules("-d -t VIP:80 -r RS1", "-d -t VIP:80 -r RS2")
	r := c.run(c.Client, "curl", "-sS", "--max-time", slowest, url("/"))
	if r.code != 7 || !strings.Contains(r.stderr, "Could") && !strings.Contains(r.stderr, "refused") {
		t.Errorf("no real server: %v", r)
	}
	if c.verdict("reply_no_server") == 0 {
		t.Error("no answer was counted")
	}
}

// checkTagged: a frame of a VLAN is no business of the director's, although tc
// gets it without its tag. This one would else be a new connection.
func checkTagged(t *testing.T, c *cluster) {
	t.Helper()
	passed, scheduled := c.verdict("pass_vlan"), c.verdict("forward_new")
	frame := append([]byte{}, c.Director.MAC()...)
	frame = append(frame, c.Client.MAC()...)
	frame = append(frame, 0x81, 0, 0, 7) // VLAN 7
	frame = binary.BigEndian.AppendUint16(frame, lab.EtherTypeIPv4)
	frame = append(frame, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0)
	frame = append(frame, c.Client.Addr().AsSlice()...)
	frame = append(frame, lab.VIP().AsSlice()...)
	frame = append(frame, 4, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0)
	if err := c.Client.Send(frame); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the tagged frame", func() bool { return c.verdict("pass_vlan") > passed })
	c.get(1)
	if n := c.verdict("forward_new") - scheduled; n != 1 {
		t.Errorf("%d new connections for one: the tagged frame was taken", n)
	}
}
