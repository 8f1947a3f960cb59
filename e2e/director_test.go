// SPDX-License-Identifier: MIT

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

// instance is a director of a test, with places of its own on this host.
type instance struct {
	*lab.Cluster
	node   *lab.Node
	places api.Places
}

func newInstance(t *testing.T, o lab.Options) *instance {
	t.Helper()
	c := labtest.Up(t, o)
	return instanceIn(t, c, c.Director, "test")
}

func instanceIn(t *testing.T, c *lab.Cluster, n *lab.Node, name string) *instance {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-") // t.TempDir's paths are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	d := &instance{c, n, api.Places{Instance: name, RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "lib")}}
	t.Cleanup(func() {
		if t.Failed() {
			if log, err := os.ReadFile(d.places.Log()); err == nil {
				t.Logf("the director's log:\n%s", log)
			}
		}
		if r := d.stop(t); r.code != 0 {
			t.Error(r)
		}
		if err := unix.Unmount(d.places.Pins(), 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			t.Error("unmount the pins: ", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return d
}

// do runs a verb of this instance.
func (d *instance) do(t testing.TB, verb string, args ...string) result {
	t.Helper()
	args = append([]string{"director", verb, "--instance", d.places.Instance,
		"--run-dir", d.places.RunDir, "--state-dir", d.places.StateDir}, args...)
	return shunt(t, d.node, args...)
}

func (d *instance) start(t testing.TB, args ...string) result {
	t.Helper()
	return d.do(t, "start", append([]string{"--interface", "eth0", "--vip", lab.VIP().String(), "--connections", "16384"}, args...)...)
}

func (d *instance) stop(t testing.TB) result {
	t.Helper()
	return d.do(t, "stop")
}

func (d *instance) ipvsadm(t testing.TB, line string) result {
	t.Helper()
	return shunt(t, d.node, append([]string{"ipvsadm"}, strings.Fields(line)...)...)
}

// rules gives the director rules that it has to accept.
func (d *instance) rules(t testing.TB, lines ...string) {
	t.Helper()
	for _, line := range lines {
		d.ipvsadm(t, line).want(t, 0)
	}
}

func (d *instance) status(t testing.TB) api.Status {
	t.Helper()
	r := d.do(t, "status", "--json").want(t, 0)
	var s api.Status
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		t.Fatalf("%v\n%v", err, r)
	}
	return s
}

// kill ends the daemon the hard way and waits until it is gone.
func (d *instance) kill(t testing.TB) {
	t.Helper()
	pid := d.status(t).PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Whether it answers says nothing: it may be about to die.
	eventually(t, "the end of a killed daemon", func() bool { return ended(pid) && d.do(t, "status").code == 1 })
}

// web is the reference service, with both real servers.
func web() []string {
	v := lab.VIP().String() + ":80"
	return []string{"-A -t " + v + " -s wlc", "-a -t " + v + " -r 172.16.16.177 -g -w 1", "-a -t " + v + " -r 172.16.16.178 -g -w 1"}
}

// snapshot is all state of a node that a director could leave changed.
func snapshot(t testing.TB, d *instance) map[string]string {
	t.Helper()
	all := map[string]string{}
	ip := func(what string, args ...string) {
		all[what] = command(t, d.node, "", "ip", args...).want(t, 0).stdout
	}
	ip("addresses", "-4", "-o", "addr")
	ip("addresses6", "-6", "-o", "addr")
	ip("routes", "-4", "route", "show", "table", "all")
	ip("routes6", "-6", "route", "show", "table", "all")
	ip("rules", "rule")
	ip("links", "-o", "link") // XDP programs are listed here
	ip("tc", "-o", "-s", "link", "show", "type", "ifb")
	neighbours := command(t, d.node, "", "ip", "neigh").want(t, 0).stdout
	all["managed neighbours"] = strconv.Itoa(strings.Count(neighbours, "managed"))
	err := d.node.Do(func() error {
		return errors.Join(sysctls(all), tables(all))
	})
	if err != nil {
		t.Fatal(err)
	}
	pins, err := filepath.Glob(filepath.Join(d.places.Pins(), d.places.Instance+"*"))
	if err != nil {
		t.Fatal(err)
	}
	all["pins"] = fmt.Sprint(pins)
	return all
}

func sysctls(into map[string]string) error {
	const root = "/proc/sys/net"
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if i, err := e.Info(); err != nil || i.Mode()&0o400 == 0 {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			b = []byte(err.Error()) // some cannot be read by anyone; always the same ones
		}
		into[path] = strings.TrimSpace(string(b))
		return nil
	})
}

func tables(into map[string]string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	list, err := c.ListTables()
	if err != nil {
		return err
	}
	for _, t := range list {
		into["nftables"] += t.Name + " "
	}
	return nil
}

func same(t testing.TB, want, got map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the host is not as it was (-before +after):\n%s", diff)
	}
}

