// SPDX-License-Identifier: MIT

package script

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// account is whose rights a program has.
type account struct {
	name     string
	uid, gid uint32
	self     bool // the daemon's own, and it cannot have others
}

const nobody = 65534 // uid and gid, where no file says otherwise

// lookUp finds a user by name or number; empty is nobody. A daemon that is not
// root has no rights to give but its own.
func lookUp(name string) (account, error) {
	if name == "" {
		name = "nobody"
	}
	u, err := user.Lookup(name)
	if _, unknown := errors.AsType[user.UnknownUserError](err); unknown {
		u, err = user.LookupId(name)
	}
	a := account{name: name, uid: nobody, gid: nobody}
	switch {
	case err == nil:
		if a.uid, a.gid, err = ids(u); err != nil {
			return account{}, fmt.Errorf("user %s: %w", name, err)
		}
	case name != "nobody":
		return account{}, fmt.Errorf("user %q: there is none of this name: see /etc/passwd", name)
	}
	own := os.Geteuid()
	switch {
	case own == 0:
		return a, nil
	case int64(a.uid) == int64(own):
		a.self = true
		return a, nil
	}
	return account{}, fmt.Errorf("as user %s: only root can run a program as somebody else; this is uid %d", name, own)
}

func ids(u *user.User) (uid, gid uint32, err error) {
	a, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, 0, err
	}
	b, err := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(a), uint32(b), err
}
