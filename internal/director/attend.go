// SPDX-License-Identifier: MIT

package director

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// turned are transitions on their way from the checker to the loop. It has no
// bound: whoever reports one must not wait for the loop, which may just be
// telling the checker something.
type turned struct {
	some chan struct{} // there are some
	mu   sync.Mutex
	all  []health.Transition
}

func (t *turned) put(one health.Transition) {
	t.mu.Lock()
	t.all = append(t.all, one)
	t.mu.Unlock()
	select {
	case t.some <- struct{}{}:
	default:
	}
}

func (t *turned) take() []health.Transition {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.all
	t.all = nil
	return all
}

// checksAtOnce bounds how many checks run at the same time: silent servers keep
// theirs for as long as a timeout, and each needs a file descriptor.
const checksAtOnce = 4096

// startCare begins to care for the services of the configuration, as a
// predecessor knew them.
func (d *director) startCare(ctx context.Context) error {
	c := &config.Config{}
	if d.site != nil {
		c = d.site.config
	}
	d.cares = cares(c, nil)
	if err := d.rememberStandings(); err != nil {
		return err
	}
	if err := d.openPath(c); err != nil {
		return err
	}
	d.notifier.Set(targets(c))
	d.outliers = health.NewOutliers()
	d.checker = health.NewChecker(health.Options{Probe: health.NewProber().Probe, Report: d.turned.put, Log: d.log, MaxAtOnce: checksAtOnce})
	d.running.Go(func() {
		if err := d.checker.Run(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("real servers are no longer checked", "error", err)
		}
	})
	return nil
}

// endChecks ends what belongs to checks.
func (d *director) endChecks() {
	if d.dirtyStandings {
		if err := d.saveStandings(); err != nil {
			d.log.Error("save how the real servers are", "error", err)
		}
	}
	if d.path != nil {
		if err := d.path.Close(); err != nil {
			d.log.Warn("end the way of checks", "error", err)
		}
	}
}

// endNotifier lets messages that are on their way arrive, for a moment.
func (d *director) endNotifier() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := d.notifier.Close(ctx); err != nil {
		d.log.Warn("some notices were not given before the end; they are in the history", "error", err)
	}
}

// attend does what is due by the clock.
func (d *director) attend(now time.Time) {
	d.drained(now)
	d.askGuards(now)
	d.lookAtYoung(now)
	d.rise(now)
	d.expire(now)
	d.keepStandings(now)
}

// keepStandings saves how the real servers are if that has changed, but not more
// often than each tick: thousands may turn at nearly the same time.
func (d *director) keepStandings(now time.Time) {
	if !d.dirtyStandings || now.Sub(d.kept) < tick {
		return
	}
	d.kept = now
	if err := d.saveStandings(); err != nil {
		d.log.Error("save how the real servers are; it is tried again", "error", err)
	}
}

// targets are those who want to be told.
func targets(c *config.Config) (all []health.Target) {
	for _, n := range c.Notify {
		all = append(all, health.Target{Command: n.Command, URL: n.URL, Log: n.Log, On: n.On, Timeout: n.Timeout, User: n.User})
	}
	return all
}

// History gives the events that a request asks for.
func (d *director) History(ctx context.Context, r api.HistoryRequest) (all []health.Event, err error) {
	f := health.Filter{Since: r.Since, Name: r.Service, Limit: r.Limit}
	if r.Server != "" {
		f.Server, err = parseServer(r.Server)
	}
	if err := d.inLoop(ctx, func() error {
		if err != nil {
			named := d.members(r.Server, "")
			if len(named) == 0 {
				return err
			}
			f.Server.Addr = named[0].Server.Addr // of whichever port
		}
		for _, s := range d.table.Services {
			if r.Service == s.ServiceID.String() {
				f.Name, f.Service = "", s.ServiceID
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	return d.history.Query(f)
}

func parseServer(text string) (lvs.ServerID, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return lvs.ServerID{Addr: a}, nil
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return lvs.ServerID{}, fmt.Errorf("%w: %q is no address, and no address:port", lvs.ErrInvalid, text)
	}
	return lvs.ServerID{Addr: a.Addr(), Port: a.Port()}, nil
}