func TestStartChangesLittleAndStopUndoesIt(t *testing.T) {
	d := newInstance(t, lab.Options{})
	before := snapshot(t, d)
	d.do(t, "status").want(t, 3)
	d.start(t).want(t, 0)
	d.rules(t, web()...)

	during := snapshot(t, d)
	var changed []string
	for what := range during {
		if before[what] != during[what] {
			changed = append(changed, what)
		}
	}
	slices.Sort(changed)
	want := []string{"/proc/sys/net/ipv4/conf/eth0/send_redirects", "addresses", "links", "managed neighbours", "pins", "routes"}
	if !slices.Equal(changed, want) {
		t.Errorf("a start changes %q; want %q", changed, want)
	}
	if got := during[want[0]]; got != "0" {
		t.Errorf("send_redirects is %s", got)
	}
	vip := lab.VIP().String() + "/32 "
	if !strings.Contains(during["addresses"], vip) || strings.Contains(during["addresses"], "brd "+lab.VIP().String()) {
		t.Errorf("addresses: %s", during["addresses"])
	}
	if n := strings.Count(during["routes"], lab.VIP().String()+" dev"); n != 1 || !strings.Contains(during["routes"], "local "+lab.VIP().String()) {
		t.Errorf("%d routes for the VIP; want the local one only:\n%s", n, during["routes"])
	}

	d.do(t, "stop").want(t, 0)
	same(t, before, snapshot(t, d))
	d.do(t, "status").want(t, 3)
	if _, err := os.Stat(d.places.Socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
	saved, err := os.ReadFile(d.places.Rules())
	if err != nil || strings.Count(string(saved), "\n-a ") != 2 {
		t.Errorf("the saved rules: %s %v", saved, err)
	}
	d.do(t, "stop").want(t, 0).says(t, "does not run")
}

// What someone else has set is neither taken for ours nor put back.
func TestStopLeavesWhatWasThere(t *testing.T) {
	d := newInstance(t, lab.Options{})
	for _, args := range [][]string{
		{"addr", "add", lab.VIP().String() + "/32", "dev", "eth0"},
		{"neigh", "add", "172.16.16.177", "lladdr", d.RealServers[0].MAC().String(), "dev", "eth0", "nud", "permanent"},
	} {
		command(t, d.node, "", "ip", args...).want(t, 0)
	}
	err := d.node.Do(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/conf/eth0/send_redirects", []byte("0"), 0),
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	})
	if err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, d)
	d.start(t).want(t, 0)
	d.rules(t, web()...)
	d.do(t, "stop").want(t, 0)
	same(t, before, snapshot(t, d))
	neighbours := command(t, d.node, "", "ip", "neigh").stdout
	if !strings.Contains(neighbours, d.RealServers[0].MAC().String()+" PERMANENT") {
		t.Errorf("the admin's neighbour entry is gone: %s", neighbours)
	}
}

func TestOneDirectorPerNamespaceAndInstance(t *testing.T) {
	d := newInstance(t, lab.Options{})
	d.start(t).want(t, 0)
	pid := d.status(t).PID
	log, err := os.ReadFile(d.places.Log())
	if err != nil {
		t.Fatal(err)
	}
	naming := []string{`"test"`, "pid " + strconv.Itoa(pid)}

	d.start(t).want(t, 1).says(t, naming...)
	other := instanceIn(t, d.Cluster, d.node, "other")
	other.start(t).want(t, 1).says(t, naming...)
	other.do(t, "run", "--interface", "eth0", "--vip", "172.16.16.171").want(t, 1).says(t, naming...)

	elsewhere := &instance{d.Cluster, d.RealServers[0], d.places}
	elsewhere.start(t, "--vip", "172.16.16.171").want(t, 1).says(t, `"test"`, "--instance")
	elsewhere.do(t, "run", "--vip", "172.16.16.171", "--interface", "eth0").want(t, 1).says(t, `"test"`, "--instance")

	if now := d.status(t).PID; now != pid {
		t.Errorf("pid %d became %d", pid, now)
	}
	if now, err := os.ReadFile(d.places.Log()); err != nil || !strings.HasPrefix(string(now), string(log)) {
		t.Errorf("the log of the running one was touched: %v", err)
	}
	// Without --instance, a command finds the namespace's own.
	shunt(t, d.node, "director", "status").want(t, 0).says(t, `"test"`)
}

