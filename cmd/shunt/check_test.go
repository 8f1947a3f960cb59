// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// commanded is the command line in this process: its output and its exit code.
func commanded(t *testing.T, in string, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(strings.NewReader(in))
	root.SetOut(&out)
	code := exitCode(root.ExecuteContext(t.Context()))
	return out.String(), code
}

func TestCheckCommand(t *testing.T) {
	const good = "services:\n  - address: 172.16.16.172:80\n    servers: [172.16.16.177]\n"
	bad := strings.Replace(good, "servers", "scheduler: wlcc\n    servers", 1)
	file := filepath.Join(t.TempDir(), "site.yaml")
	if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, in string
		args     []string
		code     int
		want     string
	}{
		{"right", good, []string{"check", "-"}, 0, "- is right\n  director: 1 VIP, mode auto\n  service 172.16.16.172:80: wlc, 1 real server, checked by tcp\n"},
		{"wrong", "", []string{"check", file}, 1, file + ":3:16: unknown scheduler wlcc, did you mean wlc?\n        scheduler: wlcc\n                   ^\n"},
		{"not there", "", []string{"check", file + "2"}, 1, ""},
		{"no file", "", []string{"check"}, 2, ""},
		{"two files", "", []string{"check", "a", "b"}, 2, ""},
	} {
		if out, code := commanded(t, c.in, c.args...); code != c.code || out != c.want {
			t.Errorf("%s: exit code %d\n%s", c.name, code, out)
		}
	}
}

func TestCheckCommandAsJSON(t *testing.T) {
	for text, want := range map[string]bool{"services: []\n": true, "services: {}\nx: 1\n": false} {
		out, code := commanded(t, text, "check", "--json", "-")
		var got checked
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		if got.OK != want || (code == 0) != want || (len(got.Problems) == 0) != want || got.Problems == nil {
			t.Errorf("%q: exit code %d, %+v", text, code, got)
		}
		if !want && (len(got.Problems) != 2 || got.Problems[0].Line != 1 || got.Problems[0].Column != 11) {
			t.Errorf("%+v", got.Problems)
		}
	}
}

func TestSchemaCommand(t *testing.T) {
	if out, code := commanded(t, "", "schema"); code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("exit code %d: %.200s", code, out)
	}
}
