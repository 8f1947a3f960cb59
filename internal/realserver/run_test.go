// SPDX-License-Identifier: MIT

package realserver

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/vishvananda/netns"
)

// collected collects what is logged.
type collected struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *collected) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(b)
}

func (c *collected) has(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Contains(c.text.String(), text)
}

// running runs the server in this test's namespace until the result is called,
// which returns what Run did.
func running(t *testing.T, s *Server, vips ...VIP) (end func() error, ended <-chan error) {
	t.Helper()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		defer home.Close()
		runtime.LockOSThread()
		if err := netns.Set(home); err != nil {
			done <- err
			return
		}
		done <- s.Run(ctx, vips, nil, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatal(err)
	}
	return func() error { cancel(); return <-done }, done
}

func eventually(t *testing.T, what string, true func() bool) {
	t.Helper()
	for late := time.Now().Add(15 * time.Second); !true(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("still not: ", what)
		}
	}
}

func TestRunRepairsDriftAndSaysSo(t *testing.T) {
	host(t)
	before := snapshot(t)
	var log collected
	s, err := New(Options{StateDir: t.TempDir(), Interval: 100 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	end, _ := running(t, s, both...)
	well := func(item string) {
		t.Helper()
		eventually(t, item+" repaired", func() bool {
			st, err := s.Status()
			return err == nil && st.Condition == Running && log.has(`msg=repaired instance=default item="`+item)
		})
	}
	labtest.IP(t, "addr del 172.16.16.172/32 dev lo")
	well("172.16.16.172 on lo only")
	labtest.SetSysctl(t, "ipv4/conf/eth0/arp_ignore", "0")
	well("eth0 arp_ignore")
	labtest.SetSysctl(t, "ipv4/conf/eth0/arp_announce", "0")
	well("eth0 arp_announce")
	labtest.IP(t, "addr del 2001:db8:16::172/128 dev lo")
	well("2001:db8:16::172 on lo only")
	flushRuleset(t)
	well("172.16.16.171:80/tcp to local port 8080")
	well("[2001:db8:16::171]:80/tcp to local port 8080")
	labtest.IP(t, "link add eth1 type veth peer name peer1")
	well("eth1 arp_ignore")
	labtest.IP(t, "link del eth1")

	// What cannot be repaired is said, once, and the rest goes on.
	labtest.SetSysctl(t, "ipv4/conf/all/arp_ignore", "5")
	eventually(t, "the failure logged", func() bool { return log.has("cannot repair") })
	labtest.SetSysctl(t, "ipv4/conf/all/arp_ignore", "0")
	eventually(t, "running again", func() bool { st, err := s.Status(); return err == nil && st.Condition == Running })

	if err := end(); err != nil {
		t.Fatal(err)
	}
	same(t, "after the end", before, snapshot(t))
}

func TestRunOnceAndStopFromOutside(t *testing.T) {
	host(t)
	before := snapshot(t)
	s := server(t, nil)
	end, _ := running(t, s, VIP{Addr: vip, Method: Loopback})
	if err := s.Run(t.Context(), both, nil, func() {}); !errors.Is(err, ErrRunning) {
		t.Errorf("a second run: %v", err)
	}
	if err := s.Run(t.Context(), nil, nil, func() {}); !errors.Is(err, ErrNothing) {
		t.Errorf("run without a VIP: %v", err)
	}
	// A VIP of another call outlives run, which ends with its own.
	other := VIP{Addr: addr("172.16.16.170"), Method: Loopback}
	start(t, s, other)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if onLo(t, vip) || !onLo(t, other.Addr) {
		t.Error("run did not stop exactly its own VIP")
	}
	if err := s.Stop([]netip.Addr{other.Addr}); err != nil {
		t.Fatal(err)
	}
	same(t, "after both", before, snapshot(t))

	_, ended := running(t, s, VIP{Addr: vip, Method: Loopback})
	if err := s.Stop(nil); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(15 * time.Second):
		t.Error("run goes on after stop")
	}
	same(t, "after stop", before, snapshot(t))
}
