// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// memory is a Director that is nothing but a table. Its errors go through JSON,
// as those of the daemon do.
type memory struct {
	table  *lvs.Table
	status []lvs.ServiceStatus
	conns  []lvs.Connection
}

func newMemory() *memory { return &memory{table: lvs.NewTable()} }

func (m *memory) Table(context.Context) (*lvs.Table, error)             { return m.table.Clone(), nil }
func (m *memory) Status(context.Context) ([]lvs.ServiceStatus, error)   { return m.status, nil }
func (m *memory) Listed(ctx context.Context) (*lvs.Table, error)        { return m.Table(ctx) }
func (m *memory) Connections(context.Context) ([]lvs.Connection, error) { return m.conns, nil }

func (m *memory) Change(_ context.Context, changes []lvs.Change) error {
	t, err := m.table.Changed(changes)
	if err == nil {
		m.table = t
		return nil
	}
	var which, back lvs.ChangeError
	if p := (*lvs.ChangeError)(nil); errors.As(err, &p) {
		which = *p
	}
	text, err := json.Marshal(&which)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &back); err != nil {
		return err
	}
	return fmt.Errorf("the director: %w", &back)
}

func (m *memory) Zero(_ context.Context, id lvs.ServiceID) error {
	all := id == (lvs.ServiceID{})
	if !all && m.table.Service(id) == nil {
		return fmt.Errorf("%v: %w", id, lvs.ErrNoService)
	}
	for i := range m.status {
		s := &m.status[i]
		if !all && s.ServiceID != id {
			continue
		}
		s.Counters = lvs.Counters{}
		for j := range s.Servers {
			s.Servers[j].Counters = lvs.Counters{}
		}
	}
	return nil
}
