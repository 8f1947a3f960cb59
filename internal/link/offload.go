// SPDX-License-Identifier: MIT

package link

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Offload is what decides, beside the data plane, whether packets that come in
// by an interface can be forwarded: what makes it, and what it leaves undone or
// does to packets.
type Offload struct {
	Kind   string // as `ip -d link` says: "veth", "bridge", "macvlan", but "tuntap"; empty: a card
	Driver string // as `ethtool -i` says; empty: it does not say
	MTU    int    // bytes of layer 3

	LRO        bool // packets are merged for good
	RXChecksum bool // packets may come with a checksum that is not filled in
	TXChecksum bool // packets leave the kernel with a checksum that is not filled in
	RXVLAN     bool // VLAN tags are taken off before XDP sees the frame
	Queues     int  // combined channels; 0: it does not say
	MaxQueues  int  // what Queues could be; 0: it does not say

	Master     string // the bridge or bond that it is a port of
	MasterKind string
	Peer       *Peer // of a veth
}

// Peer is the other end of a veth.
type Peer struct {
	Name      string
	Namespace string // of `ip netns`; empty: this one, or one without a name
	Here      bool   // in this namespace
	// Seen tells whether MTU and XDP are known: the kernel has to let us ask.
	Seen bool
	MTU  int
	XDP  bool // it has a native XDP program
	// SeenChecksum tells whether TXChecksum is known: that needs its namespace
	// to be this one, to have a name, or to be the first process's.
	SeenChecksum bool
	TXChecksum   bool
}

// iflaTargetNetnsid is IFLA_TARGET_NETNSID: whose interface is asked for.
const iflaTargetNetnsid = 46

// xdpAttachedMulti is XDP_ATTACHED_MULTI: in more than one mode.
const xdpAttachedMulti = 4

// Features looks an interface's offloads up, and those of a veth's other end as
// far as they can be seen. It changes nothing. The error is ErrNoInterface if
// there is none of this name.
func Features(name string) (*Offload, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, interfaceError(name, err)
	}
	a := l.Attrs()
	o := &Offload{MTU: a.MTU}
	if l.Type() != "device" {
		o.Kind = l.Type()
	}
	if err := o.ask(name); err != nil {
		return nil, err
	}
	if a.MasterIndex != 0 {
		m, err := netlink.LinkByIndex(a.MasterIndex)
		if err != nil {
			return nil, interfaceError(fmt.Sprintf("of index %d", a.MasterIndex), err)
		}
		o.Master, o.MasterKind = m.Attrs().Name, m.Type()
	}
	if o.Kind == "veth" && a.ParentIndex > 0 {
		o.Peer = peerOf(a.ParentIndex, a.NetNsID)
	}
	return o, nil
}

// ask asks the driver. What a driver does not answer is not there.
func (o *Offload) ask(name string) error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("offloads of %s: %w", name, err)
	}
	defer e.Close()
	if o.Driver, err = e.DriverName(name); errors.Is(err, unix.ENODEV) {
		return interfaceError(name, err)
	}
	f, err := e.Features(name)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("offloads of %s: %w", name, err)
	}
	o.LRO, o.RXVLAN = f["rx-lro"], f["rx-vlan-hw-parse"]
	o.RXChecksum = f["rx-checksum"]
	o.TXChecksum = f["tx-checksum-ip-generic"] || f["tx-checksum-ipv4"] || f["tx-checksum-ipv6"]
	if c, err := e.GetChannels(name); err == nil {
		o.Queues, o.MaxQueues = int(c.CombinedCount), int(c.MaxCombined)
	}
	return nil
}

// peerOf finds out what can be of the interface of an index in the namespace
// that has this number here (-1: this namespace). What cannot is not Seen.
func peerOf(index, id int) *Peer {
	p := &Peer{Here: id < 0}
	l, err := linkIn(index, id)
	if err != nil {
		return p
	}
	a := l.Attrs()
	p.Name, p.MTU, p.Seen = a.Name, a.MTU, true
	p.XDP = a.Xdp != nil && (a.Xdp.AttachMode == nl.XDP_ATTACHED_DRV || a.Xdp.AttachMode == xdpAttachedMulti)
	look := func() {
		var o Offload
		if o.ask(a.Name) == nil {
			p.SeenChecksum, p.TXChecksum = true, o.TXChecksum
		}
	}
	if p.Here {
		look()
		return p
	}
	if ns, name := namespaceOf(id); ns.IsOpen() {
		p.Namespace = name
		visit(ns, look)
		ns.Close()
	}
	return p
}

// linkIn is netlink.LinkByIndex in a namespace known by its number.
func linkIn(index, id int) (netlink.Link, error) {
	if id < 0 {
		return netlink.LinkByIndex(index)
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = int32(index)
	req.AddData(m)
	req.AddData(nl.NewRtAttr(iflaTargetNetnsid, nl.Uint32Attr(uint32(id))))
	answers, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return nil, err
	}
	if len(answers) != 1 {
		return nil, ErrNoInterface
	}
	return netlink.LinkDeserialize(nil, answers[0])
}

// namespaceOf looks for the namespace of a number among those with a name and
// the first process's.
func namespaceOf(id int) (ns netns.NsHandle, name string) {
	named, _ := filepath.Glob("/run/netns/*")
	for _, path := range append(named, "/proc/1/ns/net") {
		ns, err := netns.GetFromPath(path)
		if err != nil {
			continue
		}
		if got, err := netlink.GetNetNsIdByFd(int(ns)); err == nil && got == id {
			if path == "/proc/1/ns/net" {
				return ns, ""
			}
			return ns, filepath.Base(path)
		}
		ns.Close()
	}
	return netns.None(), ""
}

// visit runs f on a thread of its own in another namespace. The thread ends.
func visit(ns netns.NsHandle, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if netns.Set(ns) == nil {
			f()
		}
	}()
	<-done
}
