// SPDX-License-Identifier: MIT

package main

import (
	"io"
	"strings"
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

// TestLiveIsChecked: what is sent arrives, by the director, the yardsticks and
// nftables; and what goes another way than it was meant to is no result.
func TestLiveIsChecked(t *testing.T) {
	labtest.NeedRoot(t)
	cpus, err := usableCPUs(-1)
	if err != nil {
		t.Fatal(err)
	}
	s := &session{ctx: t.Context(), cpus: cpus, report: newReport(io.Discard)}
	w, err := s.openWire(labtest.Prefix(t) + "-")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	lanes := w.lanes()
	cpus = lanes[len(lanes)-1]
	if err := w.populate(liveFlows, cpus); err != nil {
		t.Fatal(err)
	}
	known, err := w.generator(traffic{frame: ack(web), flows: liveFlows}, cpus)
	if err != nil {
		t.Fatal(err)
	}
	defer known.Close()
	if err := w.sinkOf(known); err != nil {
		t.Fatal(err)
	}
	director, tx, forward := w.racers[0], w.racers[1], w.racers[4]
	for _, r := range w.racers[:5] {
		if rate, err := w.heat(known, r, "forward_connection"); err != nil || rate <= 0 {
			t.Errorf("%s: %v packets a second: %v", r.name, rate, err)
		}
	}
	tx.servers = 2
	forward.rules = ""
	for name, c := range map[string]struct {
		racer
		reason, want string
	}{
		"another verdict":           {director, "forward_new", "forward_connection"},
		"too few servers":           {tx, "", "for 1 servers"},
		"all is left to the kernel": {forward, "", errNoneArrived.Error()},
	} {
		if _, err := w.heat(known, c.racer, c.reason); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
