// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// randomTable applies random changes; those that are refused leave it alone.
func randomTable(rng *rand.Rand) *lvs.Table {
	t := lvs.NewTable()
	for range rng.IntN(60) {
		_ = t.Apply(randomChange(rng, t))
	}
	return t
}

func randomChange(rng *rand.Rand, t *lvs.Table) lvs.Change {
	pick := func(n int) bool { return rng.IntN(n) == 0 }
	if pick(20) {
		return lvs.Change{Operation: lvs.SetTimeouts, Timeouts: lvs.Timeouts{TCP: rng.Uint32N(1000), TCPFin: rng.Uint32N(1000), UDP: rng.Uint32N(1000)}}
	}
	if pick(6) {
		if len(t.Marks) > 0 && pick(4) {
			return lvs.Change{Operation: lvs.DeleteMark, Mark: t.Marks[rng.IntN(len(t.Marks))]}
		}
		return lvs.Change{Operation: lvs.AddMark, Mark: randomMark(rng, t)}
	}
	if len(t.Services) == 0 || pick(4) {
		op := lvs.AddService
		s := randomService(rng)
		if len(t.Services) > 0 && pick(3) {
			op = lvs.EditService
			s.ServiceID = t.Services[rng.IntN(len(t.Services))].ServiceID
		}
		return lvs.Change{Operation: op, Service: s}
	}
	s := t.Services[rng.IntN(len(t.Services))]
	id := lvs.VirtualService{ServiceID: s.ServiceID}
	if pick(15) {
		return lvs.Change{Operation: lvs.DeleteService, Service: id}
	}
	if pick(6) {
		if len(s.Deny) > 0 && pick(3) {
			return lvs.Change{Operation: lvs.DeleteDeny, Service: id, Deny: s.Deny[rng.IntN(len(s.Deny))]}
		}
		addr := randomAddr(rng, s.Is6())
		return lvs.Change{Operation: lvs.AddDeny, Service: id, Deny: netip.PrefixFrom(addr, rng.IntN(addr.BitLen()+1)).Masked()}
	}
	r := randomServer(rng, s)
	op := lvs.AddServer
	if len(s.Servers) > 0 && pick(3) {
		r.ServerID = s.Servers[rng.IntN(len(s.Servers))].ServerID
		op = []lvs.Operation{lvs.EditServer, lvs.DeleteServer}[rng.IntN(2)]
	}
	return lvs.Change{Operation: op, Service: id, Server: r}
}

func randomAddr(rng *rand.Rand, six bool) netip.Addr {
	if !six {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], rng.Uint32())
		return netip.AddrFrom4(b)
	}
	b := [16]byte{0x20, 0x01, 0x0d, 0xb8}
	b[8+rng.IntN(4)], b[15] = byte(rng.Uint32()), byte(rng.Uint32())
	return netip.AddrFrom16(b)
}

func randomService(rng *rand.Rand) lvs.VirtualService {
	schedulers := lvs.Schedulers()
	six := rng.IntN(3) == 0
	s := lvs.VirtualService{
		ServiceID: lvs.ServiceID{Protocol: []lvs.Protocol{lvs.TCP, lvs.UDP, lvs.SCTP}[rng.IntN(3)],
			Addr: randomAddr(rng, six), Port: uint16(rng.Uint32())},
		Scheduler: schedulers[rng.IntN(len(schedulers))],
		Flags:     lvs.ServiceFlags(rng.Uint32()) & (lvs.FlagOnePacket | lvs.FlagSched1 | lvs.FlagSched2 | lvs.FlagSched3),
		Engine:    []string{"", "", "sip"}[rng.IntN(3)],
	}
	if rng.IntN(3) == 0 {
		s.ServiceID = lvs.ServiceID{Mark: 1 + rng.Uint32N([]uint32{5, 1<<32 - 1}[rng.IntN(2)]), Mark6: six}
	}
	if s.Protocol != lvs.UDP && s.Mark == 0 {
		s.Flags &^= lvs.FlagOnePacket
	}
	if rng.IntN(3) == 0 {
		s.Policy = randomPolicy(rng)
	}
	if rng.IntN(2) == 0 {
		s.Flags |= lvs.FlagPersistent
		s.Timeout = 1 + rng.Uint32N(lvs.MaxTimeout)
		s.Netmask = []uint32{1<<32 - 1, rng.Uint32()}[rng.IntN(2)]
		if six {
			s.Netmask = 1 + rng.Uint32N(128)
		}
		if s.Mark == 0 && rng.IntN(3) == 0 {
			s.Port = 0
		}
	}
	return s
}

