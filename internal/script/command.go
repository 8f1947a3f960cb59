// SPDX-License-Identifier: MIT

// Package script runs the programs that an operator names: a check, or what is
// told of a transition. None of them can hurt the daemon: a program has no
// shell, no rights but its user's, an end in time, and nobody who waits for what
// it left behind.
package script

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command is a program that the operator names.
//
// It runs in the directory /, with nothing to read from its standard input, and
// as the leader of a process group that does not outlive it: what it leaves
// running in the background is killed when it ends. It cannot get more rights
// than its user has (no_new_privs: sudo and the like do not work). When memory
// is short the kernel ends it before others.
type Command struct {
	// Args are the program, as an absolute path, and its arguments. Nobody but
	// root and User may be able to write to the program or to put another one
	// in its place.
	Args []string
	// User is whose rights the program has, a name or a number: its uid and
	// its main group, no other groups. Empty: nobody.
	User string
	// Env is the environment, "NAME=value", in addition to PATH and LANG=C.
	// Nothing is inherited.
	Env []string
	// MaxOutput is how many bytes of standard output and standard error
	// together are kept; the rest is read and thrown away. 0: 4 KiB.
	MaxOutput int
}

const (
	defaultOutput = 4 << 10
	searchPath    = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// leftOpen is how long the output is still read once the program and its process
// group are gone: somebody who left the group may hold the other end.
const leftOpen = 100 * time.Millisecond

// Run runs the program until it ends or ctx does, which kills it with its process
// group. If the daemon is killed the kernel kills the program.
//
// The output is what the program wrote, also with an error. The error is nil
// for exit code 0, an *ExitError for any other end of its own, and wraps
// ErrTimeout or context.Canceled if ctx ended it; ErrUnsafe, or an error of the
// system, says why it could not be run.
func (c Command) Run(ctx context.Context) (output []byte, err error) {
	if err := c.valid(); err != nil {
		return nil, err
	}
	who, err := lookUp(c.User)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Args[0], err)
	}
	if err := safe(c.Args[0], who); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, c.ended(ctx)
	}

	// The parent that the kernel has in mind when it kills the program is a
	// thread, so this one must live as long as the program. It ends with the
	// goroutine, because it is not unlocked: its rights are not the daemon's.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		output, err = c.run(ctx, who)
	}()
	<-done
	return output, err
}

func (c Command) valid() error {
	switch {
	case len(c.Args) == 0 || c.Args[0] == "":
		return errors.New("no program is named")
	case !filepath.IsAbs(c.Args[0]):
		return fmt.Errorf("%s: not an absolute path: name the program from / on (it is run without a shell and not looked for in PATH)", c.Args[0])
	}
	return nil
}

// run starts the program and waits for it, on a thread that nobody else uses.
func (c Command) run(ctx context.Context, who account) ([]byte, error) {
	if err := giveUpRights(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Args[0], err)
	}
	max := c.MaxOutput
	if max <= 0 {
		max = defaultOutput
	}
	out := &keeper{max: max}
	// What the daemon itself was started with open is not for others.
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("%s: close on exec: %w", c.Args[0], err)
	}
	cmd := &exec.Cmd{
		Path: c.Args[0], Args: c.Args, Dir: "/",
		Env:    append([]string{searchPath, "LANG=C"}, c.Env...),
		Stdout: out, Stderr: out,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: who.credential()},
		WaitDelay:   leftOpen,
	}
	if err := cmd.Start(); err != nil {
		return nil, c.notStarted(err, who)
	}
	pid := cmd.Process.Pid
	expendable(pid)

	// As long as the program is not waited for, its number belongs to it and
	// to its group; then whoever comes next may have it.
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { killGroup(pid); close(killed) })
	waitUnreaped(pid)
	ended := !stop()
	if ended {
		<-killed
	}
	killGroup(pid)
	err := cmd.Wait()
	return out.kept, c.result(ctx, ended, cmd, err, out.kept)
}

func (c Command) result(ctx context.Context, ended bool, cmd *exec.Cmd, err error, output []byte) error {
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return fmt.Errorf("%s: %w", c.Args[0], err)
	case ended && status.Signaled() && status.Signal() == syscall.SIGKILL:
		return c.ended(ctx)
	case status.Signaled():
		return &ExitError{Code: -1, Signal: status.Signal(), FirstLine: FirstLine(output)}
	case status.ExitStatus() != 0:
		return &ExitError{Code: status.ExitStatus(), FirstLine: FirstLine(output)}
	}
	return nil // somebody who still holds the output (exec.ErrWaitDelay) does not matter
}

// ended is the error of a program that ctx did not let go on.
func (c Command) ended(ctx context.Context) error {
	if err := ctx.Err(); !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", c.Args[0], err)
	}
	return fmt.Errorf("%s: %w", c.Args[0], ErrTimeout)
}

func (c Command) notStarted(err error, who account) error {
	name, why := c.Args[0], err
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		why = e.Err
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: the user %s must be able to enter its directories, and to read and execute it", name, why, who.name)
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%s: %w: a script needs a first line like #!/bin/sh", name, why)
	case errors.Is(err, fs.ErrNotExist): // the program itself is there
		return fmt.Errorf("%s: %w: the interpreter that its first line names is not there", name, why)
	}
	return fmt.Errorf("%s: %w", name, why)
}

// giveUpRights has what this thread starts never get more rights than it is
// given. That cannot be undone; the thread ends with its goroutine.
func giveUpRights() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("ambient capabilities: %w", err)
	}
	return nil
}

// expendable has the kernel end the program before the daemon when memory is
// short. It may be gone already; so an error says nothing.
func expendable(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("1000"), 0)
}

func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }

// waitUnreaped waits until a program has ended, and leaves it to be waited for.
func waitUnreaped(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}

// keeper keeps the first bytes that are written to it.
type keeper struct {
	kept []byte
	max  int
}

func (k *keeper) Write(b []byte) (int, error) {
	k.kept = append(k.kept, b[:min(len(b), k.max-len(k.kept))]...)
	return len(b), nil
}

func (a account) credential() *syscall.Credential {
	if a.self {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid} // no Groups: setgroups of none
}

func (a account) String() string { return a.name + " (uid " + strconv.Itoa(int(a.uid)) + ")" }
