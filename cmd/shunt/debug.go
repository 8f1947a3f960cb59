// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func debugCommand() *cobra.Command {
	var f instanceFlags
	cmd := &cobra.Command{
		Use:   "debug",
		Short: "For tests of shunt itself",
		Args:  known,
		RunE:  help,
	}
	f.add(cmd.PersistentFlags())
	cmd.AddCommand(&cobra.Command{
		Use:   "advance-clock DURATION",
		Short: "Let time pass for connections",
		Long: `Let time pass for the connections of an instance that was started with --debug,
so that a test need not wait for a timeout.`,
		Example: "  shunt debug advance-clock 120s",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return wrongUsage(cmd, fmt.Errorf("it takes one duration"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			by, err := time.ParseDuration(args[0])
			if err != nil || by < 0 {
				return wrongUsage(cmd, fmt.Errorf("%q is not a duration such as 120s", args[0]))
			}
			_, client, err := f.running()
			if err != nil {
				return err
			}
			return client.AdvanceClock(cmd.Context(), by)
		},
	})
	return cmd
}
