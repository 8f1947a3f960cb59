// SPDX-License-Identifier: MIT

package config

import (
	"strconv"
	"strings"
	"time"
)

const second = time.Second

// What is given counts, else what is said for more than this one, else the
// default.

func (w word) or(d string) string {
	if w.given() {
		return w.V
	}
	return d
}

func (d duration) or(v time.Duration) time.Duration {
	if d.given() {
		return d.V
	}
	return v
}

func (v number) or(d int64) int64 {
	if v.given() {
		return v.V
	}
	return d
}

func (f flag) or(d bool) bool {
	if f.given() {
		return f.V
	}
	return d
}

func (s share) or(d float64) float64 {
	if s.given() {
		return s.V
	}
	return d
}

// first is the first value that is given, or one that is not.
func first[T interface{ given() bool }](all ...T) T {
	for _, v := range all {
		if v.given() {
			return v
		}
	}
	return all[len(all)-1]
}

// firstOf is the first mapping that is given, or nil.
func firstOf[T any](all ...*T) *T {
	for _, v := range all {
		if v != nil {
			return v
		}
	}
	return nil
}

// inherit is what counts for a service: its own keys, and those of defaults for
// what it leaves out. A mapping counts as a whole, except check, whose keys are
// inherited one by one.
func (k careKeys) inherit(d *careKeys) careKeys {
	return careKeys{
		Scheduler:   first(k.Scheduler, d.Scheduler),
		Policy:      firstOf(k.Policy, d.Policy),
		SourceLimit: first(k.SourceLimit, d.SourceLimit),
		Checks:      first(k.Checks, d.Checks),
		Check:       &timingKeys{timing: k.Check.values().inherit(d.Check.values())},
		Require:     first(k.Require, d.Require),
		OnFailure:   first(k.OnFailure, d.OnFailure),
		Connections: first(k.Connections, d.Connections),
		Quorum:      firstOf(k.Quorum, d.Quorum),
		Withdraw:    first(k.Withdraw, d.Withdraw),
		Alpha:       first(k.Alpha, d.Alpha),
		SlowStart:   first(k.SlowStart, d.SlowStart),
		Flap:        firstOf(k.Flap, d.Flap),
		Passive:     firstOf(k.Passive, d.Passive),
		Agent:       firstOf(k.Agent, d.Agent),
	}
}

func (k *timingKeys) values() timing {
	if k == nil {
		return timing{}
	}
	return k.timing
}

func (t timing) inherit(d timing) timing {
	return timing{
		Interval: first(t.Interval, d.Interval),
		Timeout:  first(t.Timeout, d.Timeout),
		Rise:     first(t.Rise, d.Rise),
		Fall:     first(t.Fall, d.Fall),
		Jitter:   first(t.Jitter, d.Jitter),
		Target:   first(t.Target, d.Target),
	}
}

func vlanOf(s string) VLAN {
	parent, id, _ := strings.Cut(s, "/")
	n, _ := strconv.ParseUint(id, 10, 16)
	return VLAN{Parent: parent, ID: uint16(n)}
}
