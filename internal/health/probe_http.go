// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

const (
	mostHeaders = 64 << 10 // bytes of an answer's headers
	defaultBody = 1 << 20
)

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
	transport := &http.Transport{
		Protocols:              new(http.Protocols),
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, "tcp", e) },
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: mostHeaders,
	}
	defer transport.CloseIdleConnections()
	var alpn []string
	switch {
	case c.Kind != HTTP2:
		transport.Protocols.SetHTTP1(true)
	case c.HTTP.Plain:
		transport.Protocols.SetUnencryptedHTTP2(true)
	default:
		transport.Protocols.SetHTTP2(true)
		alpn = []string{"h2"}
	}
	if secure {
		if transport.TLSClientConfig, err = p.tlsConfig(c.TLS, alpn); err != nil {
			return err
		}
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
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
	r.URL, r.Host = where, host
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

func judgeHTTP(h HTTPCheck, want expected, answer *http.Response) error {
	allowed := h.Status
	if len(allowed) == 0 {
		allowed = []StatusRange{{200, 399}}
	}
	if !inRanges(answer.StatusCode, allowed) {
		return fmt.Errorf("status %d, expected %s", answer.StatusCode, ranges(allowed))
	}
	for _, x := range h.Answer {
		if err := hasHeader(answer.Header, x); err != nil {
			return err
		}
	}
	return judgeBody(h, want, answer.Body)
}

func inRanges(status int, allowed []StatusRange) bool {
	for _, r := range allowed {
		if r.First <= status && status <= r.Last {
			return true
		}
	}
	return false
}

func ranges(all []StatusRange) string {
	var texts []string
	for _, r := range all {
		text := strconv.Itoa(r.First)
		if r.Last != r.First {
			text += "-" + strconv.Itoa(r.Last)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

func hasHeader(answer http.Header, x Header) error {
	got := answer.Values(x.Name)
	if len(got) == 0 {
		return fmt.Errorf("no header %s in the answer", x.Name)
	}
	for _, value := range got {
		if x.Value == "" || value == x.Value {
			return nil
		}
	}
	return fmt.Errorf("header %s is %s, expected %s", x.Name, quote(got[0]), quote(x.Value))
}

// judgeBody reads the body to its end, or to its limit. One that is longer is
// judged by its beginning; only a digest needs all of it.
func judgeBody(h HTTPCheck, want expected, body io.Reader) error {
	limit := h.MaxBody
	if limit <= 0 {
		limit = defaultBody
	}
	body = io.LimitReader(body, limit)
	var sum hash.Hash
	var digest []byte
	if h.Digest != "" {
		var err error
		if sum, digest, err = parseDigest(h.Digest); err != nil {
			return notAsked(err)
		}
		body = io.TeeReader(body, sum)
	}
	var text []byte
	var n int64
	var err error
	if want.anything() {
		n, err = io.Copy(io.Discard, body)
	} else {
		text, err = io.ReadAll(body)
		n = int64(len(text))
	}
	if err != nil {
		return fmt.Errorf("body after %d bytes: %w", n, err)
	}
	if !want.anything() {
		if err := want.in(text, "the body"); err != nil {
			return err
		}
	}
	if sum == nil {
		return nil
	}
	if got := sum.Sum(nil); !equal(got, digest) {
		if n == limit {
			return fmt.Errorf("another digest: the first %d bytes, which is as much as is read, have %s", n, short(got))
		}
		return fmt.Errorf("another digest: the body's %d bytes have %s, expected %s", n, short(got), short(digest))
	}
	return nil
}

func equal(a, b []byte) bool { return string(a) == string(b) }

// short is as much of a digest as people compare.
func short(sum []byte) string { return hex.EncodeToString(sum[:8]) + "…" }

// parseDigest reads "sha256:HEX" or "md5:HEX".
func parseDigest(text string) (hash.Hash, []byte, error) {
	name, value, _ := strings.Cut(text, ":")
	var sum hash.Hash
	switch name {
	case "sha256":
		sum = sha256.New()
	case "md5":
		sum = md5.New()
	default:
		return nil, nil, errors.New(`a digest is "sha256:" or "md5:" and hexadecimal digits`)
	}
	digest, err := hex.DecodeString(value)
	if err != nil || len(digest) != sum.Size() {
		return nil, nil, fmt.Errorf("the digest of %s has %d hexadecimal digits", name, 2*sum.Size())
	}
	return sum, digest, nil
}
