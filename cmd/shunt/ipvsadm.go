// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/ipvsadm"
)

// instanceVariable names the instance that commands are about.
const instanceVariable = "SHUNT_INSTANCE"

// ipvsadmCommand is `shunt ipvsadm`. All of the command line is ipvsadm's.
func ipvsadmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ipvsadm [command] [options]",
		Short: "Edit and list the virtual services, as ipvsadm does",
		Long: `Edit and list the virtual services of the running director, with the commands,
options, output and exit codes of ipvsadm ('shunt ipvsadm --help' prints its help).

A service by firewall mark (-f) is a group of VIPs, ports and protocols. Which
packets have the mark is said here, not by a firewall, and before the service is
added:

  --add-mark MARK -t|-u|--sctp-service VIP[:PORT[-PORT]]
  --delete-mark MARK -t|-u|--sctp-service VIP[:PORT[-PORT]]
  --list-marks [-n]

Without a port, or with port 0, it is every port of the VIP.

What IPVS has sysctls of the whole host for (net.ipv4.vs) are options of -A and -E:

  --stray adopt|pass|drop|reset
  --conn-reuse-mode 0|1|2|3
  --expire-nodest-conn 0|1
  --expire-quiescent-template 0|1
  --secure-tcp 0|1`,
		Example: `  shunt ipvsadm --add-mark 7 -t 172.16.16.172:80
  shunt ipvsadm --add-mark 7 -t 172.16.16.172:5000-5010
  shunt ipvsadm -A -f 7 -s rr -p 60
  shunt ipvsadm -a -f 7 -r 172.16.16.177 -g`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if code := ipvsadmMain(cmd.Context(), "ipvsadm", args); code != 0 {
				return &exit{code: code}
			}
			return nil
		},
	}
}

// ipvsadmMain is ipvsadm as a program of its own. It is about the instance that
// SHUNT_INSTANCE names, else about this network namespace's director.
func ipvsadmMain(ctx context.Context, name string, args []string) int {
	ctx, stop := untilSignal(ctx)
	defer stop()
	// What needs no director, such as --help, works without one.
	holder, err := api.Find("", os.Getenv(instanceVariable), "")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 255
	}
	return ipvsadm.Run(ctx, ipvsadm.Env{
		Name: name, Args: args,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Director: api.NewClient(holder),
		Names:    ipvsadm.SystemNames(),
	})
}
