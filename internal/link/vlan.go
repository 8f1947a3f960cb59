// SPDX-License-Identifier: MIT

package link

import (
	"github.com/vishvananda/netlink"
)

// VLAN says of an interface that it is a VLAN of another (IEEE 802.1Q): its frames
// are on that one's wire, with a tag.
type VLAN struct {
	Parent int // index of the other interface
	ID     int // 1 to 4094
}

// vlanOf tells the VLAN of a kernel's VLAN device; the zero value for any other
// interface. Of 802.1ad, or with its parent in another network namespace, it is
// like any other, too: nobody here sees its frames but itself.
func vlanOf(l netlink.Link) VLAN {
	v, ok := l.(*netlink.Vlan)
	if !ok || v.ParentIndex == 0 || v.NetNsID >= 0 || v.VlanId < 1 || v.VlanId > 4094 ||
		v.VlanProtocol != netlink.VLAN_PROTOCOL_UNKNOWN && v.VlanProtocol != netlink.VLAN_PROTOCOL_8021Q {
		return VLAN{}
	}
	return VLAN{Parent: v.ParentIndex, ID: v.VlanId}
}
