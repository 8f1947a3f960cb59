// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// The addresses of the reference topology. The interface is a namespace's lo,
// whose MAC address is zeros and whose index is 1, which is also what a test
// run says packets come in by.
var (
	vip       = netip.MustParseAddr("172.16.16.172")
	vip6      = netip.MustParseAddr("2001:db8:16::172")
	routerMAC = net.HardwareAddr{2, 0, 0, 0, 0, 0xfe}
	ownMAC    = net.HardwareAddr{0, 0, 0, 0, 0, 0}
)

const loopback = 1

// serverMAC is the MAC address that a test gives a real server.
func serverMAC(rip netip.Addr) net.HardwareAddr {
	a := rip.As16()
	return net.HardwareAddr{2, 1, a[12], a[13], a[14], a[15]}
}

// bpffs returns a directory for pins that goes with the test.
func bpffs(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bpf")
	p, err := openPins(dir)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// newPlane opens a data plane in a namespace of its own, on lo.
func newPlane(t testing.TB, o ...func(*Options)) *Plane {
	t.Helper()
	labtest.InNamespace(t)
	options := Options{Instance: "test", PinDir: bpffs(t), Interfaces: []string{"lo"}, Mode: Generic, Connections: 1 << 14}
	for _, f := range o {
		f(&options)
	}
	p, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// succession opens a data plane in a namespace of its own, and one after it at each
// call: the one before is left as by kill -9. With another size of the tables (0: the
// same) connections are carried over to maps made anew.
func succession(t testing.TB) (next func(connections uint32) *Plane) {
	t.Helper()
	labtest.InNamespace(t)
	o := Options{Instance: "test", PinDir: bpffs(t), Interfaces: []string{"lo"}, Mode: Generic}
	var p *Plane
	t.Cleanup(func() {
		if p != nil {
			p.Remove()
		}
	})
	return func(connections uint32) *Plane {
		t.Helper()
		if p != nil {
			p.Close()
		}
		o.Connections = connections
		var err error
		if p, err = Open(o); err != nil {
			t.Fatal(err)
		}
		return p
	}
}

// eachProgram runs a test with the program for XDP and with the one for tc. (To
// a test run native and generic XDP are the same; e2e has all three modes.)
func eachProgram(t *testing.T, test func(t *testing.T, p *Plane), o ...func(*Options)) {
	t.Helper()
	eachMode(t, func(t *testing.T, mode Mode) { test(t, newPlane(t, append(o, inMode(mode))...)) })
}

// eachMode is eachProgram for a test that opens its data planes itself.
func eachMode(t *testing.T, test func(t *testing.T, mode Mode)) {
	t.Helper()
	for _, mode := range []Mode{Generic, TC} {
		t.Run(string(mode), func(t *testing.T) { test(t, mode) })
	}
}

func inMode(m Mode) func(*Options) { return func(o *Options) { o.Mode = m } }

// table makes a table with one service, its servers added in the order given.
func table(protocol lvs.Protocol, scheduler lvs.Scheduler, servers ...lvs.RealServer) *lvs.Table {
	t := lvs.NewTable()
	id := lvs.ServiceID{Protocol: protocol, Addr: vip, Port: 80}
	mustChange(t, lvs.Change{Operation: lvs.AddService, Service: lvs.VirtualService{ServiceID: id, Scheduler: scheduler}})
	for _, s := range servers {
		mustChange(t, lvs.Change{Operation: lvs.AddServer, Service: lvs.VirtualService{ServiceID: id}, Server: s})
	}
	return t
}

// withPolicy gives all services of a table a policy.
func withPolicy(t *lvs.Table, p lvs.Policy) *lvs.Table {
	for _, s := range t.Services {
		s.Policy = p
	}
	return t
}

func mustChange(t *lvs.Table, c lvs.Change) {
	if err := t.Apply(c); err != nil {
		panic(err)
	}
}

// rip returns the n-th real server's address: 172.16.16.177 is the 0th.
func rip(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{172, 16, byte(16 + (177+n)/256), byte(177 + n)})
}

// rip6 is rip for IPv6, and table6 is table.
func rip6(n int) netip.Addr {
	a := netip.MustParseAddr("2001:db8:16::").As16()
	b := rip(n).As4()
	copy(a[12:], b[:])
	return netip.AddrFrom16(a)
}

func table6(protocol lvs.Protocol, scheduler lvs.Scheduler, servers ...lvs.RealServer) *lvs.Table {
	t := table(protocol, scheduler, servers...)
	s := t.Services[0]
	s.Addr = vip6
	for i := range s.Servers {
		s.Servers[i].Addr = rip6(int(s.Servers[i].Addr.As4()[3]) - 177)
	}
	return &lvs.Table{Services: t.Services, Timeouts: t.Timeouts}
}

func server(n int, weight int32) lvs.RealServer {
	return lvs.RealServer{ServerID: lvs.ServerID{Addr: rip(n), Port: 80}, Forward: lvs.DirectRouting, Weight: weight}
}

// install applies a table and tells the way to each of its servers.
func install(t testing.TB, p *Plane, table *lvs.Table) {
	t.Helper()
	if err := p.Apply(table); err != nil {
		t.Fatal(err)
	}
	for _, s := range table.Services {
		for _, r := range s.Servers {
			if _, known := p.neighbours[r.Addr]; !known {
				resolve(t, p, r.Addr)
			}
		}
	}
}

func resolve(t testing.TB, p *Plane, rip netip.Addr) {
	t.Helper()
	n := Neighbour{Addr: rip, Interface: loopback, MAC: serverMAC(rip), Source: ownMAC}
	if err := p.SetNeighbour(n); err != nil {
		t.Fatal(err)
	}
}

// frame builds a frame to the VIP from the router; change edits its layers.
type frame struct {
	eth     layers.Ethernet
	ip      layers.IPv4
	ip6     layers.IPv6
	six     bool
	tcp     layers.TCP
	udp     layers.UDP
	payload []byte
}

func newFrame(protocol lvs.Protocol, from netip.AddrPort, to netip.AddrPort) *frame {
	f := &frame{
		eth: layers.Ethernet{SrcMAC: routerMAC, DstMAC: ownMAC, EthernetType: layers.EthernetTypeIPv4},
		ip: layers.IPv4{Version: 4, TTL: 64, Id: 7, Protocol: layers.IPProtocol(protocol),
			SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()},
		tcp: layers.TCP{SrcPort: layers.TCPPort(from.Port()), DstPort: layers.TCPPort(to.Port()), Window: 1000},
		udp: layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())},
		six: to.Addr().Is6(),
	}
	if f.six {
		f.eth.EthernetType = layers.EthernetTypeIPv6
		f.ip6 = layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocol(protocol),
			SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
	}
	return f
}

