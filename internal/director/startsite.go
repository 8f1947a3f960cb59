// SPDX-License-Identifier: MIT

package director

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/config"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/link"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// started is what a start begins with.
type started struct {
	site   *site   // nil: there is no configuration
	before *before // a predecessor's, not confirmed yet
	// changes are the rules to begin with, if fresh; else the saved ones count, which are
	// those of the configuration with what was changed at run time.
	changes []lvs.Change
	fresh   bool // changes count
	saves   bool // what is in force is to be saved once the start has succeeded
	// unusable says why the file itself is not what counts.
	unusable error
}

// loadSite finds the configuration to start with, and has the settings follow it.
// A file that is broken does not keep a director from starting that has a copy of
// the one that was in force: that counts, and status says so.
func loadSite(o *Options) (started, error) {
	var s started
	var err error
	if s.before, err = loadBefore(o.Places); err != nil {
		return s, err
	}
	saved, err := savedSite(o.Places)
	if err != nil {
		return s, err
	}
	switch {
	case s.before != nil && !time.Now().Before(s.before.Until):
		o.Log.Warn("the last configuration was not confirmed in time: starting with the one before")
		if s.changes, err = ipvsadm.ParseRules(bytes.NewReader([]byte(s.before.Rules))); err != nil {
			return s, fmt.Errorf("what was in force before: %w", err)
		}
		o.Settings.VIPs = s.before.VIPs
		s.site, s.before, s.fresh = s.before.Site.after(saved), nil, true
	case s.before != nil && saved != nil && o.Config == saved.Path:
		s.site = saved // its time runs on
	case o.Config != "":
		s.before = nil
		if err := s.read(o, saved); err != nil {
			return s, err
		}
	default:
		s.before = nil // whoever starts without a configuration does not want it
	}
	s.saves = s.site != nil || s.fresh || saved != nil
	if s.site == nil {
		return s, nil
	}
	if s.site.config == nil {
		if s.site.config, err = config.Parse(s.site.Path, []byte(s.site.Text)); err != nil {
			return s, fmt.Errorf("%w: %w", api.ErrConfig, err)
		}
	}
	if !s.fresh && !belongs(o.Places, s.site) {
		s.changes, s.fresh = s.site.config.Changes(), true
	}
	o.Settings.follow(s.site)
	return s, nil
}

// read takes the file, or the copy of what was in force.
func (s *started) read(o *Options, saved *site) error {
	if saved != nil && saved.Path == o.Config && !filepath.IsAbs(saved.Path) {
		s.site = saved // it came by standard input: there is no file
		return nil
	}
	path, err := filepath.Abs(o.Config)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	n := &site{Path: path, Text: string(text), Applied: time.Now()}
	if err == nil {
		n.config, err = config.Parse(path, text)
	}
	if err == nil && saved != nil && saved.Path == path && (n.Text == saved.Text || n.Text == saved.Refused) {
		n = &site{Path: path, Text: saved.Text, Applied: saved.Applied, Refused: saved.Refused}
		if text := string(text); text == saved.Text {
			n.Refused = "" // somebody has put it back
		}
		s.site = n
		return nil
	}
	if err == nil {
		err = possible(*o, n)
	}
	switch {
	case err == nil:
		s.site, s.changes, s.fresh = n, n.config.Changes(), true
	case saved != nil && saved.Path == path:
		o.Log.Error("the configuration is not usable; the copy of the one that was in force counts", "error", err)
		s.site, s.unusable = saved, err
	default:
		return fmt.Errorf("%w: %w", api.ErrConfig, err)
	}
	return nil
}

// possible looks whether a start with a configuration could succeed, as far as
// that can be told before anything is touched.
func possible(o Options, n *site) error {
	if n.config.Director == nil {
		return fmt.Errorf("%s says nothing of a director or its services; a real server's file is for shunt realserver start --config", n.Path)
	}
	o.Settings.follow(n)
	if err := o.validate(); err != nil {
		return err
	}
	d := &director{Options: o, ifaces: map[string]*link.Interface{}}
	if err := d.lookAtInterfaces(); err != nil {
		return fmt.Errorf("%s: %w", n.Path, err)
	}
	if _, err := planChanges(lvs.NewTable(), n.config.Changes(), d.premises(nil)); err != nil {
		return fmt.Errorf("%s: %w", n.Path, err)
	}
	return nil
}

func savedSite(p api.Places) (*site, error) {
	return loadJSON[site](p.Site(), "the configuration that was in force")
}

func loadBefore(p api.Places) (*before, error) {
	return loadJSON[before](p.Before(), "what was in force before the last configuration")
}

func loadJSON[T any](path, what string) (*T, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	v := new(T)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w; remove the file to start without", what, path, err)
	}
	return v, nil
}

// follow takes over what a configuration says of the director.
func (s *Settings) follow(n *site) {
	s.Config = n.Path
	c := n.config.Director
	if c == nil {
		return
	}
	s.VIPs = c.VIPs
	if len(c.Interfaces) > 0 {
		s.Interfaces = c.Interfaces
	}
	if !c.Section {
		return
	}
	s.Mode, s.LocalClients, s.Connections, s.VLANs = dataplane.Mode(c.Mode), c.LocalClients, c.Connections, nil
	for name, v := range c.VLANs {
		if s.VLANs == nil {
			s.VLANs = map[string]dataplane.VLAN{}
		}
		s.VLANs[name] = dataplane.VLAN{Parent: v.Parent, ID: v.ID}
	}
}

// startRules are the rules that a start begins with.
func (d *director) startRules() (rules, error) {
	if !d.startWith.fresh {
		return d.savedRules()
	}
	return rules{site: d.site, path: "the rules of before", all: d.startWith.changes}, nil
}

// settled forgets what was to come back, once a start has made it so.
func (d *director) settled() error {
	if d.before != nil {
		return nil
	}
	return link.RemoveFile(d.Before())
}
