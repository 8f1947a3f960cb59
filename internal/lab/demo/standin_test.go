// SPDX-License-Identifier: MIT

package demo

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// The test binary, called with faultsEnv set, is a stand-in for shunt: a small
// relay in user space that can be told to do something wrong. So it is tested
// that the demo's proofs can fail, which they never do with a director that is
// right. What the real one does is tested with the real one.
const faultsEnv = "DEMO_TEST_FAULTS"

// lostEnv names a directory in which a real server that has lost the VIP has a
// file of its instance's name: how the stand-in's health check finds out.
const lostEnv = "DEMO_TEST_LOST"

func TestMain(m *testing.M) {
	faults, standIn := os.LookupEnv(faultsEnv)
	if standIn && len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		if err := act(strings.Split(faults, ","), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// control is where the relay of a network namespace takes orders: an abstract
// socket, of which each namespace has its own.
const control = "@demo-test-relay"

func act(faults, args []string) error {
	switch strings.Join(args[:min(2, len(args))], " ") {
	case "demo serve":
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		return Serve(ctx, after(args, "--listen"), after(args, "--name"))
	case "realserver start":
		if err := os.RemoveAll(lost(after(args, "--instance"))); err != nil {
			return err
		}
		return beRealServer(faults)
	case "realserver stop":
		return loseVIP(after(args, "--instance"))
	case "director stop":
		return nil
	case "director start":
		return startRelay()
	case "director run":
		return relayForever(faults)
	}
	switch args[0] {
	case "ipvsadm":
		return order(strings.Join(args[1:], " "))
	case "apply":
		return nil
	case "health":
		return checkHealth(faults, after(args, "--instance"))
	}
	return fmt.Errorf("the stand-in does not know %v", args)
}

func after(args []string, flag string) string {
	if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

func beRealServer(faults []string) error {
	for name, value := range map[string]string{"arp_ignore": "1", "arp_announce": "2"} {
		if slices.Contains(faults, name) {
			value = "0"
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/eth0/"+name, []byte(value), 0o644); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: netlink.NewIPNet(lab.VIP().AsSlice())}); err != nil {
		return err
	}
	if !slices.Contains(faults, "replies") {
		return nil
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	return netlink.RouteReplace(&netlink.Route{
		LinkIndex: eth0.Attrs().Index, Dst: netlink.NewIPNet(net.IPv4(172, 16, 16, 10)), Gw: net.IPv4(172, 16, 16, 173),
		Flags: int(netlink.FLAG_ONLINK),
	})
}

func lost(instance string) string { return filepath.Join(os.Getenv(lostEnv), instance) }

func loseVIP(instance string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.AddrDel(lo, &netlink.Addr{IPNet: netlink.NewIPNet(lab.VIP().AsSlice())}); err != nil {
		return err
	}
	return os.WriteFile(lost(instance), nil, 0o644)
}

// checkHealth says how the real servers are, and has the relay use those that are
// well. The fault "blind" is a check of the real server's own address.
func checkHealth(faults []string, instance string) error {
	var down error
	rip := lab.VIP() // .172; rs1 is .177
	for range 4 {
		rip = rip.Next()
	}
	for n := 1; n <= 2; n++ {
		rip = rip.Next()
		word, weight := "UP", 1
		if _, err := os.Stat(lost(fmt.Sprintf("%s-rs%d", instance, n))); err == nil && !slices.Contains(faults, "blind") {
			word, weight, down = "DOWN", 0, fmt.Errorf("rs%d is down", n)
		}
		fmt.Println(rip, word)
		if err := order(fmt.Sprintf("well -r %v:%d -w %d", rip, port, weight)); err != nil {
			return err
		}
	}
	return down
}

func startRelay() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "director", "run")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	for range 1000 {
		if err = order("-S"); err == nil {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return err
}

// order sends an ipvsadm command to the relay and prints what it says.
func order(command string) error {
	conn, err := net.Dial("unix", control)
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Fprintln(conn, command)
	s := bufio.NewScanner(conn)
	for s.Scan() {
		if why, bad := strings.CutPrefix(s.Text(), "refused: "); bad {
			return fmt.Errorf("%s", why)
		}
		fmt.Println(s.Text())
	}
	return s.Err()
}

// relay is a director in user space. The VIP is not the kernel's, so that the
// kernel leaves its packets alone.
type relay struct {
	faults []string
	fd     int
	port   *unix.SockaddrLinklayer
	mac    net.HardwareAddr

	mu      sync.Mutex
	servers []server
	turn    int
	flows   map[uint16]netip.Addr // by the client's port
	macs    map[netip.Addr]lab.MAC
}

type server struct {
	addr   netip.Addr
	weight int
}

func relayForever(faults []string) error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, all)
	if err != nil {
		return err
	}
	r := &relay{
		faults: faults, fd: fd, mac: eth0.Attrs().HardwareAddr,
		port:  &unix.SockaddrLinklayer{Ifindex: eth0.Attrs().Index, Protocol: all},
		flows: map[uint16]netip.Addr{}, macs: map[netip.Addr]lab.MAC{},
	}
	if err := unix.Bind(fd, r.port); err != nil {
		return err
	}
	l, err := net.Listen("unix", control)
	if err != nil {
		return err
	}
	go r.obey(l)
	buf := make([]byte, 65536)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		if ll := from.(*unix.SockaddrLinklayer); ll.Pkttype != unix.PACKET_OUTGOING {
			r.frame(buf[:n])
		}
	}
}

func (r *relay) has(fault string) bool { return slices.Contains(r.faults, fault) }

func (r *relay) obey(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		line, _ := bufio.NewReader(conn).ReadString('\n')
		fmt.Fprintln(conn, r.do(strings.Fields(line)))
		conn.Close()
	}
}

func (r *relay) do(args []string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if args[0] == "-S" || args[0] == "-L" {
		return fmt.Sprint(r.servers)
	}
	if args[0] == "-A" {
		return ""
	}
	rip, err := netip.ParseAddrPort(after(args, "-r"))
	switch {
	case err != nil:
		return "refused: " + err.Error()
	case rip.Port() != port && !r.has("mapping"):
		return "refused: direct routing cannot change the port"
	case behind.Contains(rip.Addr()) && !r.has("router"):
		return "refused: behind a router"
	}
	weight, _ := strconv.Atoi(after(args, "-w"))
	i := slices.IndexFunc(r.servers, func(s server) bool { return s.addr == rip.Addr() })
	switch args[0] {
	case "-a":
		r.servers = append(r.servers, server{rip.Addr(), weight})
		r.macs[rip.Addr()] = lab.MAC(macOf(rip.Addr()))
	case "-e":
		if !r.has("quiesce") {
			r.servers[i].weight = weight
		}
		if r.has("cut") {
			clear(r.flows)
		}
	case "well":
		r.servers[i].weight = weight
	case "-d":
		r.servers = slices.Delete(r.servers, i, i+1)
	}
	return ""
}

// macOf is how a lab makes a MAC from an address.
func macOf(a netip.Addr) []byte { b := a.As4(); return []byte{2, 0, b[0], b[1], b[2], b[3]} }

func (r *relay) frame(f []byte) {
	vip := lab.VIP().As4()
	client := []byte(netip.MustParseAddr("172.16.16.10").AsSlice())
	switch kind := binary.BigEndian.Uint16(f[12:14]); {
	case kind == lab.EtherTypeARP && f[21] == lab.ARPRequest && string(f[38:42]) == string(vip[:]):
		answer := slices.Concat(f[6:12], r.mac, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, lab.ARPReply}, r.mac, vip[:], f[22:32])
		unix.Sendto(r.fd, answer, 0, r.port)
	case kind == lab.EtherTypeIPv4 && string(f[30:34]) == string(vip[:]) && f[23] == lab.ProtocolTCP:
		to, ok := r.schedule(f)
		if !ok {
			return
		}
		r.pass(f, to[:])
	case kind == lab.EtherTypeIPv4 && string(f[26:30]) == string(vip[:]) && string(f[30:34]) == string(client) && r.has("replies"):
		r.pass(f, macOf(netip.AddrFrom4([4]byte(client))))
	}
}

func (r *relay) pass(f, to []byte) {
	copy(f[0:6], to)
	copy(f[6:12], r.mac)
	if !r.has("ttl") {
		f[22]--
		// One less in the high byte of a word is 0x100 more in the checksum.
		sum := uint32(binary.BigEndian.Uint16(f[24:26])) + 0x100
		binary.BigEndian.PutUint16(f[24:26], uint16(sum+sum>>16))
	}
	unix.Sendto(r.fd, f, 0, r.port)
}

// schedule takes the servers in turns, and a known connection to its own.
func (r *relay) schedule(f []byte) (lab.MAC, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	const syn = lab.SYN
	sport := binary.BigEndian.Uint16(f[34:36])
	to, known := r.flows[sport]
	if !known || f[47]&syn != 0 {
		var free []netip.Addr
		for _, s := range r.servers {
			if s.weight > 0 {
				free = append(free, s.addr)
			}
		}
		if len(free) == 0 {
			return lab.MAC{}, false
		}
		if !r.has("split") || len(free) != 2 {
			r.turn++
		}
		to = free[r.turn%len(free)]
		r.flows[sport] = to
	}
	return r.macs[to], true
}
