// SPDX-License-Identifier: MIT

package api

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inFreshNamespace moves the test's thread, for good, into a network namespace
// of its own; the thread ends with the test.
func inFreshNamespace(t *testing.T) {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread() // never unlocked: the thread is not to be used again
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal("unshare: ", err)
	}
}

func TestOneDirectorPerNamespace(t *testing.T) {
	inFreshNamespace(t)
	if _, err := FindHolder(); !errors.Is(err, ErrNotRunning) {
		t.Fatalf("an empty namespace: %v", err)
	}
	first, err := ClaimNamespace(Holder{Instance: "one", Socket: "/x/one.sock"})
	if err != nil {
		t.Fatal(err)
	}
	h, err := FindHolder()
	if err != nil || h != (Holder{Instance: "one", Socket: "/x/one.sock", PID: os.Getpid()}) {
		t.Errorf("found %+v, %v", h, err)
	}
	_, err = ClaimNamespace(Holder{Instance: "two"})
	if !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), `"one"`) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("the second claim: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- first.Close() }()
	if err := AwaitNone(t.Context()); err != nil {
		t.Errorf("waiting for its end: %v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	second, err := ClaimNamespace(Holder{Instance: "two"})
	if err != nil {
		t.Fatalf("after the first one ended: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestNamespacesAreSeparate(t *testing.T) {
	inFreshNamespace(t)
	one, err := ClaimNamespace(Holder{Instance: "one"})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	if _, err := FindHolder(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("the director of another namespace is found: %v", err)
	}
	two, err := ClaimNamespace(Holder{Instance: "two"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(one.Close(), two.Close()); err != nil {
		t.Error(err)
	}
}

// A director that was killed a moment ago still has the name, and says nothing.
func TestClaimFromADyingHolder(t *testing.T) {
	inFreshNamespace(t)
	l, err := net.Listen("unix", claimName)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	go func() {
		for range 3 { // then it is gone
			conn, err := l.Accept()
			if err != nil {
				break
			}
			conn.Close()
		}
		l.Close()
		close(asked)
	}()
	c, err := ClaimNamespace(Holder{Instance: "next"})
	if err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestAwaitNoneEndsWithItsContext(t *testing.T) {
	inFreshNamespace(t)
	c, err := ClaimNamespace(Holder{Instance: "one"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := AwaitNone(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestOrderOfFinding(t *testing.T) {
	inFreshNamespace(t)
	find := func(flag, env string) Holder {
		h, err := Find(flag, env, "/r")
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if h := find("", ""); h.Instance != DefaultInstance || h.Socket != "/r/default/api.sock" {
		t.Errorf("nobody there: %+v", h)
	}
	c, err := ClaimNamespace(Holder{Instance: "here", Socket: "/elsewhere/here.sock"})
	if err != nil {
		t.Fatal(err)
	}
	if h := find("", ""); h.Instance != "here" || h.Socket != "/elsewhere/here.sock" {
		t.Errorf("the namespace's: %+v", h)
	}
	if h := find("", "env"); h.Instance != "env" || h.Socket != "/r/env/api.sock" {
		t.Errorf("the environment's: %+v", h)
	}
	if h := find("flag", "env"); h.Instance != "flag" {
		t.Errorf("the flag's: %+v", h)
	}
	if _, err := Find("../x", "", ""); !errors.Is(err, ErrInstanceName) {
		t.Errorf("a bad name: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestOthersThanRootAreNotAnswered(t *testing.T) {
	needRoot(t)
	path := "@" + t.Name() + strconv.Itoa(os.Getpid()) // abstract: no file mode protects it
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := rootOnly{l}.Accept()
		if err == nil {
			_, _ = conn.Write([]byte("secret\n"))
			_ = conn.Close()
		}
	}()
	ask := func(uid int) string {
		// Credentials are the thread's at the time of connect.
		got := make(chan string)
		go func() {
			runtime.LockOSThread()
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
				got <- errno.Error()
				return
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				got <- err.Error()
				return
			}
			defer unix.Close(fd)
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				got <- err.Error()
				return
			}
			b := make([]byte, 16)
			n, err := unix.Read(fd, b)
			if err != nil && !errors.Is(err, unix.ECONNRESET) {
				got <- err.Error()
				return
			}
			got <- string(b[:max(n, 0)])
		}()
		return <-got
	}
	if got := ask(65534); got != "" {
		t.Errorf("user 65534 reads %q", got)
	}
	if got := ask(0); got != "secret\n" {
		t.Errorf("root reads %q", got)
	}
}
