// SPDX-License-Identifier: MIT

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shunt-lvs/shunt/internal/config"
)

func checkCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Tell what is wrong with a site's file",
		Long: `Read a site's file (docs/configuration.md) and tell all that is wrong with it, by line
and column, or else what it describes. FILE - is standard input. Nothing is changed, no
director is asked.

Exit codes: 0 the file is right; 1 it is not, or cannot be read.`,
		Example: `  shunt check /etc/shunt/site.yaml
  shunt check --json - < site.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return wrongUsage(cmd, errors.New("it takes one file"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return checkFile(cmd.InOrStdin(), cmd.OutOrStdout(), args[0], asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the problems as JSON: file, line, column, message, suggestion, source")
	return cmd
}

// checked is the JSON of 'check --json'.
type checked struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Problems []config.Problem `json:"problems"`
	Summary  []string         `json:"summary,omitempty"`
}

func checkFile(in io.Reader, out io.Writer, name string, asJSON bool) error {
	text, err := readFile(in, name)
	if err != nil {
		return err
	}
	c, err := config.Parse(name, text)
	problems, wrong := errors.AsType[config.Errors](err)
	if err != nil && !wrong {
		return err
	}
	if asJSON {
		answer := checked{File: name, OK: err == nil, Problems: problems}
		if problems == nil {
			answer.Problems = []config.Problem{}
			answer.Summary = c.Summary()
		}
		if err := writeJSON(out, answer); err != nil {
			return err
		}
		if wrong {
			return &exit{code: exitFailed}
		}
		return nil
	}
	if wrong {
		fmt.Fprintln(out, problems)
		return &exit{exitFailed, fmt.Errorf("%s: %s", name, counted(len(problems), "problem"))}
	}
	_, err = fmt.Fprintf(out, "%s is right\n  %s\n", name, strings.Join(c.Summary(), "\n  "))
	return err
}

// readFile reads a file as it is named on the command line.
func readFile(in io.Reader, name string) ([]byte, error) {
	if name == "-" {
		text, err := io.ReadAll(in)
		if err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
		return text, nil
	}
	return os.ReadFile(name)
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of a site's file",
		Long: `Print the JSON Schema (2020-12) of a site's file. An editor with the YAML language server
completes keys and marks mistakes with it, if the file says where it is:

  # yaml-language-server: $schema=/etc/shunt/shunt.schema.json`,
		Example: "  shunt schema > /etc/shunt/shunt.schema.json",
		Args:    withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Schema())
			return err
		},
	}
}
