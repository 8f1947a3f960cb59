// SPDX-License-Identifier: MIT

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	nic        = "eth0"
	nearBridge = "br0" // the reference network
	farBridge  = "br1" // the client's network, with a router
	mtu        = 1500  // of every link, unless told otherwise
	maxIfName  = unix.IFNAMSIZ - 1
)

// plug joins a node to a bridge: a veth, made with one end in each namespace.
func (c *Cluster) plug(n *Node, ifName, port, bridge string, addrs []netip.Prefix) error {
	mac := macFor(addrs)
	err := c.Switch.Do(func() error { return makePort(port, bridge, ifName, mac, int(n.ns), c.opts) })
	if err != nil {
		return fmt.Errorf("cannot join %s to the switch: %w", n.name, err)
	}
	err = n.Do(func() error { return setUpNIC(ifName, addrs, c.opts.Offload) })
	if err != nil {
		return fmt.Errorf("%s: cannot set up %s: %w", n.name, ifName, err)
	}
	if ifName == nic {
		n.mac = mac
		if len(addrs) > 0 {
			n.addr = addrs[0].Addr()
		}
		if i := slices.IndexFunc(addrs, is6); i >= 0 {
			n.addr6 = addrs[i].Addr()
		}
	}
	return nil
}

// macFor writes the address into the MAC, so that a person who reads a capture
// sees whose frame it is. It returns nil, the kernel's choice, without one.
func macFor(addrs []netip.Prefix) net.HardwareAddr {
	if len(addrs) == 0 {
		return nil
	}
	b := addrs[0].Addr().AsSlice()
	b = b[len(b)-4:]
	return net.HardwareAddr{0x02, 0x00, b[0], b[1], b[2], b[3]}
}

// makeBridges runs in the switch.
func makeBridges(names []string) error {
	quiet := false
	for _, name := range names {
		if err := noIPv6("default"); err != nil {
			return err
		}
		b := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &quiet}
		b.Name, b.MTU = name, mtu
		if err := netlink.LinkAdd(b); err != nil {
			return fmt.Errorf("bridge %s: %w", name, err)
		}
		if err := netlink.LinkSetUp(b); err != nil {
			return fmt.Errorf("bridge %s: %w", name, err)
		}
	}
	return nil
}

// makePort runs in the switch. The peer is made in the node's namespace at once.
func makePort(port, bridge, peer string, mac net.HardwareAddr, node int, o Options) error {
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", bridge, err)
	}
	v := &netlink.Veth{
		LinkAttrs: netlink.NewLinkAttrs(),
		PeerName:  peer, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(node), PeerMTU: mtu,
	}
	v.Name, v.MTU, v.MasterIndex = port, mtu, master.Attrs().Index
	v.NumTxQueues, v.NumRxQueues = o.Queues, o.Queues // the peer's too
	if err := netlink.LinkAdd(v); err != nil {
		return fmt.Errorf("veth %s: %w", port, err)
	}
	link, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	if o.Offload {
		return netlink.LinkSetUp(link)
	}
	if err := acceptXDPFrames(link); err != nil {
		return fmt.Errorf("%s: cannot attach an XDP program: %w", port, err)
	}
	// Frames shall be seen, and counted, as they are on the wire.
	if err := errors.Join(setOffload(port, unix.ETHTOOL_SGRO, false), setOffload(port, unix.ETHTOOL_STXCSUM, false)); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// acceptXDPFrames attaches a program that passes everything, in native mode. A
// veth takes frames that the program at its other end sent with XDP_TX only if
// it has a native program itself. The program is attached the old way, not by a
// bpf_link, so that it stays as long as the device and not as long as a process.
func acceptXDPFrames(link netlink.Link) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "lab_pass",
		Type:         ebpf.XDP,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2 /* XDP_PASS */), asm.Return()},
		License:      "MIT",
	})
	if err != nil {
		return err
	}
	defer p.Close()
	return netlink.LinkSetXdpFdWithFlags(link, p.FD(), unix.XDP_FLAGS_DRV_MODE)
}

// setUpNIC runs in the node.
func setUpNIC(name string, addrs []netip.Prefix, offload bool) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(addrs, is6); i < 0 {
		if err := noIPv6(name); err != nil {
			return err
		}
	} else {
		if err := quietIPv6(name); err != nil {
			return err
		}
		addrs = append(slices.Clone(addrs), linkLocal(addrs[i].Addr()))
	}
	// The checksum of a packet that leaves a veth is normally never computed,
	// since nothing can damage it; XDP programs, and what they rewrite, need it.
	if !offload {
		if err := setOffload(name, unix.ETHTOOL_STXCSUM, false); err != nil {
			return err
		}
	}
	for _, a := range addrs {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // usable at once; nobody else is on this wire
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("address %v: %w", a, err)
		}
	}
	return netlink.LinkSetUp(link)
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// noIPv6 keeps the kernel from sending router solicitations and the like on an
// interface ("default": on all that come), which would disturb a capture.
func noIPv6(name string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0o644)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	return err
}

// NoOffload has the node's interface do what a lab without Options.Offload has
// all do: packets leave it with their checksums, and none longer than the MTU.
func (n *Node) NoOffload() error { return n.NoOffloadOf(nic) }

// NoOffloadOf is NoOffload for another interface of the node, such as a port of
// the switch.
func (n *Node) NoOffloadOf(iface string) error {
	return n.Do(func() error { return setOffload(iface, unix.ETHTOOL_STXCSUM, false) })
}

// quietIPv6 keeps the kernel from looking for routers, and from making a
// link-local address that could not be used before nobody has objected to it.
func quietIPv6(name string) error {
	for key, value := range map[string]string{"accept_ra": "0", "addr_gen_mode": "1"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/"+key, []byte(value), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// linkLocal is fe80::/64 with the interface's half of a global address.
func linkLocal(a netip.Addr) netip.Prefix {
	b := a.As16()
	copy(b[:8], []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0})
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

func is6(p netip.Prefix) bool { return p.Addr().Is6() }

// setOffload is `ethtool -K name …` for one of the old on/off commands.
func setOffload(name string, command uint32, on bool) error {
	value := struct{ command, data uint32 }{command: command}
	if on {
		value.data = 1
	}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of struct ifreq
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:maxIfName], name)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("cannot switch an offload of %s: %w", name, errno)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
