// SPDX-License-Identifier: MIT

package script

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// file writes a program into a directory that everybody may enter.
func file(t *testing.T, text string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it runs programs as other users")
	}
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(dir, "program")
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func shell(t *testing.T, text string) Command {
	t.Helper()
	return Command{Args: []string{file(t, "#!/bin/sh\n"+text+"\n")}}
}

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name, text string
		args, env  []string
		user       string
		want       string
	}{
		{name: "output of both kinds", text: `echo one; echo two >&2; echo three`, want: "one\ntwo\nthree"},
		{name: "arguments as they are", text: `printf '%s|' "$@"`, args: []string{"a b", "$HOME", "*", ""}, want: "a b|$HOME|*||"},
		{name: "where it is", text: `pwd`, want: "/"},
		{name: "nothing to read", text: `cat; echo end`, want: "end"},
		{name: "its environment and no other", text: `env | sort | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=`, env: []string{"SHUNT_VIP=172.16.16.172"},
			want: "LANG=C\n" + searchPath + "\nSHUNT_VIP=172.16.16.172"},
		{name: "nobody", text: `id -u; id -G`, want: "65534\n65534"},
		{name: "a user by name", text: `id -u; id -G`, user: "daemon", want: "1\n1"},
		{name: "a user by number", text: `id -u; id -G`, user: "2", want: "2\n2"},
		{name: "root, without its groups", text: `id -u; id -G`, user: "root", want: "0\n0"},
		{name: "no rights to be had", text: `grep -E '^(NoNewPrivs|CapEff|CapPrm|CapAmb)' /proc/self/status | tr -s '\t' ' '`,
			want: "CapPrm: 0000000000000000\nCapEff: 0000000000000000\nCapAmb: 0000000000000000\nNoNewPrivs: 1"},
		{name: "no open files of the daemon", text: `ls /proc/self/fd | tr '\n' ' '`, want: "0 1 2 3 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("SHUNT_SECRET", "of the daemon")
			inherited, err := unix.Open("/dev/null", unix.O_RDONLY, 0) // without CLOEXEC
			change(t, err)
			defer unix.Close(inherited)
			cmd := shell(t, c.text)
			cmd.Args = append(cmd.Args, c.args...)
			cmd.Env, cmd.User = c.env, c.user
			out, err := cmd.Run(t.Context())
			if got := strings.TrimSuffix(string(out), "\n"); err != nil || got != c.want {
				t.Errorf("got %q, %v\nwant %q", got, err, c.want)
			}
		})
	}
}

// When memory is short the program goes, not the daemon.
func TestExpendable(t *testing.T) {
	out, err := shell(t, `sleep 0.1; cat /proc/self/oom_score_adj`).Run(t.Context())
	if got := string(out); err != nil || got != "1000\n" {
		t.Errorf("got %q, %v; want 1000", got, err)
	}
}

func TestExit(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       ExitError
		text2      string
	}{
		{"a code", `exit 3`, ExitError{Code: 3}, "exit code 3"},
		{"a reason", `echo; echo ' no route '; echo more; exit 1`, ExitError{Code: 1, FirstLine: "no route"}, "exit code 1: no route"},
		{"a signal", `kill -TERM $$`, ExitError{Code: -1, Signal: syscall.SIGTERM}, "ended by signal 15 (terminated)"},
		{"killed by somebody else", `kill -KILL $$`, ExitError{Code: -1, Signal: syscall.SIGKILL}, "ended by signal 9 (killed)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := shell(t, c.text).Run(t.Context())
			e, ok := errors.AsType[*ExitError](err)
			if !ok || *e != c.want || err.Error() != c.text2 {
				t.Errorf("got %v, want %q", err, c.text2)
			}
		})
	}
}

func TestFirstLine(t *testing.T) {
	long := strings.Repeat("ä", 150)
	for _, c := range []struct{ output, want string }{
		{"", ""},
		{"\n \n\t\n", ""},
		{"one", "one"},
		{"\r\none\r\ntwo\n", "one"},
		{"\x1b[31mred\x00\xff\u202etfel\n", "[31mred   tfel"},
		{long, strings.Repeat("ä", 100) + "…"},
	} {
		if got := FirstLine([]byte(c.output)); got != c.want {
			t.Errorf("%q: got %q, want %q", c.output, got, c.want)
		}
	}
}

// What does not fit is thrown away, and the program does not notice.
func TestMaxOutput(t *testing.T) {
	for _, c := range []struct{ max, want int }{{0, 4096}, {10, 10}, {3 << 20, 2 << 20}} {
		cmd := shell(t, `head -c 2097152 /dev/zero`)
		cmd.MaxOutput = c.max
		if out, err := cmd.Run(t.Context()); err != nil || len(out) != c.want {
			t.Errorf("limit %d: %d bytes, %v; want %d", c.max, len(out), err, c.want)
		}
	}
}

