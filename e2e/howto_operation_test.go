// SPDX-License-Identifier: MIT

package e2e

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// The director's script began and ended with `ipvsadm -C`: the services of every
// other owner were gone, and all connections cut at once. Demanded: a director
// touches its own only, a start keeps what was there, and there is a way to stop
// that cuts no connection.
func TestHowToDefect10(t *testing.T) {
	c := newCluster(t, lab.Options{})
	want := put(t, c.reference("rr"), "long", longFile)
	d := c.download("/files/long")
	d.read(1 << 20)

	// Another owner, another director on the same host.
	other := c.add("other", "172.16.16.174/24")
	on := func(args ...string) string { t.Helper(); return c.shunt(other, args...).want(t, 0).stdout }
	on("director", "start", "--interface", "eth0", "--vip", "172.16.16.171", "--connections", "16384")
	on("ipvsadm", "-A", "-t", "172.16.16.171:80")
	mine := c.rules("-S -n")
	on("ipvsadm", "-C")
	on("director", "stop")
	on("director", "start")
	on("director", "stop")
	if now := c.rules("-S -n"); now != mine || now == "" {
		t.Errorf("another director's -C and stop changed the rules from\n%s\nto\n%s", mine, now)
	}
	d.read(8 << 20)

	// A second start of ours neither.
	c.shunt(c.Director, "director", "start", "--interface", "eth0", "--vip", lab.VIP().String()).want(t, 1)
	if now := c.rules("-S -n"); now != mine {
		t.Errorf("a second start changed the rules from\n%s\nto\n%s", mine, now)
	}

	// Quiesce, wait for the last connection, stop.
	c.rules("-e -t VIP:80 -r RS1 -w 0", "-e -t VIP:80 -r RS2 -w 0")
	if r := c.run(c.Client, "curl", "-sS", "--max-time", slowest, url("/")); r.code != 7 { // refused: ICMP port unreachable
		t.Errorf("a new connection while all are quiesced: %v", r)
	}
	d.finish(want)
	c.director("stop")
	c.director("start", "--debug")
	if now := c.rules("-S -n"); strings.ReplaceAll(now, "-w 0", "-w 1") != mine {
		t.Errorf("after stop and start the rules are\n%s\nand were\n%s", now, mine)
	}
}

// The director's status looked at a lock file: "running" after a start that
// failed or a crash, and always with exit code 0. Demanded: the truth, from the
// kernel, and LSB's exit codes.
func TestHowToDefect11(t *testing.T) {
	c := newCluster(t, lab.Options{})
	status := func(code int, words ...string) {
		t.Helper()
		c.shunt(c.Director, "director", "status").want(t, code).says(t, words...)
		r := c.shunt(c.Director, "director", "status", "--json").want(t, code)
		if !strings.HasPrefix(r.stdout, "{") {
			t.Errorf("no JSON: %v", r)
		}
	}
	status(3, "stopped")
	c.shunt(c.Director, "director", "start", "--interface", "nonsense0", "--vip", lab.VIP().String()).want(t, 1)
	status(3, "stopped")

	c.start()
	c.rules(c.web("rr")...)
	status(0, "runs", lab.VIP().String(), "172.16.16.177", "weight 1")
	// That of the kernel's truth which is missing is said.
	c.sh(c.Director, "ip link set eth0 down")
	eventually(t, "a word about the interface in status", func() bool {
		return strings.Contains(c.director("status"), "interface eth0 is down")
	})
	c.sh(c.Director, "ip link set eth0 up")
	eventually(t, "no such word in status", func() bool {
		return !strings.Contains(c.director("status"), "interface eth0 is down")
	})
	c.kill()
	status(1, "killed")
	c.start()
	status(0, "runs")
	c.director("stop")
	status(3, "stopped")
}

