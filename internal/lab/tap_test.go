// SPDX-License-Identifier: MIT

package lab_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/lab"
	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

func TestTapSeesBothDirections(t *testing.T) {
	c := labtest.Up(t, lab.Options{RealServers: 1})
	rs1 := c.RealServers[0]
	tap, err := c.Tap()
	if err != nil {
		t.Fatal(err)
	}
	server, err := rs1.ListenPacket("udp", netip.AddrPortFrom(rs1.Addr(), 5353).String())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn, err := c.Client.Dial(t.Context(), "udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("12345")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := server.ReadFrom(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	frames, err := tap.Close()
	if err != nil {
		t.Fatal(err)
	}

	type seen struct {
		port     string
		fromNode bool
	}
	requests, packets := map[seen]int{}, map[seen]int{}
	var replies []lab.Frame
	for _, f := range frames {
		at := seen{f.Port, f.FromNode}
		switch {
		case f.ARP != nil && f.ARP.Operation == lab.ARPRequest && f.ARP.Target == rs1.Addr():
			if !f.Dst.Broadcast() || !f.Src.Is(c.Client.MAC()) || f.ARP.Sender != c.Client.Addr() || !f.ARP.SenderMAC.Is(c.Client.MAC()) {
				t.Errorf("ARP request: %v", f)
			}
			requests[at]++
		case f.ARP != nil && f.ARP.Operation == lab.ARPReply && f.ARP.Sender == rs1.Addr():
			replies = append(replies, f)
		case f.IP != nil:
			if f.IP.Protocol != lab.ProtocolUDP || f.IP.Src.Addr() != c.Client.Addr() || f.IP.Dst.String() != "172.16.16.177:5353" ||
				f.IP.TTL != 64 || f.IP.Payload != 5 || f.IP.Length != 33 || f.Length != 47 ||
				!f.Src.Is(c.Client.MAC()) || !f.Dst.Is(rs1.MAC()) {
				t.Errorf("the datagram: %v %+v", f, f.IP)
			}
			packets[at]++
		}
	}
	// A broadcast goes to everyone, the rest to its receiver only.
	for _, want := range []seen{{"client", true}, {"director", false}, {"rs1", false}} {
		if requests[want] != 1 {
			t.Errorf("%d ARP requests seen at %v", requests[want], want)
		}
	}
	if len(requests) != 3 || packets[seen{"client", true}] != 1 || packets[seen{"rs1", false}] != 1 || len(packets) != 2 {
		t.Errorf("requests %v, packets %v", requests, packets)
	}
	if len(replies) != 2 || !replies[0].FromNode || replies[0].Port != "rs1" || replies[1].FromNode || replies[1].Port != "client" {
		t.Errorf("ARP replies, in this order: %v", replies)
	}
	again, err := tap.Close()
	if err != nil || len(again) != len(frames) {
		t.Errorf("a second Close: %d frames, %v", len(again), err)
	}
}

func TestTapARPAndWhoHas(t *testing.T) {
	c := labtest.Up(t, lab.Options{RealServers: 1})
	tap, err := c.TapARP()
	if err != nil {
		t.Fatal(err)
	}
	rs1 := c.RealServers[0]
	if err := reach(t, c.Client, rs1, rs1.Addr()); err != nil { // not to be seen
		t.Fatal(err)
	}
	if err := c.Client.WhoHas(c.Director.Addr()); err != nil {
		t.Fatal(err)
	}
	f, err := tap.Wait(waitTime(t), func(f lab.Frame) bool {
		return f.Port == "client" && !f.FromNode && f.ARP != nil && f.ARP.Operation == lab.ARPReply && f.ARP.Sender == c.Director.Addr()
	})
	if err != nil {
		t.Fatal(err)
	}
	if !f.ARP.SenderMAC.Is(c.Director.MAC()) || f.ARP.Target != c.Client.Addr() {
		t.Errorf("the answer: %v", f)
	}
	frames, err := tap.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		if f.ARP == nil {
			t.Errorf("no ARP: %v", f)
		}
	}
}

// TestDirectRoutingIsPossible checks that a lab carries what it is made for: a
// program in the director that does nothing but change MACs and send the frame
// out again, and a real server whose reply does not come back that way. None of
// shunt is in it.
func TestDirectRoutingIsPossible(t *testing.T) {
	for _, vip := range []netip.Addr{lab.VIP(), lab.VIP6()} {
		t.Run(vip.String(), func(t *testing.T) { directRoutingIsPossible(t, vip) })
	}
}