// randomPolicy is often one that a service refuses.
func randomPolicy(rng *rand.Rand) lvs.Policy {
	p := lvs.Policy{KeepNodest: rng.IntN(2) == 0, KeepTemplate: rng.IntN(3) == 0, SecureTCP: rng.IntN(4) == 0}
	if rng.IntN(2) == 0 {
		p.Stray = lvs.Stray(rng.IntN(5))
		p.ConnReuse, _ = lvs.ConnReuseOf(uint8(rng.IntN(5)))
	}
	if rng.IntN(2) == 0 {
		p.SourceLimit = lvs.SourceLimit{Rate: 1 + rng.Uint32N(lvs.MaxSourceLimit), Burst: rng.Uint32N(lvs.MaxSourceLimit + 2)}
	}
	return p
}

// randomMark is often about a VIP that has a rule or a service already.
func randomMark(rng *rand.Rand, t *lvs.Table) lvs.MarkRule {
	m := lvs.MarkRule{Mark: 1 + rng.Uint32N(5), Protocol: []lvs.Protocol{lvs.TCP, lvs.UDP, lvs.SCTP}[rng.IntN(3)],
		Addr: randomAddr(rng, rng.IntN(3) == 0)}
	switch rng.IntN(4) {
	case 0:
		if len(t.Marks) > 0 {
			m.Addr = t.Marks[rng.IntN(len(t.Marks))].Addr
		}
	case 1:
		if s := t.Services; len(s) > 0 && s[0].Mark == 0 {
			m.Addr, m.Protocol = s[0].Addr, s[0].Protocol
		}
	}
	m.First = uint16(rng.Uint32())
	m.Last = m.First
	if m.First != 0 && rng.IntN(2) == 0 {
		m.Last += uint16(rng.Uint32N(1<<16 - uint32(m.First)))
	}
	return m
}

func randomServer(rng *rand.Rand, s *lvs.VirtualService) lvs.RealServer {
	r := lvs.RealServer{
		ServerID: lvs.ServerID{Addr: randomAddr(rng, s.Is6()), Port: s.Port},
		Forward:  []lvs.Forward{lvs.DirectRouting, lvs.Masquerade, lvs.Tunnel}[rng.IntN(3)],
		Weight:   []int32{0, 1, rng.Int32()}[rng.IntN(3)],
		Upper:    []uint32{0, rng.Uint32N(1 << 31)}[rng.IntN(2)],
	}
	r.Lower = rng.Uint32N(r.Upper + 1)
	if r.Forward == lvs.Masquerade || s.Mark != 0 {
		r.Port = uint16(rng.Uint32())
	}
	if r.Forward == lvs.Tunnel {
		r.Addr = randomAddr(rng, rng.IntN(2) == 0)
		r.Tunnel = []lvs.TunnelOptions{{Type: "ipip"}, {Type: "gre"}, {Type: "gre", Flags: lvs.TunnelChecksum},
			{Type: "gue", Port: 6080}, {Type: "gue", Port: 1, Flags: lvs.TunnelRemoteChecksum}}[rng.IntN(5)]
	}
	return r
}

func parsed(t *testing.T, text string) *lvs.Table {
	t.Helper()
	changes, err := ParseRules(strings.NewReader(text))
	if err != nil {
		t.Fatalf("reading what was written: %v", err)
	}
	table, err := lvs.NewTable().Changed(changes)
	if err != nil {
		t.Fatalf("applying what was written: %v\n%s", err, text)
	}
	return table
}

func written(t *testing.T, table *lvs.Table, opts ...SaveOption) string {
	t.Helper()
	var text bytes.Buffer
	if err := WriteRules(&text, table, opts...); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	servers, marks, denied, limits := 0, 0, 0, 0
	for range 2000 {
		table := randomTable(rng)
		marks += len(table.Marks)
		for _, s := range table.Services {
			servers += len(s.Servers)
			denied += len(s.Deny)
			if s.Policy.SourceLimit != (lvs.SourceLimit{}) {
				limits++
			}
		}
		text := written(t, table, CreationOrder())
		if got := parsed(t, text); !got.Equal(table) {
			t.Fatalf("what came back differs; it was written as\n%s\nand is now\n%s", text, written(t, got, CreationOrder()))
		}
		// The sorted form is the same rules in another order.
		sorted := written(t, table)
		if again := written(t, parsed(t, sorted)); len(again) != len(sorted) {
			t.Fatalf("sorted rules\n%s\ncame back as\n%s", sorted, again)
		}
	}
	if servers < 10000 || marks < 5000 || denied < 1000 || limits < 500 {
		t.Errorf("only %d servers, %d mark rules, %d denied prefixes and %d limits in all tables: the test hardly tests", servers, marks, denied, limits)
	}
}

