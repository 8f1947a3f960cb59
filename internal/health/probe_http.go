// SPDX-License-Identifier: MIT

package health

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// mostHeaders is how many bytes the headers of an answer may have.
const mostHeaders = 64 << 10

// http asks once on a connection of its own. There is nothing of a browser in it:
// no redirect, cookie, proxy, decompression or second attempt.
func (p *Prober) http(ctx context.Context, c Check, e Endpoint) error {
	want, err := p.expected(c.HTTP.Expect, c.HTTP.Pattern)
	if err != nil {
		return err
	}
	secure := c.Kind == HTTPS || c.Kind == HTTP2 && !c.HTTP.Plain
	request, err := request(ctx, c, e, secure)
	if err != nil {
		return notAsked(err)
	}
	socket, err := dial(ctx, "tcp", e)
	if err != nil {
		return err
	}
	defer func() { socket.Close() }()
	if c.Kind == HTTP2 {
		return p.http2(c, socket, request, want)
	}
	if secure {
		config, err := p.tlsConfig(c.TLS, nil)
		if err != nil {
			return err
		}
		handshake := tls.Client(socket, config)
		socket = handshake
		if err := handshake.HandshakeContext(ctx); err != nil {
			return err
		}
	}
	if err := request.Write(socket); err != nil {
		return err
	}
	answer, err := readAnswer(socket, request)
	if err != nil {
		return err
	}
	return judgeHTTP(c.HTTP, want, answer) // the connection's end is the body's
}

// readAnswer reads the headers of an answer, and of those that only inform.
func readAnswer(r io.Reader, request *http.Request) (*http.Response, error) {
	source := &bounded{r: r, left: mostHeaders}
	buffered := bufio.NewReader(source)
	for {
		answer, err := http.ReadResponse(buffered, request)
		switch {
		case err != nil && source.err != nil && !errors.Is(source.err, io.EOF):
			return nil, source.err
		case err != nil:
			return nil, err
		case answer.StatusCode >= 200 || answer.StatusCode == http.StatusSwitchingProtocols:
			source.left = math.MaxInt64
			return answer, nil
		}
	}
}

// bounded reads so many bytes, and keeps the error: of a line that the end of time
// cut off, http says that it is malformed.
type bounded struct {
	r    io.Reader
	left int64
	err  error
}

func (b *bounded) Read(p []byte) (n int, err error) {
	if b.left <= 0 {
		b.err = fmt.Errorf("headers of more than %d bytes", mostHeaders)
		return 0, b.err
	}
	n, err = b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err != nil {
		b.err = err
	}
	return n, err
}

// http2 leaves the protocol to the standard library, on a connection of ours.
func (p *Prober) http2(c Check, socket net.Conn, request *http.Request, want expected) error {
	dialer := once(socket)
	transport := &http.Transport{
		Protocols:              new(http.Protocols),
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return dialer() },
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: mostHeaders,
	}
	defer transport.CloseIdleConnections()
	if c.HTTP.Plain {
		transport.Protocols.SetUnencryptedHTTP2(true)
	} else {
		var err error
		transport.Protocols.SetHTTP2(true)
		if transport.TLSClientConfig, err = p.tlsConfig(c.TLS, []string{"h2"}); err != nil {
			return err
		}
	}
	answer, err := transport.RoundTrip(request)
	switch {
	case err != nil && strings.Contains(err.Error(), "looked like an HTTP/1.1 header"):
		return &failure{"no HTTP/2: the answer is HTTP/1.1", err}
	case err != nil && strings.Contains(err.Error(), "client conn could not be established"):
		return &failure{"no HTTP/2: connection closed", err}
	case err != nil:
		return err
	}
	defer answer.Body.Close()
	return judgeHTTP(c.HTTP, want, answer)
}

func request(ctx context.Context, c Check, e Endpoint, secure bool) (*http.Request, error) {
	h := c.HTTP
	where, err := url.ParseRequestURI(firstOf(h.Path, "/"))
	if err != nil {
		return nil, err
	}
	if where.Host != "" || !strings.HasPrefix(where.Path, "/") || strings.ContainsFunc(h.Path, unicode.IsSpace) {
		return nil, fmt.Errorf("%q is not a path", h.Path)
	}
	scheme, usual := "http", uint16(80)
	if secure {
		scheme, usual = "https", 443
	}
	host := h.Host
	if host == "" {
		host = hostOf(c.TLS.ServerName, e, usual)
	}
	r, err := http.NewRequestWithContext(ctx, firstOf(h.Method, http.MethodGet), "http://server/", strings.NewReader(h.Body))
	if err != nil {
		return nil, err
	}
	// An address, because a name in the URL would be sent as SNI.
	where.Scheme, where.Host = scheme, hostOf("", e, usual)
	r.URL, r.Host, r.Close = where, host, true
	for _, x := range h.Headers {
		if http.CanonicalHeaderKey(x.Name) == "Host" {
			r.Host = x.Value
			continue
		}
		r.Header.Add(x.Name, x.Value)
	}
	if r.Header.Get("User-Agent") == "" {
		r.Header.Set("User-Agent", "shunt")
	}
	return r, nil
}

// hostOf is what a client would have asked for: the name, else the VIP, else the
// server; with the port if it is not the usual one.
func hostOf(name string, e Endpoint, usual uint16) string {
	if name == "" {
		ip := e.VIP
		if !ip.IsValid() {
			ip = e.RIP
		}
		name = ip.Unmap().WithZone("").String()
	}
	switch ip, err := netip.ParseAddr(name); {
	case e.Port != usual:
		return net.JoinHostPort(name, strconv.Itoa(int(e.Port)))
	case err == nil && ip.Is6():
		return "[" + name + "]"
	}
	return name
}

func firstOf(a, otherwise string) string {
	if a == "" {
		return otherwise
	}
	return a
}
