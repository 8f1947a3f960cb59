// SPDX-License-Identifier: MIT

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/director"
	"github.com/shunt-lvs/shunt/internal/link"
)

func directorCommand() *cobra.Command {
	var f instanceFlags
	cmd := &cobra.Command{
		Use:   "director",
		Short: "Own VIPs and spread their clients over real servers",
		Long: `A director owns the VIPs on the wire and sends what comes for them to the real
servers. There is one per network namespace. Its rules are given with
'shunt ipvsadm'; they are saved, and come back with the next start.`,
		Args: known,
		RunE: help,
	}
	f.add(cmd.PersistentFlags())
	cmd.AddCommand(directorRunCommand(&f), directorStartCommand(&f), directorStopCommand(&f),
		directorStatusCommand(&f), directorReloadCommand(&f))
	return cmd
}

// instanceFlags say which instance a command is about.
type instanceFlags struct{ api.Places }

func (f *instanceFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.Instance, "instance", "", "name of the instance (default: $"+instanceVariable+
		", else the director of this network namespace, else "+api.DefaultInstance+")")
	flags.StringVar(&f.RunDir, "run-dir", api.DefaultRunDir, "where instances have their sockets and pins")
	flags.StringVar(&f.StateDir, "state-dir", api.DefaultStateDir, "where instances have their saved rules and journals")
}

// toStart is the instance that is to be started: the namespace has none yet.
func (f *instanceFlags) toStart() (api.Places, error) {
	p := f.Places
	if p.Instance == "" {
		p.Instance = os.Getenv(instanceVariable)
	}
	p = p.Whole()
	return p, api.CheckName(p.Instance)
}

// running is the instance that a command talks to: if nobody names it, this
// network namespace's, also if that one is gone and forwards.
func (f *instanceFlags) running() (api.Places, *api.Client, error) {
	name := f.Instance
	if _, err := api.FindHolder(); name == "" && os.Getenv(instanceVariable) == "" && errors.Is(err, api.ErrNotRunning) {
		if left := director.LeftHere(f.Places); len(left) == 1 {
			name = left[0]
		}
	}
	holder, err := api.Find(name, os.Getenv(instanceVariable), f.RunDir)
	if err != nil {
		return api.Places{}, nil, err
	}
	p := f.Places
	p.Instance = holder.Instance
	return p, api.NewClient(holder), nil
}

// runFlags are those of run and start.
type runFlags struct {
	config      string
	interfaces  []string
	vips        []string
	vlans       []string
	mode        string
	clients     bool
	connections uint32
	debug       bool
	force       bool
	logLevel    string
	logFormat   string
}

func (r *runFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&r.config, "config", "", "the configuration; what it says of the director needs no flags")
	flags.StringArrayVar(&r.interfaces, "interface", nil, "interface that packets to the VIPs come in by; may be repeated, the VIPs go on the first")
	flags.StringArrayVar(&r.vips, "vip", nil, "address to own; may be repeated")
	flags.StringArrayVar(&r.vlans, "vlan", nil, "an interface that is a VLAN of another without being a VLAN device of the kernel, as v100=eth0/100; may be repeated")
	flags.StringVar(&r.mode, "mode", string(dataplane.Auto), "how to attach to the interfaces: auto, native, generic or tc")
	flags.BoolVar(&r.clients, "local-clients", false, "let programs on this host be clients of the VIPs, too")
	flags.Uint32Var(&r.connections, "connections", 0, "how many IPv4 connections to have room for, and half as many of IPv6 and persistent ones (default 1048576); connections of a director that was killed are carried over to another size")
	flags.BoolVar(&r.debug, "debug", false, "allow 'shunt debug' commands")
	flags.BoolVar(&r.force, "force", false, "start although another machine answers for a VIP")
	flags.StringVar(&r.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&r.logFormat, "log-format", "text", "text or json")
}

