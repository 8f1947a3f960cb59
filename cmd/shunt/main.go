// SPDX-License-Identifier: MIT

// Command shunt is LVS direct routing: the director, the set-up of the real
// servers, and the rule language. Called as ipvsadm, ipvsadm-save or
// ipvsadm-restore it is that program.
//
// This package is flags, wiring and exit codes, nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes. Verbs that have others say so in their help.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "ipvsadm", "ipvsadm-save", "ipvsadm-restore":
		os.Exit(ipvsadmMain(context.Background(), name, os.Args[1:]))
	}
	err := rootCommand().ExecuteContext(context.Background())
	if text := message(err); text != "" {
		fmt.Fprintln(os.Stderr, "shunt: "+text)
	}
	os.Exit(exitCode(err))
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "shunt",
		Short: "LVS direct routing in one program",
		Long: `shunt is Linux Virtual Server's direct routing (VS/DR) in one program: a director
whose data plane is eBPF, the set-up of the real servers, their health checks, and
ipvsadm.

The director sends each request on to a real server by changing its MAC address
only; the reply goes from the real server straight to the client.

Exit codes: 0 done, 1 failed, 2 the command line makes no sense. Verbs that have
others ('director status', 'ipvsadm') say so in their help.`,
		Example: `  shunt director start --config /etc/shunt/shunt.yaml
  shunt health

  shunt director start --interface eth0 --vip 172.16.16.172
  shunt ipvsadm -A -t 172.16.16.172:80 -s wlc
  shunt ipvsadm -a -t 172.16.16.172:80 -r 172.16.16.177 -g -w 1
  shunt director status`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          known,
		RunE:          help,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return wrongUsage(cmd, err)
	})
	root.AddCommand(directorCommand(), realServerCommand(), ipvsadmCommand(),
		checkCommand(), schemaCommand(), importCommand(), diffCommand(), applyCommand(), confirmCommand(), rollbackCommand(), saveCommand(),
		healthCommand(), historyCommand(), drainCommand(), enableCommand(), maintenanceCommand(), demoCommand(), debugCommand(), versionCommand())
	return root
}

// withoutArguments and known make wrong words on the command line exit with 2.
func withoutArguments(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return wrongUsage(cmd, fmt.Errorf("unexpected argument %q", args[0]))
	}
	return nil
}

func known(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("%q is no command of '%s'", args[0], cmd.CommandPath())
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(s, " or "))
	}
	return wrongUsage(cmd, err)
}

// help is what a command that only has verbs does.
func help(cmd *cobra.Command, _ []string) error {
	if err := cmd.Help(); err != nil {
		return err
	}
	return &exit{code: exitUsage}
}

func wrongUsage(cmd *cobra.Command, err error) error {
	return &exit{code: exitUsage, err: fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
}

// exit is an error with an exit code of its own; without err nothing is printed.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

func message(err error) string {
	if err == nil {
		return ""
	}
	return strings.TrimSuffix(err.Error(), "\n")
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*exit](err); ok {
		return e.code
	}
	return exitFailed
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "shunt "+version())
			return err
		},
	}
}

// version is what the build says of itself.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	setting := map[string]string{}
	for _, s := range info.Settings {
		setting[s.Key] = s.Value
	}
	if r := setting["vcs.revision"]; r != "" && !strings.Contains(v, r[:min(12, len(r))]) {
		v += " " + r[:min(12, len(r))]
		if setting["vcs.modified"] == "true" {
			v += " (modified)"
		}
	}
	return v + " " + info.GoVersion
}
