// SPDX-License-Identifier: MIT

package director

import (
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/agent"
	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

func TestWeighing(t *testing.T) {
	now := time.Now()
	web := lvs.ServiceID{Protocol: lvs.TCP, Addr: theVIP, Port: 80}
	bounds := &config.Weigh{Least: 10, Most: 200}
	for name, c := range map[string]struct {
		report agent.Report
		answer *agent.Answer // HAProxy's
		was    weighing
		want   weighing
	}{
		"idle":                 {report: agent.Report{State: agent.Up, At: now}, want: weighing{heard: true, factor: 2, state: api.Up}},
		"full":                 {report: agent.Report{State: agent.Up, Load: 100, At: now}, want: weighing{heard: true, factor: 0.1, state: api.Up}},
		"half":                 {report: agent.Report{State: agent.Up, Load: 50, At: now}, want: weighing{heard: true, factor: 1.05, state: api.Up}},
		"drained":              {report: agent.Report{State: agent.Drain, Load: 100, At: now}, want: weighing{heard: true, factor: 0.1, state: api.Draining, reason: "its agent says so"}},
		"in maintenance":       {report: agent.Report{State: agent.Maint, At: now}, want: weighing{heard: true, factor: 2, state: api.Maintenance, reason: "its agent says so"}},
		"load unknown":         {report: agent.Report{State: agent.Up, Problem: "no such file", At: now}, want: weighing{heard: true, factor: 1, state: api.Up}},
		"load no longer known": {report: agent.Report{State: agent.Up, Problem: "no such file", At: now}, was: weighing{heard: true, factor: 0.3}, want: weighing{heard: true, factor: 0.3, state: api.Up}},
		"haproxy, nothing":     {answer: &agent.Answer{Percent: -1}, want: weighing{heard: true, factor: 1, state: api.Up}},
		"haproxy, half":        {answer: &agent.Answer{Percent: 50}, want: weighing{heard: true, factor: 0.5, state: api.Up}},
		"haproxy, too little":  {answer: &agent.Answer{Percent: 1}, want: weighing{heard: true, factor: 0.1, state: api.Up}},
		"haproxy, none":        {answer: &agent.Answer{Percent: 0}, want: weighing{heard: true, factor: 1, state: api.Draining, reason: "its agent says so"}},
		"haproxy, down":        {answer: &agent.Answer{Percent: 75, Health: "down", Reason: "disk"}, want: weighing{heard: true, factor: 0.75, state: api.Down, reason: "its agent says so; disk"}},
		"haproxy, maint":       {answer: &agent.Answer{Percent: 75, Admin: "maint"}, want: weighing{heard: true, factor: 0.75, state: api.Maintenance, reason: "its agent says so"}},
	} {
		a := &asked{steady: map[lvs.ServiceID]*agent.Steady{}}
		key := agentKey{haproxy: c.answer != nil}
		if c.answer != nil {
			a.answer = *c.answer
		}
		if got := a.weighing(web, bounds, key, c.report, c.was); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
