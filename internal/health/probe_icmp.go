// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// ofICMP is what differs between the families.
type ofICMP struct {
	network      string
	protocol     int
	echo, answer icmp.Type
	number       uint32          // of the answer's type, on the wire
	header       bpf.Instruction // X becomes the length of what is before ICMP
}

var (
	icmp4 = ofICMP{"ip4:icmp", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply, 0, bpf.LoadMemShift{Off: 0}}
	icmp6 = ofICMP{"ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 129, bpf.LoadConstant{Dst: bpf.RegX, Val: 0}}
)

// icmp sends an echo request by a raw socket that is connected, so that it gets
// what comes from the server only, and waits for the answer to just this one.
func (p *Prober) icmp(ctx context.Context, e Endpoint) error {
	family := icmp4
	if !e.RIP.Unmap().Is4() {
		family = icmp6
	}
	echo := &icmp.Echo{ID: int(uint16(p.echo.Add(1))), Seq: 1, Data: []byte(rand.Text())}
	packet, err := (&icmp.Message{Type: family.echo, Body: echo}).Marshal(nil)
	if err != nil {
		return notAsked(err)
	}
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return control(raw, func(fd int) error { return errors.Join(prepare(fd, "icmp", e), family.only(fd, echo.ID)) })
	}}
	raw, err := d.DialContext(ctx, family.network, e.RIP.String())
	if err != nil {
		return err
	}
	c := bound(ctx, raw)
	defer c.Close()
	socket := raw.(*net.IPConn)
	if _, err := c.Write(packet); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := socket.ReadFrom(buf) // as Read, but without the header of IPv4
		if err != nil {
			return err
		}
		if family.answers(echo, buf[:n]) {
			return nil
		}
	}
}

// only has the kernel keep the answers to one identifier. A raw socket gets a copy of all
// there are otherwise, from its first moment on, and many probes would drown in them.
func (f ofICMP) only(fd, id int) error {
	code, err := bpf.Assemble([]bpf.Instruction{
		f.header,
		bpf.LoadIndirect{Off: 0, Size: 1}, // the type
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: f.number, SkipTrue: 3},
		bpf.LoadIndirect{Off: 4, Size: 2}, // the identifier
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(id), SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return notAsked(err)
	}
	filter := make([]unix.SockFilter, len(code))
	for i, c := range code {
		filter[i] = unix.SockFilter{Code: c.Op, Jt: c.Jt, Jf: c.Jf, K: c.K}
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return notAsked(err)
	}
	for { // what came before the filter
		if _, _, err := unix.Recvfrom(fd, nil, unix.MSG_DONTWAIT); err != nil {
			return nil
		}
	}
}

func (f ofICMP) answers(echo *icmp.Echo, packet []byte) bool {
	m, err := icmp.ParseMessage(f.protocol, packet)
	if err != nil || m.Type != f.answer {
		return false
	}
	got, ok := m.Body.(*icmp.Echo)
	return ok && got.ID == echo.ID && got.Seq == echo.Seq && string(got.Data) == string(echo.Data)
}
