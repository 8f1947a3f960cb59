// SPDX-License-Identifier: MIT

package dataplane

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

func itoa(n int) string { return strconv.Itoa(n) }

// awaitPrograms waits until so many programs of tc are on an interface: the kernel
// ends a link a moment after its last reference.
func awaitPrograms(t *testing.T, index int, where ebpf.AttachType, want int) {
	t.Helper()
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		q, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: where})
		if err != nil {
			t.Fatal(err)
		}
		if len(q.Programs) == want {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("interface %d, %v: %d programs, want %d", index, where, len(q.Programs), want)
		}
	}
}

// The second VIP of the tests below.
var (
	otherVIP  = netip.MustParseAddr("172.16.16.171")
	otherVIP6 = netip.MustParseAddr("2001:db8:16::171")
)

// checkSite is a lab whose director asks its real servers at the VIPs.
type checkSite struct {
	*lab.Cluster
	t    *testing.T
	path *CheckPath
}

func newCheckSite(t *testing.T, o lab.Options) *checkSite {
	t.Helper()
	s := &checkSite{Cluster: labtest.Up(t, o), t: t}
	s.sh(s.Director, `echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter
		ip addr add %v/32 dev eth0; ip addr add %v/32 dev eth0
		ip addr add %v/128 dev eth0 nodad preferred_lft 0; ip addr add %v/128 dev eth0 nodad preferred_lft 0`,
		lab.VIP(), otherVIP, lab.VIP6(), otherVIP6)
	for _, n := range s.RealServers {
		s.vips(n, "add")
	}
	err := s.Director.Do(func() (err error) {
		s.path, err = OpenCheckPath(nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.path.Close() })
	s.attach("eth0")
	return s
}

// vips puts the VIPs on a node's lo, as method loopback does, or takes them off.
func (s *checkSite) vips(n *lab.Node, what string) {
	s.t.Helper()
	s.sh(n, `echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore; echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce
		for a in %v/32 %v/32 %v/128 %v/128; do ip addr %s $a dev lo; done`,
		lab.VIP(), otherVIP, lab.VIP6(), otherVIP6, what)
}

func (s *checkSite) sh(n *lab.Node, format string, args ...any) {
	s.t.Helper()
	if out, err := n.Command(s.t.Context(), "sh", "-ec", fmt.Sprintf(format, args...)).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", n.Name(), err, out)
	}
}

func (s *checkSite) attach(names ...string) {
	s.t.Helper()
	err := s.Director.Do(func() error {
		var all []int
		for _, name := range names {
			i, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			all = append(all, i.Index)
		}
		return s.path.Interfaces(all)
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// listen has a node say its name to whoever connects, or sends a datagram: in
// front of that, which it sends back.
func (s *checkSite) listen(n *lab.Node, at netip.AddrPort) {
	s.t.Helper()
	l, err := n.Listen("tcp", at.String())
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := n.ListenPacket("udp", at.String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close(); c.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, n.Name())
			go func() { io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	go func() {
		b := make([]byte, 1<<16)
		for {
			size, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(append([]byte(n.Name()+"\n"), b[:size]...), from)
		}
	}()
}

// to is a real server's address of the VIP's family.
func to(n *lab.Node, vip netip.Addr) netip.Addr {
	if vip.Is6() {
		return n.Addr6()
	}
	return n.Addr()
}

// control gives a socket the mark of a VIP, and no wait after its end.
func (s *checkSite) control(vip netip.Addr) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		mark, err := s.path.Mark(vip)
		if err != nil {
			return err
		}
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
		}), err)
	}
}

// dial is a check's: to the RIP, with the VIP's mark, from a port of its own.
func (s *checkSite) dial(network string, vip netip.Addr, n *lab.Node, port uint16, wait time.Duration) (c net.Conn, err error) {
	d := net.Dialer{Timeout: wait, Control: s.control(vip), LocalAddr: &net.TCPAddr{}}
	if network == "udp" {
		d.LocalAddr = &net.UDPAddr{}
	}
	err = s.Director.Do(func() (err error) {
		c, err = d.DialContext(s.t.Context(), network, netip.AddrPortFrom(to(n, vip), port).String())
		return err
	})
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	return c, err
}

const (
	patience = 10 * time.Second       // with what has to come
	moment   = 200 * time.Millisecond // in which comes what is wrong
)

// ask returns the name of who answers a check.
func (s *checkSite) ask(network string, vip netip.Addr, n *lab.Node, port uint16, wait time.Duration) (string, error) {
	if network == "icmp" {
		return s.ping(vip, n, wait)
	}
	c, err := s.dial(network, vip, n, port, wait)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return s.name(network, c, wait)
}

