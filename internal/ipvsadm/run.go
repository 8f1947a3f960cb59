// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"context"
	"fmt"
	"io"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Run does what the command line says and returns the exit code.
func Run(ctx context.Context, env Env) int {
	fmt.Fprintln(env.Stderr, "not yet")
	return 255
}

// ParseRules reads rules in the format of ipvsadm -S.
func ParseRules(r io.Reader) ([]lvs.Change, error) { return nil, nil }

// SaveOption changes how WriteRules writes.
type SaveOption func(*saveOptions)

type saveOptions struct{ creationOrder bool }

// CreationOrder writes services and servers in the order in which they were
// added, so that restoring gives the same table, its order included.
func CreationOrder() SaveOption { return func(o *saveOptions) { o.creationOrder = true } }

// WriteRules writes t in the format of ipvsadm -S -n.
func WriteRules(w io.Writer, t *lvs.Table, opts ...SaveOption) error { return nil }
