// SPDX-License-Identifier: MIT

package lvs

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func tcp(addr string) ServiceID {
	ap := netip.MustParseAddrPort(addr)
	return ServiceID{Protocol: TCP, Addr: ap.Addr(), Port: ap.Port()}
}

func udp(addr string) ServiceID {
	id := tcp(addr)
	id.Protocol = UDP
	return id
}

func service(id ServiceID) VirtualService {
	return VirtualService{ServiceID: id, Scheduler: WeightedLeastConnection}
}

func server(addr string) RealServer {
	ap := netip.MustParseAddrPort(addr)
	return RealServer{ServerID: ServerID{Addr: ap.Addr(), Port: ap.Port()}, Forward: DirectRouting, Weight: 1}
}

// with returns a copy of v after f.
func with[T any](v T, f func(*T)) T {
	f(&v)
	return v
}

func add(s VirtualService) Change { return Change{Operation: AddService, Service: s} }

func addServer(s ServiceID, r RealServer) Change {
	return Change{Operation: AddServer, Service: VirtualService{ServiceID: s}, Server: r}
}

// small is the table that the tests change: a service with two servers and an
// empty one.
func small(t *testing.T) *Table {
	t.Helper()
	table, err := NewTable().Changed([]Change{
		add(service(tcp("172.16.16.172:80"))),
		addServer(tcp("172.16.16.172:80"), server("172.16.16.177:80")),
		addServer(tcp("172.16.16.172:80"), server("172.16.16.178:80")),
		add(service(udp("172.16.16.172:53"))),
	})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestApplyRefuses(t *testing.T) {
	web, dns, none := tcp("172.16.16.172:80"), udp("172.16.16.172:53"), tcp("172.16.16.172:81")
	web6, mark := tcp("[2001:db8::1]:80"), ServiceID{Mark: 7}
	edit := func(op Operation, s ServiceID, r RealServer) Change {
		return Change{Operation: op, Service: VirtualService{ServiceID: s}, Server: r}
	}
	persistent := func(s *VirtualService) { s.Flags, s.Timeout, s.Netmask = FlagPersistent, 300, 1<<32-1 }
	for _, c := range []struct {
		name   string
		change Change
		want   error
	}{
		{"a service again", add(service(web)), ErrServiceExists},
		{"a scheduler that does not exist, for a service that does", add(with(service(web), func(s *VirtualService) { s.Scheduler = "nosuch" })), ErrUnknownScheduler},
		{"an engine that does not exist", add(with(service(none), func(s *VirtualService) { s.Engine = "nosuch" })), ErrUnknownScheduler},
		{"a service without an address", add(service(ServiceID{Protocol: TCP, Port: 80})), ErrInvalid},
		{"a service of no protocol", add(service(with(none, func(id *ServiceID) { id.Protocol = 0 }))), ErrInvalid},
		{"a service by mark and address", add(service(with(none, func(id *ServiceID) { id.Mark = 1 }))), ErrInvalid},
		{"a service with a zone", add(service(tcp("[fe80::1%eth0]:80"))), ErrInvalid},
		{"every port, not persistent", add(service(tcp("172.16.16.172:0"))), ErrInvalid},
		{"one-packet scheduling of TCP", add(with(service(none), func(s *VirtualService) { s.Flags = FlagOnePacket })), ErrInvalid},
		{"an unknown flag", add(with(service(none), func(s *VirtualService) { s.Flags = 2 })), ErrInvalid},
		{"persistence of no duration", add(with(service(none), func(s *VirtualService) { s.Flags = FlagPersistent })), ErrInvalid},
		{"persistence of more than 31 days", add(with(service(none), func(s *VirtualService) { persistent(s); s.Timeout = MaxTimeout + 1 })), ErrInvalid},
		{"an IPv6 prefix of 129", add(with(service(web6), func(s *VirtualService) { persistent(s); s.Netmask = 129 })), ErrInvalid},
		{"editing a service that is not there", Change{Operation: EditService, Service: service(none)}, ErrNoService},
		{"editing to a scheduler that does not exist", Change{Operation: EditService, Service: with(service(web), func(s *VirtualService) { s.Scheduler = "x" })}, ErrUnknownScheduler},
		{"deleting a service that is not there", Change{Operation: DeleteService, Service: service(none)}, ErrNoService},
		{"the same address and port, another protocol", Change{Operation: DeleteService, Service: service(udp("172.16.16.172:80"))}, ErrNoService},

		{"a server of no service", addServer(none, server("172.16.16.177:81")), ErrNoService},
		{"a server again", addServer(web, server("172.16.16.177:80")), ErrServerExists},
		{"another port", addServer(web, server("172.16.16.179:8080")), ErrPortMapping},
		{"another port through a tunnel", addServer(web, with(server("172.16.16.179:8080"), func(r *RealServer) { r.Forward = Tunnel })), ErrPortMapping},
		{"0.0.0.0", addServer(web, server("0.0.0.0:80")), ErrInvalid},
		{"multicast", addServer(web, server("224.0.0.1:80")), ErrInvalid},
		{"broadcast", addServer(web, server("255.255.255.255:80")), ErrInvalid},
		{"no address", addServer(web, with(server("1.1.1.1:80"), func(r *RealServer) { r.Addr = netip.Addr{} })), ErrInvalid},
		{"IPv6 for IPv4", addServer(web, server("[2001:db8::10]:80")), ErrInvalid},
		{"a forwarding method that the kernel chooses", addServer(web, with(server("172.16.16.179:80"), func(r *RealServer) { r.Forward = LocalNode })), ErrInvalid},
		{"a gue tunnel without a port", addServer(web, with(server("172.16.16.179:80"), func(r *RealServer) { r.Forward, r.Tunnel.Type = Tunnel, "gue" })), ErrInvalid},
		{"an unknown tunnel", addServer(web, with(server("172.16.16.179:80"), func(r *RealServer) { r.Forward, r.Tunnel.Type = Tunnel, "vxlan" })), ErrInvalid},
		{"a negative weight", addServer(web, with(server("172.16.16.179:80"), func(r *RealServer) { r.Weight = -1 })), ErrWeight},
		{"a lower threshold alone", addServer(web, with(server("172.16.16.179:80"), func(r *RealServer) { r.Lower = 5 })), ErrThresholds},
		{"thresholds before existence", edit(EditServer, web, with(server("172.16.16.179:80"), func(r *RealServer) { r.Upper, r.Lower = 5, 9 })), ErrThresholds},
		{"editing a server that is not there", edit(EditServer, web, server("172.16.16.179:80")), ErrNoServer},
		{"editing a server of another service", edit(EditServer, dns, server("172.16.16.177:80")), ErrNoServer},
		{"deleting a server that is not there", edit(DeleteServer, web, server("172.16.16.177:81")), ErrNoServer},
		{"deleting a server of no service", edit(DeleteServer, none, server("172.16.16.177:80")), ErrNoService},

		{"a server of a mark that is not there", addServer(mark, server("172.16.16.177:80")), ErrNoService},
		{"a timeout of more than 31 days", Change{Operation: SetTimeouts, Timeouts: Timeouts{TCP: 1, UDP: MaxTimeout + 1}}, ErrInvalid},
		{"an unknown operation", Change{Operation: "explode"}, ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, before := small(t), small(t)
			if err := table.Apply(c.change); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if !table.Equal(before) {
				t.Error("the table is not as it was")
			}
		})
	}
}

