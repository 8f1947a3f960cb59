// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/link"
)

// exitDiffers is the exit code of 'diff' if there is a difference, as diff(1) has
// it; failures are 2 there.
const exitDiffers = 1

// oneFile makes a command line without exactly one FILE exit with 2.
func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return wrongUsage(cmd, errors.New("it takes one file"))
	}
	return nil
}

// readSite reads a configuration. It is checked by whom it is for.
func readSite(cmd *cobra.Command, path string) (api.ApplyRequest, error) {
	if path == "-" {
		text, err := io.ReadAll(cmd.InOrStdin())
		return api.ApplyRequest{Path: "(standard input)", Text: string(text)}, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return api.ApplyRequest{}, err
	}
	whole, err := filepath.Abs(path)
	return api.ApplyRequest{Path: whole, Text: string(text)}, err
}

func diffCommand() *cobra.Command {
	var f instanceFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff FILE",
		Short: "Tell what applying a configuration would change",
		Long: `Tell, in words, what 'shunt apply FILE' would change of what the director does now,
what was changed at run time (by ipvsadm) included. Nothing is changed.

Exit codes: 0 nothing would change; 1 something would; 2 it cannot be told.`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := readSite(cmd, args[0])
			if err != nil {
				return &exit{2, err}
			}
			_, client, err := f.running()
			if err != nil {
				return &exit{2, err}
			}
			r.Only = true
			done, err := client.Apply(cmd.Context(), r)
			if err != nil {
				return &exit{2, err}
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), append([]config.Difference{}, done.Differences...))
			} else {
				err = printDifferences(cmd.OutOrStdout(), done.Differences, "nothing would change")
			}
			if err == nil && len(done.Differences) > 0 {
				err = &exit{code: exitDiffers}
			}
			return err
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func printDifferences(w io.Writer, all []config.Difference, none string) (err error) {
	if len(all) == 0 {
		_, err = fmt.Fprintln(w, none)
	}
	for _, d := range all {
		if _, e := fmt.Fprintln(w, d.Text); err == nil {
			err = e
		}
	}
	return err
}

func applyCommand() *cobra.Command {
	var f instanceFlags
	var confirm time.Duration
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Put a configuration in force",
		Long: `Put a configuration in force, all of it or nothing: if anything in it is wrong or
cannot be done, that is said and all stays as it was. Connections go on. What was
changed at run time and is not in the file is undone; 'shunt diff' shows it before.

With --confirm 60s what was in force before comes back after that time, unless
'shunt confirm' says that all is well; also if the director is killed meanwhile.`,
		Example: `  shunt diff /etc/shunt/shunt.yaml
  shunt apply /etc/shunt/shunt.yaml --confirm 60s
  shunt confirm`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := readSite(cmd, args[0])
			if err != nil {
				return err
			}
			if confirm < 0 {
				return wrongUsage(cmd, fmt.Errorf("--confirm %v: a time to come, such as 60s", confirm))
			}
			r.Confirm = confirm
			_, client, err := f.running()
			if err != nil {
				return err
			}
			done, err := client.Apply(cmd.Context(), r)
			if err != nil {
				return err
			}
			if err := printDifferences(cmd.OutOrStdout(), done.Differences, "nothing changed"); err != nil || done.Until.IsZero() {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "unless you say 'shunt confirm' until %s, the configuration before comes back\n", done.Until.Format(time.TimeOnly))
			return err
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().DurationVar(&confirm, "confirm", 0, "go back after this time unless 'shunt confirm' comes")
	return cmd
}

func confirmCommand() *cobra.Command {
	return siteVerb("confirm", "Keep the configuration that was applied with --confirm", (*api.Client).Confirm, "kept")
}

func rollbackCommand() *cobra.Command {
	return siteVerb("rollback", "Go back at once to the configuration before one that was applied with --confirm", (*api.Client).Rollback, "went back")
}

func siteVerb(name, short string, do func(*api.Client, context.Context) error, done string) *cobra.Command {
	var f instanceFlags
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		Args:  withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, client, err := f.running()
			if err != nil {
				return err
			}
			if err := do(client, cmd.Context()); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "instance %q: %s\n", p.Instance, done)
			return err
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func saveCommand() *cobra.Command {
	var f instanceFlags
	var show bool
	cmd := &cobra.Command{
		Use:   "save [FILE]",
		Short: "Write what was changed at run time back into the configuration",
		Long: `Write what was changed at run time (by ipvsadm) back into the configuration: into the
file that is in force, or into FILE. Comments and layout stay. If someone has edited
the file since it was applied, it is not touched. With --print it goes to the
standard output instead.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return wrongUsage(cmd, errors.New("it takes one file at most"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			_, client, err := f.running()
			if err != nil {
				return err
			}
			s, err := client.Merged(cmd.Context())
			if err != nil {
				return err
			}
			if show {
				_, err := io.WriteString(cmd.OutOrStdout(), s.Text)
				return err
			}
			return saveSite(cmd, client, s, args)
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&show, "print", false, "print it, and write nothing")
	return cmd
}

// saveSite writes the merged text. Into the file in force it goes only if that
// is as it was applied; then the director is told that it is the one in force.
func saveSite(cmd *cobra.Command, client *api.Client, s api.Site, args []string) error {
	path := s.Path
	if len(args) > 0 {
		path = args[0]
	} else if !filepath.IsAbs(path) {
		return fmt.Errorf("what is in force came by %s: name a FILE to save into", path)
	} else if !s.Until.IsZero() {
		return fmt.Errorf("%s is to be confirmed until %s: shunt confirm, or shunt rollback, first, or save into another file", path, s.Until.Format(time.TimeOnly))
	} else if s.Changed {
		return fmt.Errorf("%s has been edited since it was applied: apply it first, or save into another file", path)
	}
	mode := os.FileMode(0o644)
	old, err := os.ReadFile(path)
	if i, e := os.Stat(path); e == nil {
		mode = i.Mode().Perm()
	}
	if err == nil && bytes.Equal(old, []byte(s.Text)) {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s says already what runs\n", path)
		return err
	}
	if err := link.WriteFile(path, []byte(s.Text), mode); err != nil {
		return err
	}
	if len(args) == 0 {
		if _, err := client.Apply(cmd.Context(), api.ApplyRequest{Path: path, Text: s.Text}); err != nil {
			return fmt.Errorf("%s is written, but not in force: %w", path, err)
		}
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "written to %s\n", path)
	return err
}
