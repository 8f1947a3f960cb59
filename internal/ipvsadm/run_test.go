// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// TestCommandLine has what the recording does not: the rest of popt's ways and
// of the options.
func TestCommandLine(t *testing.T) {
	const vip = "-A -t 10.0.0.1:80 -s wlc\n"
	rs := func(options string) string { return vip + "-a -t 10.0.0.1:80 -r " + options + "\n" }
	for _, c := range []struct {
		words  string // the commands, divided by ";"
		exit   int    // of the last
		stderr string
		saved  string // the table then, as -S -n prints it
	}{
		{"-A -t 10.0.0.1:80", 0, "", vip},
		{"-At 10.0.0.1:80", 0, "", vip},
		{"-At10.0.0.1:80", 0, "", vip},
		{"-At=10.0.0.1:80 -s=rr", 0, "", "-A -t 10.0.0.1:80 -s rr\n"},
		{"--add-service --tcp-service=10.0.0.1:80 --scheduler rr", 0, "", "-A -t 10.0.0.1:80 -s rr\n"},
		{"--add-service --tcp-service 10.0.0.1:http", 0, "", vip},
		{"-A -u 10.0.0.1:domain", 0, "", "-A -u 10.0.0.1:53 -s wlc\n"},
		{"-A -u 10.0.0.1:http", 2, "illegal virtual server address[:port] specified", ""},
		{"-A -t vip.example:https", 0, "", "-A -t 172.16.16.172:443 -s wlc\n"},
		{"-A -t 10.1:80", 0, "", "-A -t 10.0.0.1:80 -s wlc\n"},
		{"-A -t 0x0a.0.1:80", 0, "", "-A -t 10.0.0.1:80 -s wlc\n"},
		{"-A -t 012.0.0.1:80", 0, "", "-A -t 10.0.0.1:80 -s wlc\n"},
		{"-A -t 10.0.0.256:80", 2, "illegal virtual server address[:port] specified", ""},
		{"-A -t 1.2.3.4.5:80", 2, "illegal virtual server address[:port] specified", ""},
		{"-A -t 80", 2, "illegal virtual server address[:port] specified", ""},
		{"-A -t 10.0.0.1:", 2, "illegal virtual server address[:port] specified", ""},
		{"-A -t [10.0.0.1]:80", 2, "illegal virtual server address[:port] specified", ""},
		{"-A -t [2001:db8::1]", 2, "illegal virtual server address[:port] specified", ""},
		{"-A -t [2001:db8::1:80", 2, "illegal virtual server address[:port] specified", ""},
		{"-A -t [fe80::1%lo]:80", 2, "illegal virtual server address[:port] specified", ""},
		{"-A -t 2001:db8::1 -p", 0, "", "-A -t [2001:db8::1]:0 -s wlc -p 360\n"},
		{"-A --sctp-service 10.0.0.1:5000", 0, "", "-A --sctp-service 10.0.0.1:5000 -s wlc\n"},
		{"-A -6 -f 1", 2, "-6 used before -f\n", ""},
		{"-A -f 1 -6 -p 5 -M 129", 2, "illegal ipv6 netmask specified", ""},
		{"-A -t 10.0.0.1:80 -p 5 -M x", 2, "illegal virtual server persistent mask specified", ""},
		{"-A -t 10.0.0.1:80 -p600 -M 255.255.255.0", 0, "", "-A -t 10.0.0.1:80 -s wlc -p 600 -M 255.255.255.0\n"},
		{"-A -t 10.0.0.1:80 -p -s rr", 0, "", "-A -t 10.0.0.1:80 -s rr -p 360\n"},
		{"-A -t 10.0.0.1:80 --persistent=7", 0, "", "-A -t 10.0.0.1:80 -s wlc -p 7\n"},
		{"-A -t 10.0.0.1:80 -p 2678401", 2, "invalid timeout value `2678401' specified", ""},
		{"-A -t 10.0.0.1:80 -p 10 -p 10", 2, "multiple 'persistent' options specified", ""},
		{"-A -t 10.0.0.1:80 -p 10 --pe sip", 0, "", "-A -t 10.0.0.1:80 -s wlc -p 10 --pe sip\n"},
		{"-A -t 10.0.0.1:80 -s mh -b mh-port,flag-3", 0, "", "-A -t 10.0.0.1:80 -s mh -b mh-port,flag-3\n"},
		{"-A -t 10.0.0.1:80 --sort -- 5", 2, "unexpected argument 5", ""},
		{"-A - -t 10.0.0.1:80", 2, "unexpected argument -", ""},
		{"nonsense -A -t 10.0.0.1:80", 2, "unexpected argument nonsense", ""},
		{"-n -A", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information.", ""},
		{"-Aq", 255, "-Aq: unknown option", ""},
		{"-At", 255, "-At: missing argument", ""},
		{"-A --tcp-service", 255, "--tcp-service: missing argument", ""},
		{"-L --numeric=yes", 255, "--numeric=yes: option does not take an argument", ""},
		{"-L --num", 255, "--num: unknown option", ""},
		{"-L -n -h", 2, "invalid option `-h'", ""},
		{"-S -c", 2, "Illegal 'connection' option with the 'save' command", ""},
		{"-R -n", 2, "Illegal 'numeric' option with the 'restore' command", ""},
		{"-C extra", 2, "unexpected argument extra", ""},
		{"-L -M 5 -s rr", 2, "Illegal 'scheduler' option with the 'list' command", ""}, // in the order of the table, not of the line

		{"-A -t 10.0.0.1:80;-a -t 10.0.0.1:80 -r 10.0.0.2", 0, "", rs("10.0.0.2:80 -g -w 1")},
		{"-A -t 10.0.0.1:80;-a -r 10.0.0.2 -t 10.0.0.1:80", 0, "", rs("10.0.0.2:80 -g -w 1")},
		{"-A -t 10.0.0.1:80;-at 10.0.0.1:80 -r 10.0.0.2:http -mw5", 0, "", rs("10.0.0.2:80 -m -w 5")},
		{"-A -t 10.0.0.1:80;-a -t 10.0.0.1:80 -r 10.0.0.2:8080 -m", 0, "", rs("10.0.0.2:8080 -m -w 1")},
		{"-A -t 10.0.0.1:80;-a -t 10.0.0.1:80 -r 10.0.0.2 -x 10 -y 5", 0, "", rs("10.0.0.2:80 -g -w 1 -x 10 -y 5")},
		{"-A -t 10.0.0.1:80;-a -t 10.0.0.1:80 -r 10.0.0.2 -y -5", 2, "illegal l_threshold specified", vip},
		{"-A -t 10.0.0.1:80;-a -t 10.0.0.1:80 -r 80", 2, "illegal real server address[:port] specified", vip},
		{"-A -t 10.0.0.1:80;-a -r 10.0.0.2:x -t 10.0.0.1:80", 2, "illegal real server address[:port] specified", vip},
		{"-A -t 10.0.0.1:80;-a -t 10.0.0.1:80 -r 10.0.0.2:81 -i", 255,
			"10.0.0.2:81 for TCP 10.0.0.1:80: tunneling cannot map ports, the packet arrives at the real server with port 80: use -r 10.0.0.2:80, " +
				"and let the real server map it: shunt realserver start --method redirect --vip 10.0.0.1 --port 80/tcp:81", vip},
		{"-A -t 10.0.0.1:0 -p 9;-a -t 10.0.0.1:0 -r 10.0.0.2:81", 255,
			"10.0.0.2:81 for TCP 10.0.0.1:0: direct routing cannot map ports, the packet arrives at the real server with port 0: use -r 10.0.0.2:0",
			"-A -t 10.0.0.1:0 -s wlc -p 9\n"},
		{"-A -f 1;-a -f 1 -r 10.0.0.2:8080", 0, "", "-A -f 1 -s wlc\n-a -f 1 -r 10.0.0.2:8080 -g -w 1\n"},
		{"-A -t 10.0.0.1:80;-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type gue --tun-port 6080 --tun-remcsum", 0, "",
			rs("10.0.0.2:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum")},
		{"-A -t 10.0.0.1:80;-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type gre", 0, "", rs("10.0.0.2:80 -i -w 1 --tun-type gre --tun-nocsum")},
		{"-A -t 10.0.0.1:80;-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type gue", 2,
			"You need to supply the 'tun-port' option for the 'gue' tunnel type", vip},
		{"-A -t 10.0.0.1:80;-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-port 5", 2, "Illegal 'tun-port' option with the 'ipip' tunnel type", vip},
		{"-A -t 10.0.0.1:80;-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type gre --tun-csum --tun-nocsum", 2,
			"The option 'tun-csum' conflicts with the 'tun-nocsum' option in the 'gre' tunnel type", vip},
		{"-A -t 10.0.0.1:80;-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type vxlan", 2, "illegal tunnel type specified", vip},
		{"-A -t 10.0.0.1:80;-a -t 10.0.0.1:80 -r 10.0.0.2 --tun-csum", 2, "Tunnel options conflict with forward method", vip},

		{"--add-mark 7 -t 10.0.0.1:80", 0, "", "--add-mark 7 -t 10.0.0.1:80\n"},
		{"--add-mark=7 -t10.0.0.1:80-90", 0, "", "--add-mark 7 -t 10.0.0.1:80-90\n"},
		{"--add-mark 7 --sctp-service 10.0.0.1", 0, "", "--add-mark 7 --sctp-service 10.0.0.1:0\n"},
		{"--add-mark 4294967295 -u [2001:db8::1]:1-65535", 0, "", "--add-mark 4294967295 -u [2001:db8::1]:1-65535\n"},
		{"--add-mark 7 -u 2001:db8::1", 0, "", "--add-mark 7 -u [2001:db8::1]:0\n"},
		{"--add-mark 7 -t vip.example:http-alt", 0, "", "--add-mark 7 -t 172.16.16.172:8080\n"}, // a name, no range
		{"--add-mark 7 -t vip.example:http-https", 2, "illegal virtual server address[:port[-port]] specified", ""},
		{"--add-mark 7 -t 10.0.0.1:0-80", 2, "illegal virtual server address[:port[-port]] specified", ""},
		{"--add-mark 7 -t 10.0.0.1:90-80", 2, "illegal virtual server address[:port[-port]] specified", ""},
		{"--add-mark 7 -t 10.0.0.1:80-", 2, "illegal virtual server address[:port[-port]] specified", ""},
		{"--add-mark 7 -t 10.0.0.1:80-65536", 2, "illegal virtual server address[:port[-port]] specified", ""},
		{"--add-mark 7 -t 10.0.0.1:1-2-3", 2, "illegal virtual server address[:port[-port]] specified", ""},
		{"--add-mark 7 -t [2001:db8::1]", 2, "illegal virtual server address[:port[-port]] specified", ""},
		{"--add-mark 0 -t 10.0.0.1:80", 2, "invalid fwmark value `0' specified", ""},
		{"--add-mark -t 10.0.0.1:80", 2, "invalid fwmark value `-t' specified", ""},
		{"--add-mark", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information.", ""},
		{"--add-mark 7", 2, "You need to supply the 'service-address' option for the 'add-mark' command", ""},
		{"--delete-mark 7", 2, "You need to supply the 'service-address' option for the 'delete-mark' command", ""},
		{"--add-mark 7 -f 7", 2, "Illegal 'fwmark-service' option with the 'add-mark' command", ""},
		{"--add-mark 7 -t 10.0.0.1:80 -6", 2, "-6 used before -f\n", ""},
		{"--add-mark 7 -t 10.0.0.1:80 -u 10.0.0.1:80", 2, "multiple 'service-address' options specified", ""},
		{"--add-mark 7 -t 10.0.0.1:80 -s rr", 2, "Illegal 'scheduler' option with the 'add-mark' command", ""},
		{"--add-mark 7 -t 10.0.0.1:80 -r 10.0.0.2", 2, "Illegal 'real-server' option with the 'add-mark' command", ""},
		{"--add-mark 7 -t 10.0.0.1:80 8", 2, "unexpected argument 8", ""},
		{"-A --add-mark 7 -t 10.0.0.1:80", 2, "invalid option `7'", ""},
		{"-A -t 10.0.0.1:80-90", 2, "illegal virtual server address[:port] specified", ""},
		{"--list-marks --stats", 2, "Illegal 'stats' option with the 'list-marks' command", ""},
		{"--add-mark 7 -t 10.0.0.1:80;--add-mark 7 -t 10.0.0.1:80", 255,
			"the director: mark rule 7 TCP 10.0.0.1:80: there is 7 TCP 10.0.0.1:80", "--add-mark 7 -t 10.0.0.1:80\n"},
		{"--add-mark 7 -t 10.0.0.1:80-90;--delete-mark 7 -t 10.0.0.1:80", 255,
			"the director: mark rule 7 TCP 10.0.0.1:80: there is none such", "--add-mark 7 -t 10.0.0.1:80-90\n"},
		{"--add-mark 7 -t 10.0.0.1:80-90;--delete-mark 7 -t 10.0.0.1:80-90", 0, "", ""},
		{"--add-mark 7 -t 10.0.0.1:80;-A -t 10.0.0.1:80", 255,
			"the director: TCP 10.0.0.1:80: mark rule: its packets have a mark already: 7 TCP 10.0.0.1:80", "--add-mark 7 -t 10.0.0.1:80\n"},
		{"--add-mark 7 -t 10.0.0.1:80;-A -f 7;-C", 0, "", ""},

		{"-L --timeout --stats", 2, "options conflicts in the list command", ""},
		{"--stop-daemon nosuch", 2, "illegal start_daemon specified", ""},
		{"--start-daemon master --mcast-group 10.0.0.1", 2, "invalid IPv4 mcast-group `10.0.0.1'", ""},
		{"--start-daemon master --mcast-group 2001:db8::1", 2, "invalid IPv6 mcast-group `2001:db8::1'", ""},
		{"--start-daemon master --mcast-port 0", 2, "illegal mcast-port specified", ""},
		{"--start-daemon master --mcast-ttl 256", 2, "illegal mcast-ttl specified", ""},
		{"--start-daemon master --sync-maxlen 65508", 2, "illegal sync-maxlen specified", ""},
		{"--start-daemon backup --mcast-group ff02::1 --mcast-ttl 1 --mcast-port 1 --sync-maxlen 9", 255,
			"--start-daemon: connection synchronization between directors: not supported", ""},
		{"--start-daemon master -n", 2, "Illegal 'numeric' option with the 'start-daemon' command", ""},
	} {
		t.Run(c.words, func(t *testing.T) {
			d := newMemory()
			var exit int
			var stderr string
			for _, words := range strings.Split(c.words, ";") {
				exit, _, stderr = runWords(d, recordedNames(), "", append([]string{"ipvsadm"}, strings.Fields(words)...))
			}
			want := c.stderr
			if want != "" {
				want += "\n"
			}
			if exit != c.exit || stderr != want {
				t.Errorf("exit %d, stderr %q\nwant %d, %q", exit, stderr, c.exit, want)
			}
			if _, saved, _ := runWords(d, recordedNames(), "", []string{"ipvsadm", "-Sn"}); saved != c.saved {
				t.Errorf("saved\n%swant\n%s", saved, c.saved)
			}
		})
	}
}

// gone is a Director that cannot be reached.
type gone struct{ err error }

func (g gone) Table(context.Context) (*lvs.Table, error)             { return nil, g.err }
func (g gone) Status(context.Context) ([]lvs.ServiceStatus, error)   { return nil, g.err }
func (g gone) Listed(context.Context) (*lvs.Table, error)            { return nil, g.err }
func (g gone) Connections(context.Context) ([]lvs.Connection, error) { return nil, g.err }
func (g gone) Change(context.Context, []lvs.Change) error            { return g.err }
func (g gone) Zero(context.Context, lvs.ServiceID) error             { return g.err }

func TestUnreachable(t *testing.T) {
	d := gone{errors.New("no director is running: start one with shunt director start")}
	for _, words := range []string{"", "-L", "-Ln --stats", "-Lnc", "-L --timeout", "-S", "-C", "-Z", "-R",
		"-A -t 10.0.0.1:80", "-d -t 10.0.0.1:80 -r 10.0.0.2", "--set 1 2 3",
		"--add-mark 7 -t 10.0.0.1:80", "--delete-mark 7 -t 10.0.0.1:80", "--list-marks"} {
		exit, stdout, stderr := runWords(d, recordedNames(), "-A -t 10.0.0.1:80\n", append([]string{"ipvsadm"}, strings.Fields(words)...))
		if exit != 255 || stdout != "" || stderr != d.err.Error()+"\n" {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", words, exit, stdout, stderr)
		}
	}
}

func TestListMarks(t *testing.T) {
	d := newMemory()
	const head = "Mark       Prot LocalAddress:Port[-Port]\n"
	if _, got, _ := runWords(d, recordedNames(), "", strings.Fields("ipvsadm --list-marks")); got != head {
		t.Errorf("none: got\n%s", got)
	}
	d.table = parsed(t, "--add-mark 4000000000 -t 10.0.0.1:80\n--add-mark 7 -u [2001:db8::1]:53\n--add-mark 7 -t 172.16.16.172:80\n"+
		"--add-mark 7 -t 172.16.16.172:443-444\n--add-mark 8 --sctp-service 172.16.16.172")
	for words, want := range map[string]string{
		"--list-marks -n": `7          TCP  172.16.16.172:80
7          TCP  172.16.16.172:443-444
7          UDP  [2001:db8::1]:53
8          SCTP 172.16.16.172:0
4000000000 TCP  10.0.0.1:80
`,
		"--list-marks": `7          TCP  vip.example:http
7          TCP  vip.example:443-444
7          UDP  [2001:db8::1]:domain
8          SCTP vip.example:0
4000000000 TCP  10.0.0.1:http
`,
	} {
		exit, got, stderr := runWords(d, recordedNames(), "", append([]string{"ipvsadm"}, strings.Fields(words)...))
		if exit != 0 || got != head+want || stderr != "" {
			t.Errorf("%s: exit %d, stderr %q, got\n%swant\n%s", words, exit, stderr, got, head+want)
		}
	}
	if _, got, _ := runWords(d, recordedNames(), "", []string{"ipvsadm", "-S"}); !strings.HasPrefix(got, "--add-mark 7 -t vip.example:http\n") {
		t.Errorf("saved with names:\n%s", got)
	}
}

// What is local is the data plane's to know: the rule stays as it was given.
func TestListLocal(t *testing.T) {
	d := newMemory()
	d.table = parsed(t, "-A -t 10.0.0.1:80 -s wlc\n-a -t 10.0.0.1:80 -r 127.0.0.1\n-a -t 10.0.0.1:80 -r 10.0.0.2")
	id := lvs.ServiceID{Protocol: lvs.TCP, Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}
	d.status = []lvs.ServiceStatus{{ServiceID: id, Servers: []lvs.ServerStatus{
		{ServerID: lvs.ServerID{Addr: netip.MustParseAddr("127.0.0.1"), Port: 80}, Active: 2, Local: true}}}}
	for words, want := range map[string]string{
		"-Ln": "TCP  10.0.0.1:80 wlc\n  -> 10.0.0.2:80                  Route   1      0          0         \n" +
			"  -> 127.0.0.1:80                 Local   1      2          0         \n",
		"-Ln --tun-info": "  -> 127.0.0.1:80                 Local   n/a           1      2          0         \n",
		"-S -n":          "-a -t 10.0.0.1:80 -r 127.0.0.1:80 -g -w 1\n",
	} {
		exit, got, stderr := runWords(d, recordedNames(), "", append([]string{"ipvsadm"}, strings.Fields(words)...))
		if exit != 0 || !strings.HasSuffix(got, want) {
			t.Errorf("%s: exit %d, stderr %q, got\n%swant\n%s", words, exit, stderr, got, want)
		}
	}
}

// A mark has no port: packets keep theirs.
func TestPortOfAMarksServer(t *testing.T) {
	d := gone{fmt.Errorf("10.0.0.2:81 of FWM 7: %w: so", lvs.ErrPortMapping)}
	exit, _, stderr := runWords(d, recordedNames(), "", strings.Fields("ipvsadm -a -f 7 -r 10.0.0.2:81"))
	want := "10.0.0.2:81 for FWM 7: direct routing cannot map ports, the packet arrives at the real server with the port that the client used: use -r 10.0.0.2\n"
	if exit != 255 || stderr != want {
		t.Errorf("exit %d, stderr %q, want 255, %q", exit, stderr, want)
	}
}

func TestUnsupportedIsNamed(t *testing.T) {
	d := gone{fmt.Errorf("TCP 10.0.0.1:80: %w yet: persistence (-p)", lvs.ErrUnsupported)}
	exit, _, stderr := runWords(d, recordedNames(), "", strings.Fields("ipvsadm -A -t 10.0.0.1:80 -p"))
	if want := "TCP 10.0.0.1:80: not supported yet: persistence (-p)\n"; exit != 255 || stderr != want {
		t.Errorf("exit %d, stderr %q, want 255, %q", exit, stderr, want)
	}
}

func TestOutputThatCannotBeWritten(t *testing.T) {
	for _, words := range []string{"-L", "-S", "-h", "-v", "-Lc", "--list-marks"} {
		d := newMemory()
		d.table = parsed(t, "-A -t 10.0.0.1:80")
		var stderr bytes.Buffer
		exit := Run(context.Background(), Env{Name: "ipvsadm", Args: []string{words}, Stdout: brokenPipe{}, Stderr: &stderr, Director: d})
		if exit == 0 || !strings.Contains(stderr.String(), errBroken.Error()) {
			t.Errorf("%s: exit %d, stderr %q", words, exit, stderr.String())
		}
	}
}

func TestTunnelInfo(t *testing.T) {
	d := newMemory()
	d.table = parsed(t, `-A -t 10.0.0.1:80
-a -t 10.0.0.1:80 -r 10.0.0.2
-a -t 10.0.0.1:80 -r 10.0.0.3 -i
-a -t 10.0.0.1:80 -r 10.0.0.4 -i --tun-type gue --tun-port 6080 --tun-csum
-a -t 10.0.0.1:80 -r 10.0.0.5 -i --tun-type gre`)
	want := `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn
TCP  10.0.0.1:80 wlc
  -> 10.0.0.2:80                  Route   n/a           1      0          0         
  -> 10.0.0.3:80                  Tunnel  ipip          1      0          0         
  -> 10.0.0.4:80                  Tunnel  gue:6080:+c   1      0          0         
  -> 10.0.0.5:80                  Tunnel  gre:-c        1      0          0         
`
	if _, got, _ := runWords(d, Names{}, "", strings.Fields("ipvsadm -Ln --tun-info")); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// IPv6 names push the columns apart, IPv4 ones are cut.
func TestLongNames(t *testing.T) {
	d := newMemory()
	d.table = parsed(t, "-A -t 10.0.0.1:80\n-A -t [2001:db8:1111:2222:3333:4444:5555:6666]:80\n"+
		"-a -t [2001:db8:1111:2222:3333:4444:5555:6666]:80 -r [2001:db8:1111:2222:3333:4444:5555:7777]:80")
	names := Names{AddrHost: func(context.Context, netip.Addr) (string, bool) {
		return "a-name-that-is-longer-than-its-column.example", true
	}}
	want := `Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  a-name-that-is-longer-than-i        0        0        0        0        0
TCP  [a-name-that-is-longer-than-its-column.example]:80        0        0        0        0        0
  -> [a-name-that-is-longer-than-its-column.example]:80        0        0        0        0        0
`
	_, got, _ := runWords(d, names, "", strings.Fields("ipvsadm -L --stats"))
	if _, got, _ = strings.Cut(got, "\n"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestShorten(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 99999999: "99999999", 100000000: "100000K", 999999999: "999999K",
		1000000000: "1000M", 99999999999: "99999M", 100000000000: "100G", 99999999999999: "99999G",
		100000000000000: "100T", 18446744073709551615: "18446744T"} {
		if got := shorten(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

func TestConnectionExpiry(t *testing.T) {
	d := newMemory()
	at := netip.MustParseAddrPort("10.0.0.1:80")
	d.conns = []lvs.Connection{
		{Protocol: lvs.TCP, Client: at, Virtual: at, Server: at, State: lvs.StateEstablished, Expires: 6000 * time.Second},
		{Protocol: lvs.TCP, Client: at, Virtual: at, Server: at, State: lvs.StateFinWait, Expires: -time.Second},
		{Client: netip.MustParseAddrPort("10.0.0.9:0"), Virtual: netip.MustParseAddrPort("0.0.0.7:0"),
			Server: netip.MustParseAddrPort("10.0.0.2:0"), State: lvs.StateNone, Expires: time.Minute},
	}
	_, got, _ := runWords(d, Names{}, "", []string{"ipvsadm", "-Lcn"})
	want := `IPVS connection entries
pro expire state       source             virtual            destination
TCP 100:00 ESTABLISHED 10.0.0.1:80        10.0.0.1:80        10.0.0.1:80
TCP 00:00  FIN_WAIT    10.0.0.1:80        10.0.0.1:80        10.0.0.1:80
IP  01:00  NONE        10.0.0.9:0         0.0.0.7:0          10.0.0.2:0
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func FuzzCommandLine(f *testing.F) {
	for _, seed := range []string{
		"-Ln --stats --exact", "-Lnc --persistent-conn", "-A -t 10.0.0.1:80 -p -M 255.0.0.0 -b flag-1",
		"-a -t 172.16.16.172:80 -r 10.0.0.2:81 -g -w5", "-e -t 172.16.16.172:80 -r 172.16.16.177 -x 9 -y 3 -i --tun-type gre",
		"-Z -t vip.example:http", "--set 1 2 3", "-S", "-R", "-C", "-h", "--start-daemon master --syncid 3", "-A -f 9 -6 -M 64 -p=3",
		"--add-mark 7 -u 172.16.16.172:1-9", "--delete-mark 7 -t [2001:db8::1]:443", "--list-marks -n", "--add-mark -f 7",
		"-d -t 172.16.16.172:80 -r [::1]:80", "-E -t 172.16.16.172:80 --pe sip -o", "--",
		"-E -t 172.16.16.172:80 --stray reset --conn-reuse-mode 3 --secure-tcp=1", "-E -f 7 -6 -p --expire-quiescent-template 0 --expire-nodest-conn +0",
		"-A -u 10.0.0.1:53 --stray=drop", "-", "--=", "-=", "-A -t [::]:0 -p",
	} {
		f.Add(seed, "-A -t 10.0.0.3:80\n")
	}
	f.Fuzz(func(t *testing.T, words, stdin string) {
		d := newMemory()
		d.table = parsed(t, "-A -t 172.16.16.172:80\n-a -t 172.16.16.172:80 -r 172.16.16.177\n-A -f 7 -6\n--add-mark 7 -t [2001:db8::1]:443")
		before := d.table.Clone()
		exit, _, stderr := runWords(d, recordedNames(), stdin, append([]string{"ipvsadm"}, strings.Split(words, " ")...))
		switch {
		case exit != 0 && exit != 1 && exit != 2 && exit != 255:
			t.Errorf("exit code %d", exit)
		case (exit == 0) != (stderr == ""):
			t.Errorf("exit code %d with stderr %q", exit, stderr)
		case exit != 0 && !d.table.Equal(before):
			t.Errorf("exit code %d, and the table has changed", exit)
		}
		if got := parsed(t, written(t, d.table, CreationOrder())); !got.Equal(d.table) {
			t.Error("the table does not come back from its rules")
		}
	})
}
