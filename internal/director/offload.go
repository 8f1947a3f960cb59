// SPDX-License-Identifier: MIT

package director

import (
	"fmt"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/link"
)

// largestXDP is how long packets may be where a driver with one page of 4 KiB
// for each frame takes an XDP program: the veth driver's, measured.
const largestXDP = 3506

// interfaceStatus tells how each interface is attached, and what of its offloads
// and its kind should be known. That an interface cannot be asked is no reason
// for anything.
func (d *director) interfaceStatus() []api.Interface {
	var all []api.Interface
	for _, a := range d.plane.Attachments() {
		i := api.Interface{Attachment: a}
		if o, err := link.Features(a.Interface); err != nil {
			d.log.Debug("an interface's offloads cannot be read", "iface", a.Interface, "error", err)
		} else {
			i.Notes = offloadNotes(a, o, d.Mode)
		}
		all = append(all, i)
	}
	return all
}

// offloadNotes says what an interface's offloads and kind mean for how the data plane
// is attached to it, which was asked for: only what applies, each with the
// reason and a way out.
func offloadNotes(a dataplane.Attachment, o *link.Offload, asked dataplane.Mode) []string {
	var notes []string
	say := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	name := a.Interface
	if o.LRO {
		say("%s merges packets for good (LRO): what it made is longer than the way to a real server, and some drivers take no XDP program:"+
			" ethtool -K %[1]s lro off", name)
	}
	switch o.MasterKind {
	case "bridge":
		say("%s is a port of the bridge %s: frames are forwarded here before the bridge sees them, and those for the bridge's own MAC address"+
			" or from its other ports are not; to serve these too, give --interface %[2]s --mode tc", name, o.Master)
	case "bond", "team":
		say("%s is a part of %s: frames that come in by its other parts are not forwarded; give --interface %[2]s", name, o.Master)
	}
	if a.Mode == dataplane.TC {
		return notes
	}
	if a.Mode == dataplane.Generic && asked != dataplane.Generic {
		notes = append(notes, whyNotNative(name, o)...)
	}
	if o.Peer != nil {
		return append(notes, explainPeer(a, o.Peer)...)
	}
	const unfilled = " TCP and UDP checksums to be filled in, which XDP cannot do: what is forwarded then has bad ones; switch that off at the senders" +
		" (ethtool -K eth0 tx off), or take --mode tc"
	switch {
	case o.Driver == "virtio_net" && o.RXChecksum && a.Mode == dataplane.Generic:
		say("senders on the same host as this virtual machine leave (%s has rx-checksum on)"+unfilled, name)
	case o.Driver == "tun":
		say("%s is a tap: the virtual machine behind it may leave"+unfilled, name)
	}
	return notes
}

// whyNotNative are the likely reasons why a driver took no XDP program.
func whyNotNative(name string, o *link.Offload) (notes []string) {
	say := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	switch o.Kind {
	case "bridge", "vlan", "macvlan", "macvtap", "ipvlan", "dummy":
		say("%s is a %s, which has no native XDP: take --mode tc, or attach to the interface below it", name, o.Kind)
		return notes
	case "bond":
		say("a bond (%s) has native XDP in the modes active-backup, balance-rr, balance-xor and 802.3ad only (not with vlan+srcmac),"+
			" and if all its parts have it; --mode tc works with every one", name)
		return notes
	}
	mtu := o.MTU
	if o.Peer != nil {
		mtu = max(mtu, o.Peer.MTU)
	}
	if mtu > largestXDP {
		say("the MTU of %s or of its other end is %d, and most drivers take an XDP program up to about %d (a page for each frame): ip link set %[1]s mtu 1500 at both"+
			" ends, or --mode tc", name, mtu, largestXDP)
	}
	if o.Driver == "virtio_net" {
		say("virtio_net (%s) takes a native XDP program only if its host lets it switch guest offloads off (or has: guest_tso4=off,guest_tso6=off,"+
			"guest_ecn=off,guest_ufo=off) and best with two queues for each CPU (it has %d, up to %d: ethtool -L %[1]s combined N); or take --mode tc",
			name, o.Queues, o.MaxQueues)
	}
	return notes
}

// explainPeer is about the other end of a veth, for XDP.
func explainPeer(a dataplane.Attachment, p *link.Peer) (notes []string) {
	say := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	there, command := "the other end", ""
	if p.Name != "" {
		there, command = p.Name, "ethtool -K "+p.Name+" tx off"
	}
	switch {
	case p.Here:
		there += ", in this network namespace,"
	case p.Namespace != "":
		there += ", in the network namespace " + p.Namespace + ","
		command = "ip netns exec " + p.Namespace + " " + command
	case p.Name != "":
		there += ", in another network namespace,"
	}
	if command == "" {
		command = "ethtool -K IT tx off"
	}
	switch {
	case a.Mode != dataplane.Native:
	case p.Seen && !p.XDP:
		say("%s is a veth, and %s has no native XDP program, so everything that is forwarded back by %[1]s is lost: attach one there"+
			" (XDP_PASS will do), or take --mode tc or --mode generic", a.Interface, there)
	case !p.Seen:
		say("%s is a veth: its other end (in a network namespace that cannot be looked into) needs a native XDP program (XDP_PASS will do),"+
			" or everything that is forwarded back is lost; --mode tc and --mode generic need none", a.Interface)
	}
	switch {
	case p.SeenChecksum && p.TXChecksum:
		say("%s leaves the TCP and UDP checksums of senders on this host to be filled in, which XDP cannot do: their packets are forwarded with bad ones,"+
			" unless the senders themselves have it off; %s, or take --mode tc", there, command)
	case !p.SeenChecksum:
		say("if senders are on this host, the other end of %s must fill in checksums, or what is forwarded has bad ones: there, %s, or take --mode tc", a.Interface, command)
	}
	return notes
}
