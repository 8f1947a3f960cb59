// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

func TestServices(t *testing.T) {
	file := filepath.Join(t.TempDir(), "services")
	text := "# comment\nhttp\t\t80/tcp\t\twww www-http # WorldWideWeb\nweb 80/tcp\nhttp 80/udp\n" +
		"domain 53/udp\nbroken\nbroken x/tcp\nbroken 70000/tcp\nbroken 5\nm3ua 2905/sctp\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	names := systemNames(net.DefaultResolver, file, time.Second)
	for _, c := range []struct {
		name string
		p    lvs.Protocol
		port uint16
		ok   bool
	}{
		{"http", lvs.TCP, 80, true}, {"www", lvs.TCP, 80, true}, {"www-http", lvs.TCP, 80, true}, {"web", lvs.TCP, 80, true},
		{"www", lvs.UDP, 0, false}, {"domain", lvs.TCP, 0, false}, {"domain", lvs.UDP, 53, true}, {"m3ua", lvs.SCTP, 2905, true},
		{"broken", lvs.TCP, 0, false}, {"#", lvs.TCP, 0, false}, {"http", lvs.ProtocolNone, 0, false},
	} {
		if port, ok := names.ServicePort(c.name, c.p); port != c.port || ok != c.ok {
			t.Errorf("%s/%v: got %d, %v", c.name, c.p, port, ok)
		}
	}
	if name, ok := names.PortService(80, lvs.TCP); name != "http" || !ok {
		t.Errorf("port 80: got %q, %v, want the first name", name, ok)
	}
	if name, ok := names.PortService(2905, lvs.TCP); ok {
		t.Errorf("port 2905/tcp: got %q", name)
	}
	none := systemNames(net.DefaultResolver, file+"-that-is-not-there", time.Second)
	if _, ok := none.ServicePort("http", lvs.TCP); ok {
		t.Error("a name from a file that does not exist")
	}
}

func TestLocalhost(t *testing.T) {
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil || !strings.Contains(string(hosts), "localhost") {
		t.Skip("/etc/hosts does not have localhost, and a name server is not to be asked here")
	}
	names := SystemNames()
	if addr, ok := names.HostAddr(t.Context(), "localhost"); !ok || !addr.IsLoopback() || !addr.Is4() {
		t.Errorf("localhost: got %v, %v", addr, ok)
	}
	if host, ok := names.AddrHost(t.Context(), netip.MustParseAddr("127.0.0.1")); !ok || strings.HasSuffix(host, ".") {
		t.Errorf("127.0.0.1: got %q, %v", host, ok)
	}
}

// A name server that does not answer is asked for one name and no more.
func TestSilentNameServer(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var asked atomic.Int32
	names := systemNames(&net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		asked.Add(1)
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	}}, "", 20*time.Millisecond)
	if host, ok := names.AddrHost(t.Context(), netip.MustParseAddr("192.0.2.1")); ok || asked.Load() == 0 {
		t.Fatalf("got %q after asking %d times", host, asked.Load())
	}
	before := asked.Load()
	for range 100 {
		if _, ok := names.AddrHost(t.Context(), netip.MustParseAddr("192.0.2.2")); ok {
			t.Fatal("an answer from nowhere")
		}
	}
	if asked.Load() != before {
		t.Errorf("asked %d times more", asked.Load()-before)
	}
}
