// SPDX-License-Identifier: MIT

package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/lab"
)

// clients: real ones, wrk and iperf3, of one real server: straight, and by way of
// a director in each attach mode. All is as users have it: the shunt that they
// get, nginx, a service with that one server.
func clients(s *session) error {
	err := s.clientsIn("Real clients", "Frames as they are on a wire: none longer than the MTU, all with their checksums.",
		lab.Options{Prefix: "bench-clients-", RealServers: 1}, dataplane.Native, dataplane.Generic, dataplane.TC)
	if err != nil || s.quick {
		return err
	}
	return s.clientsIn("Real clients, offloads on",
		"Interfaces as the kernel makes them: TCP comes in pieces of up to 64 KiB, their checksums not filled in. tc takes them whole; XDP does not.",
		lab.Options{Prefix: "bench-offloads-", RealServers: 1, Offload: true}, dataplane.TC)
}

// work is something that a client does with a server for so many seconds.
type work struct {
	name    string
	unit    float64 // of what is counted
	latency bool    // it is measured
	command func(server string, seconds int) []string
	read    func(said []byte, seconds int) (outcome, error)
}

// outcome is what a client says of its work.
type outcome struct {
	rate         float64 // a second
	packets      float64 // that it must have sent at least
	median, tail float64 // ms: how soon half of the answers came, and 99 %
}

func works() []work {
	return []work{
		{"requests/s", 1, true, wrk("Connection: keep-alive"), readWrk},
		{"Gbit/s to the server", 1e9, false, iperf(), readIperf},
		{"requests/s, a connection for each", 1, true, wrk("Connection: close"), readWrk},
		{"Gbit/s from the server", 1e9, false, iperf("--reverse"), readIperf},
	}
}

func wrk(header string) func(string, int) []string {
	return func(server string, seconds int) []string {
		return []string{"wrk", "--threads", "1", "--connections", "16", "--latency", "--timeout", "5s",
			"--duration", fmt.Sprintf("%ds", seconds), "--header", header, "http://" + server + "/"}
	}
}

func iperf(more ...string) func(string, int) []string {
	return func(server string, seconds int) []string {
		return append([]string{"iperf3", "--client", server, "--json", "--connect-timeout", "5000", "--time", strconv.Itoa(seconds)}, more...)
	}
}

// What wrk prints, among others.
var (
	wrkMedian = regexp.MustCompile(`(?m)^ +50% +(\S+)$`)
	wrkTail   = regexp.MustCompile(`(?m)^ +99% +(\S+)$`)
	wrkRate   = regexp.MustCompile(`(?m)^Requests/sec: +(\S+)$`)
)

func readWrk(said []byte, seconds int) (o outcome, err error) {
	fail := func() (outcome, error) { return outcome{}, fmt.Errorf("wrk says:\n%s", said) }
	if s := string(said); strings.Contains(s, "Socket errors") || strings.Contains(s, "Non-2xx") {
		return fail()
	}
	rate, median, tail := wrkRate.FindSubmatch(said), wrkMedian.FindSubmatch(said), wrkTail.FindSubmatch(said)
	if rate == nil || median == nil || tail == nil {
		return fail()
	}
	if o.rate, err = strconv.ParseFloat(string(rate[1]), 64); err != nil || o.rate == 0 {
		return fail()
	}
	for to, text := range map[*float64]string{&o.median: string(median[1]), &o.tail: string(tail[1])} {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fail()
		}
		*to = float64(d) / 1e6
	}
	o.packets = o.rate * float64(seconds) * 0.9 // at the ends it is not the whole second
	return o, nil
}

// readIperf reads what arrived, as the receiver counted it.
func readIperf(said []byte, _ int) (outcome, error) {
	var report struct {
		Error string `json:"error"`
		End   struct {
			Sent     struct{ Sender bool } `json:"sum_sent"`
			Received struct {
				Bits  float64 `json:"bits_per_second"`
				Bytes float64
			} `json:"sum_received"`
		}
	}
	err := json.Unmarshal(said, &report)
	if err != nil || report.Error != "" || report.End.Received.Bits == 0 {
		return outcome{}, fmt.Errorf("iperf3 says:\n%s", said)
	}
	o := outcome{rate: report.End.Received.Bits, packets: 1}
	if report.End.Sent.Sender { // the client
		o.packets = report.End.Received.Bytes / 1500
	}
	return o, nil
}

// clientsIn measures all ways in turn in each of many rounds, and makes a table.
func (s *session) clientsIn(title, about string, o lab.Options, modes ...dataplane.Mode) error {
	p, err := s.openPremises(o, modes)
	if err != nil {
		return err
	}
	defer p.Close()
	const seconds = 1
	works, rounds := works(), s.rounds
	if s.quick {
		works, rounds = works[:2], 1
	}
	found := make([][]results, len(p.ways))
	for i := range found {
		found[i] = make([]results, len(works))
	}
	for round := range rounds {
		for k, does := range works {
			for i := range p.ways {
				i = (i + round) % len(p.ways)
				got, err := p.visit(p.ways[i], does, seconds)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", p.ways[i].name, does.name, err)
				}
				found[i][k] = append(found[i][k], got)
			}
		}
	}
	columns := []string{""}
	for _, does := range works {
		columns = append(columns, does.name, "÷ straight")
		if does.latency {
			columns = append(columns, "ms, half of them and 99 %")
		}
	}
	t := s.report.table(title, about, columns...)
	for i, w := range p.ways {
		cells := []string{w.name}
		for k, does := range works {
			mine := found[i][k]
			rates := mine.of(func(o outcome) float64 { return o.rate })
			straight := found[0][k].of(func(o outcome) float64 { return o.rate })
			cells = append(cells, number(median(rates)/does.unit), times(ratio(rates, straight)))
			if does.latency {
				cells = append(cells, fmt.Sprintf("%.2f, %.2f", median(mine.of(func(o outcome) float64 { return o.median })),
					median(mine.of(func(o outcome) float64 { return o.tail }))))
			}
		}
		t.row(cells...)
	}
	return nil
}

// results are those of the rounds.
type results []outcome

func (r results) of(what func(outcome) float64) series {
	out := make(series, len(r))
	for i := range r {
		out[i] = what(r[i])
	}
	return out
}

// number has no more digits than mean something.
func number(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
