// SPDX-License-Identifier: MIT

package link

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Place is where kernel network state lives: a boot of a host and a network
// namespace. State written down in one place means nothing in another.
type Place struct {
	Boot string `json:"boot"` // /proc/sys/kernel/random/boot_id
	// Cookie is the namespace's; unlike the inode it is never used again
	// during a boot.
	Cookie uint64 `json:"cookie"`
	Inode  uint64 `json:"inode"` // as in /proc/PID/ns/net, for people
}

// Here returns the place of the calling thread.
func Here() (Place, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Place{}, fmt.Errorf("boot id: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return Place{}, fmt.Errorf("network namespace: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Place{}, fmt.Errorf("network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return Place{}, fmt.Errorf("cookie of the network namespace: %w", err)
	}
	return Place{Boot: strings.TrimSpace(string(boot)), Cookie: cookie, Inode: st.Ino}, nil
}
