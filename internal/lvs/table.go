// SPDX-License-Identifier: MIT

package lvs

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
)

// Timeouts are how long an idle connection stays, in seconds, by what it is.
type Timeouts struct {
	TCP    uint32 `json:"tcp"`
	TCPFin uint32 `json:"tcpfin"`
	UDP    uint32 `json:"udp"`
}

// DefaultTimeouts are IPVS's: 900, 120 and 300 seconds.
func DefaultTimeouts() Timeouts { return Timeouts{TCP: 900, TCPFin: 120, UDP: 300} }

// Table is all that a director is told to do: its virtual services, with their
// real servers, and the timeouts. It is a plain value; a change is made on a
// Draft, which is put to work as a whole or not at all.
type Table struct {
	// Services is in the order of adding. Read it freely; change it by Apply,
	// which puts a changed copy in a service's place and never writes to one:
	// tables share the services in which they do not differ.
	Services []*VirtualService `json:"services"`
	Timeouts Timeouts          `json:"timeouts"`
	// Marks is in the order of adding.
	Marks []MarkRule `json:"marks,omitempty"`

	// index finds a service by its identity. Only changes make and keep it: a
	// table that is only read may be read from many goroutines. Without it
	// Service walks the list.
	index map[ServiceID]*VirtualService
}

// NewTable returns an empty table with IPVS's timeouts.
func NewTable() *Table { return &Table{Timeouts: DefaultTimeouts()} }

// Clone returns a copy that shares nothing with t.
func (t *Table) Clone() *Table {
	c := &Table{Timeouts: t.Timeouts, Marks: slices.Clone(t.Marks), Services: make([]*VirtualService, len(t.Services))}
	for i, s := range t.Services {
		c.Services[i] = s.Clone()
	}
	return c
}

// Equal tells whether both tables say the same: timeouts, mark rules and
// services in their order, servers in theirs.
func (t *Table) Equal(o *Table) bool {
	return t.Timeouts == o.Timeouts && slices.Equal(t.Marks, o.Marks) && slices.EqualFunc(t.Services, o.Services, (*VirtualService).Equal)
}

// Service returns the service with this identity, or nil.
func (t *Table) Service(id ServiceID) *VirtualService {
	if t.indexed() {
		return t.index[id]
	}
	for _, s := range t.Services {
		if s.ServiceID == id {
			return s
		}
	}
	return nil
}

func (t *Table) indexed() bool { return t.index != nil && len(t.index) == len(t.Services) }

func (t *Table) buildIndex() {
	t.index = make(map[ServiceID]*VirtualService, len(t.Services))
	for _, s := range t.Services {
		t.index[s.ServiceID] = s
	}
}

// Since compares with a table that t was made from by changes: gone are the
// services that only old has, come those that only t has. One that was changed is
// in both. What the two share costs nothing but a look at the list.
func (t *Table) Since(old *Table) (gone, come []*VirtualService) {
	a, b := old.Services, t.Services
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return without(a, b), without(b, a)
}

// without are those of a that are not in b.
func without(a, b []*VirtualService) (rest []*VirtualService) {
	if len(b) == 0 {
		return a
	}
	in := make(map[*VirtualService]bool, len(b))
	for _, s := range b {
		in[s] = true
	}
	for _, s := range a {
		if !in[s] {
			rest = append(rest, s)
		}
	}
	return rest
}

// With returns a table in which these services stand in the place of those of the
// same identity; those that it has not are left out. t stays as it is, and shares
// the other services with it.
func (t *Table) With(other map[ServiceID]*VirtualService) *Table {
	c := &Table{Timeouts: t.Timeouts, Marks: slices.Clone(t.Marks), Services: slices.Clone(t.Services)}
	for i, s := range c.Services {
		if o := other[s.ServiceID]; o != nil {
			c.Services[i] = o
		}
	}
	return c
}

// Operation is what a Change does.
type Operation string

