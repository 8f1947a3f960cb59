// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// TestChecksOfRealPrograms checks servers of each kind that has a check, in two
// ways each: through the VIP and at the RIP. Then the real servers lose the VIPs:
// the former fail, and say why, and the latter do not notice.
func TestChecksOfRealPrograms(t *testing.T) {
	const (
		silence = "no connection to the VIP within 1s"
		nothing = "no answer within 1s"
		// A question for the A record of www.example, and what the answer has.
		question, answer = "0001 0100 0001 0000 0000 0000 03 777777 07 6578616d706c65 00 0001 0001", "c0000201"
	)
	c := newCluster(t, lab.Options{})
	holder, redirecting := c.RealServers[0], c.RealServers[1]
	services := []struct {
		name, address, protocol string
		check                   string // without what follows
		port                    string // another of the check at the RIP
		server                  *lab.Node
		reason                  string
	}{
		{"postgres", "VIP:5432", "tcp", "type: postgres, user: owner, database: postgres", "", holder, silence},
		{"redis", "VIP:6379", "tcp", "type: redis, role: master", "", holder, silence},
		{"dns", "VIP:53", "udp", "type: dns, query: www.example, answer: [192.0.2.1]", "", holder, nothing},
		{"dns-by-tcp", "VIP:53", "tcp", "type: dns, query: www.example, answer: [192.0.2.1]", "", holder, silence},
		{"udp", "VIP:54", "udp", fmt.Sprintf("type: udp, port: 53, send_hex: %q, contains_hex: %q", question, answer), "", holder, nothing},
		{"smtp", "VIP:25", "tcp", "type: smtp", "", holder, silence},
		{"tcp", "VIP:26", "tcp", `type: tcp, port: 25, regex: "^220 .*SMTP"`, "", holder, silence},
		{"http", "VIP:80", "tcp", "type: http, contains: rs1", "", holder, silence},
		{"https", "VIP:443", "tcp", "type: https", "", holder, silence},
		{"tls", "VIP:444", "tcp", "type: tls, port: 443, valid_for: 24h", "", holder, silence},
		{"http2", "VIP:445", "tcp", "type: http2, port: 443, contains: rs1", "", holder, silence},
		{"grpc", "VIP:50051", "tcp", "type: grpc, plain: true, service: shop", "", holder, silence},
		{"icmp", "VIP:81", "tcp", "type: icmp", "", holder, nothing},
		{"http-of-ipv6", "[VIP6]:80", "tcp", "type: http, contains: rs1", "", holder, silence},
		{"dns-of-ipv6", "[VIP6]:53", "udp", "type: dns, query: www.example, record: AAAA, answer: [\"2001:db8::1\"]", "", holder, nothing},
		{"icmp-of-ipv6", "[VIP6]:81", "tcp", "type: icmp", "", holder, nothing},
		{"local", "VIP:82", "tcp", "type: http, contains: director", "", c.Director, "connection refused"},
		{"redirected", "VIP:8000", "tcp", "type: http, contains: rs2", ", port: 8080", redirecting, silence},
		{"redirected-udp", "VIP:8053", "udp", "type: dns, query: www.example, answer: [192.0.2.1]", ", port: 53", redirecting, nothing},
		{"redirected-of-ipv6", "[VIP6]:8000", "tcp", "type: http, contains: rs2", ", port: 8080", redirecting, silence},
	}
	site := "director: {interfaces: [eth0], connections: 65536}\ndefaults:\n  check: {interval: 1s, timeout: 1s, rise: 1, fall: 2}\nservices:\n"
	for _, s := range services {
		rip := s.server.Addr().String()
		if strings.HasPrefix(s.address, "[") {
			rip = s.server.Addr6().String()
		}
		site += fmt.Sprintf("  - name: %s\n    address: %q\n    protocol: %s\n    servers: [%q]\n    checks: [{name: through, %s}, {name: direct, target: rip, %[5]s%[6]s}]\n",
			s.name, s.address, s.protocol, rip, s.check, s.port)
	}

	vips := []string{"--vip", lab.VIP().String(), "--vip", lab.VIP6().String()}
	startPostgreSQL(t, holder)
	startRedis(t, holder)
	startSMTP(t, holder)
	startDNS(t, holder)
	startDNS(t, redirecting)
	startGRPC(t, holder)
	page := newNginx(t, holder)
	page.certify(t, time.Now().Add(36*time.Hour))
	page.listen(t, "", 80)
	startNginx(t, redirecting, 8080)
	own := newNginx(t, c.Director) // the director is a real server, too
	own.configure(t, "listen 0.0.0.0:82;")
	own.start(t, "127.0.0.1", 82)
	ready(t, holder, 5432, 6379, 53, 25)
	ready(t, redirecting, 53)
	setUp := func() {
		c.shunt(holder, append([]string{"realserver", "start"}, vips...)...).want(t, 0)
		c.shunt(redirecting, append([]string{"realserver", "start", "--method", "redirect", "--port", "8000/tcp:8080", "--port", "8053/udp:53"}, vips...)...).want(t, 0)
	}
	setUp()
	c.director("start", "--config", c.site(site))

	r := &reports{c: c}
	all := func(when string, is func(api.ServerHealth) bool) (all []api.ServiceHealth) {
		t.Helper()
		eventually(t, when, func() bool {
			all = r.now(t)
			return !slices.ContainsFunc(all, func(s api.ServiceHealth) bool { return !is(s.Servers[0]) })
		})
		return all
	}
	well := func(h api.ServerHealth) bool {
		return isUp(h) && !slices.ContainsFunc(h.Checks, func(c health.CheckStatus) bool { return !c.OK || !c.Up || c.Successes < 2 })
	}
	all("all to be well", well)
	c.shunt(c.Director, "health").want(t, 0)

	c.sh(holder, c.spell("ip addr del VIP/32 dev lo; ip addr del "+lab.VIP6().String()+"/128 dev lo"))
	c.shunt(redirecting, "realserver", "stop").want(t, 0)
	own.stop(t)
	own.configure(t, c.spell("listen DIP:82;"))
	own.start(t, c.Director.Addr().String(), 82)
	ran := map[string]uint64{}
	for _, s := range r.now(t) {
		ran[s.Name] = s.Servers[0].Checks[1].Runs
	}
	broken := all("all checks through the VIP to fail", isDown)
	for i, s := range broken {
		h, want := s.Servers[0], services[i]
		if s.Name != want.name || h.Reason != want.reason || h.Failure == nil || h.Failure.Check != "through" {
			t.Errorf("%s is down because of %q (%+v), want %q", s.Name, h.Reason, h.Failure, want.reason)
		}
		// The cause comes before what follows from it.
		if events := c.history(s.Name); len(events) != 2 || events[0].Subject != health.OfServer || events[1].Subject != health.OfService {
			t.Errorf("%s: its history is %v", s.Name, events)
		}
		if rip := h.Checks[1]; !rip.Up || !rip.OK || rip.Failed > 0 && want.server != c.Director || rip.Runs == ran[s.Name] {
			t.Errorf("%s: at the RIP it is not well: %+v", s.Name, rip)
		}
	}
	c.shunt(c.Director, "health").want(t, 1).says(t, silence+" (check through)", "0 of 1 real servers are fit")
	setUp()
	own.stop(t)
	own.configure(t, "listen 0.0.0.0:82;")
	own.start(t, "127.0.0.1", 82)
	all("all to be well again", well)
	c.shunt(c.Director, "health").want(t, 0)
}

