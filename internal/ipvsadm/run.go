// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// version is the one whose behaviour Run has; tools ask for it.
const version = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)"

// Run does what the command line says and returns the exit code: 0 if it could,
// 1 if a service to list does not exist, 2 if the command line makes no sense,
// 255 if the director refuses, cannot be reached, or an option is unknown.
func Run(ctx context.Context, env Env) int {
	err := run(ctx, env)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(env.Stderr, err)
	if f := (*failure)(nil); errors.As(err, &f) {
		return f.code
	}
	return exitRefused
}

func run(ctx context.Context, env Env) error {
	args := env.Args
	switch path.Base(env.Name) {
	case "ipvsadm-save":
		args = append([]string{"-S"}, args...)
	case "ipvsadm-restore":
		return restore(ctx, env, true)
	}
	if len(args) == 0 {
		args = []string{"-L"}
	}
	l, err := parseArgs(ctx, env.Names, args)
	if err != nil {
		return err
	}
	switch l.command {
	case cmdHelp:
		_, err = fmt.Fprintf(env.Stdout, "%s\n%s%s", version, help, extensions)
		return err
	case cmdVersion:
		_, err = fmt.Fprintln(env.Stdout, version)
		return err
	case cmdList:
		return list(ctx, env, l)
	case cmdListMarks:
		return listMarks(ctx, env, l.options.has(optNumeric))
	case cmdSave:
		return save(ctx, env, l.options.has(optNumeric))
	case cmdRestore:
		return restore(ctx, env, false)
	case cmdZero:
		if err := env.Director.Zero(ctx, l.service.ServiceID); err != nil {
			return refused(err, lvs.Change{})
		}
		return nil
	case cmdStartDaemon, cmdStopDaemon:
		return refused(fmt.Errorf("--%v: connection synchronization between directors: %w", l.command, lvs.ErrUnsupported), lvs.Change{})
	}
	change, _ := l.change()
	if err := env.Director.Change(ctx, []lvs.Change{change}); err != nil {
		return refused(err, change)
	}
	return nil
}
