// SPDX-License-Identifier: MIT

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

// cluster is a lab whose machines are set up with shunt's command line. All
// share one file system, so each has an instance of its own, named after its
// namespace, where a real machine has the default one.
type cluster struct {
	*lab.Cluster
	t         testing.TB
	machines  []*lab.Node // that are up
	downloads int         // so far
}

func newCluster(t testing.TB, o lab.Options) *cluster {
	t.Helper()
	labtest.NeedRoot(t)
	c := &cluster{t: t}
	c.up(o)
	for _, n := range c.machines {
		forget(t, instanceOf(n)) // of an earlier run that was killed
	}
	return c
}

// up makes the lab.
func (c *cluster) up(o lab.Options) {
	c.t.Helper()
	c.Cluster = labtest.Up(c.t, o)
	c.machines = c.Nodes()
	c.t.Cleanup(c.stopAll)
}

// add makes one more machine.
func (c *cluster) add(name, addr string) *lab.Node {
	c.t.Helper()
	n, err := c.Add(name, netip.MustParsePrefix(addr))
	if err != nil {
		c.t.Fatal(err)
	}
	forget(c.t, instanceOf(n))
	c.machines = append(c.machines, n)
	return n
}

// stopAll stops shunt on all machines and removes what it keeps for its next
// start. The lab is still up, so nobody else has machines of these names.
func (c *cluster) stopAll() {
	machines := c.machines
	c.machines = nil
	for _, n := range machines {
		if c.t.Failed() {
			if log, err := os.ReadFile(api.Places{Instance: instanceOf(n)}.Log()); err == nil {
				c.t.Logf("the log of %s:\n%s", n.Name(), log)
			}
		}
		for _, role := range []string{"director", "realserver"} {
			if r := c.shunt(n, role, "stop"); r.code != 0 {
				c.t.Error(r)
			}
		}
		forget(c.t, instanceOf(n))
	}
}

func instanceOf(n *lab.Node) string { return n.Namespace() }

// forget removes what an instance keeps for its next start.
func forget(t testing.TB, instance string) {
	t.Helper()
	p := api.Places{Instance: instance}
	if err := dataplane.RemovePins(p.Pins(), instance); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{p.Run(), p.State()} {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
}

// shunt runs the binary on a machine, in the manner of that machine's admin.
func (c *cluster) shunt(n *lab.Node, args ...string) result {
	c.t.Helper()
	return c.run(n, program, args...)
}

// run runs any program on a machine.
func (c *cluster) run(n *lab.Node, name string, args ...string) result {
	c.t.Helper()
	return commandWith(c.t, n, []string{"SHUNT_INSTANCE=" + instanceOf(n)}, "", name, args...)
}

// sh runs a line of shell on a machine; it has to succeed.
func (c *cluster) sh(n *lab.Node, line string) string {
	c.t.Helper()
	return c.run(n, "sh", "-ec", line).want(c.t, 0).stdout
}

// director gives the director a command that it has to obey.
func (c *cluster) director(args ...string) string {
	c.t.Helper()
	return c.shunt(c.Director, append([]string{"director"}, args...)...).want(c.t, 0).stdout
}

// start starts the director; its table is small, so that this is fast.
func (c *cluster) start(args ...string) {
	c.t.Helper()
	c.director(append([]string{"start", "--interface", "eth0", "--vip", lab.VIP().String(), "--connections", "65536", "--debug"}, args...)...)
}

// rules gives the director lines of ipvsadm, in which VIP stands for the
// reference VIP, DIP for the director's own address, and RS1, RS2 for the real
// servers.
func (c *cluster) rules(lines ...string) string {
	c.t.Helper()
	out := ""
	for _, line := range lines {
		out += c.shunt(c.Director, append([]string{"ipvsadm"}, strings.Fields(c.spell(line))...)...).want(c.t, 0).stdout
	}
	return out
}

func (c *cluster) spell(line string) string {
	line = strings.ReplaceAll(line, "VIP", lab.VIP().String())
	line = strings.ReplaceAll(line, "DIP", c.Director.Addr().String())
	for i, rs := range c.RealServers {
		line = strings.ReplaceAll(line, "RS"+strconv.Itoa(i+1), rs.Addr().String())
	}
	return line
}

// web are the rules of a web service with all real servers, of these weights
// (none: 1 each).
func (c *cluster) web(scheduler string, weights ...int) []string {
	lines := []string{"-A -t VIP:80 -s " + scheduler}
	for i := range c.RealServers {
		w := 1
		if i < len(weights) {
			w = weights[i]
		}
		lines = append(lines, fmt.Sprintf("-a -t VIP:80 -r RS%d -g -w %d", i+1, w))
	}
	return lines
}

// reference sets up the whole reference cluster: nginx (at port 80 and 81) on real
// servers of method loopback, a director, and the web service.
func (c *cluster) reference(scheduler string) []*nginx {
	c.t.Helper()
	var all []*nginx
	for _, rs := range c.RealServers {
		all = append(all, startNginx(c.t, rs, 80, 81))
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String()).want(c.t, 0)
	}
	c.start()
	c.rules(c.web(scheduler)...)
	return all
}

