// SPDX-License-Identifier: MIT

package dataplane

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// readOnly has writes to a map fail, until the function that is returned is called.
func readOnly(t *testing.T, p *Plane, name string, of **ebpf.Map) (writable func()) {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(p.dir, name), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	was := *of
	*of = m
	return func() {
		*of = was
		m.Close()
	}
}

// inForce is what packets go by.
func inForce(t *testing.T, p *Plane) map[string]string {
	t.Helper()
	out := map[string]string{}
	var set bpfParameters
	if err := p.maps.Settings.Lookup(uint32(0), &set); err != nil {
		t.Fatal(err)
	}
	out["settings"] = fmt.Sprint(set)
	denied := map[uint32][]string{}
	var k bpfDeniedKey
	var denial bpfDenial
	for each := p.maps.Denied.Iterate(); each.Next(&k, &denial); {
		denied[k.List] = append(denied[k.List], prefixOf(k, false).String())
	}
	var (
		l      bpfListener
		at     bpfListening
		v      bpfVip
		unused uint32
	)
	for each := p.maps.Listeners.Iterate(); each.Next(&l, &at); {
		var s bpfService
		if err := p.maps.Services.Lookup(at.Slot, &s); err != nil {
			t.Fatal(err)
		}
		out["listener "+serviceIDOf(l).String()] = fmt.Sprint(at.Id, s.Scheduler, s.Count, s.Timeout, denied[s.Denied])
		delete(denied, s.Denied)
	}
	out["denied for nobody"] = fmt.Sprint(denied)
	for each := p.maps.Vips.Iterate(); each.Next(&v, &unused); {
		out["VIP "+addrOfVIP(v).String()] = ""
	}
	servers, err := readArray[bpfServer](p.maps.Servers)
	if err != nil {
		t.Fatal(err)
	}
	for id, s := range servers[:16] {
		if bpfServerFlags(s.Flags)&bpfServerFlagsSERVER_EXISTS != 0 {
			out[fmt.Sprint("server ", id)] = fmt.Sprint(s)
		}
	}
	return out
}

// TestApplyFails: whatever write fails, an error means that nothing is changed,
// and none that all is, if perhaps a little later.
func TestApplyFails(t *testing.T) {
	service := func(port uint16, servers ...lvs.RealServer) *lvs.VirtualService {
		s := table(lvs.TCP, lvs.RoundRobin, servers...).Services[0]
		s.Port = port
		for i := range s.Servers {
			s.Servers[i].Port = port
		}
		return s
	}
	everyPort := persistent(&lvs.Table{Services: []*lvs.VirtualService{service(0, server(0, 1))}}, 50).Services[0]
	elsewhere := service(80, server(1, 1))
	elsewhere.Addr = netip.MustParseAddr("172.16.16.171")
	a := &lvs.Table{Timeouts: lvs.DefaultTimeouts(), Services: []*lvs.VirtualService{
		service(80, server(0, 1)), service(443, server(0, 1)), everyPort, elsewhere}}
	changed := service(80, server(1, 0), server(2, 3))
	a.Services[0].Deny = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24")}
	changed.Deny = a.Services[0].Deny[1:]
	b := &lvs.Table{Timeouts: lvs.Timeouts{TCP: 10, TCPFin: 20, UDP: 30}, Services: []*lvs.VirtualService{changed, service(21, server(0, 1))}}
	less := &lvs.Table{Timeouts: lvs.DefaultTimeouts(), Services: a.Services[:2]}

	p := newPlane(t)
	for name, m := range map[string]**ebpf.Map{
		bpfMapSettings: &p.maps.Settings, bpfMapVips: &p.maps.Vips, bpfMapListeners: &p.maps.Listeners, bpfMapServices: &p.maps.Services,
		bpfMapMembers: &p.maps.Members, bpfMapHashSlots: &p.maps.HashSlots, bpfMapServiceBases: &p.maps.ServiceBases, bpfMapServerBases: &p.maps.ServerBases,
		bpfMapDenied: &p.maps.Denied,
	} {
		for what, to := range map[string]*lvs.Table{"another": b, "less": less} {
			install(t, p, lvs.NewTable())
			install(t, p, a)
			before := inForce(t, p)
			writable := readOnly(t, p, name, m)
			err := p.Apply(to)
			writable()
			if err != nil {
				if d := cmp.Diff(before, inForce(t, p)); d != "" {
					t.Errorf("%s cannot be written, and %s table is refused (%v) and changes\n%s", name, what, err, d)
				}
			}
			if len(p.installed) != len(map[bool]*lvs.Table{true: to, false: a}[err == nil].Services) {
				t.Errorf("%s cannot be written, %s table: %v, and %d services are installed", name, what, err, len(p.installed))
			}
			if err == nil {
				if err := p.sample(); err != nil { // as every two seconds
					t.Fatal(err)
				}
			} else if err := p.Apply(to); err != nil {
				t.Errorf("%s can be written again: %v", name, err)
			}
			got := inForce(t, p)
			install(t, p, lvs.NewTable())
			install(t, p, to)
			want := inForce(t, p)
			for _, of := range []map[string]string{got, want} { // ids, and what servers have them, may differ
				for k, v := range of {
					if strings.HasPrefix(k, "server ") {
						delete(of, k)
					}
					if strings.HasPrefix(k, "listener ") {
						_, of[k], _ = strings.Cut(v, " ")
					}
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s could not be written for a while, %s table:\n%s", name, what, d)
			}
		}
	}
}

// TestApplyCannotUndo: what cannot be taken back is said.
func TestApplyCannotUndo(t *testing.T) {
	var log bytes.Buffer
	p := newPlane(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	install(t, p, table(lvs.TCP, lvs.RoundRobin, server(0, 1)))
	tx := &transaction{p: p}
	tx.undo = append(tx.undo, func() error { return p.writeServer(maxServers, record{}) })
	tx.abandon()
	if !strings.Contains(log.String(), "taken back") {
		t.Errorf("log: %s", log.String())
	}
}

// TestInterfacesAreTriedAgain: a write that fails is not taken for done.
func TestInterfacesAreTriedAgain(t *testing.T) {
	p := newPlane(t)
	now := p.parameters
	now.Interfaces[0].Mac[5]++
	if err := p.setParameters(now); err != nil {
		t.Fatal(err)
	}
	writable := readOnly(t, p, bpfMapSettings, &p.maps.Settings)
	if err := p.refreshInterfaces(); err == nil {
		t.Error("a map that cannot be written was written")
	}
	if err := p.AdvanceClock(time.Second); err == nil || p.parameters.ClockOffset != 0 {
		t.Errorf("the clock was advanced by %d jiffies: %v", p.parameters.ClockOffset, err)
	}
	writable()
	if err := p.refreshInterfaces(); err != nil {
		t.Fatal(err)
	}
	var set bpfParameters
	if err := p.maps.Settings.Lookup(uint32(0), &set); err != nil || set.Interfaces[0].Mac[5] != 0 {
		t.Errorf("the interface's MAC address is %x: %v", set.Interfaces[0].Mac, err)
	}
}
