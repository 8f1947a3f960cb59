// SPDX-License-Identifier: MIT

package lvs

import "slices"

// Scheduler is the name of a way to choose a real server, as ipvsadm -s takes
// it.
type Scheduler string

// IPVS's schedulers. Unscheduled ("none") never chooses a server.
const (
	RoundRobin              Scheduler = "rr"
	WeightedRoundRobin      Scheduler = "wrr"
	LeastConnection         Scheduler = "lc"
	WeightedLeastConnection Scheduler = "wlc"
	LocalityLeastConnection Scheduler = "lblc"
	LocalityReplicated      Scheduler = "lblcr"
	DestinationHashing      Scheduler = "dh"
	SourceHashing           Scheduler = "sh"
	ShortestExpectedDelay   Scheduler = "sed"
	NeverQueue              Scheduler = "nq"
	WeightedFailover        Scheduler = "fo"
	WeightedOverflow        Scheduler = "ovf"
	Maglev                  Scheduler = "mh"
	TwoChoices              Scheduler = "twos"
	Unscheduled             Scheduler = "none"
	DefaultScheduler                  = WeightedLeastConnection
	DefaultPersistence                = 360 // seconds: what ipvsadm's -p without a value means
	DefaultWeight                     = 1
	MaxTimeout                        = 2678400 // seconds: 31 days, ipvsadm's limit for -p and --set
)

// Schedulers lists all schedulers that exist in IPVS, in the order in which
// ipvsadm's help names them.
func Schedulers() []Scheduler {
	return []Scheduler{RoundRobin, WeightedRoundRobin, LeastConnection, WeightedLeastConnection,
		LocalityLeastConnection, LocalityReplicated, DestinationHashing, SourceHashing,
		ShortestExpectedDelay, NeverQueue, WeightedFailover, WeightedOverflow, Maglev, TwoChoices, Unscheduled}
}

// Known tells whether IPVS has a scheduler of this name.
func (s Scheduler) Known() bool { return slices.Contains(Schedulers(), s) }
