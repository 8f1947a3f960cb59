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
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// program is the binary under test, made by TestMain.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "shunt-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "shunt")
		build := exec.Command("go", "build", "-o", program, "../cmd/shunt")
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
	args           []string
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("%s: exit code %d\n%s%s", strings.Join(r.args, " "), r.code, r.stdout, r.stderr)
}

// want ends the test if the command ended with another exit code.
func (r result) want(t testing.TB, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("want exit code %d: %v", code, r)
	}
	return r
}

// says checks that the command said all of these, on either output.
func (r result) says(t testing.TB, words ...string) result {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(r.stdout+r.stderr, w) {
			t.Errorf("nothing about %q: %v", w, r)
		}
	}
	return r
}

// shunt runs the binary in a node.
func shunt(t testing.TB, n *lab.Node, args ...string) result {
	t.Helper()
	return command(t, n, "", program, args...)
}

// command runs any program in a node.
func command(t testing.TB, n *lab.Node, stdin, name string, args ...string) result {
	t.Helper()
	return commandWith(t, n, nil, stdin, name, args...)
}

// commandWith is command with more variables in the environment. It also works
// in a cleanup, when the test's context has ended.
func commandWith(t testing.TB, n *lab.Node, env []string, stdin, name string, args ...string) result {
	t.Helper()
	lookAtSources.Do(func() { sources(t) })
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), commandLimit)
	defer cancel()
	var out, diag bytes.Buffer
	cmd := n.Command(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &diag
	err := cmd.Run()
	r := result{append([]string{n.Name() + ": " + filepath.Base(name)}, args...), out.String(), diag.String(), 0}
	var ended *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("no end after %v: %v", commandLimit, r)
	case errors.As(err, &ended):
		r.code = ended.ExitCode()
	case errors.Is(err, exec.ErrNotFound):
		t.Fatalf("%s is not installed: apt-get install %s", name, debianPackage(name))
	case err != nil:
		t.Fatalf("%v: %v", err, r)
	}
	if r.code == 127 { // a shell's way to say so
		t.Fatalf("%v\nthe tests need nginx-light, curl, wrk, socat, iproute2, iputils-arping and nftables: apt-get install them", r)
	}
	return r
}

var lookAtSources sync.Once

// sources looks at each file that the binary is made of. `go test` remembers the
// result of a run by the files that its tests look at, and does not know that
// TestMain built a binary of others.
func sources(t testing.TB) {
	t.Helper()
	for _, part := range []string{"../go.mod", "../go.sum", "../cmd", "../internal", "../bpf"} {
		err := filepath.WalkDir(part, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				_, err = os.Stat(path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // an editor's file that is gone again
			t.Fatal(err)
		}
	}
}

// debianPackage says where a program that a test runs comes from.
func debianPackage(name string) string {
	switch name {
	case "nginx":
		return "nginx-light"
	case "ip":
		return "iproute2"
	case "nft":
		return "nftables"
	case "arping":
		return "iputils-arping"
	}
	return name
}

// eventually waits for a condition. How long it takes is not judged, unless it
// takes so long that it would never come.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(commandLimit); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for %s", commandLimit, what)
		}
	}
}
