// SPDX-License-Identifier: MIT

package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
)

// mostTalk is how many bytes of an answer are looked at.
const mostTalk = 64 << 10

// expected is what an answer has to be.
type expected struct {
	text    string
	pattern *regexp.Regexp
}

func (p *Prober) expected(text, pattern string) (x expected, err error) {
	x.text = text
	if pattern != "" {
		x.pattern, err = p.pattern(pattern)
	}
	return x, err
}

func (x expected) anything() bool { return x.text == "" && x.pattern == nil }

// in says what is missing in an answer, nil if nothing is.
func (x expected) in(answer []byte, what string) error {
	switch {
	case !bytes.Contains(answer, []byte(x.text)):
		return fmt.Errorf("%s does not contain %s: %s", what, quote(x.text), quote(answer))
	case x.pattern != nil && !x.pattern.Match(answer):
		return fmt.Errorf("%s does not match %s: %s", what, quote(x.pattern.String()), quote(answer))
	}
	return nil
}

func (p *Prober) tcp(ctx context.Context, t TalkCheck, e Endpoint) error {
	want, err := p.expected(t.Expect, t.Pattern)
	if err != nil {
		return err
	}
	c, err := dial(ctx, "tcp", e)
	if err != nil {
		return err
	}
	defer c.Close()
	return want.talk(c, t.Send)
}

// talk says something, and listens for what is expected.
func (x expected) talk(c net.Conn, send string) error {
	if send != "" {
		if _, err := io.WriteString(c, send); err != nil {
			return err
		}
	}
	if x.anything() {
		return nil
	}
	return x.listen(c)
}

// eager is how often an answer that grows is searched at each read. Then it is
// searched only when it is twice as long, so that who sends single bytes does not
// cost a search each.
const eager = 64

// listen reads until what is expected is there, or cannot come any more.
func (x expected) listen(c net.Conn) error {
	buf := make([]byte, 0, 1024)
	for reads, next := 0, 0; ; reads++ {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := c.Read(buf[len(buf):min(cap(buf), mostTalk)])
		buf = buf[:len(buf)+n]
		full := len(buf) == mostTalk
		if len(buf) > 0 && (reads < eager || len(buf) >= next || full || err != nil) {
			missing := x.in(buf, "the answer")
			if missing == nil || full || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
				return missing
			}
			next = 2 * len(buf)
		}
		if err != nil {
			return err
		}
	}
}
