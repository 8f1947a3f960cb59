// SPDX-License-Identifier: MIT

package config

import (
	"fmt"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Summary says in a few lines what the file describes.
func (c *Config) Summary() []string {
	var lines []string
	if d := c.Director; d != nil {
		line := "director: " + counted(len(d.VIPs), "VIP")
		if len(d.Interfaces) > 0 {
			line += " on " + strings.Join(d.Interfaces, ", ")
		}
		lines = append(lines, line+", mode "+d.Mode)
	}
	if r := c.RealServer; r != nil {
		lines = append(lines, fmt.Sprintf("real server: %s by %s", counted(len(r.VIPs), "VIP"), r.Method))
	}
	for i := range c.Services {
		lines = append(lines, c.Services[i].summary())
	}
	if len(c.Notify) > 0 {
		lines = append(lines, "notify: "+counted(len(c.Notify), "receiver"))
	}
	return lines
}

func (s *Service) summary() string {
	what := ""
	if s.Name != defaultName(s.Service.ServiceID) {
		what = " " + s.Service.ServiceID.String()
	}
	checks := map[string]bool{}
	unchecked := 0
	var kinds []string
	for _, r := range s.Servers {
		if len(r.Checks) == 0 {
			unchecked++
		}
		for _, k := range r.Checks {
			name := k.Name
			if name == "" {
				name = string(k.Kind)
			}
			if !checks[name] {
				checks[name] = true
				kinds = append(kinds, name)
			}
		}
	}
	line := fmt.Sprintf("service %s:%s %s, %s", s.Name, what, s.Service.Scheduler, counted(len(s.Servers), "real server"))
	if len(kinds) > 0 {
		line += ", checked by " + strings.Join(kinds, ", ")
	}
	switch {
	case unchecked == 0:
	case unchecked == len(s.Servers):
		line += ", not checked"
	default:
		line += fmt.Sprintf(", %d not checked", unchecked)
	}
	if s.Sorry != nil {
		line += ", sorry server " + s.Sorry.Addr.String()
	}
	return line
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// ServiceName is what the file calls a service; nothing if it does not have it.
// DiffTable takes it for names.
func (c *Config) ServiceName(id lvs.ServiceID) string {
	for i := range c.Services {
		if c.Services[i].Service.ServiceID == id {
			return c.Services[i].Name
		}
	}
	return ""
}