// The operations, one for each of ipvsadm's commands that edit the table.
const (
	AddService    Operation = "add-service"
	EditService   Operation = "edit-service"
	DeleteService Operation = "delete-service"
	Clear         Operation = "clear"
	AddServer     Operation = "add-server"
	EditServer    Operation = "edit-server"
	DeleteServer  Operation = "delete-server"
	SetTimeouts   Operation = "set-timeouts"
	AddMark       Operation = "add-mark" // not ipvsadm's: see MarkRule
	DeleteMark    Operation = "delete-mark"
	AddDeny       Operation = "add-deny" // not ipvsadm's either: see VirtualService.Deny
	DeleteDeny    Operation = "delete-deny"
)

// Change is one edit of a Table. Service names the service (all of it for
// AddService and EditService, without servers and deny list; only the identity otherwise),
// Server the real server (only the identity for DeleteServer).
type Change struct {
	Operation Operation      `json:"operation"`
	Service   VirtualService `json:"service,omitzero"`
	Server    RealServer     `json:"server,omitzero"`
	Timeouts  Timeouts       `json:"timeouts,omitzero"` // 0 keeps a value
	Mark      MarkRule       `json:"mark,omitzero"`
	Deny      netip.Prefix   `json:"deny,omitzero"`
}

// Draft is a table in the making: a copy of another one, with changes.
type Draft struct {
	table  *Table
	own    map[*VirtualService]bool // made here, so nobody else has seen them
	walked int                      // services that were looked at to find others
}

// Draft returns a copy of t to be changed. It shares with t what is not.
func (t *Table) Draft() *Draft {
	c := &Table{Timeouts: t.Timeouts, Marks: slices.Clone(t.Marks), Services: slices.Clone(t.Services)}
	return &Draft{table: c, own: map[*VirtualService]bool{}}
}

// Table returns what the draft has come to. It must not be changed any more then.
func (d *Draft) Table() *Table { return d.table }

// Changed returns a table with all the changes made, in their order; t stays
// as it is. If one cannot be made the error is a *ChangeError that names it.
func (t *Table) Changed(changes []Change) (*Table, error) {
	d := t.Draft()
	for i, c := range changes {
		if err := d.Apply(c); err != nil {
			return nil, &ChangeError{Index: i, Err: err}
		}
	}
	return d.Table(), nil
}

// Apply makes one change as the kernel's IPVS would, except that a port that
// direct routing cannot map is refused (ErrPortMapping). If it returns an
// error, t is as it was. For more than one change see Draft.
func (t *Table) Apply(c Change) error {
	if !t.indexed() {
		t.buildIndex()
	}
	return (&Draft{table: t, own: map[*VirtualService]bool{}}).Apply(c)
}

// Apply is Table.Apply.
func (d *Draft) Apply(c Change) error {
	t := d.table
	id := c.Service.ServiceID
	switch c.Operation {
	case AddService:
		return d.addService(c.Service)
	case EditService:
		return d.editService(c.Service)
	case DeleteService:
		s := d.service(id)
		if s == nil {
			return fmt.Errorf("%v: %w", id, ErrNoService)
		}
		i := slices.Index(t.Services, s)
		t.Services = slices.Delete(t.Services, i, i+1)
		delete(t.index, id)
	case Clear:
		t.Services, t.Marks = nil, nil
		clear(t.index)
	case AddServer, EditServer, DeleteServer:
		s := d.service(id)
		if s == nil {
			return fmt.Errorf("%v: %w", id, ErrNoService)
		}
		i, r, err := s.possible(c.Operation, c.Server)
		if err != nil {
			return err
		}
		d.toWrite(s).apply(c.Operation, i, r)
	case AddDeny, DeleteDeny:
		s := d.service(id)
		if s == nil {
			return fmt.Errorf("%v: %w", id, ErrNoService)
		}
		return d.toWrite(s).deny(c.Operation, c.Deny)
	case SetTimeouts:
		return t.setTimeouts(c.Timeouts)
	case AddMark:
		return t.addMark(c.Mark)
	case DeleteMark:
		return t.deleteMark(c.Mark)
	default:
		return fmt.Errorf("operation %q: %w", c.Operation, ErrInvalid)
	}
	return nil
}