// flags sets the TCP flags from letters: S F A R P.
func (f *frame) flags(letters string) *frame {
	for _, c := range letters {
		switch c {
		case 'S':
			f.tcp.SYN = true
		case 'F':
			f.tcp.FIN = true
		case 'A':
			f.tcp.ACK = true
		case 'R':
			f.tcp.RST = true
		case 'P':
			f.tcp.PSH = true
		}
	}
	return f
}

func (f *frame) bytes() []byte {
	buf := gopacket.NewSerializeBuffer()
	ls := []gopacket.SerializableLayer{&f.eth, &f.ip}
	network := gopacket.NetworkLayer(&f.ip)
	if f.six {
		ls[1], network = &f.ip6, &f.ip6
	}
	switch lvs.Protocol(f.ip.Protocol) {
	case lvs.TCP:
		f.tcp.SetNetworkLayerForChecksum(network)
		ls = append(ls, &f.tcp)
	case lvs.UDP:
		f.udp.SetNetworkLayerForChecksum(network)
		ls = append(ls, &f.udp)
	}
	ls = append(ls, gopacket.Payload(f.payload))
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// tcpFrame is the usual one: a TCP packet to the VIP's port 80.
func tcpFrame(client string, flags string) []byte {
	return newFrame(lvs.TCP, netip.MustParseAddrPort(client), netip.AddrPortFrom(vip, 80)).flags(flags).bytes()
}

func tcpFrame6(client string, flags string) []byte {
	return newFrame(lvs.TCP, netip.MustParseAddrPort(client), netip.AddrPortFrom(vip6, 80)).flags(flags).bytes()
}

func udpFrame(client string) []byte {
	return newFrame(lvs.UDP, netip.MustParseAddrPort(client), netip.AddrPortFrom(vip, 80)).bytes()
}

// outcome is what the program did with one frame.
type outcome struct {
	action  uint32
	verdict bpfVerdict
	out     []byte
}

const (
	xdpAborted = iota
	xdpDrop
	xdpPass
	xdpTX
	xdpRedirect
)

// xdpAction is what XDP says for that which a program of tc said. tc says
// "redirect" whether a packet leaves by the way it came or by another.
func xdpAction(tcx uint32) uint32 {
	switch int32(tcx) {
	case -1:
		return xdpPass
	case 2:
		return xdpDrop
	case 7:
		return xdpTX
	}
	return xdpAborted
}

// skb is a struct __sk_buff, of which a test run takes the GSO fields.
type skb struct {
	_        [164]byte
	Segments uint32
	_        [8]byte
	Segment  uint32
	_        [12]byte
}

// send runs one frame through the program. Exactly one verdict counter must
// move, by one: that is the verdict.
func send(t testing.TB, p *Plane, in []byte) outcome {
	t.Helper()
	before := verdictCounts(t, p)
	o := run(t, p, in)
	for v, n := range verdictCounts(t, p) {
		switch n - before[v] {
		case 0:
		case 1:
			if o.verdict != 0 {
				t.Fatalf("two verdicts for one packet: %v and %v", o.verdict, v)
			}
			o.verdict = bpfVerdict(v)
		default:
			t.Fatalf("verdict %d counted %d times for one packet", v, n-before[v])
		}
	}
	return o
}

// run is send without a look at the counters.
func run(t testing.TB, p *Plane, in []byte) outcome {
	t.Helper()
	return runWith(t, p, ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256)})
}