func (s *checkSite) name(network string, c net.Conn, wait time.Duration) (string, error) {
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	c.SetReadDeadline(time.Now().Add(wait))
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

// pings are numbered, so that each has an identifier of its own.
var pings atomic.Uint32

// ping returns the node's name if it answers, from its RIP.
func (s *checkSite) ping(vip netip.Addr, n *lab.Node, wait time.Duration) (string, error) {
	network, kind, answer := "ip4:icmp", byte(8), byte(0)
	if vip.Is6() {
		network, kind, answer = "ip6:ipv6-icmp", 128, 129
	}
	var c net.PacketConn
	err := s.Director.Do(func() (err error) {
		c, err = (&net.ListenConfig{Control: s.control(vip)}).ListenPacket(s.t.Context(), network, "")
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	ask := []byte{kind, 0, 0, 0, 0x12, byte(pings.Add(1)), 0, 1}
	binary.BigEndian.PutUint16(ask[2:], ^uint16(wordSum(ask))) // of ICMPv6 the kernel does it
	if _, err := c.WriteTo(ask, &net.IPAddr{IP: to(n, vip).AsSlice()}); err != nil {
		return "", err
	}
	c.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 100)
	for {
		size, from, err := c.ReadFrom(b)
		if err != nil {
			return "", err
		}
		if size == len(ask) && b[0] == answer && b[5] == ask[5] && from.String() == to(n, vip).String() {
			return n.Name(), nil
		}
	}
}

// wantFrom has a check go well.
func (s *checkSite) wantFrom(network string, vip netip.Addr, n *lab.Node, port uint16) {
	s.t.Helper()
	if name, err := s.ask(network, vip, n, port, patience); err != nil || name != n.Name() {
		s.t.Errorf("%s to %v on %s: %q answered, %v; %v", network, vip, n.Name(), name, err, s.counts())
	}
}

func (s *checkSite) counts() map[string]uint64 {
	s.t.Helper()
	return (&checkBench{CheckPath: s.path, t: s.t}).counts()
}

// openPlane has the director run a data plane with services of both families at
// port 80 of the VIP.
func (s *checkSite) openPlane(mode Mode) *Plane {
	s.t.Helper()
	rules := lvs.NewTable()
	for _, vip := range []netip.Addr{lab.VIP(), lab.VIP6()} {
		for _, protocol := range []lvs.Protocol{lvs.TCP, lvs.UDP} {
			id := lvs.ServiceID{Protocol: protocol, Addr: vip, Port: 80}
			mustChange(rules, lvs.Change{Operation: lvs.AddService, Service: lvs.VirtualService{ServiceID: id, Scheduler: lvs.RoundRobin}})
			for _, n := range s.RealServers {
				mustChange(rules, lvs.Change{Operation: lvs.AddServer, Service: lvs.VirtualService{ServiceID: id},
					Server: lvs.RealServer{ServerID: lvs.ServerID{Addr: to(n, vip), Port: 80}, Forward: lvs.DirectRouting, Weight: 1}})
			}
		}
	}
	var p *Plane
	pins := bpffs(s.t)
	err := s.Director.Do(func() (err error) {
		p, err = Open(Options{Instance: "checked", PinDir: pins, Interfaces: []string{"eth0"}, Mode: mode, Connections: 1 << 12})
		if err != nil {
			return err
		}
		eth0, err := net.InterfaceByName("eth0")
		for _, n := range s.RealServers {
			for _, a := range []netip.Addr{n.Addr(), n.Addr6()} {
				err = errors.Join(err, p.SetNeighbour(Neighbour{Addr: a, Interface: eth0.Index, Source: eth0.HardwareAddr, MAC: n.MAC()}))
			}
		}
		return errors.Join(err, p.Apply(rules))
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// both are the VIP's two addresses.
func both() []netip.Addr { return []netip.Addr{lab.VIP(), lab.VIP6()} }

// TestCheckPathLive: whatever the data plane on the same interface is, and
// whichever was there first, a check finds the server that it is for.
func TestCheckPathLive(t *testing.T) {
	s := newCheckSite(t, lab.Options{RealServers: 4})
	for _, n := range s.RealServers {
		for _, a := range []netip.Addr{lab.VIP(), otherVIP, lab.VIP6(), otherVIP6} {
			s.listen(n, netip.AddrPortFrom(a, 80))
		}
	}
	every := func(t *testing.T) {
		t.Helper()
		s := *s
		s.t = t
		for _, vip := range both() {
			for _, n := range s.RealServers[1:3] {
				for _, network := range []string{"tcp", "udp", "icmp"} {
					s.wantFrom(network, vip, n, 80)
				}
			}
		}
	}
	t.Run("no data plane", every)
	for _, mode := range []Mode{Native, Generic, TC} {
		t.Run(string(mode), func(t *testing.T) {
			p := s.openPlane(mode)
			defer p.Remove()
			every(t)
			s.attach() // and behind it
			s.attach("eth0")
			every(t)
			for _, vip := range both() { // which does its own work
				c, err := s.Client.Dial(t.Context(), "tcp", netip.AddrPortFrom(vip, 80).String())
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
			}
			if mode == Native {
				t.Run("a thousand at once", func(t *testing.T) { s.thousand(t) })
			}
		})
	}
	if c := s.counts(); c["check_drop_taken"]+c["check_drop_failed"]+c["check_drop_unsupported"]+c["check_drop_unknown"] != 0 {
		t.Errorf("dropped: %v", c)
	}

	t.Run("large bodies", func(t *testing.T) { // whose segments and sums are made behind the program, and looked at
		for _, vip := range both() {
			s.echo(s.RealServers[0], vip)
			s.exchange(vip, s.RealServers[0])
		}
	})
	t.Run("answers and questions in fragments", func(t *testing.T) {
		for _, vip := range both() {
			c, err := s.dial("udp", vip, s.RealServers[0], 80, patience)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			question := bytes.Repeat([]byte("0123456789"), 400)
			if _, err := c.Write(question); err != nil {
				t.Fatal(err)
			}
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			b := make([]byte, 1<<16)
			if size, err := c.Read(b); err != nil || string(b[:size]) != "rs1\n"+string(question) {
				t.Errorf("%v: %d bytes, %v; %v", vip, size, err, s.counts())
			}
		}
	})
	t.Run("the firewall marks everything", func(t *testing.T) {
		s.sh(s.Director, "nft 'add table inet m; add chain inet m o { type filter hook output priority 0; }; add rule inet m o meta mark set 1'")
		defer s.sh(s.Director, "nft delete table inet m")
		before := s.counts()["check_sent"]
		every(t)
		if s.counts()["check_sent"] == before {
			t.Error("checks did not go through the VIP")
		}
	})
}

// thousand has a thousand connections at once, to four servers of two VIPs of each
// family; each has to be its own server's.
func (s *checkSite) thousand(t *testing.T) {
	const workers, each = 40, 25
	var dialed, all sync.WaitGroup
	errs := make(chan error, workers*each)
	dialed.Add(workers * each)
	for w := range workers {
		all.Go(func() {
			for i := range each {
				n := s.RealServers[(w+i)%4]
				vip := []netip.Addr{lab.VIP(), otherVIP, lab.VIP6(), otherVIP6}[i%4]
				c, err := s.dial("tcp", vip, n, 80, patience)
				dialed.Done()
				if err != nil {
					errs <- fmt.Errorf("%v on %s: %w", vip, n.Name(), err)
					continue
				}
				all.Go(func() {
					defer c.Close()
					dialed.Wait() // all are open now
					if name, err := s.name("tcp", c, patience); err != nil || name != n.Name() {
						errs <- fmt.Errorf("%v on %s: %q, %w", vip, n.Name(), name, err)
					}
				})
			}
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

// TestCheckPathFinds: each way in which a VIP does not work on a real server whose
// RIP does fails the check, in its own way.
func TestCheckPathFinds(t *testing.T) {
	s := newCheckSite(t, lab.Options{RealServers: 3})
	p := s.openPlane(Native)
	defer p.Remove()
	s.sh(s.Director, `echo 1 > /proc/sys/net/ipv4/ip_forward`) // as many a director has it
	lost, ripOnly, well := s.RealServers[0], s.RealServers[1], s.RealServers[2]
	for _, vip := range both() {
		for _, n := range []*lab.Node{lost, ripOnly, well} {
			s.listen(n, netip.AddrPortFrom(to(n, vip), 80))
		}
		s.listen(well, netip.AddrPortFrom(vip, 80))
		s.listen(lost, netip.AddrPortFrom(vip, 80)) // and it goes on to
	}
	for _, vip := range both() {
		for _, n := range s.RealServers { // at the RIP, all is well
			c, err := s.Director.Dial(t.Context(), "tcp", netip.AddrPortFrom(to(n, vip), 80).String())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		for _, network := range []string{"tcp", "udp", "icmp"} {
			s.wantFrom(network, vip, well, 80)
			s.wantFrom(network, vip, lost, 80)
		}
		// Nobody listens at the VIP: refused, by a reset and by an ICMP error.
		for _, network := range []string{"tcp", "udp"} {
			if _, err := s.ask(network, vip, ripOnly, 80, patience); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s to %v, which only listens at its RIP: %v", network, vip, err)
			}
		}
	}

	s.vips(lost, "del")
	for _, vip := range both() {
		for _, network := range []string{"tcp", "udp", "icmp"} {
			s.silent(network, vip, lost)
			s.wantFrom(network, vip, well, 80)
		}
	}

	// It forwards packets: to who has the VIP, the director, which has other servers.
	s.sh(lost, "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
	before := verdictCounts(t, p)
	for _, vip := range both() {
		// Told at once, as far as the kernel tells the socket.
		if name, err := s.ask("tcp", vip, lost, 80, patience); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("tcp to %v on a server that forwards: %q, %v", vip, name, err)
		}
		s.silent("udp", vip, lost)
		s.silent("icmp", vip, lost)
	}
	v := verdictCounts(t, p)
	forwarded := v[bpfVerdictVERDICT_FORWARD_NEW] - before[bpfVerdictVERDICT_FORWARD_NEW]
	ended := v[bpfVerdictVERDICT_REPLY_TTL] - before[bpfVerdictVERDICT_REPLY_TTL]
	if ended == 0 || forwarded != 0 {
		t.Errorf("%d packets came back and ended here, %d were forwarded; without the former the test shows nothing", ended, forwarded)
	}
}

// silent has a check get no answer for a moment.
func (s *checkSite) silent(network string, vip netip.Addr, n *lab.Node) {
	s.t.Helper()
	name, err := s.ask(network, vip, n, 80, moment)
	if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
		s.t.Errorf("%s to %v on %s, which does not have it: %q, %v", network, vip, n.Name(), name, err)
	}
}

// TestCheckPathRedirect: method redirect, with nginx: no VIP on the server, and
// the port is another one.
func TestCheckPathRedirect(t *testing.T) {
	s := newCheckSite(t, lab.Options{RealServers: 1})
	rs := s.RealServers[0]
	s.vips(rs, "del")
	s.nginx(rs, 8080, "redirected\n")
	s.sh(rs, `nft 'add table inet r; add chain inet r p { type nat hook prerouting priority dstnat; };
		add rule inet r p ip daddr %v tcp dport 80 redirect to :8080; add rule inet r p ip6 daddr %v tcp dport 80 redirect to :8080'`,
		lab.VIP(), lab.VIP6())
	for _, vip := range both() {
		if got, err := s.get(vip, rs, 80); err != nil || got != "redirected\n" {
			t.Errorf("%v: %q, %v; %v", vip, got, err, s.counts())
		}
	}
	s.sh(rs, "nft flush table inet r")
	for _, vip := range both() {
		s.silent("tcp", vip, rs)
	}
}

// nginx runs nginx on a node, with one answer for all.
func (s *checkSite) nginx(n *lab.Node, port int, answer string) {
	s.t.Helper()
	dir := s.t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr;
		events {}
		http { access_log off; server { listen %[2]d; listen [::]:%[2]d; location / { return 200 %[3]q; } } }`, dir, port, answer)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	c := n.Command(context.WithoutCancel(s.t.Context()), "nginx", "-e", "stderr", "-c", conf)
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Stop() })
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		probe, err := n.Dial(s.t.Context(), "tcp", net.JoinHostPort(n.Addr().String(), strconv.Itoa(port)))
		if err == nil {
			probe.Close()
			return
		}
		if time.Now().After(late) {
			s.t.Fatalf("nginx: %v", err)
		}
	}
}

// client is an HTTP client whose connections go to the VIP on a server.
func (s *checkSite) client(vip netip.Addr, n *lab.Node, port uint16) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, _ string) (net.Conn, error) {
			return s.dial(network, vip, n, port, patience)
		}}}
}

func (s *checkSite) get(vip netip.Addr, n *lab.Node, port uint16) (string, error) {
	r, err := s.client(vip, n, port).Get("http://" + netip.AddrPortFrom(vip, port).String() + "/")
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

// TestCheckPathLarge: bodies of many segments both ways, on interfaces that take
// them whole and unsummed; also by a bridge, on top of a port that has the programs,
// too. (A VLAN's device is the same; this kernel may have none.)
func TestCheckPathLarge(t *testing.T) {
	s := newCheckSite(t, lab.Options{RealServers: 1, Offload: true})
	rs := s.RealServers[0]
	for _, vip := range both() {
		s.echo(rs, vip)
		s.exchange(vip, rs)
	}

	s.sh(s.Director, `ip link add b0 type bridge; ip link set b0 up address %[3]v; ip link set eth0 master b0
		for a in %[1]v/24 %[2]v/64; do ip addr del $a dev eth0; ip addr add $a dev b0 nodad; done`,
		s.Director.Addr(), s.Director.Addr6(), s.Director.MAC())
	for _, names := range [][]string{{"b0"}, {"eth0", "b0"}, {"eth0"}} {
		s.attach(names...)
		sent := s.counts()["check_sent"]
		for _, vip := range both() {
			s.exchange(vip, rs)
		}
		if s.counts()["check_sent"] == sent {
			t.Errorf("by %v checks did not go through the VIP", names)
		}
	}
}

func largeBody() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 100<<10/16) }

// echo serves HTTP at the VIP: what is sent comes back.
func (s *checkSite) echo(n *lab.Node, vip netip.Addr) {
	s.t.Helper()
	l, err := n.Listen("tcp", netip.AddrPortFrom(vip, 8080).String())
	if err != nil {
		s.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err == nil && bytes.Equal(b, largeBody()) {
			w.Write(b)
		}
	})}
	go server.Serve(l)
	s.t.Cleanup(func() { server.Close() })
}

func (s *checkSite) exchange(vip netip.Addr, n *lab.Node) {
	s.t.Helper()
	r, err := s.client(vip, n, 8080).Post("http://"+netip.AddrPortFrom(vip, 8080).String()+"/", "text/plain", bytes.NewReader(largeBody()))
	if err != nil {
		s.t.Errorf("%v: %v; %v", vip, err, s.counts())
		return
	}
	defer r.Body.Close()
	if b, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(b, largeBody()) {
		s.t.Errorf("%v: %d bytes came back, %v; %v", vip, len(b), err, s.counts())
	}
}

// TestCheckPathNarrow: the VIP is in a container behind the real server, on a way
// that takes less than the director's. The errors about that have to reach the
// check's socket.
func TestCheckPathNarrow(t *testing.T) {
	s := newCheckSite(t, lab.Options{RealServers: 1, Offload: true})
	rs := s.RealServers[0]
	container, err := s.Add("container")
	if err != nil {
		t.Fatal(err)
	}
	s.vips(rs, "del")
	s.vips(container, "add")
	s.sh(rs, `echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
		ip link add c0 type veth peer name c1 netns %s; echo 1 > /proc/sys/net/ipv6/conf/c0/addr_gen_mode
		ip addr add 10.9.9.1/30 dev c0; for a in 2001:db8:9::1 fe80::1; do ip addr add $a/64 dev c0 nodad; done
		ip link set c0 up mtu 1280
		ip route add %v via 10.9.9.2; ip route add %v via 2001:db8:9::2`, container.Namespace(), lab.VIP(), lab.VIP6())
	s.sh(container, `echo 1 > /proc/sys/net/ipv6/conf/c1/addr_gen_mode
		ip addr add 10.9.9.2/30 dev c1; for a in 2001:db8:9::2 fe80::2; do ip addr add $a/64 dev c1 nodad; done; ip link set c1 up
		ip route add default via 10.9.9.1; ip route add default via 2001:db8:9::1`)
	for _, vip := range both() {
		errs := s.counts()["check_error"]
		s.echo(container, vip)
		s.exchange(vip, rs)
		if s.counts()["check_error"] == errs {
			t.Errorf("%v: no ICMP error about a check: the test shows nothing", vip)
		}
	}
}

const checkPathVariable = "SHUNT_TEST_CHECKPATH"

// TestCheckPathKilled: a daemon that is killed leaves nothing on the interface.
func TestCheckPathKilled(t *testing.T) {
	if os.Getenv(checkPathVariable) != "" {
		c, err := OpenCheckPath(nil)
		if err == nil {
			_, err = c.Mark(lab.VIP())
		}
		if err == nil {
			err = c.Interfaces([]int{loopback})
		}
		fmt.Println("ready", err)
		select {}
	}
	s := &checkSite{Cluster: labtest.Up(t, lab.Options{RealServers: -1}), t: t}
	c := s.Director.Command(context.WithoutCancel(t.Context()), os.Args[0], "-test.run=^TestCheckPathKilled$")
	c.Env = append(slices.Clone(os.Environ()), checkPathVariable+"=1")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "ready <nil>\n" {
		t.Errorf("%q", line)
	}
	here := func(want int) {
		t.Helper()
		err := s.Director.Do(func() error {
			for _, where := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				awaitPrograms(t, loopback, where, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	here(1)
	c.Process.Kill()
	c.Wait()
	here(0)
}
