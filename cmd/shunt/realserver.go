// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"text/tabwriter"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shunt-lvs/shunt/internal/agent"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/realserver"
)

// statusPartly is the exit code of 'realserver status' for a set-up with a
// fault; the others are the director's.
const statusPartly = 1

// realServerCommand is `shunt realserver`.
func realServerCommand() *cobra.Command {
	var f realServerFlags
	cmd := &cobra.Command{
		Use:   "realserver",
		Short: "Accept a VIP's requests on this host, silently",
		Long: `A real server accepts packets whose destination is the VIP, which a director sends
it, and answers the clients itself. It must never tell the network that it has the
VIP. There are two methods:

loopback  puts VIP/32 on lo. Before that, arp_ignore=1 and arp_announce=2 are set
          on the interfaces that requests can come in by, and read back. An IPv6
          VIP, as /128, needs no such guard: Linux does not answer for it.
redirect  puts the VIP nowhere: an nftables rule, in a table of shunt's own,
          redirects the VIP's ports to local ones (also others). The service
          listens on the host's own address or on all, and every connection is
          tracked by the kernel.

What was found is kept in a journal, and stop restores it exactly, also when a
command was killed half-way.`,
		Args: known,
		RunE: help,
	}
	f.add(cmd.PersistentFlags())
	cmd.AddCommand(realServerRunCommand(&f), realServerStartCommand(&f), realServerStopCommand(&f), realServerStatusCommand(&f),
		agentStateCommand(&f, "drain", agent.Drain, "Ask the directors for no new connections"),
		agentStateCommand(&f, "maintenance", agent.Maint, "Ask the directors to leave this real server alone"),
		agentStateCommand(&f, "enable", agent.Up, "Tell the directors that this real server serves again"))
	return cmd
}

// realServerFlags say which instance a command is about.
type realServerFlags struct{ instance, stateDir string }

func (f *realServerFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.instance, "instance", "", "name of the instance (default: $"+instanceVariable+", else "+realserver.DefaultInstance+")")
	flags.StringVar(&f.stateDir, "state-dir", realserver.DefaultStateDir, "where instances keep what is wanted and what was found")
}

func (f *realServerFlags) server(log *slog.Logger) (*realserver.Server, error) {
	instance := f.instance
	if instance == "" {
		instance = os.Getenv(instanceVariable)
	}
	return realserver.New(realserver.Options{Instance: instance, StateDir: f.stateDir, Log: log})
}

// vipFlags are those of run and start.
type vipFlags struct {
	vips, ports, interfaces []string
	method                  string
	config                  string
	agent                   *config.Agent // of the configuration; nil: none
	log                     runFlags
}

func (v *vipFlags) add(flags *pflag.FlagSet, logLevel string) {
	flags.StringVar(&v.config, "config", "", "the configuration, of which the part 'realserver' counts; instead of --vip and its like")
	flags.StringArrayVar(&v.vips, "vip", nil, "address to accept requests for; may be repeated")
	flags.StringVar(&v.method, "method", string(realserver.Loopback), "loopback or redirect, for these VIPs")
	flags.StringArrayVar(&v.ports, "port", nil, "with redirect: port to redirect, like 80/tcp, 53/udp, 80/sctp, or 80/tcp:8080 for another local port; may be repeated")
	flags.StringArrayVar(&v.interfaces, "interface", nil, "with loopback and an IPv4 VIP: interface that requests come in by; may be repeated (default: all but lo)")
	flags.StringVar(&v.log.logLevel, "log-level", logLevel, "debug, info, warn or error")
	flags.StringVar(&v.log.logFormat, "log-format", "text", "text or json")
}

// read takes the flags' values from a configuration.
func (v *vipFlags) read(flags *pflag.FlagSet) error {
	if v.config == "" {
		return nil
	}
	for _, name := range []string{"vip", "method", "port", "interface"} {
		if flags.Changed(name) {
			return fmt.Errorf("--%s: the configuration %s says it, under realserver", name, v.config)
		}
	}
	text, err := os.ReadFile(v.config)
	if err != nil {
		return err
	}
	c, err := config.Parse(v.config, text)
	if err != nil {
		return err
	}
	if c.RealServer == nil {
		return fmt.Errorf("%s says nothing of a real server: add a part 'realserver', with vips", v.config)
	}
	v.method, v.ports, v.agent = c.RealServer.Method, c.RealServer.Ports, c.RealServer.Agent
	for _, a := range c.RealServer.VIPs {
		v.vips = append(v.vips, a.String())
	}
	return nil
}

func (v *vipFlags) parse(flags *pflag.FlagSet) ([]realserver.VIP, error) {
	if len(v.vips) == 0 {
		for _, name := range []string{"method", "port", "interface"} {
			if flags.Changed(name) {
				return nil, fmt.Errorf("--%s is about a VIP: add --vip", name)
			}
		}
	}
	if realserver.Method(v.method) == realserver.Redirect && len(v.interfaces) > 0 {
		return nil, fmt.Errorf("--interface belongs to method loopback: method redirect has no guards to set")
	}
	var ports []realserver.Port
	for _, text := range v.ports {
		p, err := realserver.ParsePort(text)
		if err != nil {
			return nil, fmt.Errorf("--port: %w", err)
		}
		ports = append(ports, p)
	}
	var vips []realserver.VIP
	for _, text := range v.vips {
		a, err := realserver.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("--vip: %w", err)
		}
		vips = append(vips, realserver.VIP{Addr: a, Method: realserver.Method(v.method), Ports: ports})
	}
	return vips, nil
}

