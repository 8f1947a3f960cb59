// SPDX-License-Identifier: MIT

package health

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

func TestTCP(t *testing.T) {
	t.Parallel()
	echo := serving(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	greets := serving(t, func(c net.Conn) { slowly("+OK ready\r\n")(c); silent(c) })
	six, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	talk := func(send, expect, pattern string) Check {
		return Check{Kind: TCP, Talk: TalkCheck{Send: send, Expect: expect, Pattern: pattern}}
	}
	verdicts{
		{"connects", Check{Kind: TCP}, echo, ""},
		{"sends only", talk("x", "", ""), echo, ""},
		{"bytes", talk("\x00\xff\n", "\xff\n", ""), echo, ""},
		{"bit by bit", talk("", "ready\r\n", ""), greets, ""},
		{"pattern", talk("", "", `^\+OK\b`), greets, ""},
		{"pattern to the end", talk("", "+OK", `ready\r\n$`), greets, ""},
		{"IPv6", talk("x", "x", ""), servingOn(t, six, func(c net.Conn) { _, _ = io.Copy(c, c) }), ""},
	}.run(t)
}

func slowly(text string) func(net.Conn) {
	return func(c net.Conn) {
		for i := range text {
			_, _ = c.Write([]byte{text[i]})
			time.Sleep(time.Millisecond)
		}
	}
}

func TestLargeBody(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("0123456789abcdef", 2<<20/16-1) + "the end of the body"
	e := serving(t, func(c net.Conn) {
		hears(c)
		says(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body), silent)(c)
	})
	sum := sha256.Sum256([]byte(body))
	get := func(h HTTPCheck) Check { return Check{Kind: HTTP, HTTP: h} }
	verdicts{
		{"all of it", get(HTTPCheck{MaxBody: 4 << 20, Expect: "the end", Digest: "sha256:" + hex.EncodeToString(sum[:])}), e, ""},
		{"the first MiB", get(HTTPCheck{Expect: "the end"}), e, `the body does not contain "the end"`},
		{"nothing of it", get(HTTPCheck{}), e, ""},
	}.run(t)
}

func TestUDP(t *testing.T) {
	t.Parallel()
	answering := func(times int, answer string) Endpoint {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 4096)
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				for range times {
					_, _ = c.WriteTo([]byte(answer+string(buf[:n])), from)
				}
			}
		}()
		return endpoint(c.LocalAddr())
	}
	silent, echo := answering(0, ""), answering(1, "> ")
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	nobody := endpoint(closed.LocalAddr())
	six, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	six.Close()
	check := func(talk TalkCheck, timeout time.Duration) Check {
		return Check{Kind: UDP, Talk: talk, Timeout: timeout}
	}
	const unreachable = "ICMP port unreachable: nothing listens on the port"
	verdicts{
		{"silence", check(TalkCheck{}, quick), silent, ""},
		{"an answer", check(TalkCheck{Send: "x"}, 0), echo, ""},
		{"what is expected", check(TalkCheck{Send: "x", Expect: "> x", Pattern: "^> x$"}, 0), echo, ""},
		{"silence instead", check(TalkCheck{Send: "x", Expect: "x"}, quick), silent, "no answer within 200ms"},
		{"something else", check(TalkCheck{Send: "x", Expect: "y"}, 0), echo, `does not contain "y": "> x"`},
		{"nobody", check(TalkCheck{}, 0), nobody, unreachable},
		{"nobody", check(TalkCheck{Expect: "x"}, 0), nobody, unreachable},
		{"nobody by IPv6", check(TalkCheck{}, 0), endpoint(six.LocalAddr()), unreachable},
		{"DNS of nobody", Check{Kind: DNS}, nobody, unreachable},
		{"DNS of another", Check{Kind: DNS}, answering(1, "garbage "), "not DNS"},
		{"DNS of a flood", Check{Kind: DNS}, answering(100, strings.Repeat("\x00", 12)), "not an answer"},
		{"DNS of a mirror", Check{Kind: DNS, Timeout: quick}, echoing(t), "no answer within"},
	}.run(t)
}

