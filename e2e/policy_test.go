// SPDX-License-Identifier: MIT

package e2e

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestStrayPolicy: a director that starts with an empty table meets connections
// that others began. By default it adopts them; with --stray reset it ends them at
// once; an edit changes that while connections go on.
func TestStrayPolicy(t *testing.T) {
	for mode, o := range map[string]lab.Options{"native": {}, "tc": {Offload: true}} {
		t.Run(mode, func(t *testing.T) { strayPolicy(t, newCluster(t, o), mode) })
	}
}

func strayPolicy(t *testing.T, c *cluster, mode string) {
	c.webBy(mode)
	c.rules("-d -t VIP:80 -r RS2") // so that the hash cannot be wrong
	restart := func() {
		t.Helper()
		c.director("stop")
		c.start("--mode", mode)
	}
	adopted, idle := c.connect(), c.connect()
	adopted.ask(t)
	idle.ask(t)

	restart()
	adopted.ask(t)
	if n := c.verdict("forward_adopted"); n != 1 {
		t.Errorf("%d packets were adopted", n)
	}

	c.rules("-E -t VIP:80 -s rr --stray reset")
	adopted.ask(t) // it is known
	idle.SetDeadline(time.Now().Add(commandLimit))
	if _, err := io.WriteString(idle, "GET / HTTP/1.1\r\nHost: vip\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that is not known ends with %v", err)
	}
	if n := c.verdict("reply_reset"); n != 1 {
		t.Errorf("%d resets were sent", n)
	}
	c.connect().ask(t)
	for _, where := range []string{c.rules("-Ln"), c.rules("-Sn"), c.director("status")} {
		result{stdout: where}.says(t, "stray reset")
	}

	restart() // the saved rules have it
	if s := c.status(); len(s.Services) != 1 || s.Services[0].Policy.Stray.String() != "reset" {
		t.Errorf("after a restart: %+v", s.Services)
	}
	c.rules("-E -t VIP:80 -s rr")
	adopted.ask(t)
	if out := c.rules("-Sn"); out == "" || c.status().Services[0].Policy.String() != "" {
		t.Errorf("after -E without options: %s", out)
	}
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
