// SPDX-License-Identifier: MIT

package config

import "github.com/shunt-lvs/shunt/internal/lvs"

// written is what a file has a place for: a service, or (with a server) one of its
// real servers.
type written struct {
	service lvs.ServiceID
	server  lvs.ServerID
}

// Locate says where in a file is what someone else found out about one of its
// changes (see Config.Changes): that a real server is behind a router, say. It is
// false if the file has no such service.
func Locate(name string, text []byte, c lvs.Change, message string) (Problem, bool) {
	ps := newProblems(name, text)
	v, _ := resolved(ps, text)
	if v == nil {
		return Problem{}, false
	}
	id := c.Service.ServiceID
	if c.Operation == lvs.AddMark {
		id = c.Mark.ServiceID()
	}
	at := v.where[written{id, c.Server.ServerID}]
	if at == nil {
		at = v.where[written{service: id}]
	}
	if at == nil {
		return Problem{}, false
	}
	return Problem{File: name, Line: at.line, Column: at.column, Message: message, Source: ps.shownLine(at.line)}, true
}
