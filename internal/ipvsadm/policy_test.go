// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// TestPolicyOptions: what the options mean, what is saved of them and what is
// listed; nothing of the default.
func TestPolicyOptions(t *testing.T) {
	mode := func(n uint8) lvs.ConnReuse {
		c, _ := lvs.ConnReuseOf(n)
		return c
	}
	all := lvs.Policy{Stray: lvs.StrayReset, ConnReuse: mode(0), KeepNodest: true, KeepTemplate: true, SecureTCP: true}
	for _, c := range []struct {
		options string
		want    lvs.Policy
		saved   string
		listed  string
	}{
		{"", lvs.Policy{}, " -s wlc", " wlc"},
		{"--stray adopt --conn-reuse-mode 2 --expire-nodest-conn 1 --secure-tcp 0", lvs.Policy{}, " -s wlc", " wlc"},
		{"--stray pass", lvs.Policy{Stray: lvs.StrayPass}, " -s wlc --stray pass", " wlc stray pass"},
		{"--stray=drop -s rr", lvs.Policy{Stray: lvs.StrayDrop}, " -s rr --stray drop", " rr stray drop"},
		{"--conn-reuse-mode 1", lvs.Policy{ConnReuse: mode(1)}, " -s wlc --conn-reuse-mode 1", " wlc conn-reuse-mode 1"},
		{"--source-limit 20:40", lvs.Policy{SourceLimit: lvs.SourceLimit{Rate: 20, Burst: 40}}, " -s wlc --source-limit 20:40", " wlc source-limit 20:40"},
		{"--source-limit=7:7", lvs.Policy{SourceLimit: lvs.SourceLimit{Rate: 7, Burst: 7}}, " -s wlc --source-limit 7", " wlc source-limit 7"},
		{"--conn-reuse-mode 3", lvs.Policy{ConnReuse: mode(3)}, " -s wlc --conn-reuse-mode 3", " wlc conn-reuse-mode 3"},
		{"-p 60 -M 255.255.255.0 --secure-tcp 1 --expire-quiescent-template 0 --expire-nodest-conn 0 --conn-reuse-mode 0 --stray reset", all,
			" -s wlc -p 60 -M 255.255.255.0 --stray reset --conn-reuse-mode 0 --expire-nodest-conn 0 --expire-quiescent-template 0 --secure-tcp 1",
			" wlc persistent 60 mask 255.255.255.0 stray reset conn-reuse-mode 0 expire-nodest-conn 0 expire-quiescent-template 0 secure-tcp 1"},
	} {
		d := newMemory()
		if exit, _, stderr := runWords(d, Names{}, "", strings.Fields("ipvsadm -A -t 10.0.0.1:80 "+c.options)); exit != 0 {
			t.Errorf("%s: exit %d: %s", c.options, exit, stderr)
			continue
		}
		if got := d.table.Services[0].Policy; got != c.want {
			t.Errorf("%s: means %+v, want %+v", c.options, got, c.want)
		}
		if got, want := written(t, d.table), "-A -t 10.0.0.1:80"+c.saved+"\n"; got != want {
			t.Errorf("%s: saved as %q, want %q", c.options, got, want)
		}
		if got := parsed(t, written(t, d.table)); !got.Equal(d.table) {
			t.Errorf("%s: restored as %+v", c.options, got.Services[0])
		}
		if _, got, _ := runWords(d, Names{}, "", []string{"ipvsadm", "-Ln"}); !strings.HasSuffix(got, "\nTCP  10.0.0.1:80"+c.listed+"\n") {
			t.Errorf("%s: listed as\n%s", c.options, got)
		}
		// As flags, they are gone with the next edit that does not name them.
		if exit, _, stderr := runWords(d, Names{}, "", strings.Fields("ipvsadm -E -t 10.0.0.1:80")); exit != 0 || d.table.Services[0].Policy != (lvs.Policy{}) {
			t.Errorf("%s: after -E: exit %d %s, %+v", c.options, exit, stderr, d.table.Services[0].Policy)
		}
	}
}

