// SPDX-License-Identifier: MIT

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

// demoOf returns a function that prepares `shunt demo ARGS` with a real shunt, and
// the demo's own prefix. Whatever the test does, the demo is gone at its end.
func demoOf(t *testing.T) (run func(args ...string) *exec.Cmd, prefix string) {
	t.Helper()
	labtest.NeedRoot(t)
	shunt := filepath.Join(t.TempDir(), "shunt")
	build := exec.Command("go", "build", "-o", shunt, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	prefix = labtest.Prefix(t) + "-"
	run = func(args ...string) *exec.Cmd {
		return exec.Command(shunt, append([]string{"demo", "--prefix", prefix}, args...)...)
	}
	t.Cleanup(func() {
		if out, err := run("down").CombinedOutput(); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
		if left := demoRemains(t, prefix); left != "" {
			t.Errorf("the demo left\n%s", left)
		}
	})
	return run, prefix
}

// demoRemains lists what a demo has on this machine.
func demoRemains(t *testing.T, prefix string) string {
	t.Helper()
	var b strings.Builder
	for _, dir := range []string{"/run/netns", "/run/shunt-lab", "/run/shunt", "/run/shunt/bpf", "/var/lib/shunt"} {
		found, err := filepath.Glob(filepath.Join(dir, strings.TrimSuffix(prefix, "-")+"*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			fmt.Fprintln(&b, f)
		}
	}
	programs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		if line, _ := os.ReadFile(p); bytes.Contains(line, []byte("--instance="+strings.TrimSuffix(prefix, "-"))) {
			fmt.Fprintf(&b, "%s: %q\n", p, line)
		}
	}
	return b.String()
}

func TestDemoHolds(t *testing.T) {
	run, prefix := demoOf(t)
	for _, method := range []string{"loopback", "redirect", "both"} {
		t.Run(method, func(t *testing.T) {
			var out, diag bytes.Buffer
			cmd := run("--json", "--method", method)
			cmd.Stdout, cmd.Stderr = &out, &diag
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s%s", err, &out, &diag)
			}
			var report struct {
				Held   bool
				Proofs []struct {
					Name  string
					Holds bool
				}
			}
			if err := json.Unmarshal(out.Bytes(), &report); err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			if !report.Held || len(report.Proofs) != 17 || diag.Len() > 0 {
				t.Errorf("held %v, %d proofs; on standard error: %s", report.Held, len(report.Proofs), &diag)
			}
			if left := demoRemains(t, prefix); left != "" {
				t.Errorf("the demo left\n%s", left)
			}
		})
	}
}

func TestDemoKeepThenDown(t *testing.T) {
	run, prefix := demoOf(t)
	if out, err := run("--keep").CombinedOutput(); err != nil || !strings.Contains(string(out), "The cluster is still up") {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command("ip", "netns", "exec", prefix+"client", "curl", "--silent", "--show-error", "http://172.16.16.172/").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "rs") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := run("down").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
	if left := demoRemains(t, prefix); left != "" {
		t.Errorf("down left\n%s", left)
	}
}

// TestDemoIsEnded ends a demo in the middle of its drill in several ways.
func TestDemoIsEnded(t *testing.T) {
	run, prefix := demoOf(t)
	t.Run("by Ctrl-C", func(t *testing.T) {
		cmd := run()
		_, diag := drilling(t, cmd)
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		err := cmd.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitFailed {
			t.Errorf("it ended with %v", err)
		}
		if !strings.Contains(diag.String(), "interrupt") {
			t.Errorf("it said %q", diag)
		}
		if left := demoRemains(t, prefix); left != "" {
			t.Errorf("it left\n%s", left)
		}
	})
	t.Run("by its reader", func(t *testing.T) {
		cmd := run()
		reader, _ := drilling(t, cmd)
		reader.Close()
		if err := cmd.Wait(); err == nil {
			t.Error("it ended as if all had been said")
		}
		if left := demoRemains(t, prefix); left != "" {
			t.Errorf("it left\n%s", left)
		}
	})
	t.Run("by kill -9, and the next one cleans up", func(t *testing.T) {
		cmd := run()
		drilling(t, cmd)
		if out, err := run().CombinedOutput(); err == nil || !strings.Contains(string(out), "another `shunt demo` is at work") {
			t.Errorf("a second one beside it: %v\n%s", err, out)
		}
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if demoRemains(t, prefix) == "" {
			t.Error("it left nothing, so nothing is tested")
		}
		if out, err := run().CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if left := demoRemains(t, prefix); left != "" {
			t.Errorf("it left\n%s", left)
		}
	})
}

// drilling starts a demo and returns when it is in its drill, with the reading
// end of its output and what it prints as errors (to be read after Wait).
func drilling(t *testing.T, cmd *exec.Cmd) (reader *os.File, diag *bytes.Buffer) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	diag = &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = writer, diag
	err = cmd.Start()
	writer.Close()
	if err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(reader); s.Scan(); {
		if strings.HasPrefix(s.Text(), "Drill") {
			return reader, diag
		}
	}
	cmd.Wait()
	t.Fatalf("it ended before the drill: %s", diag)
	return nil, nil
}
