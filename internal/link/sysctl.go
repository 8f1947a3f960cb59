// SPDX-License-Identifier: MIT

package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// The kernel shows /proc/sys/net of the namespace of the thread that opens the
// file (not of the process's first thread, as /proc/net does).
const sysctlRoot = "/proc/sys/net"

// Sysctl returns the value of a key under /proc/sys/net without white space
// around it. The key is the path there, such as "ipv4/conf/eth0/arp_ignore":
// slashes, because an interface's name may have dots in it. The error is
// ErrNoSysctl if there is no such key.
func Sysctl(key string) (string, error) {
	if !fs.ValidPath(key) {
		return "", fmt.Errorf("sysctl net/%s: %w", key, ErrNoSysctl)
	}
	b, err := os.ReadFile(path.Join(sysctlRoot, key))
	if err != nil {
		return "", sysctlError(key, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// SysctlInt is Sysctl for keys that hold one decimal number.
func SysctlInt(key string) (int, error) {
	s, err := Sysctl(key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("sysctl net/%s: %q is not a number", key, s)
	}
	return n, nil
}

// EffectiveIPv4 returns what the kernel goes by for an IPv4 parameter of an
// interface where the greater one of conf/all and conf/INTERFACE counts, as it
// does for arp_ignore, arp_announce and rp_filter; and the two values.
func EffectiveIPv4(iface, parameter string) (effective, all, own int, err error) {
	if all, err = SysctlInt(conf("all", parameter)); err != nil {
		return 0, 0, 0, err
	}
	if own, err = SysctlInt(conf(iface, parameter)); err != nil {
		return 0, 0, 0, err
	}
	return max(all, own), all, own, nil
}

// setSysctl writes a value; it is not exported because a change that is not in
// a journal cannot be taken back.
func setSysctl(key, value string) error {
	if !fs.ValidPath(key) {
		return fmt.Errorf("sysctl net/%s: %w", key, ErrNoSysctl)
	}
	// No O_CREATE and no O_TRUNC: a key is there or it is not.
	f, err := os.OpenFile(path.Join(sysctlRoot, key), os.O_WRONLY, 0)
	if err != nil {
		return sysctlError(key, err)
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return sysctlError(key, fmt.Errorf("set it to %q: %w", value, err))
	}
	return nil
}

func conf(iface, parameter string) string { return "ipv4/conf/" + iface + "/" + parameter }

func sysctlError(key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sysctl net/%s: %w", key, ErrNoSysctl)
	}
	return fmt.Errorf("sysctl net/%s: %w", key, err)
}
