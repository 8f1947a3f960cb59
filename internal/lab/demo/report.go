// SPDX-License-Identifier: MIT

package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// report is what the demo has to say: written as it happens, or kept for one
// JSON document, whose form the tags are.
type report struct {
	out    io.Writer // discards when the report is JSON
	json   io.Writer // nil when it is not
	colour bool
	hushed bool

	VIP      string   `json:"vip"`
	Nodes    []node   `json:"nodes"`
	Commands []string `json:"commands"`
	Proofs   []proof  `json:"proofs"`
	Try      []string `json:"try,omitempty"`
	Held     bool     `json:"held"`
	Seconds  float64  `json:"seconds"`
}

type node struct {
	Name      string `json:"name"`
	Address   string `json:"address"`
	MAC       string `json:"mac"`
	Namespace string `json:"namespace"`
	Note      string `json:"note,omitempty"`
}

type proof struct {
	Name    string   `json:"name"`
	Holds   bool     `json:"holds"`
	Says    string   `json:"says"`
	Details []string `json:"details,omitempty"`
}

func newReport(o Options) *report {
	r := &report{out: o.Out, colour: o.Colour}
	if o.JSON {
		r.out, r.json = io.Discard, o.Out
	}
	return r
}

const picture = `
            request                    same packet, other MAC
   client ───────────▶ director ──────────────────────────▶ rs1, rs2
     ▲                                                         │
     └─────────────────────────────────────────────────────────┘
                       reply, straight to the client
`

// cast presents the nodes.
func (r *report) cast(s *show) {
	r.VIP = lab.VIP().String()
	fmt.Fprintln(r.out, "LVS direct routing, in network namespaces of this machine")
	fmt.Fprint(r.out, picture, "\n")
	for _, n := range s.Nodes() {
		p := node{n.Name(), n.Addr().String(), n.MAC().String(), n.Namespace(), ""}
		switch n {
		case s.Client:
		case s.Director:
			p.Note = "VIP " + r.VIP
		default:
			for i, rs := range s.RealServers {
				if rs == n {
					p.Note = "method " + string(s.method(i))
				}
			}
		}
		r.Nodes = append(r.Nodes, p)
		fmt.Fprintln(r.out, strings.TrimRight(fmt.Sprintf("  %-9s %-15s %-18s namespace %-15s %s", p.Name, p.Address, p.MAC, p.Namespace, p.Note), " "))
	}
}

func (r *report) title(s string) { fmt.Fprintf(r.out, "\n%s\n", r.paint("1", s)) }

// quiet keeps commands out of sight that would only distract; a JSON report has
// them all the same.
func (r *report) quiet(on bool) { r.hushed = on }

func (r *report) command(typed string) {
	r.Commands = append(r.Commands, typed)
	if !r.hushed {
		fmt.Fprintf(r.out, "  %s\n", r.paint("2", "# "+typed))
	}
}

// nameWidth holds the longest name of a proof.
const nameWidth = 18

func (r *report) proof(name string, holds bool, says string) {
	r.Proofs = append(r.Proofs, proof{Name: name, Holds: holds, Says: says})
	mark := r.paint("32", "✓")
	if !holds {
		mark = r.paint("31", "✗")
	}
	fmt.Fprintf(r.out, "  %s %-*s %s\n", mark, nameWidth, name, says)
}

// textWidth is where details are broken, in characters.
const textWidth = 84

// detail adds to the proof before; it may have several lines.
func (r *report) detail(s string) {
	p := &r.Proofs[len(r.Proofs)-1]
	for line := range strings.Lines(s) {
		line = strings.TrimRight(line, "\n")
		p.Details = append(p.Details, line)
		for _, part := range wrap(line, textWidth) {
			fmt.Fprintf(r.out, "    %*s %s\n", nameWidth, "", part)
		}
	}
}

// wrap breaks a line at spaces. Spaces within it that are there for alignment stay.
func wrap(line string, width int) (parts []string) {
	for len(line) > width {
		at := strings.LastIndexByte(line[:width+1], ' ')
		if at <= 0 {
			break
		}
		parts = append(parts, line[:at])
		line = line[at+1:]
	}
	return append(parts, line)
}

// listing shows what a command printed.
func (r *report) listing(s string) {
	if r.hushed {
		return
	}
	for line := range strings.Lines(s) {
		fmt.Fprintf(r.out, "    %s\n", strings.TrimRight(line, " \n"))
	}
}

func (r *report) suggestions(commands []string) {
	r.Try = commands
	r.title("The cluster is still up. To try:")
	for _, c := range commands {
		fmt.Fprintf(r.out, "  %s\n", c)
	}
}

func (r *report) failed() (n int) {
	for _, p := range r.Proofs {
		if !p.Holds {
			n++
		}
	}
	return n
}

// finish ends the report.
func (r *report) finish(took time.Duration) error {
	r.Held = r.failed() == 0
	r.Seconds = took.Seconds()
	if r.json != nil {
		e := json.NewEncoder(r.json)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	if r.Held {
		_, err := fmt.Fprintf(r.out, "\n%s in %.1f s\n", r.paint("32", fmt.Sprintf("All %d proofs held", len(r.Proofs))), r.Seconds)
		return err
	}
	return nil // the error says what there is to say
}

// paint wraps s in a terminal's colour.
func (r *report) paint(code, s string) string {
	if !r.colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// thousands writes a number with separators.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return thousands(n) + " " + what
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
