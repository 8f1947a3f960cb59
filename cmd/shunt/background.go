// SPDX-License-Identifier: MIT

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/shunt-lvs/shunt/internal/api"
)

// nobodyRuns refuses a start before anything is touched, the log of the running
// one included.
func nobodyRuns(ctx context.Context, p api.Places) error {
	holder, err := api.FindHolder()
	if err == nil {
		return fmt.Errorf("%w: instance %q, pid %d, is the director of this network namespace", api.ErrRunning, holder.Instance, holder.PID)
	}
	if !errors.Is(err, api.ErrNotRunning) {
		return err
	}
	status, err := api.NewClient(api.Holder{Instance: p.Instance, Socket: p.Socket()}).Director(ctx)
	if err == nil {
		return fmt.Errorf("%w: instance %q, pid %d, in another network namespace; give each director its own --instance",
			api.ErrRunning, p.Instance, status.PID)
	}
	return nil // whatever else is wrong, the start will tell
}

// startInBackground runs `shunt director run` in a session of its own and
// returns when it says that it is ready, or with its error.
func startInBackground(ctx context.Context, p api.Places, flags []string) (err error) {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	dir, err := os.MkdirTemp("", "shunt-start-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	notify := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	log, err := newLog(p)
	if err != nil {
		return err
	}
	defer log.Close()

	cmd := exec.Command(self, append([]string{"director", "run"}, flags...)...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ready := make(chan struct{})
	go awaitReady(conn, ready)
	select {
	case <-ready:
		return nil
	case err := <-ended:
		return complaint(p, err)
	case <-ctx.Done():
		err := cmd.Process.Signal(syscall.SIGTERM)
		<-ended // it undoes what it did
		return errors.Join(errors.New("interrupted: the start was undone"), err)
	}
}

func awaitReady(conn *net.UnixConn, ready chan<- struct{}) {
	b := make([]byte, 4096)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return
		}
		if strings.Contains(string(b[:n]), daemon.SdNotifyReady) {
			close(ready)
			return
		}
	}
}

// newLog makes an empty log and keeps the one before.
func newLog(p api.Places) (*os.File, error) {
	if err := os.MkdirAll(p.Run(), 0o755); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if err := os.Rename(p.Log(), p.Log()+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("log: %w", err)
	}
	f, err := os.OpenFile(p.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	return f, nil
}

// complaint is what a director that ended at once said of itself.
func complaint(p api.Places, ended error) error {
	f, err := os.Open(p.Log())
	if err != nil {
		return err
	}
	defer f.Close()
	said := ""
	for s := bufio.NewScanner(f); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), "shunt: "); ok {
			said = text
		} else if said != "" {
			said += "\n" + s.Text()
		}
	}
	if said == "" {
		return fmt.Errorf("the director ended before it was ready (%v); see %s", ended, p.Log())
	}
	return errors.New(said)
}