// settings are the flags given, and what was remembered for the others.
func (r *runFlags) settings(flags *pflag.FlagSet, p api.Places) (director.Settings, error) {
	s, err := director.LoadSettings(p)
	if err != nil {
		return s, err
	}
	if flags.Changed("config") {
		s.Config = r.config
	}
	if err := configSaysIt(flags, s.Config); err != nil {
		return s, err
	}
	if flags.Changed("interface") {
		s.Interfaces = r.interfaces
	}
	if flags.Changed("vip") {
		s.VIPs = nil
		for _, text := range r.vips {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return s, fmt.Errorf("%w: --vip %s: not an address (no prefix length, no name)", director.ErrSettings, text)
			}
			s.VIPs = append(s.VIPs, a)
		}
	}
	if flags.Changed("vlan") {
		s.VLANs = map[string]dataplane.VLAN{}
		for _, text := range r.vlans {
			name, of, _ := strings.Cut(text, "=")
			parent, id, _ := strings.Cut(of, "/")
			n, err := strconv.ParseUint(id, 10, 16)
			if err != nil || s.VLANs[name] != (dataplane.VLAN{}) {
				return s, fmt.Errorf("%w: --vlan %s: write it as --vlan v100=eth0/100, once for an interface", director.ErrSettings, text)
			}
			s.VLANs[name] = dataplane.VLAN{Parent: parent, ID: uint16(n)}
		}
	}
	if flags.Changed("mode") {
		s.Mode = dataplane.Mode(r.mode)
	}
	if flags.Changed("local-clients") {
		s.LocalClients = r.clients
	}
	if flags.Changed("connections") {
		s.Connections = r.connections
	}
	return s, nil
}

// configSaysIt refuses flags that a configuration would overrule.
func configSaysIt(flags *pflag.FlagSet, path string) error {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil // the start has more to say about it
	}
	c, err := config.Parse(path, text)
	if err != nil || c.Director == nil {
		return nil
	}
	says := []string{"vip"} // those of its services
	if len(c.Director.Interfaces) > 0 {
		says = append(says, "interface")
	}
	if c.Director.Section {
		says = append(says, "vlan", "mode", "local-clients", "connections")
	}
	for _, name := range says {
		if flags.Changed(name) {
			return fmt.Errorf("%w: --%s: %s says it; change it there, or start without a configuration (--config=)", director.ErrSettings, name, path)
		}
	}
	return nil
}

func (r *runFlags) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(r.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %s: there are debug, info, warn and error", r.logLevel)
	}
	o := &slog.HandlerOptions{Level: level}
	switch r.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, o)), nil
	}
	return nil, fmt.Errorf("--log-format %s: there are text and json", r.logFormat)
}

func directorRunCommand(f *instanceFlags) *cobra.Command {
	var r runFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Be the director, in the foreground",
		Long: `Be the director, in the foreground (for systemd, containers and tests): put the
VIPs on the interface and announce them, attach the data plane, restore the saved
rules, and follow the real servers.

Flags that are not given have their values from the last successful start.

SIGTERM and SIGINT undo everything and end it; SIGHUP reads the saved rules again.
When it is killed otherwise, forwarding goes on, with all connections, and the
next run or start takes it over; 'stop' undoes it.`,
		Args: withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := f.toStart()
			if err != nil {
				return err
			}
			settings, err := r.settings(cmd.Flags(), p)
			if err != nil {
				return err
			}
			log, err := r.logger()
			if err != nil {
				return wrongUsage(cmd, err)
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			hangup := make(chan os.Signal, 1)
			signal.Notify(hangup, syscall.SIGHUP)
			return director.Run(ctx, director.Options{Places: p, Settings: settings, Debug: r.debug, Force: r.force,
				Version: version(), Log: log, Hangup: hangup})
		},
	}
	r.add(cmd.Flags())
	return cmd
}

