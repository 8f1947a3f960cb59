// SPDX-License-Identifier: MIT

package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// patience is how long a command may take. None should need a tenth of it.
const patience = 15 * time.Second

// run runs a shunt command in a node and puts it on show.
func (s *show) run(ctx context.Context, n *lab.Node, args ...string) error {
	s.report.command(s.typed(n, args))
	_, err := s.output(ctx, n, args...)
	return err
}

// output runs a shunt command in a node and returns what it printed.
func (s *show) output(ctx context.Context, n *lab.Node, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var out, diag bytes.Buffer
	cmd := n.Command(ctx, s.Executable, args...)
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	if ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("no end after %v", patience)
	}
	return out.String(), &commandError{typed: s.typed(n, args), said: strings.TrimSpace(diag.String()), err: err}
}

// refused runs a command that must fail, and returns what it said. If it is not
// refused, or ends by anything but an exit code, ok is false.
func (s *show) refused(ctx context.Context, n *lab.Node, args ...string) (said string, ok bool) {
	_, err := s.output(ctx, n, args...)
	if err == nil {
		return "it was accepted", false
	}
	var c *commandError
	if !errors.As(err, &c) {
		return err.Error(), false
	}
	var exit *exec.ExitError
	return c.said, errors.As(c.err, &exit) && exit.ExitCode() > 0 && c.said != ""
}

// typed is the command as a person would type it.
func (s *show) typed(n *lab.Node, args []string) string {
	return fmt.Sprintf("ip netns exec %s %s %s", n.Namespace(), s.Name, strings.Join(args, " "))
}

// commandError is a shunt command that failed.
type commandError struct {
	typed string
	said  string // on standard error
	err   error
}

func (e *commandError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("%s: %v", e.typed, e.err)
	}
	return fmt.Sprintf("%s: %v: %s", e.typed, e.err, e.said)
}

func (e *commandError) Unwrap() error { return e.err }
