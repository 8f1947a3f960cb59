// SPDX-License-Identifier: MIT

package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// ledgerDir holds one file per lab. It is on a file system that a boot empties,
// as the namespaces themselves are.
const ledgerDir = "/run/shunt-lab"

var usableName = regexp.MustCompile(`^[a-zA-Z0-9_-]{0,64}$`)

// ledger is the record of the namespaces of one prefix: one name per line,
// written before the namespace is made. So a tool that dies at any point leaves
// a complete list, and a namespace that is not in it is never touched. The lock
// on the file says that its maker is alive; the kernel drops it with the process.
type ledger struct {
	prefix string
	f      *os.File
}

// openLedger opens and locks the record of a prefix, making it if needed.
func openLedger(prefix string) (*ledger, error) {
	if !usableName.MatchString(prefix) {
		return nil, fmt.Errorf("prefix %q: %w: use letters, digits, - and _", prefix, ErrName)
	}
	path := filepath.Join(ledgerDir, prefix+".nodes")
	for {
		if err := os.MkdirAll(ledgerDir, 0o755); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
		if errors.Is(err, os.ErrNotExist) {
			continue // another lab's forget took the empty directory away in between
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("lab %q: %w by another process", prefix, ErrBusy)
			}
			return nil, err
		}
		// The holder before us may have removed the file while we waited to open it.
		held, err := f.Stat()
		if err == nil {
			var there os.FileInfo
			if there, err = os.Stat(path); err == nil && os.SameFile(held, there) {
				return &ledger{prefix: prefix, f: f}, nil
			}
		}
		f.Close()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
}

// names returns the node names on record, oldest first.
func (l *ledger) names() ([]string, error) {
	if _, err := l.f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	var names []string
	s := bufio.NewScanner(l.f)
	for s.Scan() {
		// A last line without its newline's full name cannot be: a name is
		// written in one call, and its namespace is made after that.
		if n := strings.TrimSpace(s.Text()); n != "" && usableName.MatchString(n) {
			names = append(names, n)
		}
	}
	return names, s.Err()
}

// add records a name. Call it before making the namespace.
func (l *ledger) add(name string) error {
	_, err := l.f.WriteString(name + "\n")
	return err
}

// forget removes the record; all its namespaces must be gone.
func (l *ledger) forget() {
	os.Remove(l.f.Name())
	os.Remove(ledgerDir) // succeeds for the last lab only
}

func (l *ledger) close() error { return l.f.Close() }
