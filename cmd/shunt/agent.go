// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/shunt-lvs/shunt/internal/agent"
	"github.com/shunt-lvs/shunt/internal/realserver"
)

// listenAgain is how long an agent waits before it tries again to listen: at boot
// its address may come later.
const listenAgain = time.Second

// startAgent has the agent answer directors until ctx is done; then ended is
// closed. A secret or an address that cannot be read is an error at once.
func (v *vipFlags) startAgent(ctx context.Context, s *realserver.Server, vips []realserver.VIP) (ended <-chan struct{}, err error) {
	log, err := v.log.logger()
	if err != nil {
		return nil, err
	}
	secret, err := agent.ReadSecret(v.agent.SecretFile)
	if err != nil {
		return nil, err
	}
	listen, err := netip.ParseAddrPort(v.agent.Listen)
	if err != nil {
		return nil, fmt.Errorf("the agent's listen: %w", err)
	}
	o := agent.Options{Listen: listen, Secret: secret, Report: v.agent.Report, Interval: v.agent.Interval,
		Command: v.agent.Command, User: v.agent.User, Full: v.agent.Full, StateFile: s.AgentState(), Log: log}
	for _, vip := range vips {
		if vip.Method == realserver.Loopback {
			o.VIPs = append(o.VIPs, vip.Addr)
		}
		for _, p := range vip.Ports {
			o.Ports = append(o.Ports, p.Local)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runAgent(ctx, o, log)
	}()
	return done, nil
}

func runAgent(ctx context.Context, o agent.Options, log *slog.Logger) {
	for told := ""; ; {
		a, err := agent.New(o)
		if err == nil {
			if err := a.Run(ctx); err != nil && ctx.Err() == nil {
				log.Error("the agent ended", "error", err)
			}
			return
		}
		if err.Error() != told {
			told = err.Error()
			log.Warn("the agent cannot start yet; it is tried again every second", "listen", o.Listen, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(listenAgain):
		}
	}
}

func agentStateCommand(f *realServerFlags, name string, state agent.State, short string) *cobra.Command {
	return &cobra.Command{
		Use:   name,
		Short: short,
		Long: short + `. It is this host's agent that tells them (a part of
'run', see 'agent' in the configuration), at their next question; what was said last
holds over restarts.`,
		Args: withoutArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := f.server(slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			return agent.SetState(s.AgentState(), state)
		},
	}
}
