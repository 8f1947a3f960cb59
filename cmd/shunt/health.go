// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/shunt-lvs/shunt/internal/api"
)

func healthCommand() *cobra.Command {
	var f instanceFlags
	var asJSON, checks bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Tell how the real servers are, and why",
		Long: `Tell how the services and their real servers are: who gets new connections, who does
not and since when, and the reason. With --checks each check has a line.

Exit codes: 0 every real server that should serve does; 1 one does not, or it
cannot be told.`,
		Args: withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, client, err := f.running()
			if err != nil {
				return err
			}
			all, err := client.Health(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), all)
			} else {
				err = printHealth(cmd.OutOrStdout(), all, checks)
			}
			if err == nil && !well(all) {
				err = &exit{code: exitFailed}
			}
			return err
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.Flags().BoolVar(&checks, "checks", false, "show each check")
	return cmd
}

// well tells whether nobody is out who was not taken out by an operator.
func well(all []api.ServiceHealth) bool {
	for _, s := range all {
		if !s.Usable {
			return false
		}
		for _, r := range s.Servers {
			if r.Condition == api.Down || r.Condition == api.Ejected {
				return false
			}
		}
	}
	return true
}

func printHealth(out io.Writer, all []api.ServiceHealth, checks bool) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if len(all) == 0 {
		fmt.Fprintln(w, "there are no services")
	}
	for i, s := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		word := "usable"
		if !s.Usable {
			word = "UNUSABLE"
		}
		name := ""
		if s.Name != "" && s.Name != s.Service.String() {
			name = " (" + s.Name + ")"
		}
		fmt.Fprintf(w, "%v%s: %s, %s\n", s.Service, name, word, s.Reason)
		for _, r := range s.Servers {
			printServerHealth(w, r, checks)
		}
	}
	return w.Flush()
}

func printServerHealth(w io.Writer, r api.ServerHealth, checks bool) {
	server := r.Server.String()
	if r.Name != "" {
		server += " " + r.Name
	}
	weight := "weight " + strconv.Itoa(int(r.Weight))
	if r.Effective != float64(r.Weight) {
		weight = fmt.Sprintf("weight %s of %d", strconv.FormatFloat(r.Effective, 'f', -1, 64), r.Weight)
	}
	var notes []string
	if !r.Since.IsZero() {
		notes = append(notes, "for "+ago(r.Since))
	}
	if r.Reason != "" {
		note := r.Reason
		if f := r.Failure; len(r.Checks) > 1 && f != nil && f.Reason == r.Reason {
			note += " (check " + f.Check + ")"
		}
		notes = append(notes, note)
	}
	if r.Operator != nil && !r.Operator.Until.IsZero() {
		notes = append(notes, fmt.Sprintf("%s at %s", r.Operator.Fate, r.Operator.Until.Format(time.TimeOnly)))
	}
	if r.Condition == api.Up && r.Failure != nil {
		notes = append(notes, fmt.Sprintf("last failure %s ago: %s", ago(r.Failure.At), r.Failure.Reason))
	}
	fmt.Fprintf(w, "  %s\t%s\t%s\tactive %d, inactive %d\t%s\n", server, strings.ToUpper(string(r.Condition)), weight, r.Active, r.Inactive, strings.Join(notes, "; "))
	if !checks {
		return
	}
	for _, c := range r.Checks {
		state := "ok"
		if !c.Up {
			state = "FAIL"
		}
		fmt.Fprintf(w, "    %s\t%s\ttook %v\t%d of %d failed\t%s\n", c.Check, state, c.Took.Round(10*time.Microsecond), c.Failed, c.Runs, c.Reason)
	}
}

// ago is how long something has been, in words that do not change every second.
func ago(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func historyCommand() *cobra.Command {
	var f instanceFlags
	var r api.HistoryRequest
	var since time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Tell what turned: real servers, services, VIPs",
		Example: `  shunt history --since 1h
  shunt history --server 172.16.16.178`,
		Args: withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, client, err := f.running()
			if err != nil {
				return err
			}
			if since > 0 {
				r.Since = time.Now().Add(-since)
			}
			all, err := client.History(cmd.Context(), r)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			for _, e := range all {
				what := e.Name
				if what == "" && e.Service.String() != "" && e.Subject != "vip" {
					what = e.Service.String()
				}
				switch e.Subject {
				case "server":
					what += " " + e.Server.String()
				case "vip":
					what = e.VIP.String()
				}
				by := e.By
				if e.Check != "" {
					by += " " + e.Check
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s → %s\t%s\tby %s\n", e.At.Local().Format(time.DateTime), e.Subject, what, e.From, e.To, e.Reason, by)
			}
			return w.Flush()
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().DurationVar(&since, "since", 0, "only what turned in this time, such as 1h")
	cmd.Flags().StringVar(&r.Service, "service", "", "only of this service, by name or as 'shunt health' prints it")
	cmd.Flags().StringVar(&r.Server, "server", "", "only of this real server, by name, address or address:port")
	cmd.Flags().IntVar(&r.Limit, "last", 100, "how many at most")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}
