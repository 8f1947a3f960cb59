// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// printer writes addresses and ports, as numbers or as names, and remembers the
// names: in a listing the same ones come again and again.
type printer struct {
	*bufio.Writer
	ctx     context.Context
	names   Names
	numeric bool
	hosts   map[netip.Addr]string
}

func newPrinter(ctx context.Context, w io.Writer, names Names, numeric bool) *printer {
	return &printer{Writer: bufio.NewWriter(w), ctx: ctx, names: names, numeric: numeric,
		hosts: map[netip.Addr]string{}}
}

func (p *printer) printf(format string, args ...any) {
	// A bufio.Writer keeps its first error until Flush, which is checked.
	_, _ = fmt.Fprintf(p, format, args...)
}

// endpoint gives "host:port" or "[host]:port".
func (p *printer) endpoint(addr netip.Addr, port uint16, protocol lvs.Protocol) string {
	return p.at(addr, p.service(port, protocol))
}

// listeners is endpoint for all ports of a mark rule. A range is of numbers.
func (p *printer) listeners(m lvs.MarkRule) string {
	if m.First == m.Last {
		return p.endpoint(m.Addr, m.First, m.Protocol)
	}
	return p.at(m.Addr, fmt.Sprintf("%d-%d", m.First, m.Last))
}

func (p *printer) at(addr netip.Addr, service string) string {
	host := p.host(addr)
	if addr.Is6() {
		return "[" + host + "]:" + service
	}
	return host + ":" + service
}

func (p *printer) host(addr netip.Addr) string {
	if p.numeric || p.names.AddrHost == nil {
		return addr.String()
	}
	if host, known := p.hosts[addr]; known {
		return host
	}
	host, ok := p.names.AddrHost(p.ctx, addr)
	if !ok {
		host = addr.String()
	}
	p.hosts[addr] = host
	return host
}

func (p *printer) service(port uint16, protocol lvs.Protocol) string {
	if !p.numeric && p.names.PortService != nil {
		if name, ok := p.names.PortService(port, protocol); ok {
			return name
		}
	}
	return strconv.Itoa(int(port))
}

// netmask gives the mask of a persistent service, and whether it differs from
// the default, in which every client is by itself.
func netmask(s *lvs.VirtualService) (string, bool) {
	if s.Is6() {
		return strconv.Itoa(int(s.Netmask)), s.Netmask != 128
	}
	return addrFromIPv4(s.Netmask).String(), s.Netmask != 1<<32-1
}