// echoing sends back what it gets.
func echoing(t *testing.T) Endpoint {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
	return endpoint(c.LocalAddr())
}

func TestICMP(t *testing.T) {
	t.Parallel()
	labtest.InNamespace(t)
	labtest.IP(t, "address add 192.0.2.9/32 dev lo")
	p := NewProber()
	ping := func(ip string, timeout time.Duration) error {
		return p.Probe(context.Background(), Check{Kind: ICMP, Timeout: timeout}, Endpoint{RIP: netip.MustParseAddr(ip)})
	}
	for _, ip := range []string{"127.0.0.1", "192.0.2.9", "::1"} {
		if err := ping(ip, 10*time.Second); err != nil {
			t.Errorf("%s: %v", ip, err)
		}
	}
	if err := ping("198.51.100.1", 10*time.Second); err == nil || !strings.Contains(err.Error(), "network unreachable") {
		t.Errorf("without a route: %v", err)
	}
	labtest.SetSysctl(t, "ipv4/icmp_echo_ignore_all", "1")
	if err := ping("192.0.2.9", quick); err == nil || err.Error() != "no answer within 200ms" {
		t.Errorf("a silent host: %v", err)
	}
	// A link on which nobody has the address.
	labtest.IP(t, "link add eth0 type veth peer name eth1")
	labtest.IP(t, "address add 203.0.113.1/24 dev eth0")
	labtest.IP(t, "link set eth0 up")
	labtest.IP(t, "link set eth1 up")
	labtest.Carrier(t, "eth0")
	labtest.SetSysctl(t, "ipv4/neigh/eth0/retrans_time_ms", "20")
	for _, kind := range []Kind{ICMP, TCP, UDP} {
		e := Endpoint{RIP: netip.MustParseAddr("203.0.113.2"), Port: 80}
		if err := p.Probe(context.Background(), Check{Kind: kind, Timeout: 10 * time.Second}, e); err == nil || !strings.Contains(err.Error(), "no answer to ARP") {
			t.Errorf("%s to nobody: %v", kind, err)
		}
	}
}

// Many echoes to one address at the same time, each of which must find its own answer.
func TestManyEchoes(t *testing.T) {
	t.Parallel()
	labtest.NeedRoot(t)
	p := NewProber()
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			c := Check{Kind: ICMP, Timeout: 10 * time.Second}
			if err := p.Probe(context.Background(), c, Endpoint{RIP: netip.MustParseAddr("127.0.0.1")}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := p.echo.Load(); n != 200 {
		t.Errorf("%d identifiers for 200 probes", n)
	}
}

// Each socket has a port of its own, also to different servers: with one port there
// can be one connection only.
func TestPortOfItsOwn(t *testing.T) {
	t.Parallel()
	labtest.InNamespace(t)
	labtest.SetSysctl(t, "ipv4/ip_local_port_range", "40000 40000")
	p := NewProber()
	for _, ip := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, "80"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		l2, err := net.Listen("tcp", net.JoinHostPort(ip, "81"))
		if err != nil {
			t.Fatal(err)
		}
		defer l2.Close()
		first, second := endpoint(l.Addr()), endpoint(l2.Addr())
		held, err := dial(context.Background(), "tcp", first)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Probe(context.Background(), Check{Kind: TCP, Timeout: 10 * time.Second}, second); !errors.Is(err, ErrNotAsked) {
			t.Errorf("%s: a second connection: %v, want that there is no port left", ip, err)
		}
		held.Close()
		for range 3 { // and closing gives it back at once
			if err := p.Probe(context.Background(), Check{Kind: TCP, Timeout: 10 * time.Second}, second); err != nil {
				t.Errorf("%s: %v", ip, err)
			}
		}
	}
	e := Endpoint{RIP: netip.MustParseAddr("127.0.0.1"), Port: 53}
	held, err := dial(context.Background(), "udp", e)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	e.Port = 54
	if err := p.Probe(context.Background(), Check{Kind: UDP, Timeout: 10 * time.Second}, e); !errors.Is(err, ErrNotAsked) {
		t.Errorf("a second socket of UDP: %v", err)
	}
}