// The scripts lacked the ! of their first line, needed Red Hat's init functions,
// ifconfig, route and netstat, and had eth0 written into them. Demanded: one
// program that needs no other, on any interface.
func TestHowToDefect13(t *testing.T) {
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the binary is not static: it needs a loader and libraries")
		}
	}

	c := newCluster(t, lab.Options{RealServers: 1})
	rs := c.RealServers[0]
	startNginx(t, rs, 80)
	for _, n := range []*lab.Node{c.Director, rs} {
		c.sh(n, "ip link set eth0 down; ip link set eth0 name lan-7; ip link set lan-7 up")
	}
	alone := func(n *lab.Node, args ...string) {
		t.Helper()
		commandWith(t, n, []string{"SHUNT_INSTANCE=" + instanceOf(n), "PATH=/nowhere"}, "", program, args...).want(t, 0)
	}
	vip := lab.VIP().String()
	alone(rs, "realserver", "start", "--vip", vip)
	alone(c.Director, "director", "start", "--interface", "lan-7", "--vip", vip)
	alone(c.Director, "ipvsadm", "-A", "-t", vip+":80")
	alone(c.Director, "ipvsadm", "-a", "-t", vip+":80", "-r", rs.Addr().String())
	if got := c.get(10); got["rs1"] != 10 {
		t.Errorf("answered by %v", got)
	}
	alone(c.Director, "director", "status")
	alone(rs, "realserver", "status")
	alone(c.Director, "director", "stop")
	alone(rs, "realserver", "stop")
}