func (c *cluster) status() api.Status {
	c.t.Helper()
	var s api.Status
	if err := json.Unmarshal([]byte(c.director("status", "--json")), &s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// verdict is how many packets took that way out of the data plane.
func (c *cluster) verdict(name string) uint64 {
	c.t.Helper()
	for _, v := range c.status().Verdicts {
		if v.Name == name {
			return v.Packets
		}
	}
	c.t.Fatalf("there is no verdict %s", name)
	return 0
}

// kill ends the director's daemon the hard way, and waits until it is gone.
func (c *cluster) kill() {
	c.t.Helper()
	c.killProcess(c.status().PID)
}

func (c *cluster) killProcess(pid int) {
	c.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, "the end of the killed daemon", func() bool { return ended(pid) })
	c.shunt(c.Director, "director", "status").want(c.t, 1)
}

// ended tells whether a process has come to its end, all its files closed,
// though perhaps nobody has asked for its exit code yet.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(stat), ") ") // the command's name is in brackets
	return strings.HasPrefix(after, "Z")
}

// row is a real server in a listing of ipvsadm: the numbers after its address.
type row []uint64

// table runs ipvsadm -Ln with further options and returns the numbers of each
// real server, by service ("TCP 172.16.16.172:80", "FWM 7") and address.
func (c *cluster) table(options string) map[string]map[string]row {
	c.t.Helper()
	listing, service := map[string]map[string]row{}, ""
	for line := range strings.Lines(c.rules("-Ln --exact " + options)) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && slices.Contains([]string{"TCP", "UDP", "SCTP", "FWM"}, f[0]):
			service = f[0] + " " + f[1]
			listing[service] = map[string]row{"": numbers(f[2:])}
		case len(f) > 2 && f[0] == "->" && service != "":
			listing[service][f[1]] = numbers(f[2:])
		}
	}
	return listing
}

// numbers leaves out words, such as the forwarding method.
func numbers(fields []string) (r row) {
	for _, f := range fields {
		if n, err := strconv.ParseUint(f, 10, 64); err == nil {
			r = append(r, n)
		}
	}
	return r
}

// conns returns how many connections of the reference web service each real
// server was given, by its name, as --stats has it.
func (c *cluster) conns() map[string]int {
	c.t.Helper()
	got := map[string]int{}
	servers := c.table("--stats")["TCP "+lab.VIP().String()+":80"]
	for _, rs := range c.RealServers {
		if r := servers[rs.Addr().String()+":80"]; len(r) > 0 {
			got[rs.Name()] = int(r[0])
		}
	}
	return got
}

// idle tells whether no connection is counted any more, neither active nor
// inactive, with any server, and none is listed.
func (c *cluster) idle() bool {
	c.t.Helper()
	for _, servers := range c.table("") {
		for addr, r := range servers {
			if addr != "" && (len(r) != 3 || r[1] != 0 || r[2] != 0) {
				return false
			}
		}
	}
	return len(c.connections()) == 0
}

// settle lets so much time pass that all connections expire, and waits for the
// last one to go.
func (c *cluster) settle() {
	c.t.Helper()
	c.shunt(c.Director, "debug", "advance-clock", "1000s").want(c.t, 0)
	eventually(c.t, "ActiveConn and InActConn to be 0", c.idle)
}

// connections lists ipvsadm -Lnc without what changes by itself: protocol,
// source, virtual service and destination of each, in ascending order; of these
// states only, if any is named.
func (c *cluster) connections(states ...string) (all []string) {
	c.t.Helper()
	for line := range strings.Lines(c.rules("-Lnc")) {
		f := strings.Fields(line)
		if len(f) == 6 && slices.Contains([]string{"TCP", "UDP", "SCTP", "IP"}, f[0]) && (len(states) == 0 || slices.Contains(states, f[2])) {
			all = append(all, strings.Join([]string{f[0], f[3], f[4], f[5]}, " "))
		}
	}
	slices.Sort(all)
	return all
}

// contextFor bounds a wait. Nothing is concluded from how long it took.
func contextFor(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), commandLimit)
}
