// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"math"
	"net/netip"
	"strconv"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// parseNumber reads a decimal number as C's strtol does: blanks before it and a
// sign are fine, anything after it is not.
func parseNumber(text string, low, high int64) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimLeft(text, " \t\n\v\f\r"), 10, 64)
	return n, err == nil && low <= n && n <= high
}

func parseTimeout(text string, low int64) (uint32, error) {
	n, ok := parseNumber(text, low, lvs.MaxTimeout)
	if !ok {
		return 0, fail("invalid timeout value `%s' specified", text)
	}
	return uint32(n), nil
}

// parseIPv4 reads an IPv4 address in any of the forms that C's inet_aton takes:
// one to four parts, each decimal, octal (0...) or hexadecimal (0x...), the last
// filling what the others leave. The result is in host byte order.
func parseIPv4(text string) (uint32, bool) {
	parts := strings.Split(text, ".")
	if len(parts) > 4 {
		return 0, false
	}
	var addr uint64
	for i, part := range parts {
		n, ok := parseC(part)
		room := 8
		if i == len(parts)-1 {
			room = 8 * (4 - i)
		}
		if !ok || n >= 1<<room {
			return 0, false
		}
		addr |= n << (8*(4-i) - room)
	}
	return uint32(addr), true
}

// parseC reads an unsigned number in C's notation.
func parseC(text string) (uint64, bool) {
	base := 10
	digits := text
	if rest, hex := strings.CutPrefix(strings.ToLower(text), "0x"); hex {
		base, digits = 16, rest
	} else if len(text) > 1 && text[0] == '0' {
		base, digits = 8, text[1:]
	}
	if strings.ContainsAny(digits, "+-_") {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, base, 32)
	return n, err == nil
}

func addrFromIPv4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// endpoint reads "host", "host:port", "[v6]:port" or a bare IPv6 address; host
// is an address or a name, port a number or a service's name.
func (p *parser) endpoint(text string, protocol lvs.Protocol) (addr netip.Addr, port uint16, hasPort, ok bool) {
	addr, service, hasPort, ok := p.address(text)
	if !ok || !hasPort {
		return addr, 0, false, ok
	}
	port, ok = p.port(service, protocol)
	if !ok {
		return addr, 0, false, false
	}
	return addr, port, true, true
}

// listeners reads an endpoint whose port may also be a range: 5000-5010. Without
// a port, or with port 0, it is every port: both are 0.
func (p *parser) listeners(text string, protocol lvs.Protocol) (addr netip.Addr, first, last uint16, ok bool) {
	addr, service, hasPort, ok := p.address(text)
	if !ok || !hasPort {
		return addr, 0, 0, ok
	}
	if from, to, isRange := strings.Cut(service, "-"); isRange {
		// Names of services may have a - in them; a range is of numbers.
		low, ok1 := parseNumber(from, 1, math.MaxUint16)
		high, ok2 := parseNumber(to, 1, math.MaxUint16)
		if ok1 && ok2 {
			return addr, uint16(low), uint16(high), low <= high
		}
	}
	first, ok = p.port(service, protocol)
	return addr, first, first, ok
}

// address reads what comes before the port, and gives the rest.
func (p *parser) address(text string) (addr netip.Addr, service string, hasPort, ok bool) {
	host := text
	if inner, bracketed := strings.CutPrefix(text, "["); bracketed {
		if host, service, hasPort = strings.Cut(inner, "]:"); !hasPort {
			return addr, "", false, false
		}
		addr, ok = parseIPv6(host)
	} else if addr, ok = parseIPv6(text); !ok {
		if i := strings.LastIndexByte(text, ':'); i >= 0 {
			host, service, hasPort = text[:i], text[i+1:], true
		}
		addr, ok = p.host(host, !hasPort)
	}
	return addr, service, hasPort, ok
}

func (p *parser) port(text string, protocol lvs.Protocol) (port uint16, ok bool) {
	if n, isNumber := parseNumber(text, 0, math.MaxUint16); isNumber {
		return uint16(n), true
	}
	if p.names.ServicePort == nil || text == "" {
		return 0, false
	}
	return p.names.ServicePort(text, protocol)
}

func parseIPv6(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	return addr, true
}

// host reads an IPv4 address or asks for a name. A lone number (alone: nothing
// else was given) is more likely a forgotten address than address 0.0.0.80.
func (p *parser) host(text string, alone bool) (netip.Addr, bool) {
	if alone && strings.Trim(text, "0123456789") == "" {
		return netip.Addr{}, false
	}
	if n, ok := parseIPv4(text); ok {
		return addrFromIPv4(n), true
	}
	if text == "" || p.names.HostAddr == nil {
		return netip.Addr{}, false
	}
	addr, ok := p.names.HostAddr(p.ctx, text)
	return addr, ok && addr.Is4()
}

// schedulerFlag is one of the names that -b takes.
type schedulerFlag struct {
	name      string
	flag      lvs.ServiceFlags
	scheduler lvs.Scheduler // the only one it is for, or empty
}

func schedulerFlags() []schedulerFlag {
	return []schedulerFlag{
		{"flag-1", lvs.FlagSched1, ""},
		{"flag-2", lvs.FlagSched2, ""},
		{"flag-3", lvs.FlagSched3, ""},
		{"sh-fallback", lvs.FlagSched1, lvs.SourceHashing},
		{"sh-port", lvs.FlagSched2, lvs.SourceHashing},
		{"mh-fallback", lvs.FlagSched1, lvs.Maglev},
		{"mh-port", lvs.FlagSched2, lvs.Maglev},
	}
}

// SchedulerFlags lists the words that -b takes.
func SchedulerFlags() []string {
	var words []string
	for _, f := range schedulerFlags() {
		words = append(words, f.name)
	}
	return words
}

// ParseSchedulerFlags reads what -b takes, words with commas between them.
func ParseSchedulerFlags(s lvs.Scheduler, text string) (lvs.ServiceFlags, error) {
	var flags lvs.ServiceFlags
words:
	for word := range strings.SplitSeq(text, ",") {
		if word == "" {
			continue
		}
		for _, f := range schedulerFlags() {
			if f.name != word {
				continue
			}
			if f.scheduler != "" && f.scheduler != s {
				return 0, fail("incompatible scheduler flag `%s'", word)
			}
			flags |= f.flag
			continue words
		}
		return 0, fail("invalid scheduler flag `%s'", word)
	}
	return flags, nil
}

// SchedulerFlagNames is the reverse of ParseSchedulerFlags: the flags by the
// scheduler's own names where it has some.
func SchedulerFlagNames(s lvs.Scheduler, flags lvs.ServiceFlags) string {
	var names []string
	for _, bit := range []lvs.ServiceFlags{lvs.FlagSched1, lvs.FlagSched2, lvs.FlagSched3} {
		if flags&bit == 0 {
			continue
		}
		best := ""
		for _, f := range schedulerFlags() {
			if f.flag == bit && (f.scheduler == "" || f.scheduler == s) {
				best = f.name // the scheduler's own names come after the common ones
			}
		}
		names = append(names, best)
	}
	return strings.Join(names, ",")
}