func TestPolicyMistakes(t *testing.T) {
	for _, c := range []struct {
		line, stderr string
	}{
		{"-A -t 10.0.0.1:80 --stray sloppy", "illegal stray specified: it is one of adopt|pass|drop|reset"},
		{"-A -t 10.0.0.1:80 --conn-reuse-mode 4", "illegal conn-reuse-mode specified: it is a number from 0 to 3"},
		{"-A -t 10.0.0.1:80 --expire-nodest-conn yes", "illegal expire-nodest-conn specified: it is 0 or 1"},
		{"-A -t 10.0.0.1:80 -p --expire-quiescent-template 2", "illegal expire-quiescent-template specified: it is 0 or 1"},
		{"-A -t 10.0.0.1:80 --secure-tcp 3", "illegal secure-tcp specified: it is 0 or 1"},
		{"-A -t 10.0.0.1:80 --stray pass --stray drop", "multiple 'stray' options specified"},
		{"-A -t 10.0.0.1:80 --secure-tcp 0 --secure-tcp 0", "multiple 'secure-tcp' options specified"},
		{"-D -t 10.0.0.1:80 --stray pass", "Illegal 'stray' option with the 'delete-service' command"},
		{"-a -t 10.0.0.1:80 -r 10.0.0.2 --secure-tcp 1", "Illegal 'secure-tcp' option with the 'add-server' command"},
		{"-Ln --expire-nodest-conn 1", "Illegal 'expire-nodest-conn' option with the 'list' command"},
		{"-A -t 10.0.0.1:80 --source-limit 0", "illegal source-limit specified: it is rate[:burst], connections a second and at once, each from 1 to 10000"},
		{"-A -t 10.0.0.1:80 --source-limit 20/s", "illegal source-limit specified: it is rate[:burst], connections a second and at once, each from 1 to 10000"},
		{"-A -t 10.0.0.1:80 --source-limit 1 --source-limit 2", "multiple 'source-limit' options specified"},
		{"-a -t 10.0.0.1:80 -r 10.0.0.2 --source-limit 1", "Illegal 'source-limit' option with the 'add-server' command"},
		{"--add-deny 10.0.0.0/33 -t 10.0.0.1:80", "illegal prefix `10.0.0.0/33' specified: it is address[/length]"},
		{"--add-deny web -t 10.0.0.1:80", "illegal prefix `web' specified: it is address[/length]"},
		{"--delete-deny 10.0.0.0/ -t 10.0.0.1:80", "illegal prefix `10.0.0.0/' specified: it is address[/length]"},
		{"--add-deny 10.0.0.0/8", "You need to supply the 'service-address' option for the 'add-deny' command"},
		{"--delete-deny 10.0.0.0/8 -t 10.0.0.1:80 -s rr", "Illegal 'scheduler' option with the 'delete-deny' command"},
		{"-A -u 10.0.0.1:53 --stray drop", "The stray option is only for TCP and SCTP virtual services"},
		{"-A -u 10.0.0.1:53 --conn-reuse-mode 1", "The conn-reuse-mode option is only for TCP and SCTP virtual services"},
		{"-A --sctp-service 10.0.0.1:53 --secure-tcp 1", "The secure-tcp option is only for TCP virtual services"},
		{"-A -t 10.0.0.1:80 --expire-quiescent-template 0", "The expire-quiescent-template option is only for persistent virtual services"},
	} {
		d := newMemory()
		if exit, _, stderr := runWords(d, Names{}, "", strings.Fields("ipvsadm "+c.line)); exit != 2 || stderr != c.stderr+"\n" || len(d.table.Services) != 0 {
			t.Errorf("%s: exit %d, %q; want 2, %q", c.line, exit, stderr, c.stderr)
		}
	}
	if exit, _, stderr := runWords(newMemory(), Names{}, "", strings.Fields("ipvsadm -A -t 10.0.0.1:80 --stray")); exit != 255 || stderr != "--stray: missing argument\n" {
		t.Errorf("--stray alone: exit %d, %q", exit, stderr)
	}
}

