// SPDX-License-Identifier: MIT

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// attack is one kind of flood, and the ways out of the data plane by which its
// packets leave when it does what it is meant to do.
type attack struct {
	name     string
	frame    func(*rand.Rand) []byte
	verdicts []string
	table    string // that it fills; none if it makes no connections
}

func attacks(g forged) []attack {
	const narrow, wide = "connections", "wide_connections"
	return []attack{
		{"SYN", g.syn, []string{"forward_new", "forward_untracked"}, narrow},
		{"TCP without SYN", g.stray, []string{"forward_adopted", "forward_untracked"}, narrow},
		{"UDP", g.datagram, []string{"forward_new", "forward_untracked"}, narrow},
		{"fragments", g.fragment, []string{"forward_new", "forward_untracked", "drop_parked", "drop_park_full", "drop_park_lost"}, narrow},
		{"ICMP", g.icmp, []string{"pass_protocol", "forward_related_to_all", "forward_related_by_hash"}, ""},
		{"SYN of IPv6", g.syn6, []string{"forward_new", "forward_untracked"}, wide},
		{"all together", g.any, []string{"forward_new", "forward_adopted", "forward_untracked", "drop_parked", "pass_protocol", "forward_related_to_all"}, narrow},
	}
}

// url is where new clients go during the attack.
func (a attack) url() string {
	if a.table == "wide_connections" {
		return "http://[" + lab.VIP6().String() + "]/"
	}
	return url("/")
}

const (
	tableRoom   = 4096 // connections of IPv4
	leastFrames = 200_000
	leastRounds = 2
	realOnes    = 160      // new connections in each round
	daemonRoom  = 16 << 10 // KiB that the daemon may grow by
)

// TestFlood floods the director with packets from random sources, as fast as the
// kernel makes them, while real clients work. The table of connections is small, so
// that it is full in a moment. Connections that were there stay, with their
// servers; new clients are served; nothing grows; and when all is over, nothing of
// it is counted any more.
func TestFlood(t *testing.T) {
	c := newCluster(t, lab.Options{})
	v := c.victims()
	g := forged{c.Director.MAC(), c.Client.MAC()}
	memory, resident := c.mapMemory(), c.resident()
	if memory == 0 || resident == 0 {
		t.Fatalf("the maps take %d bytes, the daemon %d KiB: this test cannot tell", memory, resident)
	}
	for _, a := range attacks(g) {
		began := time.Now()
		v.exchange(a.name + ", before")
		before := c.verdicts()
		f := c.flood(a.frame)
		moved := func(name string) uint64 { return c.verdicts()[name] - before[name] }
		for _, name := range a.verdicts {
			eventually(t, a.name+" to be counted as "+name, func() bool { return moved(name) > 0 })
		}
		if a.table != "" && !c.full(a.table) {
			t.Errorf("%s: packets go untracked, but there is room in the table", a.name)
		}
		var got tally
		rounds := 0
		for ; rounds < leastRounds || f.sent.Load() < leastFrames; rounds++ {
			v.exchange(a.name + ", meanwhile")
			b, err := c.parallelTo(t.Context(), a.url(), realOnes)
			if err != nil {
				t.Fatal(err)
			}
			got.failed = append(got.failed, b.failed...)
		}
		if a.table != "" && !c.full(a.table) {
			t.Errorf("%s: the table was not full all the time", a.name)
		}
		sent := f.end(t)
		real := rounds * realOnes
		if len(got.failed) > real/20 {
			t.Errorf("%s: %d of %d new clients were not served, the first: %s", a.name, len(got.failed), real, got.failed[0])
		}
		v.exchange(a.name + ", after")
		all := uint64(0)
		for name, n := range c.verdicts() {
			all += n - before[name]
		}
		if all < tableRoom*8 {
			t.Errorf("%s: only %d packets came to the director of %d", a.name, all, sent)
		}
		grown := c.resident() - resident
		if grown > daemonRoom {
			t.Errorf("%s: the daemon takes %d KiB more than before the attacks, when it was %d", a.name, grown, resident)
		}
		if now := c.mapMemory(); now != memory {
			t.Errorf("%s: the maps take %d bytes, before %d", a.name, now, memory)
		}
		v.outlive(a.name)
		t.Logf("%s: %d frames sent, %d packets counted, %d of %d new clients served, the daemon has grown by %d KiB, %.1f s", a.name, sent, all, real-len(got.failed), real, grown, time.Since(began).Seconds())
	}
	v.finish()
	for _, bug := range []string{"continue", "aborted"} {
		if n := c.verdict(bug); n > 0 {
			t.Errorf("%d packets: %s", n, bug)
		}
	}
	c.settleAll()
}

// victims are real clients with something to lose: connections to each kind of
// service, and a download.
type victims struct {
	*cluster
	open []*openConnection
	d    *download
	want []byte
	udp  *datagrams
}

