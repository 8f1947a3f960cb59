// SPDX-License-Identifier: MIT

package director

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/shunt-lvs/shunt/internal/announce"
	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// How often the loop looks by itself. Kernel events and answers to ARP and NDP
// come at once; these are for what nobody reports.
const (
	tick         = 250 * time.Millisecond // ask real servers, repeat announcements, move slow starts on
	refreshEvery = 10 * time.Second       // compare the kernel's state with ours
	refreshDelay = 100 * time.Millisecond
	patience     = time.Second // how long an answer waits for real servers to be resolved
)

// Why the loop ends.
var (
	errStopping = fmt.Errorf("%w: it is stopping", api.ErrNotRunning)
	errLeaving  = fmt.Errorf("%w: it is stopping, and its data plane goes on forwarding", api.ErrNotRunning)
)

// director is a running one. After start, its fields belong to the loop.
type director struct {
	Options
	log     *slog.Logger
	started time.Time

	journal  *link.Journal
	plane    *dataplane.Plane
	table    *lvs.Table // the rules as they were given
	listed   *lvs.Table // with the weights that count, see effect
	vips     []*vip
	uses     uses // of table
	saved    saved
	servers  map[netip.Addr]*server // by RIP
	watchers map[string]*watcher
	ifaces   map[string]*link.Interface // those in use, as last seen

	// What is known beside the rules.
	site           *site   // the configuration in force; nil: there is none
	drifted        drift   // as last found out
	before         *before // what comes back unless that is confirmed
	cares          map[lvs.ServiceID]*cared
	remembered     map[api.Member]remembered // how servers were when a predecessor ended
	dirtyStandings bool                      // they are to be saved
	kept           time.Time                 // when they last were
	unsettled      bool                      // something is to be tried again
	risen          time.Time                 // when slow starts were last moved on
	looked         time.Time                 // when it was last looked how connections begin
	checker        *health.Checker
	path           *dataplane.CheckPath // nil: no check goes through a VIP
	noWay          string               // why the path is not where it should be
	turned         turned
	history        *health.History
	notifier       *health.Notifier
	outliers       *health.Outliers
	guards         map[guarded]*guard
	agents         map[agentKey]*asked

	// editing is held by whoever changes the table and its file, outside of
	// the loop: what a change is based on must not change meanwhile.
	editing sync.Mutex

	startWith started // what the start is to begin with
	work      chan func()
	claims    chan announce.Claim
	again     <-chan time.Time // a refresh is due
	ended     chan struct{}    // closed: the loop takes no more work
	undone    chan struct{}    // closed: why and undoErr are set
	why       error            // errStopping or errLeaving
	undoErr   error
	stop      context.CancelCauseFunc
	running   sync.WaitGroup
}

// Run is the director's life: it takes the instance and the network namespace,
// puts the VIPs and the data plane in place, calls out that it is ready
// (sd_notify), and serves until ctx is done or someone stops it by the API.
// Then it undoes all that it did, except for the saved rules; or nothing, if that
// is what it was told by the API.
//
// A start that fails undoes what it did. When Run fails later, or the process
// is killed, forwarding goes on, and the next Run takes it over.
func Run(ctx context.Context, o Options) (err error) {
	if err := api.CheckName(o.Instance); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	was, err := loadSite(&o)
	if err != nil {
		return err
	}
	if err := o.validate(); err != nil {
		return err
	}
	release, err := hold(o.Places)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()

	for _, other := range LeftHere(o.Places) {
		if other != o.Instance {
			return fmt.Errorf("%w: instance %q is gone, but its data plane still forwards in this network namespace; start that one again,"+
				" or undo it: shunt director stop --instance %[2]s", api.ErrRunning, other)
		}
	}

	ctx, stop := context.WithCancelCause(ctx)
	cancel := func() { stop(errStopping) }
	defer cancel()
	d := &director{
		Options: o, log: o.Log, started: time.Now(), stop: stop,
		servers: map[netip.Addr]*server{}, watchers: map[string]*watcher{}, ifaces: map[string]*link.Interface{},
		work: make(chan func()), claims: make(chan announce.Claim, 64),
		ended: make(chan struct{}), undone: make(chan struct{}),
		site: was.site, before: was.before, startWith: was, cares: map[lvs.ServiceID]*cared{}, guards: map[guarded]*guard{}, agents: map[agentKey]*asked{}, turned: turned{some: make(chan struct{}, 1)},
	}
	if d.journal, err = link.OpenJournal(o.Journal(), o.Log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.journal.Close()) }()
	if d.history, err = health.OpenHistory(o.History(), 0); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.history.Close()) }()
	d.notifier = health.NewNotifier(nil, o.Log)
	defer d.endNotifier()
	defer d.running.Wait()
	defer d.deafen()
	defer d.endAgents()
	defer cancel()

	events, err := link.Watch(ctx, link.LinkChanges, link.AddressChanges, link.NeighbourChanges)
	if err != nil {
		return err
	}
	if err := d.start(ctx); err != nil {
		return err
	}
	d.remembered = nil // servers that come from now on are new
	if err := link.RemoveFile(o.Kept()); err != nil {
		d.log.Warn("what said that the predecessor was stopped stays", "error", err)
	}
	server, err := api.Listen(o.Socket(), d.handler(), o.Log)
	if err != nil {
		return errors.Join(err, d.undo())
	}
	d.running.Go(func() {
		if err := server.Serve(); err != nil {
			d.log.Error("the API ended", "error", err)
			cancel()
		}
	})
	d.running.Go(func() { d.ready(ctx) })

	loopErr := d.loop(ctx, events)
	d.endChecks()
	close(d.ended)
	d.why = errStopping
	switch {
	case loopErr != nil:
		d.undoErr = fmt.Errorf("forwarding goes on without a director, start it again: %w", loopErr)
		d.undoErr = errors.Join(d.undoErr, d.plane.Close())
	case context.Cause(ctx) == errLeaving:
		d.why = errLeaving
		tell(d.log, daemon.SdNotifyStopping)
		d.undoErr = d.leave()
	default:
		tell(d.log, daemon.SdNotifyStopping)
		d.undoErr = d.undo()
	}
	close(d.undone)
	cancel()

	bye, cancelBye := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancelBye()
	return errors.Join(d.undoErr, server.Close(bye))
}

