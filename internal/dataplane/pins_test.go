// SPDX-License-Identifier: MIT

package dataplane

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
	"golang.org/x/sys/unix"
)

// TestPinsOutliveMountNamespace: a director that is started in a mount
// namespace of its own, as under "ip netns exec", and that no mount reaches,
// leaves its pins where everybody else finds them.
func TestPinsOutliveMountNamespace(t *testing.T) {
	if dir := os.Getenv("SHUNT_TEST_PINS"); dir != "" {
		startInChild(t, dir)
		return
	}
	labtest.InNamespace(t)
	dir := filepath.Join(t.TempDir(), "bpf")
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	child := exec.Command(os.Args[0], "-test.run=^TestPinsOutliveMountNamespace$", "-test.v")
	child.Env = append(os.Environ(), "SHUNT_TEST_PINS="+dir)
	child.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	if !Pinned(dir, "test") {
		t.Fatal("the pins went with their mount namespace")
	}
	if err := RemovePins(dir, "test"); err != nil || Pinned(dir, "test") {
		t.Errorf("removing them: %v", err)
	}
}

func startInChild(t *testing.T, dir string) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	p, err := Open(Options{Instance: "test", PinDir: dir, Interfaces: []string{"lo"}, Connections: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	if isBPF(dir) {
		t.Fatal("the mount did reach this namespace: the test shows nothing")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}
