// SPDX-License-Identifier: MIT

package director

import (
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/link"
)

func TestOffloadNotes(t *testing.T) {
	veth := func(p link.Peer) link.Offload { return link.Offload{Kind: "veth", Driver: "veth", MTU: 1500, Peer: &p} }
	good := link.Peer{Name: "port", Namespace: "switch", Seen: true, MTU: 1500, XDP: true, SeenChecksum: true}
	without := good
	without.XDP = false
	offloading := good
	offloading.TXChecksum = true
	long := good
	long.MTU = 9000
	for _, r := range []struct {
		name  string
		o     link.Offload
		mode  dataplane.Mode // as attached
		asked dataplane.Mode
		want  []string // one note each, with these words
	}{
		{"a card", link.Offload{Driver: "ixgbe", MTU: 1500, TXChecksum: true, RXChecksum: true, RXVLAN: true}, dataplane.Native, dataplane.Auto, nil},
		{"LRO", link.Offload{Driver: "bnx2x", LRO: true}, dataplane.TC, dataplane.TC, []string{"ethtool -K eth0 lro off"}},
		{"veth, all well", veth(good), dataplane.Native, dataplane.Auto, nil},
		{"veth, no program", veth(without), dataplane.Native, dataplane.Auto, []string{"port, in the network namespace switch, has no native XDP program"}},
		{"veth, no program, generic", veth(without), dataplane.Generic, dataplane.Generic, nil},
		{"veth, checksums", veth(offloading), dataplane.Generic, dataplane.Generic, []string{"ip netns exec switch ethtool -K port tx off"}},
		{"veth, all bad, tc", veth(link.Peer{}), dataplane.TC, dataplane.TC, nil},
		{"veth, unknown", veth(link.Peer{}), dataplane.Native, dataplane.Auto, []string{"cannot be looked into", "if senders are on this host"}},
		{"veth here", veth(link.Peer{Name: "port", Here: true, Seen: true, SeenChecksum: true, TXChecksum: true}), dataplane.Native, dataplane.Native,
			[]string{"port, in this network namespace, has no native XDP program", "; ethtool -K port tx off"}},
		{"veth, long", veth(long), dataplane.Generic, dataplane.Auto, []string{"is 9000, and most drivers take an XDP program up to about 3506"}},
		{"veth, long, generic by choice", veth(long), dataplane.Generic, dataplane.Generic, nil},
		{"virtio, fallen back", link.Offload{Driver: "virtio_net", MTU: 1500, RXChecksum: true, Queues: 1, MaxQueues: 4}, dataplane.Generic, dataplane.Auto,
			[]string{"it has 1, up to 4: ethtool -L eth0 combined N", "rx-checksum on"}},
		{"virtio, native", link.Offload{Driver: "virtio_net", MTU: 1500, RXChecksum: true}, dataplane.Native, dataplane.Auto, nil},
		{"tap", link.Offload{Kind: "tuntap", Driver: "tun", MTU: 1500}, dataplane.Native, dataplane.Auto, []string{"the virtual machine behind it"}},
		{"bridge", link.Offload{Kind: "bridge", MTU: 1500}, dataplane.Generic, dataplane.Auto, []string{"is a bridge, which has no native XDP"}},
		{"macvlan", link.Offload{Kind: "macvlan", MTU: 1500}, dataplane.Generic, dataplane.Auto, []string{"is a macvlan, which"}},
		{"bond", link.Offload{Kind: "bond", MTU: 1500}, dataplane.Generic, dataplane.Auto, []string{"active-backup, balance-rr, balance-xor and 802.3ad only"}},
		{"a bridge's port", link.Offload{MTU: 1500, Master: "br0", MasterKind: "bridge"}, dataplane.TC, dataplane.TC, []string{"--interface br0 --mode tc"}},
		{"a bond's part", link.Offload{MTU: 1500, Master: "bond0", MasterKind: "bond"}, dataplane.Native, dataplane.Auto, []string{"give --interface bond0"}},
	} {
		got := offloadNotes(dataplane.Attachment{Interface: "eth0", Mode: r.mode}, &r.o, r.asked)
		ok := len(got) == len(r.want)
		for i := range got {
			ok = ok && strings.Contains(got[i], r.want[i]) && !strings.Contains(got[i], "%!")
		}
		if !ok {
			t.Errorf("%s: %q, want one each of %q", r.name, got, r.want)
		}
	}
}
