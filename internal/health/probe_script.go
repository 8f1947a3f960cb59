// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/shunt-lvs/shunt/internal/script"
)

// runScript has a program say how the server is. One that could not be run, or that
// was killed by somebody else's hand, says nothing.
func runScript(ctx context.Context, c Check, e Endpoint) error {
	command := script.Command{Args: c.Script.Command, User: c.Script.User, Env: environment(c, e), MaxOutput: c.Script.MaxOutput}
	_, err := command.Run(ctx)
	var ended *script.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ended):
		if ended.FirstLine != "" && ended.Signal == 0 {
			return &failure{ended.FirstLine, err}
		}
		return &failure{"script: " + ended.Error(), err}
	case errors.Is(err, script.ErrTimeout):
		return context.DeadlineExceeded
	}
	return notAsked(err)
}

// environment tells a program whom it is about.
func environment(c Check, e Endpoint) []string {
	vip := ""
	if e.VIP.IsValid() {
		vip = e.VIP.String()
	}
	name := c.Name
	if name == "" {
		name = string(c.Kind)
	}
	return []string{
		"SHUNT_VIP=" + vip,
		"SHUNT_RIP=" + e.RIP.String(),
		"SHUNT_PORT=" + strconv.Itoa(int(e.Port)),
		"SHUNT_PROTOCOL=" + strings.ToLower(e.Protocol.String()),
		"SHUNT_CHECK=" + name,
	}
}