// victims sets up services of each kind with a small table, and the clients.
func (c *cluster) victims() *victims {
	c.t.Helper()
	v := &victims{cluster: c}
	vip6 := lab.VIP6().String()
	var servers []*nginx
	for _, rs := range c.RealServers {
		servers = append(servers, startNginx(c.t, rs, 80, 81))
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String(), "--vip", vip6).want(c.t, 0)
		c.answersDatagrams(rs)
	}
	v.want = put(c.t, servers, "long", longFile)
	c.start("--vip", vip6, "--connections", strconv.Itoa(tableRoom))
	c.rules("-A -t VIP:80 -s wlc", "-A -t VIP:81 -s rr -p 300", "-A -u VIP:53 -s rr", "-A -t ["+vip6+"]:80 -s wlc")
	for i, rs := range c.RealServers {
		c.rules(fmt.Sprintf("-a -t VIP:80 -r RS%d", i+1), fmt.Sprintf("-a -t VIP:81 -r RS%d:81", i+1), fmt.Sprintf("-a -u VIP:53 -r RS%d:53", i+1),
			fmt.Sprintf("-a -t [%s]:80 -r [%v]:80", vip6, rs.Addr6()))
	}
	v.open = c.openEach(20)
	v.d = c.download("/files/long")
	v.d.read(1 << 20)
	v.watch()
	return v
}

// openEach opens n connections to each of the web services, and asks on each.
func (c *cluster) openEach(n int) (all []*openConnection) {
	c.t.Helper()
	v4, v6 := lab.VIP().String(), lab.VIP6().String()
	for _, addr := range []string{v4 + ":80", v4 + ":81", "[" + v6 + "]:80"} {
		for range n {
			o := c.connectTo(addr)
			o.ask(c.t)
			all = append(all, o)
		}
	}
	return all
}

// datagrams is a port that asks the UDP service.
type datagrams struct {
	net.Conn
	server string
}

// askUDPFrom asks from that port, or from a new one.
func (c *cluster) askUDPFrom(d *datagrams) *datagrams {
	c.t.Helper()
	if d == nil {
		conn, err := c.Client.Dial(c.t.Context(), "udp", lab.VIP().String()+":53")
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { conn.Close() })
		d = &datagrams{Conn: conn}
	}
	d.SetDeadline(time.Now().Add(commandLimit))
	if _, err := fmt.Fprintln(d, "x"); err != nil {
		c.t.Fatal(err)
	}
	b := make([]byte, 1500)
	n, err := d.Read(b)
	if err != nil {
		c.t.Fatal(err)
	}
	name, _, _ := strings.Cut(string(b[:n]), " ")
	return &datagrams{d.Conn, name}
}

// watch has each real server count packets of connections that are another's. They
// also drop there what nobody real has sent: how much they can take is not what
// is tested.
func (v *victims) watch() {
	v.t.Helper()
	theirs := map[string]map[string][]string{} // by server and port of the service: the clients' ports
	add := func(server, service string, from net.Addr) {
		if theirs[server] == nil {
			theirs[server] = map[string][]string{}
		}
		port := netip.MustParseAddrPort(from.String()).Port()
		theirs[server][service] = append(theirs[server][service], strconv.Itoa(int(port)))
	}
	for _, o := range v.open {
		_, service, _ := net.SplitHostPort(o.RemoteAddr().String())
		if netip.MustParseAddrPort(o.RemoteAddr().String()).Addr().Is6() {
			service += "six"
		}
		add(o.server, service, o.LocalAddr())
	}
	from := netip.MustParseAddrPort(v.d.from)
	add(v.servedBy(v.d), "80", net.TCPAddrFromAddrPort(from))
	for _, rs := range v.RealServers {
		rules := ""
		for server, services := range theirs {
			counter := "wrong"
			if server == rs.Name() {
				counter = "right"
			}
			for service, clients := range services {
				port, six := strings.CutSuffix(service, "six")
				match := fmt.Sprintf("ip saddr %v", v.Client.Addr())
				if six {
					match = fmt.Sprintf("ip6 saddr %v", v.Client.Addr6())
				}
				rules += fmt.Sprintf("\t\t%s tcp dport %s tcp sport { %s } counter name %s\n", match, port, strings.Join(clients, ", "), counter)
			}
		}
		text := fmt.Sprintf(`table inet witness {
	counter right { }
	counter wrong { }
	counter forged { }
	chain arriving {
		type filter hook prerouting priority raw
%s		ip saddr 20.0.0.0-99.255.255.255 counter name forged drop
		ip6 saddr 2001:db8:ff00::/40 counter name forged drop
	}
}
`, rules)
		commandWith(v.t, rs, nil, text, "nft", "-f", "-").want(v.t, 0)
	}
}

var nftPackets = regexp.MustCompile(`packets (\d+)`)

// witnessed is what a real server has counted.
func (v *victims) witnessed(rs *lab.Node, counter string) int {
	v.t.Helper()
	n := nftPackets.FindStringSubmatch(v.sh(rs, "nft list counter inet witness "+counter))
	if n == nil {
		v.t.Fatalf("%s has no counter %s", rs.Name(), counter)
	}
	packets, _ := strconv.Atoi(n[1])
	return packets
}

