// SPDX-License-Identifier: MIT

package e2e

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// secondVIP is one more for the director of the reference topology.
const secondVIP = "172.16.16.171"

// ipvsadm gives the director a command line as c.rules does, with something to
// read, and returns what became of it.
func (c *cluster) ipvsadm(line, stdin string) result {
	c.t.Helper()
	return commandWith(c.t, c.Director, []string{"SHUNT_INSTANCE=" + instanceOf(c.Director)}, stdin,
		program, append([]string{"ipvsadm"}, strings.Fields(c.spell(line))...)...)
}

// saved are the rules as ipvsadm -S prints them.
func (c *cluster) saved() string {
	c.t.Helper()
	return c.rules("-S -n")
}

// TestMarks is a service by mark from the first mistake to its return after a
// restart.
func TestMarks(t *testing.T) {
	c := newCluster(t, lab.Options{})
	c.start("--vip", secondVIP)

	hint := "shunt ipvsadm --add-mark 7 -t 172.16.16.172:80"
	c.ipvsadm("-A -f 7 -s rr", "").want(t, 255).says(t, "FWM 7", hint)
	c.ipvsadm("--add-mark 7 -t 172.16.16.170:80", "").want(t, 255).says(t, "--vip 172.16.16.170")
	c.ipvsadm("--add-mark 7 -t VIP:90-80", "").want(t, 2).says(t, "illegal virtual server address[:port[-port]] specified")
	if got := c.saved(); got != "" {
		t.Fatalf("what was refused left\n%s", got)
	}
	if r := c.shunt(c.Director, strings.Fields(hint)[1:]...); r.code != 0 {
		t.Fatalf("the hint's own command: %v", r)
	}

	c.rules("--add-mark 7 -u VIP:5000-5010", "--add-mark 7 -t "+secondVIP, "--add-mark 8 -t VIP:443",
		"-A -f 7 -s rr -p 60", "-a -f 7 -r RS1 -g", "-a -f 7 -r RS2:0 -g -w 2", "-A -t VIP:22 -s wlc", "-a -t VIP:22 -r RS1 -g")
	for line, says := range map[string]string{
		"-A -t VIP:80":                   "7 TCP 172.16.16.172:80",
		"-A -f 7":                        "Service already exists",
		"--add-mark 8 -u VIP:5010":       "7 UDP 172.16.16.172:5000-5010",
		"--add-mark 9 -t VIP:1-100":      "7 TCP 172.16.16.172:80",
		"--add-mark 9 -t VIP:20-30":      "TCP 172.16.16.172:22",
		"--add-mark 7 -u VIP:6000-60000": "the data plane is full",
		"--delete-mark 8 -t VIP:44":      "none such",
		"-a -f 7 -r 172.16.16.177:80":    "use -r 172.16.16.177\n",
		"-a -f 7 -r 10.9.9.9":            "10.9.9.9",
		"-A -f 7 -6":                     "shunt ipvsadm --add-mark 7 -t ",
		"-a -f 9 -r 172.16.16.177 -g":    "Service not defined",
	} {
		c.ipvsadm(line, "").want(t, 255).says(t, says)
	}
	checkMarkListings(t, c)
	checkMarkStatus(t, c)

	rules := c.saved()
	want := c.spell(`--add-mark 7 -t 172.16.16.171:0
--add-mark 7 -t VIP:80
--add-mark 7 -u VIP:5000-5010
--add-mark 8 -t VIP:443
-A -t VIP:22 -s wlc
-a -t VIP:22 -r RS1:22 -g -w 1
-A -f 7 -s rr -p 60
-a -f 7 -r RS1:0 -g -w 1
-a -f 7 -r RS2:0 -g -w 2
`)
	if rules != want {
		t.Errorf("saved\n%swant\n%s", rules, want)
	}
	c.rules("-C")
	if got := c.saved(); got != "" {
		t.Errorf("after -C there is\n%s", got)
	}
	c.ipvsadm("-R", "-A -f 7 -s rr\n"+rules).want(t, 255).says(t, "line 1: -A -f 7 -s rr: ", hint, "(nothing was changed)")
	c.ipvsadm("-R", rules+"-A -f 9\n").want(t, 255).says(t, "line 10: -A -f 9: ", "(nothing was changed)")
	if got := c.saved(); got != "" {
		t.Errorf("a restore that was refused left\n%s", got)
	}
	c.ipvsadm("-R", rules).want(t, 0)
	if got := c.saved(); got != rules {
		t.Errorf("restored\n%swant\n%s", got, rules)
	}

	c.director("stop")
	c.start("--vip", secondVIP)
	if got := c.saved(); got != rules {
		t.Errorf("after a restart\n%swant\n%s", got, rules)
	}
	c.kill()
	c.start("--vip", secondVIP)
	if got := c.saved(); got != rules {
		t.Errorf("after a kill\n%swant\n%s", got, rules)
	}
	checkMarkListings(t, c)
	c.director("reload")
	if got := c.saved(); got != rules {
		t.Errorf("after a reload\n%swant\n%s", got, rules)
	}

	// A mark's rules can go when its service does.
	c.rules("--delete-mark 7 -t VIP:80", "--delete-mark 7 -t "+secondVIP+":0")
	c.ipvsadm("--delete-mark 7 -u VIP:5000-5010", "").want(t, 255).says(t, "delete the service first")
	c.rules("-D -f 7", "--delete-mark 7 -u VIP:5000-5010", "--delete-mark 8 -t VIP:443")
	if got := c.rules("--list-marks -n"); strings.Count(got, "\n") != 1 {
		t.Errorf("left are\n%s", got)
	}
}

