// SPDX-License-Identifier: MIT

package director

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/link"
)

// before is what comes back unless a configuration is confirmed in time.
type before struct {
	Site  *site        `json:"site,omitempty"`
	VIPs  []netip.Addr `json:"vips"`
	Rules string       `json:"rules"` // as ipvsadm -S has them: with what was changed at run time
	Until time.Time    `json:"until"`
}

// save has it outlive the daemon. One whose time is over is what a start begins
// with.
func (b *before) save(p api.Places) error {
	text, err := json.MarshalIndent(b, "", " ")
	if err == nil {
		err = link.WriteFile(p.Before(), append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("keep what is in force, to come back to it: %w", err)
	}
	return nil
}

// remember keeps what is in force, so that it can come back, also if this
// process does not live so long.
func (d *director) remember(within time.Duration) (*before, error) {
	var rules bytes.Buffer
	if err := ipvsadm.WriteRules(&rules, d.table, ipvsadm.CreationOrder()); err != nil {
		return nil, err
	}
	b := &before{Site: d.site, VIPs: d.VIPs, Rules: rules.String(), Until: time.Now().Add(within)}
	return b, b.save(d.Places)
}

// Confirm keeps the configuration that was applied last.
func (d *director) Confirm(ctx context.Context) error {
	d.editing.Lock()
	defer d.editing.Unlock()
	return d.inLoop(ctx, func() error {
		if d.before == nil {
			return fmt.Errorf("%w: there is nothing to confirm: the last apply was without --confirm, or its time is over", api.ErrConfig)
		}
		if err := link.RemoveFile(d.Before()); err != nil {
			return fmt.Errorf("forget what was in force before: %w", err)
		}
		d.before = nil
		d.log.Info("configuration confirmed")
		return nil
	})
}

// Rollback goes back to what was in force before the last apply.
func (d *director) Rollback(ctx context.Context) error {
	d.editing.Lock()
	defer d.editing.Unlock()
	return d.inLoop(ctx, func() error {
		if d.before == nil {
			return fmt.Errorf("%w: there is nothing to go back to: the last apply was without --confirm, or is confirmed", api.ErrConfig)
		}
		return d.comeBack("asked for")
	})
}

// comeBack puts in force what was so before.
func (d *director) comeBack(why string) error {
	was := d.before
	changes, err := ipvsadm.ParseRules(bytes.NewReader([]byte(was.Rules)))
	if err != nil {
		return fmt.Errorf("what was in force before: %w", err)
	}
	if was.Site != nil && was.Site.config == nil {
		if was.Site.config, err = config.Parse(was.Site.Path, []byte(was.Site.Text)); err != nil {
			return fmt.Errorf("what was in force before: %w", err)
		}
	}
	over := before{was.Site.after(d.site), was.VIPs, was.Rules, was.Until}
	if now := time.Now(); now.Before(over.Until) {
		over.Until = now
	}
	if err := over.save(d.Places); err != nil { // if this is all that is done, the next start does the rest
		return err
	}
	if err := d.replace(over.Site, was.VIPs, changes, nil); err != nil {
		return errors.Join(fmt.Errorf("go back to what was in force before: %w", err), was.save(d.Places))
	}
	d.before = nil
	d.log.Warn("went back to the configuration before", "because", why)
	return link.RemoveFile(d.Before())
}

// after is a configuration (nil: none) that is in force again after another one,
// which was not confirmed.
func (s *site) after(refused *site) *site {
	if s == nil || refused == nil || s.Path != refused.Path {
		return s
	}
	c := *s
	c.Refused = refused.Text
	return &c
}

// expire goes back when nobody has confirmed in time.
func (d *director) expire(now time.Time) {
	if d.before == nil || now.Before(d.before.Until) || !d.editing.TryLock() {
		return
	}
	defer d.editing.Unlock()
	if err := d.comeBack("it was not confirmed in time"); err != nil {
		d.log.Error("cannot go back; it is tried again", "error", err)
		d.before.Until = now.Add(time.Second)
	}
}
