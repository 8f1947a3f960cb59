// SPDX-License-Identifier: MIT

package director

import (
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// configured is a configuration of one service with all servers of a rule, each
// with a check.
func configured(of *lvs.VirtualService, care config.Care, checks ...health.Check) *config.Config {
	s := config.Service{Name: "web", Service: *of, Care: care}
	for _, r := range of.Servers {
		s.Servers = append(s.Servers, config.Server{Server: r, Checks: checks})
	}
	return &config.Config{Services: []config.Service{s}}
}

// What is known of servers goes on with another configuration, as far as that one
// can still find it out; a configuration that is refused must not have changed it.
func TestCaresKeepWhatTheyKnow(t *testing.T) {
	of := ruleOf(t, "wlc", 1, 1, 1)
	check := health.Check{Kind: health.TCP}
	known := cares(configured(of, config.Care{Passive: &health.Passive{}}, check), nil)
	c := known[of.ServiceID]
	ids := []lvs.ServerID{of.Servers[0].ServerID, of.Servers[1].ServerID, of.Servers[2].ServerID}
	c.standing(ids[0]).ill = "refused"
	c.standing(ids[1]).operator = api.Operator{Wants: api.Maintenance}
	c.standing(ids[2]).ejected = "died"

	same := cares(configured(of, config.Care{Passive: &health.Passive{}}, check), known)[of.ServiceID]
	if same.standings[ids[0]].ill == "" || same.standings[ids[1]].operator.Wants == "" || same.standings[ids[2]].ejected == "" {
		t.Error("something is forgotten")
	}
	same.standings[ids[0]].ill = ""
	if c.standings[ids[0]].ill == "" {
		t.Error("what was known is written to")
	}
	unchecked := cares(configured(of, config.Care{}), known)[of.ServiceID]
	if s := unchecked.standings; s[ids[0]].ill != "" || s[ids[2]].ejected != "" || s[ids[1]].operator.Wants == "" {
		t.Errorf("without checks and passive health: %+v %+v %+v", s[ids[0]], s[ids[1]], s[ids[2]])
	}
	// target: rip opts out of the guard.
	c.standing(ids[0]).exposed = "it answers ARP"
	if s := cares(configured(of, config.Care{}, check), known)[of.ServiceID].standings[ids[0]]; s.exposed == "" {
		t.Error("a broken guard is forgotten")
	}
	if s := cares(configured(of, config.Care{}, health.Check{Kind: health.TCP, ToRIP: true}), known)[of.ServiceID].standings[ids[0]]; s.exposed != "" {
		t.Errorf("of a server whose guard nobody asks: %+v", s)
	}
	without := cares(&config.Config{}, known)[of.ServiceID]
	if without == nil || len(without.standings) != 1 || without.standings[ids[1]].operator.Wants != api.Maintenance {
		t.Errorf("without the service, what operators said: %+v", without)
	}
	if n := cares(&config.Config{}, map[lvs.ServiceID]*cared{of.ServiceID: newCared(of.ServiceID)}); len(n) != 0 {
		t.Errorf("of nothing: %v", n)
	}
}

func TestServersThatCome(t *testing.T) {
	now := time.Now()
	check := health.Check{Kind: health.TCP}
	old, both := ruleOf(t, "wlc", 1), ruleOf(t, "wlc", 1, 1)
	first, second := both.Servers[0].ServerID, both.Servers[1].ServerID
	table := func(s *lvs.VirtualService) *lvs.Table {
		x := lvs.NewTable()
		x.Services = []*lvs.VirtualService{s}
		return x
	}
	for name, c := range map[string]struct {
		care       config.Care
		checks     []health.Check
		running    bool
		remembered map[api.Member]remembered

		ill, rising bool // of the second
	}{
		"at a start":                    {care: config.Care{SlowStart: time.Minute}, checks: []health.Check{check}},
		"later":                         {care: config.Care{SlowStart: time.Minute}, checks: []health.Check{check}, running: true, rising: true},
		"alpha":                         {care: config.Care{Alpha: true, SlowStart: time.Minute}, checks: []health.Check{check}, running: true, ill: true},
		"alpha without checks":          {care: config.Care{Alpha: true}, running: true},
		"alpha, and was well":           {care: config.Care{Alpha: true}, checks: []health.Check{check}, remembered: map[api.Member]remembered{{Service: both.ServiceID, Server: second}: {Checked: true}}},
		"was ill":                       {checks: []health.Check{check}, remembered: map[api.Member]remembered{{Service: both.ServiceID, Server: second}: {Checked: true, Ill: "x"}}, ill: true},
		"was ill, is no longer checked": {remembered: map[api.Member]remembered{{Service: both.ServiceID, Server: second}: {Checked: true, Ill: "x"}}},
	} {
		d := &director{cares: cares(configured(both, c.care, c.checks...), nil), remembered: c.remembered}
		if c.running {
			d.table = table(old)
			d.cares[both.ServiceID].standing(first)
		}
		d.noteServers(table(both), now)
		s := d.cares[both.ServiceID].standings[second]
		if s == nil || (s.ill != "") != c.ill || !s.rising.IsZero() != c.rising {
			t.Errorf("%s: %+v", name, s)
		}
		if s := d.cares[both.ServiceID].standings[first]; c.running && (s.ill != "" || !s.rising.IsZero()) {
			t.Errorf("%s: who was there before is %+v", name, s)
		}
	}
}
