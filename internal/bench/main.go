// SPDX-License-Identifier: MIT

// Command bench measures the director as it is, with nothing switched off,
// against yardsticks of its own that do much less, in turn with them. "make
// bench" runs it and writes what it finds into docs/performance.md; that page
// says how to read it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"

	"golang.org/x/sys/unix"
)

// bench is one part of the suite: it adds tables to the report.
type bench struct {
	name string
	run  func(*session) error
}

// benches are all of them, in the order of the report.
func benches() []bench {
	return []bench{
		{"established", established},
		{"new", newConnections},
		{"udp", datagrams},
		{"strangers", strangers},
		{"ipv6", ipv6},
		{"tc", throughTC},
		{"schedulers", schedulers},
		{"services", growServices},
		{"servers", growServers},
		{"connections", growConnections},
		{"memory", memory},
		{"resize", resize},
		{"control", control},
		{"live", live},
		{"clients", clients},
	}
}

// session is what one run of the suite shares.
type session struct {
	ctx    context.Context
	quick  bool
	rounds int
	cpus   []int            // the one that is measured on, and what others there are
	bare   map[bool]float64 // ns that a test run takes for a program that does nothing; true: of tc
	fresh  uint64           // turns of fresh flows from here on were not used yet
	report *report
}

func main() {
	var (
		quick  = flag.Bool("quick", false, "few rounds, and only what is soon measured")
		only   = flag.String("only", "", "only the parts whose name matches this regular expression")
		rounds = flag.Int("rounds", 7, "rounds; medians are over them")
		cpu    = flag.Int("cpu", -1, "measure on this CPU; -1: the last one")
		write  = flag.String("write", "", "put the tables into this file, between its markers (a complete run only)")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, *quick, *only, *rounds, *cpu, *write); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var (
	errNotRoot    = errors.New("this needs root: it loads BPF programs and makes network namespaces")
	errIncomplete = errors.New("only a complete run may be written down: leave -quick and -only out")
)

func run(ctx context.Context, quick bool, only string, rounds, cpu int, write string) error {
	if os.Getuid() != 0 {
		return errNotRoot
	}
	if write != "" && (quick || only != "") {
		return errIncomplete
	}
	wanted, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if quick {
		rounds = min(rounds, 3)
	}
	cpus, err := usableCPUs(cpu)
	if err != nil {
		return err
	}
	if err := settle(cpus[0]); err != nil {
		return err
	}
	s := &session{ctx: ctx, quick: quick, rounds: rounds, cpus: cpus, report: newReport(os.Stdout)}
	if s.bare, err = bareRuns(); err != nil {
		return err
	}
	s.report.machine = machine(s)
	for _, b := range benches() {
		if !wanted.MatchString(b.name) {
			continue
		}
		if err := b.run(s); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	s.report.judge(targets())
	if write == "" {
		return nil
	}
	return s.report.writeInto(write)
}
