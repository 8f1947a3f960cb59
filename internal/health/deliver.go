// SPDX-License-Identifier: MIT

package health

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
	"github.com/shunt-lvs/shunt/internal/script"
)

// deliver tells one target of one event.
func (n *Notifier) deliver(q *queue, said notice) error {
	t := q.target
	switch {
	case len(t.Command) > 0:
		ctx, cancel := context.WithTimeout(n.ctx, t.timeout())
		defer cancel()
		_, err := script.Command{Args: t.Command, User: t.User, Env: eventEnvironment(said.Event)}.Run(ctx)
		return err
	case t.URL != "":
		return n.post(q, said)
	}
	n.log.LogAttrs(n.ctx, logLevel(t.Log), said.String(), logged(said.Event)...)
	return nil
}

// eventEnvironment is an event as a program gets it. What is not in JSON is one line
// that can be printed: programs put it into mails and messages.
func eventEnvironment(e Event) []string {
	text, err := json.Marshal(e)
	if err != nil { // a time without a form in JSON
		text = []byte("{}")
	}
	env := []string{"SHUNT_EVENT=" + string(text)}
	for _, p := range parts(e) {
		env = append(env, "SHUNT_"+p.variable+"="+script.FirstLine([]byte(p.value)))
	}
	return env
}

type part struct{ variable, key, value string }

func parts(e Event) []part {
	var service, server, vip string
	if e.Service != (lvs.ServiceID{}) {
		service = e.Service.String()
	}
	if e.Server.Addr.IsValid() {
		server = e.Server.String()
	}
	if e.VIP.IsValid() {
		vip = e.VIP.String()
	}
	return []part{
		{"AT", "", e.At.Format(time.RFC3339Nano)}, // the log has a time of its own
		{"SUBJECT", "subject", e.Subject},
		{"SERVICE", "service", service},
		{"NAME", "name", e.Name},
		{"SERVER", "server", server},
		{"VIP", "vip", vip},
		{"FROM", "from", e.From},
		{"TO", "to", e.To},
		{"REASON", "reason", e.Reason},
		{"CHECK", "check", e.Check},
		{"BY", "by", e.By},
	}
}

func logged(e Event) []slog.Attr {
	var attrs []slog.Attr
	for _, p := range parts(e) {
		if p.key != "" && p.value != "" {
			attrs = append(attrs, slog.String(p.key, p.value))
		}
	}
	return attrs
}

func logLevel(name string) slog.Level {
	switch name {
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// maxAttempts is how often a webhook is sent one event.
const maxAttempts = 5

func newHookClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// post sends an event until it is taken or refused.
func (n *Notifier) post(q *queue, said notice) error {
	body, err := json.Marshal(said.Event)
	if err != nil {
		return err
	}
	pause := n.pause
	for attempt := 1; ; attempt++ {
		again, err := n.postOnce(q.target, said.key, body)
		if err == nil || !again {
			return err
		}
		if attempt == maxAttempts || n.isGone(q) {
			return fmt.Errorf("given up at attempt %d: %w", attempt, err)
		}
		select {
		case <-n.ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause *= 2
	}
}

func (n *Notifier) isGone(q *queue) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return q.gone
}

// postOnce sends it once; again is whether another attempt makes sense.
func (n *Notifier) postOnce(t Target, key string, body []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(n.ctx, t.timeout())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.URL, bytes.NewReader(body))
	if err != nil {
		return false, bare(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	req.Header.Set("User-Agent", "shunt")
	answer, err := n.client.Do(req)
	if err != nil {
		return n.ctx.Err() == nil, bare(err)
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 64<<10) // so that the connection can be used again
	switch s := answer.StatusCode; {
	case s >= 200 && s < 300:
		return false, nil
	case s >= 500, s == http.StatusRequestTimeout, s == http.StatusTooManyRequests:
		return true, fmt.Errorf("status %d", s)
	default:
		return false, fmt.Errorf("status %d: not taken", s)
	}
}

// bare gives an error without the URL, which may have a secret in it.
func bare(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
