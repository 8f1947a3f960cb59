// SPDX-License-Identifier: MIT

package link

import (
	"fmt"

	"github.com/safchain/ethtool"
)

// Features tells which of an interface's features are on, by the names that the
// kernel has for them (ethtool -k has others for some), such as
// VLANStripping. A virtual interface may have none.
func Features(iface string) (map[string]bool, error) {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return nil, fmt.Errorf("interface %s: features: %w", iface, err)
	}
	defer e.Close()
	f, err := e.Features(iface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: features: %w", iface, err)
	}
	return f, nil
}

// VLANStripping is the feature by which an interface takes the tags of VLANs off
// the frames that come in: "rx-vlan-offload" or rxvlan to ethtool.
const VLANStripping = "rx-vlan-hw-parse"
