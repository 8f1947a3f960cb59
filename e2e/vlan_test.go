// SPDX-License-Identifier: MIT

package e2e

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/safchain/ethtool"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/lab"
)

const vlanVIP = "10.100.0.172"

// addVLAN gives a node the interface vID, which is VLAN ID of its eth0, also where
// the kernel has no VLAN devices: a veth, from whose other end all goes out by eth0
// with the tag, and to which goes what comes in by eth0 with it, behind shunt.
func addVLAN(t *testing.T, c *cluster, n *lab.Node, id int32, addr string) {
	t.Helper()
	name := fmt.Sprintf("v%d", id)
	c.sh(n, fmt.Sprintf("ip link add %[1]s type veth peer name %[1]sp; echo 1 > /proc/sys/net/ipv6/conf/%[1]sp/disable_ipv6;"+
		" ip link set %[1]sp up; ip link set %[1]s up; ip addr add %[2]s dev %[1]s", name, addr))
	var index [3]int
	err := n.Do(func() error {
		for i, of := range []string{"eth0", name, name + "p"} {
			f, err := net.InterfaceByName(of)
			if err != nil {
				return err
			}
			index[i] = f.Index
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	const present, tci, proto = 5 * 4, 6 * 4, 7 * 4 // in struct __sk_buff
	const q = 0x0081                                // 802.1Q, as on the wire
	redirect := func(to int, flags int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Imm(asm.R1, int32(to)), asm.Mov.Imm(asm.R2, flags),
			asm.FnRedirect.Call(), asm.Return(),
		}
	}
	out := append(asm.Instructions{
		asm.Mov.Imm(asm.R2, q), asm.Mov.Imm(asm.R3, id),
		asm.FnSkbVlanPush.Call(),
	}, redirect(index[0], 0)...)
	in := append(asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, present, asm.Word), asm.JEq.Imm(asm.R2, 0, "next"),
		asm.LoadMem(asm.R2, asm.R1, proto, asm.Word), asm.JNE.Imm(asm.R2, q, "next"),
		asm.LoadMem(asm.R2, asm.R1, tci, asm.Word), asm.And.Imm(asm.R2, 0xfff), asm.JNE.Imm(asm.R2, id, "next"),
		asm.FnSkbVlanPop.Call(),
	}, redirect(index[1], 1 /* BPF_F_INGRESS */)...)
	in = append(in, asm.Mov.Imm(asm.R0, -1 /* TCX_NEXT */).WithSymbol("next"), asm.Return())
	for at, code := range map[int]asm.Instructions{index[2]: out, index[0]: in} {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: code, License: "MIT"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		err = n.Do(func() error {
			l, err := link.AttachTCX(link.TCXOptions{Program: p, Interface: at, Attach: ebpf.AttachTCXIngress})
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// feature is `ethtool -K` in a node.
func feature(t *testing.T, n *lab.Node, iface, name string, on bool) {
	t.Helper()
	err := n.Do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		return e.Change(iface, map[string]bool{name: on})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func macOf(c *cluster, n *lab.Node, iface string) string {
	return strings.TrimSpace(c.sh(n, "ip -o link show "+iface+" | sed 's/.*ether \\([0-9a-f:]*\\).*/\\1/'"))
}

// capture is tcpdump at the director's port of the switch, from now on; lines are
// those that it has written so far.
func capture(t *testing.T, c *cluster, filter string) (lines func() string) {
	t.Helper()
	cmd := c.Switch.Command(context.WithoutCancel(t.Context()), "tcpdump", "-i", "director", "-e", "-n", "-l", "--immediate-mode", filter)
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = f
	diag, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: apt-get install tcpdump", err)
	}
	t.Cleanup(func() { cmd.Stop() })
	said := bufio.NewScanner(diag)
	for said.Scan() && !strings.Contains(said.Text(), "listening on") {
	}
	go func() {
		for said.Scan() {
		}
	}()
	return func() string {
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

// TestVLANs: the clients are on VLAN 100, real servers untagged, on 100 and on 200.
func TestVLANs(t *testing.T) {
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Fatal("tcpdump is not installed: apt-get install tcpdump")
	}
	for _, mode := range []string{"native", "generic", "tc"} {
		t.Run(mode, func(t *testing.T) { testVLANs(t, mode) })
	}
}

func testVLANs(t *testing.T, mode string) {
	c := newCluster(t, lab.Options{RealServers: 3})
	rs := c.RealServers
	addVLAN(t, c, c.Client, 100, "10.100.0.1/24")
	addVLAN(t, c, c.Client, 200, "10.200.0.1/24")
	addVLAN(t, c, c.Director, 100, "10.100.0.173/24")
	addVLAN(t, c, c.Director, 200, "10.200.0.173/24")
	addVLAN(t, c, rs[1], 100, "10.100.0.178/24")
	addVLAN(t, c, rs[2], 200, "10.200.0.179/24")
	c.sh(rs[0], "ip route add 10.100.0.1 dev eth0")
	c.sh(rs[2], "ip route add 10.100.0.1 dev v200")
	for _, n := range rs {
		startNginx(t, n, 80)
		c.shunt(n, "realserver", "start", "--vip", vlanVIP).want(t, 0)
	}
	feature(t, c.Switch, "director", "tx-vlan-hw-insert", mode == "tc") // a veth hands over what its other end has

	before := trace(c)
	start := []string{"director", "start", "--interface", "v100", "--vip", vlanVIP, "--connections", "65536", "--mode", mode,
		"--vlan", "v100=eth0/100", "--vlan", "v200=eth0/200"}
	if mode != "tc" {
		c.shunt(c.Director, start...).want(t, 1).says(t, "v100 is VLAN 100 of eth0", "rxvlan off", "--mode tc")
		if now := trace(c); now != before {
			t.Errorf("the refused start left something:\n%s\nwas:\n%s", now, before)
		}
		feature(t, c.Director, "eth0", "rx-vlan-hw-parse", false)
	}
	c.shunt(c.Director, start...).want(t, 0)
	add := func(name string) {
		t.Helper()
		c.rules("-A -t "+vlanVIP+":"+name+" -s rr", "-a -t "+vlanVIP+":"+name+" -r "+rs[0].Addr().String(),
			"-a -t "+vlanVIP+":"+name+" -r 10.100.0.178", "-a -t "+vlanVIP+":"+name+" -r 10.200.0.179")
	}
	add("80")
	checkVLANStatus(t, c, mode)

	// The tags on the wire: in, and out by each of the ways.
	wire := capture(t, c, "tcp dst port 80 or (vlan and tcp dst port 80)")
	web := func(n int) map[string]int { return c.getFrom("http://"+vlanVIP+"/", n) }
	if got := web(9); got["rs1"] != 3 || got["rs2"] != 3 || got["rs3"] != 3 {
		t.Errorf("answers: %v", got)
	}
	v100, v200, eth0 := macOf(c, c.Director, "v100"), macOf(c, c.Director, "v200"), c.Director.MAC().String()
	tag := func(id int) string {
		return fmt.Sprintf("ethertype 802.1Q (0x8100), length 78: vlan %d, p 0, ethertype IPv4", id)
	}
	for what, line := range map[string]string{
		"in":       fmt.Sprintf("%s > %s, %s", macOf(c, c.Client, "v100"), v100, tag(100)),
		"pop":      fmt.Sprintf("%s > %s, ethertype IPv4 (0x0800), length 74:", eth0, rs[0].MAC()),
		"as it is": fmt.Sprintf("%s > %s, %s", v100, macOf(c, rs[1], "v100"), tag(100)),
		"rewrite":  fmt.Sprintf("%s > %s, %s", v200, macOf(c, rs[2], "v200"), tag(200)),
	} {
		eventually(t, what+": "+line, func() bool { return strings.Contains(wire(), line) })
	}

	checkQinQ(t, c)
	checkVLANFragments(t, c, v100)

	// Killed: it goes on, a start takes it over; killed again, a stop undoes it.
	c.kill()
	web(3)
	c.shunt(c.Director, "director", "start").want(t, 0) // the flags of before
	if got := web(9); len(got) != 3 {
		t.Errorf("answers after the takeover: %v", got)
	}
	c.rules("-C", "-A -t "+vlanVIP+":80 -s rr")
	if r := c.run(c.Client, "curl", "-sS", "--max-time", slowest, "http://"+vlanVIP+"/"); r.code != 7 {
		t.Errorf("no real server: want to be refused: %v", r)
	}
	if c.verdict("reply_no_server") == 0 {
		t.Error("no answer was counted")
	}
	// Untagged, too, and out by a VLAN: the tag is put in.
	c.shunt(c.Director, "director", "stop").want(t, 0)
	if now := trace(c); now != before {
		t.Errorf("stop left something:\n%s\nwas:\n%s", now, before)
	}
	c.shunt(c.Director, "director", "start", "--interface", "v100", "--interface", "eth0").want(t, 0)
	c.rules("-C", "-A -t "+vlanVIP+":80 -s rr", "-a -t "+vlanVIP+":80 -r 10.200.0.179")
	c.sh(c.Client, "ip route add "+vlanVIP+" dev eth0 src 10.100.0.1")
	if got := web(3); got["rs3"] != 3 {
		t.Errorf("untagged: %v", got)
	}
	line := fmt.Sprintf("%s > %s, ethertype IPv4 (0x0800), length 74:", c.Client.MAC(), eth0)
	eventually(t, "push: "+line, func() bool { return strings.Contains(wire(), line) })
	c.kill()
	c.shunt(c.Director, "director", "stop").want(t, 0)
	if now := trace(c); now != before {
		t.Errorf("stop after a kill left something:\n%s\nwas:\n%s", now, before)
	}
}

// trace is what a director could leave on the host.
func trace(c *cluster) string {
	return c.sh(c.Director, "ip -br addr; ip -br link; ip link | grep -o xdp || true; ip neigh show nud permanent; grep . /proc/sys/net/ipv4/conf/*/send_redirects") +
		fmt.Sprint("programs: ", attached(c))
}

// attached counts the programs of tc on eth0: one for each of the VLANs is not shunt's.
func attached(c *cluster) (n int) {
	err := c.Director.Do(func() error {
		f, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		r, err := link.QueryPrograms(link.QueryOptions{Target: f.Index, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			n = len(r.Programs)
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

func checkVLANStatus(t *testing.T, c *cluster, mode string) {
	t.Helper()
	s := c.status()
	if len(s.Interfaces) != 1 || s.Interfaces[0].Interface != "eth0" || string(s.Interfaces[0].Mode) != mode ||
		len(s.Interfaces[0].Arrivals) != 1 || s.Interfaces[0].Arrivals[0].VLAN != 100 || s.VIPs[0].VLAN != "100 of eth0" {
		t.Errorf("interfaces %+v, VIPs %+v", s.Interfaces, s.VIPs)
	}
	for i, want := range []string{"", "100 of eth0", "200 of eth0"} {
		if got := s.Services[0].Servers[2-i].VLAN; got != want {
			t.Errorf("real server %d is on VLAN %q, want %q", i+1, got, want)
		}
	}
	if len(s.Warnings) > 0 {
		t.Errorf("warnings: %q", s.Warnings)
	}
	c.shunt(c.Director, "director", "status").want(t, 0).says(t, "of eth0 (v100)", "on v100, VLAN 100 of eth0", ", VLAN 200 of eth0")
}

// to is a frame's beginning, up to its EtherType.
func to(c *cluster, mac string, tags ...uint16) []byte {
	hw, err := net.ParseMAC(mac)
	if err != nil {
		c.t.Fatal(err)
	}
	b := append([]byte(hw), c.Client.MAC()...)
	for _, tci := range tags {
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, 0x8100), tci)
	}
	return binary.BigEndian.AppendUint16(b, lab.EtherTypeIPv4)
}

// checkQinQ: a frame with two tags reaches the director's own stack as it is.
func checkQinQ(t *testing.T, c *cluster) {
	t.Helper()
	passed := c.verdict("pass_vlan")
	seen := make(chan []byte, 1)
	err := c.Director.Do(func() error {
		f, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: f.Index}); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(commandLimit / time.Second)}); err != nil {
			return err
		}
		go func() {
			defer unix.Close(fd)
			b := make([]byte, 2048)
			for {
				n, _, err := unix.Recvfrom(fd, b, 0)
				if err != nil {
					seen <- nil
					return
				}
				// The outer tag is beside the frame, as for every skb.
				if n > 18 && binary.BigEndian.Uint16(b[12:]) == 0x8100 && binary.BigEndian.Uint16(b[14:]) == 7 {
					seen <- b[:n]
					return
				}
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	rest := append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 100, 0, 1, 10, 100, 0, 172}, make([]byte, 20)...)
	if err := c.Client.Send(append(to(c, macOf(c, c.Director, "v100"), 100, 7), rest...)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the frame with two tags", func() bool { return c.verdict("pass_vlan") > passed })
	if want, got := append(to(c, macOf(c, c.Director, "v100"), 7), rest...), <-seen; string(got) != string(want) {
		t.Errorf("the stack has\n%x\nwant\n%x", got, want)
	}
}

// checkVLANFragments: a datagram whose last fragment comes first, in VLAN 100.
func checkVLANFragments(t *testing.T, c *cluster, mac string) {
	t.Helper()
	c.rules("-A -u "+vlanVIP+":80 -s rr", "-a -u "+vlanVIP+":80 -r 10.200.0.179")
	wire := capture(t, c, "vlan 200 and udp and dst host "+vlanVIP)
	piece := func(flags, offset byte, payload []byte) []byte {
		ip := []byte{0x45, 0, 0, byte(20 + len(payload)), 0x12, 0x34, flags, offset, 64, 17, 0, 0, 10, 100, 0, 1, 10, 100, 0, 172}
		sum := uint32(0)
		for i := 0; i < 20; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(ip[i:]))
		}
		binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum))
		return append(append(to(c, mac, 100), ip...), payload...)
	}
	first := append([]byte{4, 0, 0, 80, 0, 32, 0, 0}, make([]byte, 8)...)
	parked, sent := c.verdict("drop_parked"), c.verdict("forward_fragment")
	for _, f := range [][]byte{piece(0, 2, make([]byte, 16)), piece(0x20, 0, first)} {
		if err := c.Client.Send(f); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the early fragment", func() bool { return c.verdict("drop_parked") == parked+1 })
	}
	eventually(t, "the fragment that was kept", func() bool { return c.verdict("forward_fragment") == sent+1 })
	eventually(t, "both fragments on the wire", func() bool { return strings.Count(wire(), "vlan 200, p 0, ethertype IPv4") == 2 })
	c.rules("-D -u " + vlanVIP + ":80")
}