// Whoever a program leaves behind neither keeps its output open nor goes on.
func TestBackground(t *testing.T) {
	for _, c := range []struct {
		name, text string
		gone       bool
	}{
		{"in the background", `sleep 600 & echo $!`, true},
		{"deaf to signals", `sh -c "trap '' TERM HUP INT; sleep 600 & echo \$!; wait" & sleep 0.2`, true},
		{"in a session of its own", `setsid sh -c 'echo $$; exec sleep 600' & sleep 0.2`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			out, err := shell(t, c.text).Run(ctx)
			pid := number(t, out)
			if !c.gone {
				defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
			}
			if err != nil {
				t.Fatal(err)
			}
			if gone := eventuallyGone(pid, c.gone); gone != c.gone {
				t.Errorf("process %d gone: %v, want %v", pid, gone, c.gone)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	for _, c := range []struct {
		name, text string
	}{
		{"itself", `echo $$; exec sleep 600`},
		{"a child", `sleep 600 & echo $!; wait`},
		{"deaf to signals", `trap '' TERM HUP INT; sleep 600 & echo $!; wait; wait`},
		{"busy", `echo $$; while :; do :; done`},
		{"talking", `echo $$; while :; do echo more; done`},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			out, err := shell(t, c.text).Run(ctx)
			if !errors.Is(err, ErrTimeout) {
				t.Errorf("got %v, want %v", err, ErrTimeout)
			}
			if first, _, _ := bytes.Cut(out, []byte("\n")); !eventuallyGone(number(t, first), true) {
				t.Errorf("%s still runs", first)
			}
		})
	}
	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		_, err := shell(t, `sleep 600`).Run(ctx)
		if !errors.Is(err, context.Canceled) || errors.Is(err, ErrTimeout) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})
	t.Run("before it began", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 0)
		defer cancel()
		cmd := shell(t, `touch "$1"`)
		mark := cmd.Args[0] + ".ran"
		cmd.Args, cmd.User = append(cmd.Args, mark), "root"
		if _, err := cmd.Run(ctx); !errors.Is(err, ErrTimeout) {
			t.Errorf("got %v, want %v", err, ErrTimeout)
		}
		if _, err := os.Stat(mark); err == nil {
			t.Error("it was run")
		}
	})
}

