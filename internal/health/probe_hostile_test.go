// SPDX-License-Identifier: MIT

package health

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// serving has a server of TCP on loopback that does this with each connection, and
// closes it then. It ends with the test.
func serving(t testing.TB, with func(net.Conn)) Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return servingOn(t, l, with)
}

func servingOn(t testing.TB, l net.Listener, with func(net.Conn)) Endpoint {
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				with(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return endpoint(l.Addr())
}

func endpoint(a net.Addr) Endpoint {
	var at netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		at = a.AddrPort()
	case *net.UDPAddr:
		at = a.AddrPort()
	}
	return Endpoint{VIP: netip.MustParseAddr("192.0.2.80"), RIP: at.Addr().Unmap(), Port: at.Port()}
}

// nobody is where nothing listens.
func nobody(t testing.TB) Endpoint {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return endpoint(l.Addr())
}

// What hostile and broken servers do with a connection, after the bytes with which
// a right answer could begin.
var (
	reset = func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }
	// hears lets the request come in, so that closing is not a reset.
	hears  = func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) }
	silent = func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
)

func says(text string, then func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, text)
		then(c)
	}
}

// drips sends a byte now and then, for ever.
func drips(text string) func(net.Conn) {
	return func(c net.Conn) {
		for i := 0; ; i++ {
			if _, err := c.Write([]byte{text[i%len(text)]}); err != nil {
				return
			}
			time.Sleep(3 * time.Millisecond)
		}
	}
}

// endless sends a beginning, and then the same again and again, as fast as it can.
func endless(begin, again string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, begin)
		much := bytes.Repeat([]byte(again), 1+4096/len(again))
		for {
			if _, err := c.Write(much); err != nil {
				return
			}
		}
	}
}

// behind does it inside of TLS.
func behind(config *tls.Config, with func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		secure := tls.Server(c, config)
		if secure.Handshake() == nil {
			with(secure)
			secure.Close()
		}
	}
}

const garbage = "\x00\x1b[31m\xff\xfe\u202egarbage\r\n\a"

// refusals are probes that must fail, each with a reason that contains this text.
type refusals []struct {
	name   string
	check  Check
	server func(net.Conn) // nil: nobody listens
	want   string
}

// quick is the time-out of probes that end by it.
const quick = 200 * time.Millisecond

// run asks them all at once, because most of them only wait.
func (rs refusals) run(t *testing.T) {
	p := NewProber()
	var all sync.WaitGroup
	for _, r := range rs {
		e := nobody(t)
		if r.server != nil {
			e = serving(t, r.server)
		}
		all.Go(func() {
			c := r.check
			if c.Timeout = 5 * time.Second; strings.Contains(r.want, "within") || r.name == "drip" {
				c.Timeout = quick
			}
			begin := time.Now()
			err := p.Probe(context.Background(), c, e)
			if took := time.Since(begin); took > c.Timeout+3*time.Second {
				t.Errorf("%s %s: %v for a time-out of %v", c.Kind, r.name, took, c.Timeout)
			}
			switch {
			case err == nil:
				t.Errorf("%s %s: well", c.Kind, r.name)
			case !strings.Contains(err.Error(), r.want):
				t.Errorf("%s %s: %q, want %q", c.Kind, r.name, err, r.want)
			case errors.Is(err, ErrNotAsked):
				t.Errorf("%s %s: not asked: %v", c.Kind, r.name, err)
			default:
				fit(t, err.Error())
			}
		})
	}
	all.Wait()
}

// common are the refusals of every kind that listens on TCP.
func common(c Check) refusals {
	return refusals{
		{"refused", c, nil, "connection refused"},
		{"reset", c, reset, "connection reset"},
		{"silent", c, silent, "no answer within 200ms"},
	}
}

