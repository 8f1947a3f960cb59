// SPDX-License-Identifier: MIT

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
)

// The errors of this package that a caller can act upon.
var (
	// ErrBusy is returned when another live process holds the lab of that prefix.
	ErrBusy = errors.New("the lab is in use")
	// ErrNotRoot is returned when the caller may not make network namespaces.
	ErrNotRoot = errors.New("network namespaces need root")
	// ErrName is returned for a prefix or node name that cannot be used.
	ErrName = errors.New("not a usable name")
	// ErrForeign is returned when a namespace of the wanted name exists and was not made by a lab.
	ErrForeign = errors.New("exists already and is not this lab's")
	// ErrNoLab is returned by Open when there is no lab of that prefix.
	ErrNoLab = errors.New("no such lab")
)

// Options say what a lab looks like. The zero value is the reference topology
// with two real servers and names without a prefix.
type Options struct {
	// Prefix is put in front of every namespace's name; labs of different
	// prefixes do not know of each other.
	Prefix string
	// RealServers is how many there are; 0 means 2, below 0 means none.
	RealServers int
	// Router puts the client into other networks, 10.0.0.0/24 and
	// 2001:db8:10::/64, behind a router that is everyone's default gateway.
	Router bool
	// Offload leaves the interfaces as the kernel makes them: packets far
	// longer than the MTU pass the wire whole, their checksums not filled in,
	// and what an XDP program of a node sends with XDP_TX does not. Without it
	// frames are what they are on a wire, and XDP works.
	Offload bool
	// Queues is how many queues each interface has, so that as many CPUs can
	// take in packets at once; 0 means 1, as the kernel has it.
	Queues int
}

// The addresses of the reference topology. An IPv6 address ends in the digits
// that the IPv4 address of the same machine ends in.
var (
	network    = netip.MustParsePrefix("172.16.16.0/24")
	vip        = netip.MustParseAddr("172.16.16.172")
	directorIP = netip.MustParseAddr("172.16.16.173")
	firstRS    = netip.MustParseAddr("172.16.16.177")
	nearClient = netip.MustParsePrefix("172.16.16.10/24")
	farClient  = netip.MustParsePrefix("10.0.0.10/24")
	routerIn   = netip.MustParsePrefix("172.16.16.1/24")
	routerOut  = netip.MustParsePrefix("10.0.0.1/24")

	network6    = netip.MustParsePrefix("2001:db8:16::/64")
	farNetwork6 = netip.MustParsePrefix("2001:db8:10::/64")
)

// VIP is the virtual address of the reference topology. A lab leaves it to the
// director under test and gives it to nobody.
func VIP() netip.Addr { return vip }

// VIP6 is VIP for IPv6, 2001:db8:16::172.
func VIP6() netip.Addr { return sibling(vip, network6).Addr() }

// sibling is the address of the IPv6 network that looks like an IPv4 one: its
// last number, read as digits, is the last of 172.16.16.173 and 2001:db8:16::173.
func sibling(a netip.Addr, in netip.Prefix) netip.Prefix {
	b, last := in.Addr().As16(), a.As4()[3]
	b[14], b[15] = last/100, last/10%10<<4|last%10
	return netip.PrefixFrom(netip.AddrFrom16(b), in.Bits())
}

// Cluster is a lab that is up. Its methods may be called from several
// goroutines, except Add and Down.
type Cluster struct {
	Client      *Node
	Director    *Node
	RealServers []*Node // rs1 first
	Router      *Node   // nil without Options.Router
	Switch      *Node   // the bridge's namespace; it has no address

	opts   Options
	ledger *ledger
	nodes  []*Node // in the order of making, Switch first
	taps   tapSet
}

// Up makes a lab. What an earlier process left behind under the same prefix is
// removed first. If Up fails, nothing stays.
//
// It returns ErrNotRoot, ErrName, ErrBusy or ErrForeign, or what the kernel said.
func Up(ctx context.Context, o Options) (_ *Cluster, err error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("cannot make a lab: %w", ErrNotRoot)
	}
	if o.RealServers == 0 {
		o.RealServers = 2
	}
	l, err := openLedger(o.Prefix)
	if err != nil {
		return nil, err
	}
	if err := removeAll(l); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot remove an earlier lab: %w", err), l.close())
	}
	c := &Cluster{opts: o, ledger: l}
	if err := c.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make a lab: %w", err), c.Down())
	}
	return c, nil
}

// Open takes over a lab that another process made and left (see Detach). It
// knows the nodes by name only: those of the reference topology get their
// fields in Cluster, all are found by Node.
func Open(o Options) (_ *Cluster, err error) {
	l, err := openLedger(o.Prefix)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	names, err := l.names()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		l.forget()
		return nil, fmt.Errorf("lab %q: %w", o.Prefix, ErrNoLab)
	}
	c := &Cluster{opts: o, ledger: l}
	for _, name := range names {
		n, err := c.openNode(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // recorded, but its maker died before it was made
		}
		if err != nil {
			return nil, err
		}
		c.place(n)
	}
	return c, nil
}

