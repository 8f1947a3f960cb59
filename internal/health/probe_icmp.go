// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"crypto/rand"
	"net"
	"syscall"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// ofICMP is what differs between the families.
type ofICMP struct {
	network       string
	protocol      int
	echo, answers icmp.Type
	filter        func(c net.PacketConn) error // takes answers only
}

var (
	icmp4 = ofICMP{"ip4:icmp", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply, func(c net.PacketConn) error {
		var f ipv4.ICMPFilter
		f.SetAll(true)
		f.Accept(ipv4.ICMPTypeEchoReply)
		return ipv4.NewPacketConn(c).SetICMPFilter(&f)
	}}
	icmp6 = ofICMP{"ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, func(c net.PacketConn) error {
		var f ipv6.ICMPFilter
		f.SetAll(true)
		f.Accept(ipv6.ICMPTypeEchoReply)
		return ipv6.NewPacketConn(c).SetICMPFilter(&f)
	}}
)

// icmp sends an echo request by a raw socket that is connected, so that it gets
// what comes from the server only, and waits for the answer to just this one.
func (p *Prober) icmp(ctx context.Context, e Endpoint) error {
	family := icmp4
	if !e.RIP.Unmap().Is4() {
		family = icmp6
	}
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return control(raw, func(fd int) error { return prepare(fd, "icmp", e) })
	}}
	raw, err := d.DialContext(ctx, family.network, e.RIP.String())
	if err != nil {
		return err
	}
	c := bound(ctx, raw)
	defer c.Close()
	socket := raw.(*net.IPConn)
	if err := family.filter(socket); err != nil {
		return notAsked(err)
	}
	echo := &icmp.Echo{ID: int(uint16(p.echo.Add(1))), Seq: 1, Data: []byte(rand.Text())}
	packet, err := (&icmp.Message{Type: family.echo, Body: echo}).Marshal(nil)
	if err != nil {
		return notAsked(err)
	}
	if _, err := c.Write(packet); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := socket.ReadFrom(buf) // as Read, but without the header of IPv4
		if err != nil {
			return err
		}
		if family.answersTo(echo, buf[:n]) {
			return nil
		}
	}
}

func (f ofICMP) answersTo(echo *icmp.Echo, packet []byte) bool {
	m, err := icmp.ParseMessage(f.protocol, packet)
	if err != nil || m.Type != f.answers {
		return false
	}
	got, ok := m.Body.(*icmp.Echo)
	return ok && got.ID == echo.ID && got.Seq == echo.Seq && string(got.Data) == string(echo.Data)
}
