// SPDX-License-Identifier: MIT

package e2e

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// otherProgram builds a shunt whose maps are laid out otherwise.
func otherProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "shunt")
	build := exec.Command("go", "build", "-tags", "otherlayout", "-o", path, "../cmd/shunt")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building shunt with another layout: %v\n%s", err, out)
	}
	return path
}

// TestUpgradeKilledAtLoad upgrades and goes back at load, with daemons that are
// killed at some moment of their start.
func TestUpgradeKilledAtLoad(t *testing.T) {
	c := newCluster(t, lab.Options{})
	other := otherProgram(t)
	l := c.check(c.everyKind())
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	binaries := []string{other, program}
	c.kill()
	for range 12 {
		cmd := c.Director.Command(t.Context(), binaries[r.IntN(2)], "director", "run")
		cmd.Env = append(os.Environ(), "SHUNT_INSTANCE="+instanceOf(c.Director))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(r.IntN(900)) * time.Millisecond) // any moment will do
		cmd.Process.Signal(syscall.SIGKILL)
		cmd.Wait()
	}
	c.run(c.Director, other, "director", "start", "--debug").want(t, 0)
	l.goOn("in the end")
	l.finish()
	c.run(c.Director, program, "director", "stop").want(t, 0)
	for _, at := range []string{"", ":next", ":last", ":new"} {
		if out := c.sh(c.Director, "ls -d /run/shunt/bpf/"+instanceOf(c.Director)+at+" 2>/dev/null || true"); strings.TrimSpace(out) != "" {
			t.Errorf("pins are left: %s", out)
		}
	}
}