func TestNotRun(t *testing.T) {
	script := func(t *testing.T) string { return file(t, "#!/bin/sh\nexit 0\n") }
	for _, c := range []struct {
		name string
		args func(t *testing.T) []string
		user string
		want string
	}{
		{"no program", func(t *testing.T) []string { return nil }, "", "no program is named"},
		{"a name", func(t *testing.T) []string { return []string{"true"} }, "", "true: not an absolute path"},
		{"not there", func(t *testing.T) []string { return []string{"/nonexistent/program"} }, "", "no such file"},
		{"a directory", func(t *testing.T) []string { return []string{"/usr"} }, "", "/usr: not a program but a directory"},
		{"a device", func(t *testing.T) []string { return []string{"/usr/../dev/../proc/1/../1"} }, "", "a directory"},
		{"not executable", func(t *testing.T) []string {
			p := script(t)
			change(t, os.Chmod(p, 0o644))
			return []string{p}
		}, "", "chmod +x"},
		{"not for nobody", func(t *testing.T) []string {
			p := script(t)
			change(t, os.Chmod(filepath.Dir(p), 0o700))
			return []string{p}
		}, "", "permission denied: the user nobody must be able to enter its directories"},
		{"no first line", func(t *testing.T) []string { return []string{file(t, "exit 0\n")} }, "", "needs a first line like #!/bin/sh"},
		{"no interpreter", func(t *testing.T) []string { return []string{file(t, "#!/usr/bin/nonexistent\n")} }, "", "the interpreter that its first line names"},
		{"no such user", func(t *testing.T) []string { return []string{script(t)} }, "mallory", `user "mallory": there is none`},
		{"NUL in an argument", func(t *testing.T) []string { return []string{script(t), "a\x00b"} }, "", "invalid argument"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Command{Args: c.args(t), User: c.user}.Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func change(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What others than root and the user could change is not run; each way to be
// able to is one case.
func TestSafe(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(dir, program string) (string, error) // gives what is run
		user   string
		want   string // empty: it may be run
	}{
		{"root's", func(dir, p string) (string, error) { return p, nil }, "root", ""},
		{"everybody writes to it", func(dir, p string) (string, error) { return p, os.Chmod(p, 0o757) }, "root", "chmod o-w"},
		{"a group writes to it", func(dir, p string) (string, error) {
			return p, errors.Join(os.Chown(p, 0, 1), os.Chmod(p, 0o775))
		}, "root", "chmod g-w"},
		{"root's group writes to it", func(dir, p string) (string, error) { return p, os.Chmod(p, 0o775) }, "root", ""},
		{"somebody else's", func(dir, p string) (string, error) { return p, os.Chown(p, 1, 1) }, "root", "belongs to uid 1"},
		{"somebody else's, for nobody", func(dir, p string) (string, error) { return p, os.Chown(p, 1, 1) }, "", "belongs to uid 1"},
		{"the user's own", func(dir, p string) (string, error) { return p, os.Chown(p, 1, 1) }, "daemon", ""},
		{"everybody writes to the directory", func(dir, p string) (string, error) { return p, os.Chmod(dir, 0o777) }, "root", "chmod o-w"},
		{"a sticky directory", func(dir, p string) (string, error) { return p, os.Chmod(dir, 0o777|os.ModeSticky) }, "root", ""},
		{"somebody's directory", func(dir, p string) (string, error) { return p, os.Chown(dir, 1, 1) }, "root", "belongs to uid 1"},
		{"by a link", func(dir, p string) (string, error) { return dir + "/link", os.Symlink("program", dir+"/link") }, "root", ""},
		{"by somebody's link", func(dir, p string) (string, error) {
			l := dir + "/link"
			return l, errors.Join(os.Symlink(p, l), os.Lchown(l, 1, 1))
		}, "root", "link belongs to uid 1"},
		{"by a link to a link in an open directory", func(dir, p string) (string, error) {
			open := dir + "/open"
			err := errors.Join(os.Mkdir(open, 0o755), os.Symlink("../program", open+"/b"), os.Symlink(open+"/b", dir+"/a"), os.Chmod(open, 0o777))
			return dir + "/a", err
		}, "root", "everybody may write to"},
		{"a link to itself", func(dir, p string) (string, error) { return dir + "/l", os.Symlink("l", dir+"/l") }, "root", "too many"},
		{"by way of ..", func(dir, p string) (string, error) {
			return dir + "/l/program", os.Symlink("../"+filepath.Base(dir), dir+"/l")
		}, "root", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := file(t, "#!/bin/sh\n")
			run, err := c.change(filepath.Dir(p), p)
			if err != nil {
				t.Fatal(err)
			}
			err = Safe(run, c.user)
			if _, ran := (Command{Args: []string{run}, User: c.user}).Run(t.Context()); (ran == nil) != (err == nil) {
				t.Errorf("Safe says %v, Run says %v", err, ran)
			}
			switch {
			case c.want == "" && err != nil:
				t.Error("refused: ", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// The kernel ends a program whose daemon is killed.
func TestDaemonKilled(t *testing.T) {
	if args := os.Getenv("SCRIPT_TEST_DAEMON"); args != "" {
		_, err := Command{Args: strings.Fields(args)}.Run(t.Context())
		fmt.Println("ended: ", err)
		return
	}
	cmd := shell(t, `echo $$ >"$1"; exec sleep 600`)
	pidfile := cmd.Args[0] + ".pid"
	change(t, os.WriteFile(pidfile, nil, 0o666))
	change(t, os.Chmod(pidfile, 0o666))
	daemon := exec.Command(os.Args[0], "-test.run=^TestDaemonKilled$")
	daemon.Env = append(os.Environ(), "SCRIPT_TEST_DAEMON="+cmd.Args[0]+" "+pidfile)
	change(t, daemon.Start())
	var text []byte
	for range 500 {
		if text, _ = os.ReadFile(pidfile); bytes.HasSuffix(text, []byte("\n")) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	pid := number(t, text)
	change(t, daemon.Process.Kill())
	_ = daemon.Wait()
	if !eventuallyGone(pid, true) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		t.Errorf("process %d outlived its daemon", pid)
	}
}

// A thread that gave up its rights is not used again, and does not stay.
func TestThreads(t *testing.T) {
	cmd := shell(t, `exit 0`)
	for i := range 60 {
		if _, err := cmd.Run(t.Context()); err != nil {
			t.Fatal(i, err)
		}
	}
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		t.Fatal(err)
	}
	without := 0
	for _, f := range tasks {
		if text, err := os.ReadFile(f); err == nil && bytes.Contains(text, []byte("NoNewPrivs:\t1")) {
			without++
		}
	}
	if len(tasks) > 40 || without > 2 { // the first thread cannot end; one may be about to
		t.Errorf("%d threads, of which %d cannot get rights", len(tasks), without)
	}
}

func number(t *testing.T, text []byte) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// eventuallyGone tells whether a process ends, for which one that is expected to
// gets time. A zombie has ended.
func eventuallyGone(pid int, expected bool) bool {
	for range 200 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, state, _ := bytes.Cut(stat, []byte(") "))
		if err != nil || bytes.HasPrefix(state, []byte("Z")) {
			return true
		}
		if !expected {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}
