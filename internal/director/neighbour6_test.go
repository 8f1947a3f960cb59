// SPDX-License-Identifier: MIT

package director

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/announce"
	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/link"
)

// looping is a director in a lab, of which only the loop and what it stands on
// is there: it follows real servers without having services.
func looping(t *testing.T, c *lab.Cluster, rips ...netip.Addr) *director {
	t.Helper()
	dir, err := os.MkdirTemp("", "shunt-") // on a bpffs names are short
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	d := &director{
		Options: Options{
			Places:   api.Places{Instance: "test", RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "lib")},
			Settings: Settings{Interfaces: []string{"eth0"}},
		},
		log: slog.New(slog.DiscardHandler), stop: stop,
		servers: map[netip.Addr]*server{}, watchers: map[string]*watcher{}, ifaces: map[string]*link.Interface{},
		work: make(chan func()), claims: make(chan announce.Claim, 64), ended: make(chan struct{}),
	}
	if err := os.MkdirAll(d.State(), 0o755); err != nil {
		t.Fatal(err)
	}
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		ended <- c.Director.Do(func() (err error) {
			defer func() {
				select {
				case started <- err:
				default:
				}
			}()
			events, err := link.Watch(ctx, link.LinkChanges, link.AddressChanges, link.NeighbourChanges)
			if err != nil {
				return err
			}
			if d.journal, err = link.OpenJournal(d.Journal(), d.log); err != nil {
				return err
			}
			if err := d.lookAtInterfaces(); err != nil {
				return err
			}
			d.plane, err = dataplane.Open(dataplane.Options{Instance: d.Instance, PinDir: d.Pins(), Interfaces: d.Interfaces, Connections: 1 << 12, Log: d.log})
			if err != nil {
				return err
			}
			d.uses = uses{}
			for _, rip := range rips {
				d.uses[rip] = 1
			}
			d.follow(d.uses)
			started <- nil
			err = d.loop(ctx, events)
			close(d.ended)
			d.deafen()
			d.running.Wait()
			return errors.Join(err, d.undo(), d.journal.Close())
		})
	}()
	t.Cleanup(func() {
		stop(nil)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(d.Pins(), 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			t.Error("unmount the pins: ", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return d
}

// until waits for something to be so of a real server.
func until(t *testing.T, d *director, what string, rip netip.Addr, is func(server) bool) {
	t.Helper()
	for late := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var s server
		if err := d.inLoop(t.Context(), func() error { s = *d.servers[rip]; return nil }); err != nil {
			t.Fatal(err)
		}
		if is(s) {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%s: waited in vain; it is %+v", what, s)
		}
	}
}

func inNode(t *testing.T, n *lab.Node, line string) {
	t.Helper()
	if out, err := exec.Command("ip", append([]string{"-n", n.Namespace()}, strings.Fields(line)...)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: ip %s: %v: %s", n.Name(), line, err, out)
	}
}

// A real server of IPv6 is found, asked again and again, followed when its MAC
// address changes without a word, and missed when it is silent.
func TestRealServersByNeighbourDiscovery(t *testing.T) {
	c := labtest.Up(t, lab.Options{RealServers: 1})
	rs := c.RealServers[0]
	rip, absent := rs.Addr6(), netip.MustParseAddr("2001:db8:16::99")
	other, err := c.Add("other", netip.MustParsePrefix("2001:db8:99::7/64")) // of another prefix, on the link
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Director.Route(netip.PrefixFrom(other.Addr(), 128), netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	tap, err := c.TapNDP(c.Director)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	d := looping(t, c, rip, absent, other.Addr(), rs.Addr())
	until(t, d, "found", rip, func(s server) bool { return s.mac.String() == rs.MAC().String() && s.reason == "" })
	until(t, d, "the one of another prefix", other.Addr(), func(s server) bool { return s.mac.String() == other.MAC().String() })
	until(t, d, "IPv4 beside it", rs.Addr(), func(s server) bool { return s.mac.String() == rs.MAC().String() })
	until(t, d, "nobody answers for it", absent, func(s server) bool {
		return s.mac == nil && strings.Contains(s.reason, "neighbour solicitations")
	})

	// It is asked where it is known to be, from the link-local address, and its
	// answer counts.
	for _, n := range []*lab.Node{rs, other} {
		since := time.Now()
		until(t, d, "an answer", n.Addr6(), func(s server) bool { return s.answered.After(since) })
		_, err := tap.Wait(t.Context(), func(f lab.Frame) bool {
			return f.FromNode && f.NDP != nil && f.NDP.Type == lab.NeighbourSolicitation && f.NDP.Target == n.Addr6() &&
				f.Dst.Is(n.MAC()) && f.IP.Src.Addr() == netip.MustParseAddr("fe80::173")
		})
		if err != nil {
			t.Error(err)
		}
	}

	inNode(t, rs, "link set eth0 address 02:00:00:00:77:77")
	until(t, d, "the new MAC address", rip, func(s server) bool { return s.mac.String() == "02:00:00:00:77:77" })

	inNode(t, rs, "link set eth0 down")
	until(t, d, "a word about its silence", rip, func(s server) bool { return strings.Contains(s.reason, "neighbour solicitations") })
}
