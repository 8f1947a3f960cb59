// SPDX-License-Identifier: MIT

package director

import (
	"fmt"

	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/link"
)

// wire is where an interface's frames are on a wire.
type wire struct {
	device *link.Interface // that has it: the interface itself, or that which it is a VLAN of
	vlan   uint16          // 0: untagged
}

// wireOf finds an interface's wire: by what --vlan says, else by the kernel. A
// VLAN device on a VLAN device (QinQ) is its own: no other program than its own
// could take its frames.
func (d *director) wireOf(i *link.Interface) (wire, error) {
	said, ok := d.VLANs[i.Name]
	if i.VLAN == (link.VLAN{}) && !ok {
		return wire{device: i}, nil
	}
	if !ok {
		device, err := link.InterfaceByIndex(i.VLAN.Parent)
		if err != nil {
			return wire{}, fmt.Errorf("interface %s is a VLAN of another: %w", i.Name, err)
		}
		if device.VLAN != (link.VLAN{}) {
			return wire{device: i}, nil
		}
		return wire{device, uint16(i.VLAN.ID)}, nil
	}
	device, err := link.InterfaceByName(said.Parent)
	if err != nil {
		return wire{}, fmt.Errorf("--vlan %s=%s/%d: %w", i.Name, said.Parent, said.ID, err)
	}
	switch is := (link.VLAN{Parent: device.Index, ID: int(said.ID)}); {
	case i.VLAN != (link.VLAN{}) && i.VLAN != is:
		return wire{}, fmt.Errorf("%w: --vlan %s=%s/%d: the kernel has it as VLAN %d of interface number %d; leave the flag out",
			ErrSettings, i.Name, said.Parent, said.ID, i.VLAN.ID, i.VLAN.Parent)
	case device.VLAN != (link.VLAN{}):
		return wire{}, fmt.Errorf("%w: --vlan %s=%s/%d: %[3]s is a VLAN itself; frames with two tags are left to the kernel",
			ErrSettings, i.Name, said.Parent, said.ID)
	case len(device.MAC) != 6:
		return wire{}, fmt.Errorf("%w: --vlan %s=%s/%d: %[3]s has no Ethernet address", ErrSettings, i.Name, said.Parent, said.ID)
	}
	return wire{device, said.ID}, nil
}

// arrivals finds which of the service sides are VLANs, and refuses what could not
// work: a parent that is down, or one that hides tags from XDP.
func (d *director) arrivals() (map[string]dataplane.VLAN, error) {
	out := map[string]dataplane.VLAN{}
	for _, name := range d.Interfaces {
		w, err := d.wireOf(d.ifaces[name])
		if err != nil {
			return nil, err
		}
		if w.vlan == 0 {
			continue
		}
		if !w.device.Up {
			return nil, fmt.Errorf("%w: interface %s, of which %s is VLAN %d, is down; 'ip link set %[2]s up' first",
				ErrSettings, w.device.Name, name, w.vlan)
		}
		if d.hidesTags(w.device.Name) {
			return nil, fmt.Errorf("%w: %s is VLAN %d of %s, which takes the tags off frames before XDP sees them;"+
				" 'ethtool -K %[4]s rxvlan off' has it leave them, or use --mode tc", ErrSettings, name, w.vlan, w.device.Name)
		}
		out[name] = dataplane.VLAN{Parent: w.device.Name, ID: w.vlan}
	}
	return out, nil
}

// vlanStatus is the VLAN that an interface stands for, as status has it.
func (d *director) vlanStatus(i *link.Interface) string {
	w, err := d.wireOf(i)
	if err != nil || w.vlan == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %s", w.vlan, w.device.Name)
}

// hidesTags tells whether the data plane could not see the VLAN of what comes in
// by an interface. One that cannot say has no such hardware.
func (d *director) hidesTags(device string) bool {
	if d.Mode == dataplane.TC {
		return false
	}
	f, err := link.Features(device)
	return err == nil && f.RXVLAN
}
