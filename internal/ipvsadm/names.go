// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Names translates between names and numbers. A nil field knows no names.
type Names struct {
	// HostAddr finds an IPv4 address of a host; ok is false if there is none.
	HostAddr func(ctx context.Context, host string) (addr netip.Addr, ok bool)
	// AddrHost finds the name of an address.
	AddrHost func(ctx context.Context, addr netip.Addr) (host string, ok bool)
	// ServicePort finds the port (host byte order) of a named service.
	ServicePort func(name string, p lvs.Protocol) (port uint16, ok bool)
	// PortService finds the name of the service on a port.
	PortService func(port uint16, p lvs.Protocol) (name string, ok bool)
}

// lookupTimeout bounds a lookup of one name.
const lookupTimeout = 3 * time.Second

// SystemNames asks the system: its resolver and its services database. When a
// lookup of a host took too long, further ones are not tried: a listing must
// come even if the name servers are what is broken.
func SystemNames() Names {
	return systemNames(net.DefaultResolver, "/etc/services", lookupTimeout)
}

func systemNames(resolver *net.Resolver, servicesFile string, timeout time.Duration) Names {
	services := sync.OnceValue(func() *servicesDB {
		text, err := os.ReadFile(servicesFile)
		if err != nil {
			return parseServices("") // as in C's library, no file means no names
		}
		return parseServices(string(text))
	})
	var silent atomic.Bool
	lookup := func(ctx context.Context, ask func(context.Context) error) bool {
		if silent.Load() {
			return false
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		err := ask(ctx)
		// The socket has the same deadline and may be a moment earlier than ctx.
		if deadline, _ := ctx.Deadline(); ctx.Err() != nil || err != nil && !time.Now().Before(deadline) {
			silent.Store(true)
		}
		return err == nil
	}
	return Names{
		HostAddr: func(ctx context.Context, host string) (addr netip.Addr, ok bool) {
			var addrs []netip.Addr
			ok = lookup(ctx, func(ctx context.Context) (err error) {
				addrs, err = resolver.LookupNetIP(ctx, "ip4", host)
				return err
			})
			if !ok || len(addrs) == 0 {
				return netip.Addr{}, false
			}
			return addrs[0].Unmap(), true
		},
		AddrHost: func(ctx context.Context, addr netip.Addr) (string, bool) {
			var names []string
			ok := lookup(ctx, func(ctx context.Context) (err error) {
				names, err = resolver.LookupAddr(ctx, addr.String())
				return err
			})
			if !ok || len(names) == 0 {
				return "", false
			}
			return strings.TrimSuffix(names[0], "."), true
		},
		ServicePort: func(name string, p lvs.Protocol) (uint16, bool) { return services().port(name, p) },
		PortService: func(port uint16, p lvs.Protocol) (string, bool) { return services().name(port, p) },
	}
}

type servicePort struct {
	port     uint16
	protocol string
}

type serviceName struct{ name, protocol string }

// servicesDB is /etc/services: the first entry for a question is the answer.
type servicesDB struct {
	names map[servicePort]string
	ports map[serviceName]uint16
}

func (db *servicesDB) name(port uint16, p lvs.Protocol) (string, bool) {
	name, ok := db.names[servicePort{port, strings.ToLower(p.String())}]
	return name, ok
}

func (db *servicesDB) port(name string, p lvs.Protocol) (uint16, bool) {
	port, ok := db.ports[serviceName{name, strings.ToLower(p.String())}]
	return port, ok
}

// parseServices reads lines of "name port/protocol alias ... # comment". Lines
// of another form say nothing.
func parseServices(text string) *servicesDB {
	db := &servicesDB{names: map[servicePort]string{}, ports: map[serviceName]uint16{}}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		number, protocol, ok := strings.Cut(fields[1], "/")
		port, err := strconv.ParseUint(number, 10, 16)
		if !ok || err != nil {
			continue
		}
		db.add(uint16(port), protocol, append(fields[:1:1], fields[2:]...))
	}
	return db
}

func (db *servicesDB) add(port uint16, protocol string, names []string) {
	if _, known := db.names[servicePort{port, protocol}]; !known {
		db.names[servicePort{port, protocol}] = names[0]
	}
	for _, name := range names {
		if _, known := db.ports[serviceName{name, protocol}]; !known {
			db.ports[serviceName{name, protocol}] = port
		}
	}
}
