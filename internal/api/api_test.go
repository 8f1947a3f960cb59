// SPDX-License-Identifier: MIT

package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

var (
	web = lvs.ServiceID{Protocol: lvs.TCP, Addr: netip.MustParseAddr("172.16.16.172"), Port: 80}
	rs1 = lvs.ServerID{Addr: netip.MustParseAddr("172.16.16.177"), Port: 80}
)

// refusing is a handler whose fields all return err.
func refusing(err error) Handler {
	return Handler{
		Table:        func(context.Context) (*lvs.Table, error) { return nil, err },
		Services:     func(context.Context) ([]lvs.ServiceStatus, error) { return nil, err },
		Connections:  func(context.Context) ([]lvs.Connection, error) { return nil, err },
		Change:       func(context.Context, []lvs.Change) error { return err },
		Zero:         func(context.Context, lvs.ServiceID) error { return err },
		Status:       func(context.Context) (Status, error) { return Status{}, err },
		Reload:       func(context.Context) (Reloaded, error) { return Reloaded{}, err },
		Stop:         func(context.Context) error { return err },
		Leave:        func(context.Context) error { return err },
		AdvanceClock: func(context.Context, time.Duration) error { return err },
	}
}

func serve(t *testing.T, h Handler) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api.sock")
	var log bytes.Buffer
	s, err := Listen(path, h, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket stays: %v", err)
		}
		if log.Len() > 0 {
			t.Errorf("logged: %s", log.String())
		}
	})
	return NewClient(Holder{Instance: "test", Socket: path})
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the API answers root only: needs root")
	}
}

