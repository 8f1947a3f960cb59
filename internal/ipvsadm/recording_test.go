// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// recorded is one block of the recording: a command of the real ipvsadm and
// what it did.
type recorded struct {
	line    int // in the file
	command string
	stdin   string
	exit    int
	stdout  string
	stderr  string
}

func readRecording(t *testing.T) []recorded {
	t.Helper()
	text, err := os.ReadFile("testdata/ipvsadm-output.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []recorded
	var b *recorded
	into := (*string)(nil)
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case strings.HasPrefix(line, "$ "):
			command, _, _ := strings.Cut(line[2:], "<<")
			blocks = append(blocks, recorded{line: i + 1, command: strings.TrimSpace(command)})
			b = &blocks[len(blocks)-1]
		case strings.HasPrefix(line, "    exit "):
			if b.exit, err = strconv.Atoi(line[len("    exit "):]); err != nil {
				t.Fatalf("line %d: %v", i+1, err)
			}
		case line == "    stdout:":
			into = &b.stdout
		case line == "    stderr:":
			into = &b.stderr
		case strings.HasPrefix(line, "    |"):
			*into += line[len("    |"):] + "\n"
		case strings.HasPrefix(line, "    <"):
			b.stdin += line[len("    <"):] + "\n"
		}
	}
	if len(blocks) < 200 {
		t.Fatalf("only %d blocks found in the recording", len(blocks))
	}
	return blocks
}

// recordedNames is what the files of the recorded machine said.
func recordedNames() Names {
	const vip, rs = "vip.example", "rs-with-quite-a-long-host-name.example.org"
	hosts := map[string]netip.Addr{vip: netip.MustParseAddr("172.16.16.172"), rs: netip.MustParseAddr("172.16.16.177"),
		"localhost": netip.MustParseAddr("127.0.0.1")}
	services := parseServices("http 80/tcp\nhttps 443/tcp\nhttp-alt 8080/tcp\ndomain 53/tcp\ndomain 53/udp\nsip 5060/udp\n")
	return Names{
		HostAddr: func(_ context.Context, host string) (netip.Addr, bool) {
			addr, ok := hosts[host]
			return addr, ok
		},
		AddrHost: func(_ context.Context, addr netip.Addr) (string, bool) {
			for host, a := range hosts {
				if a == addr {
					return host, true
				}
			}
			return "", false
		},
		ServicePort: services.port,
		PortService: services.name,
	}
}

// recordedTraffic is what had passed when the recording made its lists.
func recordedTraffic(t *testing.T, blocks []recorded) ([]lvs.ServiceStatus, []lvs.Connection) {
	t.Helper()
	type row struct {
		protocol lvs.Protocol
		port     uint16
		service  [2]lvs.Counters // so far, per second
		servers  map[string]lvs.ServerStatus
	}
	syn := lvs.Counters{Connections: 1, Packets: 1, Bytes: 60}
	rows := []row{
		{lvs.TCP, 80, [2]lvs.Counters{{Connections: 3, Packets: 3, Bytes: 180}, {Bytes: 6}}, map[string]lvs.ServerStatus{
			"172.16.16.177": {Active: 1, Counters: syn, Rates: lvs.Rates{Bytes: 2}},
			"172.16.16.178": {Active: 1, Counters: syn, Rates: lvs.Rates{Bytes: 2}},
			"172.16.16.179": {Active: 1, Counters: syn, Rates: lvs.Rates{Bytes: 2}},
		}},
		{lvs.TCP, 443, [2]lvs.Counters{syn, {Bytes: 3}}, map[string]lvs.ServerStatus{
			"172.16.16.178": {Active: 1, Persistent: 1, Counters: syn, Rates: lvs.Rates{Bytes: 3}},
		}},
		{lvs.UDP, 53, [2]lvs.Counters{{Connections: 1, Packets: 1, Bytes: 30}, {Bytes: 2}}, map[string]lvs.ServerStatus{
			"172.16.16.177": {Counters: lvs.Counters{Connections: 1, Packets: 1, Bytes: 30}, Rates: lvs.Rates{Bytes: 2}},
		}},
		{lvs.UDP, 5060, [2]lvs.Counters{{Connections: 1, Packets: 67500, Bytes: 271890000}, {Packets: 4948, Bytes: 19931936}}, map[string]lvs.ServerStatus{
			"172.16.16.178": {Inactive: 1, Counters: lvs.Counters{Connections: 1, Packets: 67500, Bytes: 271890000},
				Rates: lvs.Rates{Packets: 4948, Bytes: 19931936}},
		}},
	}
	var status []lvs.ServiceStatus
	for _, r := range rows {
		s := lvs.ServiceStatus{ServiceID: lvs.ServiceID{Protocol: r.protocol, Addr: netip.MustParseAddr("172.16.16.172"), Port: r.port},
			Counters: r.service[0], Rates: lvs.Rates(r.service[1])}
		for addr, server := range r.servers {
			server.ServerID = lvs.ServerID{Addr: netip.MustParseAddr(addr), Port: r.port}
			s.Servers = append(s.Servers, server)
		}
		status = append(status, s)
	}
	return status, recordedConnections(t, blocks)
}

