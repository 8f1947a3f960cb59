// SPDX-License-Identifier: MIT

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Node is one machine of a lab: a network namespace with an eth0 on the switch.
type Node struct {
	name   string
	prefix string
	ns     netns.NsHandle
	addr   netip.Addr
	addr6  netip.Addr
	mac    net.HardwareAddr
}

// Name is the node's name without the lab's prefix; it is also the name of its
// port on the switch.
func (n *Node) Name() string { return n.name }

// Namespace is the name for `ip netns exec`.
func (n *Node) Namespace() string { return n.prefix + n.name }

// Addr is the first address of eth0; the zero Addr for the switch.
func (n *Node) Addr() netip.Addr { return n.addr }

// Addr6 is the first IPv6 address of eth0 but for the link-local one; the zero
// Addr if it has none.
func (n *Node) Addr6() netip.Addr { return n.addr6 }

// MAC is the hardware address of eth0; nil for the switch.
func (n *Node) MAC() net.HardwareAddr { return n.mac }

// Do runs f in the node's network namespace, on a thread of its own. Sockets
// made and processes started by f belong to the namespace for good; goroutines
// started by f are not in it. f must not call t.FailNow and its like.
func (n *Node) Do(f func() error) error { return inNamespace(n.ns, f) }

// Dial connects from the node. The address must be an IP address with a port.
func (n *Node) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.Do(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen is net.Listen in the node.
func (n *Node) Listen(network, address string) (l net.Listener, err error) {
	err = n.Do(func() (err error) { l, err = net.Listen(network, address); return err })
	return l, err
}

// ListenPacket is net.ListenPacket in the node.
func (n *Node) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = n.Do(func() (err error) { c, err = net.ListenPacket(network, address); return err })
	return c, err
}

// Route makes dst reachable through the gateway via, or on the link of eth0 if
// via is the zero Addr.
func (n *Node) Route(dst netip.Prefix, via netip.Addr) error {
	err := n.Do(func() error {
		link, err := netlink.LinkByName(nic)
		if err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst)}
		if via.IsValid() {
			r.Gw = via.AsSlice()
		} else {
			r.Scope = netlink.SCOPE_LINK
		}
		return netlink.RouteAdd(r)
	})
	if err != nil {
		return fmt.Errorf("%s: cannot add the route to %v: %w", n.name, dst, err)
	}
	return nil
}

// ForgetNeighbours empties the node's neighbour table (ARP and NDP), but for
// permanent entries.
func (n *Node) ForgetNeighbours() error {
	err := n.Do(func() error {
		neighbours, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, e := range neighbours {
			if e.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 {
				continue
			}
			if err := netlink.NeighDel(&e); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: cannot empty the neighbour table: %w", n.name, err)
	}
	return nil
}

func (n *Node) close() error { return n.ns.Close() }

// makeNode makes the namespace of a node, with lo up, on record.
func (c *Cluster) makeNode(name string) (*Node, error) {
	if !usableName.MatchString(name) || name == "" || len(name) > maxIfName {
		return nil, fmt.Errorf("node %q: %w: use up to %d letters, digits, - and _", name, ErrName, maxIfName)
	}
	n := &Node{name: name, prefix: c.opts.Prefix}
	if _, err := os.Lstat(filepath.Join(netnsDir, n.Namespace())); err == nil {
		return nil, fmt.Errorf("namespace %s %w", n.Namespace(), ErrForeign)
	}
	if err := c.ledger.add(name); err != nil {
		return nil, err
	}
	var err error
	if n.ns, err = makeNamespace(n.Namespace()); err != nil {
		return nil, fmt.Errorf("cannot make the namespace %s: %w", n.Namespace(), err)
	}
	if err := n.Do(loopbackUp); err != nil {
		return nil, fmt.Errorf("%s: %w", n.name, err)
	}
	return n, nil
}

// openNode finds a node that another process made.
func (c *Cluster) openNode(name string) (*Node, error) {
	n := &Node{name: name, prefix: c.opts.Prefix}
	var err error
	if n.ns, err = netns.GetFromName(n.Namespace()); err != nil {
		return nil, fmt.Errorf("namespace %s: %w", n.Namespace(), err)
	}
	err = n.Do(func() error {
		link, err := netlink.LinkByName(nic)
		if err != nil {
			return nil // the switch, or a node whose maker died before it was plugged in
		}
		n.mac = link.Attrs().HardwareAddr
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		// The kernel lists IPv4 addresses in the order of adding, and global
		// IPv6 ones against it; a VIP that a director added since is neither
		// the first nor the last.
		for _, a := range addrs {
			ip, _ := netip.AddrFromSlice(a.IP)
			switch ip = ip.Unmap(); {
			case ip.Is4() && !n.addr.IsValid():
				n.addr = ip
			case ip.Is6() && ip.IsGlobalUnicast():
				n.addr6 = ip
			}
		}
		if !n.addr.IsValid() {
			n.addr = n.addr6
		}
		return err
	})
	if err != nil {
		n.close()
		return nil, fmt.Errorf("%s: %w", n.name, err)
	}
	return n, nil
}
