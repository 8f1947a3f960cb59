// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// operateFlags say which of a server's services a word is about, and why it is
// said.
type operateFlags struct {
	instanceFlags
	service string
	reason  string
}

func (f *operateFlags) add(cmd *cobra.Command) {
	f.instanceFlags.add(cmd.Flags())
	cmd.Flags().StringVar(&f.service, "service", "", "the service, by name or as 'shunt health' prints it (default: all that the server is in)")
	cmd.Flags().StringVar(&f.reason, "reason", "", "why, for whoever looks at 'shunt health'")
}

func oneServer(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return wrongUsage(cmd, errors.New("it takes one real server: its name, its address, or address:port"))
	}
	return nil
}

func drainCommand() *cobra.Command {
	var f operateFlags
	var within time.Duration
	var fate string
	var follow bool
	cmd := &cobra.Command{
		Use:   "drain SERVER",
		Short: "Give a real server no new connections, and show who is still connected",
		Long: `Give a real server no new connections and let those that it has go on. It stays so,
also over restarts, until 'shunt enable'.

With --within 10m, what is left of its connections after that time is ended by a TCP
reset to the clients (--then expire: they are forgotten; --then keep: nothing).
The command shows who is still connected; with --wait it stays until nobody is.`,
		Example: `  shunt drain 172.16.16.178 --within 10m --wait
  shunt enable 172.16.16.178`,
		Args: oneServer,
		RunE: func(cmd *cobra.Command, args []string) error {
			o := api.Operation{Server: args[0], Service: f.service, Wants: api.Draining, Reason: f.reason, Within: within}
			if err := o.Fate.UnmarshalText([]byte(fate)); err != nil || within < 0 {
				return wrongUsage(cmd, fmt.Errorf("--then is reset, expire or keep, and --within a time to come"))
			}
			_, client, err := f.running()
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			members, err := client.Operate(ctx, o)
			if err != nil {
				return err
			}
			return watchDrain(ctx, cmd.OutOrStdout(), client, members, follow)
		},
	}
	f.add(cmd)
	cmd.Flags().DurationVar(&within, "within", 0, "end what is left after this time")
	cmd.Flags().StringVar(&fate, "then", lvs.FateReset.String(), "what becomes of what is left: reset, expire or keep")
	cmd.Flags().BoolVar(&follow, "wait", false, "stay until nobody is connected any more")
	return cmd
}

// drainEvery is how often a drain is looked at.
const drainEvery = 500 * time.Millisecond

// watchDrain prints who is still connected, once or until nobody is.
func watchDrain(ctx context.Context, w io.Writer, client *api.Client, members []api.Member, follow bool) error {
	last := ""
	for {
		left, err := stillConnected(ctx, client, members)
		if err != nil {
			return err
		}
		text := drainText(members, left)
		if text != last {
			if _, err := io.WriteString(w, text); err != nil {
				return err
			}
			last = text
		}
		if !follow || len(left) == 0 {
			return nil
		}
		select {
		case <-time.After(drainEvery):
		case <-ctx.Done():
			_, err := fmt.Fprintln(w, "it goes on draining; 'shunt enable' ends that")
			return err
		}
	}
}

// stillConnected are the connections of these servers that still count: those
// that are established, and those that just opened.
func stillConnected(ctx context.Context, client *api.Client, members []api.Member) (left []lvs.Connection, err error) {
	all, err := client.Connections(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.State == lvs.StateAssured || c.State == lvs.StateTimeWait || c.State == lvs.StateClose || c.State == lvs.StateFinWait || c.State == lvs.StateClosed {
			continue
		}
		if slices.ContainsFunc(members, func(m api.Member) bool { return holds(m, c) }) {
			left = append(left, c)
		}
	}
	return left, nil
}

func holds(m api.Member, c lvs.Connection) bool {
	if m.Server.Addr != c.Server.Addr() {
		return false
	}
	if m.Service.Mark != 0 {
		return true // of which of a server's marks, a connection does not say
	}
	return m.Service.Protocol == c.Protocol && m.Service.Addr == c.Virtual.Addr() && (m.Service.Port == 0 || m.Service.Port == c.Virtual.Port())
}

func drainText(members []api.Member, left []lvs.Connection) string {
	const shown = 10
	var b strings.Builder
	for _, m := range members {
		fmt.Fprintf(&b, "%v: real server %v drains\n", m.Service, m.Server)
	}
	if len(left) == 0 {
		b.WriteString("nobody is connected any more\n")
		return b.String()
	}
	clients := map[netip.Addr]int{}
	for _, c := range left {
		clients[c.Client.Addr()]++
	}
	fmt.Fprintf(&b, "%d connections of %d clients are left:\n", len(left), len(clients))
	for i, c := range left {
		if i == shown {
			fmt.Fprintf(&b, "  and %d more\n", len(left)-shown)
			break
		}
		fmt.Fprintf(&b, "  %v %v to %v on %v, %s\n", c.Protocol, c.Client, c.Virtual, c.Server.Addr(), c.State)
	}
	return b.String()
}

func maintenanceCommand() *cobra.Command {
	return operateCommand("maintenance", api.Maintenance, "Take a real server out until 'shunt enable', and do not check it",
		`Give a real server no new connections, and do not check it, until 'shunt enable'. It
stays so over restarts of the director and of the host, whatever its checks and
the configuration say. Its connections go on.`, "is in maintenance")
}

func enableCommand() *cobra.Command {
	return operateCommand("enable", api.Up, "Give a real server new connections again",
		`End a drain or a maintenance. Whether the real server gets new connections is then
its checks' to say.`, "is enabled")
}

func operateCommand(name string, wants api.Condition, short, long, done string) *cobra.Command {
	var f operateFlags
	cmd := &cobra.Command{
		Use:   name + " SERVER",
		Short: short,
		Long:  long,
		Args:  oneServer,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, client, err := f.running()
			if err != nil {
				return err
			}
			members, err := client.Operate(cmd.Context(), api.Operation{Server: args[0], Service: f.service, Wants: wants, Reason: f.reason})
			for _, m := range members {
				fmt.Fprintf(cmd.OutOrStdout(), "%v: real server %v %s\n", m.Service, m.Server, done)
			}
			return err
		},
	}
	f.add(cmd)
	return cmd
}
