// SPDX-License-Identifier: MIT

package config

import (
	"bytes"
	"context"
	"errors"
	goflag "flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

var update = goflag.Bool("update", false, "write what imports give as what they should")

// hosts are the names that the corpus has.
func hosts() ipvsadm.Names {
	return ipvsadm.Names{
		HostAddr: func(_ context.Context, host string) (netip.Addr, bool) {
			a, err := netip.ParseAddr(map[string]string{"web.example.com": "10.4.0.10", "app1.example.com": "10.4.0.30",
				"vip.example.com": "10.9.0.10", "web1.example.com": "10.9.0.21"}[host])
			return a, err == nil
		},
		ServicePort: func(name string, _ lvs.Protocol) (uint16, bool) { return 80, name == "http" },
	}
}

// corpus lists the files of a kind.
func corpus(tb testing.TB, kind Kind) []string {
	tb.Helper()
	pattern := map[Kind]string{Keepalived: "testdata/keepalived/*.conf", Ldirectord: "testdata/ldirectord/*.cf", IpvsadmSave: "testdata/ipvsadm/*.save"}[kind]
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		tb.Fatalf("no corpus: %v", err)
	}
	return files
}

func importFile(t *testing.T, kind Kind, path string, options ...ImportOption) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	options = append([]ImportOption{ImportNames(hosts()), ConfigID("main")}, options...)
	yaml, err := Import(kind, path, text, os.ReadFile, options...)
	if err != nil {
		t.Fatal(err)
	}
	return yaml
}

