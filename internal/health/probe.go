// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"
	"time"
)

// Prober asks real servers. It keeps what is the same for many probes: compiled
// regular expressions and the PEM files it has read. Its zero value is not
// ready: use NewProber. It may be used by any number of goroutines.
type Prober struct {
	echo atomic.Uint32 // the last identifier of ICMP

	mu       sync.Mutex
	patterns map[string]*regexp.Regexp
	pools    map[string]pool
	pairs    map[[2]string]pair
}

// NewProber returns a Prober that has asked nobody yet.
func NewProber() *Prober {
	return &Prober{patterns: map[string]*regexp.Regexp{}, pools: map[string]pool{}, pairs: map[[2]string]pair{}}
}

// ErrNotAsked is wrapped by errors that say nothing about the server: the host
// had no file descriptor, port or right left to ask, a file that the check needs
// could not be read, or the probe was cancelled.
var ErrNotAsked = errors.New("not asked")

// Probe asks a real server once and returns nil if it is well. Otherwise the
// error is the reason: one line of at most 200 bytes without control
// characters, whatever the server sent. It takes no longer than c.Timeout and
// ctx allow, and reads no more than is needed.
func (p *Prober) Probe(ctx context.Context, c Check, e Endpoint) error {
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	within := c.Timeout
	if deadline, ok := ctx.Deadline(); ok && within == 0 {
		within = time.Until(deadline).Round(10 * time.Millisecond)
	}
	if err := p.ask(ctx, c, e); err != nil {
		return explain(ctx, err, e, within)
	}
	return nil
}

func (p *Prober) ask(ctx context.Context, c Check, e Endpoint) error {
	if !e.RIP.IsValid() {
		return notAsked(errors.New("the server has no address"))
	}
	switch c.Kind {
	case File:
		return probeFile(c.File, time.Now())
	case Script:
		return runScript(ctx, c, e)
	}
	switch {
	case c.ToRIP:
		e.Mark, e.Device, e.Local = 0, "", false
	case e.NoWay != "":
		return notAsked(errors.New(e.NoWay)) // and never the RIP instead
	case e.Local:
		e.RIP, e.Mark, e.Device = e.VIP, 0, ""
	}
	if c.Kind == ICMP {
		return p.icmp(ctx, e)
	}
	if e.Port == 0 {
		return notAsked(errors.New("the check has no port"))
	}
	switch c.Kind {
	case TCP:
		return p.tcp(ctx, c.Talk, e)
	case UDP:
		return p.udp(ctx, c.Talk, e)
	case HTTP, HTTPS, HTTP2:
		return p.http(ctx, c, e)
	case TLS:
		return p.tls(ctx, c, e)
	case GRPC:
		return p.grpc(ctx, c, e)
	case DNS:
		return probeDNS(ctx, c.DNS, e)
	case SMTP:
		return p.smtp(ctx, c, e)
	case MySQL:
		return probeMySQL(ctx, c.SQL, e)
	case PostgreSQL:
		return probePostgreSQL(ctx, c.SQL, e)
	case Redis:
		return probeRedis(ctx, c.Redis, e)
	}
	return notAsked(fmt.Errorf("no such kind of check: %q", c.Kind))
}

// mostPatterns bounds what is left of checks that are no longer configured.
const mostPatterns = 4096

// pattern compiles a regular expression once.
func (p *Prober) pattern(expr string) (*regexp.Regexp, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if re := p.patterns[expr]; re != nil {
		return re, nil
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, notAsked(err)
	}
	if len(p.patterns) >= mostPatterns {
		clear(p.patterns)
	}
	p.patterns[expr] = re
	return re, nil
}