// Names that the system knows must not be needed for what WriteRules writes.
func TestWriteRulesIsNumeric(t *testing.T) {
	table := parsed(t, "-A -t 127.0.0.1:80\n-a -t 127.0.0.1:80 -r 127.0.0.2")
	want := "-A -t 127.0.0.1:80 -s wlc\n-a -t 127.0.0.1:80 -r 127.0.0.2:80 -g -w 1\n"
	if got := written(t, table); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := written(t, table, CreationOrder()); got != "--set 900 120 300\n"+want {
		t.Errorf("in creation order: got\n%s", got)
	}
}

// A service by mark needs a mark rule before it.
func TestMarksAreWrittenFirst(t *testing.T) {
	const services = "-A -t 10.0.0.1:80 -s wlc\n-A -f 7 -s wlc\n-a -f 7 -r 10.0.0.2:0 -g -w 1\n"
	table := parsed(t, services+"--add-mark 7 -t 10.0.0.1:443\n--add-mark 7 -u [2001:db8::1]:5000-5010\n"+
		"--add-mark 6 --sctp-service 10.0.0.2\n--add-mark 7 -t 10.0.0.1:8000-8000")
	const six = "--add-mark 6 --sctp-service 10.0.0.2:0\n"
	const tcp, udp, tcp8000 = "--add-mark 7 -t 10.0.0.1:443\n", "--add-mark 7 -u [2001:db8::1]:5000-5010\n", "--add-mark 7 -t 10.0.0.1:8000\n"
	if got, want := written(t, table, CreationOrder()), "--set 900 120 300\n"+tcp+udp+six+tcp8000+services; got != want {
		t.Errorf("in creation order: got\n%swant\n%s", got, want)
	}
	if got, want := written(t, table), six+tcp+tcp8000+udp+services; got != want {
		t.Errorf("sorted: got\n%swant\n%s", got, want)
	}
}

func TestWriteRulesReportsErrors(t *testing.T) {
	if err := WriteRules(brokenPipe{}, parsed(t, "-A -t 10.0.0.1:80")); !errors.Is(err, errBroken) {
		t.Errorf("got %v, want %v", err, errBroken)
	}
}

var errBroken = errors.New("broken pipe")

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errBroken }
func (brokenPipe) Read([]byte) (int, error)  { return 0, errBroken }

