// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// RuleError is a line of rules that cannot be restored.
type RuleError struct {
	Line int    // from 1
	Text string // the line, without blanks around it
	Err  error
}

// Error names the line and the reason.
func (e *RuleError) Error() string {
	return fmt.Sprintf("line %d: %s: %v", e.Line, e.Text, e.Err)
}

// Unwrap gives the reason.
func (e *RuleError) Unwrap() error { return e.Err }

// ParseRules reads rules in the format of ipvsadm -S, and mark rules: each line
// is a command line without the program's name. Empty lines and lines that begin with # say
// nothing. An error is a *RuleError, or one of r. Names are looked up in the
// system; what -S -n and WriteRules write contains none.
func ParseRules(r io.Reader) ([]lvs.Change, error) { return ParseRulesWith(SystemNames(), r) }

// ParseRulesWith is ParseRules with names that are looked up elsewhere, or, if
// they are the zero value, nowhere.
func ParseRulesWith(names Names, r io.Reader) ([]lvs.Change, error) {
	rules, err := parseRules(context.Background(), names, r)
	if err != nil {
		return nil, err
	}
	changes := make([]lvs.Change, len(rules))
	for i := range rules {
		changes[i] = rules[i].change
	}
	return changes, nil
}

// rule is a change and where it comes from.
type rule struct {
	line   int
	text   string
	change lvs.Change
}

func (r *rule) refused(err error) error {
	return &RuleError{Line: r.line, Text: r.text, Err: refused(err, r.change)}
}

func parseRules(ctx context.Context, names Names, r io.Reader) ([]rule, error) {
	var rules []rule
	specs := optionSpecs()
	in := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := in.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("reading rules: %w", err)
		}
		text := strings.TrimSpace(line)
		if text != "" && text[0] != '#' {
			change, bad := parseRule(ctx, names, specs, text)
			if bad != nil {
				return nil, &RuleError{Line: n, Text: text, Err: bad}
			}
			rules = append(rules, rule{line: n, text: text, change: change})
		}
		if err != nil {
			return rules, nil
		}
	}
}

func parseRule(ctx context.Context, names Names, specs []optionSpec, text string) (lvs.Change, error) {
	if strings.ContainsRune(text, 0) {
		return lvs.Change{}, fail("not a text")
	}
	words := strings.Fields(text)
	// ipvsadm skips its own name, so that a list of commands is a list of rules.
	words = slices.DeleteFunc(words, func(w string) bool { return w == "ipvsadm" })
	l, err := parseLine(ctx, names, specs, words)
	if errors.Is(err, errNoCommand) {
		return lvs.Change{}, &failure{code: exitRefused, text: errNoCommand.Error(), err: err}
	}
	if err != nil {
		return lvs.Change{}, err
	}
	change, ok := l.change()
	if !ok {
		return lvs.Change{}, fail("the '%v' command does not change the table, so it is no rule", l.command)
	}
	return change, nil
}

// SaveOption changes how WriteRules writes.
type SaveOption func(*saveOptions)

type saveOptions struct{ creationOrder bool }

// CreationOrder writes the timeouts, and services and servers in the order in
// which they were added, so that restoring into an empty table gives the same
// table: the schedulers walk the servers in that order. ipvsadm -S sorts, and
// does not save timeouts.
func CreationOrder() SaveOption { return func(o *saveOptions) { o.creationOrder = true } }

// WriteRules writes t in the format of ipvsadm -S -n; mark rules, which ipvsadm
// does not have, come first. ParseRules reads it back.
func WriteRules(w io.Writer, t *lvs.Table, opts ...SaveOption) error {
	var o saveOptions
	for _, set := range opts {
		set(&o)
	}
	p := newPrinter(context.Background(), w, Names{}, true)
	if o.creationOrder {
		p.printf("--set %d %d %d\n", t.Timeouts.TCP, t.Timeouts.TCPFin, t.Timeouts.UDP)
	}
	writeRules(p, t, o)
	if err := p.Flush(); err != nil {
		return fmt.Errorf("writing rules: %w", err)
	}
	return nil
}