// background runs a program of Debian's on a machine until the test ends.
func background(t testing.TB, n *lab.Node, change func(*lab.Cmd), name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := n.Command(ctx, name, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir = &said, &said, "/"
	if change != nil {
		change(cmd)
	}
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatalf("%s: %v (is its Debian package installed? make peers)", name, err)
	}
	t.Cleanup(func() {
		cancel()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s of %s: %s", name, n.Name(), said.String())
		}
	})
}

// ready waits until a machine takes connections to these ports.
func ready(t testing.TB, n *lab.Node, ports ...int) {
	t.Helper()
	for _, p := range ports {
		eventually(t, fmt.Sprintf("port %d of %s", p, n.Name()), func() bool {
			conn, err := n.Dial(t.Context(), "tcp", address("127.0.0.1", p))
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
}

// startPostgreSQL has PostgreSQL at port 5432 of all addresses; it does not run as
// root.
func startPostgreSQL(t testing.TB, n *lab.Node) {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		t.Fatal("PostgreSQL is not installed: apt-get install postgresql")
	}
	const nobody = 65534
	bin := bins[len(bins)-1]
	dir, err := os.MkdirTemp("", "e2e-postgres-")
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		err = os.Chown(dir, nobody, nobody)
	}
	if err != nil {
		t.Fatal(err)
	}
	asNobody := func(c *exec.Cmd) {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		c.Dir = "/"
	}
	initdb := n.Command(t.Context(), bin+"/initdb", "-D", dir+"/data", "--no-sync", "--auth=trust", "-U", "owner", "--locale=C", "-E", "SQL_ASCII")
	asNobody(initdb.Cmd)
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	if err := os.WriteFile(dir+"/data/pg_hba.conf", []byte("host all all all trust\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	background(t, n, func(c *lab.Cmd) {
		asNobody(c.Cmd)
		c.Cancel = func() error { return c.Process.Signal(os.Interrupt) } // it does not wait for its sessions
	}, bin+"/postgres", "-D", dir+"/data", "-k", "", "-h", "*", "-F")
}

// startRedis has Redis at port 6379: redis-check-rdb is the server by another
// name, in a package that starts none.
func startRedis(t testing.TB, n *lab.Node) {
	t.Helper()
	background(t, n, func(c *lab.Cmd) { c.Args[0] = "redis-server" }, "redis-check-rdb", "--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "")
}

// startSMTP has an SMTP server at port 25.
func startSMTP(t testing.TB, n *lab.Node) {
	t.Helper()
	background(t, n, nil, "aiosmtpd", "-n", "-l", "0.0.0.0:25")
}

// startDNS has a DNS server at port 53, which knows www.example.
func startDNS(t testing.TB, n *lab.Node) {
	t.Helper()
	background(t, n, nil, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=nobody", "--pid-file=",
		"--local=/example/", "--host-record=www.example,192.0.2.1,2001:db8::1")
}

// startGRPC has a server at port 50051 whose service shop is well.
func startGRPC(t testing.TB, n *lab.Node) {
	t.Helper()
	l, err := n.Listen("tcp", ":50051")
	if err != nil {
		t.Fatal(err)
	}
	s, states := grpc.NewServer(), grpchealth.NewServer()
	states.SetServingStatus("shop", grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(s, states)
	go s.Serve(l)
	t.Cleanup(s.Stop)
}
