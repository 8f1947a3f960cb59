// SPDX-License-Identifier: MIT

package config

import (
	"fmt"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Changes are the rules of the file as changes of an empty table: timeouts, then
// service by service its mark rules, itself, its deny list and its servers. Sorry
// servers are not among them: they answer while no other can.
func (c *Config) Changes() []lvs.Change {
	var all []lvs.Change
	if c.Director != nil && c.Director.Timeouts != (lvs.Timeouts{}) {
		all = append(all, lvs.Change{Operation: lvs.SetTimeouts, Timeouts: c.Director.Timeouts})
	}
	for i := range c.Services {
		all = append(all, c.Services[i].changes()...)
	}
	return all
}

func (s *Service) changes() []lvs.Change {
	all := make([]lvs.Change, 0, 1+len(s.Marks)+len(s.Deny)+len(s.Servers))
	for _, m := range s.Marks {
		all = append(all, lvs.Change{Operation: lvs.AddMark, Mark: m})
	}
	all = append(all, lvs.Change{Operation: lvs.AddService, Service: s.Service})
	id := lvs.VirtualService{ServiceID: s.Service.ServiceID}
	for _, p := range s.Deny {
		all = append(all, lvs.Change{Operation: lvs.AddDeny, Service: id, Deny: p})
	}
	for _, r := range s.Servers {
		all = append(all, lvs.Change{Operation: lvs.AddServer, Service: id, Server: r.Server})
	}
	return all
}

// Table is the rules of the file.
func (c *Config) Table() (*lvs.Table, error) {
	t, err := lvs.NewTable().Changed(c.Changes())
	if err != nil {
		return nil, fmt.Errorf("the file's rules: %w", err)
	}
	return t, nil
}