// WriteChanges writes changes as command lines, one each, without names: what
// ParseRules reads as the same changes.
func WriteChanges(w io.Writer, changes []lvs.Change) error {
	p := newPrinter(context.Background(), w, Names{}, true)
	for i := range changes {
		if err := writeChange(p, &changes[i]); err != nil {
			return fmt.Errorf("writing changes: %w", err)
		}
	}
	if err := p.Flush(); err != nil {
		return fmt.Errorf("writing changes: %w", err)
	}
	return nil
}

func writeChange(p *printer, c *lvs.Change) error {
	s, r := &c.Service, &c.Server
	switch c.Operation {
	case lvs.AddService:
		writeService(p, "-A", s)
	case lvs.EditService:
		writeService(p, "-E", s)
	case lvs.DeleteService:
		p.printf("-D %s\n", ruleName(p, s))
	case lvs.Clear:
		p.printf("-C\n")
	case lvs.AddServer:
		writeServer(p, "-a", s, r)
	case lvs.EditServer:
		writeServer(p, "-e", s, r)
	case lvs.DeleteServer:
		p.printf("-d %s -r %s\n", ruleName(p, s), p.endpoint(r.Addr, r.Port, s.Protocol))
	case lvs.SetTimeouts:
		p.printf("--set %d %d %d\n", c.Timeouts.TCP, c.Timeouts.TCPFin, c.Timeouts.UDP)
	case lvs.AddMark:
		writeMark(p, "--add-mark", c.Mark)
	case lvs.DeleteMark:
		writeMark(p, "--delete-mark", c.Mark)
	case lvs.AddDeny:
		writeDeny(p, "--add-deny", s, c.Deny)
	case lvs.DeleteDeny:
		writeDeny(p, "--delete-deny", s, c.Deny)
	default: // it would be lost at the next start
		return fmt.Errorf("there is no command line for the operation %v", c.Operation)
	}
	return nil
}

func writeDeny(p *printer, command string, s *lvs.VirtualService, prefix netip.Prefix) {
	p.printf("%s %v %s\n", command, prefix, ruleName(p, s))
}

func writeService(p *printer, command string, s *lvs.VirtualService) {
	p.printf("%s %s -s %s%s\n", command, ruleName(p, s), s.Scheduler, ruleFlags(s))
}

func writeServer(p *printer, command string, s *lvs.VirtualService, r *lvs.RealServer) {
	p.printf("%s %s -r %s %s -w %d%s\n", command, ruleName(p, s), p.endpoint(r.Addr, r.Port, s.Protocol),
		forwardOption(r.Forward), r.Weight, serverOptions(r))
}

func writeMark(p *printer, command string, m lvs.MarkRule) {
	p.printf("%s %d %s %s\n", command, m.Mark, protocolOption(m.Protocol), p.listeners(m))
}

func save(ctx context.Context, env Env, numeric bool) error {
	t, err := env.Director.Table(ctx)
	if err != nil {
		return err
	}
	p := newPrinter(ctx, env.Stdout, env.Names, numeric)
	writeRules(p, t, saveOptions{})
	return p.Flush()
}

func writeRules(p *printer, t *lvs.Table, o saveOptions) {
	services, marks := slices.Clone(t.Services), slices.Clone(t.Marks)
	if !o.creationOrder {
		mergeSort(services, compareServices)
		slices.SortFunc(marks, compareMarks)
	}
	// A service by mark is refused as long as no packet has the mark.
	for _, m := range marks {
		writeMark(p, "--add-mark", m)
	}
	for _, s := range services {
		writeService(p, "-A", s)
		for _, prefix := range s.Deny {
			writeDeny(p, "--add-deny", s, prefix)
		}
		servers := slices.Clone(s.Servers)
		if o.creationOrder {
			slices.Reverse(servers) // the table has the newest first
		} else {
			mergeSort(servers, compareServers)
		}
		for i := range servers {
			writeServer(p, "-a", s, &servers[i])
		}
	}
}

