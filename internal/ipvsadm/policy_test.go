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
