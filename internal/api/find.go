// SPDX-License-Identifier: MIT

package api

import "errors"

// Find says which instance a command is about, and where its socket is. In
// this order: the one that the user names (flag, then the environment's
// SHUNT_INSTANCE), the director of this network namespace, the default one.
func Find(flag, environment, runDir string) (Holder, error) {
	name := or(flag, environment)
	if name == "" {
		h, err := FindHolder()
		if err == nil {
			return h, nil
		}
		if !errors.Is(err, ErrNotRunning) {
			return Holder{}, err
		}
		name = DefaultInstance
	}
	if err := CheckName(name); err != nil {
		return Holder{}, err
	}
	return Holder{Instance: name, Socket: Places{Instance: name, RunDir: runDir}.Socket()}, nil
}
