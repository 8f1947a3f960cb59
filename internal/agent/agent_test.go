// SPDX-License-Identifier: MIT

package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	loopback = netip.MustParseAddrPort("127.0.0.1:0")
	direct   = new(net.Dialer).DialContext
)

func secretOf(t testing.TB, text string) Secret {
	t.Helper()
	s, err := NewSecret([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// seenLog is a log that can be read while it is written.
type seenLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *seenLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *seenLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// program writes a program that everybody may run.
func program(t *testing.T, text string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it runs a program as another user")
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "load")
	err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755), os.WriteFile(name, []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// run runs an agent until the test ends; what is not given is usual.
func run(t *testing.T, o Options) *Agent {
	t.Helper()
	if !o.Listen.IsValid() {
		o.Listen = loopback
	}
	if o.Secret.key == nil {
		o.Secret = secretOf(t, "the secret of this test")
	}
	if o.Report == "" {
		o.Report = CPU
	}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Run: ", err)
		}
	})
	return a
}

func askNow(t *testing.T, a *Agent) (Report, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return Ask(ctx, direct, a.Addr(), a.Secret)
}

// measured asks until there is what is looked for.
func measured(t *testing.T, a *Agent, is func(Report) bool) Report {
	t.Helper()
	var r Report
	for range 400 {
		var err error
		if r, err = askNow(t, a); err != nil {
			t.Fatal(err)
		}
		if is(r) {
			return r
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("in the end: %+v", r)
	return r
}

func known(r Report) bool { return r.Problem == "" }

func TestScript(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	a := run(t, Options{Report: Script, Command: []string{program(t, `id -u | grep -q 65534 && echo 37%`)}, Interval: 20 * time.Millisecond, StateFile: state})
	before := time.Now()
	r := measured(t, a, func(r Report) bool { return known(r) && r.At.After(before) })
	if after := time.Now(); r.At.After(after) {
		t.Errorf("measured at %v, which is to come (%v)", r.At, after)
	}
	r.At = time.Time{}
	if want := (Report{State: Up, Kind: Script, Load: 37}); r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}

	// What the operator sets is there at the next question.
	for _, s := range []State{Drain, Maint, Up} {
		if err := SetState(state, s); err != nil {
			t.Fatal(err)
		}
		if r, err := askNow(t, a); err != nil || r.State != s || r.Load != 37 {
			t.Errorf("got %+v, %v; want %s", r, err, s)
		}
	}
	if err := SetState(state, Down); err == nil {
		t.Error("a server can be set down")
	}
	if err := os.WriteFile(state, []byte("mant\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := askNow(t, a); err != nil || r.State != Up || !strings.Contains(r.Problem, `"mant": one of up, drain, maint`) {
		t.Errorf("got %+v, %v", r, err)
	}
}

// A load that is not known is told as that, with the reason; the state still counts.
func TestScriptFails(t *testing.T) {
	state, log := filepath.Join(t.TempDir(), "state"), &seenLog{}
	switchFile := filepath.Join(t.TempDir(), "switch")
	p := program(t, `test -e `+switchFile+` && { echo 12; exit; }; echo 50; echo; exit 3`)
	a := run(t, Options{Report: Script, Command: []string{p}, User: "root", Interval: 20 * time.Millisecond, StateFile: state, Log: slog.New(slog.NewTextHandler(log, nil))})
	if err := SetState(state, Drain); err != nil {
		t.Fatal(err)
	}
	r := measured(t, a, func(r Report) bool { return r.Problem != errNotYet.Error() })
	if r.Problem != "exit code 3: 50" || r.Load != 0 || r.State != Drain {
		t.Errorf("got %+v", r)
	}
	if err := os.WriteFile(switchFile, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	measured(t, a, func(r Report) bool { return known(r) && r.Load == 12 })
	if text := log.String(); strings.Count(text, "cannot be measured") != 1 || strings.Count(text, "measured again") != 1 {
		t.Error(text)
	}
}

func TestCPU(t *testing.T) {
	a := run(t, Options{Interval: 50 * time.Millisecond})
	var stop atomic.Bool
	defer stop.Store(true)
	go func() {
		for !stop.Load() { // keeps a CPU busy
		}
	}()
	if r := measured(t, a, func(r Report) bool { return known(r) && r.Load > 0 }); r.Load > 100 || r.Kind != CPU {
		t.Errorf("got %+v", r)
	}
}

func TestParseStat(t *testing.T) {
	for _, c := range []struct {
		text string
		want ticks
	}{
		{"cpu  10 20 30 400 50 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n", ticks{busy: 81, all: 531}},
		{"cpu  1 0 0 1 0 0 0 0", ticks{busy: 1, all: 2}},
		{"cpu  1 0 0 1 0 0 0\n", ticks{}},
		{"cpu  1 0 0 -1 0 0 0 0\n", ticks{}},
		{"cpu0 1 0 0 1 0 0 0 0\n", ticks{}},
		{"", ticks{}},
	} {
		if got, err := parseStat([]byte(c.text)); got != c.want || (err == nil) != (c.want.all > 0) {
			t.Errorf("%q: got %+v, %v", c.text, got, err)
		}
	}
}

func TestParsePercent(t *testing.T) {
	for _, c := range []struct {
		text string
		want int // -1: refused
	}{
		{"37", 37}, {"37%\n", 37}, {" 36.6 of 100\nmore", 37}, {"0", 0}, {"250", 250}, {"1e9", MaxLoad}, {"+Inf", MaxLoad},
		{"", -1}, {"\n", -1}, {"-1", -1}, {"NaN", -1}, {"%", -1}, {"load 3", -1}, {"37 %", 37}, {"\x1b[0m", -1},
	} {
		got, err := parsePercent([]byte(c.text))
		if c.want < 0 && err == nil || c.want >= 0 && (err != nil || got != c.want) {
			t.Errorf("%q: got %d, %v; want %d", c.text, got, err, c.want)
		}
	}
}

// Real connections are counted: by VIP and by port, IPv4, IPv6, and IPv4 by a socket
// of IPv6; neither the clients' ends nor those that are not established.
func TestConnections(t *testing.T) {
	vip := netip.MustParseAddr("127.77.7.7")
	other, err := net.Listen("tcp", "127.77.7.8:0") // neither VIP nor port
	if err != nil {
		t.Fatal(err)
	}
	byVIP, err := net.Listen("tcp", netip.AddrPortFrom(vip, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	byPort, err := net.Listen("tcp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	port := addrPort(byPort.Addr()).Port()
	a := run(t, Options{Report: Connections, Interval: 10 * time.Millisecond, VIPs: []netip.Addr{vip}, Ports: []uint16{port}, Full: 4})
	for _, l := range []net.Listener{other, byVIP, byPort} {
		defer l.Close()
	}
	if r := measured(t, a, known); r.Connections != 0 || r.Load != 0 {
		t.Fatalf("before any: %+v", r)
	}
	local := func(text string) string { return netip.AddrPortFrom(netip.MustParseAddr(text), port).String() }
	var open []net.Conn
	for i, to := range []string{other.Addr().String(), byVIP.Addr().String(), byVIP.Addr().String(), local("::1"), local("127.0.0.9"), local("127.77.7.7")} {
		c, err := net.Dial("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
		want := Report{State: Up, Kind: Connections, Connections: i, Load: i * 25}
		measured(t, a, func(r Report) bool { r.At = time.Time{}; return r == want })
	}
	for _, c := range open {
		_ = c.Close()
	}
	measured(t, a, func(r Report) bool { return r.Connections == 0 })
}

func TestNew(t *testing.T) {
	secret := secretOf(t, "the secret of this test")
	taken := run(t, Options{})
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Report: CPU, Listen: loopback}, "no secret"},
		{Options{Secret: secret, Report: "memory", Listen: loopback}, `report "memory": one of cpu, connections, script`},
		{Options{Secret: secret, Report: Connections, Listen: loopback}, "neither is given"},
		{Options{Secret: secret, Report: Script, Listen: loopback}, "no program is named"},
		{Options{Secret: secret, Report: Script, Command: []string{"/nonexistent/load"}, Listen: loopback}, "/nonexistent/load: "},
		{Options{Secret: secret, Report: CPU, Listen: taken.Addr()}, "address already in use"},
	} {
		if _, err := New(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %q", c.o, err, c.want)
		}
	}
}

func TestReadSecret(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	for _, c := range []struct {
		name, text string
		mode       os.FileMode
		want       string // empty: it may be used
	}{
		{"usual", "0123456789abcdef\n", 0o600, ""},
		{"for a group", "0123456789abcdef", 0o640, ""},
		{"for everybody", "0123456789abcdef", 0o644, "chmod 600"},
		{"writable for everybody", "0123456789abcdef", 0o602, "chmod 600"},
		{"short", "0123456789abcde \n\n", 0o600, "at least 16"},
		{"empty", "", 0o600, "at least 16"},
		{"long", strings.Repeat("x", maxSecret+1), 0o600, "right file"},
		{"endless", strings.Repeat("x", 1<<20), 0o600, "right file"},
	} {
		if err := errors.Join(os.WriteFile(file, []byte(c.text), c.mode), os.Chmod(file, c.mode)); err != nil {
			t.Fatal(err)
		}
		s, err := ReadSecret(file)
		switch {
		case c.want == "" && (err != nil || string(s.key) != "0123456789abcdef"):
			t.Errorf("%s: %q, %v", c.name, s.key, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := ReadSecret(file + ".not"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := ReadSecret("/dev/null"); err == nil {
		t.Error("/dev/null is a secret")
	}
	if got := fmt.Sprintf("%v %+v %#v %s", secretOf(t, "0123456789abcdef"), Options{Secret: secretOf(t, "0123456789abcdef")}, secretOf(t, "0123456789abcdef"), secretOf(t, "0123456789abcdef")); strings.Contains(got, "abcdef") || strings.Contains(got, "97 98 99") {
		t.Error("the secret is printed: ", got)
	}
}

// With another secret both sides say so, and nothing is told.
func TestOtherSecret(t *testing.T) {
	log := &seenLog{}
	a := run(t, Options{Log: slog.New(slog.NewTextHandler(log, nil))})
	for range 3 {
		r, err := Ask(t.Context(), direct, a.Addr(), secretOf(t, "the secret of this tesT"))
		want := fmt.Sprintf("the secret differs from that of the agent at %v: both files have to be the same", a.Addr())
		if !errors.Is(err, ErrSecret) || err.Error() != want || r != (Report{}) {
			t.Errorf("got %+v, %v", r, err)
		}
	}
	for range 200 {
		if log.String() != "" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if text := log.String(); strings.Count(text, "another secret") != 1 || !strings.Contains(text, "peer=127.0.0.1:") {
		t.Error("the agent says ", text)
	}
}

// record is what each side of a conversation said.
type record struct{ director, agent bytes.Buffer }

// conversation asks an agent through somebody who writes all down.
func conversation(t *testing.T, a *Agent) *record {
	t.Helper()
	var rec record
	_, err := Ask(t.Context(), func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := direct(ctx, network, addr)
		return recorded{c, &rec}, err
	}, a.Addr(), a.Secret)
	if err != nil {
		t.Fatal(err)
	}
	return &rec
}

type recorded struct {
	net.Conn
	rec *record
}

func (r recorded) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.rec.agent.Write(b[:n])
	return n, err
}

func (r recorded) Write(b []byte) (int, error) {
	r.rec.director.Write(b)
	return r.Conn.Write(b)
}

func TestConversation(t *testing.T) {
	a := run(t, Options{Interval: time.Hour})
	rec := conversation(t, a)
	if want := `^shunt-agent 1 [0-9a-f]{64}\nproof [0-9a-f]{64}\n$`; !regexp.MustCompile(want).Match(rec.director.Bytes()) {
		t.Errorf("the director said %q", &rec.director)
	}
	want := fmt.Sprintf(`^nonce [0-9a-f]{64}\nreport [0-9a-f]{64} {"state":"up","kind":"cpu","load":0,"problem":"not measured yet","age_ms":\d+,"addr":"%v"}\n$`, a.Addr())
	if !regexp.MustCompile(want).Match(rec.agent.Bytes()) {
		t.Errorf("the agent said %q", &rec.agent)
	}
	again := conversation(t, a)
	if bytes.Equal(rec.director.Bytes()[:80], again.director.Bytes()[:80]) || bytes.Equal(rec.agent.Bytes()[:64], again.agent.Bytes()[:64]) {
		t.Error("a nonce is used twice")
	}
}

// impostor is a listener that says to everybody what do says.
func impostor(t *testing.T, do func(c net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { defer c.Close(); do(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); work.Wait() })
	return addrPort(l.Addr())
}

// What an agent said once proves nothing later, and neither does what a director said.
func TestReplay(t *testing.T) {
	a := run(t, Options{})
	rec := conversation(t, a)
	addr := impostor(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		for line := range bytes.Lines(rec.agent.Bytes()) {
			_, _ = in.ReadSlice('\n')
			_, _ = c.Write(line)
		}
	})
	if r, err := Ask(t.Context(), direct, addr, a.Secret); !errors.Is(err, ErrSecret) || r != (Report{}) {
		t.Errorf("a replayed agent: %+v, %v", r, err)
	}

	c, err := net.Dial("tcp", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write(rec.director.Bytes())
	said, _ := io.ReadAll(c)
	if !bytes.HasSuffix(said, []byte("\nrefused secret\n")) || bytes.Contains(said, []byte("report")) {
		t.Errorf("a replayed director is told %q", said)
	}
}

// The director's proof does not pass for an agent's, nor a changed report for the
// one that was signed.
func TestReflectionAndChange(t *testing.T) {
	a := run(t, Options{})
	reflection := impostor(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		hello, _ := in.ReadString('\n')
		_, _ = fmt.Fprintf(c, "nonce %s", strings.TrimPrefix(hello, greeting+" "))
		proof, _ := in.ReadString('\n')
		_, _ = fmt.Fprintf(c, "report %s \n", strings.TrimSpace(strings.TrimPrefix(proof, "proof ")))
	})
	if _, err := Ask(t.Context(), direct, reflection, a.Secret); !errors.Is(err, ErrSecret) {
		t.Errorf("a reflection: %v", err)
	}
	change := between(t, a.Addr(), func(line string) string { return strings.Replace(line, `"load":`, `"load":1`, 1) })
	if _, err := Ask(t.Context(), direct, change, a.Secret); !errors.Is(err, ErrSecret) {
		t.Errorf("a changed report: %v", err)
	}
	// Who only leads the question to another server is found out by its address.
	relay := between(t, a.Addr(), func(line string) string { return line })
	want := fmt.Sprintf("agent at %v: the answer is of the agent at %v", relay, a.Addr())
	if _, err := Ask(t.Context(), direct, relay, a.Secret); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a relay: %v", err)
	}
}

// between sits between a director and an agent, and changes the agent's lines.
func between(t *testing.T, to netip.AddrPort, change func(line string) string) netip.AddrPort {
	return impostor(t, func(c net.Conn) {
		far, err := net.Dial("tcp", to.String())
		if err != nil {
			return
		}
		defer far.Close()
		here, there := bufio.NewReader(c), bufio.NewReader(far)
		for range 2 {
			line, _ := here.ReadString('\n')
			_, _ = io.WriteString(far, line)
			line, _ = there.ReadString('\n')
			_, _ = io.WriteString(c, change(line))
		}
	})
}

// Whatever an agent is not, the director has an error that says what it is.
func TestHostileAgents(t *testing.T) {
	secret := secretOf(t, "the secret of this test")
	hello := "nonce " + strings.Repeat("ab", 32) + "\n"
	for _, c := range []struct {
		name string
		say  string
		then func(c net.Conn)
		want string
	}{
		{"nothing", "", nil, "closed the connection without an answer"},
		{"silence", "", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, context.DeadlineExceeded.Error()},
		{"half a line", "nonce ab", nil, "unexpected EOF"},
		{"HAProxy's agent", "up 75%\n", nil, "not shunt's agent protocol"},
		{"a short nonce", "nonce ab\n", nil, "not shunt's agent protocol"},
		{"no nonce", "nonce " + strings.Repeat("xy", 32) + "\n", nil, "not shunt's agent protocol"},
		{"a line without end", strings.Repeat("n", 64<<10), nil, "a line of more than 4096 bytes"},
		{"the end after the nonce", hello, nil, "closed the connection without an answer"},
		{"no report", hello + "report\n", nil, "not shunt's agent protocol"},
		{"no MAC", hello + "report " + strings.Repeat("zz", 32) + " {}\n", nil, "not shunt's agent protocol"},
		{"another MAC", hello + "report " + strings.Repeat("00", 32) + " {}\n", nil, ErrSecret.Error()},
		{"drop by drop", "", func(c net.Conn) {
			for {
				if _, err := c.Write([]byte("n")); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}, context.DeadlineExceeded.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr := impostor(t, func(conn net.Conn) {
				_, _ = io.WriteString(conn, c.say)
				if c.then != nil {
					c.then(conn)
				}
				if t, ok := conn.(*net.TCPConn); ok {
					_ = t.CloseWrite()
				}
				_, _ = io.Copy(io.Discard, conn)
			})
			limit := 5 * time.Second
			if c.want == context.DeadlineExceeded.Error() {
				limit = 100 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if r, err := Ask(ctx, direct, addr, secret); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), addr.String()) || r != (Report{}) {
				t.Errorf("got %+v, %v; want %q", r, err, c.want)
			}
		})
	}
}

// Who holds connections open does not keep the director away, and is gone when the
// agent ends.
func TestSlowPeers(t *testing.T) {
	a := run(t, Options{})
	var slow []net.Conn
	for range 3 * maxPeers {
		c, err := net.Dial("tcp", a.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "shunt-agent 1 ")
		slow = append(slow, c)
	}
	for range 5 {
		if _, err := askNow(t, a); err != nil {
			t.Error(err)
		}
	}
	// The first ones had to go at once, long before their time was up.
	_ = slow[0].SetReadDeadline(time.Now().Add(patience / 2))
	if n, err := slow[0].Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the first one of %d is still there", len(slow))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.peers) > maxPeers {
		t.Errorf("%d peers, want at most %d", len(a.peers), maxPeers)
	}
}

// Reports outside of what the protocol has are refused although they are proved.
func TestDecode(t *testing.T) {
	addr := netip.MustParseAddrPort("172.16.16.177:9292")
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	const good = `{"state":"drain","kind":"connections","load":250,"connections":2500,"age_ms":1500,"addr":"172.16.16.177:9292","later":1}`
	want := Report{State: Drain, Kind: Connections, Load: 250, Connections: 2500, At: now.Add(-1500 * time.Millisecond)}
	if got, err := decode([]byte(good), addr, now); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`drain`, `down`, `unknown state "down"`},
		{`"state":"drain",`, ``, `unknown state ""`},
		{`"connections","load"`, `"memory","load"`, `unknown kind "memory"`},
		{`250,`, `-1,`, "out of range"},
		{`250,`, `1001,`, "out of range"},
		{`250,`, `1e3,`, "report: "},
		{`2500,`, `-1,`, "out of range"},
		{`1500`, `-1`, "out of range"},
		{`1500`, `86400001`, "out of range"},
		{`.177`, `.178`, "of the agent at 172.16.16.178:9292"},
		{`}`, ``, "report: "},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if r, err := decode([]byte(text), addr, now); err == nil || !strings.Contains(err.Error(), c.want) || r != (Report{}) {
			t.Errorf("%s: got %+v, %v; want %q", text, r, err, c.want)
		}
	}
	terminal := strings.Replace(good, `"age_ms"`, `"problem":"\u001b[2Jno\nmore","age_ms"`, 1)
	if r, err := decode([]byte(terminal), addr, now); err != nil || r.Problem != "[2Jno" {
		t.Errorf("got %q, %v", r.Problem, err)
	}
}

func TestEncodeDecode(t *testing.T) {
	now := time.Now()
	r := Report{State: Maint, Kind: CPU, Load: 99, Problem: "no", At: now.Add(-3 * time.Second)}
	text, err := r.encode(loopback, now)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decode(text, loopback, now)
	if diff := cmp.Diff(r, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

// sent is a connection over which all was sent already.
type sent struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (s *sent) Read(b []byte) (int, error)    { return s.in.Read(b) }
func (s *sent) Write(b []byte) (int, error)   { return s.out.Write(b) }
func (s *sent) SetDeadline(t time.Time) error { return nil }

// A peer may send anything: it is never told a load.
func FuzzServe(f *testing.F) {
	a := &Agent{Options: Options{Secret: secretOf(f, "the secret of this test")}, latest: Report{State: Up, Kind: CPU, Load: 37}}
	f.Add([]byte("shunt-agent 1 " + strings.Repeat("00", 32) + "\nproof " + strings.Repeat("00", 32) + "\n"))
	f.Add([]byte("shunt-agent 1 "))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(bytes.Repeat([]byte("x"), 2*maxMessage))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &sent{in: bytes.NewReader(data)}
		if err := a.serve(c); err == nil || bytes.Contains(c.out.Bytes(), []byte("report")) {
			t.Errorf("%q: %v; it is told %q", data, err, &c.out)
		}
	})
}

// What the other side says is read without harm, whatever it is.
func FuzzReport(f *testing.F) {
	good, err := Report{State: Drain, Kind: Script, Load: 5}.encode(loopback, time.Time{}.Add(time.Second))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("report "+strings.Repeat("00", 32)+" "+string(good), []byte("1 2 3"))
	f.Add("report", []byte("cpu  1 2 3 4 5 6 7 8\n"))
	f.Add("nonce "+strings.Repeat("00", 32), []byte(nil))
	f.Fuzz(func(t *testing.T, line string, other []byte) {
		if _, text, err := splitReport(line); err == nil {
			if r, err := decode(text, loopback, time.Now()); err == nil && (r.Load < 0 || r.Load > MaxLoad || strings.ContainsAny(r.Problem, "\n\x1b")) {
				t.Errorf("%q: %+v", line, r)
			}
		}
		_, _ = parseStat(other)
		if n, err := parsePercent(other); err == nil && (n < 0 || n > MaxLoad) {
			t.Errorf("%q: %d", other, n)
		}
	})
}