func TestKilledDirector(t *testing.T) {
	d := newInstance(t, lab.Options{})
	before := snapshot(t, d)
	d.start(t).want(t, 0)
	d.rules(t, web()...)
	d.kill(t)
	d.do(t, "status").want(t, 1).says(t, "still attached", lab.VIP().String()+"/32")
	shunt(t, d.node, "director", "status", "--run-dir", d.places.RunDir, "--state-dir", d.places.StateDir).want(t, 1).says(t, `"test"`)
	other := &instance{d.Cluster, d.node, d.places}
	other.places.Instance = "other"
	other.start(t).want(t, 1).says(t, "stop --instance test")

	// A start takes over, with the flags of the one before.
	d.do(t, "start").want(t, 0)
	s := d.status(t)
	if !s.TookOver || len(s.Services) != 1 || len(s.Services[0].Servers) != 2 {
		t.Errorf("after taking over: %+v", s)
	}
	d.kill(t)

	// A stop in another namespace must not touch what has the same names there.
	elsewhere := &instance{d.Cluster, d.RealServers[0], d.places}
	elsewhere.do(t, "stop").want(t, 1).says(t, "namespace")
	elsewhere.do(t, "status").want(t, 4)
	d.do(t, "status").want(t, 1)

	d.do(t, "stop").want(t, 0).says(t, "had been killed")
	same(t, before, snapshot(t, d))
	d.do(t, "status").want(t, 3)
}

// TestStopThatKeepsForwarding: status tells it from a kill, a start takes over, and
// a stop, then or later, undoes all.
func TestStopThatKeepsForwarding(t *testing.T) {
	d := newInstance(t, lab.Options{})
	before := snapshot(t, d)
	d.do(t, "stop", "--keep-forwarding").want(t, 0).says(t, "nothing of it forwards")
	d.start(t).want(t, 0)
	d.rules(t, web()...)
	during := snapshot(t, d)
	d.do(t, "stop", "--keep-forwarding").want(t, 0).says(t, "keeps forwarding")
	same(t, during, snapshot(t, d))
	for range 2 { // the second finds nothing to do
		d.do(t, "status").want(t, 1).says(t, "was stopped", "keeps forwarding", "still attached", lab.VIP().String()+"/32")
		d.do(t, "status", "--json").want(t, 1).says(t, `"state": "forwarding"`)
		d.do(t, "stop", "--keep-forwarding").want(t, 0).says(t, "what it left stays")
	}

	d.do(t, "start").want(t, 0)
	if s := d.status(t); !s.TookOver || len(s.Services) != 1 || len(s.Services[0].Servers) != 2 || len(s.Warnings) > 0 {
		t.Errorf("after taking over: %+v", s)
	}
	d.kill(t)
	d.do(t, "status").want(t, 1).says(t, "was killed")
	d.do(t, "start").want(t, 0)
	d.do(t, "stop", "--keep-forwarding").want(t, 0)
	d.do(t, "stop").want(t, 0).says(t, "had been stopped, but for its data plane")
	same(t, before, snapshot(t, d))
	d.do(t, "status").want(t, 3)

	d.do(t, "start").want(t, 0)
	d.do(t, "stop", "--keep-forwarding").want(t, 0)
	d.do(t, "start").want(t, 0)
	d.do(t, "stop").want(t, 0)
	same(t, before, snapshot(t, d))
	d.do(t, "status").want(t, 3)
}

