// SPDX-License-Identifier: MIT

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// grace is how long a process gets between SIGTERM and SIGKILL.
const grace = 5 * time.Second

// Cmd is an exec.Cmd whose process starts in a node. Unlike with `ip netns
// exec`, /sys is not remounted, so that bpffs stays where it is.
//
// The process has a session of its own: a Ctrl-C at the terminal reaches the
// caller only, who decides what to do about it.
type Cmd struct {
	*exec.Cmd
	node *Node
}

// Command prepares a process in the node. When ctx ends it gets SIGTERM, and
// some seconds later SIGKILL.
func (n *Node) Command(ctx context.Context, name string, args ...string) *Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = grace
	return &Cmd{Cmd: c, node: n}
}

// Start starts the process in the node and does not wait for it.
func (c *Cmd) Start() error {
	// The child is forked from the thread that calls, and so it is in its namespace.
	return c.node.Do(c.Cmd.Start)
}

// Run starts the process and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the process and returns its standard output. If it fails and
// Stderr was not set, the error holds what it printed there.
func (c *Cmd) Output() ([]byte, error) {
	var out, diag bytes.Buffer
	c.Stdout = &out
	if c.Stderr == nil {
		c.Stderr = &diag
	}
	err := c.Run()
	if err != nil && diag.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(diag.Bytes()))
	}
	return out.Bytes(), err
}

// CombinedOutput runs the process and returns all it printed.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Stop ends a started process, with SIGTERM first, and waits for it. How it
// ended is no error: that it was told to is known.
func (c *Cmd) Stop() error {
	if err := c.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	hard := time.AfterFunc(grace, func() { c.Process.Kill() })
	defer hard.Stop()
	err := c.Wait()
	var ended *exec.ExitError
	if errors.As(err, &ended) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}
