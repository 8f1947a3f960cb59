// SPDX-License-Identifier: MIT

package director

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/shunt-lvs/shunt/internal/agent"
	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// agentKey is an agent on a real server, and how it is asked. It is asked once for
// all services that the server is in.
type agentKey struct {
	addr     netip.AddrPort
	haproxy  bool
	secret   string // path of the file
	interval time.Duration
}

// asked is an agent that is asked.
type asked struct {
	cancel context.CancelFunc
	// steady has the weights of each service follow the load.
	steady map[lvs.ServiceID]*agent.Steady
	answer agent.Answer // HAProxy's: what it said so far
	heard  time.Time    // the last answer
	silent string       // why there was none since
	said   string       // what it could not find out, or we could not understand
}

// An agent of shunt's that has been silent for so many intervals, and so long,
// says nothing any more: its server has the configured weight, and its checks say
// whether it is up. HAProxy's has no such end.
const (
	silentIntervals = 5
	silentAtLeast   = 10 * time.Second
)

func keyOf(server lvs.ServerID, w *config.Weigh) agentKey {
	return agentKey{netip.AddrPortFrom(server.Addr, w.Port), w.HAProxy, w.SecretFile, w.Interval}
}

// secretsReadable refuses a configuration whose agents could not be asked.
func secretsReadable(c *config.Config) error {
	for _, s := range c.Services {
		for _, r := range s.Servers {
			if r.Weigh == nil || r.Weigh.HAProxy {
				continue
			}
			if _, err := agent.ReadSecret(r.Weigh.SecretFile); err != nil {
				return fmt.Errorf("%w: service %s: %w", api.ErrConfig, s.Name, err)
			}
		}
	}
	return nil
}

// followAgents asks the agents that the configuration names, and no others.
func (d *director) followAgents() {
	wanted := map[agentKey]bool{}
	for c, rule := range d.sorted() {
		for id, f := range c.file {
			if f.Weigh != nil && rule.Server(id) != nil {
				wanted[keyOf(id, f.Weigh)] = true
			}
		}
	}
	for key, a := range d.agents {
		if !wanted[key] {
			a.cancel()
			delete(d.agents, key)
		}
	}
	for key := range wanted {
		if d.agents[key] == nil {
			ctx, cancel := context.WithCancel(context.Background())
			d.agents[key] = &asked{cancel: cancel, steady: map[lvs.ServiceID]*agent.Steady{}, answer: agent.Unsaid(), heard: time.Now()}
			d.running.Go(func() { d.askAgent(ctx, key) })
		}
	}
}

// endAgents ends the asking.
func (d *director) endAgents() {
	for _, a := range d.agents {
		a.cancel()
	}
}

// askAgent asks one agent until ctx is done, the first time at some moment of the
// first interval.
func (d *director) askAgent(ctx context.Context, key agentKey) {
	next := time.NewTimer(rand.N(key.interval))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		next.Reset(key.interval)
		within, cancel := context.WithTimeout(ctx, key.interval)
		report, answer, err := ask(within, key)
		cancel()
		if ctx.Err() != nil {
			return
		}
		_ = d.inLoop(ctx, func() error { // the error: it ends
			if a := d.agents[key]; a != nil {
				d.said(key, a, report, answer, err)
			}
			return nil
		})
	}
}

func ask(ctx context.Context, key agentKey) (r agent.Report, a agent.Answer, err error) {
	dial := new(net.Dialer).DialContext
	if key.haproxy {
		a, err = agent.AskHAProxy(ctx, dial, key.addr)
		return r, a, err
	}
	secret, err := agent.ReadSecret(key.secret)
	if err != nil {
		return r, a, err
	}
	r, err = agent.Ask(ctx, dial, key.addr, secret)
	return r, a, err
}

// said takes an agent's answer, or that there was none, for all services of its
// server.
func (d *director) said(key agentKey, a *asked, r agent.Report, answer agent.Answer, err error) {
	now := time.Now()
	switch {
	case err == nil:
		a.heard, a.silent = now, ""
		trouble := r.Problem
		if key.haproxy {
			a.answer = answer.After(a.answer)
			if answer.Unknown != "" {
				trouble = fmt.Sprintf("%q is no word of HAProxy's agent-check", answer.Unknown)
			}
		}
		if trouble != "" && trouble != a.said {
			d.log.Warn("a real server's agent has trouble", "agent", key.addr, "reason", trouble)
		}
		a.said = trouble
	case a.silent == "":
		d.log.Warn("a real server's agent does not answer", "agent", key.addr, "error", err)
		fallthrough
	default:
		a.silent = err.Error()
		if key.haproxy || now.Sub(a.heard) < max(silentAtLeast, silentIntervals*key.interval) {
			return
		}
	}
	for c, service := range d.sorted() {
		for _, rule := range service.Servers {
			f := c.file[rule.ServerID]
			if f == nil || f.Weigh == nil || keyOf(rule.ServerID, f.Weigh) != key {
				continue
			}
			w := weighing{}
			if err == nil {
				w = a.weighing(c.id, f.Weigh, key, r, c.standing(rule.ServerID).weigh)
			}
			if c.standing(rule.ServerID).weigh != w {
				d.turn(c, rule.ServerID, "agent", func(s *standing) { s.weigh = w })
			}
		}
	}
}

// weighing is what an answer means for a server in one service.
func (a *asked) weighing(service lvs.ServiceID, bounds *config.Weigh, key agentKey, r agent.Report, was weighing) weighing {
	w := weighing{heard: true, factor: 1, state: api.Up}
	state := r.State
	switch {
	case key.haproxy:
		state, w.reason = a.answer.State(), a.answer.Reason
		if a.answer.Percent > 0 {
			w.factor = float64(agent.Share(whole, a.answer.Percent, bounds.Least, bounds.Most)) / whole
		}
	case r.Problem != "":
		if was.heard {
			w.factor = was.factor // of the last load that was known
		}
	default:
		s := a.steady[service]
		if s == nil {
			s = new(agent.Steady)
			a.steady[service] = s
		}
		w.factor = float64(s.Weight(r.At, r.Load, whole, bounds.Least, bounds.Most)) / whole
	}
	switch state {
	case agent.Drain:
		w.state = api.Draining
	case agent.Maint:
		w.state = api.Maintenance
	case agent.Down:
		w.state = api.Down
	}
	if w.state != api.Up {
		w.reason = joined("its agent says so", w.reason)
	}
	return w
}

// whole is 100 percent.
const whole = 100

// agentNote is what health says of a server's agent.
func (d *director) agentNote(c *cared, server lvs.ServerID) string {
	f := c.file[server]
	if f == nil || f.Weigh == nil {
		return ""
	}
	a := d.agents[keyOf(server, f.Weigh)]
	switch {
	case a == nil:
		return ""
	case a.silent != "":
		return "its agent does not answer: " + a.silent
	case a.said != "":
		return "its agent: " + a.said
	}
	return ""
}
