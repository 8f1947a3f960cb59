// SPDX-License-Identifier: MIT

package lvs

import "errors"

// What can be wrong with a change. They are wrapped with the service or server
// they are about; match them with errors.Is.
var (
	ErrServiceExists    = errors.New("service already exists")
	ErrNoService        = errors.New("no such service")
	ErrServerExists     = errors.New("destination already exists")
	ErrNoServer         = errors.New("no such destination")
	ErrUnknownScheduler = errors.New("scheduler or persistence engine not found")
	ErrThresholds       = errors.New("lower threshold above the upper one")
	ErrWeight           = errors.New("negative weight")
	ErrInvalid          = errors.New("invalid operation")
	// ErrUnsupported: IPVS has this, shunt does not (yet). The text names it.
	ErrUnsupported = errors.New("not supported")
	// ErrPortMapping: direct routing cannot change a packet's port.
	ErrPortMapping = errors.New("direct routing cannot map ports")
)
