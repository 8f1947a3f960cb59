// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"context"
	"math"
	"net/netip"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// parser turns the words of a command line into a commandLine.
type parser struct {
	ctx   context.Context
	names Names

	scan *scanner
	line *commandLine

	schedFlags string
	lateServer string // -r given before the service whose port it may take
}

// parseArgs understands a command line (without the program's name). Its errors
// are *failure.
func parseArgs(ctx context.Context, names Names, args []string) (*commandLine, error) {
	return parseLine(ctx, names, optionSpecs(), args)
}

// parseLine is parseArgs for who has many lines, and the options at hand.
func parseLine(ctx context.Context, names Names, specs []optionSpec, args []string) (*commandLine, error) {
	p := &parser{ctx: ctx, names: names, scan: &scanner{args: args, specs: specs}, line: &commandLine{
		server: lvs.RealServer{Forward: lvs.DirectRouting, Weight: lvs.DefaultWeight},
	}}
	p.line.service.Netmask = math.MaxUint32
	first, ok, err := p.scan.scan()
	if err != nil || !ok {
		// ipvsadm reports nothing better if the first option is wrong.
		return nil, tryHelp()
	}
	if err := p.command(first); err != nil {
		return nil, err
	}
	if p.line.command == cmdHelp || p.line.command == cmdVersion {
		return p.line, nil
	}
	for {
		got, ok, err := p.scan.scan()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if err := p.option(got); err != nil {
			return nil, err
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p.line, nil
}

func (p *parser) command(got scanned) error {
	switch got.tag {
	case tagAddService:
		p.line.command = cmdAddService
	case tagEditService:
		p.line.command = cmdEditService
	case tagDeleteService:
		p.line.command = cmdDeleteService
	case tagClear:
		p.line.command = cmdClear
	case tagList:
		p.line.command = cmdList
	case tagZero:
		p.line.command = cmdZero
	case tagAddServer:
		p.line.command = cmdAddServer
	case tagEditServer:
		p.line.command = cmdEditServer
	case tagDeleteServer:
		p.line.command = cmdDeleteServer
	case tagSet:
		p.line.command = cmdSet
	case tagHelp:
		p.line.command = cmdHelp
	case tagVersion:
		p.line.command = cmdVersion
	case tagRestore:
		p.line.command = cmdRestore
	case tagSave:
		p.line.command = cmdSave
	case tagStartDaemon:
		p.line.command = cmdStartDaemon
		if got.value != "master" && got.value != "backup" {
			return fail("illegal start-daemon parameter specified")
		}
	case tagStopDaemon:
		p.line.command = cmdStopDaemon
		if got.value != "master" && got.value != "backup" {
			return fail("illegal start_daemon specified")
		}
	case tagAddMark:
		p.line.command = cmdAddMark
		return p.mark(&p.line.mark.Mark, got.value)
	case tagDeleteMark:
		p.line.command = cmdDeleteMark
		return p.mark(&p.line.mark.Mark, got.value)
	case tagListMarks:
		p.line.command = cmdListMarks
	case tagAddDeny:
		p.line.command = cmdAddDeny
		return p.prefix(&p.line.deny, got.value)
	case tagDeleteDeny:
		p.line.command = cmdDeleteDeny
		return p.prefix(&p.line.deny, got.value)
	default:
		return tryHelp()
	}
	return nil
}

func (p *parser) set(o option) error {
	if p.line.options.has(o) {
		return fail("multiple '%v' options specified", o)
	}
	p.line.options |= setOf(o)
	return nil
}

// plainOption is an option that is only remembered.
func plainOption(t tag) (option, bool) {
	switch t {
	case tagNumeric:
		return optNumeric, true
	case tagConnection:
		return optConnection, true
	case tagMcastInterface:
		return optMcastInterface, true
	case tagTimeout:
		return optTimeout, true
	case tagDaemon:
		return optDaemon, true
	case tagStats:
		return optStats, true
	case tagRate:
		return optRate, true
	case tagThresholds:
		return optThresholds, true
	case tagPersistentConn:
		return optPersistentConn, true
	case tagNoSort:
		return optNoSort, true
	case tagExact:
		return optExact, true
	case tagTunInfo:
		return optTunInfo, true
	}
	return 0, false
}

func (p *parser) option(got scanned) error {
	if o, ok := plainOption(got.tag); ok {
		return p.set(o)
	}
	switch got.tag {
	case tagTCP, tagUDP, tagSCTP, tagFwmark, tagIPv6, tagScheduler, tagPersistent, tagNetmask,
		tagOnePacket, tagEngine, tagSchedFlags:
		return p.serviceOption(got)
	case tagStray, tagConnReuse, tagExpireNodest, tagExpireTemplate, tagSecureTCP,
		tagSourceLimit:
		return p.policyOption(got)
	case tagServer, tagMasquerading, tagIPIP, tagGatewaying, tagWeight, tagUpper, tagLower,
		tagTunType, tagTunPort, tagTunNocsum, tagTunCsum, tagTunRemcsum:
		return p.serverOption(got)
	case tagSyncID, tagMcastGroup, tagMcastPort, tagMcastTTL, tagSyncMaxlen:
		return p.daemonOption(got)
	case tagSort: // sorting is the default
		return nil
	}
	return fail("invalid option `%s'", p.scan.word()) // a second command
}

func (p *parser) serviceOption(got scanned) error {
	s := &p.line.service
	switch got.tag {
	case tagTCP:
		return p.serviceAddress(lvs.TCP, got.value)
	case tagUDP:
		return p.serviceAddress(lvs.UDP, got.value)
	case tagSCTP:
		return p.serviceAddress(lvs.SCTP, got.value)
	case tagFwmark:
		if err := p.set(optService); err != nil {
			return err
		}
		if p.isMark() {
			return fail("Illegal 'fwmark-service' option with the '%v' command", p.line.command)
		}
		return p.mark(&s.Mark, got.value)
	case tagIPv6:
		if s.Mark == 0 {
			return fail("-6 used before -f\n")
		}
		s.Mark6, s.Netmask = true, 128
	case tagScheduler:
		s.Scheduler = lvs.Scheduler(got.value)
		return p.set(optScheduler)
	case tagPersistent:
		if err := p.set(optPersistent); err != nil {
			return err
		}
		s.Flags |= lvs.FlagPersistent
		s.Timeout = lvs.DefaultPersistence
		if !got.hasValue {
			return nil
		}
		var err error
		s.Timeout, err = parseTimeout(got.value, 1)
		return err
	case tagNetmask:
		return p.netmask(got.value)
	case tagOnePacket:
		s.Flags |= lvs.FlagOnePacket
		return p.set(optOnePacket)
	case tagEngine:
		s.Engine = got.value
		return p.set(optEngine)
	case tagSchedFlags:
		p.schedFlags = got.value
		return p.set(optSchedFlags)
	}
	return nil
}

func (p *parser) serviceAddress(protocol lvs.Protocol, text string) error {
	if err := p.set(optService); err != nil {
		return err
	}
	if p.isMark() {
		return p.markAddress(protocol, text)
	}
	addr, port, _, ok := p.endpoint(text, protocol)
	if !ok {
		return fail("illegal virtual server address[:port] specified")
	}
	p.line.service.ServiceID = lvs.ServiceID{Protocol: protocol, Addr: addr, Port: port}
	if addr.Is6() {
		p.line.service.Netmask = 128
	}
	return nil
}

func (p *parser) mark(to *uint32, text string) error {
	n, ok := parseNumber(text, 1, math.MaxUint32)
	if !ok {
		return fail("invalid fwmark value `%s' specified", text)
	}
	*to = uint32(n)
	return nil
}

// prefix reads an address with a length, or without: then it is alone.
func (p *parser) prefix(to *netip.Prefix, text string) (err error) {
	if addr, bad := netip.ParseAddr(text); bad == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		*to = netip.PrefixFrom(addr, addr.BitLen())
	} else if *to, err = netip.ParsePrefix(text); err != nil {
		return fail("illegal prefix `%s' specified: it is address[/length]", text)
	}
	return nil
}

// isMark tells whether the command is about a mark rule, so that -t, -u and
// --sctp-service name the packets that have the mark.
func (p *parser) isMark() bool {
	return p.line.command == cmdAddMark || p.line.command == cmdDeleteMark
}

func (p *parser) markAddress(protocol lvs.Protocol, text string) error {
	addr, first, last, ok := p.listeners(text, protocol)
	if !ok {
		return fail("illegal virtual server address[:port[-port]] specified")
	}
	m := &p.line.mark
	m.Protocol, m.Addr, m.First, m.Last = protocol, addr, first, last
	return nil
}

func (p *parser) netmask(text string) error {
	if err := p.set(optNetmask); err != nil {
		return err
	}
	s := &p.line.service
	if s.Is6() {
		length, ok := parseNumber(text, 1, 128)
		if !ok {
			return fail("illegal ipv6 netmask specified")
		}
		s.Netmask = uint32(length)
		return nil
	}
	mask, ok := parseIPv4(text)
	if !ok {
		return fail("illegal virtual server persistent mask specified")
	}
	s.Netmask = mask
	return nil
}

func (p *parser) serverOption(got scanned) error {
	r := &p.line.server
	switch got.tag {
	case tagServer:
		if err := p.set(optServer); err != nil {
			return err
		}
		if !p.line.options.has(optService) {
			p.lateServer = got.value
			return nil
		}
		return p.serverAddress(got.value)
	case tagMasquerading:
		r.Forward = lvs.Masquerade
		return p.set(optForward)
	case tagIPIP:
		r.Forward = lvs.Tunnel
		return p.set(optForward)
	case tagGatewaying:
		r.Forward = lvs.DirectRouting
		return p.set(optForward)
	case tagWeight:
		n, err := p.number(optWeight, got.value, 0, math.MaxInt32, "illegal weight specified")
		r.Weight = int32(n)
		return err
	case tagUpper:
		n, err := p.number(optUpper, got.value, 0, math.MaxInt32, "illegal u_threshold specified")
		r.Upper = uint32(n)
		return err
	case tagLower:
		n, err := p.number(optLower, got.value, 0, math.MaxInt32, "illegal l_threshold specified")
		r.Lower = uint32(n)
		return err
	}
	return p.tunnelOption(got)
}

func (p *parser) tunnelOption(got scanned) error {
	t := &p.line.server.Tunnel
	switch got.tag {
	case tagTunType:
		if err := p.set(optTunType); err != nil {
			return err
		}
		if got.value != "ipip" && got.value != "gue" && got.value != "gre" {
			return fail("illegal tunnel type specified")
		}
		t.Type = got.value
	case tagTunPort:
		n, err := p.number(optTunPort, got.value, 1, math.MaxUint16, "illegal tunnel port specified")
		t.Port = uint16(n)
		return err
	case tagTunNocsum:
		return p.set(optTunNocsum)
	case tagTunCsum:
		t.Flags |= lvs.TunnelChecksum
		return p.set(optTunCsum)
	case tagTunRemcsum:
		t.Flags |= lvs.TunnelRemoteChecksum
		return p.set(optTunRemcsum)
	}
	return nil
}

func (p *parser) serverAddress(text string) error {
	s := &p.line.service
	addr, port, hasPort, ok := p.endpoint(text, s.Protocol)
	if !ok {
		return fail("illegal real server address[:port] specified")
	}
	if !hasPort {
		port = s.Port
	}
	p.line.server.ServerID = lvs.ServerID{Addr: addr, Port: port}
	return nil
}

// daemonOption checks the options of the synchronization daemons: a wrong one
// is reported as wrong, before the daemons are refused.
func (p *parser) daemonOption(got scanned) error {
	var err error
	switch got.tag {
	case tagSyncID:
		_, err = p.number(optSyncID, got.value, 0, 255, "illegal syncid specified")
	case tagMcastPort:
		_, err = p.number(optMcastPort, got.value, 1, math.MaxUint16, "illegal mcast-port specified")
	case tagMcastTTL:
		_, err = p.number(optMcastTTL, got.value, 1, 255, "illegal mcast-ttl specified")
	case tagSyncMaxlen:
		const headers = 20 + 8 // IPv4 and UDP
		_, err = p.number(optSyncMaxlen, got.value, 1, math.MaxUint16-headers, "illegal sync-maxlen specified")
	case tagMcastGroup:
		if err := p.set(optMcastGroup); err != nil {
			return err
		}
		family := "IPv4"
		if strings.Contains(got.value, ":") {
			family = "IPv6"
		}
		if group, bad := netip.ParseAddr(got.value); bad != nil || !group.IsMulticast() {
			return fail("invalid %s mcast-group `%s'", family, got.value)
		}
	}
	return err
}

func (p *parser) number(o option, text string, low, high int64, complaint string) (int64, error) {
	if err := p.set(o); err != nil {
		return 0, err
	}
	n, ok := parseNumber(text, low, high)
	if !ok {
		return 0, fail("%s", complaint)
	}
	return n, nil
}

// finish does what needs the whole line: in ipvsadm's order, as it decides
// which of two mistakes is reported.
func (p *parser) finish() error {
	if p.lateServer != "" {
		if err := p.serverAddress(p.lateServer); err != nil {
			return err
		}
	}
	if err := p.leftovers(); err != nil {
		return err
	}
	s := &p.line.service
	if s.Scheduler == "" {
		s.Scheduler = lvs.DefaultScheduler
	}
	if p.schedFlags != "" {
		flags, err := ParseSchedulerFlags(s.Scheduler, p.schedFlags)
		if err != nil {
			return err
		}
		s.Flags |= flags
	}
	if err := ruleOf(p.line.command).check(p.line.options, allOptions(), p.line.command.String(), "command"); err != nil {
		return err
	}
	switch p.line.command {
	case cmdAddService, cmdEditService:
		return p.checkService()
	case cmdAddServer, cmdEditServer:
		return p.checkServer()
	case cmdList:
		return p.checkList()
	}
	return nil
}

// leftovers are the words that are neither options nor their values: --set
// takes three of them.
func (p *parser) leftovers() error {
	rest := p.scan.rest
	if p.line.command == cmdSet {
		if len(rest) < 3 {
			return fail("--set option requires 3 timeout values")
		}
		t := &p.line.timeouts
		for i, to := range []*uint32{&t.TCP, &t.TCPFin, &t.UDP} {
			var err error
			if *to, err = parseTimeout(rest[i], 0); err != nil {
				return err
			}
		}
		rest = rest[3:]
	}
	if len(rest) > 0 {
		return fail("unexpected argument %s", rest[0])
	}
	return nil
}

func (p *parser) checkService() error {
	s := &p.line.service
	if s.Mark == 0 && s.Port == 0 && !s.Persistent() {
		return fail("Zero port specified for non-persistent service")
	}
	if s.Flags&lvs.FlagOnePacket != 0 && s.Mark == 0 && s.Protocol != lvs.UDP {
		return fail("One-Packet Scheduling is only for UDP virtual services")
	}
	return p.checkPolicy()
}

func (p *parser) checkServer() error {
	s, r := &p.line.service, &p.line.server
	if r.Addr.Is6() != s.Is6() && r.Forward != lvs.Tunnel {
		return fail("Different address family is allowed only for tunneling servers")
	}
	tunnel := []option{optTunPort, optTunNocsum, optTunCsum, optTunRemcsum}
	if r.Forward != lvs.Tunnel {
		if p.line.options.any(setOf(append(tunnel, optTunType)...)) {
			return fail("Tunnel options conflict with forward method")
		}
		return nil
	}
	if r.Tunnel.Type == "" {
		r.Tunnel.Type = "ipip"
	}
	return tunnelRule(r.Tunnel.Type).check(p.line.options, tunnel, r.Tunnel.Type, "tunnel type")
}

func (p *parser) checkList() error {
	o := p.line.options
	if o.any(setOf(optConnection, optTimeout, optDaemon)) && o.any(setOf(optStats, optRate, optThresholds)) ||
		o.any(setOf(optTimeout, optDaemon)) && o.has(optPersistentConn) {
		return fail("options conflicts in the list command")
	}
	return nil
}