func realServerStartCommand(f *realServerFlags) *cobra.Command {
	var v vipFlags
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Accept the VIPs' requests",
		Long: `Accept the VIPs' requests, beside those started before, and return. What is so
already stays as it is. If a step fails, all that this call did is undone.

It lasts until the host restarts; then 'start' without --vip starts the same VIPs
again. 'run' also watches over it, and is for systemd.`,
		Example: `  shunt realserver start --vip 172.16.16.172
  shunt realserver start --vip 172.16.16.172 --vip 2001:db8:16::172
  shunt realserver start --vip 172.16.16.172 --method redirect --port 80/tcp:8080 --port 53/udp`,
		Args: withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			vips, s, err := v.prepare(cmd, f)
			if err != nil {
				return err
			}
			return s.Start(vips, v.interfaces)
		},
	}
	v.add(cmd.Flags(), "warn")
	return cmd
}

func realServerRunCommand(f *realServerFlags) *cobra.Command {
	var v vipFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Accept the VIPs' requests, and watch over it, in the foreground",
		Long: `Do what start does, stay in the foreground (for systemd, containers and tests) and
put right what is changed by someone else: the VIP, the guards, the nftables table,
new interfaces. What was repaired is logged. If the configuration has an agent, it
tells directors this host's load. SIGTERM and SIGINT end it as stop does.`,
		Example: `  shunt realserver run --vip 172.16.16.172`,
		Args:    withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			vips, s, err := v.prepare(cmd, f)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			context.AfterFunc(ctx, func() { notify(cmd.ErrOrStderr(), daemon.SdNotifyStopping) })
			if v.agent != nil {
				ended, err := v.startAgent(ctx, s, vips)
				if err != nil {
					return err
				}
				defer func() { stop(); <-ended }()
			}
			return s.Run(ctx, vips, v.interfaces, func() { notify(cmd.ErrOrStderr(), daemon.SdNotifyReady) })
		},
	}
	v.add(cmd.Flags(), "info")
	return cmd
}

func (v *vipFlags) prepare(cmd *cobra.Command, f *realServerFlags) ([]realserver.VIP, *realserver.Server, error) {
	if err := v.read(cmd.Flags()); err != nil {
		return nil, nil, err
	}
	vips, err := v.parse(cmd.Flags())
	if err != nil {
		return nil, nil, wrongUsage(cmd, err)
	}
	log, err := v.log.logger()
	if err != nil {
		return nil, nil, wrongUsage(cmd, err)
	}
	s, err := f.server(log)
	return vips, s, err
}

// notify tells whoever started us, if it wants to hear (NOTIFY_SOCKET).
func notify(errors io.Writer, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		fmt.Fprintln(errors, "shunt: notify the service manager:", err)
	}
}

func realServerStopCommand(f *realServerFlags) *cobra.Command {
	var texts []string
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "Undo what start did",
		Long: `Take the VIPs off, all of them unless --vip names some, and restore what start found.
The ARP guards stay while any IPv4 VIP of method loopback does. Something that someone
else has changed since is left as it is. That nothing is started is no error.`,
		Example: `  shunt realserver stop
  shunt realserver stop --vip 172.16.16.172`,
		Args: withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var vips []netip.Addr
			for _, text := range texts {
				a, err := realserver.ParseAddr(text)
				if err != nil {
					return wrongUsage(cmd, fmt.Errorf("--vip: %w", err))
				}
				vips = append(vips, a)
			}
			s, err := f.server(slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})))
			if err != nil {
				return err
			}
			return s.Stop(vips)
		},
	}
	cmd.Flags().StringArrayVar(&texts, "vip", nil, "address to stop; may be repeated (default: all)")
	return cmd
}

func realServerStatusCommand(f *realServerFlags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell item by item whether the kernel has what was started",
		Long: `Compare the kernel with what was started, item by item, with a reason for each.

Exit codes: 0 running, every item is right; 1 partly, an item is not right;
3 stopped; 4 unknown, it could not be found out.`,
		Args: withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := f.server(slog.New(slog.DiscardHandler))
			if err != nil {
				return &exit{statusUnknown, err}
			}
			st, err := s.Status()
			if err != nil {
				return &exit{statusUnknown, err}
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), st)
			} else {
				err = printRealServer(cmd.OutOrStdout(), st)
			}
			switch {
			case err != nil:
				return &exit{statusUnknown, err}
			case st.Condition == realserver.Stopped:
				return &exit{code: statusStopped}
			case st.Condition == realserver.Partly:
				return &exit{code: statusPartly}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func printRealServer(out io.Writer, st realserver.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "real server %q: %s\n", st.Instance, st.Condition)
	if st.Note != "" {
		fmt.Fprintf(w, "  %s\n", st.Note)
	}
	for _, v := range st.VIPs {
		fmt.Fprintf(w, "  VIP %v by %s\n", v.Addr, v.Method)
	}
	for _, i := range st.Items {
		mark := "ok"
		if !i.OK {
			mark = "FAIL"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\n", mark, i.Name, i.Reason)
	}
	for _, text := range st.Warnings {
		fmt.Fprintf(w, "  WARNING: %s\n", text)
	}
	return w.Flush()
}
