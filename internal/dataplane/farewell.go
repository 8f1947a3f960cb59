// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// farewellSeconds is how old the end of a connection may be that its server is told of.
const farewellSeconds = 2

// farewell tells a real server of a connection whose client was told that it ended
// (bpf/fate.h): as the client would, by a RST with the number of its packet.
func (r *resumer) farewell(b []byte) {
	if len(b) < int(unsafe.Sizeof(bpfEnded{})) {
		return
	}
	e := (*bpfEnded)(unsafe.Pointer(unsafe.SliceData(slices.Clone(b))))
	r.mu.Lock()
	to := r.record(e.Arrival.Server)
	now, err := r.seconds() // by parameters that an Apply may be writing
	r.mu.Unlock()
	if err != nil {
		r.log.Debug("a real server was not told that a connection was reset", "server", to.addr, "error", err)
		return
	}
	if bpfServerFlags(to.Flags)&bpfServerFlagsSERVER_RESOLVED == 0 || (now-e.Arrival.Second)&deadlineMask > farewellSeconds {
		return
	}
	client, virtual := addrOf(uint32(e.Arrival.Key.Client[1]>>32)), addrOf(e.Arrival.Key.Vip[3])
	ethertype := uint16(unix.ETH_P_IP)
	if e.Arrival.Key.Six != 0 {
		var c [16]byte
		binary.NativeEndian.PutUint64(c[:], e.Arrival.Key.Client[0])
		binary.NativeEndian.PutUint64(c[8:], e.Arrival.Key.Client[1])
		client, virtual, ethertype = netip.AddrFrom16(c), addrOfWords(e.Arrival.Key.Vip), unix.ETH_P_IPV6
	}
	frame := slices.Concat(to.Mac[:], to.Source[:])
	if to.Vlan != 0 {
		frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_8021Q)
		frame = binary.BigEndian.AppendUint16(frame, to.Vlan)
	}
	frame = binary.BigEndian.AppendUint16(frame, ethertype)
	reset := segment(netip.AddrPortFrom(client, networkOrder(uint16(e.Ports))), netip.AddrPortFrom(virtual, networkOrder(uint16(e.Ports>>16))),
		tcpRST, swap32(e.Seq), 0)
	if err := r.put(append(frame, reset...), int(to.Interface)); err != nil {
		r.log.Debug("a real server was not told that a connection was reset", "server", to.addr, "client", client, "error", err)
	}
}

// swap32 is a number of 32 bits that is as on the wire.
func swap32(n uint32) uint32 {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], n)
	return binary.BigEndian.Uint32(b[:])
}

// put sends a frame by an interface.
func (r *resumer) put(frame []byte, index int) error {
	if r.wire < 0 {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0) // 0: it receives nothing
		if err != nil {
			return fmt.Errorf("opening a packet socket: %w", err)
		}
		r.wire = fd
	}
	return unix.Sendto(r.wire, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6})
}
