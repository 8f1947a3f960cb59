// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// tls makes a handshake, talks as tcp does if there is something to say, and takes leave.
func (p *Prober) tls(ctx context.Context, check Check, e Endpoint) error {
	want, err := p.expected(check.Talk.Expect, check.Talk.Pattern)
	if err != nil {
		return err
	}
	config, err := p.tlsConfig(check.TLS, check.TLS.ALPN)
	if err != nil {
		return err
	}
	raw, err := dial(ctx, "tcp", e)
	if err != nil {
		return err
	}
	c := tls.Client(raw, config)
	defer c.Close()
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	if check.Talk == (TalkCheck{}) {
		return accepted(ctx, c)
	}
	return want.talk(c, check.Talk.Send)
}

// patience is how long a server may take to refuse what it seemed to accept, or to
// take leave.
const patience = 100 * time.Millisecond

// accepted finds out whether the server agrees that the handshake is done: with TLS
// 1.3 a client knows only afterwards that its certificate is refused or missed.
func accepted(ctx context.Context, c *tls.Conn) error {
	if err := c.CloseWrite(); err != nil {
		return nil // gone, after a handshake that it finished
	}
	_ = c.SetReadDeadline(soon(ctx, patience))
	if _, err := c.Read(make([]byte, 1)); isAlert(err) {
		return err
	}
	return nil
}

// soon is d from now, or the end of ctx if that is earlier.
func soon(ctx context.Context, d time.Duration) time.Time {
	t := time.Now().Add(d)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(t) {
		return deadline
	}
	return t
}

// tlsConfig is how a handshake is made. The certificate is not verified by crypto/tls
// but by verify, which says more, and says it also if the chain does not matter.
func (p *Prober) tlsConfig(t TLSCheck, protocols []string) (*tls.Config, error) {
	config := &tls.Config{ServerName: t.ServerName, NextProtos: protocols, InsecureSkipVerify: true}
	var roots *x509.CertPool
	var err error
	if t.Verify && t.CAFile != "" {
		if roots, err = p.roots(t.CAFile); err != nil {
			return nil, notAsked(err)
		}
	}
	if t.CertFile != "" {
		own, err := p.pair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, notAsked(err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	config.VerifyConnection = func(s tls.ConnectionState) error {
		if err := verify(t, s.PeerCertificates, roots, time.Now()); err != nil {
			return &failure{err.Error(), err}
		}
		if len(protocols) > 0 && !slices.Contains(protocols, s.NegotiatedProtocol) {
			err := fmt.Errorf("no agreement on %s (ALPN)", strings.Join(protocols, " or "))
			return &failure{err.Error(), err}
		}
		return nil
	}
	return config, nil
}

// verify judges a certificate, the server's first, as of now.
func verify(t TLSCheck, chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	if len(chain) == 0 {
		return errors.New("no certificate")
	}
	leaf := chain[0]
	if err := valid(leaf, "certificate", now); err != nil {
		return err
	}
	if left := leaf.NotAfter.Sub(now); left < t.ValidFor {
		return fmt.Errorf("certificate expires %s, in %s", day(leaf.NotAfter), rough(left))
	}
	if !t.Verify {
		return nil
	}
	if t.ServerName != "" {
		if err := leaf.VerifyHostname(t.ServerName); err != nil {
			return fmt.Errorf("certificate is for %s, not for %s", names(leaf), t.ServerName)
		}
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now})
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return valid(invalid.Cert, "certificate of the authority", now)
	case errors.As(err, &unknown):
		return fmt.Errorf("certificate signed by an unknown authority: %s", quote(leaf.Issuer.String()))
	}
	return err
}

func valid(c *x509.Certificate, what string, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("%s expired %s", what, day(c.NotAfter))
	case now.Before(c.NotBefore):
		return fmt.Errorf("%s is not valid before %s", what, c.NotBefore.UTC().Format(time.DateTime))
	}
	return nil
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// rough is a time in days, or in less if it is less.
func rough(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.Round(time.Minute).String()
}

// names are those that a certificate is for, or what it calls itself.
func names(c *x509.Certificate) string {
	all := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return quote(c.Subject.CommonName)
	}
	return quote(strings.Join(all, ", "))
}