// exchange has all connections do something, and looks for packets that went to
// the wrong server.
func (v *victims) exchange(when string) {
	v.t.Helper()
	for _, o := range v.open {
		o.ask(v.t)
	}
	v.d.read(64 << 10)
	v.askUDPAgain(when)
	for _, rs := range v.RealServers {
		if n := v.witnessed(rs, "wrong"); n > 0 {
			v.t.Errorf("%s: %d packets of connections of other servers came to %s", when, n, rs.Name())
		}
		if v.witnessed(rs, "right") == 0 {
			v.t.Errorf("%s: %s has seen nothing of its connections, so nothing is known", when, rs.Name())
		}
	}
}

// askUDPAgain asks from the same port, once more if a datagram is lost: nobody
// promised that none is.
func (v *victims) askUDPAgain(when string) {
	v.t.Helper()
	if v.udp == nil {
		v.udp = v.askUDPFrom(nil)
	}
	b := make([]byte, 1500)
	for range 20 {
		v.udp.SetDeadline(time.Now().Add(time.Second))
		if _, err := fmt.Fprintln(v.udp, "x"); err != nil {
			v.t.Fatal(err)
		}
		n, err := v.udp.Read(b)
		if err != nil {
			continue
		}
		if name, _, _ := strings.Cut(string(b[:n]), " "); name != v.udp.server {
			v.t.Errorf("%s: datagrams of one port went to %s and then to %s", when, v.udp.server, name)
		}
		return
	}
	v.t.Fatalf("%s: no datagram of 20 was answered", when)
}

// outlive lets so much time pass that all that is left of a flood expires, but not
// the connections that are used: those are exactly what is counted then.
func (v *victims) outlive(name string) {
	v.t.Helper()
	v.udp = nil // lives for 300 s
	want := map[string]uint64{}
	for range 2 {
		for _, o := range v.open {
			o.ask(v.t)
		}
		v.d.read(1 << 20)
		v.shunt(v.Director, "debug", "advance-clock", "850s").want(v.t, 0)
	}
	for _, o := range v.open {
		want[o.server]++
	}
	want[v.servedBy(v.d)]++
	eventually(v.t, name+": the counters to be exact", func() bool {
		got, inactive := map[string]uint64{}, uint64(0)
		for service, servers := range v.table("") {
			for addr, r := range servers {
				if addr == "" {
					continue
				}
				for _, rs := range v.RealServers {
					if at := netip.MustParseAddrPort(addr).Addr(); at == rs.Addr() || at == rs.Addr6() {
						got[rs.Name()] += r[1]
						if !strings.HasPrefix(service, "UDP") || r[1] != 0 {
							inactive += r[2]
						}
					}
				}
			}
		}
		return inactive == 0 && len(got) == len(want) && got["rs1"] == want["rs1"] && got["rs2"] == want["rs2"]
	})
}

// finish ends all connections, of which none was lost.
func (v *victims) finish() {
	v.t.Helper()
	v.d.finish(v.want)
	for _, o := range v.open {
		o.ask(v.t)
		o.Close()
	}
	for _, rs := range v.RealServers {
		if v.witnessed(rs, "forged") == 0 {
			v.t.Errorf("nothing of the floods came to %s", rs.Name())
		}
	}
}

func (c *cluster) verdicts() map[string]uint64 {
	c.t.Helper()
	all := map[string]uint64{}
	for _, v := range c.status().Verdicts {
		all[v.Name] = v.Packets
	}
	return all
}

// full tells whether a table has hardly a free place. It is never quite full: a
// packet that finds its bucket full does not look for another.
func (c *cluster) full(table string) bool {
	c.t.Helper()
	for _, u := range c.status().Connections {
		if u.Name == table {
			return u.Used > u.Capacity/100*95
		}
	}
	return false
}

// resident is the daemon's memory in KiB.
func (c *cluster) resident() int {
	c.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.status().PID))
	if err != nil {
		c.t.Fatal(err)
	}
	n := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if n == nil {
		return 0
	}
	kib, _ := strconv.Atoi(string(n[1]))
	return kib
}

// mapMemory is what all maps that the daemon has open take, in bytes, each once.
func (c *cluster) mapMemory() (sum int) {
	c.t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", c.status().PID))
	if err != nil {
		c.t.Fatal(err)
	}
	field := func(text, name string) string {
		_, after, _ := strings.Cut(text, name+":")
		value, _, _ := strings.Cut(after, "\n")
		return strings.TrimSpace(value)
	}
	seen := map[string]bool{}
	for _, path := range infos {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // closed meanwhile
		}
		id, bytes := field(string(b), "map_id"), field(string(b), "memlock")
		if field(string(b), "map_type") == "" || seen[id] {
			continue
		}
		seen[id] = true
		n, err := strconv.Atoi(bytes)
		if err != nil {
			c.t.Fatalf("a map's memory: %q", bytes)
		}
		sum += n
	}
	return sum
}