func TestHostileTCP(t *testing.T) {
	t.Parallel()
	talk := Check{Kind: TCP, Talk: TalkCheck{Send: "hello\n", Expect: "+OK"}}
	match := Check{Kind: TCP, Talk: TalkCheck{Pattern: `^\+O+K$`}}
	append(common(talk), refusals{
		{"refused", Check{Kind: TCP}, nil, "connection refused"},
		{"drip", talk, drips(garbage), `does not contain "+OK"`},
		{"drip", match, drips("+O"), "does not match"},
		{"garbage", talk, says(garbage, hears), `does not contain "+OK"`},
		{"too long", talk, endless("", "+O"), `does not contain "+OK": "+O+O`},
		{"too long", match, endless("+", "O"), "does not match"},
		{"closed early", talk, hears, "connection closed without an answer"},
		{"nothing where anything would do", Check{Kind: TCP, Talk: TalkCheck{Pattern: "^"}}, func(net.Conn) {}, "connection closed without an answer"},
		{"half an answer", match, says("+O", func(net.Conn) {}), "does not match"},
	}...).run(t)
}

func TestHostileHTTP(t *testing.T) {
	t.Parallel()
	config := selfSigned(t)
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, kind := range []Kind{HTTP, HTTPS} {
		with := func(f func(net.Conn)) func(net.Conn) { return f }
		if kind == HTTPS {
			with = func(f func(net.Conn)) func(net.Conn) { return behind(config, f) }
		}
		get := Check{Kind: kind}
		body := func(h HTTPCheck) Check { return Check{Kind: kind, HTTP: h} }
		append(common(get), refusals{
			{"garbage", get, with(says(garbage, hears)), "malformed HTTP"},
			{"drip of headers", get, with(says(ok, drips("X: y\r\n"))), "no answer within"},
			{"endless headers", get, with(endless(ok, "X: yyyyyyyyyyyyyyyy\r\n")), "headers of more than 65536 bytes"},
			{"endless header", get, with(endless(ok+"X: ", "y")), "headers of more than 65536 bytes"},
			{"endless information", get, with(endless("", "HTTP/1.1 100 Continue\r\nX: yyyyyyyyyyyy\r\n\r\n")), ""},
			{"closed early", get, with(hears), "connection closed"},
			{"closed in headers", get, with(func(c net.Conn) { hears(c); says(ok, func(net.Conn) {})(c) }), "connection closed in the middle"},
			{"closed in the body", get, with(func(c net.Conn) { hears(c); says(ok+"Content-Length: 9\r\n\r\nhalf", func(net.Conn) {})(c) }), "connection closed after 4 bytes of the body"},
			{"silent in the body", get, with(says(ok+"Content-Length: 9\r\n\r\nhalf", silent)), "the body does not end within 200ms, 4 bytes came"},
			{"drip of the body", get, with(func(c net.Conn) { says(ok+"\r\n", drips("a"))(c) }), "the body does not end within"},
			{"endless body", body(HTTPCheck{Expect: "b", MaxBody: 1000}), with(endless(ok+"\r\n", "a")), `the body does not contain "b"`},
			{"endless body", body(HTTPCheck{Digest: "md5:d41d8cd98f00b204e9800998ecf8427e", MaxBody: 1000}), with(endless(ok+"\r\n", "a")), "another digest: the first 1000 bytes"},
			{"endless chunk", body(HTTPCheck{Expect: "b"}), with(endless(ok+"Transfer-Encoding: chunked\r\n\r\n", "1")), "header line too long"},
			{"redirect to itself", body(HTTPCheck{Status: []StatusRange{{200, 200}}}), with(says("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", hears)), "status 302, expected 200"},
			{"status", get, with(says("HTTP/1.1 503 Service\x1b[31m\r\nContent-Length: 0\r\n\r\n", hears)), "status 503, expected 200-399"},
			{"compressed", body(HTTPCheck{Expect: "text"}), with(says(ok+"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00", hears)), "the body does not contain"},
		}...).run(t)
	}
	refusals{
		{"no TLS", Check{Kind: HTTPS}, says("HTTP/1.0 400 Bad Request\r\n\r\n", hears), "no TLS"},
		{"no HTTP/2", Check{Kind: HTTP2}, behind(config, silent), "no agreement on h2 (ALPN)"},
		{"HTTP/1.1", Check{Kind: HTTP2, HTTP: HTTPCheck{Plain: true}}, says(ok+"\r\n", hears), ""},
		{"silent", Check{Kind: HTTP2, HTTP: HTTPCheck{Plain: true}}, silent, "no answer within"},
		{"silent", Check{Kind: HTTP2}, silent, "no answer within"},
		{"refused", Check{Kind: HTTP2}, nil, "connection refused"},
		{"endless settings", Check{Kind: HTTP2, HTTP: HTTPCheck{Plain: true}}, endless("", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"), "no answer within"},
		{"endless frame", Check{Kind: HTTP2, HTTP: HTTPCheck{Plain: true}}, endless("", "\x7f"), ""},
	}.run(t)
}

func TestHostileTLS(t *testing.T) {
	t.Parallel()
	append(common(Check{Kind: TLS}), refusals{
		{"garbage", Check{Kind: TLS}, says(garbage, hears), "no TLS"},
		{"drip", Check{Kind: TLS}, drips("\x16\x03\x03\x40\x00"), "no answer within"},
		{"too long", Check{Kind: TLS}, endless("", "\x16\x03\x03\x40\x00"), ""},
		{"closed early", Check{Kind: TLS}, hears, "connection closed"},
		{"alert", Check{Kind: TLS}, says("\x15\x03\x03\x00\x02\x02\x28", hears), "TLS alert: handshake failure"},
	}...).run(t)
}

func TestHostileGRPC(t *testing.T) {
	t.Parallel()
	plain := Check{Kind: GRPC, GRPC: GRPCCheck{Plain: true}}
	append(common(Check{Kind: GRPC}), refusals{
		{"refused", plain, nil, "connection refused"},
		{"silent", plain, silent, "no answer within"},
		{"garbage", plain, says(garbage, hears), "gRPC: Unavailable"},
		{"no TLS", Check{Kind: GRPC}, says(garbage, hears), "no TLS"},
		{"drip", plain, drips("\x00\x00\x00\x04"), "gRPC: Unavailable"},
		{"too long", plain, endless("", "\x00"), ""},
		{"closed early", plain, hears, ""},
	}...).run(t)
}

func TestHostileSMTP(t *testing.T) {
	t.Parallel()
	c := Check{Kind: SMTP}
	start := Check{Kind: SMTP, SMTP: SMTPCheck{StartTLS: true}}
	dialogue := func(replies ...string) func(net.Conn) {
		return func(c net.Conn) {
			for _, r := range replies {
				_, _ = io.WriteString(c, r)
				hears(c)
			}
		}
	}
	append(common(c), refusals{
		{"greeting", c, says("554 go\x1b[31m away\r\n", hears), `SMTP: greeting: "554 go?[31m away"`},
		{"busy", c, says("421-try\r\n421 later\r\n", hears), `greeting: "421 try later"`},
		{"drip", c, drips("220-a\r\n"), "within"},
		{"garbage", c, says(garbage, hears), "not SMTP"},
		{"endless line", c, endless("220 ", "a"), "a line of more than 2048 bytes"},
		{"endless lines", c, endless("", "220-a\r\n"), "more than 128 lines"},
		{"closed early", c, func(net.Conn) {}, "connection closed without an answer"},
		{"half a line", c, says("220 a", func(net.Conn) {}), "in the middle of the answer"},
		{"another code", c, says("220-a\r\n221 b\r\n", hears), "not SMTP"},
		{"EHLO refused", start, dialogue("220 a\r\n", "502 no\r\n"), `EHLO: "502 no"`},
		{"HELO refused", c, dialogue("220 a\r\n", "502 no\r\n", "550 no\r\n"), `HELO: "550 no"`},
		{"no STARTTLS", start, dialogue("220 a\r\n", "250 b\r\n"), "STARTTLS is not offered"},
		{"STARTTLS refused", start, dialogue("220 a\r\n", "250-b\r\n250 STARTTLS\r\n", "454 not now\r\n"), `STARTTLS: "454 not now"`},
		{"more before TLS", start, dialogue("220 a\r\n", "250 STARTTLS\r\n250 STARTTLS\r\n"), ""},
		{"injected", start, dialogue("220 a\r\n", "250-b\r\n250 STARTTLS\r\n", "220 go\r\n250 forged\r\n"), "more than a reply came before TLS"},
		{"no TLS", start, dialogue("220 a\r\n", "250-b\r\n250 STARTTLS\r\n", "220 go\r\n", "250 b\r\n"), "no TLS"},
	}...).run(t)
}

func TestHostileMySQL(t *testing.T) {
	t.Parallel()
	c := Check{Kind: MySQL}
	append(common(c), refusals{
		{"full", c, says("\x17\x00\x00\x00\xff\x10\x04Too many connections", hears), `MySQL: error 1040: "Too many connections"`},
		{"blocked", c, says("\x0f\x00\x00\x00\xff\x69\x04Host blocked", hears), `error 1129: "Host blocked"`},
		{"old", c, says("\x05\x00\x00\x00\x093.2\x00", hears), "not MySQL"},
		{"drip", c, drips("\xff\x3f\x00\x00\x0a"), "no answer within"},
		{"garbage", c, says(garbage, hears), "not MySQL"},
		{"too long", c, endless("\xff\xff\xff\x00", "\x0a"), "not MySQL"},
		{"empty", c, says("\x00\x00\x00\x00", hears), "not MySQL"},
		{"half", c, says("\x10\x00\x00\x00\x0a8", func(net.Conn) {}), "in the middle of the answer"},
		{"closed early", c, func(net.Conn) {}, "connection closed without an answer"},
		{"full after login", c, says(greeting, says("\x17\x00\x00\x02\xff\x10\x04Too many connections", hears)), "error 1040"},
		{"switches for ever", c, endless(greeting, "\x01\x00\x00\x02\xfe"), "does not end"},
	}...).run(t)
}

// greeting is MySQL's, of a server that can what is needed.
const greeting = "\x2b\x00\x00\x00\x0a8.0.31\x00\x01\x00\x00\x00abcdefgh\x00\xff\xf7\x21\x02\x00\xff\xdf\x15" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00abc\x00"

func TestHostilePostgreSQL(t *testing.T) {
	t.Parallel()
	c := Check{Kind: PostgreSQL}
	fatal := func(state, text string) string {
		body := "SFATAL\x00C" + state + "\x00M" + text + "\x00\x00"
		return "E" + string([]byte{0, 0, 0, byte(4 + len(body))}) + body
	}
	append(common(c), refusals{
		{"starting", c, says(fatal("57P03", "the database system is starting up"), hears), `PostgreSQL: "the database system is starting up" (57P03)`},
		{"full", c, says(fatal("53300", "sorry, too many clients already"), hears), "too many clients"},
		{"full after the login", c, says("R\x00\x00\x00\x08\x00\x00\x00\x00"+fatal("53300", "no slots"), hears), "no slots"},
		{"no such database", Check{Kind: PostgreSQL, SQL: SQLCheck{Database: "shop"}}, says(fatal("3D000", "no shop"), hears), "no shop"},
		{"drip", c, drips("S\x00\x00\x10\x00a"), "no answer within"},
		{"garbage", c, says(garbage, hears), "not PostgreSQL"},
		{"another protocol", c, says("HTTP/1.1 400 Bad Request\r\n\r\n", hears), "not PostgreSQL"},
		{"too long", c, endless("S\x7f\xff\xff\xff", "a"), "not PostgreSQL"},
		{"endless", c, endless("", "S\x00\x00\x00\x04"), "does not begin"},
		{"half", c, says("E\x00\x00\x00\x60half", hears), "in the middle of the answer"},
		{"closed early", c, hears, "connection closed without an answer"},
		{"after the login", c, says("R\x00\x00\x00\x08\x00\x00\x00\x00", silent), "no answer within"},
	}...).run(t)
}

func TestHostileRedis(t *testing.T) {
	t.Parallel()
	c := Check{Kind: Redis}
	role := Check{Kind: Redis, Redis: RedisCheck{Role: "master"}}
	append(common(c), refusals{
		{"loading", c, says("-LOADING Redis is loading the dataset in memory\r\n", hears), `redis: "LOADING Redis is loading`},
		{"password", c, says("-NOAUTH Authentication required.\r\n", hears), "NOAUTH"},
		{"another answer", c, says("+PANG\r\n", hears), `"PANG", expected PONG`},
		{"role", role, says("+PONG\r\n$12\r\nrole:slave\r\n\r\n", hears), `role "slave", expected master`},
		{"no role", role, says("+PONG\r\n$0\r\n\r\n", hears), `role "", expected master`},
		{"long", role, says("+PONG\r\n$999999999\r\n", hears), "a text of"},
		{"half", role, func(c net.Conn) { hears(c); says("+PONG\r\n$100\r\nrole", hears)(c) }, "in the middle"},
		{"drip", c, drips("+P"), "no answer within"},
		{"garbage", c, says(garbage, hears), "not redis"},
		{"too long", c, endless("+", "P"), "not redis"},
		{"closed early", c, hears, "connection closed without an answer"},
	}...).run(t)
}

func TestHostileDNS(t *testing.T) {
	t.Parallel()
	c := Check{Kind: DNS, DNS: DNSCheck{TCP: true}}
	append(common(c), refusals{
		{"drip", c, drips("\xff"), "no answer within"},
		{"garbage", c, says("\x00\x0cgarbage12345", hears), ""},
		{"too long", c, endless("", "\xff"), ""},
		{"closed early", c, hears, "connection closed without an answer"},
		{"half", c, says("\x00\x20half", hears), "in the middle"},
	}...).run(t)
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	e := serving(t, silent)
	for _, kind := range []Kind{TLS, HTTP, HTTPS, HTTP2, GRPC, SMTP, MySQL, PostgreSQL, Redis} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		err := NewProber().Probe(ctx, Check{Kind: kind, Timeout: time.Minute}, e)
		if !errors.Is(err, ErrNotAsked) || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestReasons(t *testing.T) {
	t.Parallel()
	p := NewProber()
	e := nobody(t)
	err := p.Probe(t.Context(), Check{Kind: TCP, Timeout: 5 * time.Second}, e)
	if err == nil || err.Error() != "connection refused" {
		t.Errorf("%v", err)
	}
	var op *net.OpError
	if !errors.As(err, &op) {
		t.Errorf("the cause is gone: %#v", err)
	}
	for _, test := range []struct {
		err  error
		e    Endpoint
		want string
	}{
		{op, Endpoint{Mark: 1}, "connection refused: nothing listens on the VIP there, or a firewall refuses"},
		{&net.OpError{Op: "dial", Err: context.DeadlineExceeded}, Endpoint{}, "no connection within 1s"},
		{&net.OpError{Op: "dial", Err: context.DeadlineExceeded}, Endpoint{Mark: 1}, "no connection to the VIP within 1s"},
		{context.DeadlineExceeded, Endpoint{}, "no answer within 1s"},
	} {
		if got := reason(test.err, test.e, time.Second); got != test.want {
			t.Errorf("%v: %q, want %q", test.err, got, test.want)
		}
	}
	// What is wrong with the question says nothing of the server.
	for _, c := range []Check{
		{Kind: "ask"},
		{Kind: TCP, Talk: TalkCheck{Pattern: "("}},
		{Kind: TLS, TLS: TLSCheck{Verify: true, CAFile: "/none"}},
		{Kind: TLS, TLS: TLSCheck{CertFile: "/none", KeyFile: "/none"}},
		{Kind: Redis, Redis: RedisCheck{PasswordFile: "/none"}},
		{Kind: HTTP, HTTP: HTTPCheck{Digest: "crc:1"}},
		{Kind: HTTP, HTTP: HTTPCheck{Path: "a b"}},
	} {
		c.Timeout = 5 * time.Second
		if err := p.Probe(t.Context(), c, serving(t, says("HTTP/1.1 200 OK\r\n\r\n", hears))); !errors.Is(err, ErrNotAsked) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, e := range []Endpoint{{}, {RIP: netip.MustParseAddr("127.0.0.1")}} {
		if err := p.Probe(t.Context(), Check{Kind: TCP}, e); !errors.Is(err, ErrNotAsked) {
			t.Errorf("%+v: %v", e, err)
		}
	}
	if n := fmt.Sprint(len(quote(strings.Repeat("a", 500)))); n != "82" {
		t.Errorf("a quotation of %s bytes", n)
	}
}