func checkMarkListings(t *testing.T, c *cluster) {
	t.Helper()
	marks := c.spell(`Mark       Prot LocalAddress:Port[-Port]
7          TCP  172.16.16.171:0
7          TCP  VIP:80
7          UDP  VIP:5000-5010
8          TCP  VIP:443
`)
	if got := c.rules("--list-marks -n"); got != marks {
		t.Errorf("marks\n%swant\n%s", got, marks)
	}
	services := `Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
FWM  7 rr persistent 60
  -> 172.16.16.177:0              Route   1      0          0         
  -> 172.16.16.178:0              Route   2      0          0         
`
	if got := c.rules("-L -n -f 7"); got != services {
		t.Errorf("services\n%swant\n%s", got, services)
	}
}

func checkMarkStatus(t *testing.T, c *cluster) {
	t.Helper()
	human := c.director("status")
	for _, text := range []string{"FWM 7", "mark rule 7 UDP 172.16.16.172:5000-5010", "mark rule 8 TCP 172.16.16.172:443: there is no service FWM 8"} {
		if !strings.Contains(human, text) {
			t.Errorf("status does not say %q:\n%s", text, human)
		}
	}
	var s api.Status
	if err := json.Unmarshal([]byte(c.director("status", "--json")), &s); err != nil {
		t.Fatal(err)
	}
	want := []lvs.MarkRule{
		{Mark: 7, Protocol: lvs.TCP, Addr: lab.VIP(), First: 80, Last: 80},
		{Mark: 7, Protocol: lvs.UDP, Addr: lab.VIP(), First: 5000, Last: 5010},
		{Mark: 7, Protocol: lvs.TCP, Addr: netip.MustParseAddr(secondVIP)},
	}
	for _, svc := range s.Services {
		if svc.Mark == 7 && !slices.Equal(svc.Marks, want) || svc.Mark == 0 && svc.Marks != nil {
			t.Errorf("status of %v has %v", svc.ServiceID, svc.Marks)
		}
	}
}