// service is Table.Service. Who looks often gets an index.
func (d *Draft) service(id ServiceID) *VirtualService {
	t := d.table
	if !t.indexed() {
		if d.walked += len(t.Services); d.walked > 8*len(t.Services) {
			t.buildIndex()
		}
	}
	return t.Service(id)
}

// toWrite is a service of the table to be written to: a copy, unless it is one
// already.
func (d *Draft) toWrite(s *VirtualService) *VirtualService {
	if d.own[s] {
		return s
	}
	c := s.Clone()
	d.replace(s, c)
	return c
}

func (d *Draft) replace(old, s *VirtualService) {
	t := d.table
	t.Services[slices.Index(t.Services, old)] = s
	d.took(s)
}

func (d *Draft) took(s *VirtualService) {
	d.own[s] = true
	if d.table.index != nil {
		d.table.index[s.ServiceID] = s
	}
}

func (d *Draft) addService(s VirtualService) error {
	// The kernel looks the scheduler up before it looks for the service.
	if err := s.validate(); err != nil {
		return err
	}
	if d.service(s.ServiceID) != nil {
		return fmt.Errorf("%v: %w", s.ServiceID, ErrServiceExists)
	}
	if err := d.table.marked(s.ServiceID); err != nil {
		return err
	}
	s.Servers, s.Deny = nil, nil
	s.normalize()
	d.table.Services = append(d.table.Services, &s)
	d.took(&s)
	return nil
}

func (d *Draft) editService(s VirtualService) error {
	old := d.service(s.ServiceID)
	if old == nil {
		return fmt.Errorf("%v: %w", s.ServiceID, ErrNoService)
	}
	if err := s.validate(); err != nil {
		return err
	}
	s.Servers, s.Deny, s.Edits = slices.Clone(old.Servers), slices.Clone(old.Deny), old.Edits
	s.normalize()
	d.replace(old, &s)
	return nil
}

func (t *Table) setTimeouts(n Timeouts) error {
	if longest := max(n.TCP, n.TCPFin, n.UDP); longest > MaxTimeout {
		return fmt.Errorf("timeout of %d s: %w: above 31 days", longest, ErrInvalid)
	}
	for _, v := range []struct {
		to   *uint32
		from uint32
	}{{&t.Timeouts.TCP, n.TCP}, {&t.Timeouts.TCPFin, n.TCPFin}, {&t.Timeouts.UDP, n.UDP}} {
		if v.from != 0 {
			*v.to = v.from
		}
	}
	return nil
}

// validate refuses what IPVS refuses, and what its rule language cannot say: a
// table can always be saved and restored.
func (s *VirtualService) validate() error {
	if !s.Scheduler.Known() {
		return fmt.Errorf("scheduler %q: %w", s.Scheduler, ErrUnknownScheduler)
	}
	if s.Engine != "" && s.Engine != "sip" {
		return fmt.Errorf("persistence engine %q: %w", s.Engine, ErrUnknownScheduler)
	}
	if err := s.ServiceID.validate(); err != nil {
		return err
	}
	invalid := func(what string) error { return fmt.Errorf("%v: %w: %s", s.ServiceID, ErrInvalid, what) }
	switch {
	case s.Flags&^allFlags != 0:
		return invalid(fmt.Sprintf("flags %#x", uint32(s.Flags)))
	case s.Mark == 0 && s.Port == 0 && !s.Persistent():
		return invalid("port 0 stands for every port and needs persistence")
	case s.Flags&FlagOnePacket != 0 && s.Mark == 0 && s.Protocol != UDP:
		return invalid("one-packet scheduling is for UDP")
	case s.Persistent() && (s.Timeout < 1 || s.Timeout > MaxTimeout):
		return invalid(fmt.Sprintf("persistence of %d s is not from 1 s to 31 days", s.Timeout))
	case s.Persistent() && s.Is6() && (s.Netmask < 1 || s.Netmask > 128):
		return invalid(fmt.Sprintf("prefix length %d is not from 1 to 128", s.Netmask))
	}
	return s.Policy.validate(s)
}

