// SPDX-License-Identifier: MIT

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// step is commands of the README and the machines that they are for.
type step struct {
	machines string // "director", "real server" or "machine": all of them
	lines    []string
}

// readme finds the commands of the README that are marked as tested by this
// name, in fences of sh, whose comments tell the machine.
func readme(t *testing.T, name string) (steps []step) {
	t.Helper()
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	fence := regexp.MustCompile("(?ms)^<!-- tested: " + regexp.QuoteMeta(name) + " -->\n```sh\n(.*?)^```$")
	heading := regexp.MustCompile(`^# on (?:the|each|every) (director|real server|machine)s?\b`)
	for _, found := range fence.FindAllStringSubmatch(string(b), -1) {
		steps = append(steps, step{})
		for line := range strings.Lines(found[1]) {
			if h := heading.FindStringSubmatch(line); h != nil {
				steps = append(steps, step{machines: h[1]})
				continue
			}
			now := &steps[len(steps)-1]
			if now.machines != "" {
				now.lines = append(now.lines, line)
			} else if text := strings.TrimSpace(line); text != "" && text[0] != '#' {
				t.Fatalf("README.md does not say on which machine to type: %s", line)
			}
		}
	}
	steps = deleteEmpty(steps)
	if len(steps) == 0 {
		t.Fatalf("README.md has no commands under <!-- tested: %s --> directly before ```sh", name)
	}
	return steps
}

func deleteEmpty(steps []step) (all []step) {
	for _, s := range steps {
		if strings.TrimSpace(strings.Join(s.lines, "")) != "" {
			all = append(all, s)
		}
	}
	return all
}

// bin makes a directory with the binary and its other names, as `make install`
// does.
func bin(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"shunt", "ipvsadm", "ipvsadm-save", "ipvsadm-restore"} {
		if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestReadme types what the README says, as it is, and has real nginx and curl see
// whether that is enough.
func TestReadme(t *testing.T) {
	for _, name := range []string{"three machines", "without a file"} {
		t.Run(name, func(t *testing.T) { typeReadme(t, name) })
	}
}

func typeReadme(t *testing.T, name string) {
	c := newCluster(t, lab.Options{})
	etc := t.TempDir() // the machines have one file system
	for _, rs := range c.RealServers {
		startNginx(t, rs, 80)
	}
	path := bin(t) + ":" + os.Getenv("PATH")
	for _, s := range readme(t, name) {
		machines := c.RealServers
		switch s.machines {
		case "director":
			machines = []*lab.Node{c.Director}
		case "machine":
			machines = append([]*lab.Node{c.Director}, c.RealServers...)
		}
		for _, n := range machines {
			env := []string{"SHUNT_INSTANCE=" + instanceOf(n), "PATH=" + path}
			commandWith(t, n, env, "", "sh", "-exc", strings.ReplaceAll(strings.Join(s.lines, ""), "/etc/shunt", etc)).want(t, 0)
		}
	}
	if got := c.get(20); got["rs1"] < 9 || got["rs2"] < 9 || got["rs1"]+got["rs2"] != 20 {
		t.Errorf("answered by %v", got)
	}
	c.director("status")
	for _, rs := range c.RealServers {
		c.shunt(rs, "realserver", "status").want(t, 0)
	}
	env := []string{"PATH=" + path} // by this name it finds its director itself
	r := commandWith(t, c.Director, env, "", "sh", "-c", "ipvsadm -Ln").want(t, 0)
	for _, line := range []string{
		"TCP  172.16.16.172:80 wlc\n", "  -> 172.16.16.177:80 ", "  -> 172.16.16.178:80 ",
	} {
		r.says(t, line)
	}
}