// A probe that is over leaves nothing of its connection, at neither end: a port would not
// be free for a minute.
func TestNoTimeWait(t *testing.T) {
	t.Parallel()
	labtest.InNamespace(t)
	config := selfSigned(t)
	const page = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	answers := func(text string) func(net.Conn) { return func(c net.Conn) { hears(c); says(text, silent)(c) } }
	for kind, server := range map[Kind]func(net.Conn){
		TCP:        silent,
		HTTP:       answers(page),
		HTTPS:      behind(config, answers(page)),
		TLS:        behind(config, silent),
		SMTP:       says("220 a\r\n250 b\r\n221 c\r\n", silent),
		MySQL:      says(greeting+"\x03\x00\x00\x02\x00\x00\x00", silent),
		PostgreSQL: answers("R\x00\x00\x00\x08\x00\x00\x00\x0a"),
		Redis:      answers("+PONG\r\n"),
	} {
		e := serving(t, server)
		for range 3 {
			if err := NewProber().Probe(context.Background(), Check{Kind: kind, Timeout: 10 * time.Second}, e); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
		table, err := os.ReadFile("/proc/thread-self/net/tcp")
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(table, []byte(" 06 00000000:")); n > 0 {
			t.Fatalf("%s leaves %d connections in TIME_WAIT", kind, n)
		}
	}
}

func TestMark(t *testing.T) {
	t.Parallel()
	labtest.NeedRoot(t)
	for _, network := range []string{"tcp", "udp"} {
		e := serving(t, silent)
		e.Mark = 0x53480007
		c, err := dial(t.Context(), network, e)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := c.(conn).Conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = control(raw, func(fd int) error {
			mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
			if err == nil && uint32(mark) != e.Mark {
				err = fmt.Errorf("mark %#x", mark)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", network, err)
		}
		c.Close()
	}
}

func TestTLSClients(t *testing.T) {
	t.Parallel()
	authority := certified(t, nil, soonDue())
	server := certified(t, authority, soonDue(), "www.example.org")
	client, stranger := certified(t, authority, soonDue()), certified(t, nil, soonDue())
	known := x509.NewCertPool()
	known.AddCert(authority.cert)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := server.server()
		config.MinVersion, config.MaxVersion = version, version
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, known
		e := serving(t, behind(config, silent))
		verdicts{
			{"known", Check{Kind: TLS, TLS: TLSCheck{CertFile: client.certFile, KeyFile: client.keyFile}}, e, ""},
			{"nobody", Check{Kind: TLS}, e, "TLS alert: "},
			{"unknown", Check{Kind: TLS, TLS: TLSCheck{CertFile: stranger.certFile, KeyFile: stranger.keyFile}}, e, "TLS alert: "},
		}.run(t)
	}
}

// imaps, pops and ldaps are TLS with something said in it.
func TestTalkInTLS(t *testing.T) {
	t.Parallel()
	config := selfSigned(t)
	imap := serving(t, behind(config, says("* OK ready\r\n", func(c net.Conn) {
		hears(c)
		says("a OK done\r\n", silent)(c)
	})))
	talk := func(send, expect string) Check { return Check{Kind: TLS, Talk: TalkCheck{Send: send, Expect: expect}} }
	slow := talk("", "BYE")
	slow.Timeout = quick
	verdicts{
		{"greeting", talk("", "* OK"), imap, ""},
		{"dialogue", talk("a NOOP\r\n", "a OK"), imap, ""},
		{"another", slow, imap, `does not contain "BYE": "* OK ready"`},
	}.run(t)
}

// What has been asked by the libraries has no end of its own: the server must see it end.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	var open atomic.Int32
	e := serving(t, func(c net.Conn) {
		open.Add(1)
		defer open.Add(-1)
		silent(c)
	})
	p := NewProber()
	var all sync.WaitGroup
	for _, kind := range Kinds() {
		if slices.Contains([]Kind{UDP, ICMP, Script, File}, kind) {
			continue
		}
		for _, plain := range []bool{true, false} {
			all.Go(func() {
				c := Check{Kind: kind, Timeout: quick, HTTP: HTTPCheck{Plain: plain}, GRPC: GRPCCheck{Plain: plain}, DNS: DNSCheck{TCP: true}}
				_ = p.Probe(context.Background(), c, e)
			})
		}
	}
	all.Wait()
	for late := time.Now().Add(5 * time.Second); open.Load() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("%d connections are left", open.Load())
		}
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	now := time.Now()
	authority := certified(t, nil, soonDue())
	old := certified(t, nil, now.Add(-time.Hour))
	leaf := certified(t, authority, soonDue(), "www.example.org")
	ofOld := certified(t, old, soonDue(), "www.example.org")
	trust := func(a *identity) *x509.CertPool {
		pool := x509.NewCertPool()
		pool.AddCert(a.cert)
		return pool
	}
	for _, test := range []struct {
		name  string
		t     TLSCheck
		leaf  *identity
		roots *x509.CertPool
		now   time.Time
		want  string
	}{
		{"well", TLSCheck{Verify: true}, leaf, trust(authority), now, ""},
		{"not yet", TLSCheck{}, leaf, nil, now.Add(-400 * 24 * time.Hour), "certificate is not valid before"},
		{"expired", TLSCheck{}, leaf, nil, now.Add(100 * 24 * time.Hour), "certificate expired " + day(leaf.cert.NotAfter)},
		{"hours", TLSCheck{ValidFor: 24 * time.Hour}, leaf, nil, leaf.cert.NotAfter.Add(-90 * time.Minute), "in 1h30m0s"},
		{"authority expired", TLSCheck{Verify: true}, ofOld, trust(old), now, "certificate of the authority expired"},
		{"an address", TLSCheck{Verify: true, ServerName: "192.0.2.1"}, leaf, trust(authority), now, "not for 192.0.2.1"},
	} {
		err := verify(test.t, []*x509.Certificate{test.leaf.cert}, test.roots, test.now)
		if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

// A file that changes counts from the next probe on; one that is half written, or whose
// other half is not there yet, says nothing about the server.
func TestChangedFiles(t *testing.T) {
	t.Parallel()
	one, other := certified(t, nil, soonDue(), "www.example.org"), certified(t, nil, soonDue(), "www.example.org")
	dir := t.TempDir()
	ca, cert, key := filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	put := func(to, from string) {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+".new", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(to+".new", to); err != nil {
			t.Fatal(err)
		}
	}
	e := serving(t, behind(one.server(), silent))
	p := NewProber()
	ask := func() error {
		c := Check{Kind: TLS, Timeout: 10 * time.Second, TLS: TLSCheck{Verify: true, CAFile: ca, CertFile: cert, KeyFile: key}}
		return p.Probe(t.Context(), c, e)
	}
	put(ca, other.certFile)
	put(cert, one.certFile)
	put(key, one.keyFile)
	if err := ask(); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("another authority: %v", err)
	}
	put(ca, one.certFile)
	for range 2 {
		if err := ask(); err != nil {
			t.Errorf("the right one: %v", err)
		}
	}
	put(cert, other.certFile)
	if err := ask(); !errors.Is(err, ErrNotAsked) {
		t.Errorf("a certificate without its key: %v", err)
	}
	put(key, other.keyFile)
	if err := ask(); err != nil {
		t.Errorf("and with it: %v", err)
	}
	if err := os.WriteFile(ca, []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ask(); !errors.Is(err, ErrNotAsked) {
		t.Errorf("half an authority: %v", err)
	}
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	id := certified(t, nil, soonDue(), "www.example.org")
	start := func(known bool, options ...grpc.ServerOption) Endpoint {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer(options...)
		if known {
			h := health.NewServer()
			h.SetServingStatus("shop", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
			h.SetServingStatus("cart", grpc_health_v1.HealthCheckResponse_SERVING)
			grpc_health_v1.RegisterHealthServer(s, h)
		}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(s.Stop)
		return endpoint(l.Addr())
	}
	plain, without, secure := start(true), start(false), start(true, grpc.Creds(credentials.NewTLS(id.server())))
	ask := func(service string) Check { return Check{Kind: GRPC, GRPC: GRPCCheck{Service: service, Plain: true}} }
	trust := TLSCheck{Verify: true, ServerName: "www.example.org", CAFile: id.certFile}
	verdicts{
		{"well", ask(""), plain, ""},
		{"a service", ask("cart"), plain, ""},
		{"ill", ask("shop"), plain, "gRPC: NOT_SERVING, expected SERVING"},
		{"unknown", ask("none"), plain, `gRPC: no service "none"`},
		{"without", ask(""), without, "gRPC: no health service"},
		{"secure", Check{Kind: GRPC}, secure, ""},
		{"verified", Check{Kind: GRPC, TLS: trust}, secure, ""},
		{"other name", Check{Kind: GRPC, TLS: TLSCheck{Verify: true, ServerName: "shop", CAFile: id.certFile}}, secure, "not for shop"},
		{"plain to TLS", ask(""), secure, "gRPC: Unavailable"},
		{"TLS to plain", Check{Kind: GRPC}, plain, "no TLS"},
		{"no HTTP/2", Check{Kind: GRPC}, serving(t, behind(id.server(), silent)), "no agreement on h2"},
	}.run(t)
}

func TestFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for _, test := range []struct {
		text string
		f    FileCheck
		want string
	}{
		{"up\n", FileCheck{}, ""},
		{" UP since Monday", FileCheck{}, ""},
		{"1", FileCheck{}, ""},
		{"0.5", FileCheck{}, ""},
		{"down for repairs\n", FileCheck{}, `says "down for repairs"`},
		{"0", FileCheck{}, `says "0"`},
		{"-3", FileCheck{}, `says "-3"`},
		{"NaN", FileCheck{}, `nor a number: "NaN"`},
		{"\x1b[2J", FileCheck{}, `nor a number: "?[2J"`},
		{"", FileCheck{}, "empty"},
		{"up", FileCheck{MaxAge: time.Hour}, ""},
		{"up", FileCheck{MaxAge: time.Millisecond}, "old, at most 1ms allowed"},
		{"up" + strings.Repeat(" ", 1<<20), FileCheck{}, ""},
	} {
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		test.f.Path = path
		err := probeFile(test.f, time.Now().Add(time.Minute))
		if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.20q, %+v: %v, want %q", test.text, test.f, err, test.want)
		}
	}
	none := filepath.Join(dir, "none")
	e := Endpoint{RIP: netip.MustParseAddr("127.0.0.1")}
	verdicts{
		{"not there", Check{Kind: File, File: FileCheck{Path: none}}, e, "none: no such file"},
		{"not there, and may be", Check{Kind: File, File: FileCheck{Path: none, Missing: "up"}}, e, ""},
	}.run(t)
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, dir} {
		if err := NewProber().Probe(t.Context(), Check{Kind: File, File: FileCheck{Path: path}}, e); !errors.Is(err, ErrNotAsked) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestScript(t *testing.T) {
	t.Parallel()
	labtest.NeedRoot(t)
	e := Endpoint{Protocol: lvs.TCP, VIP: netip.MustParseAddr("192.0.2.80"), RIP: netip.MustParseAddr("192.0.2.1"), Port: 8080}
	sh := func(text string) Check {
		return Check{Kind: Script, Name: "shop", Script: ScriptCheck{Command: []string{"/bin/sh", "-c", text}}}
	}
	slow := sh("sleep 60")
	slow.Timeout = quick
	verdicts{
		{"well", sh("exit 0"), e, ""},
		{"told", sh(`test "$SHUNT_VIP $SHUNT_RIP $SHUNT_PORT $SHUNT_PROTOCOL $SHUNT_CHECK" = "192.0.2.80 192.0.2.1 8080 tcp shop" && test $(id -un) = nobody`), e, ""},
		{"ill", sh("echo the shop is shut; echo more; exit 2"), e, "the shop is shut"},
		{"ill without words", sh("exit 2"), e, "script: exit code 2"},
		{"killed", sh("kill -9 $$"), e, "script: ended by signal 9"},
		{"slow", slow, e, "no answer within 200ms"},
		{"wild", sh(`printf '\033[31m%0500d' 0; exit 1`), e, "[31m000"},
	}.run(t)
	for _, command := range []string{"/none", "sh"} {
		c := Check{Kind: Script, Script: ScriptCheck{Command: []string{command}}, Timeout: 10 * time.Second}
		if err := NewProber().Probe(t.Context(), c, e); !errors.Is(err, ErrNotAsked) {
			t.Errorf("%s: %v", command, err)
		}
	}
}

// Patterns are compiled once, and those of old configurations do not pile up.
func TestPatterns(t *testing.T) {
	t.Parallel()
	p := NewProber()
	first, err := p.pattern("a+")
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := p.pattern("a+"); again != first {
		t.Error("compiled twice")
	}
	for i := range mostPatterns + 10 {
		if _, err := p.pattern(fmt.Sprint("a", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.patterns); n > mostPatterns {
		t.Errorf("%d patterns are kept", n)
	}
}

// A server that sends single bytes does not have each of them searched for.
func TestDripIsSearchedSeldom(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	go func() {
		defer there.Close()
		for range 5000 {
			_, _ = there.Write([]byte("a"))
		}
		_, _ = there.Write([]byte("b"))
	}()
	x := expected{text: "b"}
	if err := x.listen(here); err != nil {
		t.Error(err)
	}
}

func TestHostOf(t *testing.T) {
	t.Parallel()
	vip, six := netip.MustParseAddr("192.0.2.80"), netip.MustParseAddr("2001:db8::80")
	for _, test := range []struct {
		name string
		e    Endpoint
		want string
	}{
		{"", Endpoint{VIP: vip, Port: 80}, "192.0.2.80"},
		{"", Endpoint{VIP: vip, Port: 8080}, "192.0.2.80:8080"},
		{"", Endpoint{VIP: six, Port: 80}, "[2001:db8::80]"},
		{"", Endpoint{VIP: six, Port: 8080}, "[2001:db8::80]:8080"},
		{"", Endpoint{RIP: netip.MustParseAddr("fe80::1%eth0"), Port: 80}, "[fe80::1]"},
		{"www.example.org", Endpoint{VIP: six, Port: 80}, "www.example.org"},
		{"www.example.org", Endpoint{VIP: six, Port: 81}, "www.example.org:81"},
	} {
		if got := hostOf(test.name, test.e, 80); got != test.want {
			t.Errorf("%q, %+v: %s, want %s", test.name, test.e, got, test.want)
		}
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ text, want string }{
		{"plain", "plain"},
		{" two\r\n\tlines ", "two lines"},
		{"\x1b[31m\x00\x7f\xff\u202e\u200b", "?[31m?????"},
		{"äöü", "äöü"},
		{strings.Repeat("ä", 100), strings.Repeat("ä", 23) + "…"},
	} {
		if got := clean(test.text, 50); got != test.want || len(got) > 50 {
			t.Errorf("%q: %q, want %q", test.text, got, test.want)
		}
	}
	if !bytes.Contains([]byte(quote("a\nb")), []byte("a b")) {
		t.Error(quote("a\nb"))
	}
}
