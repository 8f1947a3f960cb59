// SPDX-License-Identifier: MIT

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/director"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// The exit codes of status, as the Linux Standard Base has them for services.
const (
	statusRuns    = 0
	statusDead    = 1 // no daemon, but what it did is still there
	statusStopped = 3
	statusUnknown = 4
)

func directorStatusCommand(f *instanceFlags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell what the director does",
		Long: `Tell what the director does, from the kernel's and the data plane's own state.

Exit codes: 0 it runs; 1 it was killed, or stopped with --keep-forwarding, and what
it did is still there (forwarding goes on; start takes it over, stop undoes it); 3
it is stopped; 4 unknown.`,
		Args: withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, client, err := f.running()
			if err != nil {
				return &exit{statusUnknown, err}
			}
			status, err := client.Director(cmd.Context())
			if errors.Is(err, api.ErrNotRunning) {
				return notRunning(cmd.OutOrStdout(), p, asJSON)
			}
			if err != nil {
				return &exit{statusUnknown, err}
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), struct {
					State string `json:"state"`
					api.Status
				}{"running", status})
			}
			return printStatus(cmd.OutOrStdout(), &status)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// notRunning tells a stopped director from one that was killed or left its data
// plane forwarding.
func notRunning(w io.Writer, p api.Places, asJSON bool) error {
	left, err := director.Leftovers(p)
	if err != nil {
		return &exit{statusUnknown, err}
	}
	state, code, how := "stopped", statusStopped, ""
	if since, kept := director.Kept(p); len(left) > 0 && kept {
		state, code, how = "forwarding", statusDead, "was stopped "+since.Format(time.DateTime)+" and keeps forwarding"
	} else if len(left) > 0 {
		state, code, how = "killed", statusDead, "was killed"
	}
	switch {
	case asJSON:
		err = writeJSON(w, map[string]any{"state": state, "instance": p.Instance, "left": append([]string{}, left...)})
	case len(left) > 0:
		_, err = fmt.Fprintf(w, "instance %q %s (start takes over, stop undoes):\n  %s\n", p.Instance, how, strings.Join(left, "\n  "))
	default:
		_, err = fmt.Fprintf(w, "instance %q is stopped\n", p.Instance)
	}
	if err != nil {
		return err
	}
	return &exit{code: code}
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printStatus(out io.Writer, s *api.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	p := func(format string, args ...any) { fmt.Fprintf(w, format, args...) }

	p("instance %q runs: pid %d, up %v, shunt %s\n", s.Instance, s.PID, time.Duration(s.Uptime)*time.Second, s.Version)
	for _, text := range s.Warnings {
		p("  WARNING: %s\n", text)
	}
	if s.TookOver {
		p("  took over from a predecessor; its connections went on\n")
	}
	if s.Debug {
		p("  debug commands are allowed\n")
	}
	if c := s.Config; c != nil {
		p("  configuration %s, applied %s\n", c.Path, c.Applied.Format(time.DateTime))
		for _, d := range c.Drift {
			p("    changed at run time: %s\n", d.Text)
		}
	}
	p("\n")
	for _, i := range s.Interfaces {
		p("interface\t%s\t%s%s\n", i.Interface, i.Mode, inBrackets(i.Reason))
		for _, a := range i.Arrivals {
			if a.VLAN != 0 {
				p("VLAN\t%d\tof %s (%s)\n", a.VLAN, i.Interface, a.Interface)
			}
		}
	}
	printNotes(w, s)
	for _, v := range s.VIPs {
		p("VIP\t%v\ton %s%s%s\n", v.Addr, v.Interface, vlanNote(v.VLAN), vipNote(v))
	}
	for _, c := range s.Connections {
		p("%s\t%d\tof %d (%s of memory)\n", strings.ReplaceAll(c.Name, "_", " "), c.Used, c.Capacity, binary(c.Bytes))
	}
	p("timeouts\ttcp %d s\ttcpfin %d s, udp %d s\n", s.Timeouts.TCP, s.Timeouts.TCPFin, s.Timeouts.UDP)
	if err := w.Flush(); err != nil {
		return err
	}
	for i := range s.Services {
		printService(w, &s.Services[i])
	}
	printVerdicts(w, s)
	return w.Flush()
}

// printNotes prints what is to be known of the interfaces.
func printNotes(w io.Writer, s *api.Status) {
	for _, i := range s.Interfaces {
		for _, note := range i.Notes {
			fmt.Fprintf(w, "  note: %s\n", note)
		}
	}
}

func inBrackets(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

func vlanNote(vlan string) string {
	if vlan == "" {
		return ""
	}
	return ", VLAN " + vlan
}

func vipNote(v api.VIP) string {
	switch {
	case v.Withdrawn:
		return ": withdrawn, as no service of it is usable"
	case !v.Present:
		return ": MISSING there"
	case v.Conflict != nil:
		return fmt.Sprintf(": claimed by %s too, %d times, last %s", v.Conflict.MAC, v.Conflict.Count, v.Conflict.Last.Format(time.DateTime))
	}
	return ""
}

// prefixes names the first few, and how many more there are.
func prefixes(all []netip.Prefix) string {
	const shown = 8
	var words []string
	for _, p := range all[:min(len(all), shown)] {
		words = append(words, p.String())
	}
	if more := len(all) - len(words); more > 0 {
		words = append(words, fmt.Sprintf("and %d more (ipvsadm -S has all)", more))
	}
	return strings.Join(words, ", ")
}

func printService(w io.Writer, s *api.Service) {
	fmt.Fprintf(w, "\n%v\t%s\t%d connections, %d packets, %s; now %d/s, %d/s, %s/s\n", s.ServiceID, s.Scheduler,
		s.Counters.Connections, s.Counters.Packets, binary(s.Counters.Bytes),
		s.Rates.Connections, s.Rates.Packets, binary(s.Rates.Bytes))
	if s.Policy != (lvs.Policy{}) {
		fmt.Fprintf(w, "  policy\t%v\n", s.Policy)
	}
	if len(s.Deny) > 0 {
		fmt.Fprintf(w, "  deny\t%s\n", prefixes(s.Deny))
	}
	for _, m := range s.Marks {
		fmt.Fprintf(w, "  mark rule %v\n", m)
	}
	for _, r := range s.Servers {
		where := r.MAC
		switch {
		case r.Local:
			where = "this host"
		case !r.Resolved:
			where = "UNRESOLVED"
		}
		if r.Condition != api.Up {
			where += " " + strings.ToUpper(string(r.Condition)) + inBrackets(r.Why)
		}
		fmt.Fprintf(w, "  %v\tweight %d\tactive %d, inactive %d\t%s%s%s\n", r.ServerID, r.Weight, r.Active, r.Inactive, where, vlanNote(r.VLAN), inBrackets(r.Reason))
	}
}

func printVerdicts(w io.Writer, s *api.Status) {
	fmt.Fprintf(w, "\npackets\n")
	none := true
	for _, v := range s.Verdicts {
		if v.Packets > 0 {
			none = false
			fmt.Fprintf(w, "  %s\t%d\t%s: %s\n", v.Name, v.Packets, v.Action, v.Help)
		}
	}
	if none {
		fmt.Fprintf(w, "  none yet\n")
	}
}

func binary(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
