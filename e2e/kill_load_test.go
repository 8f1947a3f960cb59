// SPDX-License-Identifier: MIT

package e2e

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

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
	// Those that are open: a port of one that was closed may be used again.
	var open []*openConnection
	for range 100 {
		o := c.connect()
		o.ask(t)
		open = append(open, o)
	}
	before := c.connections("ESTABLISHED")

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
	after := c.connections("ESTABLISHED")
	for _, o := range open {
		if l := o.listed(before); l == "" || l != o.listed(after) {
			t.Errorf("a connection was listed as %q and is listed as %q", l, o.listed(after))
		}
		o.ask(t)
		o.Close()
	}
	early.finish(want)
	late.finish(want)

	all := l.finish()
	if len(all.failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", len(all.failed), all.total(), all.failed[0])
	}
	// Every connection since the first daemon's start is counted, once.
	counted := c.conns()
	if got, want := counted["rs1"]+counted["rs2"], all.total()+c.downloads+len(open); got != want {
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

// openConnection is one to the web service on which requests can be made, one
// after the other. The first one's real server has to answer all.
type openConnection struct {
	net.Conn
	answers *bufio.Reader
	server  string
}

func (c *cluster) connect() *openConnection {
	c.t.Helper()
	return c.connectTo(lab.VIP().String() + ":80")
}

func (c *cluster) connectTo(addr string) *openConnection {
	c.t.Helper()
	conn, err := c.Client.Dial(c.t.Context(), "tcp", addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return &openConnection{Conn: conn, answers: bufio.NewReader(conn)}
}

func (o *openConnection) ask(t testing.TB) {
	t.Helper()
	o.SetDeadline(time.Now().Add(commandLimit))
	if _, err := io.WriteString(o, "GET / HTTP/1.1\r\nHost: vip\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(o.answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	name := strings.TrimSpace(string(body))
	if err != nil || r.StatusCode != http.StatusOK || o.server != "" && name != o.server {
		t.Errorf("%s, answered by %s after %s: %v", r.Status, name, o.server, err)
	}
	o.server = name
}

// listed finds the connection's line in a list of connections.
func (o *openConnection) listed(lines []string) string {
	for _, l := range lines {
		if strings.Contains(l, " "+o.LocalAddr().String()+" ") {
			return l
		}
	}
	return ""
}
