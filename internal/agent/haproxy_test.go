// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func said(percent, maxConn int, admin, health, reason, unknown string) Answer {
	return Answer{percent, maxConn, admin, health, reason, unknown}
}

func TestAskHAProxy(t *testing.T) {
	for _, c := range []struct {
		line  string
		want  Answer
		state State
	}{
		{"75%\n", said(75, -1, "", "", "", ""), Up},
		{"up\n", said(-1, -1, "", "up", "", ""), Up},
		{"up 75%\r\n", said(75, -1, "", "up", "", ""), Up},
		{"ready,up\tmaxconn:30 100%\n", said(100, 30, "ready", "up", "", ""), Up},
		{"drain\n", said(-1, -1, "drain", "", "", ""), Drain},
		{"0%\n", said(0, -1, "", "", "", ""), Drain},
		{"maint\n", said(-1, -1, "maint", "", "", ""), Maint},
		{"maint down\n", said(-1, -1, "maint", "down", "", ""), Maint},
		{"drain down\n", said(-1, -1, "drain", "down", "", ""), Down},
		{"down # disk full, 0% left\n", said(-1, -1, "", "down", "disk full, 0% left", ""), Down},
		{"fail#no database\n", said(-1, -1, "", "fail", "no database", ""), Down},
		{"stopped\n", said(-1, -1, "", "stopped", "", ""), Down},
		{"UP, 50%, READY\n", said(50, -1, "ready", "up", "", ""), Up},
		{"down up 10% 20%\n", said(20, -1, "", "up", "", ""), Up},
		{"up\ndown\n", said(-1, -1, "", "up", "", ""), Up},
		{"\n", said(-1, -1, "", "", "", ""), Up},
		{" ,\t,\n", said(-1, -1, "", "", "", ""), Up},
		{"up weight:5 12 -3% +3% % 1.5% maxconn: 99999999999%\n", said(-1, -1, "", "up", "", "weight:5"), Up},
		{"maxconn:-1\n", said(-1, -1, "", "", "", "maxconn:-1"), Up},
		{"down #\x1b[2J\n", said(-1, -1, "", "down", "[2J", ""), Down},
	} {
		addr := impostor(t, func(conn net.Conn) { _, _ = io.WriteString(conn, c.line) })
		got, err := AskHAProxy(t.Context(), direct, addr)
		if err != nil || got != c.want || got.State() != c.state {
			t.Errorf("%q: got %+v (%s), %v; want %+v (%s)", c.line, got, got.State(), err, c.want, c.state)
		}
	}
}

func TestAskHAProxyHostile(t *testing.T) {
	for _, c := range []struct {
		name string
		say  func(c net.Conn)
		want string
	}{
		{"nothing", func(net.Conn) {}, "said nothing"},
		{"half a line", func(c net.Conn) { _, _ = io.WriteString(c, "up 1") }, "its line has no end after 4 bytes"},
		{"a line without end", func(c net.Conn) { _, _ = io.WriteString(c, strings.Repeat("up ", 100_000)) }, "its line has no end after 4096 bytes"},
		{"silence", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, context.DeadlineExceeded.Error()},
	} {
		addr := impostor(t, c.say)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		got, err := AskHAProxy(ctx, direct, addr)
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) || got != Unsaid() {
			t.Errorf("%s: got %+v, %v; want %q", c.name, got, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := AskHAProxy(ctx, direct, loopback); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// What an agent does not say stays as it was.
func TestAnswerAfter(t *testing.T) {
	now := Unsaid()
	for _, c := range []struct {
		line  string
		want  Answer
		state State
	}{
		{"up 75%", said(75, -1, "", "up", "", ""), Up},
		{"maxconn:10", said(75, 10, "", "up", "", ""), Up},
		{"down #full", said(75, 10, "", "down", "full", ""), Down},
		{"ready 50%", said(50, 10, "ready", "down", "full", ""), Down}, // only "up" ends "down"
		{"up", said(50, 10, "ready", "up", "", ""), Up},
		{"drain", said(50, 10, "drain", "up", "", ""), Drain},
		{"up 100%", said(100, 10, "drain", "up", "", ""), Drain}, // only "ready" ends "drain"
		{"ready", said(100, 10, "ready", "up", "", ""), Up},
		{"wat", said(100, 10, "ready", "up", "", "wat"), Up},
		{"", said(100, 10, "ready", "up", "", ""), Up},
	} {
		now = parseAnswer(c.line).After(now)
		if now != c.want || now.State() != c.state {
			t.Errorf("after %q: got %+v (%s), want %+v (%s)", c.line, now, now.State(), c.want, c.state)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"up 75%\n", "down #reason\r\n", "maxconn:3,ready\tdrain\n", "#\n", "%\x00\xff\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := readAnswer(strings.NewReader(text))
		switch {
		case err != nil && a != Unsaid():
			t.Errorf("%q: %+v with %v", text, a, err)
		case a.Percent < -1 || a.Percent > maxPercent || a.MaxConn < -1 || a.MaxConn > maxConn:
			t.Errorf("%q: %+v", text, a)
		case strings.ContainsFunc(a.Reason+a.Unknown, func(r rune) bool { return r < ' ' }) || len(a.Reason) > 300:
			t.Errorf("%q: %+v", text, a)
		case a.After(a) != a:
			t.Errorf("%q: said twice it is %+v", text, a.After(a))
		}
	})
}
