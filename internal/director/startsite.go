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
		s.site, s.before, s.fresh = s.before.Site, nil, true
	case s.before != nil:
		s.site = saved // its time runs on
	case o.Config != "":
		if err := s.read(o, saved); err != nil {
			return s, err
		}
	}
	if s.site == nil {
		return s, nil
	}
	if s.site.config == nil {
		if s.site.config, err = config.Parse(s.site.Path, []byte(s.site.Text)); err != nil {
			return s, fmt.Errorf("%w: %w", api.ErrConfig, err)
		}
	}
	o.Settings.follow(s.site)
	return s, nil
}

// read takes the file, or the copy of what was in force.
func (s *started) read(o *Options, saved *site) error {
	path, err := filepath.Abs(o.Config)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		err = fmt.Errorf("%w: %w", api.ErrConfig, err)
	}
	n := &site{Path: path, Text: string(text), Applied: time.Now()}
	if err == nil {
		if n.config, err = config.Parse(path, text); err != nil {
			err = fmt.Errorf("%w: %w", api.ErrConfig, err)
		}
	}
	switch {
	case err == nil && saved != nil && saved.Path == path && saved.Text == n.Text:
		n.Applied = saved.Applied
		s.site = n
	case err == nil:
		s.site, s.changes, s.fresh = n, n.config.Changes(), true
	case saved != nil && saved.Path == path:
		o.Log.Error("the configuration is not usable; the copy of the one that was in force counts", "error", err)
		s.site, s.unusable = saved, err
	default:
		return err
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
	s.Interfaces, s.VIPs, s.Mode = c.Interfaces, c.VIPs, dataplane.Mode(c.Mode)
	s.LocalClients, s.Connections, s.VLANs = c.LocalClients, c.Connections, nil
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
	path := "the rules of before"
	if d.site != nil {
		path = d.site.Path
	}
	return rules{path: path, all: d.startWith.changes}, nil
}

// settled forgets what was to come back, once a start has made it so.
func (d *director) settled() error {
	if d.before != nil {
		return nil
	}
	return link.RemoveFile(d.Before())
}
