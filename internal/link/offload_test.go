// SPDX-License-Identifier: MIT

package link

import (
	"errors"
	"os"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

func toggle(t *testing.T, iface, feature string, on bool) {
	t.Helper()
	e, err := ethtool.NewEthtool()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.Change(iface, map[string]bool{feature: on}); err != nil {
		t.Fatalf("%s %s %v: %v", iface, feature, on, err)
	}
}

func features(t *testing.T, iface string) *Offload {
	t.Helper()
	o, err := Features(iface)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// nativeXDP puts a program that passes everything on an interface of the thread's
// namespace.
func nativeXDP(t *testing.T, iface string) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	l, err := netlink.LinkByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetXdpFdWithFlags(l, p.FD(), unix.XDP_FLAGS_DRV_MODE); err != nil {
		t.Fatal(err)
	}
}

func TestFeaturesOfAVeth(t *testing.T) {
	labtest.InNamespace(t)
	labtest.IP(t, "link add veth0 mtu 1400 type veth peer name veth1 mtu 1300")
	o := features(t, "veth0")
	if o.Kind != "veth" || o.Driver != "veth" || o.MTU != 1400 || !o.TXChecksum || o.LRO || o.Master != "" {
		t.Errorf("veth0: %+v", o)
	}
	if p := o.Peer; p == nil || !p.Here || !p.Seen || p.Name != "veth1" || p.MTU != 1300 || p.XDP || !p.SeenChecksum || !p.TXChecksum {
		t.Fatalf("its peer: %+v", p)
	}
	toggle(t, "veth0", "tx-checksum-ip-generic", false)
	if o := features(t, "veth0"); o.TXChecksum || !o.Peer.TXChecksum {
		t.Errorf("tx off: %+v, peer %+v", o, o.Peer)
	}
	toggle(t, "veth1", "tx-checksum-ip-generic", false)
	nativeXDP(t, "veth1")
	if p := features(t, "veth0").Peer; p.TXChecksum || !p.XDP {
		t.Errorf("tx off and XDP at the peer: %+v", p)
	}
	if _, err := Features("veth7"); !errors.Is(err, ErrNoInterface) {
		t.Errorf("no such interface: %v", err)
	}
}

// TestFeaturesOfAPeerElsewhere: of a peer in a namespace without a name it is
// known whether it has a program, and no more.
func TestFeaturesOfAPeerElsewhere(t *testing.T) {
	there := pair(t)
	if p := features(t, "eth0").Peer; p == nil || p.Here || !p.Seen || p.Name != "peer0" || p.XDP || p.SeenChecksum {
		t.Fatalf("peer: %+v", p)
	}
	there(func() { nativeXDP(t, "peer0") })
	if p := features(t, "eth0").Peer; !p.XDP {
		t.Errorf("with XDP: %+v", p)
	}
}

func TestFeaturesByKind(t *testing.T) {
	labtest.InNamespace(t)
	labtest.IP(t, "link add br0 type bridge")
	labtest.IP(t, "link add veth0 type veth peer name veth1")
	labtest.IP(t, "link set veth0 master br0")
	labtest.IP(t, "link add mac0 link veth1 type macvlan mode bridge")
	makeTap(t, "tap0")
	for iface, want := range map[string]Offload{
		"br0":   {Kind: "bridge", Driver: "bridge"},
		"mac0":  {Kind: "macvlan", Driver: "macvlan"},
		"tap0":  {Kind: "tuntap", Driver: "tun"},
		"veth0": {Kind: "veth", Driver: "veth", Master: "br0", MasterKind: "bridge"},
	} {
		if o := features(t, iface); o.Kind != want.Kind || o.Driver != want.Driver || o.Master != want.Master || o.MasterKind != want.MasterKind {
			t.Errorf("%s: %+v, want %+v", iface, o, want)
		}
	}
	if o := features(t, "mac0"); o.Peer != nil {
		t.Errorf("a macvlan has a peer: %+v", o.Peer)
	}
	if o := features(t, "lo"); o.Kind != "" {
		t.Errorf("lo: %+v", o)
	}
}

// makeTap makes a tap with vnet headers that lasts as long as the test.
func makeTap(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("needs /dev/net/tun: no tap devices here")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	request := struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{flags: unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR}
	copy(request.name[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.TUNSETIFF, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatal("make a tap: ", errno)
	}
}
