// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pins is a directory on a bpffs, as this process reaches it.
type pins struct {
	path string
	via  *os.File // keeps path valid, if it leads through a file descriptor
}

// Close ends the path's validity. What is pinned stays.
func (p pins) Close() error {
	if p.via == nil {
		return nil
	}
	return p.via.Close()
}

// openPins makes sure that there is a bpffs at dir and returns the way to it.
//
// It must outlive this process and be found by the next one. Under "ip netns
// exec" we live in a mount namespace of our own where neither holds. So it
// belongs in the one of our outermost ancestor (process 1, as a rule), and if
// that is another namespace than ours, a file descriptor leads there.
func openPins(dir string) (pins, error) {
	p, err := findPins(dir, true)
	if err == nil {
		return p, nil
	}
	if err := errors.Join(os.MkdirAll(dir, 0o700), unix.Mount("bpf", dir, "bpf", 0, "mode=0700")); err != nil {
		return p, fmt.Errorf("mounting a bpffs at %s (is this root, with CAP_SYS_ADMIN and CAP_BPF?): %w", dir, err)
	}
	return pins{path: dir}, nil
}

var errNoPins = errors.New("no bpffs")

// findPins is openPins, but mounts one only if told to, and only where it lasts.
func findPins(dir string, mount bool) (pins, error) {
	if isBPF(dir) {
		return pins{path: dir}, nil
	}
	for _, pid := range ancestors() {
		p := pins{}
		err := inMountNamespaceOf(pid, func() (err error) {
			if !isBPF(dir) && mount {
				err = errors.Join(os.MkdirAll(dir, 0o700), unix.Mount("bpf", dir, "bpf", 0, "mode=0700"))
			}
			if err != nil || !isBPF(dir) {
				return errors.Join(err, errNoPins)
			}
			p.via, err = os.Open(dir)
			return err
		})
		if err != nil {
			continue
		}
		if isBPF(dir) { // the same namespace, or the mount has reached ours
			return pins{path: dir}, p.Close()
		}
		p.path = fmt.Sprintf("/proc/self/fd/%d", p.via.Fd())
		return p, nil
	}
	return pins{}, errNoPins
}

// ancestors lists the processes that this one descends from, outermost first,
// itself last.
func ancestors() []int {
	var chain []int
	for pid := os.Getpid(); pid > 0 && len(chain) < 64; {
		chain = append(chain, pid)
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		// After the command's name, which is in brackets and may hold anything,
		// come the state and the parent.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			break
		}
	}
	slices.Reverse(chain)
	return chain
}

func isBPF(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.BPF_FS_MAGIC
}

// inMountNamespaceOf runs f on a thread of its own in the mount namespace of a
// process.
func inMountNamespaceOf(pid int, f func() error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("unshare: %w", err)
			return
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			done <- fmt.Errorf("entering the mount namespace of process %d: %w", pid, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// removePins removes a directory of pins; what is pinned ends unless something
// else holds it.
func removePins(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Remove(path)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, d := range []string{filepath.Join(dir, linksDir), dir} {
		if e := os.Remove(d); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// Pinned tells whether an instance has pins: a director runs, or one is gone
// and its packets still flow.
func Pinned(pinDir, instance string) bool {
	p, err := findPins(pinDir, false)
	if err != nil {
		return false
	}
	defer p.Close()
	return pinned(p.path, instance)
}

func pinned(path, instance string) bool {
	for _, dir := range []string{filepath.Join(path, instance), superseded(path, instance)} {
		if _, err := os.Stat(filepath.Join(dir, bpfMapConnections)); err == nil {
			return true
		}
	}
	return false
}

// RemovePins ends what a killed director left behind: links first, so that
// interfaces are free, then maps. Without pins it does nothing.
func RemovePins(pinDir, instance string) error {
	p, err := findPins(pinDir, false)
	if err != nil {
		return nil
	}
	defer p.Close()
	return removeInstance(p.path, instance)
}

func removeInstance(path, instance string) error {
	for _, dir := range []string{filepath.Join(path, instance), unfinished(path, instance), successor(path, instance), superseded(path, instance)} {
		if err := removePins(dir); err != nil {
			return fmt.Errorf("removing pins: %w", err)
		}
	}
	return nil
}

// unfinished is where a new instance's maps are pinned until all are there; a
// rename then makes them the instance's. (A bpffs takes no dots in names.)
func unfinished(pinDir, instance string) string { return filepath.Join(pinDir, instance+":new") }

// successor is where maps of another layout are pinned until they are the
// instance's, and superseded is where those are from then on that they came from.
func successor(pinDir, instance string) string  { return filepath.Join(pinDir, instance+":next") }
func superseded(pinDir, instance string) string { return filepath.Join(pinDir, instance+":last") }
