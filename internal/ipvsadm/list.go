// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// ipvsVersion is the version of IPVS whose behaviour shunt has, and the size of
// the hash table that IPVS has unless told otherwise. Scripts skip the line, or
// look whether it is there.
const ipvsVersion = "IP Virtual Server version 1.2.1 (size=4096)"

// view is one of the forms of the listing.
type view int

const (
	viewPlain view = iota
	viewStats
	viewRate
	viewThresholds
	viewPersistent
	viewTunnel
)

// viewOf chooses the form; of several options the first in this order counts.
func viewOf(o optionSet) view {
	for _, v := range []struct {
		option option
		view   view
	}{{optStats, viewStats}, {optRate, viewRate}, {optThresholds, viewThresholds},
		{optPersistentConn, viewPersistent}, {optTunInfo, viewTunnel}} {
		if o.has(v.option) {
			return v.view
		}
	}
	return viewPlain
}

func list(ctx context.Context, env Env, l *commandLine) error {
	p := newPrinter(ctx, env.Stdout, env.Names, l.options.has(optNumeric))
	var err error
	switch {
	case l.options.has(optConnection):
		err = listConnections(ctx, env.Director, p, l.options.has(optPersistentConn))
	case l.options.has(optTimeout):
		err = listTimeouts(ctx, env.Director, p)
	case l.options.has(optDaemon):
		// There are no synchronization daemons that could run.
	default:
		err = listServices(ctx, env.Director, p, l)
	}
	return errors.Join(err, p.Flush())
}

func listTimeouts(ctx context.Context, d Director, p *printer) error {
	t, err := d.Table(ctx)
	if err != nil {
		return err
	}
	p.printf("Timeout (tcp tcpfin udp): %d %d %d\n", t.Timeouts.TCP, t.Timeouts.TCPFin, t.Timeouts.UDP)
	return nil
}

func listMarks(ctx context.Context, env Env, numeric bool) error {
	t, err := env.Director.Table(ctx)
	if err != nil {
		return err
	}
	p := newPrinter(ctx, env.Stdout, env.Names, numeric)
	p.printf("%-10s Prot LocalAddress:Port[-Port]\n", "Mark")
	for _, m := range slices.SortedFunc(slices.Values(t.Marks), compareMarks) {
		p.printf("%-10d %-4v %s\n", m.Mark, m.Protocol, p.listeners(m))
	}
	return p.Flush()
}

func listConnections(ctx context.Context, d Director, p *printer, engines bool) error {
	conns, err := d.Connections(ctx)
	if err != nil {
		return err
	}
	const row = "%-3s %-6s %-11s %-18s %-18s %s\n"
	p.printf("IPVS connection entries\n")
	if engines {
		p.printf("pro expire %-11s %-18s %-18s %-18s %-16s %s\n",
			"state", "source", "virtual", "destination", "pe name", "pe_data")
	} else {
		p.printf(row, "pro", "expire", "state", "source", "virtual", "destination")
	}
	for _, c := range conns {
		seconds := int(max(c.Expires, 0) / time.Second)
		protocol := c.Protocol.String()
		if c.Protocol == lvs.ProtocolNone {
			protocol = "IP" // a mark's template; the kernel's name for protocol 0
		}
		p.printf(row, protocol, fmt.Sprintf("%02d:%02d", seconds/60, seconds%60), c.State,
			p.endpoint(c.Client.Addr(), c.Client.Port(), c.Protocol),
			p.endpoint(c.Virtual.Addr(), c.Virtual.Port(), c.Protocol),
			p.endpoint(c.Server.Addr(), c.Server.Port(), c.Protocol))
	}
	return nil
}

func listServices(ctx context.Context, d Director, p *printer, l *commandLine) error {
	table, err := d.Listed(ctx)
	if err != nil {
		return err
	}
	services := slices.Clone(table.Services)
	if l.options.has(optService) {
		s := table.Service(l.service.ServiceID)
		if s == nil {
			return &failure{code: exitNoList, text: "No such service"}
		}
		services = []*lvs.VirtualService{s}
	}
	status, err := d.Status(ctx)
	if err != nil {
		return err
	}
	if !l.options.has(optService) {
		p.printf("%s\n", ipvsVersion)
	}
	t := &listing{printer: p, view: viewOf(l.options), exact: l.options.has(optExact),
		sort: !l.options.has(optNoSort), status: map[lvs.ServiceID]*lvs.ServiceStatus{}}
	for i := range status {
		t.status[status[i].ServiceID] = &status[i]
	}
	if t.sort {
		mergeSort(services, compareServices)
	}
	t.title()
	for _, s := range services {
		t.service(s)
	}
	return nil
}

// listing writes services and their servers in one of the views.
type listing struct {
	*printer
	view   view
	exact  bool
	sort   bool
	status map[lvs.ServiceID]*lvs.ServiceStatus
}

func (t *listing) title() {
	switch t.view {
	case viewStats, viewRate:
		columns := []any{"Prot LocalAddress:Port", "Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"}
		if t.view == viewRate {
			columns = []any{"Prot LocalAddress:Port", "CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"}
		}
		t.printf("%-33s %8s %8s %8s %8s %8s\n  -> RemoteAddress:Port\n", columns...)
	case viewThresholds:
		t.printf("%-33s %-10s %-10s %-10s %-10s\n  -> RemoteAddress:Port\n",
			"Prot LocalAddress:Port", "Uthreshold", "Lthreshold", "ActiveConn", "InActConn")
	case viewPersistent:
		t.printf("%-33s %-9s %-11s %-10s %-10s\n  -> RemoteAddress:Port\n",
			"Prot LocalAddress:Port", "Weight", "PersistConn", "ActiveConn", "InActConn")
	case viewTunnel:
		t.printf("Prot LocalAddress:Port Scheduler Flags\n" +
			"  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn\n")
	default:
		t.printf("Prot LocalAddress:Port Scheduler Flags\n" +
			"  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n")
	}
}