// TestDenyCommands: what is denied is saved and restored, counted in a listing,
// and stays when the service is edited. Without it nothing is to be seen of it.
func TestDenyCommands(t *testing.T) {
	d := newMemory()
	do := func(line string, exit int, stderr string) {
		t.Helper()
		if got, _, said := runWords(d, Names{}, "", strings.Fields("ipvsadm "+line)); got != exit || said != stderr {
			t.Errorf("%s: exit %d, %q; want %d, %q", line, got, said, exit, stderr)
		}
	}
	do("-A -t 10.0.0.1:80 -s rr", 0, "")
	do("-A -t [2001:db8::1]:80 -s rr", 0, "")
	do("--add-mark 7 -t 10.0.0.1:81", 0, "")
	do("-A -f 7", 0, "")
	do("-a -t 10.0.0.1:80 -r 10.0.0.2", 0, "")
	do("--add-deny 192.0.2.0/24 -t 10.0.0.1:80", 0, "")
	do("--add-deny=198.51.100.7 -t 10.0.0.1:80", 0, "")
	do("--add-deny 10.9.0.0/16 -t 10.0.0.1:80", 0, "")
	do("--delete-deny 10.9.0.0/16 -t 10.0.0.1:80", 0, "")
	do("--add-deny 2001:DB8:99::/48 -t [2001:db8::1]:80", 0, "")
	do("--add-deny 203.0.113.0/24 -f 7", 0, "")
	do("-E -t 10.0.0.1:80 -s wrr", 0, "")
	do("--add-deny 192.0.2.0/24 -t 10.0.0.1:80", 255, "the director: deny list of TCP 10.0.0.1:80: 192.0.2.0/24: it is there already\n")
	do("--add-deny 192.0.2.9/24 -t 10.0.0.1:80", 255, "the director: deny list of TCP 10.0.0.1:80: 192.0.2.9/24: it has bits behind its length; 192.0.2.0/24 has none\n")
	do("--add-deny 2001:db8::/32 -t 10.0.0.1:80", 255, "the director: deny list of TCP 10.0.0.1:80: 2001:db8::/32: it is of another address family\n")
	do("--delete-deny 192.0.2.0/25 -t 10.0.0.1:80", 255, "the director: deny list of TCP 10.0.0.1:80: 192.0.2.0/25: it is not there\n")
	do("--add-deny 192.0.2.0/24 -t 10.0.0.9:80", 255, "Service not defined\n")
	saved := "--add-mark 7 -t 10.0.0.1:81\n" +
		"-A -t 10.0.0.1:80 -s wrr\n--add-deny 192.0.2.0/24 -t 10.0.0.1:80\n--add-deny 198.51.100.7/32 -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -g -w 1\n" +
		"-A -t [2001:db8::1]:80 -s rr\n--add-deny 2001:db8:99::/48 -t [2001:db8::1]:80\n" +
		"-A -f 7 -s wlc\n--add-deny 203.0.113.0/24 -f 7\n"
	if _, got, _ := runWords(d, Names{}, "", []string{"ipvsadm", "-Sn"}); got != saved {
		t.Errorf("saved as\n%swant\n%s", got, saved)
	}
	if got := parsed(t, saved); written(t, got) != written(t, d.table) {
		t.Errorf("restored as\n%s", written(t, got))
	}
	_, got, _ := runWords(d, Names{}, "", []string{"ipvsadm", "-Ln"})
	for _, line := range []string{"TCP  10.0.0.1:80 wrr deny 2", "TCP  [2001:db8::1]:80 rr deny 1", "FWM  7 wlc deny 1"} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("listed without %q:\n%s", line, got)
		}
	}
	do("--delete-deny 203.0.113.0/24 -f 7", 0, "")
	if _, got, _ := runWords(d, Names{}, "", []string{"ipvsadm", "-Ln"}); !strings.Contains(got, "\nFWM  7 wlc\n") {
		t.Errorf("an empty list is listed as\n%s", got)
	}
}
