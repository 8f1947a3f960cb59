// SPDX-License-Identifier: MIT

package config

import (
	"errors"
	"os"
	"testing"
)

// FuzzImportKeepalived: whatever the text is, there is an error or a site's file.
// (Import itself parses what it gives; the error of that is not for users.)
func FuzzImportKeepalived(f *testing.F) {
	for _, text := range []string{"include x\n", "$A=$B$B\n$B=$A$A\n$A\n", "~SEQ(N,1,50) ~LST({A,B},{1,2}) $C\n$C= \\\n x ${N} {\n", "@main virtual_server 1.2.3.4 5 {\n}\n",
		"virtual_server_group g {\n 2001:db8::1-f 80\n fwmark 3 inet6\n}\n"} {
		f.Add([]byte(text))
	}
	fuzzImport(f, Keepalived)
}

// FuzzImportLdirectord is the same for an ldirectord.cf.
func FuzzImportLdirectord(f *testing.F) {
	f.Add([]byte("virtual=1\n\treal=10.0.0.1->10.0.0.9 gate 5 \"a\", \"b\" l:1 u:2\n"))
	fuzzImport(f, Ldirectord)
}

// FuzzImportSave is the same for rules.
func FuzzImportSave(f *testing.F) {
	f.Add([]byte("-A -t 10.0.0.1:0 -s rr -p 1\n-a -t 10.0.0.1:0 -r 10.0.0.2 -m\n-E -t 10.0.0.1:0 -s mh -p 5 -b mh-port\n"))
	fuzzImport(f, IpvsadmSave)
}

func fuzzImport(f *testing.F, kind Kind) {
	for _, path := range corpus(f, kind) {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	noFile := func(string) ([]byte, error) { return nil, os.ErrNotExist }
	f.Fuzz(func(t *testing.T, text []byte) {
		yaml, err := Import(kind, "f", text, noFile, ImportNames(hosts()), ConfigID("main"))
		var p Problem
		if err != nil && !errors.As(err, &p) {
			t.Fatal(err)
		}
		var made Errors
		if errors.As(err, &made) {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		if _, err := Parse("f.yaml", yaml); err != nil {
			t.Fatalf("%v\n%s", err, yaml)
		}
		NoEquivalent(yaml)
	})
}