// takes tells whether a test run takes a frame: as an skb it must have room for
// the header that its EtherType announces.
func (p *Plane) takes(in []byte) bool {
	if p.attachments[0].Mode != TC {
		return true
	}
	switch binary.BigEndian.Uint16(in[12:]) {
	case uint16(layers.EthernetTypeIPv4):
		return len(in) >= 14+20
	case uint16(layers.EthernetTypeIPv6):
		return len(in) >= 14+40
	}
	return true
}

// runGSO is run for a packet that stands for several, with so many bytes each.
func runGSO(t testing.TB, p *Plane, in []byte, segment int) outcome {
	t.Helper()
	return runWith(t, p, ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256), Context: &skb{Segment: uint32(segment)}})
}

func runWith(t testing.TB, p *Plane, o ebpf.RunOptions) outcome {
	t.Helper()
	action, err := p.programs.Director.Run(&o)
	if err != nil {
		t.Fatalf("test run: %v", err)
	}
	if p.attachments[0].Mode == TC {
		action = xdpAction(action)
	}
	return outcome{action: action, out: o.DataOut}
}

func verdictCounts(t testing.TB, p *Plane) (out [bpfVerdictVERDICT_MAX]uint64) {
	t.Helper()
	for v := range out {
		n, err := sumVerdict(p.maps.Verdicts, uint32(v))
		if err != nil {
			t.Fatal(err)
		}
		out[v] = n
	}
	return out
}

// did tells whether the action was that one of XDP, as far as tc tells.
func (o outcome) did(p *Plane, action uint32) bool {
	if p.attachments[0].Mode == TC && action == xdpRedirect {
		action = xdpTX
	}
	return o.action == action
}

// chosen returns which of the real servers a forwarded frame went to.
func (o outcome) chosen() (netip.Addr, bool) {
	if (o.action != xdpTX && o.action != xdpRedirect) || len(o.out) < 14 || o.out[0] != 2 || o.out[1] != 1 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(o.out[2:6])), true
}

func (v bpfVerdict) String() string {
	if v < bpfVerdictVERDICT_MAX {
		return verdictTexts()[v].name
	}
	return fmt.Sprintf("verdict %d", uint32(v))
}
