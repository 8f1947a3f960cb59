// SPDX-License-Identifier: MIT

// Package e2e has the whole-product tests: the binary that users get, started
// as they start it, in clusters of network namespaces (internal/lab), with real
// servers and clients of other people's making. What a single package can prove
// alone is tested there.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// shunt is the binary under test, made by TestMain.
var shunt string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "shunt-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		shunt = filepath.Join(dir, "shunt")
		build := exec.Command("go", "build", "-o", shunt, "../cmd/shunt")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "cannot build shunt: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// commandLimit bounds every command of a test. None should need a tenth of it.
const commandLimit = 30 * time.Second

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

// try runs shunt in a node and returns how it ended. The instance is the node's
// own, so that several machines can share one file system (see instanceOf).
func try(t testing.TB, n *lab.Node, args ...string) result {
	t.Helper()
	return tryProgram(t, n, shunt, args...)
}

// cli is try for commands that must succeed; it returns their standard output.
func cli(t testing.TB, n *lab.Node, args ...string) string {
	t.Helper()
	r := try(t, n, args...)
	if r.code != 0 {
		t.Fatalf("%s: shunt %s: exit code %d\n%s%s", n.Name(), strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// tryProgram runs any program in a node, with the node's instance in its
// environment.
func tryProgram(t testing.TB, n *lab.Node, program string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), commandLimit)
	defer cancel()
	var out, diag bytes.Buffer
	cmd := n.Command(ctx, program, args...)
	cmd.Env = append(os.Environ(), "SHUNT_INSTANCE="+instanceOf(n))
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := cmd.Run()
	r := result{stdout: out.String(), stderr: diag.String()}
	var ended *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("%s: %s %s: no end after %v\n%s%s", n.Name(), filepath.Base(program), strings.Join(args, " "), commandLimit, r.stdout, r.stderr)
	case errors.As(err, &ended):
		r.code = ended.ExitCode()
	case err != nil:
		t.Fatalf("%s: %s %s: %v", n.Name(), filepath.Base(program), strings.Join(args, " "), err)
	}
	return r
}

// instanceOf names the shunt instance of a node, after its namespace.
func instanceOf(n *lab.Node) string { return n.Namespace() }
