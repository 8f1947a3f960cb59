// SPDX-License-Identifier: MIT

package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sockets are asked for by sock_diag(7); these are its structures' places
// (include/uapi/linux/inet_diag.h). Ports and addresses are in network byte order.
const (
	inetDiagRequest = 56 // struct inet_diag_req_v2
	inetDiagMessage = 72 // struct inet_diag_msg

	diagFamily  = 0
	diagPort    = 4 // id.idiag_sport
	diagAddr    = 8 // id.idiag_src
	established = 1 << unix.BPF_TCP_ESTABLISHED
)

// countConnections counts the established TCP connections to one of these
// addresses or ports of this host (of its network namespace).
func countConnections(vips []netip.Addr, ports []uint16) (int, error) {
	n := 0
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := eachConnection(family, func(local netip.AddrPort) {
			if slices.Contains(vips, local.Addr()) || slices.Contains(ports, local.Port()) {
				n++
			}
		})
		if err != nil {
			return 0, fmt.Errorf("counting connections: %w", err)
		}
	}
	return n, nil
}

func eachConnection(family uint8, each func(local netip.AddrPort)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return err
	}
	if err := unix.Sendto(fd, request(family), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buffer := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if done, err := readSockets(buffer[:n], each); done || err != nil {
			return err
		}
	}
}

// request asks for the established sockets of a family.
func request(family uint8) []byte {
	b := make([]byte, unix.SizeofNlMsghdr+inetDiagRequest)
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	r := b[unix.SizeofNlMsghdr:]
	r[0], r[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(r[4:], established)
	return b
}

// readSockets reads one datagram of the kernel's; done: it was the last one.
func readSockets(b []byte, each func(local netip.AddrPort)) (done bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return false, err
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return false, unix.EINVAL
			}
			errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			if errno == unix.ENOENT {
				return false, fmt.Errorf("%w: the kernel cannot list sockets: modprobe tcp_diag", errno)
			}
			return false, errno
		case unix.SOCK_DIAG_BY_FAMILY:
			local, ok := localAddr(m.Data)
			if !ok {
				return false, unix.EINVAL
			}
			each(local)
		}
	}
	return false, nil
}

func localAddr(m []byte) (netip.AddrPort, bool) {
	if len(m) < inetDiagMessage {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(m[diagPort:])
	switch m[diagFamily] {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(m[diagAddr:])), port), true
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(m[diagAddr:])).Unmap(), port), true
	}
	return netip.AddrPort{}, false
}
