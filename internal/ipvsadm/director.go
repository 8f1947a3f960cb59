// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"context"
	"io"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Director carries out what a command line says. Its errors wrap the sentinels
// of package lvs where these apply; the text of any other error is shown to the
// user as it is.
type Director interface {
	// Table returns the rules as they were given.
	Table(ctx context.Context) (*lvs.Table, error)
	// Listed returns the rules with the weights that count now, which are others
	// if real servers are out.
	Listed(ctx context.Context) (*lvs.Table, error)
	// Status returns counters, rates and connection counts. A service or a
	// server that is missing in it is listed with zeros.
	Status(ctx context.Context) ([]lvs.ServiceStatus, error)
	// Connections returns the connection table, in the order of listing.
	Connections(ctx context.Context) ([]lvs.Connection, error)
	// Change makes all the changes, in their order, or none. A change that
	// cannot be made is named by an error that wraps *lvs.ChangeError.
	Change(ctx context.Context, changes []lvs.Change) error
	// Zero sets the counters of a service and its servers to zero; of all
	// services if id is the zero value.
	Zero(ctx context.Context, id lvs.ServiceID) error
}

// Env is what one call of the tool works with.
type Env struct {
	Name   string   // as called, without directories: ipvsadm, ipvsadm-save or ipvsadm-restore; else ipvsadm
	Args   []string // the command line without the name
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	Director Director
	Names    Names
}
