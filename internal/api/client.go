// SPDX-License-Identifier: MIT

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Client talks to one director. It is what the rule language calls a Director.
type Client struct {
	holder Holder
	http   *http.Client
}

// NewClient returns a client for this instance. It does not connect yet.
func NewClient(h Holder) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.Socket)
	}
	return &Client{holder: h, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Table returns the rules as they were given.
func (c *Client) Table(ctx context.Context) (*lvs.Table, error) {
	t := lvs.NewTable()
	return t, c.get(ctx, "/v1/table", t)
}

// Status returns counters, rates and connection counts of all services.
func (c *Client) Status(ctx context.Context) (s []lvs.ServiceStatus, err error) {
	err = c.get(ctx, "/v1/services", &s)
	return s, err
}

// Connections returns the connection table.
func (c *Client) Connections(ctx context.Context) (s []lvs.Connection, err error) {
	err = c.get(ctx, "/v1/connections", &s)
	return s, err
}

// Change makes all the changes, in their order, or none. An error about one of
// them wraps a *lvs.ChangeError.
func (c *Client) Change(ctx context.Context, changes []lvs.Change) error {
	return c.post(ctx, "/v1/changes", changes, nil)
}

// Zero sets the counters of a service and its servers to zero; of all services
// if id is the zero value.
func (c *Client) Zero(ctx context.Context, id lvs.ServiceID) error {
	return c.post(ctx, "/v1/zero", zeroRequest{id}, nil)
}

// Director returns all that the director says of itself.
func (c *Client) Director(ctx context.Context) (s Status, err error) {
	err = c.get(ctx, "/v1/director", &s)
	return s, err
}

// Reload makes the director read its saved rules again.
func (c *Client) Reload(ctx context.Context) (r Reloaded, err error) {
	err = c.post(ctx, "/v1/reload", struct{}{}, &r)
	return r, err
}

// Listed returns the rules with the weights that count now: 0 of a real server
// that is out, and without those that were removed because they failed.
func (c *Client) Listed(ctx context.Context) (*lvs.Table, error) {
	t := lvs.NewTable()
	return t, c.get(ctx, "/v1/listed", t)
}

// Health tells how the services and their real servers are.
func (c *Client) Health(ctx context.Context) (all []ServiceHealth, err error) {
	err = c.get(ctx, "/v1/health", &all)
	return all, err
}

// Operate carries out an operator's word and tells which servers it was about.
func (c *Client) Operate(ctx context.Context, o Operation) (all []Member, err error) {
	err = c.post(ctx, "/v1/operate", o, &all)
	return all, err
}

// History returns what turned.
func (c *Client) History(ctx context.Context, r HistoryRequest) (all []health.Event, err error) {
	err = c.post(ctx, "/v1/history", r, &all)
	return all, err
}

// Apply puts a configuration in force, or tells what it would change.
func (c *Client) Apply(ctx context.Context, r ApplyRequest) (a Applied, err error) {
	err = c.post(ctx, "/v1/apply", r, &a)
	return a, err
}

// Confirm keeps the configuration that was applied last.
func (c *Client) Confirm(ctx context.Context) error {
	return c.post(ctx, "/v1/confirm", struct{}{}, nil)
}

// Rollback goes back to the configuration before, if it is not confirmed yet.
func (c *Client) Rollback(ctx context.Context) error {
	return c.post(ctx, "/v1/rollback", struct{}{}, nil)
}

// Site tells which configuration is in force, and what differs from it.
func (c *Client) Site(ctx context.Context) (s Site, err error) {
	err = c.get(ctx, "/v1/site", &s)
	return s, err
}

// Merged is Site with the text as it is with what was changed at run time.
func (c *Client) Merged(ctx context.Context) (s Site, err error) {
	err = c.get(ctx, "/v1/merged", &s)
	return s, err
}

// Stop returns when the director has undone what it did; its process ends right
// after (see AwaitNone).
func (c *Client) Stop(ctx context.Context) error {
	return c.post(ctx, "/v1/stop", struct{}{}, nil)
}

// Leave has the director end without undoing anything: the data plane goes on.
// As with Stop, its process ends right after.
func (c *Client) Leave(ctx context.Context) error {
	return c.post(ctx, "/v1/leave", struct{}{}, nil)
}

// AdvanceClock moves the data plane's clock. Only an instance that was started
// with --debug lets it be moved; the error is an ErrNotDebug otherwise.
func (c *Client) AdvanceClock(ctx context.Context, by time.Duration) error {
	return c.post(ctx, "/v1/clock", clockRequest{by}, nil)
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	return c.do(ctx, http.MethodGet, path, nil, into)
}

func (c *Client) post(ctx context.Context, path string, body, into any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	return c.do(ctx, http.MethodPost, path, bytes.NewReader(b), into)
}

func (c *Client) do(ctx context.Context, method, path string, body io.Reader, into any) (err error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://director"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return c.unreachable(err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	d := json.NewDecoder(resp.Body)
	if resp.StatusCode != http.StatusOK {
		var p problem
		if err := d.Decode(&p); err != nil || p.Text == "" {
			return fmt.Errorf("instance %q answers %s to %s: is it another version?", c.holder.Instance, resp.Status, path)
		}
		return p.err()
	}
	if into == nil {
		return nil
	}
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("instance %q, answer to %s: %w", c.holder.Instance, path, err)
	}
	return nil
}

// unreachable says why there is no answer, and what to do.
func (c *Client) unreachable(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w as instance %q (nobody answers on %s); start one with: shunt director start",
			ErrNotRunning, c.holder.Instance, c.holder.Socket)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("only root may talk to the director: %w", err)
	}
	return fmt.Errorf("ask instance %q: %w", c.holder.Instance, err)
}