// TestGroup is one persistent service for two VIPs, two ports and two protocols:
// a client is with one real server, wherever it goes.
func TestGroup(t *testing.T) {
	c := newCluster(t, lab.Options{})
	for _, rs := range c.RealServers {
		startNginx(t, rs, 80, 81, 82)
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String(), "--vip", secondVIP).want(t, 0)
		c.serveUDP(rs, 53, ",bind="+lab.VIP().String())
	}
	other := c.add("client2", "172.16.16.11/24")
	c.start("--vip", secondVIP)
	c.rules("--add-mark 7 -t VIP:80-81", "--add-mark 7 -t "+secondVIP+":80-81", "--add-mark 7 -u VIP:53",
		"-A -f 7 -s rr -p 60", "-a -f 7 -r RS1 -g", "-a -f 7 -r RS2 -g")

	urls := []string{url(""), url(":81"), "http://" + secondVIP, "http://" + secondVIP + ":81"}
	page := func(n *lab.Node, url string) string {
		t.Helper()
		return strings.TrimSpace(c.run(n, "curl", "-sS", "-f", "--max-time", slowest, url).want(t, 0).stdout)
	}
	mine := page(c.Client, urls[0])
	for _, u := range append(urls, urls...) {
		if got := page(c.Client, u); got != mine {
			t.Errorf("%s is answered by %s; the client is with %s", u, got, mine)
		}
	}
	if got := c.askUDP("a")["a"]; got != mine {
		t.Errorf("UDP is answered by %s; the client is with %s", got, mine)
	}
	// It is the client that makes the difference, and the scheduler still has
	// its turn with each new one.
	for _, u := range urls {
		if got := page(other, u); got == mine || got == "" {
			t.Errorf("%s: the second client is with %q; rr has one client for each real server", u, got)
		}
	}
	stats := c.table("--stats")["FWM 7"]
	if conns := stats[""]; len(conns) == 0 || conns[0] != 14 {
		t.Errorf("14 connections were made; counted are %v", stats)
	}
	if templates := slices.DeleteFunc(c.connections(), func(line string) bool { return !strings.HasPrefix(line, "IP ") }); len(templates) != 2 ||
		!strings.Contains(templates[0], " 0.0.0.7:0 ") {
		t.Errorf("templates of two clients: %q", templates)
	}

	// Real servers listen on port 82, the group does not.
	fails := func(url string) bool {
		t.Helper()
		return c.run(c.Client, "curl", "-sS", "--max-time", slowest, url).code == 7
	}
	if !fails(url(":82")) {
		t.Error("a port that has no mark is answered")
	}
	// Rules come and go while the service runs.
	c.rules("--delete-mark 7 -t " + secondVIP + ":80-81")
	if !fails(urls[2]) || page(c.Client, urls[0]) != mine {
		t.Error("the second VIP's rule was deleted, and only that")
	}
	c.rules("--add-mark 7 -t " + secondVIP)
	for _, u := range append(urls, "http://"+secondVIP+":82") {
		if got := page(c.Client, u); got != mine {
			t.Errorf("every port of the second VIP: %s is answered by %s; the client is with %s", u, got, mine)
		}
	}
	// A template outlives what it controls, so it takes two steps.
	c.shunt(c.Director, "debug", "advance-clock", "1000s").want(t, 0)
	eventually(t, "the connections to be gone", func() bool {
		return !slices.ContainsFunc(c.connections(), func(line string) bool { return !strings.HasPrefix(line, "IP ") })
	})
	c.settle()
}

// TestGroupOfBothFamilies has a mark in IPv4 and IPv6, which are two services with
// real servers of their own.
func TestGroupOfBothFamilies(t *testing.T) {
	c := newCluster(t, lab.Options{})
	const vip6 = "2001:db8:16::172"
	for _, rs := range c.RealServers {
		startNginx(t, rs, 80, 81)
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String(), "--vip", vip6).want(t, 0)
	}
	c.start("--vip", vip6)
	c.rules("--add-mark 7 -t VIP:80-81", "--add-mark 7 -t ["+vip6+"]:80", "--add-mark 7 -t ["+vip6+"]:81",
		"-A -f 7 -s rr -p 60", "-a -f 7 -r RS1 -g", "-A -f 7 -6 -s rr -p 60", "-a -f 7 -6 -r 2001:db8:16::178 -g")
	for _, port := range []string{":80", ":81"} {
		four, six := c.getFrom(url(port+"/"), 3), c.getFrom("http://["+vip6+"]"+port+"/", 3)
		if four["rs1"] != 3 || six["rs2"] != 3 {
			t.Errorf("port %s: IPv4 is answered by %v, IPv6 by %v", port, four, six)
		}
	}
	stats := c.rules("-Ln --stats --exact -f 7") + c.rules("-Ln --stats --exact -f 7 -6")
	if strings.Count(stats, "FWM  7 ") != 2 || !strings.Contains(stats, "FWM  7 IPv6  ") {
		t.Errorf("two services are listed as\n%s", stats)
	}
	c.rules("-D -f 7")
	if got := c.getFrom("http://["+vip6+"]/", 1); got["rs2"] != 1 {
		t.Errorf("IPv6 after the end of the IPv4 service: %v", got)
	}
	c.rules("--delete-mark 7 -t VIP:80-81")
	c.ipvsadm("-A -f 7", "").want(t, 255).says(t, "shunt ipvsadm --add-mark 7 -t 172.16.16.172:80")
}