func TestApply(t *testing.T) {
	web := tcp("172.16.16.172:80")
	table := small(t)
	apply := func(c Change) {
		t.Helper()
		if err := table.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	servers := func() (order []string) {
		for _, r := range table.Service(web).Servers {
			order = append(order, fmt.Sprintf("%v %d", r.ServerID, r.Weight))
		}
		return order
	}
	expect := func(want ...string) {
		t.Helper()
		if got := servers(); !slices.Equal(got, want) {
			t.Errorf("servers: got %q, want %q", got, want)
		}
	}
	expect("172.16.16.178:80 1", "172.16.16.177:80 1") // the newest first

	r := server("172.16.16.177:80")
	r.Weight = 7
	apply(Change{Operation: EditServer, Service: service(web), Server: r})
	expect("172.16.16.178:80 1", "172.16.16.177:80 7") // editing keeps the place

	apply(Change{Operation: DeleteServer, Service: service(web), Server: server("172.16.16.178:80")})
	apply(addServer(web, server("172.16.16.178:80")))
	apply(Change{Operation: DeleteServer, Service: service(web), Server: r})
	apply(addServer(web, r))
	expect("172.16.16.177:80 7", "172.16.16.178:80 1") // adding again puts in front

	edited := service(web)
	edited.Scheduler, edited.Flags, edited.Timeout, edited.Netmask = RoundRobin, FlagPersistent, 300, 1<<32-1
	apply(Change{Operation: EditService, Service: edited})
	expect("172.16.16.177:80 7", "172.16.16.178:80 1") // editing a service keeps its servers
	if s := table.Service(web); s.Scheduler != RoundRobin || !s.Persistent() || s.Timeout != 300 {
		t.Errorf("edited service: %+v", s)
	}
	edited.Flags = 0
	apply(Change{Operation: EditService, Service: edited})
	if s := table.Service(web); s.Timeout != 0 || s.Netmask != 0 {
		t.Errorf("a service that is not persistent has timeout %d and mask %x", s.Timeout, s.Netmask)
	}

	apply(Change{Operation: SetTimeouts, Timeouts: Timeouts{TCP: 60, UDP: 70}})
	if want := (Timeouts{TCP: 60, TCPFin: 120, UDP: 70}); table.Timeouts != want {
		t.Errorf("timeouts: got %v, want %v", table.Timeouts, want)
	}
	apply(Change{Operation: Clear})
	if len(table.Services) != 0 || table.Service(web) != nil || table.Timeouts.TCP != 60 {
		t.Errorf("after clearing: %+v", table)
	}
	apply(add(service(web)))
}

// A service by mark takes servers with any port: which port its packets go to
// is the firewall's business.
func TestApplyMarkTakesAnyPort(t *testing.T) {
	if _, err := NewTable().Changed([]Change{
		add(service(ServiceID{Mark: 7})),
		addServer(ServiceID{Mark: 7}, server("172.16.16.177:8080")),
	}); err != nil {
		t.Error(err)
	}
}

func TestTunnelCrossesFamilies(t *testing.T) {
	r := server("[2001:db8::10]:80")
	r.Forward = Tunnel
	table := small(t)
	if err := table.Apply(addServer(tcp("172.16.16.172:80"), r)); err != nil {
		t.Fatal(err)
	}
	if got := table.Service(tcp("172.16.16.172:80")).Server(r.ServerID).Tunnel.Type; got != "ipip" {
		t.Errorf("tunnel type %q, want ipip", got)
	}
}

func TestChangedIsAllOrNothing(t *testing.T) {
	table, before := small(t), small(t)
	_, err := table.Changed([]Change{
		{Operation: Clear},
		add(service(tcp("10.0.0.1:80"))),
		add(service(tcp("10.0.0.1:80"))),
	})
	var which *ChangeError
	if !errors.As(err, &which) || which.Index != 2 || !errors.Is(err, ErrServiceExists) {
		t.Errorf("got %v, want change 2 refused because the service exists", err)
	}
	if !table.Equal(before) {
		t.Error("the table is not as it was")
	}
}

func TestChangeErrorSurvivesJSON(t *testing.T) {
	for _, sentinel := range []error{ErrServiceExists, ErrNoService, ErrServerExists, ErrNoServer, ErrUnknownScheduler,
		ErrThresholds, ErrWeight, ErrInvalid, ErrUnsupported, ErrPortMapping, ErrMark} {
		sent := &ChangeError{Index: 3, Err: fmt.Errorf("TCP 10.0.0.1:80: %w", sentinel)}
		text, err := json.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		var got ChangeError
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if got.Index != 3 || got.Error() != sent.Error() || !errors.Is(&got, sentinel) {
			t.Errorf("sent %v, got %d: %v", sent, got.Index, got.Error())
		}
	}
	var newer ChangeError
	if err := json.Unmarshal([]byte(`{"index":1,"kind":"not-invented-yet","text":"sorry"}`), &newer); err != nil || newer.Error() != "sorry" {
		t.Errorf("an unknown kind: got %v, %v", &newer, err)
	}
	if err := json.Unmarshal([]byte(`{"index":"x"}`), &newer); err == nil {
		t.Error("an index that is no number was accepted")
	}
}

// TestIndex compares a table with the simplest model of one, through many
// changes and through what may happen to a table between them.
func TestIndex(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	table := NewTable()
	var model []ServiceID
	for step := range 5000 {
		id := tcp(fmt.Sprintf("10.0.0.%d:80", rng.IntN(40)))
		at := slices.Index(model, id)
		if rng.IntN(2) == 0 {
			if err := table.Apply(add(service(id))); (err == nil) != (at < 0) {
				t.Fatalf("step %d: adding %v: %v", step, id, err)
			}
			if at < 0 {
				model = append(model, id)
			}
		} else {
			if err := table.Apply(Change{Operation: DeleteService, Service: service(id)}); (err == nil) != (at >= 0) {
				t.Fatalf("step %d: deleting %v: %v", step, id, err)
			}
			if at >= 0 {
				model = slices.Delete(model, at, at+1)
			}
		}
		if step%500 == 0 { // as a state file or the API does it
			text, err := json.Marshal(table)
			if err != nil {
				t.Fatal(err)
			}
			table = new(Table)
			if err := json.Unmarshal(text, table); err != nil {
				t.Fatal(err)
			}
		}
		if step%700 == 0 {
			table = table.Clone()
		}
		if len(table.Services) != len(model) {
			t.Fatalf("step %d: %d services, want %d", step, len(table.Services), len(model))
		}
		for i, id := range model {
			if s := table.Services[i]; s.ServiceID != id || table.Service(id) != s {
				t.Fatalf("step %d: service %d is %v, want %v; found %v", step, i, s.ServiceID, id, table.Service(id))
			}
		}
	}
}

func TestCloneSharesNothing(t *testing.T) {
	table, want := small(t), small(t)
	clone := table.Clone()
	for _, c := range []Change{
		{Operation: DeleteServer, Service: service(tcp("172.16.16.172:80")), Server: server("172.16.16.177:80")},
		{Operation: DeleteService, Service: service(udp("172.16.16.172:53"))},
		{Operation: SetTimeouts, Timeouts: Timeouts{TCP: 1}},
	} {
		if err := clone.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	if !table.Equal(want) || table.Equal(clone) {
		t.Error("a change of the clone changed the table, or Equal sees no difference")
	}
}

// TestChangedShares: a change leaves the table as it was, and shares with it the
// services that it does not touch.
func TestChangedShares(t *testing.T) {
	old := small(t)
	web, dns := tcp("172.16.16.172:80"), udp("172.16.16.172:53")
	before := old.Clone()
	quiesced := old.Service(web).Servers[0]
	quiesced.Weight = 0
	all := []Change{
		{Operation: EditServer, Service: service(web), Server: quiesced},
		{Operation: EditServer, Service: service(web), Server: quiesced}, // of the copy, once more
		{Operation: DeleteServer, Service: service(web), Server: quiesced},
		addServer(web, server("172.16.16.180:80")),
		{Operation: EditService, Service: VirtualService{ServiceID: web, Scheduler: RoundRobin}},
		{Operation: DeleteService, Service: service(dns)},
		{Operation: Clear},
	}
	for n := range len(all) + 1 {
		now, err := old.Changed(all[:n])
		if err != nil {
			t.Fatal(err)
		}
		if !old.Equal(before) {
			t.Fatalf("%d changes changed what they were made of: %+v", n, old)
		}
		gone, come := now.Since(old)
		for _, s := range old.Services {
			if changed := slices.Contains(gone, s); changed == slices.Contains(now.Services, s) {
				t.Errorf("%d changes: %v is gone: %v", n, s.ServiceID, changed)
			}
		}
		for _, s := range now.Services {
			if fresh := slices.Contains(come, s); fresh == slices.Contains(old.Services, s) {
				t.Errorf("%d changes: %v came: %v", n, s.ServiceID, fresh)
			}
		}
		if want := min(n, 1); n <= 5 && (len(gone) != want || len(come) != want) {
			t.Errorf("%d changes of one service: %d are gone, %d came", n, len(gone), len(come))
		}
	}
}

// TestApplyReplaces: who has seen a service of a table sees it as it was.
func TestApplyReplaces(t *testing.T) {
	table, web := small(t), tcp("172.16.16.172:80")
	seen := table.Service(web)
	before := seen.Clone()
	for _, c := range []Change{
		addServer(web, server("172.16.16.180:80")),
		addServer(web, server("172.16.16.181:80")),
		{Operation: DeleteServer, Service: service(web), Server: server("172.16.16.177:80")},
	} {
		if err := table.Apply(c); err != nil {
			t.Fatal(err)
		}
		if !seen.Equal(before) || table.Service(web) == seen || table.Services[slices.Index(table.Services, table.Service(web))].Equal(before) {
			t.Fatalf("%v: seen before %+v, in the table %+v", c.Operation, seen, table.Service(web))
		}
	}
}

// BenchmarkChanges makes 100,000 changes that lead to 10,000 services.
func BenchmarkChanges(b *testing.B) {
	var changes []Change
	for i := range 10000 {
		id := ServiceID{Protocol: TCP, Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Port: 80}
		changes = append(changes, add(service(id)))
		for j := range 9 {
			r := RealServer{ServerID: ServerID{Addr: netip.AddrFrom4([4]byte{10, 1, 0, byte(j + 1)}), Port: 80}, Forward: DirectRouting, Weight: 1}
			changes = append(changes, addServer(id, r))
		}
	}
	for b.Loop() {
		if _, err := NewTable().Changed(changes); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEdits makes 100,000 changes of a table with 10,000 services.
func BenchmarkEdits(b *testing.B) {
	table := NewTable()
	var changes []Change
	for i := range 10000 {
		id := ServiceID{Protocol: TCP, Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Port: 80}
		if err := table.Apply(add(service(id))); err != nil {
			b.Fatal(err)
		}
		for range 5 {
			changes = append(changes, Change{Operation: DeleteService, Service: service(id)}, add(service(id)))
		}
	}
	for b.Loop() {
		if _, err := table.Changed(changes); err != nil {
			b.Fatal(err)
		}
	}
}