// Rules were saved by the distribution's ipvsadm service and also by the script,
// so that they were loaded twice; what the real servers had was not saved at all.
// Demanded: one source, which a start after a power failure goes by.
func TestHowToDefect15(t *testing.T) {
	c := newCluster(t, lab.Options{})
	c.reference("wrr")
	c.rules("-e -t VIP:80 -r RS1 -w 3")
	saved := c.rules("-S -n")
	c.kill()
	instances := map[string]string{}
	for _, n := range c.Nodes() {
		instances[n.Name()] = instanceOf(n)
	}

	// The power fails: all that is left is what is on disk.
	if err := c.Down(); err != nil {
		t.Fatal(err)
	}
	for _, name := range instances {
		p := api.Places{Instance: name}
		if err := dataplane.RemovePins(p.Pins(), name); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(p.Run()); err != nil {
			t.Fatal(err)
		}
	}
	c.up(lab.Options{})
	boot := filepath.Join(t.TempDir(), "boot_id")
	if err := os.WriteFile(boot, []byte("00000000-0000-4000-8000-000000000001\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	booted := func(n *lab.Node, args ...string) result {
		t.Helper()
		if instances[n.Name()] != instanceOf(n) {
			t.Fatalf("%s is %s now", instances[n.Name()], instanceOf(n))
		}
		return c.run(n, "unshare", append([]string{"--mount", "sh", "-ec",
			"mount --bind " + boot + ` /proc/sys/kernel/random/boot_id; exec "$@"`, "sh", program}, args...)...)
	}
	for _, rs := range c.RealServers {
		startNginx(t, rs, 80)
		booted(rs, "realserver", "start").want(t, 0)
	}
	booted(c.Director, "director", "start").want(t, 0)
	if now := c.rules("-S -n"); now != saved {
		t.Errorf("the rules were\n%s\nand are\n%s", saved, now)
	}
	if got := c.get(20); got["rs1"] != 15 || got["rs2"] != 5 {
		t.Errorf("after the power failure, answered by %v", got)
	}
	booted(c.Director, "director", "start").want(t, 1).says(t, instances["director"])
	if now := c.rules("-S -n"); now != saved {
		t.Errorf("after a second start the rules are\n%s\nand were\n%s", now, saved)
	}
	for _, rs := range c.RealServers {
		booted(rs, "realserver", "stop").want(t, 0)
	}
}

// There was no gratuitous ARP, no look whether the address is taken, and one
// director only. Demanded: a second one takes the VIP over, the clients' ARP
// caches included, but not while the first one has it; and when both have it,
// both say so. (Doing so by themselves is for later.)
func TestHowToDefect17(t *testing.T) {
	c := newCluster(t, lab.Options{})
	second := c.add("second", "172.16.16.174/24")
	c.reference("rr")
	c.get(10)
	on := func(args ...string) result { t.Helper(); return c.shunt(second, args...) }
	vip := lab.VIP().String()
	start := []string{"director", "start", "--interface", "eth0", "--vip", vip, "--connections", "16384"}
	on(start...).want(t, 1).says(t, vip, c.Director.MAC().String())
	on("director", "status").want(t, 3)
	if a := c.sh(second, "ip -o addr"); strings.Contains(a, vip) {
		t.Errorf("the second director has addresses %s", a)
	}

	c.sh(c.Director, "ip link set eth0 down")
	tap, err := c.TapARP(c.Client)
	if err != nil {
		t.Fatal(err)
	}
	on(start...).want(t, 0)
	commandWith(t, second, nil, c.spell(strings.Join(c.web("rr"), "\n")), program, "ipvsadm", "-R").want(t, 0)
	ctx, cancel := contextFor(t)
	defer cancel()
	if _, err := tap.Wait(ctx, func(f lab.Frame) bool {
		return !f.FromNode && f.ARP != nil && f.ARP.Sender == lab.VIP() && f.ARP.Target == lab.VIP() && f.ARP.SenderMAC.Is(second.MAC())
	}); err != nil {
		t.Fatal("the takeover is not announced: ", err)
	}
	if got := c.get(10); got["rs1"] != 5 || got["rs2"] != 5 {
		t.Errorf("with the second director, answered by %v", got)
	}
	if n := c.sh(c.Client, "ip neigh show "+vip); !strings.Contains(n, second.MAC().String()) {
		t.Errorf("the client has %s", n)
	}

	// The first one comes back and believes that it still has the VIP.
	c.sh(c.Director, "ip link set eth0 up")
	eventually(t, "the second director to report the conflict", func() bool {
		r := on("director", "status").want(t, 0)
		return strings.Contains(r.stdout, "WARNING: VIP "+vip) && strings.Contains(r.stdout, c.Director.MAC().String())
	})
	eventually(t, "the first director to report the conflict", func() bool {
		s := c.director("status")
		return strings.Contains(s, "WARNING: VIP "+vip) && strings.Contains(s, second.MAC().String())
	})
}

// Nothing looked after the real servers: a dead one went on getting connections,
// and nobody could see it. Demanded for now: that it is dead, or was never there,
// is in status, and it can be quiesced and removed by hand without harm to the
// connections of others. (Doing so by itself is for the health checks.)
func TestHowToDefect18(t *testing.T) {
	c := newCluster(t, lab.Options{})
	want := put(t, c.reference("rr"), "long", longFile)
	d := c.downloadFrom("/files/long", "rs1")

	c.sh(c.RealServers[1], "ip link set eth0 down")
	eventually(t, "a word about the dead server in status", func() bool {
		return strings.Contains(c.director("status"), "WARNING: real server 172.16.16.178: ")
	})
	d.read(8 << 20)
	c.rules("-e -t VIP:80 -r RS2 -w 0")
	if got := c.get(10); got["rs1"] != 10 {
		t.Errorf("with the dead one quiesced, answered by %v", got)
	}
	c.rules("-d -t VIP:80 -r RS2")
	if got := c.get(10); got["rs1"] != 10 {
		t.Errorf("with the dead one removed, answered by %v", got)
	}

	// One that nobody has ever seen.
	c.rules("-a -t VIP:80 -r 172.16.16.199")
	c.shunt(c.Director, "director", "status").says(t, "UNRESOLVED", "WARNING: real server 172.16.16.199: ")
	before := c.verdict("drop_unresolved")
	for range 2 { // one of them is its turn
		c.run(c.Client, "curl", "-sS", "--max-time", "1", url("/"))
	}
	if n := c.verdict("drop_unresolved"); n == before {
		t.Error("packets for a real server without a MAC address are not counted")
	}
	c.rules("-d -t VIP:80 -r 172.16.16.199")

	c.sh(c.RealServers[1], "ip link set eth0 up")
	c.rules("-a -t VIP:80 -r RS2")
	eventually(t, "no warnings in status", func() bool { return len(c.status().Warnings) == 0 })
	if got := c.get(10); got["rs1"] != 5 || got["rs2"] != 5 {
		t.Errorf("with rs2 back, answered by %v", got)
	}
	d.finish(want)
}

// One VIP, one port, TCP, two real servers, and no verb but start and stop.
// Demanded: any number of each, UDP too, and rules that can be edited, deleted
// and reloaded while traffic flows.
func TestHowToDefect19(t *testing.T) {
	c := newCluster(t, lab.Options{RealServers: 3})
	vips := []string{lab.VIP().String(), "172.16.16.171", "172.16.16.170"}
	var flags []string
	for _, v := range vips {
		flags = append(flags, "--vip", v)
	}
	for _, rs := range c.RealServers {
		startNginx(t, rs, 80, 81)
		c.serveUDP(rs, 53, "")
		c.shunt(rs, append([]string{"realserver", "start", "--method", "redirect", "--port", "80/tcp", "--port", "81/tcp", "--port", "53/udp"}, flags...)...).want(t, 0)
	}
	c.director(append([]string{"start", "--interface", "eth0", "--connections", "65536", "--debug"}, flags...)...)
	web := func(vip string, port int) string { return fmt.Sprintf("http://%s:%d/", vip, port) }
	check := func(what, url string, rs1, rs2, rs3 int) {
		t.Helper()
		if got := c.getFrom(url, 12); got["rs1"] != rs1 || got["rs2"] != rs2 || got["rs3"] != rs3 {
			t.Errorf("%s: answered by %v", what, got)
		}
	}
	for _, v := range vips {
		for _, port := range []int{80, 81} {
			service := fmt.Sprintf("-t %s:%d", v, port)
			c.rules("-A "+service+" -s rr", "-a "+service+" -r RS1", "-a "+service+" -r RS2", "-a "+service+" -r RS3")
			check("rr", web(v, port), 4, 4, 4)
		}
	}
	c.rules("-A -u VIP:53 -s rr", "-a -u VIP:53 -r RS1", "-a -u VIP:53 -r RS3")
	udp := map[string]int{}
	for range 6 {
		udp[c.askUDP("a")["a"]]++
	}
	if udp["rs1"] != 3 || udp["rs3"] != 3 {
		t.Errorf("UDP: answered by %v", udp)
	}

	c.rules("-E -t VIP:80 -s wrr", "-e -t VIP:80 -r RS2 -w 4")
	check("edited", web(vips[0], 80), 2, 8, 2)
	check("another port is not concerned", web(vips[0], 81), 4, 4, 4)
	c.rules("-d -t VIP:81 -r RS1")
	check("a server deleted", web(vips[0], 81), 0, 6, 6)
	c.rules("-D -t VIP:81")
	if r := c.run(c.Client, "curl", "-sS", "--max-time", slowest, web(vips[0], 81)); r.code != 7 { // the director's own stack refuses
		t.Errorf("a deleted service: %v", r)
	}
	check("another VIP is not concerned", web(vips[1], 81), 4, 4, 4)

	rules := api.Places{Instance: instanceOf(c.Director)}.Rules()
	b, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(string(b), "-a -t 172.16.16.171:80 -r 172.16.16.179:80 -g -w 1\n", "", 1)
	if edited == string(b) {
		t.Fatalf("the saved rules are\n%s", b)
	}
	if err := os.WriteFile(rules, []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	c.director("reload")
	check("reloaded", web(vips[1], 80), 6, 6, 0)
	check("a VIP that is not concerned", web(vips[2], 80), 4, 4, 4)
	c.settle()
}