// normalize clears what counts for persistent services only, so that two
// services that behave the same are equal.
func (s *VirtualService) normalize() {
	if !s.Persistent() {
		s.Timeout, s.Netmask = 0, 0
	}
}

// possible checks a change of the servers in the kernel's order, which decides
// what is said of one that is wrong in two ways: numbers, then existence, then the
// address. It returns the server as it is to be, and its place (-1: it has none).
func (s *VirtualService) possible(op Operation, r RealServer) (int, RealServer, error) {
	i := slices.IndexFunc(s.Servers, func(o RealServer) bool { return o.ServerID == r.ServerID })
	if op == DeleteServer {
		if i < 0 {
			return i, r, fmt.Errorf("%v of %v: %w", r.ServerID, s.ServiceID, ErrNoServer)
		}
		return i, r, nil
	}
	if err := r.validateNumbers(); err != nil {
		return i, r, err
	}
	if i < 0 && op == EditServer {
		return i, r, fmt.Errorf("%v of %v: %w", r.ServerID, s.ServiceID, ErrNoServer)
	}
	if i >= 0 && op == AddServer {
		return i, r, fmt.Errorf("%v of %v: %w", r.ServerID, s.ServiceID, ErrServerExists)
	}
	r.normalize()
	return i, r, r.validate(s)
}

func (s *VirtualService) apply(op Operation, i int, r RealServer) {
	switch op {
	case AddServer:
		s.Servers = slices.Insert(s.Servers, 0, r)
	case EditServer:
		s.Servers[i] = r
		s.Edits++
	case DeleteServer:
		s.Servers = slices.Delete(s.Servers, i, i+1)
	}
}

func (r *RealServer) validateNumbers() error {
	if r.Weight < 0 {
		return fmt.Errorf("real server %v: %w: %d", r.ServerID, ErrWeight, r.Weight)
	}
	if max(r.Upper, r.Lower) > math.MaxInt32 {
		return fmt.Errorf("real server %v: %w: a threshold above %d", r.ServerID, ErrThresholds, math.MaxInt32)
	}
	if r.Lower > r.Upper {
		return fmt.Errorf("real server %v: %w: %d above %d", r.ServerID, ErrThresholds, r.Lower, r.Upper)
	}
	return nil
}

func (r *RealServer) validate(s *VirtualService) error {
	a := r.Addr
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a == broadcast || a.Is6() && a.IsLinkLocalUnicast() {
		return fmt.Errorf("real server %v: %w: not a unicast address", r.ServerID, ErrInvalid)
	}
	if a.Zone() != "" {
		return fmt.Errorf("real server %v: %w: an address with a zone", r.ServerID, ErrInvalid)
	}
	if r.Forward != DirectRouting && r.Forward != Tunnel && r.Forward != Masquerade {
		return fmt.Errorf("real server %v: %w: forwarding method %v cannot be asked for", r.ServerID, ErrInvalid, r.Forward)
	}
	if a.Is6() != s.Is6() && r.Forward != Tunnel {
		return fmt.Errorf("real server %v of %v: %w: another address family", r.ServerID, s.ServiceID, ErrInvalid)
	}
	// Which port packets with a mark go to is the firewall's business.
	if s.Mark == 0 && r.Port != s.Port && (r.Forward == DirectRouting || r.Forward == Tunnel) {
		return fmt.Errorf("real server %v of %v: %w", r.ServerID, s.ServiceID, ErrPortMapping)
	}
	if r.Forward != Tunnel {
		return nil
	}
	if err := r.Tunnel.validate(); err != nil {
		return fmt.Errorf("real server %v of %v: %w", r.ServerID, s.ServiceID, err)
	}
	return nil
}

func (r *RealServer) normalize() {
	if r.Forward != Tunnel {
		r.Tunnel = TunnelOptions{}
	} else if r.Tunnel.Type == "" {
		r.Tunnel.Type = "ipip"
	}
}
