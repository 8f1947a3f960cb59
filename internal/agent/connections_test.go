// SPDX-License-Identifier: MIT

package agent

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// diag builds one message of the kernel's.
func diag(kind uint16, data []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return append(append(b, make([]byte, 10)...), data...)
}

func socket(family byte, port uint16, addr string) []byte {
	b := make([]byte, inetDiagMessage)
	b[0] = family
	binary.BigEndian.PutUint16(b[4:], port)
	copy(b[8:], netip.MustParseAddr(addr).AsSlice())
	return diag(unix.SOCK_DIAG_BY_FAMILY, b)
}

func TestReadSockets(t *testing.T) {
	done := diag(unix.NLMSG_DONE, make([]byte, 4))
	refusal := func(errno int32) []byte {
		return diag(unix.NLMSG_ERROR, binary.NativeEndian.AppendUint32(nil, uint32(-errno)))
	}
	for _, c := range []struct {
		name  string
		data  []byte
		found string
		done  bool
		err   string
	}{
		{"none", nil, "", false, ""},
		{"the end", done, "", true, ""},
		{"IPv4", socket(unix.AF_INET, 80, "172.16.16.172"), "172.16.16.172:80 ", false, ""},
		{"IPv6", socket(unix.AF_INET6, 443, "2001:db8::1"), "[2001:db8::1]:443 ", false, ""},
		{"IPv4 by IPv6, and the end", append(socket(unix.AF_INET6, 80, "::ffff:172.16.16.172"), done...), "172.16.16.172:80 ", true, ""},
		{"another family", socket(7, 80, "::"), "", false, "invalid argument"},
		{"a short one", diag(unix.SOCK_DIAG_BY_FAMILY, make([]byte, inetDiagMessage-4)), "", false, "invalid argument"},
		{"not allowed", refusal(int32(unix.EPERM)), "", false, "not permitted"},
		{"no module", refusal(int32(unix.ENOENT)), "", false, "modprobe tcp_diag"},
		{"a short error", diag(unix.NLMSG_ERROR, nil), "", false, "invalid argument"},
		{"a length that lies", []byte{255, 255, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "", false, "invalid argument"},
	} {
		var found strings.Builder
		d, err := readSockets(c.data, func(local netip.AddrPort) { found.WriteString(local.String() + " ") })
		if found.String() != c.found || d != c.done || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v, %v", c.name, &found, d, err)
		}
	}
}

func FuzzReadSockets(f *testing.F) {
	f.Add(socket(unix.AF_INET, 80, "172.16.16.172"))
	f.Add(append(socket(unix.AF_INET6, 80, "::1"), diag(unix.NLMSG_DONE, nil)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = readSockets(data, func(local netip.AddrPort) {
			if !local.Addr().IsValid() {
				t.Error("no address")
			}
		})
	})
}
