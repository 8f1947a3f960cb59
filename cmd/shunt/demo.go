// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/director"
	"github.com/shunt-lvs/shunt/internal/lab/demo"
)

// demoCommand is `shunt demo`.
func demoCommand() *cobra.Command {
	var o demo.Options
	method := string(demo.Loopback)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show LVS direct routing at work, in network namespaces",
		Long: `Make the reference cluster in network namespaces of this machine: a client, a
director and two real servers with web servers, joined by a switch. Set it up
with shunt's own commands, prove on the wire what direct routing promises, take
a server out and back in under load, and remove everything again.

The exit code is 0 only if everything held. The machine's own network is not
touched.`,
		Example: `  shunt demo
  shunt demo --method both --keep
  shunt demo down`,
		Args: known,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := demoNeeds(); err != nil {
				return err
			}
			o.Method = demo.Method(method)
			o.Out = cmd.OutOrStdout()
			o.Colour = !o.JSON && terminal(o.Out) && os.Getenv("NO_COLOR") == ""
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			// Also a reader that leaves (`| head`) and a terminal that closes
			// shall leave nothing up.
			ctx, stopThese := signal.NotifyContext(ctx, syscall.SIGPIPE, syscall.SIGHUP)
			defer stopThese()
			return inDemo(ctx, o, demo.Run)
		},
	}
	cmd.Flags().StringVar(&method, "method", method, "how the real servers accept the VIP: loopback, redirect, or both, one each")
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave the cluster up, to try things")
	cmd.Flags().BoolVar(&o.JSON, "json", false, "report as one JSON document")
	// For tests: several demos at a time.
	cmd.PersistentFlags().StringVar(&o.Prefix, "prefix", "demo-", "how the names of namespaces and instances begin")
	cobra.CheckErr(cmd.PersistentFlags().MarkHidden("prefix"))
	cmd.AddCommand(demoDownCommand(&o.Prefix), demoServeCommand())
	return cmd
}

func demoDownCommand(prefix *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster that `shunt demo --keep` left up",
		Args:  withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := demoNeeds(); err != nil {
				return err
			}
			return inDemo(cmd.Context(), demo.Options{Prefix: *prefix, Out: cmd.OutOrStdout()}, demo.Down)
		},
	}
}

// demoServeCommand is what the demo runs on its real servers.
func demoServeCommand() *cobra.Command {
	var listen, name string
	cmd := &cobra.Command{
		Use:    "serve",
		Short:  "The web server of the demo's real servers",
		Hidden: true,
		Args:   withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			return demo.Serve(ctx, listen, name)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", ":80", "address and port")
	cmd.Flags().StringVar(&name, "name", "", "what to answer")
	return cmd
}

// inDemo fills in what is the same for all that has to do with the demo.
func inDemo(ctx context.Context, o demo.Options, do func(context.Context, demo.Options) error) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program's own file, which the demo runs: %w", err)
	}
	o.Executable = self
	o.Forget = forgetInstances
	return do(ctx, o)
}

func demoNeeds() error {
	if os.Geteuid() != 0 {
		return errors.New("the demo needs root, since it makes network namespaces: try `sudo shunt demo`")
	}
	return nil
}

// forgetInstances removes what stopped instances remember for their next start,
// and what killed ones left pinned. It refuses to if one of them runs.
func forgetInstances(names []string) error {
	var errs []error
	for _, name := range names {
		p := api.Places{Instance: name}
		if err := director.CleanUp(p, slog.New(slog.DiscardHandler)); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, os.RemoveAll(p.State()), os.RemoveAll(p.Run()))
	}
	return errors.Join(errs...)
}

// untilSignal returns a context that the first Ctrl-C or SIGTERM ends. The second
// one ends the process, as without it.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
