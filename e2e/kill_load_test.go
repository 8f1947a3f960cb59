// SPDX-License-Identifier: MIT

package e2e

import (
	"slices"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestKillAtLoad kills the director's daemon with SIGKILL while connections come
// and go and two downloads last. Nothing of that notices: not the death, not the
// time without a daemon, not the next one's start.
func TestKillAtLoad(t *testing.T) {
	c := newCluster(t, lab.Options{})
	want := put(t, c.reference("wlc"), "long", longFile)
	l := c.load()
	l.next()
	early := c.download("/files/long")
	early.read(1 << 20)
	lasting := []string{"ESTABLISHED", "FIN_WAIT"}
	before, counted := c.connections(lasting...), c.conns()
	if len(before) < batch || counted["rs1"] == 0 || counted["rs2"] == 0 {
		t.Fatalf("before the kill there are %d connections, counted %v", len(before), counted)
	}

	c.kill()
	fair := func(when string) {
		t.Helper()
		if b := l.next(); len(b.failed) > 0 || b.answered["rs1"] == 0 || b.answered["rs2"] == 0 {
			t.Errorf("%s, of a batch answered by %v, failed %q", when, b.answered, b.failed)
		}
	}
	fair("without a daemon")
	early.read(8 << 20)
	late := c.download("/files/long")
	late.read(8 << 20)
	if r := c.shunt(c.Director, "ipvsadm", "-Ln"); r.code == 0 || r.stderr == "" {
		t.Errorf("without a daemon: %v", r)
	}

	c.start()
	if s := c.status(); !s.TookOver {
		t.Error("the new daemon says that it did not take over")
	}
	fair("with the new daemon")
	after := c.connections(lasting...)
	lost := slices.DeleteFunc(slices.Clone(before), func(s string) bool { return slices.Contains(after, s) })
	if len(lost) > 0 {
		t.Errorf("%d of %d connections are no longer listed, or with another real server: %q", len(lost), len(before), lost[0])
	}
	early.finish(want)
	late.finish(want)

	all := l.finish()
	if len(all.failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", len(all.failed), all.total(), all.failed[0])
	}
	// Every connection since the first daemon's start is counted, once.
	counted = c.conns()
	if got, want := counted["rs1"]+counted["rs2"], all.total()+c.downloads; got != want {
		t.Errorf("%d connections are counted (%v); %d were made", got, counted, want)
	}

	// And it obeys.
	c.rules("-e -t VIP:80 -r RS2 -w 0", "-A -t VIP:81 -s rr", "-a -t VIP:81 -r RS1", "-a -t VIP:81 -r RS2")
	if got := c.get(10); got["rs1"] != 10 {
		t.Errorf("rs2 is quiesced, but answered by %v", got)
	}
	if got := c.getFrom("http://"+lab.VIP().String()+":81/", 10); got["rs1"] != 5 || got["rs2"] != 5 {
		t.Errorf("the new service is answered by %v", got)
	}
	c.settle()
}