func TestTakingOverDropsWhatIsNoLongerWanted(t *testing.T) {
	d := newInstance(t, lab.Options{})
	before := snapshot(t, d)
	d.start(t, "--vip", "172.16.16.171").want(t, 0)
	if a := snapshot(t, d)["addresses"]; !strings.Contains(a, "172.16.16.171/32") || !strings.Contains(a, "172.16.16.172/32") {
		t.Errorf("both VIPs: %s", a)
	}
	d.kill(t)
	d.start(t).want(t, 0)
	if a := snapshot(t, d)["addresses"]; strings.Contains(a, "172.16.16.171/32") || !strings.Contains(a, "172.16.16.172/32") {
		t.Errorf("the second VIP only: %s", a)
	}
	d.do(t, "stop").want(t, 0)
	same(t, before, snapshot(t, d))
}

func TestAFailedStartLeavesNothing(t *testing.T) {
	d := newInstance(t, lab.Options{})
	before := snapshot(t, d)
	vip := lab.VIP().String()
	for _, tt := range []struct {
		args  []string
		rules string
		says  []string
	}{
		{[]string{"--interface", "eth9", "--vip", vip}, "", []string{"eth9"}},
		{[]string{"--interface", "lo", "--vip", vip}, "", []string{"lo", "loopback"}},
		{[]string{"--interface", "eth0", "--vip", "172.16.16.256"}, "", []string{"172.16.16.256"}},
		{[]string{"--interface", "eth0", "--vip", vip, "--mode", "fast"}, "", []string{`"fast"`, "auto, native, generic and tc"}},
		{[]string{"--interface", "eth0", "--vip", "fe80::1"}, "", []string{"link-local"}},
		{[]string{"--interface", "eth0", "--vip", lab.VIP6().String() + "/128"}, "", []string{"no prefix length"}},
		{[]string{"--interface", "eth0", "--vip", "2001:db8:16::177"}, "", []string{"another machine answers", d.RealServers[0].MAC().String(), "its lo", "--force"}},
		{[]string{"--interface", "eth0", "--vip", "172.16.16.177"}, "", []string{"another machine answers", d.RealServers[0].MAC().String(), "--force"}},
		{[]string{"--interface", "eth0", "--vip", vip}, "-A -t " + vip + ":80\n-a -t " + vip + ":80 -r 10.1.2.3\n", []string{"line 2", "10.1.2.3", d.places.Rules()}},
		{[]string{"--interface", "eth0", "--vip", vip}, "\n-X\n", []string{"line 2", d.places.Rules()}},
		{[]string{"--interface", "eth0", "--vip", vip}, "-A -t 172.16.16.1:80\n", []string{"line 1", "--vip 172.16.16.1"}},
		{[]string{"--interface", "eth0"}, "", []string{"--vip"}},
	} {
		if err := os.MkdirAll(d.places.State(), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.places.Rules(), []byte(tt.rules), 0o644); err != nil {
			t.Fatal(err)
		}
		r := d.do(t, "start", tt.args...).want(t, 1).says(t, tt.says...)
		if strings.Count(r.stderr, "shunt: ") != 1 || r.stdout != "" {
			t.Errorf("the error is not told once: %v", r)
		}
		same(t, before, snapshot(t, d))
		d.do(t, "status").want(t, 3)
	}
}

func TestARealServerIsNoDirectorOfItsVIP(t *testing.T) {
	d := newInstance(t, lab.Options{})
	command(t, d.node, "", "ip", "addr", "add", lab.VIP().String()+"/32", "dev", "lo").want(t, 0)
	d.start(t).want(t, 1).says(t, "lo already")
}

