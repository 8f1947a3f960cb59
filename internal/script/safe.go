// SPDX-License-Identifier: MIT

package script

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks is how many symbolic links a path may lead through, as for the kernel.
const maxLinks = 40

// Safe tells whether a program may be run as a user (empty: nobody), as Run asks
// each time: nil, or an error that wraps ErrUnsafe, or says that there is no such
// program or user.
func Safe(program, user string) error {
	c := Command{Args: []string{program}}
	if err := c.valid(); err != nil {
		return err
	}
	who, err := lookUp(user)
	if err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	return safe(program, who)
}

// safe walks to a program as the kernel does, and refuses it if somebody else
// than root and its user could write to it, or to a directory or link on the way.
func safe(program string, who account) error {
	at, links := "/", 0
	rest := strings.Split(filepath.Clean(program), "/")
	if err := owned("/", program, who); err != nil {
		return err
	}
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		if err := owned(next, program, who); err != nil {
			return err
		}
		target, err := os.Readlink(next)
		if err != nil { // not a link
			at = next
			continue
		}
		if links++; links > maxLinks {
			return fmt.Errorf("%s: %w", program, syscall.ELOOP)
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	info, err := os.Stat(at)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s: not a program but %s", program, kind(info.Mode()))
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("%s: %w: nobody may execute it: chmod +x %s", program, fs.ErrPermission, at)
	}
	return nil
}

// owned checks one file, directory or link on the way.
func owned(at, program string, who account) error {
	info, err := os.Lstat(at)
	if err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: %w: whose it is cannot be told", at, ErrUnsafe)
	}
	mode := info.Mode()
	switch {
	case st.Uid != 0 && st.Uid != who.uid:
		return fmt.Errorf("%s: %w as %v: %s belongs to uid %d, who could change what is run: chown root it", program, ErrUnsafe, who, at, st.Uid)
	case mode&fs.ModeSymlink != 0: // its mode means nothing
	case mode.IsDir() && mode&fs.ModeSticky != 0: // others can add to it, but not replace what root or the user has there
	case mode&0o002 != 0:
		return fmt.Errorf("%s: %w as %v: everybody may write to %s: chmod o-w it", program, ErrUnsafe, who, at)
	case mode&0o020 != 0 && st.Gid != 0:
		return fmt.Errorf("%s: %w as %v: the group %d may write to %s: chmod g-w it", program, ErrUnsafe, who, st.Gid, at)
	}
	return nil
}

func kind(m fs.FileMode) string {
	if m.IsDir() {
		return "a directory"
	}
	return "a special file"
}
