// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// The exit codes. ipvsadm has no list of them; these are its habits.
const (
	exitOK      = 0
	exitNoList  = 1   // what was to be listed is not there
	exitWrong   = 2   // the command line makes no sense
	exitRefused = 255 // the director refuses, or options that do not parse
)

// failure is an error with the exit code that goes with it.
type failure struct {
	code int
	text string
	err  error // what it comes from, or nil
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.err }

// fail is a command line that makes no sense.
func fail(format string, args ...any) error {
	return &failure{code: exitWrong, text: fmt.Sprintf(format, args...)}
}

var errNoCommand = errors.New("it does not begin with a command (-A, -E, -D, -C, -a, -e, -d, --set, --add-mark, --delete-mark, --add-deny, --delete-deny)")

// tryHelp is a command line without a command.
func tryHelp() error {
	return &failure{code: exitRefused, text: "Try `ipvsadm -h' or 'ipvsadm --help' for more information.", err: errNoCommand}
}

// refused puts a Director's error into ipvsadm's words where it has words for
// it, and leaves others as they are.
func refused(err error, c lvs.Change) error {
	return &failure{code: exitRefused, text: reason(err, c), err: err}
}

func reason(err error, c lvs.Change) string {
	switch {
	case errors.Is(err, lvs.ErrServiceExists):
		return "Service already exists"
	case errors.Is(err, lvs.ErrNoService):
		switch c.Operation {
		case lvs.AddServer, lvs.EditServer, lvs.DeleteServer, lvs.AddDeny, lvs.DeleteDeny:
			return "Service not defined"
		}
		return "No such service"
	case errors.Is(err, lvs.ErrServerExists):
		return "Destination already exists"
	case errors.Is(err, lvs.ErrNoServer):
		return "No such destination"
	case errors.Is(err, lvs.ErrUnknownScheduler):
		return "Scheduler or persistence engine not found"
	case errors.Is(err, lvs.ErrThresholds), errors.Is(err, lvs.ErrWeight):
		return "Numerical result out of range"
	case errors.Is(err, lvs.ErrPortMapping):
		return portMapping(c)
	case errors.Is(err, lvs.ErrInvalid):
		return "Invalid operation.  Possibly wrong module version, address not unicast, ..."
	}
	return err.Error()
}

// portMapping explains why the port is refused and what does the job instead.
// ipvsadm takes the service's port without a word.
func portMapping(c lvs.Change) string {
	service, server := c.Service.ServiceID, c.Server.ServerID
	if service.Mark != 0 {
		return fmt.Sprintf("%v for %v: direct routing cannot map ports, the packet arrives at the real server with the port"+
			" that the client used: use -r %v", server, service, server.Addr)
	}
	method := "direct routing"
	if c.Server.Forward == lvs.Tunnel {
		method = "tunneling"
	}
	text := fmt.Sprintf("%v for %v: %s cannot map ports, the packet arrives at the real server with port %d: use -r %v",
		server, service, method, service.Port, netip.AddrPortFrom(server.Addr, service.Port))
	if service.Port == 0 || server.Port == 0 || service.Protocol == lvs.ProtocolNone {
		return text
	}
	return text + fmt.Sprintf(", and let the real server map it: shunt realserver start --method redirect --vip %v --port %d/%s:%d",
		service.Addr, service.Port, strings.ToLower(service.Protocol.String()), server.Port)
}