func TestRefusalsChangeNothing(t *testing.T) {
	d := newInstance(t, lab.Options{Router: true})
	vip := lab.VIP().String()
	d.start(t).want(t, 0)
	d.rules(t, web()...)
	before := d.ipvsadm(t, "-S -n").want(t, 0).stdout
	for line, says := range map[string][]string{
		"-A -f 1":                                    {"--add-mark 1"},
		"-A -t " + vip + ":81 -p 60 --pe sip":        {"--pe"},
		"-A -t [2001:db8::1]:80":                     {"--vip 2001:db8::1"},
		"-A -t 172.16.16.171:80":                     {"--vip 172.16.16.171"},
		"-a -t " + vip + ":80 -r 172.16.16.179 -m":   {"-m"},
		"-a -t " + vip + ":80 -r 172.16.16.179 -i":   {"-i"},
		"-a -t " + vip + ":80 -r 172.16.16.179:8080": {"172.16.16.179"},
		"-a -t " + vip + ":80 -r 10.0.0.10":          {"router", "172.16.16.1"},
		"-a -t " + vip + ":80 -r " + vip:             {"-r 127.0.0.1"},
		"--start-daemon master":                      {"start-daemon"},
	} {
		if r := d.ipvsadm(t, line).says(t, says...); r.code == 0 {
			t.Errorf("accepted: %v", r)
		}
	}
	// All lines or none.
	v := vip + ":81"
	restore := "-A -t " + v + "\n-a -t " + v + " -r 172.16.16.177\n-a -t " + v + " -r 10.0.0.10\n"
	if r := command(t, d.node, restore, program, "ipvsadm", "-R").says(t, "line 3"); r.code == 0 {
		t.Errorf("accepted: %v", r)
	}
	if after := d.ipvsadm(t, "-S -n").want(t, 0).stdout; after != before {
		t.Errorf("rules before:\n%safter:\n%s", before, after)
	}
}