// recordedConnections reads the kernel's own list, which has another format
// than the listings under test.
func recordedConnections(t *testing.T, blocks []recorded) []lvs.Connection {
	t.Helper()
	var conns []lvs.Connection
	for _, b := range blocks {
		if b.command != "cat /proc/net/ip_vs_conn" {
			continue
		}
		for _, line := range strings.Split(strings.TrimSpace(b.stdout), "\n")[1:] {
			f := strings.Fields(line)
			endpoint := func(i int) netip.AddrPort {
				addr, err := strconv.ParseUint(f[i], 16, 32)
				if err != nil {
					t.Fatal(err)
				}
				port, err := strconv.ParseUint(f[i+1], 16, 16)
				if err != nil {
					t.Fatal(err)
				}
				return netip.AddrPortFrom(addrFromIPv4(uint32(addr)), uint16(port))
			}
			seconds, err := strconv.Atoi(f[8])
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, lvs.Connection{
				Protocol: map[string]lvs.Protocol{"TCP": lvs.TCP, "UDP": lvs.UDP}[f[0]],
				Client:   endpoint(1), Virtual: endpoint(3), Server: endpoint(5),
				State: lvs.State(f[7]), Expires: time.Duration(seconds)*time.Second + 300*time.Millisecond,
			})
		}
	}
	if len(conns) != 6 {
		t.Fatalf("%d connections found in the recording, want 6", len(conns))
	}
	return conns
}

// shellWords splits a recorded command; quotes only occur around nothing.
func shellWords(command string) []string {
	words := strings.Fields(command)
	for i := range words {
		if words[i] == "''" {
			words[i] = ""
		}
	}
	return words
}

func runWords(d Director, names Names, stdin string, words []string) (exit int, stdout, stderr string) {
	var out, errs bytes.Buffer
	exit = Run(context.Background(), Env{Name: words[0], Args: words[1:], Stdin: strings.NewReader(stdin),
		Stdout: &out, Stderr: &errs, Director: d, Names: names})
	return exit, out.String(), errs.String()
}

// TestRecording plays the whole recording of the real ipvsadm against Run.
func TestRecording(t *testing.T) {
	blocks := readRecording(t)
	status, conns := recordedTraffic(t, blocks)
	d := newMemory()
	seen := map[string]int{}
	used := map[string]bool{}
	for _, b := range blocks {
		words := shellWords(b.command)
		if words[0] == "cat" { // the kernel's files; they have no part in this
			continue
		}
		if words[len(words)-1] == "-R" { // each was recorded with an empty table
			d.table = lvs.NewTable()
		}
		if b.command == "ipvsadm -Ln" && seen[b.command] == 1 { // "Some connections"
			d.status, d.conns = status, conns
		}
		seen[b.command]++
		key := fmt.Sprintf("%s #%d", b.command, seen[b.command])
		got := recorded{line: b.line, command: b.command, stdin: b.stdin}
		got.exit, got.stdout, got.stderr = runWords(d, recordedNames(), b.stdin, words)
		want := b
		if dev, deviates := deviations()[key]; deviates {
			used[key] = true
			if dev.why == "" {
				t.Errorf("%s: a deviation without a reason", key)
			}
			want = dev.apply(b)
			if want == b {
				t.Errorf("recording line %d: %s: is listed as a deviation and is none", b.line, key)
			}
			for _, command := range dev.then {
				if exit, _, stderr := runWords(d, recordedNames(), "", shellWords(command)); exit != 0 {
					t.Fatalf("%s: %s: exit %d: %s", key, command, exit, stderr)
				}
			}
		}
		if got != want {
			t.Errorf("recording line %d: %s\n%s", b.line, key, blockDifference(got, want))
		}
	}
	for key := range deviations() {
		if !used[key] {
			t.Errorf("deviation %q: there is no such block in the recording", key)
		}
	}
}

func blockDifference(got, want recorded) string {
	text := ""
	for _, part := range []struct{ name, got, want string }{
		{"exit", fmt.Sprintln(got.exit), fmt.Sprintln(want.exit)},
		{"stdout", got.stdout, want.stdout},
		{"stderr", got.stderr, want.stderr},
	} {
		if part.got == part.want {
			continue
		}
		g, w := strings.SplitAfter(part.got, "\n"), strings.SplitAfter(part.want, "\n")
		for i := range max(len(g), len(w)) {
			var gl, wl string
			if i < len(g) {
				gl = g[i]
			}
			if i < len(w) {
				wl = w[i]
			}
			if gl != wl {
				text += fmt.Sprintf("%s line %d:\n  got  %q\n  want %q\n", part.name, i+1, gl, wl)
			}
		}
	}
	return text
}
