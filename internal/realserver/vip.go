// SPDX-License-Identifier: MIT

package realserver

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Method is how the host accepts packets to a VIP.
type Method string

// The methods.
const (
	Loopback Method = "loopback"
	Redirect Method = "redirect"
)

// VIP is one virtual address and how the host accepts its packets.
type VIP struct {
	Addr   netip.Addr `json:"vip"`
	Method Method     `json:"method"`
	// Ports are what method redirect redirects; method loopback accepts all.
	Ports []Port `json:"ports,omitempty"`
}

// Port is a service's port and the local port that answers for it.
type Port struct {
	Protocol lvs.Protocol `json:"protocol"` // TCP, UDP or SCTP
	Port     uint16       `json:"port"`     // the service's, 1 and up
	Local    uint16       `json:"local"`    // the local one, 1 and up; often the same
}

// String gives what ParsePort reads: "80/tcp" or "80/tcp:8080".
func (p Port) String() string {
	s := strconv.Itoa(int(p.Port)) + "/" + strings.ToLower(p.Protocol.String())
	if p.Local != p.Port {
		s += ":" + strconv.Itoa(int(p.Local))
	}
	return s
}

// ParsePort reads "80/tcp", or "80/tcp:8080" for another local port.
func ParsePort(s string) (Port, error) {
	bad := func(why string) (Port, error) {
		return Port{}, fmt.Errorf("port %q: %w: %s; write it like 80/tcp, 53/udp or 80/tcp:8080", s, ErrInvalid, why)
	}
	service, local, mapped := strings.Cut(s, ":")
	number, protocol, ok := strings.Cut(service, "/")
	if !ok {
		return bad("its protocol is missing")
	}
	var p Port
	switch strings.ToLower(protocol) {
	case "tcp":
		p.Protocol = lvs.TCP
	case "udp":
		p.Protocol = lvs.UDP
	case "sctp":
		p.Protocol = lvs.SCTP
	default:
		return bad("the protocol is tcp, udp or sctp")
	}
	var err error
	if p.Port, err = parseNumber(number); err != nil {
		return bad("a port is a number from 1 to 65535")
	}
	p.Local = p.Port
	if mapped {
		if p.Local, err = parseNumber(local); err != nil {
			return bad("the local port is a number from 1 to 65535")
		}
	}
	return p, nil
}

func parseNumber(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	if err == nil && s[0] == '+' {
		err = strconv.ErrSyntax
	}
	return uint16(n), err
}

// ParseAddr reads a VIP: an address, with or without "/32" or, for IPv6, "/128".
// Any other prefix length is refused, because on lo the kernel would take the
// whole prefix for this host.
func ParseAddr(s string) (netip.Addr, error) {
	text, bits, found := strings.Cut(s, "/")
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("VIP %q: %w: it is not an IP address; write it like 172.16.16.172 or 2001:db8:16::172", s, ErrInvalid)
	}
	if found && bits != strconv.Itoa(a.BitLen()) {
		return netip.Addr{}, fmt.Errorf("VIP %q: %w: with /%s the kernel would take the whole network for this host; leave it out or write /%d",
			s, ErrInvalid, bits, a.BitLen())
	}
	return a, checkAddr(a)
}

func checkAddr(a netip.Addr) error {
	switch {
	case a.Is4In6():
		return fmt.Errorf("VIP %v: %w: it is an IPv4 address in IPv6 notation; write %v", a, ErrInvalid, a.Unmap())
	case a.Is6() && (a.IsLinkLocalUnicast() || a.Zone() != ""):
		return fmt.Errorf("VIP %v: %w: a link-local address means another machine on each link; use a global (or unique local) one", a, ErrInvalid)
	case !a.IsValid(), a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240):
		return fmt.Errorf("VIP %v: %w: it is not a unicast address that clients can reach", a, ErrInvalid)
	}
	return nil
}

// guarded tells whether the VIP makes this host answer, or ask, by ARP for it.
// An IPv6 VIP does not: Linux answers neighbour solicitations only for addresses
// of the interface that they come in by, and asks from those only.
func (v VIP) guarded() bool { return v.Method == Loopback && v.Addr.Is4() }

func (v VIP) check() error {
	if err := checkAddr(v.Addr); err != nil {
		return err
	}
	switch v.Method {
	case Loopback:
		if len(v.Ports) > 0 {
			return fmt.Errorf("VIP %v: %w: method loopback accepts every port, --port belongs to method redirect", v.Addr, ErrInvalid)
		}
	case Redirect:
		if len(v.Ports) == 0 {
			return fmt.Errorf("VIP %v: %w: method redirect needs to know what to redirect; add --port, such as --port 80/tcp", v.Addr, ErrInvalid)
		}
		for i, p := range v.Ports {
			if p.Port == 0 || p.Local == 0 || p.Protocol != lvs.TCP && p.Protocol != lvs.UDP && p.Protocol != lvs.SCTP {
				return fmt.Errorf("VIP %v: port %v: %w", v.Addr, p, ErrInvalid)
			}
			for _, q := range v.Ports[:i] {
				if err := clash(v.Addr, p, q); err != nil {
					return err
				}
			}
		}
	default:
		return fmt.Errorf("VIP %v: method %q: %w: it is loopback or redirect", v.Addr, v.Method, ErrInvalid)
	}
	return nil
}

// merge adds what is asked for to what is wanted already.
func merge(wanted []VIP, asked []VIP) ([]VIP, error) {
	wanted = slices.Clone(wanted)
	for _, v := range asked {
		if err := v.check(); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(wanted, func(w VIP) bool { return w.Addr == v.Addr })
		if i < 0 {
			v.Ports = slices.Clone(v.Ports)
			sortPorts(v.Ports)
			v.Ports = slices.Compact(v.Ports)
			wanted = append(wanted, v)
			continue
		}
		w := wanted[i]
		if w.Method != v.Method {
			return nil, fmt.Errorf("VIP %v: %w: it is started with method %s; 'stop --vip %v' first, then start it with %s",
				v.Addr, ErrInvalid, w.Method, v.Addr, v.Method)
		}
		w.Ports = slices.Clone(w.Ports)
		for _, p := range v.Ports {
			if slices.Contains(w.Ports, p) {
				continue
			}
			for _, q := range w.Ports {
				if err := clash(v.Addr, p, q); err != nil {
					return nil, err
				}
			}
			w.Ports = append(w.Ports, p)
		}
		sortPorts(w.Ports)
		wanted[i] = w
	}
	slices.SortFunc(wanted, func(a, b VIP) int { return a.Addr.Compare(b.Addr) })
	return wanted, nil
}

func clash(vip netip.Addr, p, q Port) error {
	if p.Port == q.Port && p.Protocol == q.Protocol && p.Local != q.Local {
		return fmt.Errorf("VIP %v: %v and %v: %w: one port has one local port; 'stop --vip %v' first to change it", vip, q, p, ErrInvalid, vip)
	}
	return nil
}

func sortPorts(p []Port) {
	slices.SortFunc(p, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
}
