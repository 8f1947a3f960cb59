// SPDX-License-Identifier: MIT

package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/script"
)

// load is what a measurement finds.
type load struct{ percent, connections int }

// measurement measures once. It keeps what it has to know of the last time.
type measurement func(context.Context) (load, error)

// errNotYet: what is measured is a difference, and this is the first time.
var errNotYet = errors.New("not measured yet")

func (o Options) measurement() (measurement, error) {
	switch o.Report {
	case CPU:
		return cpuLoad(), nil
	case Connections:
		if len(o.VIPs) == 0 && len(o.Ports) == 0 {
			return nil, errors.New("connections are counted by VIP or port, and neither is given")
		}
		return func(context.Context) (load, error) {
			n, err := countConnections(o.VIPs, o.Ports)
			return load{min(n*100/o.Full, MaxLoad), n}, err
		}, nil
	case Script:
		if err := script.Safe(first(o.Command), o.User); err != nil {
			return nil, err
		}
		return o.ask, nil
	}
	return nil, fmt.Errorf("report %q: one of %s", o.Report, strings.Join(Kinds(), ", "))
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// ask asks the operator's program.
func (o Options) ask(ctx context.Context) (load, error) {
	ctx, cancel := context.WithTimeout(ctx, max(o.Interval, 5*time.Second))
	defer cancel()
	out, err := script.Command{Args: o.Command, User: o.User}.Run(ctx)
	if err != nil {
		return load{}, err
	}
	n, err := parsePercent(out)
	return load{percent: n}, err
}

// parsePercent reads the first word of an output, as "37", "37%" or "36.6".
func parsePercent(output []byte) (int, error) {
	words := strings.Fields(string(output))
	if len(words) == 0 {
		return 0, errors.New("the program printed nothing: a load in percent is expected")
	}
	f, err := strconv.ParseFloat(strings.TrimSuffix(words[0], "%"), 64)
	if err != nil || math.IsNaN(f) || f < 0 {
		return 0, fmt.Errorf("the program printed %q: a load in percent is expected", script.FirstLine([]byte(words[0])))
	}
	return int(math.Round(min(f, MaxLoad))), nil
}

// measureAll measures at the agent's pace.
func (a *Agent) measureAll(ctx context.Context) {
	tick := time.NewTicker(a.Interval)
	defer tick.Stop()
	for {
		found, err := a.measure(ctx)
		if ctx.Err() != nil {
			return
		}
		a.note(found, err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// note keeps what was found. The log says when a problem comes or goes.
func (a *Agent) note(found load, err error) {
	r := Report{State: Up, Kind: a.Report, Load: found.percent, Connections: found.connections, At: time.Now()}
	if err != nil {
		r.Load, r.Connections, r.Problem = 0, 0, err.Error()
	}
	a.mu.Lock()
	before := a.latest.Problem
	a.latest = r
	a.mu.Unlock()
	switch {
	case r.Problem == before || errors.Is(err, errNotYet):
	case r.Problem != "":
		a.Log.Warn("the load cannot be measured", "report", a.Report, "reason", r.Problem)
	case before != errNotYet.Error():
		a.Log.Info("the load is measured again", "report", a.Report)
	}
}

// ticks are the CPUs' times since boot.
type ticks struct{ busy, all uint64 }

// cpuLoad gives the busy share of all CPUs since it was last called.
func cpuLoad() measurement {
	var before ticks
	return func(context.Context) (load, error) {
		text, err := os.ReadFile("/proc/stat")
		if err != nil {
			return load{}, err
		}
		now, err := parseStat(text)
		if err != nil {
			return load{}, fmt.Errorf("/proc/stat: %w", err)
		}
		last := before
		before = now
		switch {
		case last.all == 0:
			return load{}, errNotYet
		case now.all <= last.all: // no time went by, or a counter went back
			return load{}, errNotYet
		}
		busy := uint64(0)
		if now.busy > last.busy {
			busy = min(now.busy-last.busy, now.all-last.all)
		}
		return load{percent: int(math.Round(float64(busy) * 100 / float64(now.all-last.all)))}, nil
	}
}

// parseStat reads the line of all CPUs (proc(5), /proc/stat): user nice system idle
// iowait irq softirq steal; what guests used is in user and nice already.
func parseStat(text []byte) (ticks, error) {
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return ticks{}, errors.New("it has no line of all CPUs")
	}
	var t ticks
	for i, f := range fields[1:9] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return ticks{}, err
		}
		t.all += n
		if i != 3 && i != 4 { // idle, iowait
			t.busy += n
		}
	}
	return t, nil
}
