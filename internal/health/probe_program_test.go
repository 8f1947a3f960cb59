// SPDX-License-Identifier: MIT

package health

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

// program runs a real server for the test, in the foreground, and returns its process
// once ready says so. It fails the test if the Debian package is missing.
func program(t *testing.T, cmd *exec.Cmd, ready func() error) *os.Process {
	t.Helper()
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s: %s", cmd.Path, out.String())
		}
	})
	for late := time.Now().Add(15 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := ready()
		if err == nil {
			return cmd.Process
		}
		select {
		case <-ended:
			t.Fatalf("%s ended: %s", cmd.Path, out.String())
		default:
		}
		if time.Now().After(late) {
			t.Fatalf("%s is not ready: %v: %s", cmd.Path, err, out.String())
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// listens is what a program is asked until it is ready.
func listens(e Endpoint) func() error {
	return func() error {
		return NewProber().Probe(context.Background(), Check{Kind: TCP, Timeout: time.Second}, e)
	}
}

// asNobody has a program run without rights, in a directory of its own.
func asNobody(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	labtest.NeedRoot(t)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return cmd
}

// directory is one that everybody may enter and nobody owns.
func directory(t *testing.T) string {
	dir := t.TempDir()
	for at := dir; at != os.TempDir() && len(at) > 1; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	return dir
}

// verdicts are probes of one server: well if want is empty, else a reason with it.
type verdicts []struct {
	name  string
	check Check
	e     Endpoint
	want  string
}

func (vs verdicts) run(t *testing.T) {
	t.Helper()
	p := NewProber()
	for _, v := range vs {
		if v.check.Timeout == 0 {
			v.check.Timeout = 10 * time.Second
		}
		err := p.Probe(context.Background(), v.check, v.e)
		switch {
		case v.want == "" && err != nil:
			t.Errorf("%s %s: %v", v.check.Kind, v.name, err)
		case v.want != "" && (err == nil || !strings.Contains(err.Error(), v.want)):
			t.Errorf("%s %s: %v, want %q", v.check.Kind, v.name, err, v.want)
		case v.want != "":
			fit(t, err.Error())
		}
	}
}