// TestImportCorpus: each file is imported as what is beside it, which is a site's
// file; and no line is lost: it is there as a setting or in a comment.
func TestImportCorpus(t *testing.T) {
	for _, kind := range ImportKinds() {
		for _, path := range corpus(t, kind) {
			t.Run(path, func(t *testing.T) {
				yaml := importFile(t, kind, path)
				golden := path + ".yaml"
				if *update {
					if err := os.WriteFile(golden, yaml, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), string(yaml)); diff != "" {
					t.Errorf("import of %s is otherwise (-want +got; -update writes it anew):\n%s", path, diff)
				}
				if _, err := Parse(golden, want); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestImportSwitchedOn: a service by mark is written as a comment, and is a
// service once the comment is taken away and match filled in.
func TestImportSwitchedOn(t *testing.T) {
	for path, kind := range map[string]Kind{"testdata/keepalived/groups.conf": Keepalived, "testdata/ldirectord/marks.cf": Ldirectord, "testdata/ipvsadm/site.save": IpvsadmSave} {
		text := string(importFile(t, kind, path))
		before, err := Parse(path, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`(?m)^#(  - .*|    +[a-z_]+:.*|      +- .*)$`).ReplaceAllString(text, "$1")
		marked := strings.Count(text, "tcp VIP:PORT")
		for n := range marked {
			vip := fmt.Sprintf("tcp 192.0.2.%d:21", 200+n)
			if six := strings.Index(text, "family: ipv6"); six >= 0 && strings.Count(text[:six], "tcp VIP:PORT") == 0 {
				vip = `"tcp [2001:db8::200]:21"`
				text = strings.Replace(text, "family: ipv6", "family:  ipv6", 1)
			}
			text = strings.Replace(text, "tcp VIP:PORT", vip, 1)
		}
		after, err := Parse(path, []byte(text))
		if err != nil {
			t.Errorf("%s: %v\n%s", path, err, text)
			continue
		}
		if marked == 0 || len(after.Services) != len(before.Services)+marked {
			t.Errorf("%s has %d services and %d by mark, and then %d", path, len(before.Services), marked, len(after.Services))
		}
	}
}

// TestImportGuess: the kind is told by name and by content.
func TestImportGuess(t *testing.T) {
	for _, kind := range ImportKinds() {
		for _, path := range corpus(t, kind) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Base(path) == "include.conf" || filepath.Base(path) == "weird.conf" {
				continue // nothing but includes, and begins oddly
			}
			if got := GuessKind("-", text); got != kind {
				t.Errorf("%s is of kind %q by its content, want %q", path, got, kind)
			}
		}
	}
	for name, want := range map[string]Kind{"/etc/keepalived/keepalived.conf": Keepalived, "keepalived.conf.old": Keepalived, "/etc/ha.d/ldirectord.cf": Ldirectord,
		"lvs.cf": Ldirectord, "ipvsadm.rules": IpvsadmSave, "/etc/ipvsadm.rules": IpvsadmSave, "site.yaml": "", "-": ""} {
		if got := GuessKind(name, []byte("# nothing\n")); got != want {
			t.Errorf("%s is of kind %q by its name, want %q", name, got, want)
		}
	}
}

// TestImportErrors: what makes no sense is said with file, line and column.
func TestImportErrors(t *testing.T) {
	v := "virtual_server 10.0.0.1 80 {\n"
	r := " lb_kind DR\n protocol TCP\n real_server 10.0.0.2 80 {\n"
	for _, c := range []struct {
		kind       Kind
		text, want string
	}{
		{Keepalived, v + " lb_algo wlcc\n" + r + " }\n}\n", "f:2:10: unknown scheduler \"wlcc\", did you mean wlc?"},
		{Keepalived, v + r + " }\n", "f:1:1: the { of virtual_server is never closed"},
		{Keepalived, v + r + " }\n}\n }\n", "f:7:2: a } without a {"},
		{Keepalived, "{\n}\n", "f:1:1: a { with nothing before it"},
		{Keepalived, "virtual_server 10.0.0.x 80 {\n" + r + " }\n}\n", `f:1:16: virtual_server takes an address and a port, not "10.0.0.x"`},
		{Keepalived, "virtual_server 10.0.0.1 http {\n" + r + " }\n}\n", `f:1:25: port "http" is not a number from 0 to 65535`},
		{Keepalived, v + " delay_loop soon\n" + r + " }\n}\n", `f:2:13: delay_loop takes seconds`},
		{Keepalived, v + " lb_kind XX\n" + r + " }\n}\n", `f:2:10: lb_kind is NAT, DR or TUN, not "XX"`},
		{Keepalived, v + r + " }\n protocol tpc\n}\n", `f:6:11: unknown protocol "tpc"`},
		{Keepalived, v + r + "  uthreshold 5\n  lthreshold 10\n }\n}\n", "f:6:14: the lower threshold 10 is above the upper one, 5"},
		{Keepalived, v + r + "  MISC_CHECK {\n  }\n }\n}\n", "f:5:3: the MISC_CHECK has no misc_path"},
		{Keepalived, v + r + "  DNS_CHECK {\n   type AAA\n  }\n }\n}\n", `f:6:9: unknown type of record "AAA", did you mean AAAA?`},
		{Keepalived, v + r + "  HTTP_GET {\n   url {\n    path /\n    digest 12\n   }\n  }\n }\n}\n", `f:8:12: digest takes 32 hexadecimal digits`},
		{Keepalived, v + r + "  HTTP_GET {\n   url {\n    path /\n    status_code 99\n   }\n  }\n }\n}\n", `f:8:17: status_code takes statuses`},
		{Keepalived, "virtual_server group nobody {\n" + r + " }\n}\n", `f:1:22: there is no virtual_server_group "nobody"`},
		{Keepalived, "virtual_server_group g {\n 10.0.0.9-1 80\n}\nvirtual_server group g {\n" + r + " }\n}\n", `f:2:2: 10.0.0.9-1: the first address of the range comes first`},
		{Keepalived, "virtual_server_group g {\n 10.0.0.0/8 80\n}\nvirtual_server group g {\n" + r + " }\n}\n", `f:2:2: 10.0.0.0/8: more than 4096 addresses`},
		{Keepalived, "virtual_server fwmark 0 {\n" + r + " }\n}\n", `f:1:23: a mark is a number greater than 0`},
		{Keepalived, v + r + " }\n}\n" + v + r + " }\n}\n", `f:7:1: there is a service TCP 10.0.0.1:80 already, by line 1`},
		{Keepalived, "include nowhere.conf\n", `f:1:9: the included file: `},
		{Keepalived, "include {a,b}.conf\n", `f:1:9: braces in the name`},
		{Keepalived, "$A=$B$B\n$B=$A$A\n$A\n", `f:3:1: the file's definitions lead to each other`},
		{Keepalived, "$A= \\\n $B \\\n x\n$B= \\\n $A \\\n y\n$A\n", `f:5:2: the file's definitions lead to each other`},
		{Keepalived, v + " delay_loop ${_RANDOM 1 5}\n" + r + " }\n}\n", "f:2:13: a random number"},
		{Keepalived, "~SEQ(N, 1, 0, 5) foo\n", `f:1:6: ~SEQ takes`},
		{Keepalived, "~LST({A,B}, {1}) foo\n", `f:1:6: ~LST takes`},
		{Keepalived, "~SEQ(N, 1, 5 foo\n", `f:1:1: ~SEQ( is never closed`},
		{Keepalived, "#!/bin/sh\nexit 0\n", "f:2:1: nothing here is keepalived's"},
		{Ldirectord, "virtual=10.0.0.1:80\n\treal=10.0.0.2:80 gate\n\tscheduler=wll\n", `f:3:12: unknown scheduler "wll", did you mean wlc?`},
		{Ldirectord, "virtual=10.0.0.1:80\n\treal=10.0.0.2:80 direct\n", "f:2:7: real takes ADDRESS"},
		{Ldirectord, "virtual=10.0.0.1\n", "f:1:9: virtual takes ADDRESS:PORT, or a mark"},
		{Ldirectord, "virtual=10.0.0.1:80\n\tfoo=1\n", "f:2:2: unknown directive foo"},
		{Ldirectord, "virtual=10.0.0.1:80\n\trequest=x\n", "f:2:10: request takes a text in double quotes"},
		{Ldirectord, "virtual=10.0.0.1:80\n\n\treal=10.0.0.2:80 gate\n", "f:3:2: it is of no virtual: an empty line ends one"},
		{Ldirectord, "virtual=[2001:db8::1]:80\n", "f:1:9: [2001:db8::1] is no address for this virtual"},
		{Ldirectord, "virtual=10.0.0.1:80\n\treal6=[2001:db8::2]:80 gate\n", "f:2:2: real6 does not go with this virtual"},
		{Ldirectord, "virtual=10.0.0.1:80\n\treal=nobody.example.com:80 gate\n", "f:2:7: nobody.example.com is no address, and no address is known for it"},
		{Ldirectord, "virtual=10.0.0.1:80\n\tservice=htpp\n", `f:2:10: unknown service "htpp", did you mean http?`},
		{Ldirectord, "virtual=10.0.0.1:80\n\tchecktype=conect\n", `f:2:12: unknown checktype "conect", did you mean connect?`},
		{Ldirectord, "virtual=10.0.0.1:80\n\treal=10.0.0.2:80 gate 1 wat\n", `f:2:26: what is "wat"`},
		{Ldirectord, "virtual=10.0.0.1:80\n\treal=10.0.0.5->10.0.0.2:80 gate\n", "f:2:17: the first address of a range comes first"},
		{Ldirectord, "checktimeout=0\n", "f:1:14: checktimeout \"0\" is not a number from 1"},
		{Ldirectord, "quiescent=maybe\n", "f:1:11: quiescent is yes or no"},
		{Ldirectord, "timeout=3\n", "f:1:1: ldirectord takes timeout no more"},
		{IpvsadmSave, "-A -t 10.0.0.1:80 -s wlcc\n", "f:1:22: scheduler \"wlcc\""},
		{IpvsadmSave, "-A -t 10.0.0.1:80 -s wlc\n-a -t 10.0.0.2:80 -r 10.0.0.3:80 -g\n", "f:2:1: "},
		{IpvsadmSave, "hello\n", "f:1:1: "},
	} {
		out, err := Import(c.kind, "f", []byte(c.text), os.ReadFile, ImportNames(ipvsadm.Names{}))
		var p Problem
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || !errors.As(err, &p) {
			t.Errorf("%s\ngives the error %v, want %s\n%s", c.text, err, c.want, out)
		}
	}
}

// TestNoEquivalent: lines are counted, not comments.
func TestNoEquivalent(t *testing.T) {
	text := "# A note.\n# line 3: x\n#   why\n  # lines 4, 15, 6: y\n    # conf.d/a.conf line 7: z\n# at a line 8: no\n- line 9: no\n"
	if n := NoEquivalent([]byte(text)); n != 5 {
		t.Errorf("%d lines", n)
	}
}

// TestImportLosesNothing: a keyword more, wherever it stands, is in a comment with
// its line's number.
func TestImportLosesNothing(t *testing.T) {
	for _, path := range corpus(t, Keepalived) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(string(text), "\n")
		for n, line := range lines[:len(lines)-1] {
			if strings.HasSuffix(strings.TrimSpace(line), `\`) || n > 0 && strings.HasSuffix(strings.TrimSpace(lines[n-1]), `\`) {
				continue // of a macro
			}
			if next := strings.TrimSpace(strings.Join(lines[n:], "")); strings.HasPrefix(next, "{") || strings.HasPrefix(strings.TrimSpace(strings.Join(lines[min(n+1, len(lines)):], "")), "{") {
				continue // the brace would be its own
			}
			more := slices.Insert(slices.Clone(lines), n+1, "zebra yes\n")
			yaml, err := Import(Keepalived, path, []byte(strings.Join(more, "")), os.ReadFile, ConfigID("main"))
			if err != nil && strings.HasPrefix(err.Error(), fmt.Sprintf("%s:%d:", path, n+2)) {
				continue // there it is, too
			}
			if err != nil {
				t.Errorf("%s with zebra on line %d: %v", path, n+2, err)
				continue
			}
			if want := fmt.Sprintf("line %d: zebra yes", n+2); !bytes.Contains(yaml, []byte(want)) {
				t.Errorf("%s with zebra on line %d: it is lost", path, n+2)
			}
		}
	}
}

// asDefault are the lines of the corpus that say what would be so without them.
var asDefault = regexp.MustCompile(`^(lb_algo wlc.*|weight 1|retry 1|connect_timeout 5|delay_before_retry [13]|http_protocol 1.1|ip_family inet6|lvs_method DR` +
	`|connect_ip 198.51.100.31|connect_port 25|@main +\$PRIORITY=200|protocol ?= ?(tcp|fwm)|checktype ?= ?(negotiate|on)|request="/"|service ?= ?https?` +
	`|checkinterval=10|httpmethod=get|scheduler=wrr.*)$`)

// TestImportEveryLineCounts: without a line the import is another one, unless the
// line says what is the default.
func TestImportEveryLineCounts(t *testing.T) {
	numbers := regexp.MustCompile(`lines? [0-9, ]+:|by line \d+`)
	for _, kind := range []Kind{Keepalived, Ldirectord} {
		for _, path := range corpus(t, kind) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			whole := numbers.ReplaceAll(importFile(t, kind, path), nil)
			lines := strings.SplitAfter(string(text), "\n")
			for n, line := range lines {
				bare := strings.TrimSpace(line)
				if bare == "" || strings.ContainsRune("#!}", rune(bare[0])) || strings.HasSuffix(bare, "{") || asDefault.MatchString(bare) {
					continue
				}
				less := slices.Clone(lines)
				less[n] = map[Kind]string{Keepalived: "# gone\n", Ldirectord: "    # gone\n"}[kind]
				yaml, err := Import(kind, path, []byte(strings.Join(less, "")), os.ReadFile, ImportNames(hosts()), ConfigID("main"))
				if err == nil && bytes.Equal(whole, numbers.ReplaceAll(yaml, nil)) {
					t.Errorf("%s:%d: %s: the import is the same without it", path, n+1, bare)
				}
			}
		}
	}
}
