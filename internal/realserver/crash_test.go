// SPDX-License-Identifier: MIT

package realserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

// A child of the test is told by these what to do, where, and at which step to
// kill itself.
const (
	childVerb = "SHUNT_TEST_VERB"
	childDir  = "SHUNT_TEST_DIR"
	childStep = "SHUNT_TEST_STEP"
)

func TestMain(m *testing.M) {
	if verb := os.Getenv(childVerb); verb != "" {
		if err := child(verb); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(verb string) error {
	step, err := strconv.Atoi(os.Getenv(childStep))
	if err != nil {
		return err
	}
	s, err := New(Options{StateDir: os.Getenv(childDir), Log: slog.New(&deadly{left: step})})
	if err != nil {
		return err
	}
	switch verb {
	case "start":
		return s.Start(both, nil)
	case "fail":
		err := s.Start(both, nil)
		if !errors.Is(err, ErrGuard) {
			return fmt.Errorf("it should have failed: %w", err)
		}
		return nil
	case "stop":
		return s.Stop(nil)
	case "stop one":
		return s.Stop([]netip.Addr{vip})
	}
	return errors.New(verb)
}

// deadly is a log handler that kills the process, as kill -9 does, at a record:
// each step between which a process can die logs one.
type deadly struct{ left int }

func (d *deadly) Enabled(context.Context, slog.Level) bool { return true }
func (d *deadly) WithAttrs([]slog.Attr) slog.Handler       { return d }
func (d *deadly) WithGroup(string) slog.Handler            { return d }
func (d *deadly) Handle(context.Context, slog.Record) error {
	if d.left--; d.left == 0 {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return nil
}

// dies runs a verb in a child that kills itself at a step. It is false when the
// child was done before.
func dies(t *testing.T, verb, dir string, step int) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVerb+"="+verb, childDir+"="+dir, childStep+"="+strconv.Itoa(step))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !exit.Sys().(syscall.WaitStatus).Signaled() {
		t.Fatalf("%s, step %d: %v: %s", verb, step, err, out)
	}
	return true
}

// Whatever was killed wherever, stop restores what there was before start; and
// start finishes what was begun.
func TestKilledBetweenAnyTwoSteps(t *testing.T) {
	for _, c := range []struct {
		verb    string
		started bool // before the verb
		fewest  int  // steps there are at least
	}{
		{"start", false, 10}, {"fail", false, 5}, {"stop", true, 9}, {"stop one", true, 6},
	} {
		host(t)
		adminsTable(t, "admins-own")
		labtest.SetSysctl(t, "ipv4/conf/eth0/arp_announce", "1")
		if c.verb == "fail" {
			labtest.SetSysctl(t, "ipv4/conf/all/arp_ignore", "5")
		}
		before := snapshot(t)
		dir := t.TempDir()
		s := serverIn(t, dir, nil)
		step := 0
		for died := true; died; {
			step++
			for _, then := range []string{"stop", "start and stop"} {
				if c.started {
					start(t, s, both...)
				}
				died = dies(t, c.verb, dir, step)
				if st, err := s.Status(); err != nil || died && onLo(t, vip) && (labtest.Sysctl(t, "ipv4/conf/eth0/arp_ignore") != "1" || labtest.Sysctl(t, "ipv4/conf/eth0/arp_announce") != "2") {
					t.Errorf("%s killed at step %d: the VIP is there without its guards; status %+v, %v", c.verb, step, st, err)
				}
				if then != "stop" && c.verb != "fail" {
					start(t, s, both...)
					if st, err := s.Status(); err != nil || st.Condition != Running {
						t.Fatalf("%s killed at step %d, then start: %+v, %v", c.verb, step, st, err)
					}
				}
				if err := s.Stop(nil); err != nil {
					t.Fatalf("%s killed at step %d, then stop: %v", c.verb, step, err)
				}
				same(t, fmt.Sprintf("%s killed at step %d, then %s", c.verb, step, then), before, snapshot(t))
				if st, err := s.Status(); err != nil || st.Condition != Stopped {
					t.Errorf("%s killed at step %d, then %s: status %+v, %v", c.verb, step, then, st, err)
				}
			}
			if t.Failed() {
				return
			}
		}
		if step <= c.fewest {
			t.Errorf("%s: only %d steps were tried", c.verb, step-1)
		}
	}
}
