// SPDX-License-Identifier: MIT

package health

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
)

const (
	longestLine = 2048 // RFC 5321 has 512; some greetings are longer
	mostLines   = 128
)

// smtp is a session without a mail (RFC 5321, RFC 3207).
func (p *Prober) smtp(ctx context.Context, c Check, e Endpoint) error {
	var config *tls.Config
	if c.SMTP.StartTLS {
		var err error
		if config, err = p.tlsConfig(c.TLS, nil); err != nil {
			return err
		}
	}
	raw, err := dial(ctx, "tcp", e)
	if err != nil {
		return err
	}
	defer raw.Close()
	s := mail(raw)
	if _, err := s.reply("greeting", 220); err != nil {
		return err
	}
	hello := firstOf(c.SMTP.Hello, "localhost")
	offers, err := s.command("EHLO "+hello, 250)
	var no *refusal
	if errors.As(err, &no) && no.code/10 == 50 && !c.SMTP.StartTLS {
		offers, err = s.command("HELO "+hello, 250)
	}
	if err != nil {
		return err
	}
	if c.SMTP.StartTLS {
		secure, err := s.startTLS(ctx, offers, config)
		if err != nil {
			return err
		}
		defer secure.Close()
		s = mail(secure)
		if _, err := s.command("EHLO "+hello, 250); err != nil {
			return err
		}
	}
	// It is well, whatever it says now; the reply is waited for so that its log
	// has no complaint.
	_ = s.SetDeadline(soon(ctx, patience))
	_, _ = s.command("QUIT", 221)
	return nil
}

// mailSession is a connection whose lines are read.
type mailSession struct {
	net.Conn
	lines *bufio.Reader
}

func mail(c net.Conn) *mailSession {
	return &mailSession{c, bufio.NewReaderSize(c, longestLine)}
}

func (s *mailSession) startTLS(ctx context.Context, offers []string, config *tls.Config) (*tls.Conn, error) {
	if !slices.ContainsFunc(offers, func(o string) bool { return strings.EqualFold(o, "STARTTLS") }) {
		return nil, errors.New("SMTP: STARTTLS is not offered")
	}
	if _, err := s.command("STARTTLS", 220); err != nil {
		return nil, err
	}
	if s.lines.Buffered() > 0 {
		return nil, errors.New("SMTP: more than a reply came before TLS")
	}
	c := tls.Client(s.Conn, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// command sends a line and returns the texts of the reply.
func (s *mailSession) command(line string, want int) ([]string, error) {
	if _, err := io.WriteString(s, line+"\r\n"); err != nil {
		return nil, err
	}
	verb, _, _ := strings.Cut(line, " ")
	return s.reply(verb, want)
}

// refusal is a reply with another code.
type refusal struct {
	what string
	code int
	text string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("SMTP: %s: %s", r.what, quote(fmt.Sprintf("%d %s", r.code, r.text)))
}

func (s *mailSession) reply(what string, want int) ([]string, error) {
	code, texts, err := readReply(s.lines)
	switch {
	case err != nil:
		return nil, err
	case code != want:
		return nil, &refusal{what, code, strings.Join(texts, " ")}
	}
	return texts, nil
}

// readReply reads the lines of one reply: "250-a text" and at last "250 a text".
func readReply(r *bufio.Reader) (code int, texts []string, err error) {
	for range mostLines {
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return 0, nil, fmt.Errorf("SMTP: a line of more than %d bytes: %s", longestLine, quote(line))
		case errors.Is(err, io.EOF) && len(line)+len(texts) > 0:
			return 0, nil, io.ErrUnexpectedEOF
		case err != nil:
			return 0, nil, err
		}
		n, text, last, ok := parseReply(strings.TrimRight(string(line), "\r\n"))
		if !ok || len(texts) > 0 && n != code {
			return 0, nil, fmt.Errorf("not SMTP: %s", quote(line))
		}
		code, texts = n, append(texts, text)
		if last {
			return code, texts, nil
		}
	}
	return 0, nil, fmt.Errorf("SMTP: a reply of more than %d lines", mostLines)
}

// parseReply takes a line apart: three digits, "-" if more lines follow, a text.
func parseReply(line string) (code int, text string, last, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' {
		return 0, "", false, false
	}
	for _, digit := range []byte(line[:3]) {
		if digit < '0' || digit > '9' {
			return 0, "", false, false
		}
		code = 10*code + int(digit-'0')
	}
	if len(line) == 3 {
		return code, "", true, true
	}
	separator := line[3]
	return code, line[4:], separator == ' ', separator == ' ' || separator == '-'
}