func ruleName(p *printer, s *lvs.VirtualService) string {
	if s.Mark != 0 {
		if s.Mark6 {
			return fmt.Sprintf("-f %d -6", s.Mark)
		}
		return fmt.Sprintf("-f %d", s.Mark)
	}
	return protocolOption(s.Protocol) + " " + p.endpoint(s.Addr, s.Port, s.Protocol)
}

func protocolOption(p lvs.Protocol) string {
	switch p {
	case lvs.UDP:
		return "-u"
	case lvs.SCTP:
		return "--sctp-service"
	}
	return "-t"
}

func ruleFlags(s *lvs.VirtualService) string {
	text := ""
	if s.Persistent() {
		text += fmt.Sprintf(" -p %d", s.Timeout)
		if mask, special := netmask(s); special {
			text += " -M " + mask
		}
	}
	if s.Engine != "" {
		text += " --pe " + s.Engine
	}
	if s.Flags&lvs.FlagOnePacket != 0 {
		text += " -o"
	}
	if names := SchedulerFlagNames(s.Scheduler, s.Flags); names != "" {
		text += " -b " + names
	}
	for _, set := range s.Policy.Settings() {
		text += " --" + set.Name + " " + set.Value
	}
	return text
}

func forwardOption(f lvs.Forward) string {
	switch f {
	case lvs.Masquerade:
		return "-m"
	case lvs.Tunnel:
		return "-i"
	}
	return "-g"
}

func serverOptions(r *lvs.RealServer) string {
	text := ""
	if r.Upper != 0 {
		text += fmt.Sprintf(" -x %d", r.Upper)
	}
	if r.Lower != 0 {
		text += fmt.Sprintf(" -y %d", r.Lower)
	}
	if r.Forward != lvs.Tunnel {
		return text
	}
	text += " --tun-type " + r.Tunnel.Type
	if r.Tunnel.Type == "gue" {
		text += fmt.Sprintf(" --tun-port %d", r.Tunnel.Port)
	}
	if r.Tunnel.Type == "ipip" {
		return text
	}
	switch r.Tunnel.Flags {
	case lvs.TunnelChecksum:
		return text + " --tun-csum"
	case lvs.TunnelRemoteChecksum:
		return text + " --tun-remcsum"
	}
	return text + " --tun-nocsum"
}

// restore makes all the changes that the rules ask for, after clearing the
// table if clear is set, or none.
func restore(ctx context.Context, env Env, clear bool) error {
	text, err := io.ReadAll(env.Stdin)
	if err != nil {
		return fmt.Errorf("reading rules: %w", err)
	}
	rules, err := parseRules(ctx, env.Names, bytes.NewReader(text))
	if err != nil {
		return unchanged(err)
	}
	if clear {
		rules = slices.Insert(rules, 0, rule{change: lvs.Change{Operation: lvs.Clear}})
	}
	if len(rules) == 0 {
		return nil
	}
	changes := make([]lvs.Change, len(rules))
	for i := range rules {
		changes[i] = rules[i].change
	}
	err = env.Director.Change(ctx, changes)
	if err == nil {
		return nil
	}
	var which *lvs.ChangeError
	if errors.As(err, &which) && which.Index >= 0 && which.Index < len(rules) && rules[which.Index].line > 0 {
		return unchanged(rules[which.Index].refused(err))
	}
	return err
}

// unchanged adds to a line's error that no other line was carried out either,
// and takes over its exit code.
func unchanged(err error) error {
	code := exitRefused
	if f := (*failure)(nil); errors.As(err, &f) {
		code = f.code
	}
	return &failure{code: code, text: err.Error() + " (nothing was changed)", err: err}
}
