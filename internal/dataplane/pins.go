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

// mountBPF makes sure that dir is on a bpffs.
//
// The mount must outlive this process and be seen by the next one. Under "ip
// netns exec" we live in a mount namespace of our own, where neither holds, so
// the mount is made in that of our outermost ancestor (process 1, as a rule),
// from which it reaches ours.
func mountBPF(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("directory for pins: %w", err)
	}
	if isBPF(dir) {
		return nil
	}
	var err error
	for _, pid := range ancestors() {
		err = inMountNamespaceOf(pid, func() error {
			if err := os.MkdirAll(dir, 0o700); err != nil || isBPF(dir) {
				return err
			}
			return unix.Mount("bpf", dir, "bpf", 0, "mode=0700")
		})
		if err == nil {
			break
		}
	}
	if !isBPF(dir) {
		// None was allowed, or it does not reach us: then one of our own must do.
		err = unix.Mount("bpf", dir, "bpf", 0, "mode=0700")
	}
	if err != nil {
		return fmt.Errorf("mounting a bpffs at %s (is this root, with CAP_SYS_ADMIN and CAP_BPF?): %w", dir, err)
	}
	return nil
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

// Pinned tells whether an instance has pins: a director runs, or one was killed
// and its packets still flow.
func Pinned(pinDir, instance string) bool {
	_, err := os.Stat(filepath.Join(pinDir, instance, bpfMapConnections))
	return err == nil
}

// RemovePins ends what a killed director left behind: links first, so that
// interfaces are free, then maps. Without pins it does nothing.
func RemovePins(pinDir, instance string) error {
	for _, dir := range []string{filepath.Join(pinDir, instance), unfinished(pinDir, instance)} {
		if err := removePins(dir); err != nil {
			return fmt.Errorf("removing pins: %w", err)
		}
	}
	return nil
}

// unfinished is where a new instance's maps are pinned until all are there; a
// rename then makes them the instance's. (A bpffs takes no dots in names.)
func unfinished(pinDir, instance string) string { return filepath.Join(pinDir, instance+":new") }
