// SPDX-License-Identifier: MIT

package realserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/shunt-lvs/shunt/internal/link"
)

// Options tells New which instance this is.
type Options struct {
	// Instance names the state directory and the nftables table; empty: "default".
	Instance string
	// StateDir is the directory above the instances' ones; empty: /var/lib/shunt.
	StateDir string
	// Interval is how often Run looks at what the kernel sends no events
	// about, such as sysctls; 0: 5 s.
	Interval time.Duration
	Log      *slog.Logger // nil: nothing is logged
}

// Server is a real server's side of one instance on this host.
type Server struct {
	instance string
	dir      string
	interval time.Duration
	log      *slog.Logger
}

// The default values of Options.
const (
	DefaultInstance = "default"
	DefaultStateDir = "/var/lib/shunt"
	defaultInterval = 5 * time.Second
)

var instanceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// New checks the options; it touches nothing.
func New(o Options) (*Server, error) {
	if o.Instance == "" {
		o.Instance = DefaultInstance
	}
	if o.StateDir == "" {
		o.StateDir = DefaultStateDir
	}
	if o.Interval == 0 {
		o.Interval = defaultInterval
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if !instanceName.MatchString(o.Instance) {
		return nil, fmt.Errorf("instance %q: %w: use letters, digits, dots, dashes and underscores, at most 64", o.Instance, ErrInvalid)
	}
	return &Server{
		instance: o.Instance,
		dir:      filepath.Join(o.StateDir, o.Instance),
		interval: o.Interval,
		log:      o.Log.With("instance", o.Instance),
	}, nil
}

// AgentState is the file of what this real server wants of its directors (see
// package agent): to be drained, or to be left alone.
func (s *Server) AgentState() string { return filepath.Join(s.dir, "agent.state") }

func (s *Server) statePath() string   { return filepath.Join(s.dir, "realserver.json") }
func (s *Server) journalPath() string { return filepath.Join(s.dir, "realserver.journal") }
func (s *Server) lockPath() string    { return filepath.Join(s.dir, "realserver.lock") }
func (s *Server) runLockPath() string { return filepath.Join(s.dir, "realserver.run.lock") }

// Start makes the host accept the VIPs' packets, beside those of VIPs started
// before; what is so already stays as it is. Without VIPs it starts those that
// were started when the host went down. Interfaces are those to guard for IPv4
// VIPs of method loopback, and refused if there is none of them; none means all
// but lo, and so it stays once a call asked for all.
//
// When Start returns an error, what this call had done is undone.
func (s *Server) Start(vips []VIP, interfaces []string) error {
	if len(interfaces) > 0 && len(vips) > 0 && !slices.ContainsFunc(vips, VIP.guarded) {
		return fmt.Errorf("interface %s: %w: there is nothing to guard on it: ARP guards are for IPv4 VIPs of method loopback", interfaces[0], ErrInvalid)
	}
	return s.locked(func(j *link.Journal) error {
		was, earlier, err := s.readState()
		if err != nil {
			return err
		}
		if len(vips) == 0 {
			if len(was.VIPs)+len(earlier.VIPs) == 0 {
				return fmt.Errorf("start: %w was named and none is remembered from before; add --vip", ErrNothing)
			}
			vips, interfaces = slices.Concat(was.VIPs, earlier.VIPs), slices.Concat(was.Interfaces, earlier.Interfaces)
		}
		want, err := s.extend(was, vips, interfaces)
		if err != nil {
			return err
		}
		if err := s.preflight(want); err != nil {
			return err
		}
		if err := s.writeState(want); err != nil {
			return err
		}
		if err := s.apply(j, want); err != nil {
			s.log.Debug("rolling back", "error", err)
			if back := s.settle(j, was); back != nil {
				return errors.Join(err, fmt.Errorf("and rolling back failed, 'stop' tries again: %w", back))
			}
			if len(earlier.VIPs) > 0 {
				err = errors.Join(err, s.writeState(earlier)) // still to be remembered
			}
			return err
		}
		return nil
	})
}

// Stop takes the VIPs off again, all of them if none is named, and restores what
// Start found. The guards stay while any IPv4 VIP of method loopback does. A VIP
// that is not started is fine.
func (s *Server) Stop(vips []netip.Addr) error {
	return s.locked(func(j *link.Journal) error {
		want, earlier, err := s.readState()
		if err != nil {
			return err
		}
		drop := func(v VIP) bool { return len(vips) == 0 || slices.Contains(vips, v.Addr) }
		want.VIPs = slices.DeleteFunc(want.VIPs, drop)
		earlier.VIPs = slices.DeleteFunc(earlier.VIPs, drop)
		if err := s.settle(j, want); err != nil {
			return err
		}
		if len(earlier.VIPs) > 0 {
			return s.writeState(earlier)
		}
		return nil
	})
}

// settle makes a state the wanted one that asks for no more than the kernel has.
func (s *Server) settle(j *link.Journal, want state) error {
	if err := s.writeState(want); err != nil {
		return err
	}
	if err := s.apply(j, want); err != nil {
		return err
	}
	if len(want.VIPs) == 0 {
		return s.removeState()
	}
	return nil
}

// extend adds VIPs and interfaces to a state.
func (s *Server) extend(st state, vips []VIP, interfaces []string) (state, error) {
	merged, err := merge(st.VIPs, vips)
	if err != nil {
		return st, err
	}
	for _, name := range interfaces {
		i, err := link.InterfaceByName(name)
		if err != nil {
			return st, err
		}
		if i.Loopback {
			return st, fmt.Errorf("interface %s: %w: requests never come in by it; name the one that faces the director", name, ErrInvalid)
		}
	}
	first := !st.guarded()
	switch {
	case !slices.ContainsFunc(vips, VIP.guarded):
		// Nothing to guard for.
	case first:
		st.Interfaces = interfaces
	case len(interfaces) == 0 || len(st.Interfaces) == 0:
		st.Interfaces = nil
	default:
		st.Interfaces = slices.Concat(st.Interfaces, interfaces)
	}
	slices.Sort(st.Interfaces)
	st.Interfaces = slices.Compact(st.Interfaces)
	st.VIPs = merged
	return st, nil
}

// locked does work alone on this host, with the journal open.
func (s *Server) locked(work func(*link.Journal) error) (err error) {
	release, err := link.Lock(s.lockPath(), true)
	if err != nil {
		return err
	}
	defer release()
	j, err := link.OpenJournal(s.journalPath(), s.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	return work(j)
}
