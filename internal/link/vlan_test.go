// SPDX-License-Identifier: MIT

package link

import (
	"encoding/binary"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// linkMessage is what the kernel says of a link: its index is 7.
func linkMessage(kind string, attrs map[int][]byte, data map[int][]byte) []byte {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.ZeroTerminated(kind))
	about := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	for k, v := range data {
		about.AddRtAttr(k, v)
	}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = 7
	b := append(msg.Serialize(), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("eth0.100")).Serialize()...)
	for k, v := range attrs {
		b = append(b, nl.NewRtAttr(k, v).Serialize()...)
	}
	return append(b, info.Serialize()...)
}

// TestVLANOf: what netlink says of the kernel's VLAN devices, which not every
// kernel can make, and of others.
func TestVLANOf(t *testing.T) {
	id := func(n uint16) []byte { return nl.Uint16Attr(n) }
	protocol := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
	parent := map[int][]byte{unix.IFLA_LINK: nl.Uint32Attr(3)}
	for _, c := range []struct {
		name  string
		kind  string
		attrs map[int][]byte
		data  map[int][]byte
		want  VLAN
	}{
		{"802.1Q", "vlan", parent, map[int][]byte{nl.IFLA_VLAN_ID: id(100), nl.IFLA_VLAN_PROTOCOL: protocol(0x8100)}, VLAN{3, 100}},
		{"an old kernel, without a protocol", "vlan", parent, map[int][]byte{nl.IFLA_VLAN_ID: id(4094)}, VLAN{3, 4094}},
		{"802.1ad", "vlan", parent, map[int][]byte{nl.IFLA_VLAN_ID: id(100), nl.IFLA_VLAN_PROTOCOL: protocol(0x88a8)}, VLAN{}},
		{"VLAN 0", "vlan", parent, map[int][]byte{nl.IFLA_VLAN_ID: id(0)}, VLAN{}},
		{"no parent", "vlan", nil, map[int][]byte{nl.IFLA_VLAN_ID: id(100)}, VLAN{}},
		{"its parent is in another namespace", "vlan",
			map[int][]byte{unix.IFLA_LINK: nl.Uint32Attr(3), unix.IFLA_LINK_NETNSID: nl.Uint32Attr(0)},
			map[int][]byte{nl.IFLA_VLAN_ID: id(100)}, VLAN{}},
		{"veth", "veth", parent, nil, VLAN{}},
		{"macvlan", "macvlan", parent, nil, VLAN{}},
	} {
		l, err := netlink.LinkDeserialize(nil, linkMessage(c.kind, c.attrs, c.data))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := vlanOf(l); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}
