// SPDX-License-Identifier: MIT

package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Processes returns the ids of the processes that run in the node, whoever
// started them, without the caller's own.
func (n *Node) Processes() ([]int, error) {
	found, err := processesIn([]string{filepath.Join(netnsDir, n.Namespace())})
	defer found.close()
	var pids []int
	for _, p := range found {
		pids = append(pids, p.pid)
	}
	return pids, err
}

// process is held by a file descriptor, so that the id cannot come to mean
// another process between looking and signalling.
type process struct{ pid, fd int }

type processes []process

func (ps processes) close() {
	for _, p := range ps {
		unix.Close(p.fd)
	}
}

// endProcesses ends all processes in these namespaces: SIGTERM, time to leave,
// SIGKILL. It looks again until there is none, since they may have children.
func endProcesses(namespaces []string) error {
	for range 10 {
		found, err := processesIn(namespaces)
		if err != nil || len(found) == 0 {
			return err
		}
		err = found.end()
		found.close()
		if err != nil {
			return err
		}
	}
	return errors.New("processes keep appearing in the lab's namespaces")
}

func (ps processes) end() error {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		for _, p := range ps {
			if err := unix.PidfdSendSignal(p.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("cannot end process %d: %w", p.pid, err)
			}
		}
		if ps.wait(grace / 2) {
			return nil
		}
	}
	return fmt.Errorf("%d processes in the lab's namespaces do not end", len(ps))
}

// wait reports whether all ended before the time was up.
func (ps processes) wait(d time.Duration) bool {
	deadline := time.Now().Add(d)
	for _, p := range ps {
		for {
			left := time.Until(deadline)
			if left <= 0 {
				return false
			}
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
			if n > 0 {
				break // a pidfd is readable once its process has ended, reaped or not
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				return false
			}
		}
	}
	return true
}

// processesIn finds the processes whose network namespace is one of these. A
// namespace that is not there has none.
func processesIn(namespaces []string) (found processes, err error) {
	type inode struct{ dev, ino uint64 }
	wanted := map[inode]bool{}
	var st unix.Stat_t
	for _, path := range namespaces {
		if err := unix.Stat(path, &st); err == nil {
			wanted[inode{uint64(st.Dev), st.Ino}] = true
		}
	}
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // gone by now
		}
		err = unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st)
		if err == nil && wanted[inode{uint64(st.Dev), st.Ino}] {
			found = append(found, process{pid, fd})
		} else {
			unix.Close(fd) // elsewhere, or a zombie, which is in no namespace
		}
	}
	return found, nil
}
