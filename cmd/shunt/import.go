// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shunt-lvs/shunt/internal/config"
)

func importCommand() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "import [keepalived|ipvsadm-save|ldirectord] FILE",
		Short: "Print a site's file made of one of keepalived, ldirectord or ipvsadm-save",
		Long: `Print a site's file (YAML) that does what a keepalived.conf, an ldirectord.cf or
the output of ipvsadm-save does. Without a kind, the file's name and content tell
it; - is standard input.

What has no equivalent, or one that is not quite the same, is in a comment with
its line's number and text, at the place where it would belong. How many lines
these are is said on standard error.

Exit codes: 0 printed, 1 the file makes no sense or cannot be read, 2 the command
line makes no sense, or the kind of the file cannot be told.`,
		Example: `  shunt import /etc/keepalived/keepalived.conf > site.yaml
  ipvsadm-save -n | shunt import ipvsadm-save -
  shunt check site.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return wrongUsage(cmd, fmt.Errorf("it takes a file, and what kind of file it is"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runImport(cmd, args, id) },
	}
	cmd.Flags().StringVar(&id, "config-id", hostID(), "keepalived: the machine whose lines with @ count")
	return cmd
}

// hostID is what keepalived takes for a machine's name: its host's, up to the
// first dot.
func hostID() string {
	name, err := os.Hostname()
	if err != nil {
		return "" // no line with @ counts then
	}
	name, _, _ = strings.Cut(name, ".")
	return name
}

func runImport(cmd *cobra.Command, args []string, id string) error {
	name := args[len(args)-1]
	var kind config.Kind
	if len(args) == 2 {
		for _, k := range config.ImportKinds() {
			if string(k) == args[0] {
				kind = k
			}
		}
		if kind == "" {
			return wrongUsage(cmd, fmt.Errorf("%q is no kind of file: it is one of %v", args[0], config.ImportKinds()))
		}
	}
	text, err := readFile(cmd.InOrStdin(), name)
	if err != nil {
		return err
	}
	if name == "-" {
		name = "standard input"
	}
	if kind == "" {
		if kind = config.GuessKind(name, text); kind == "" {
			return wrongUsage(cmd, fmt.Errorf("%s: whose file this is cannot be told from its name or content: say one of %v before it", name, config.ImportKinds()))
		}
	}
	yaml, err := config.Import(kind, name, text, os.ReadFile, config.ConfigID(id))
	if err != nil {
		return err
	}
	if _, err := cmd.OutOrStdout().Write(yaml); err != nil {
		return fmt.Errorf("printing the import: %w", err)
	}
	summary := "every line has an equivalent; the comments say what is different in general"
	switch n := config.NoEquivalent(yaml); {
	case n == 1:
		summary = "1 line has no equivalent, or one that is not quite the same: see the comments"
	case n > 1:
		summary = fmt.Sprintf("%d lines have no equivalent, or one that is not quite the same: see the comments", n)
	}
	if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "shunt: %s, as %s: %s\n", name, kind, summary); err != nil {
		return fmt.Errorf("printing the summary: %w", err)
	}
	return nil
}
