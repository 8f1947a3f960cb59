// SPDX-License-Identifier: MIT

package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// show is one run of the demo.
type show struct {
	Options
	*lab.Cluster
	report *report
	// claims records who says, in ARP, to have the VIP, from before the director
	// starts to the end.
	claims *lab.Tap
	// servers are the nodes whose instances are to be stopped at the end.
	servers []*lab.Node
}

// Run shows the demo and takes everything down again, unless Keep is set; also
// when ctx ends before. It returns ErrNotHeld if a proof failed, and another
// error if the demo could not be shown.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.complete(); err != nil {
		return err
	}
	s := &show{Options: o, report: newReport(o)}
	// One that is still up from before has its instances stopped properly.
	if err := Down(ctx, o); err != nil {
		return err
	}
	began := time.Now()
	if s.Cluster, err = lab.Up(ctx, lab.Options{Prefix: o.Prefix}); err != nil {
		return busy(err)
	}
	keep := false
	defer func() {
		if keep {
			err = errors.Join(err, s.Detach())
			return
		}
		// What ended ctx shall not keep us from cleaning up. And a stop that
		// fails because its start had failed is no news.
		down := s.takeDown(context.WithoutCancel(ctx))
		if _, stop := errors.AsType[*commandError](down); err == nil || !stop {
			err = errors.Join(err, down)
		}
	}()

	err = s.play(ctx)
	if ctx.Err() != nil {
		return fmt.Errorf("stopped before the end: %w", context.Cause(ctx))
	}
	if err != nil {
		return err
	}
	keep = o.Keep
	if keep {
		s.suggest()
	}
	if err := s.report.finish(time.Since(began)); err != nil {
		return err
	}
	if n := s.report.failed(); n > 0 {
		return fmt.Errorf("%w: %d of %d proofs failed", ErrNotHeld, n, len(s.report.Proofs))
	}
	return nil
}

// play is the demo's programme.
func (s *show) play(ctx context.Context) error {
	for _, act := range []func(context.Context) error{
		s.setUp,
		s.proveOneOwner,
		s.proveForwarding,
		s.proveAnyAddress,
		s.proveRefusals,
		s.drill,
		s.loseVIP,
		s.proveNobodyElseClaimed,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

// setUp does what the README tells a person to do.
func (s *show) setUp(ctx context.Context) error {
	s.report.cast(s)
	var err error
	if s.claims, err = s.TapARP(); err != nil {
		return err
	}
	s.report.title("Set up, as you would type it")
	for i, rs := range s.RealServers {
		if err := s.startServer(ctx, rs, s.method(i)); err != nil {
			return err
		}
	}
	if err := s.run(ctx, s.Director, "director", "start", "--interface", "eth0", "--vip", lab.VIP().String(), "--instance", s.instance(nil)); err != nil {
		return err
	}
	if err := s.run(ctx, s.Director, "ipvsadm", "-A", "-t", service(), "-s", "wlc"); err != nil {
		return err
	}
	for _, rs := range s.RealServers {
		if err := s.run(ctx, s.Director, "ipvsadm", "-a", "-t", service(), "-r", at(rs), "-g", "-w", "1"); err != nil {
			return err
		}
	}
	list := []string{"ipvsadm", "-L", "-n"}
	s.report.command(s.typed(s.Director, list))
	table, err := s.output(ctx, s.Director, list...)
	s.report.listing(table)
	return err
}

// startServer starts a web server on a node and makes it a real server.
func (s *show) startServer(ctx context.Context, rs *lab.Node, m Method) error {
	s.servers = append(s.servers, rs)
	if err := s.serve(ctx, rs, listens(m)); err != nil {
		return err
	}
	return s.accept(ctx, rs, m)
}

// listens is the port of a web server behind a method.
func listens(m Method) int {
	if m == Redirect {
		return mappedPort
	}
	return port
}

// accept has a real server accept the VIP's requests.
func (s *show) accept(ctx context.Context, rs *lab.Node, m Method) error {
	args := []string{"realserver", "start", "--vip", lab.VIP().String(), "--instance", s.instance(rs)}
	if m == Redirect {
		args = append(args, "--method", "redirect", "--port", fmt.Sprintf("%d/tcp:%d", port, mappedPort))
	}
	return s.run(ctx, rs, args...)
}

// instance is the name of a real server's instance, or of the director's.
func (s *show) instance(rs *lab.Node) string {
	if rs == nil {
		return strings.TrimRight(s.Prefix, "-")
	}
	return s.Prefix + rs.Name()
}

// suggest says what there is to try in a cluster that stays.
func (s *show) suggest() {
	on := func(n *lab.Node, command string) string { return "ip netns exec " + n.Namespace() + " " + command }
	s.report.suggestions([]string{
		on(s.Client, "curl http://"+lab.VIP().String()+"/"),
		on(s.Director, s.Name+" ipvsadm -Ln --stats"),
		on(s.Director, s.Name+" ipvsadm -Lnc"),
		on(s.Director, s.Name+" ipvsadm -e -t "+service()+" -r "+at(s.RealServers[1])+" -g -w 0"),
		on(s.Director, s.Name+" director status --instance "+s.instance(nil)),
		on(s.RealServers[0], s.Name+" realserver status --instance "+s.instance(s.RealServers[0])),
		s.Name + " demo down",
	})
}

// Down stops the instances of a demo that was left up, or that died, and
// removes its cluster. That there is none is no error.
func Down(ctx context.Context, o Options) error {
	if err := o.complete(); err != nil {
		return err
	}
	c, err := lab.Open(lab.Options{Prefix: o.Prefix})
	if errors.Is(err, lab.ErrNoLab) {
		s := &show{Options: o}
		return s.forget()
	}
	if err != nil {
		return busy(err)
	}
	s := &show{Options: o, Cluster: c, report: newReport(o), servers: c.RealServers}
	return s.takeDown(ctx)
}

// busy says what a lab in use means here.
func busy(err error) error {
	if errors.Is(err, lab.ErrBusy) {
		return fmt.Errorf("another `shunt demo` is at work; wait for its end, or end it with Ctrl-C (%w)", err)
	}
	return err
}

// takeDown stops everything in the order in which a person would, and removes
// the lab even if that failed.
func (s *show) takeDown(ctx context.Context) error {
	var errs []error
	stop := func(n *lab.Node, args ...string) {
		_, err := s.output(ctx, n, args...)
		errs = append(errs, err)
	}
	if s.Director != nil {
		stop(s.Director, "director", "stop", "--instance", s.instance(nil))
	}
	for _, rs := range s.servers {
		stop(rs, "realserver", "stop", "--instance", s.instance(rs))
	}
	return errors.Join(append(errs, s.Cluster.Down(), s.forget())...)
}

// forget lets nothing of this demo come back in the next.
func (s *show) forget() error {
	if s.Forget == nil {
		return nil
	}
	instances := []string{s.instance(nil)}
	for _, rs := range []string{"rs1", "rs2", elsewhereRS} {
		instances = append(instances, s.Prefix+rs)
	}
	return s.Forget(instances)
}
