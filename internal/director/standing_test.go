// SPDX-License-Identifier: MIT

package director

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// ruleOf is a service with servers 172.16.16.1, .2, … of these weights.
func ruleOf(t *testing.T, scheduler string, weights ...int) *lvs.VirtualService {
	t.Helper()
	lines := []string{"-A -t 172.16.16.172:80 -s " + scheduler}
	for i := len(weights) - 1; i >= 0; i-- { // the last one added comes first
		lines = append(lines, fmt.Sprintf("-a -t 172.16.16.172:80 -r 172.16.16.%d -w %d", i+1, weights[i]))
	}
	return tableOf(t, lines...).Services[0]
}

func list4(s *lvs.VirtualService) string {
	var words []string
	for _, r := range s.Servers {
		word := fmt.Sprintf("%d:%d", r.Addr.As4()[3], r.Weight)
		if r.Seed > 0 {
			word += fmt.Sprintf("+%d", r.Seed)
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func TestJudge(t *testing.T) {
	now := time.Now()
	ill := standing{ill: "connection refused"}
	drained := standing{operator: api.Operator{Wants: api.Draining}}
	ejected := standing{ejected: "too many died"}
	half := standing{weigh: weighing{heard: true, factor: 0.5, state: api.Up}}
	maint := standing{weigh: weighing{heard: true, factor: 1, state: api.Maintenance}}
	rising := func(ago time.Duration) standing { return standing{rising: now.Add(-ago)} }
	sorry := &lvs.RealServer{ServerID: lvs.ServerID{Addr: theVIP.Next(), Port: 80}, Forward: lvs.DirectRouting, Weight: 1} // .173
	slow := config.Care{SlowStart: 10 * time.Second}
	for name, c := range map[string]struct {
		scheduler string
		weights   []int
		are       map[int]standing // by the last byte of the address
		care      config.Care
		sorry     *lvs.RealServer
		was       bool
		held      map[int]float64

		listed, applied string // applied as listed if empty
		usable          bool
	}{
		"nothing known":        {weights: []int{1, 2}, was: true, listed: "1:1 2:2", usable: true},
		"ill is quiesced":      {weights: []int{1, 2}, are: map[int]standing{1: ill}, was: true, listed: "1:0 2:2", usable: true},
		"ill is removed":       {weights: []int{1, 2}, are: map[int]standing{1: ill}, care: config.Care{Remove: true}, was: true, listed: "2:2", applied: "2:2 1:0", usable: true},
		"and its connections":  {weights: []int{1, 2}, are: map[int]standing{1: ill}, care: config.Care{Remove: true, Fate: lvs.FateExpire}, was: true, listed: "2:2", usable: true},
		"a hash would choose":  {scheduler: "sh", weights: []int{1, 2}, are: map[int]standing{1: ill}, care: config.Care{Remove: true}, was: true, listed: "2:2", usable: true},
		"ejected is removed":   {weights: []int{1, 2}, are: map[int]standing{2: ejected}, care: config.Care{Remove: true}, was: true, listed: "1:1", applied: "1:1 2:0", usable: true},
		"drained is not":       {weights: []int{1, 2}, are: map[int]standing{1: drained}, care: config.Care{Remove: true}, was: true, listed: "1:0 2:2", usable: true},
		"agent's maintenance":  {weights: []int{1, 2}, are: map[int]standing{1: maint}, care: config.Care{Remove: true}, was: true, listed: "1:0 2:2", usable: true},
		"all ill":              {weights: []int{1, 2}, are: map[int]standing{1: ill, 2: ill}, was: true, listed: "1:0 2:0"},
		"all of weight 0":      {weights: []int{0, 0}, was: true, listed: "1:0 2:0"},
		"sorry server":         {weights: []int{1}, are: map[int]standing{1: ill}, sorry: sorry, was: true, listed: "173:1 1:0"},
		"sorry, not needed":    {weights: []int{1}, sorry: sorry, was: true, listed: "1:1", applied: "1:1 173:0", usable: true},
		"sorry, added, too":    {weights: []int{1, 1}, are: map[int]standing{1: ill, 2: ill}, sorry: &lvs.RealServer{ServerID: lvs.ServerID{Addr: netip.MustParseAddr("172.16.16.2"), Port: 80}, Weight: 3}, was: true, listed: "1:0 2:3"},
		"sorry, and reset":     {weights: []int{1}, care: config.Care{Fate: lvs.FateReset}, sorry: sorry, was: true, listed: "1:1", usable: true},
		"quorum lost":          {weights: []int{1, 1, 1}, are: map[int]standing{1: ill, 2: ill}, care: config.Care{QuorumUp: 3, QuorumDown: 2}, sorry: sorry, was: true, listed: "173:1 1:0 2:0 3:0"},
		"without sorry server": {weights: []int{1, 1, 1}, are: map[int]standing{1: ill, 2: ill}, care: config.Care{QuorumUp: 3, QuorumDown: 2}, was: true, listed: "1:0 2:0 3:1"},
		"quorum kept":          {weights: []int{1, 1, 1}, are: map[int]standing{1: ill}, care: config.Care{QuorumUp: 3, QuorumDown: 2}, was: true, listed: "1:0 2:1 3:1", usable: true},
		"quorum not back yet":  {weights: []int{1, 1, 1}, are: map[int]standing{1: ill}, care: config.Care{QuorumUp: 3, QuorumDown: 2}, listed: "1:0 2:1 3:1"},
		"quorum back":          {weights: []int{1, 1, 1}, care: config.Care{QuorumUp: 3, QuorumDown: 2}, listed: "1:1 2:1 3:1", usable: true},
		"half of a weight":     {weights: []int{4, 4}, are: map[int]standing{1: half}, was: true, listed: "1:2 2:4", applied: "1:200 2:400", usable: true},
		"half of 1":            {weights: []int{1, 1}, are: map[int]standing{1: half}, was: true, listed: "1:1 2:1", applied: "1:50 2:100", usable: true},
		"half, by a hash":      {scheduler: "sh", weights: []int{4, 1}, are: map[int]standing{1: half, 2: half}, was: true, listed: "1:2 2:1", usable: true},
		"just up":              {weights: []int{1, 1}, are: map[int]standing{2: rising(0)}, care: slow, was: true, held: map[int]float64{1: 100}, listed: "1:1 2:1", applied: "1:100 2:10+10", usable: true},
		"half way up":          {weights: []int{1, 1}, are: map[int]standing{2: rising(5 * time.Second)}, care: slow, was: true, held: map[int]float64{1: 100, 2: 15}, listed: "1:1 2:1", applied: "1:100 2:55+20", usable: true},
		"has more than its due": {weights: []int{1, 1}, are: map[int]standing{2: rising(0)}, care: slow, was: true, held: map[int]float64{1: 100, 2: 50},
			listed: "1:1 2:1", applied: "1:100 2:10", usable: true},
		"all are new": {weights: []int{1, 1}, are: map[int]standing{1: rising(0), 2: rising(0)}, care: slow, was: true, listed: "1:1 2:1", applied: "1:10 2:10", usable: true},
	} {
		t.Run(name, func(t *testing.T) {
			if c.scheduler == "" {
				c.scheduler = "wlc"
			}
			of := ruleOf(t, c.scheduler, c.weights...)
			id := func(n int) lvs.ServerID { return of.Servers[n-1].ServerID }
			standings := map[lvs.ServerID]*standing{}
			for n, s := range c.are {
				standings[id(n)] = &s
			}
			held := func(which lvs.ServerID) float64 { return c.held[int(which.Addr.As4()[3])] }
			e := judge(of, &c.care, c.sorry, standings, c.was, held, now)
			if c.applied == "" {
				c.applied = c.listed
			}
			if list4(e.listed) != c.listed || list4(e.applied) != c.applied || e.usable != c.usable {
				t.Errorf("listed %s, applied %s, usable %v; want %s, %s, %v", list4(e.listed), list4(e.applied), e.usable, c.listed, c.applied, c.usable)
			}
			if e.sorry != (c.sorry != nil && !c.usable) {
				t.Errorf("the sorry server stands in: %v", e.sorry)
			}
			if want := ruleOf(t, c.scheduler, c.weights...); !want.Equal(of) {
				t.Error("the rule was written to")
			}
		})
	}
}

// What counts for a condition is what an operator would have to undo first.
func TestCondition(t *testing.T) {
	all := standing{operator: api.Operator{Wants: api.Maintenance, Reason: "disk"}, ill: "refused", ejected: "died", rising: time.Now(),
		weigh: weighing{heard: true, state: api.Draining, reason: "agent"}}
	for _, c := range []struct {
		want api.Condition
		why  string
		then func()
	}{
		{api.Maintenance, "disk", func() { all.operator = api.Operator{} }},
		{api.Down, "refused", func() { all.ill = "" }},
		{api.Ejected, "died", func() { all.ejected = "" }},
		{api.Draining, "agent", func() { all.weigh = weighing{} }},
		{api.Starting, "", func() { all.rising = time.Time{} }},
		{api.Up, "", func() {}},
	} {
		if got, why := all.condition(); got != c.want || why != c.why {
			t.Errorf("%s (%s), want %s (%s)", got, why, c.want, c.why)
		}
		c.then()
	}
}

// TestSettle: what does not change is not installed again, and what does is an
// edit, after which wrr begins its round anew as after any other.
func TestSettle(t *testing.T) {
	of := ruleOf(t, "wrr", 1, 2)
	of.Edits = 5
	known := map[lvs.ServerID]*standing{}
	first := judge(of, &config.Care{}, nil, known, true, nil, time.Now())
	first.settle(&effect{}, 0)
	again := judge(of, &config.Care{}, nil, known, true, nil, time.Now())
	again.settle(&first, 1)
	if again.applied != first.applied || again.listed != first.listed {
		t.Error("the same is made anew")
	}
	known[of.Servers[0].ServerID] = &standing{ill: "x"}
	other := judge(of, &config.Care{}, nil, known, true, nil, time.Now())
	other.settle(&first, 1)
	if other.applied == first.applied || other.applied.Edits <= first.applied.Edits {
		t.Errorf("a change counts as edit %d after %d", other.applied.Edits, first.applied.Edits)
	}
}