func TestParseRules(t *testing.T) {
	text := "\n# web\n  ipvsadm -A -t 10.0.0.1:80 -s rr\r\n\t# its servers\n\n-a -t 10.0.0.1:80 -r 10.0.0.2 -w 3"
	want := "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -g -w 3\n"
	if got := written(t, parsed(t, text)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if changes, err := ParseRules(strings.NewReader("")); err != nil || len(changes) != 0 {
		t.Errorf("no rules: got %v, %v", changes, err)
	}
	if _, err := ParseRules(brokenPipe{}); !errors.Is(err, errBroken) {
		t.Errorf("a reader that fails: got %v, want %v", err, errBroken)
	}
	for _, c := range []struct{ text, want string }{
		{"\n\nnonsense", "line 3: nonsense: it does not begin with a command (-A, -E, -D, -C, -a, -e, -d, --set, --add-mark, --delete-mark, --add-deny, --delete-deny)"},
		{"-C\n-L -n", "line 2: -L -n: the 'list' command does not change the table, so it is no rule"},
		{"-Z", "line 1: -Z: the 'zero' command does not change the table, so it is no rule"},
		{"-R", "line 1: -R: the 'restore' command does not change the table, so it is no rule"},
		{"-h", "line 1: -h: the 'help' command does not change the table, so it is no rule"},
		{"-A -t 10.0.0.1:80 -q", "line 1: -A -t 10.0.0.1:80 -q: -q: unknown option"},
		{"--add-mark 7 -t 10.0.0.1:9-8", "line 1: --add-mark 7 -t 10.0.0.1:9-8: illegal virtual server address[:port[-port]] specified"},
		{"--list-marks", "line 1: --list-marks: the 'list-marks' command does not change the table, so it is no rule"},
		{"-A -t 10.0.0.1", "line 1: -A -t 10.0.0.1: Zero port specified for non-persistent service"},
		{"-A -t 10.0.0.1:80 # web", "line 1: -A -t 10.0.0.1:80 # web: unexpected argument #"},
		{"-C\x00", "line 1: -C\x00: not a text"},
	} {
		_, err := ParseRules(strings.NewReader(c.text))
		var rule *RuleError
		if !errors.As(err, &rule) || err.Error() != c.want {
			t.Errorf("%q:\ngot  %v\nwant %s", c.text, err, c.want)
		}
	}
}

func TestRestoreIsAllOrNothing(t *testing.T) {
	const good = "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -g -w 1\n"
	for _, c := range []struct {
		name, tool, stdin string
		exit              int
		stderr            string
	}{
		{"adding what exists", "ipvsadm", "-A -t 10.0.0.9:80\n" + good, 255,
			"line 2: -A -t 10.0.0.1:80 -s rr: Service already exists (nothing was changed)\n"},
		{"clearing first makes room, but line 3 is wrong", "ipvsadm-restore", good + "-a -t 10.0.0.1:81 -r 10.0.0.2:80 -g -w 1\n", 255,
			"line 3: -a -t 10.0.0.1:81 -r 10.0.0.2:80 -g -w 1: Service not defined (nothing was changed)\n"},
		{"another port", "ipvsadm", "\n-a -t 10.0.0.1:80 -r 10.0.0.3:81\n", 255,
			"line 2: -a -t 10.0.0.1:80 -r 10.0.0.3:81: 10.0.0.3:81 for TCP 10.0.0.1:80: direct routing cannot map ports," +
				" the packet arrives at the real server with port 80: use -r 10.0.0.3:80, and let the real server map it:" +
				" shunt realserver start --method redirect --vip 10.0.0.1 --port 80/tcp:81 (nothing was changed)\n"},
		{"marks that overlap", "ipvsadm", "--add-mark 7 -t 10.0.0.1:8000-8010\n--add-mark 8 -t 10.0.0.1:8005\n", 255,
			"line 2: --add-mark 8 -t 10.0.0.1:8005: the director: mark rule 8 TCP 10.0.0.1:8005:" +
				" there is 7 TCP 10.0.0.1:8000-8010 (nothing was changed)\n"},
		{"a line that makes no sense", "ipvsadm", "-C\n-A -t 10.0.0.1\n", 2,
			"line 2: -A -t 10.0.0.1: Zero port specified for non-persistent service (nothing was changed)\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newMemory()
			d.table = parsed(t, good)
			exit, stdout, stderr := runWords(d, recordedNames(), c.stdin, restoreWords(c.tool))
			if exit != c.exit || stdout != "" || stderr != c.stderr {
				t.Errorf("exit %d (want %d), stdout %q, stderr\n%swant\n%s", exit, c.exit, stdout, stderr, c.stderr)
			}
			if got := written(t, d.table); got != good {
				t.Errorf("the table is now\n%s", got)
			}
		})
	}
	d := newMemory()
	d.table = parsed(t, "-A -t 10.9.9.9:80")
	if exit, _, stderr := runWords(d, recordedNames(), good, restoreWords("/sbin/ipvsadm-restore")); exit != 0 {
		t.Fatalf("exit %d: %s", exit, stderr)
	}
	if got := written(t, d.table); got != good {
		t.Errorf("after ipvsadm-restore:\n%swant\n%s", got, good)
	}
}

func restoreWords(tool string) []string {
	if strings.HasSuffix(tool, "restore") {
		return []string{tool}
	}
	return []string{tool, "-R"}
}