// hold takes the instance (by a lock on a file beside the journal) and the
// network namespace.
func hold(p api.Places) (release func() error, err error) {
	claim, err := api.ClaimNamespace(api.Holder{Instance: p.Instance, Socket: p.Socket()})
	if err != nil {
		return nil, err
	}
	unlock, err := lock(p)
	if err != nil {
		return nil, errors.Join(err, claim.Close())
	}
	if err := os.MkdirAll(p.Run(), 0o755); err != nil {
		unlock()
		return nil, errors.Join(fmt.Errorf("run directory: %w", err), claim.Close())
	}
	return func() error {
		unlock()
		return claim.Close()
	}, nil
}

func lock(p api.Places) (release func(), err error) {
	release, err = link.Lock(p.Lock(), false)
	if errors.Is(err, link.ErrLocked) {
		err = fmt.Errorf("%w: instance %q (its lock %s is held): it is in another network namespace, where each director needs"+
			" its own --instance, or it is just starting or stopping", api.ErrRunning, p.Instance, p.Lock())
	}
	return release, err
}

// ready waits a moment for the real servers' MAC addresses, then calls out.
func (d *director) ready(ctx context.Context) {
	var waiting []<-chan struct{}
	err := d.inLoop(ctx, func() error {
		for _, s := range d.servers {
			waiting = append(waiting, s.resolved)
		}
		return nil
	})
	if err != nil {
		return
	}
	await(ctx, waiting)
	tell(d.log, daemon.SdNotifyReady)
	d.log.Info("ready", "instance", d.Instance, "interfaces", list(d.Interfaces), "vips", list(d.VIPs))
}

// tell talks to whoever started us, if it wants to hear (NOTIFY_SOCKET) and is
// still there: 'shunt director start' listens until we are ready.
func tell(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Warn("notify the service manager", "error", err)
	}
}

// await returns when all channels are closed, or when patience or ctx ends.
func await(ctx context.Context, all []<-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, c := range all {
		select {
		case <-c:
		case <-ctx.Done():
			return
		}
	}
}

// loop is the one goroutine that decides. It returns nil when ctx is done, and
// an error when it cannot go on.
func (d *director) loop(ctx context.Context, events <-chan link.Event) error {
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	refresh := time.NewTicker(refreshEvery)
	defer refresh.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-d.work:
			f()
		case c := <-d.claims:
			d.claimed(c, time.Now())
		case <-d.turned.some:
			d.checked(d.turned.take())
		case e, ok := <-events:
			if !ok && ctx.Err() == nil {
				return errors.New("the kernel's network events ended")
			}
			d.kernelSaid(e)
		case now := <-ticks.C:
			d.ask(now)
			d.announceAgain(now)
			d.attend(now)
		case <-refresh.C:
			d.refresh()
		case <-d.again:
			d.again = nil
			d.refresh()
		case <-d.Hangup:
			d.running.Go(func() { d.hangup(ctx) })
		}
	}
}

// inLoop runs f in the loop and returns its error.
func (d *director) inLoop(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	select {
	case d.work <- func() { done <- f() }:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	case <-d.ended:
		return errStopping
	}
}

func (d *director) hangup(ctx context.Context) {
	tell(d.log, daemon.SdNotifyReloading+"\n"+monotonic())
	if r, err := d.Reload(ctx); err != nil {
		d.log.Error("reload failed, the old rules stay", "error", err)
	} else {
		d.log.Info("reloaded", "services", r.Services, "servers", r.Servers)
	}
	tell(d.log, daemon.SdNotifyReady)
}

// kernelSaid takes a hint from the kernel. Interfaces and addresses change in
// bursts, so these are looked at a moment later.
func (d *director) kernelSaid(e link.Event) {
	switch {
	case e.Lost:
		d.refresh()
	case e.Topic == link.NeighbourChanges:
		d.neighbourChanged(e)
	case d.again == nil:
		d.again = time.After(refreshDelay)
	}
}
