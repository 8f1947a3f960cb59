// SPDX-License-Identifier: MIT

package realserver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
	"golang.org/x/sys/unix"
)

// Method redirect lives in one table per instance and family that has VIPs:
//
//	table ip shunt-realserver-default {
//		chain prerouting {
//			type nat hook prerouting priority dstnat; policy accept;
//			ip daddr 172.16.16.172 tcp dport 80 counter redirect to :8080
//		}
//	}
//
// (ip6, and ip6 daddr.) Each is replaced as a whole, in one transaction, and no
// other table is touched.

// family is what differs between IPv4 and IPv6.
type family struct {
	name   link.TableFamily
	number nftables.TableFamily
	six    bool
	// destination is where the address is in the IP header, in bytes.
	destination uint32
}

func (f family) String() string {
	if f.six {
		return "IPv6"
	}
	return "IPv4"
}

func families() []family {
	return []family{
		{name: link.TableIPv4, number: nftables.TableFamilyIPv4, destination: 16},
		{name: link.TableIPv6, number: nftables.TableFamilyIPv6, six: true, destination: 24},
	}
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return families()[0]
	}
	return families()[1]
}

// redirection is one rule of the table.
type redirection struct {
	vip  netip.Addr
	port Port
}

func (r redirection) String() string {
	return fmt.Sprintf("%v/%s to local port %d", netip.AddrPortFrom(r.vip, r.port.Port), protocolName(r.port.Protocol), r.port.Local)
}

func (s *Server) tableName() string { return "shunt-realserver-" + s.instance }

const chainName = "prerouting"

// redirections are the rules that a family's table is to have.
func redirections(want state, f family) []redirection {
	var all []redirection
	for _, v := range want.vips(Redirect) {
		if v.Addr.Is6() != f.six {
			continue
		}
		for _, p := range v.Ports {
			all = append(all, redirection{v.Addr, p})
		}
	}
	return all
}

func (s *Server) applyRedirect(j *link.Journal, want state) error {
	for _, f := range families() {
		if err := s.applyTable(j, f, redirections(want, f)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) applyTable(j *link.Journal, f family, rules []redirection) error {
	found, err := s.readTable(f)
	if err != nil {
		return err
	}
	ours := func(e link.Entry) bool { return e.Owner == ownerRedirect && e.Family == f.name }
	if len(rules) == 0 {
		if found.exists && !slices.ContainsFunc(j.Entries(), ours) {
			// Ours by its name, though the journal has been lost.
			if err := j.CreateTable(ownerRedirect, f.name, s.tableName(), func() error { return nil }); err != nil {
				return err
			}
		}
		return j.Undo(ours)
	}
	if found.serves(rules) && slices.ContainsFunc(j.Entries(), ours) {
		return nil
	}
	return j.CreateTable(ownerRedirect, f.name, s.tableName(), func() error { return s.writeTable(f, rules) })
}

func (s *Server) writeTable(f family, rules []redirection) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t := &nftables.Table{Family: f.number, Name: s.tableName()}
	// Made first so that deleting it cannot fail; all is one transaction.
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	accept := nftables.ChainPolicyAccept
	chain := c.AddChain(&nftables.Chain{Table: t, Name: chainName, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest, Policy: &accept})
	for _, r := range rules {
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: r.expressions(),
			UserData: userdata.AppendString(nil, userdata.TypeComment, "shunt: "+r.port.String())})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables table %s %s: %w; the kernel needs nf_tables with nat and redirect", f.name, t.Name, err)
	}
	return nil
}

// offDestPort is where the port is in the header of TCP, UDP and SCTP, in bytes.
const offDestPort = 2

// expressions is "ip daddr VIP PROTOCOL dport PORT counter redirect [to :LOCAL]".
func (r redirection) expressions() []expr.Any {
	vip := r.vip.AsSlice()
	e := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: familyOf(r.vip).destination, Len: uint32(len(vip))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: vip},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(r.port.Protocol)}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offDestPort, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, r.port.Port)},
		&expr.Counter{},
	}
	if r.port.Local == r.port.Port {
		return append(e, &expr.Redir{})
	}
	return append(e,
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, r.port.Local)},
		&expr.Redir{RegisterProtoMin: 1})
}