func FuzzParseRules(f *testing.F) {
	for _, seed := range []string{
		"-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2 -g -w 1\n# x\n-D -t 10.0.0.1:80",
		"--set 1 2 3\n-A -f 7 -6 -p -M 64\n-a -f 7 -6 -r [2001:db8::1]:80 -i --tun-type gue --tun-port 1 --tun-csum",
		"-A -u 0x7f.1:0 -p600 -M 255.0 -b sh-port,flag-3 -s sh --pe sip -o\n",
		"-A --sctp-service=[::ffff:1.2.3.4]:9 -smh -bmh-port\n-C",
		"--add-mark 7 -t 10.0.0.1:80-90\n--add-mark=7 -u [2001:db8::1]:0\n-A -f 7 -p\n--delete-mark 7 -t 10.0.0.1:80-90",
		"--add-mark 1 --sctp-service 1.2.3.4:+5- 6\n--add-mark 4294967295 -t 1.2.3.4:65535-65535", "--add-mark 1 -t ::1:2-3",
		"-A -t 1.2.3.4:5 --stray pass --conn-reuse-mode 1 --expire-nodest-conn 0 -p --expire-quiescent-template 0 --secure-tcp 1\n-E -t 1.2.3.4:5 --stray adopt",
		"-A --sctp-service 1.2.3.4:5 --stray=reset --conn-reuse-mode=0\n-A -u 1.2.3.4:5 --secure-tcp 0",
		"-A -t 1.2.3.4:5 --source-limit 20:40\n--add-deny 10.0.0.0/8 -t 1.2.3.4:5\n--add-deny 10.0.0.1 -t 1.2.3.4:5\n--delete-deny 10.0.0.1/32 -t 1.2.3.4:5",
		"--add-mark 7 -t [2001:db8::1]:80\n-A -f 7 -6 --source-limit=1\n--add-deny=2001:db8::/32 -f 7 -6\n--add-deny ::ffff:1.2.3.4/128 -f 7 -6",
		"-E -t 1.2.3.4:5 -a\n", "-A -f 4294967295", "-a -r 1.1.1.1 -t 1.2.3.4:5 -m -x 9 -y 9",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := parseRules(context.Background(), Names{}, strings.NewReader(text))
		if err != nil {
			var rule *RuleError
			if !errors.As(err, &rule) || rule.Line < 1 || rule.Line > strings.Count(text, "\n")+1 {
				t.Fatalf("an error without a line: %v", err)
			}
			return
		}
		table := lvs.NewTable()
		for _, r := range rules {
			_ = table.Apply(r.change)
		}
		if got := parsed(t, written(t, table, CreationOrder())); !got.Equal(table) {
			t.Fatalf("%q makes a table that does not come back", text)
		}
	})
}

// BenchmarkParseRules reads and applies 100,000 rules for 10,000 services.
func BenchmarkParseRules(b *testing.B) {
	var text strings.Builder
	for i := range 10000 {
		vip := addrFromIPv4(0x0a000000 + uint32(i))
		fmt.Fprintf(&text, "-A -t %v:80 -s wlc\n", vip)
		for j := range 9 {
			fmt.Fprintf(&text, "-a -t %v:80 -r 10.1.0.%d:80 -g -w 1\n", vip, j+1)
		}
	}
	for b.Loop() {
		changes, err := ParseRules(strings.NewReader(text.String()))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := lvs.NewTable().Changed(changes); err != nil {
			b.Fatal(err)
		}
	}
}

// TestChangesAreWrittenAsTheyAreRead: what WriteChanges writes is, read again, the
// same changes.
func TestChangesAreWrittenAsTheyAreRead(t *testing.T) {
	lines := `-A -t 10.0.0.1:80 -s wlc
-A -u [2001:db8::1]:53 -s rr -o
-A --sctp-service 10.0.0.1:9 -s sh -b sh-port --stray drop
-A -t 10.0.0.1:0 -s wrr -p 60 -M 255.255.255.0
-A -f 7 -6 -s wlc
-E -t 10.0.0.1:80 -s mh -p 360 --secure-tcp 1
-D -f 7
-D -t 10.0.0.1:80
-C
-a -t 10.0.0.1:80 -r 10.0.0.2:80 -g -w 3 -x 100 -y 50
-a -f 7 -r 10.0.0.2:0 -g -w 1
-e -t [2001:db8::1]:80 -r [2001:db8::2]:80 -g -w 0
-e -t 10.0.0.1:80 -r 10.0.0.2:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
-d -t 10.0.0.1:80 -r 10.0.0.2:80
--set 0 0 300
--add-mark 7 -t 10.0.0.1:80-90
--delete-mark 7 --sctp-service [2001:db8::1]:0
--add-deny 192.0.2.0/24 -t 10.0.0.1:80
--delete-deny 2001:db8:7::/48 -f 7 -6
-E -t 10.0.0.1:80 -s rr --source-limit 20:40
`
	want, err := ParseRules(strings.NewReader(lines))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WriteChanges(&b, want); err != nil {
		t.Fatal(err)
	}
	got, err := ParseRules(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	if len(got) != len(want) || strings.Count(b.String(), "\n") != len(want) {
		t.Fatalf("%d changes are %d lines, which are %d changes:\n%s", len(want), strings.Count(b.String(), "\n"), len(got), b.String())
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("%+v\nwritten and read again is\n%+v", want[i], got[i])
		}
	}
	if err := WriteChanges(&b, []lvs.Change{{Operation: lvs.Operation("?")}}); err == nil {
		t.Error("an operation that has no command line is written as nothing")
	}
}