func directorStartCommand(f *instanceFlags) *cobra.Command {
	var r runFlags
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Be the director, in the background",
		Long: `Start a director in the background and return when traffic flows, or with the
first error and exit code 1. Its log is in the run directory
(` + api.Places{}.Log() + `); that of the start before is beside it, as .1.

Flags that are not given have their values from the last successful start.`,
		Example: "  shunt director start --interface eth0 --vip 172.16.16.172",
		Args:    withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := f.toStart()
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return director.ErrNotRoot
			}
			if f := cmd.Flags().Lookup("config"); f.Changed && r.config != "" {
				whole, err := filepath.Abs(r.config) // the background is another directory
				if err != nil {
					return err
				}
				if err := f.Value.Set(whole); err != nil {
					return err
				}
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			if err := nobodyRuns(ctx, p); err != nil {
				return err
			}
			if err := startInBackground(ctx, p, given(cmd.Flags())); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "instance %q runs; its log is %s\n", p.Instance, p.Log())
			client := api.NewClient(api.Holder{Instance: p.Instance, Socket: p.Socket()})
			if status, err := client.Director(ctx); err == nil { // it has started, whatever it has to say
				printNotes(cmd.OutOrStdout(), &status)
			}
			return nil
		},
	}
	r.add(cmd.Flags())
	return cmd
}

// given are the flags that were set, as words of a command line.
func given(flags *pflag.FlagSet) []string {
	var words []string
	flags.Visit(func(f *pflag.Flag) {
		if many, ok := f.Value.(pflag.SliceValue); ok {
			for _, v := range many.GetSlice() {
				words = append(words, "--"+f.Name+"="+v)
			}
			return
		}
		words = append(words, "--"+f.Name+"="+f.Value.String())
	})
	return words
}

func directorStopCommand(f *instanceFlags) *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "Stop the director and undo what its start did",
		Long: `Stop the director and undo exactly what its start did; connections end. The rules
stay saved. If it was killed before, undo what it left. If there is nothing to
stop, that is fine: exit code 0.

With --keep-forwarding only the daemon ends. Nothing is undone: packets flow, new
connections too, until a start takes over or a stop without the flag undoes it.`,
		Args: withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, client, err := f.running()
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			status, err := client.Director(ctx)
			if errors.Is(err, api.ErrNotRunning) {
				if keep {
					return keepLeft(cmd, p)
				}
				return cleanUp(cmd, p)
			}
			if err == nil && keep {
				err = client.Leave(ctx)
			} else if err == nil {
				err = client.Stop(ctx)
			}
			if err != nil {
				return err
			}
			release, err := link.Lock(api.Places{Instance: status.Instance, RunDir: status.RunDir, StateDir: status.StateDir}.Lock(), true)
			if err != nil {
				return err
			}
			release()
			if keep {
				fmt.Fprintf(cmd.OutOrStdout(), "instance %q stopped, and its data plane keeps forwarding (start takes over, stop undoes)\n", p.Instance)
			} else {
				fmt.Fprintf(cmd.OutOrStdout(), "instance %q stopped\n", p.Instance)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&keep, "keep-forwarding", false, "end the daemon only: what it did stays, and connections go on")
	return cmd
}

// keepLeft is stop --keep-forwarding where no daemon runs.
func keepLeft(cmd *cobra.Command, p api.Places) error {
	left, err := director.Leftovers(p)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "instance %q does not run, and what it left stays:\n  %s\n", p.Instance, strings.Join(left, "\n  "))
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "instance %q does not run, and nothing of it forwards\n", p.Instance)
	}
	return nil
}

func cleanUp(cmd *cobra.Command, p api.Places) error {
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	left, err := director.Leftovers(p)
	if err != nil {
		return err
	}
	end := "killed"
	if _, kept := director.Kept(p); kept {
		end = "stopped, but for its data plane"
	}
	if err := director.CleanUp(p, log); err != nil {
		return err
	}
	if len(left) > 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "instance %q had been %s; undone what it left:\n  %s\n", p.Instance, end, strings.Join(left, "\n  "))
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "instance %q does not run\n", p.Instance)
	}
	return nil
}

func directorReloadCommand(f *instanceFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Read the configuration, or the saved rules, again",
		Long: `Read the configuration that is in force again, as 'shunt apply' does, or, if there is
none, the saved rules (` + api.Places{}.Rules() + `) again and make them the
running ones, all or none: if a line is wrong it is named, and the old ones stay.
Connections go on.`,
		Args: withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, client, err := f.running()
			if err != nil {
				return err
			}
			done, err := client.Reload(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "instance %q: %d services, %d servers\n", p.Instance, done.Services, done.Servers)
			return nil
		},
	}
}
