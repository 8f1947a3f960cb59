// SPDX-License-Identifier: MIT

package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netnsDir is where iproute2 looks for named namespaces.
const netnsDir = "/run/netns"

// makeNamespace makes a network namespace and binds it to a name, as `ip netns
// add` does. The calling thread stays where it is.
func makeNamespace(name string) (netns.NsHandle, error) {
	if err := shareNetnsDir(); err != nil {
		return netns.None(), fmt.Errorf("%s: %w", netnsDir, err)
	}
	h := netns.None()
	err := onOwnThread(func() error {
		here, err := netns.Get()
		if err != nil {
			return err
		}
		defer here.Close()
		h, err = netns.NewNamed(name)
		return errors.Join(err, wayBack(netns.Set(here)))
	})
	if errors.Is(err, os.ErrExist) {
		err = fmt.Errorf("namespace %s %w; `ip netns delete %[1]s` removes it", name, ErrForeign)
	}
	return h, err
}

// shareNetnsDir makes /run/netns what iproute2 makes of it on first use: a
// mount point of its own whose mounts show in every mount namespace. Were this
// left to a later `ip netns add`, our mounts would be hidden underneath, and the
// namespaces could not be removed any more. Like iproute2's it stays.
func shareNetnsDir() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	d, err := os.Open(netnsDir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil { // iproute2 takes this lock too
		return err
	}
	err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
}

// removeAll ends the processes in all namespaces on record and removes them.
func removeAll(l *ledger) error {
	names, err := l.names()
	if err != nil {
		return err
	}
	var errs []error
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = filepath.Join(netnsDir, l.prefix+name)
	}
	if err := endProcesses(paths); err != nil {
		errs = append(errs, err)
	}
	for _, path := range slices.Backward(paths) {
		if err := removeNamespace(path); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return l.f.Truncate(0)
	}
	return errors.Join(errs...)
}

// removeNamespace undoes makeNamespace, also when that got only half way.
func removeNamespace(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// inNamespace runs f on a thread that is in h, and nothing else on that thread.
func inNamespace(h netns.NsHandle, f func() error) error {
	return onOwnThread(func() error {
		here, err := netns.Get()
		if err != nil {
			return err
		}
		defer here.Close()
		if err := netns.Set(h); err != nil {
			return err
		}
		return errors.Join(f(), wayBack(netns.Set(here)))
	})
}

var errStranded = errors.New("cannot return to the namespace of before")

func wayBack(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errStranded, err)
}

var errNoReturn = errors.New("the function ended its goroutine (runtime.Goexit, t.FailNow?)")

// onOwnThread runs f on a locked thread and waits for it. A thread that could
// not return to its namespace is not given back: it ends with its goroutine.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errNoReturn
		defer func() { done <- err }()
		runtime.LockOSThread()
		err = f()
		if !errors.Is(err, errStranded) {
			runtime.UnlockOSThread()
		}
	}()
	return <-done
}