// Down removes the lab of this prefix, whoever made it, and ends the processes
// that run in its namespaces. No lab there is no error. It returns ErrBusy if
// the process that made it is still at work with it.
func Down(prefix string) error {
	l, err := openLedger(prefix)
	if err != nil {
		return err
	}
	if err := removeAll(l); err != nil {
		return errors.Join(err, l.close())
	}
	l.forget()
	return l.close()
}

// Down ends all processes in the lab's namespaces and removes it. Calling it
// again does nothing.
func (c *Cluster) Down() error {
	if c.ledger == nil {
		return nil
	}
	c.taps.closeAll()
	err := removeAll(c.ledger)
	if err == nil {
		c.ledger.forget()
	}
	return errors.Join(err, c.release())
}

// Detach leaves the lab up, processes included, and lets go of it: another
// process may Open it or take it Down.
func (c *Cluster) Detach() error {
	if c.ledger == nil {
		return nil
	}
	c.taps.closeAll()
	return c.release()
}

func (c *Cluster) release() error {
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.close())
	}
	errs = append(errs, c.ledger.close())
	c.ledger, c.nodes = nil, nil
	return errors.Join(errs...)
}

// Node returns the node of that name (without the prefix), or nil.
func (c *Cluster) Node(name string) *Node {
	i := slices.IndexFunc(c.nodes, func(n *Node) bool { return n.name == name })
	if i < 0 {
		return nil
	}
	return c.nodes[i]
}

// Nodes returns all nodes but the switch, in the order in which they were made.
func (c *Cluster) Nodes() []*Node {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n *Node) bool { return n == c.Switch })
}

// Add makes one more node on the switch, with these addresses on its eth0. The
// first one is its Addr, the first IPv6 one its Addr6. With a router its default
// routes go there, of the families of which the first address is in the reference
// network.
func (c *Cluster) Add(name string, addrs ...netip.Prefix) (*Node, error) {
	n, err := c.makeNode(name)
	if err != nil {
		return nil, err
	}
	if err := c.plug(n, nic, name, nearBridge, addrs); err != nil {
		return nil, err
	}
	if c.opts.Router && name != "router" {
		for _, via := range []netip.Prefix{routerIn, sibling(routerIn.Addr(), network6)} {
			i := slices.IndexFunc(addrs, func(a netip.Prefix) bool { return a.Addr().Is4() == via.Addr().Is4() })
			if i < 0 || !via.Contains(addrs[i].Addr()) {
				continue
			}
			if err := n.Route(everything(via.Addr()), via.Addr()); err != nil {
				return nil, err
			}
		}
	}
	c.place(n)
	return n, nil
}

// everything is the destination of the default route of an address's family.
func everything(a netip.Addr) netip.Prefix {
	if a.Is6() {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// build makes the reference topology, step by step, until ctx ends.
func (c *Cluster) build(ctx context.Context) error {
	steps := []func() error{c.addSwitch}
	add := func(name string, addr netip.Prefix) {
		steps = append(steps, func() error { _, err := c.Add(name, addr, sibling(addr.Addr(), network6)); return err })
	}
	if c.opts.Router {
		steps = append(steps, c.addRouter, c.addFarClient)
	} else {
		add("client", nearClient)
	}
	add("director", netip.PrefixFrom(directorIP, network.Bits()))
	for i, ip := 1, firstRS; i <= c.opts.RealServers; i, ip = i+1, ip.Next() {
		add(fmt.Sprintf("rs%d", i), netip.PrefixFrom(ip, network.Bits()))
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) addSwitch() error {
	n, err := c.makeNode("switch")
	if err != nil {
		return err
	}
	c.place(n)
	bridges := []string{nearBridge}
	if c.opts.Router {
		bridges = append(bridges, farBridge)
	}
	return n.Do(func() error { return makeBridges(bridges) })
}

func (c *Cluster) addRouter() error {
	n, err := c.Add("router", routerIn, sibling(routerIn.Addr(), network6))
	if err != nil {
		return err
	}
	if err := c.plug(n, "eth1", "routerout", farBridge, []netip.Prefix{routerOut, sibling(routerOut.Addr(), farNetwork6)}); err != nil {
		return err
	}
	return n.Do(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644))
	})
}

func (c *Cluster) addFarClient() error {
	n, err := c.makeNode("client")
	if err != nil {
		return err
	}
	if err := c.plug(n, nic, n.name, farBridge, []netip.Prefix{farClient, sibling(farClient.Addr(), farNetwork6)}); err != nil {
		return err
	}
	c.place(n)
	via := sibling(routerOut.Addr(), farNetwork6).Addr()
	return errors.Join(n.Route(everything(routerOut.Addr()), routerOut.Addr()), n.Route(everything(via), via))
}

// place puts a node where callers find it.
func (c *Cluster) place(n *Node) {
	c.nodes = append(c.nodes, n)
	switch {
	case n.name == "client":
		c.Client = n
	case n.name == "director":
		c.Director = n
	case n.name == "router":
		c.Router = n
	case n.name == "switch":
		c.Switch = n
	case isRealServer(n.name):
		c.RealServers = append(c.RealServers, n)
	}
}

func isRealServer(name string) bool {
	var i int
	_, err := fmt.Sscanf(name, "rs%d", &i)
	return err == nil
}