// table is what the kernel has under our table's name.
type table struct {
	exists  bool
	hooked  bool             // the chain is there, at its hook, and the table is not dormant
	rules   [][]byte         // canonical form, without counters
	packets map[string]int64 // per canonical rule, how many connections it redirected
	chains  int
}

func (s *Server) readTable(f family) (found table, err error) {
	c, err := nftables.New()
	if err != nil {
		return found, fmt.Errorf("nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(f.number)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return found, nil // a kernel without nftables has no table; method loopback needs none
	}
	if err != nil {
		return found, fmt.Errorf("nftables: list tables: %w", err)
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == s.tableName() })
	if i < 0 {
		return found, nil
	}
	found.exists = true
	chains, err := c.ListChainsOfTableFamily(f.number)
	if err != nil {
		return found, fmt.Errorf("nftables: list chains: %w", err)
	}
	found.packets = map[string]int64{}
	for _, chain := range chains {
		if chain.Table.Name != s.tableName() {
			continue
		}
		found.chains++
		if chain.Name != chainName {
			continue
		}
		found.hooked = !dormant(tables[i]) &&
			chain.Type == nftables.ChainTypeNAT && chain.Hooknum != nil && *chain.Hooknum == *nftables.ChainHookPrerouting &&
			chain.Priority != nil && *chain.Priority == *nftables.ChainPriorityNATDest &&
			chain.Policy != nil && *chain.Policy == nftables.ChainPolicyAccept
		rules, err := c.GetRules(tables[i], chain)
		if errors.Is(err, unix.ENOENT) {
			return table{}, nil // removed meanwhile
		}
		if err != nil {
			return found, fmt.Errorf("nftables table %s: list rules: %w", s.tableName(), err)
		}
		for _, r := range rules {
			key, packets, err := canonical(r.Exprs)
			if err != nil {
				return found, err
			}
			found.rules = append(found.rules, key)
			found.packets[string(key)] = packets
		}
	}
	return found, nil
}

// dormant tells whether the table is switched off. The library reads the flags,
// which are in network byte order, in the host's.
func dormant(t *nftables.Table) bool {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, t.Flags))&unix.NFT_TABLE_F_DORMANT != 0
}

// canonical gives bytes that are equal for rules that do the same, and the
// rule's packet counter.
func canonical(exprs []expr.Any) (key []byte, packets int64, err error) {
	for _, e := range exprs {
		if c, ok := e.(*expr.Counter); ok {
			packets = int64(c.Packets)
			continue
		}
		if r, ok := e.(*expr.Redir); ok && r.RegisterProtoMin != 0 {
			// The kernel fills in what is not said.
			full := *r
			full.Flags |= unix.NF_NAT_RANGE_PROTO_SPECIFIED
			if full.RegisterProtoMax == 0 {
				full.RegisterProtoMax = full.RegisterProtoMin
			}
			e = &full
		}
		b, err := expr.Marshal(byte(nftables.TableFamilyIPv4), e)
		if err != nil {
			return nil, 0, fmt.Errorf("nftables rule: %w", err)
		}
		key = append(key, b...)
	}
	return key, packets, nil
}

func (t table) has(r redirection) (packets int64, ok bool) {
	key, _, err := canonical(r.expressions())
	if err != nil {
		return 0, false
	}
	ok = slices.ContainsFunc(t.rules, func(k []byte) bool { return bytes.Equal(k, key) })
	return t.packets[string(key)], ok
}

// serves tells whether the table is exactly what these rules make.
func (t table) serves(rules []redirection) bool {
	if !t.hooked || t.chains != 1 || len(t.rules) != len(rules) {
		return false
	}
	for _, r := range rules {
		if _, ok := t.has(r); !ok {
			return false
		}
	}
	return true
}

func protocolName(p lvs.Protocol) string {
	switch p {
	case lvs.UDP:
		return "udp"
	case lvs.SCTP:
		return "sctp"
	}
	return "tcp"
}
