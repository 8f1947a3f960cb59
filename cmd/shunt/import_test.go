// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/config"
)

// TestImportCommand: what is printed where, and the exit codes.
func TestImportCommand(t *testing.T) {
	testdata := "../../internal/config/testdata/"
	text, err := os.ReadFile(testdata + "ldirectord/defaults.cf")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.conf")
	if err := os.WriteFile(broken, []byte("virtual_server 10.0.0.1 80 {\n lb_algo wlcc\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		in   string
		code int
		say  string // on standard error
	}{
		{[]string{"keepalived", testdata + "keepalived/web.conf"}, "", 0, "as keepalived: 5 lines have no equivalent"},
		{[]string{testdata + "keepalived/web.conf"}, "", 0, "as keepalived: 5 lines"},
		{[]string{testdata + "ldirectord/web.cf"}, "", 0, "as ldirectord: 4 lines"},
		{[]string{"ldirectord", "-"}, string(text), 0, "standard input, as ldirectord: every line has an equivalent"},
		{[]string{"-"}, "ipvsadm -A -t 172.16.16.172:80 -s wlc\n-a -t 172.16.16.172:80 -r 172.16.16.177 -m\n", 0, "as ipvsadm-save: 1 line has no equivalent"},
		{[]string{"-"}, "hello\n", 2, "cannot be told from its name or content"},
		{[]string{"nginx", broken}, "", 2, `"nginx" is no kind of file`},
		{nil, "", 2, "it takes a file"},
		{[]string{"a", "b", "c"}, "", 2, "it takes a file"},
		{[]string{"--quick", broken}, "", 2, "unknown flag"},
		{[]string{"keepalived", broken}, "", 1, broken + `:2:10: unknown scheduler "wlcc", did you mean wlc?`},
		{[]string{"keepalived", filepath.Join(dir, "none")}, "", 1, "no such file"},
		{[]string{"--config-id", "backup", testdata + "keepalived/macros.conf"}, "", 0, "as keepalived"},
	} {
		var stdout, stderr bytes.Buffer
		root := rootCommand()
		root.SetArgs(append([]string{"import"}, c.args...))
		root.SetIn(strings.NewReader(c.in))
		root.SetOut(&stdout)
		root.SetErr(&stderr)
		err := root.ExecuteContext(t.Context())
		said := stderr.String() + message(err)
		if exitCode(err) != c.code || !strings.Contains(said, c.say) {
			t.Errorf("import %q: exit code %d, %s", c.args, exitCode(err), said)
		}
		if c.code != 0 {
			if stdout.Len() > 0 {
				t.Errorf("import %q fails, and prints %s", c.args, stdout.String())
			}
			continue
		}
		if _, err := config.Parse("imported", stdout.Bytes()); err != nil {
			t.Errorf("import %q: %v", c.args, err)
		}
		backup := strings.Contains(stdout.String(), "quorum: {up: 1")
		if backup != (len(c.args) > 1 && c.args[1] == "backup") {
			t.Errorf("import %q: lines with @backup count: %v", c.args, backup)
		}
	}
}
