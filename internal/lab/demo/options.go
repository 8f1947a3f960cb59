// SPDX-License-Identifier: MIT

package demo

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// ErrNotHeld is returned by Run when the demo ran to its end but something that
// direct routing promises did not hold. What it was is in the report.
var ErrNotHeld = errors.New("not everything held")

// Method is how the demo's real servers get to accept packets for the VIP.
type Method string

// The methods: shunt's two, and one server with each.
const (
	Loopback Method = "loopback"
	Redirect Method = "redirect"
	Both     Method = "both"
)

// Methods are all that Options.Method may be.
func Methods() []Method { return []Method{Loopback, Redirect, Both} }

// Options say how the demo runs. Method, Executable and Out are needed.
type Options struct {
	Method Method
	// Keep leaves the cluster up when the demo is over.
	Keep bool
	// JSON makes the report one JSON document, printed at the end.
	JSON bool
	// Colour makes ticks green and crosses red.
	Colour bool
	// Executable is shunt's own binary.
	Executable string
	// Name is how the commands on show call it.
	Name string
	// Prefix names the lab and the instances: namespaces begin with it, and the
	// director's instance is called so, without a last hyphen. Empty: "demo-".
	Prefix string
	Out    io.Writer
	// Forget removes what instances of these names keep on disk, so that rules
	// of an earlier demo do not come back. It is called before and after.
	Forget func(instances []string) error

	// stepLimit is how long a step of the drill may take to see what it waits for.
	stepLimit time.Duration
}

const (
	port        = 80
	mappedPort  = 8080 // where the server behind a redirect listens
	elsewhereRS = "rs3"
)

// elsewhere is the real server whose address has nothing to do with the VIP's.
var elsewhere = netip.MustParsePrefix("198.51.100.179/24")

// behind is a network that only a router could reach.
var behind = netip.MustParsePrefix("203.0.113.0/24")

func (o *Options) complete() error {
	switch o.Method {
	case Loopback, Redirect, Both:
	case "":
		o.Method = Loopback
	default:
		return fmt.Errorf("method %q: there are %v", o.Method, Methods())
	}
	if o.Prefix == "" {
		o.Prefix = "demo-"
	}
	if o.stepLimit == 0 {
		o.stepLimit = 2 * slowest
	}
	if o.Name == "" {
		o.Name = "shunt"
	}
	return nil
}

// method is that of the i-th real server, counted from 0.
func (o *Options) method(i int) Method {
	if o.Method == Both {
		return []Method{Loopback, Redirect}[i%2]
	}
	return o.Method
}

// service is the one virtual service, as ipvsadm takes it.
func service() string { return netip.AddrPortFrom(lab.VIP(), port).String() }

// at is a real server's address as ipvsadm takes it.
func at(n *lab.Node) string { return netip.AddrPortFrom(n.Addr(), port).String() }
