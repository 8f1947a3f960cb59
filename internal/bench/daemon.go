// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

const (
	labPrefix   = "shuntbench-"
	ofDaemon    = "shuntbench" // instance
	manyVIPs    = 10
	manyServers = 10 // real servers of a service
	manyPort    = 10_000
)

// daemon is the director as it is installed: the program itself, in a machine of
// a lab, with its socket and its files.
type daemon struct {
	*lab.Cluster
	program string
	dir     string // of its files
	client  *api.Client
	process *lab.Cmd
	said    *log
}

// log is what a process writes to its standard error.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// manyVIP is the i-th of the VIPs of a daemon.
func manyVIP(i int) netip.Addr {
	a := lab.VIP().As4()
	a[3] = byte(100 + i)
	return netip.AddrFrom4(a)
}

// newDaemon makes a lab for one. It runs nothing yet.
func newDaemon(ctx context.Context) (d *daemon, err error) {
	d = &daemon{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return d, err
	}
	d.program = filepath.Join(filepath.Dir(self), "shunt")
	if _, err := os.Stat(d.program); err != nil {
		return d, fmt.Errorf("the program that is to be measured: %w; 'make bench' builds it", err)
	}
	if d.dir, err = os.MkdirTemp("", "shuntbench-"); err != nil {
		return d, err
	}
	d.Cluster, err = lab.Up(ctx, lab.Options{Prefix: labPrefix, RealServers: manyServers})
	return d, err
}

// Close ends the daemon and leaves nothing.
func (d *daemon) Close() error {
	var errs []error
	if d.Cluster != nil {
		errs = append(errs, d.stop(), d.Down(), os.RemoveAll(d.places().Run()))
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}

func (d *daemon) places() api.Places {
	return api.Places{Instance: ofDaemon, StateDir: d.dir}
}

// start starts the daemon, with room for so many connections (0: the default),
// and returns when it answers. Rules of before are there again.
func (d *daemon) start(ctx context.Context, connections uint32) error {
	args := []string{"director", "run", "--instance", ofDaemon, "--state-dir", d.dir, "--interface", "eth0", "--connections", fmt.Sprint(connections)}
	for i := range manyVIPs {
		args = append(args, "--vip", manyVIP(i).String())
	}
	d.said = &log{}
	d.process = d.Director.Command(ctx, d.program, args...)
	d.process.Env = append(os.Environ(), "GODEBUG=gctrace=1")
	d.process.Stderr = d.said
	if err := d.process.Start(); err != nil {
		d.process = nil
		return err
	}
	d.client = api.NewClient(api.Holder{Instance: ofDaemon, Socket: d.places().Socket()})
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		_, err := d.client.Table(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || time.Since(begin) > time.Minute {
			return fmt.Errorf("the director does not answer: %w; it says:\n%s", err, d.said)
		}
	}
}

// stop ends the daemon and all that it does; its rules stay.
func (d *daemon) stop() error {
	if d.process == nil {
		return nil
	}
	err := d.process.Stop()
	d.process = nil
	return err
}

// forget is stop, and the rules do not stay.
func (d *daemon) forget() error {
	return errors.Join(d.stop(), os.RemoveAll(d.places().State()))
}

// command makes a command line of the program, run on the director's machine as
// its administrator would.
func (d *daemon) command(ctx context.Context, args ...string) *lab.Cmd {
	return d.Director.Command(ctx, d.program, args...)
}

// manyServices are the changes that make so many services, each with so many
// servers: VIPs and ports differ, the real servers are the same.
func (d *daemon) manyServices(services, servers int) []lvs.Change {
	var all []lvs.Change
	for i := range services {
		id := manyService(i)
		s := lvs.VirtualService{ServiceID: id, Scheduler: lvs.WeightedLeastConnection}
		all = append(all, lvs.Change{Operation: lvs.AddService, Service: s})
		for n := range servers {
			all = append(all, lvs.Change{Operation: lvs.AddServer, Service: lvs.VirtualService{ServiceID: id}, Server: d.server(id, n, 1)})
		}
	}
	return all
}

func manyService(i int) lvs.ServiceID {
	return lvs.ServiceID{Protocol: lvs.TCP, Addr: manyVIP(i % manyVIPs), Port: uint16(manyPort + i/manyVIPs)}
}

func (d *daemon) server(id lvs.ServiceID, n int, weight int32) lvs.RealServer {
	return lvs.RealServer{ServerID: lvs.ServerID{Addr: d.RealServers[n].Addr(), Port: id.Port}, Forward: lvs.DirectRouting, Weight: weight}
}

// resident are bytes of the daemon that are in memory, by the kernel's names for
// them.
func (d *daemon) resident() (map[string]uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.process.Process.Pid))
	if err != nil {
		return nil, err
	}
	found := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64); err == nil {
			found[name] = kib << 10
		}
	}
	return found, nil
}

// cpu is how many ms the daemon has had a CPU.
func (d *daemon) cpu() (ms float64, err error) {
	path := fmt.Sprintf("/proc/%d/stat", d.process.Process.Pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	const tick = 10 // ms: the kernel's USER_HZ
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from the third on
	if len(fields) < 13 {
		return 0, fmt.Errorf("%s: it has another form", path)
	}
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		ms += float64(n * tick)
	}
	return ms, nil
}

var collected = regexp.MustCompile(`gc \d+ @.* (\d+)->(\d+)->(\d+) MB,`)

// heap is what of the daemon's heap was in use after the last time that it was
// looked through, in MiB.
func (d *daemon) heap() string {
	all := collected.FindAllStringSubmatch(d.said.String(), -1)
	if len(all) == 0 {
		return "< 4"
	}
	return all[len(all)-1][3]
}

// mapMemory is what the kernel says that all maps take which the daemon has open.
func (d *daemon) mapMemory() (sum uint64, err error) {
	dir := fmt.Sprintf("/proc/%d/fdinfo", d.process.Process.Pid)
	all, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	seen := map[string]bool{}
	for _, e := range all {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		found := map[string]string{}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			found[name] = strings.TrimSpace(value)
		}
		id, ok := found["map_id"]
		if !ok || seen[id] {
			continue
		}
		seen[id] = true
		n, err := strconv.ParseUint(found["memlock"], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("map %s: %w", id, err)
		}
		sum += n
	}
	return sum, nil
}