func directRoutingIsPossible(t *testing.T, vip netip.Addr) {
	c := labtest.Up(t, lab.Options{RealServers: 1})
	rs1 := c.RealServers[0]
	attachForwarder(t, c.Director, rs1, vip)
	err := rs1.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, &netlink.Addr{IPNet: netlink.NewIPNet(vip.AsSlice()), Flags: unix.IFA_F_NODAD})
	})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Client.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.NeighAdd(&netlink.Neigh{
			LinkIndex: eth0.Attrs().Index, IP: vip.AsSlice(), HardwareAddr: c.Director.MAC(), State: netlink.NUD_PERMANENT,
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	tap, err := c.Tap()
	if err != nil {
		t.Fatal(err)
	}
	l, err := rs1.Listen("tcp", netip.AddrPortFrom(vip, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := echo(t, c.Client, l); err != nil {
		t.Fatal(err)
	}
	frames, err := tap.Close()
	if err != nil {
		t.Fatal(err)
	}
	var toDirector, fromDirector, repliesToDirector, repliesToClient int
	for _, f := range frames {
		switch {
		case f.IP == nil || !f.IP.TCP():
		case f.Length > 1514:
			t.Errorf("a frame that was never on the wire: %v, length %d", f, f.Length)
		case f.Port == "director" && f.IP.Src.Addr() == vip:
			repliesToDirector++
		case f.Port == "client" && f.IP.Src.Addr() == vip:
			repliesToClient++
		case f.Port == "director" && !f.FromNode:
			toDirector++
		case f.Port == "director":
			fromDirector++
			if !f.Src.Is(c.Director.MAC()) || !f.Dst.Is(rs1.MAC()) {
				t.Errorf("sent by the director: %v", f)
			}
		}
	}
	if toDirector == 0 || fromDirector != toDirector || repliesToDirector != 0 || repliesToClient == 0 {
		t.Errorf("to the director %d, from it %d; replies to the director %d, to the client %d",
			toDirector, fromDirector, repliesToDirector, repliesToClient)
	}
}

// As with ARP: the question goes to everyone, the answer to who asked; and the
// rest of IPv6 is left out.
func TestTapNDPAndWhoHas(t *testing.T) {
	c := labtest.Up(t, lab.Options{RealServers: 1})
	tap, err := c.TapNDP()
	if err != nil {
		t.Fatal(err)
	}
	rs1 := c.RealServers[0]
	if err := reach(t, c.Client, rs1, rs1.Addr6()); err != nil {
		t.Fatal(err)
	}
	if err := c.Client.WhoHas(c.Director.Addr6()); err != nil {
		t.Fatal(err)
	}
	answer := func(port string, fromNode bool) lab.Frame {
		t.Helper()
		f, err := tap.Wait(waitTime(t), func(f lab.Frame) bool {
			return f.Port == port && f.FromNode == fromNode && f.NDP != nil && f.NDP.Type == lab.NeighbourAdvertisement && f.NDP.Target == c.Director.Addr6()
		})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	answer("client", false)
	f := answer("director", true)
	if !f.NDP.MAC.Is(c.Director.MAC()) || !f.NDP.Solicited || !f.NDP.Override || f.NDP.Router ||
		f.IP.Src.Addr() != c.Director.Addr6() || f.IP.Dst.Addr() != c.Client.Addr6() || f.IP.TTL != 255 {
		t.Errorf("the answer: %v %+v", f, f.NDP)
	}
	frames, err := tap.Close()
	if err != nil {
		t.Fatal(err)
	}
	questions := map[string]int{}
	for _, f := range frames {
		if f.NDP == nil {
			t.Errorf("not left out: %v", f)
		} else if f.NDP.Type == lab.NeighbourSolicitation && f.NDP.Target == c.Director.Addr6() && f.IP.Src.Addr() == c.Client.Addr6() && f.IP.Dst.Addr().IsMulticast() {
			questions[f.Port]++
			if !f.NDP.MAC.Is(c.Client.MAC()) || f.Dst != (lab.MAC{0x33, 0x33, 0xff, 0, 0x01, 0x73}) {
				t.Errorf("the question: %v", f)
			}
		}
	}
	if len(questions) != 3 || questions["client"] != 1 || questions["rs1"] != 1 {
		t.Errorf("the question was seen at %v", questions)
	}
}

// attachForwarder attaches an XDP program to a node that sends every packet for
// the VIP on to the other node's MAC.
func attachForwarder(t *testing.T, at, to *lab.Node, vip netip.Addr) {
	t.Helper()
	// Headers of Ethernet and IP, the EtherType as a little-endian machine reads
	// it, and where the last 4 bytes of the destination are: enough to tell.
	headers, ethertype, offset := int32(34), int32(0x0008), int16(30)
	if vip.Is6() {
		headers, ethertype, offset = 54, 0xdd86, 50
	}
	last := vip.AsSlice()
	last = last[len(last)-4:]
	store := func(insns asm.Instructions, offset int16, mac []byte) asm.Instructions {
		for i, b := range mac {
			insns = append(insns, asm.StoreImm(asm.R2, offset+int16(i), int64(b), asm.Byte))
		}
		return insns
	}
	insns := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // data
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data_end
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, headers),
		asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		asm.LoadMem(asm.R4, asm.R2, 12, asm.Half),
		asm.JNE.Imm(asm.R4, ethertype, "pass"),
		asm.LoadMem(asm.R4, asm.R2, offset, asm.Word),
		asm.LoadImm(asm.R5, int64(binary.NativeEndian.Uint32(last)), asm.DWord),
		asm.JNE.Reg(asm.R4, asm.R5, "pass"),
	}
	insns = store(insns, 0, to.MAC())
	insns = store(insns, 6, at.MAC())
	insns = append(insns,
		asm.Mov.Imm(asm.R0, 3 /* XDP_TX */), asm.Return(),
		asm.Mov.Imm(asm.R0, 2 /* XDP_PASS */).WithSymbol("pass"), asm.Return())
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: insns, License: "MIT"})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	defer prog.Close()
	var l link.Link
	err = at.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		l, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: eth0.Attrs().Index, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}