func TestAnswersArriveWhole(t *testing.T) {
	needRoot(t)
	table := lvs.NewTable()
	table.Timeouts.UDP = 7
	mark := lvs.MarkRule{Mark: 7, Protocol: lvs.UDP, Addr: netip.MustParseAddr("2001:db8::1"), First: 5000, Last: 5010}
	for _, c := range []lvs.Change{
		{Operation: lvs.AddMark, Mark: mark},
		{Operation: lvs.AddService, Service: lvs.VirtualService{ServiceID: mark.ServiceID(), Scheduler: lvs.RoundRobin}},
		{Operation: lvs.AddService, Service: lvs.VirtualService{ServiceID: web, Scheduler: lvs.RoundRobin}},
		{Operation: lvs.AddServer, Service: lvs.VirtualService{ServiceID: web},
			Server: lvs.RealServer{ServerID: rs1, Forward: lvs.DirectRouting, Weight: 3}},
	} {
		if err := table.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	services := []lvs.ServiceStatus{{ServiceID: web, Counters: lvs.Counters{Connections: 1, Packets: 1 << 63, Bytes: 3},
		Servers: []lvs.ServerStatus{{ServerID: rs1, Active: 4, Inactive: 5, Rates: lvs.Rates{Packets: 6}}}}}
	connections := []lvs.Connection{{Protocol: lvs.TCP, Client: netip.MustParseAddrPort("10.0.0.1:12345"),
		Virtual: netip.MustParseAddrPort("172.16.16.172:80"), Server: netip.MustParseAddrPort("172.16.16.177:80"),
		State: lvs.StateSynRecv, Expires: 59 * time.Second}}
	status := Status{Instance: "test", PID: 42, Started: time.Unix(1, 0).UTC(), Warnings: []string{"look"},
		Interfaces: []Interface{{Attachment: dataplane.Attachment{Interface: "eth0", Mode: dataplane.Generic, Reason: "why"}}},
		VIPs:       []VIP{{Addr: web.Addr, Interface: "eth0", Conflict: &Conflict{MAC: "02:00:00:00:00:01", Count: 2}}},
		Services: []Service{{ServiceID: web, Policy: lvs.Policy{SourceLimit: lvs.SourceLimit{Rate: 20, Burst: 40}},
			Deny: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Servers: []RealServer{{ServerStatus: services[0].Servers[0], Weight: 3, Resolved: true}}},
			{ServiceID: mark.ServiceID(), Marks: []lvs.MarkRule{mark}}},
		Neighbours:  []Neighbour{{Addr: rs1.Addr, Reason: "no answer"}},
		Connections: []dataplane.TableUse{{Name: "connections", Capacity: 8, Used: 1}}, Timeouts: table.Timeouts,
		Verdicts: []dataplane.VerdictCount{{Name: "forwarded", Action: "forward", Help: "h", Packets: 9}}}
	changes := []lvs.Change{
		{Operation: lvs.EditServer, Service: lvs.VirtualService{ServiceID: web},
			Server: lvs.RealServer{ServerID: rs1, Forward: lvs.DirectRouting, Weight: 0}},
		{Operation: lvs.SetTimeouts, Timeouts: lvs.Timeouts{TCP: 1}},
		{Operation: lvs.AddMark, Mark: mark},
		{Operation: lvs.DeleteMark, Mark: lvs.MarkRule{Mark: 1, Protocol: lvs.TCP, Addr: web.Addr}},
		{Operation: lvs.AddDeny, Service: lvs.VirtualService{ServiceID: web}, Deny: netip.MustParsePrefix("192.0.2.0/24")},
		{Operation: lvs.Clear},
	}
	var gotChanges []lvs.Change
	var gotZero []lvs.ServiceID
	var gotClock time.Duration
	stopped, left := false, false
	c := serve(t, Handler{
		Table:        func(context.Context) (*lvs.Table, error) { return table, nil },
		Services:     func(context.Context) ([]lvs.ServiceStatus, error) { return services, nil },
		Connections:  func(context.Context) ([]lvs.Connection, error) { return connections, nil },
		Change:       func(_ context.Context, c []lvs.Change) error { gotChanges = c; return nil },
		Zero:         func(_ context.Context, id lvs.ServiceID) error { gotZero = append(gotZero, id); return nil },
		Status:       func(context.Context) (Status, error) { return status, nil },
		Reload:       func(context.Context) (Reloaded, error) { return Reloaded{Services: 1, Servers: 2}, nil },
		Stop:         func(context.Context) error { stopped = true; return nil },
		Leave:        func(context.Context) error { left = true; return nil },
		AdvanceClock: func(_ context.Context, d time.Duration) error { gotClock = d; return nil },
	})
	ctx := t.Context()

	gotTable, err := c.Table(ctx)
	if err != nil || !gotTable.Equal(table) || len(gotTable.Marks) != 1 {
		t.Errorf("table: %+v, %v", gotTable, err)
	}
	gotServices, err := c.Status(ctx)
	equal(t, "services", services, gotServices, err)
	gotConnections, err := c.Connections(ctx)
	equal(t, "connections", connections, gotConnections, err)
	gotStatus, err := c.Director(ctx)
	equal(t, "status", status, gotStatus, err)
	gotReloaded, err := c.Reload(ctx)
	equal(t, "reload", Reloaded{Services: 1, Servers: 2}, gotReloaded, err)
	equal(t, "changes", changes, gotChanges, c.Change(ctx, changes))
	if diff := cmp.Diff(changes, gotChanges, addrs, cmpopts.EquateEmpty()); diff != "" {
		t.Error("changes:", diff)
	}
	err = errors.Join(c.Zero(ctx, web), c.Zero(ctx, lvs.ServiceID{}))
	equal(t, "zero", []lvs.ServiceID{web, {}}, gotZero, err)
	err = c.AdvanceClock(ctx, 2*time.Minute)
	equal(t, "clock", 2*time.Minute, gotClock, err)
	if err := c.Leave(ctx); err != nil || !left || stopped {
		t.Errorf("leave: %v, %v", left, err)
	}
	if err := c.Stop(ctx); err != nil || !stopped {
		t.Errorf("stop: %v, %v", stopped, err)
	}
}

var addrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func equal[T any](t *testing.T, what string, want, got T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if diff := cmp.Diff(want, got, addrs, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

func TestErrorsSurviveTheWire(t *testing.T) {
	needRoot(t)
	plain := errors.New("a plain one")
	for _, want := range []error{
		lvs.ErrServiceExists, lvs.ErrNoService, lvs.ErrServerExists, lvs.ErrNoServer, lvs.ErrUnknownScheduler,
		lvs.ErrThresholds, lvs.ErrInvalid, lvs.ErrUnsupported, lvs.ErrPortMapping, lvs.ErrMark,
		link.ErrNotOnLink, ErrNotRunning, ErrRunning, ErrNotDebug, ErrForeignVIP, ErrVIPTaken, ErrRules, ErrInstanceName,
	} {
		for _, index := range []int{-1, 0, 7} {
			sent := fmt.Errorf("thing 5: %w: do that", want)
			if index >= 0 {
				sent = fmt.Errorf("before: %w", &lvs.ChangeError{Index: index, Err: sent})
			}
			got := serve(t, refusing(sent)).Change(t.Context(), nil)
			if !errors.Is(got, want) || got.Error() != sent.Error() {
				t.Errorf("%v arrives as %v", sent, got)
			}
			c, ok := errors.AsType[*lvs.ChangeError](got)
			if ok != (index >= 0) || ok && c.Index != index {
				t.Errorf("index %d of %v arrives as %+v", index, sent, c)
			}
		}
	}
	got := serve(t, refusing(plain)).Change(t.Context(), nil)
	if got == nil || got.Error() != plain.Error() || errors.Is(got, lvs.ErrInvalid) {
		t.Errorf("a plain error arrives as %v", got)
	}
}

func TestEveryRequestCanBeRefused(t *testing.T) {
	needRoot(t)
	c := serve(t, refusing(ErrNotDebug))
	ctx := t.Context()
	_, table := c.Table(ctx)
	_, status := c.Status(ctx)
	_, connections := c.Connections(ctx)
	_, director := c.Director(ctx)
	_, reload := c.Reload(ctx)
	for what, err := range map[string]error{"table": table, "status": status, "connections": connections,
		"director": director, "reload": reload, "stop": c.Stop(ctx), "leave": c.Leave(ctx), "zero": c.Zero(ctx, web),
		"change": c.Change(ctx, nil), "clock": c.AdvanceClock(ctx, 1)} {
		if !errors.Is(err, ErrNotDebug) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSocketIsForRootOnly(t *testing.T) {
	needRoot(t)
	c := serve(t, refusing(nil))
	i, err := os.Stat(c.holder.Socket)
	if err != nil {
		t.Fatal(err)
	}
	if i.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", i.Mode())
	}
}

func TestUnknownFieldsAreRefused(t *testing.T) {
	needRoot(t)
	called := false
	h := refusing(nil)
	h.Zero = func(context.Context, lvs.ServiceID) error { called = true; return nil }
	c := serve(t, h)
	err := c.post(t.Context(), "/v1/zero", map[string]any{"sevrice": web}, nil)
	if err == nil || !strings.Contains(err.Error(), "sevrice") || called {
		t.Errorf("a misspelt field: %v, carried out: %v", err, called)
	}
}

func TestNobodyThere(t *testing.T) {
	dead := filepath.Join(t.TempDir(), "api.sock")
	c := NewClient(Holder{Instance: "test", Socket: dead})
	if err := c.Stop(t.Context()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), `"test"`) {
		t.Errorf("no socket: %v", err)
	}
}

func TestDeadPredecessorsSocketIsReplaced(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "api.sock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Listen(path, refusing(nil), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.listener.Close(); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	for name, good := range map[string]bool{
		"default": true, "a": true, "0": true, "web-1": true, strings.Repeat("x", 32): true,
		"": false, "bpf": false, "-a": false, "A": false, "a.b": false, "../x": false, "a/b": false, "a b": false,
		strings.Repeat("x", 33): false, "é": false, "a\n": false,
	} {
		err := CheckName(name)
		if (err == nil) != good || err != nil && !errors.Is(err, ErrInstanceName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestPlaces(t *testing.T) {
	var p Places
	for want, got := range map[string]string{
		"/run/shunt/default/api.sock": p.Socket(), "/var/lib/shunt/default/rules": p.Rules(), "/run/shunt/bpf": p.Pins(),
		"/s/a/lock": Places{Instance: "a", StateDir: "/s"}.Lock(), "/s/a/director.json": Places{Instance: "a", StateDir: "/s"}.Settings(),
	} {
		if got != want {
			t.Errorf("%s instead of %s", got, want)
		}
	}
}