func TestRulesOutliveTheDaemon(t *testing.T) {
	d := newInstance(t, lab.Options{})
	d.start(t).want(t, 0)
	d.rules(t, web()...)
	d.rules(t, "-A -u "+lab.VIP().String()+":53 -s rr", "--set 10 20 30")
	listing := func() string {
		return d.ipvsadm(t, "-L -n --nosort").want(t, 0).stdout + d.ipvsadm(t, "-L --timeout").want(t, 0).stdout
	}
	before := listing()
	d.do(t, "stop").want(t, 0)
	d.do(t, "start").want(t, 0)
	if after := listing(); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}

	// An edited file, by reload and by SIGHUP.
	edit := func(text string) {
		t.Helper()
		if err := os.WriteFile(d.places.Rules(), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	v := lab.VIP().String() + ":8000"
	edit("# mine\n-A -t " + v + " -s rr\n-a -t " + v + " -r 172.16.16.177 -w 5\n")
	d.do(t, "reload").want(t, 0).says(t, "1 services, 1 servers")
	edited := listing()
	if !strings.Contains(edited, v) || strings.Contains(edited, ":53") {
		t.Errorf("after a reload:\n%s", edited)
	}
	edit("-A -t " + v + " -s rr\n-a -t " + v + " -r 172.16.16.177 -p 5\n")
	d.do(t, "reload").want(t, 1).says(t, "line 2", d.places.Rules())
	if after := listing(); after != edited {
		t.Errorf("a failed reload changed the rules:\n%s", after)
	}
	edit("-A -t " + v + " -s wrr\n")
	if err := syscall.Kill(d.status(t).PID, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rules after SIGHUP", func() bool { return strings.Contains(listing(), v+" wrr") })

	d.rules(t, "-C")
	d.do(t, "stop").want(t, 0)
	d.do(t, "start").want(t, 0)
	if s := d.status(t); len(s.Services) != 0 {
		t.Errorf("cleared rules came back: %+v", s.Services)
	}
}

func TestDebugClock(t *testing.T) {
	d := newInstance(t, lab.Options{})
	d.start(t).want(t, 0)
	shunt(t, d.node, "debug", "advance-clock", "120s").want(t, 1).says(t, "--debug")
	d.do(t, "stop").want(t, 0)
	d.do(t, "start", "--debug").want(t, 0)
	shunt(t, d.node, "debug", "advance-clock", "120s").want(t, 0)
	shunt(t, d.node, "debug", "advance-clock", "soon").want(t, 2)
	d.do(t, "stop").want(t, 0)
	d.do(t, "start").want(t, 0) // it is not remembered
	shunt(t, d.node, "debug", "advance-clock", "120s").want(t, 1)
}

func TestCalledAsIpvsadm(t *testing.T) {
	d := newInstance(t, lab.Options{})
	d.start(t).want(t, 0)
	bin := t.TempDir()
	as := func(name string) string {
		path := filepath.Join(bin, name)
		if err := os.Symlink(program, path); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
		return path
	}
	for _, line := range web() {
		command(t, d.node, "", as("ipvsadm"), strings.Fields(line)...).want(t, 0)
	}
	saved := command(t, d.node, "", as("ipvsadm-save"), "-n").want(t, 0).stdout
	if strings.Count(saved, "\n") != 3 {
		t.Errorf("saved: %s", saved)
	}
	d.rules(t, "-C")
	command(t, d.node, saved, as("ipvsadm-restore")).want(t, 0)
	if again := command(t, d.node, "", as("ipvsadm"), "-Sn").want(t, 0).stdout; again != saved {
		t.Errorf("saved %s, restored %s", saved, again)
	}
}

func TestStatusIsComplete(t *testing.T) {
	d := newInstance(t, lab.Options{})
	d.start(t).want(t, 0)
	d.rules(t, web()...)
	s := d.status(t)
	macs := map[string]string{}
	for _, n := range s.Neighbours {
		macs[n.Addr.String()] = n.MAC
	}
	want := map[string]string{"172.16.16.177": d.RealServers[0].MAC().String(), "172.16.16.178": d.RealServers[1].MAC().String()}
	if !maps.Equal(macs, want) {
		t.Errorf("neighbours %v; want %v", macs, want)
	}
	if len(s.Warnings) > 0 {
		t.Errorf("warnings: %q", s.Warnings)
	}
	if len(s.VIPs) != 1 || !s.VIPs[0].Present || s.VIPs[0].Conflict != nil {
		t.Errorf("VIPs: %+v", s.VIPs)
	}
	if len(s.Interfaces) != 1 || s.Interfaces[0].Mode != "native" {
		t.Errorf("interfaces: %+v", s.Interfaces)
	}
	if s.Connections[0].Capacity != 16384 || s.PID == 0 || s.Version == "" || s.Instance != "test" {
		t.Errorf("%+v", s)
	}
	d.do(t, "status").want(t, 0).says(t, "native", lab.VIP().String(), want["172.16.16.177"], "weight 1")
}

// What systemd and containers do.
func TestRunInTheForeground(t *testing.T) {
	d := newInstance(t, lab.Options{})
	before := snapshot(t, d)
	notify := filepath.Join(filepath.Dir(d.places.RunDir), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hear := func() string {
		b := make([]byte, 4096)
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(b)
		if err != nil {
			t.Fatal("nothing heard: ", err)
		}
		return string(b[:n])
	}
	c := d.node.Command(t.Context(), program, "director", "run", "--instance", "test", "--run-dir", d.places.RunDir,
		"--state-dir", d.places.StateDir, "--interface", "eth0", "--vip", lab.VIP().String(), "--log-format", "json")
	var log strings.Builder
	c.Stderr = &log
	c.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if said := hear(); said != "READY=1" {
		t.Errorf("at first it says %q", said)
	}
	d.do(t, "status").want(t, 0)
	if err := c.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if said := hear(); !strings.HasPrefix(said, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("to SIGHUP it says %q", said)
	}
	if said := hear(); said != "READY=1" {
		t.Errorf("after SIGHUP it says %q", said)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if said := hear(); said != "STOPPING=1" {
		t.Errorf("to SIGTERM it says %q", said)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("it ends with %v\n%s", err, log.String())
	}
	same(t, before, snapshot(t, d))
	for line := range strings.Lines(log.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

func TestCommandLinesThatMakeNoSense(t *testing.T) {
	c := labtest.Up(t, lab.Options{RealServers: -1})
	for line, says := range map[string]string{
		"":                              "Available Commands",
		"director":                      "start",
		"director stat":                 "status",
		"director status x":             `"x"`,
		"director start --vips 1.2.3.4": "--vips",
		"director run --log-level loud --interface eth0": "--log-level",
		"debug advance-clock":                            "duration",
		"nonsense":                                       `"nonsense"`,
	} {
		shunt(t, c.Director, strings.Fields(line)...).want(t, 2).says(t, says)
	}
	shunt(t, c.Director, "version").want(t, 0).says(t, "shunt ", "go1.")
	shunt(t, c.Director, "ipvsadm", "--version").want(t, 0).says(t, "ipvsadm v")
	shunt(t, c.Director, "director", "status", "--instance", "no.name").want(t, 4).says(t, `"no.name"`)
	shunt(t, c.Director, "director", "status", "--instance", "bpf").want(t, 4).says(t, "reserved")
}