func (t *listing) service(s *lvs.VirtualService) {
	status := t.status[s.ServiceID]
	if status == nil {
		status = &lvs.ServiceStatus{ServiceID: s.ServiceID}
	}
	name := t.serviceName(s)
	switch t.view {
	case viewStats:
		c := status.Counters
		t.printf("%-33s%s\n", name, t.numbers(c.Connections, c.Packets, 0, c.Bytes, 0))
	case viewRate:
		r := status.Rates
		t.printf("%-33s%s\n", name, t.numbers(r.Connections, r.Packets, 0, r.Bytes, 0))
	default:
		t.printf("%s %s%s\n", name, s.Scheduler, t.flags(s))
	}
	servers := slices.Clone(s.Servers)
	if t.sort {
		mergeSort(servers, compareServers)
	}
	for i := range servers {
		t.server(s, &servers[i], status.Server(servers[i].ServerID))
	}
}

// serviceName has the width of its column at most, unless it is an IPv6 one,
// which ipvsadm lets grow.
func (t *listing) serviceName(s *lvs.VirtualService) string {
	if s.Mark != 0 {
		if s.Mark6 {
			return fmt.Sprintf("FWM  %d IPv6", s.Mark)
		}
		return fmt.Sprintf("FWM  %d", s.Mark)
	}
	name := fmt.Sprintf("%-4v %s", s.Protocol, t.endpoint(s.Addr, s.Port, s.Protocol))
	if s.Addr.Is6() {
		return name
	}
	return cut(name, 33)
}

func cut(text string, width int) string { return text[:min(len(text), width)] }

func (t *listing) flags(s *lvs.VirtualService) string {
	text := ""
	if names := SchedulerFlagNames(s.Scheduler, s.Flags); names != "" {
		text += " (" + names + ")"
	}
	if s.Persistent() {
		text += fmt.Sprintf(" persistent %d", s.Timeout)
		if mask, special := netmask(s); special {
			text += " mask " + mask
		}
		if s.Engine != "" {
			text += " pe " + s.Engine
		}
	}
	if s.Flags&lvs.FlagOnePacket != 0 {
		text += " ops"
	}
	if s.Policy != (lvs.Policy{}) {
		text += " " + s.Policy.String()
	}
	if len(s.Deny) > 0 {
		text += fmt.Sprintf(" deny %d", len(s.Deny))
	}
	return text
}

func (t *listing) server(s *lvs.VirtualService, r *lvs.RealServer, status lvs.ServerStatus) {
	name := t.endpoint(r.Addr, r.Port, s.Protocol)
	if !r.Addr.Is6() {
		name = cut(name, 28)
	}
	forward := r.Forward
	if status.Local {
		forward = lvs.LocalNode
	}
	t.printf("  -> %-28s", name)
	switch t.view {
	case viewStats:
		c := status.Counters
		t.printf("%s\n", t.numbers(c.Connections, c.Packets, 0, c.Bytes, 0))
	case viewRate: // a server's connections and packets are never shortened
		c := status.Rates
		t.printf(" %8d %8d %8d%s\n", c.Connections, c.Packets, 0, t.numbers(c.Bytes, 0))
	case viewThresholds:
		t.printf(" %-10d %-10d %-10d %-10d\n", r.Upper, r.Lower, status.Active, status.Inactive)
	case viewPersistent:
		t.printf(" %-9d %-11d %-10d %-10d\n", r.Weight, status.Persistent, status.Active, status.Inactive)
	case viewTunnel:
		t.printf(" %-7s %-13s %-6d %-10d %-10d\n", forward, tunnelInfo(r), r.Weight, status.Active, status.Inactive)
	default:
		t.printf(" %-7s %-6d %-10d %-10d\n", forward, r.Weight, status.Active, status.Inactive)
	}
}

func tunnelInfo(r *lvs.RealServer) string {
	if r.Forward != lvs.Tunnel {
		return "n/a"
	}
	checksum := map[uint16]string{0: "-c", lvs.TunnelChecksum: "+c", lvs.TunnelRemoteChecksum: "r+c"}[r.Tunnel.Flags]
	switch r.Tunnel.Type {
	case "gue":
		return fmt.Sprintf("gue:%d:%s", r.Tunnel.Port, checksum)
	case "gre":
		return "gre:" + checksum
	}
	return r.Tunnel.Type
}

// numbers gives counters in columns of 9. From 100 million on they are
// shortened to thousands, millions and so on, unless exact numbers are wanted:
// those push the columns apart.
func (t *listing) numbers(values ...uint64) string {
	text := ""
	for _, n := range values {
		if t.exact {
			text += fmt.Sprintf(" %8d", n)
		} else {
			text += fmt.Sprintf("%9s", shorten(n))
		}
	}
	return text
}

func shorten(n uint64) string {
	switch {
	case n < 100e6:
		return strconv.FormatUint(n, 10)
	case n < 1e9:
		return strconv.FormatUint(n/1e3, 10) + "K"
	case n < 100e9:
		return strconv.FormatUint(n/1e6, 10) + "M"
	case n < 100e12:
		return strconv.FormatUint(n/1e9, 10) + "G"
	}
	return strconv.FormatUint(n/1e12, 10) + "T"
}
