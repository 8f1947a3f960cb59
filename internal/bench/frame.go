// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// What frames are made of. Flow 0's client has the source port 0x8000; where
// bpf/wrap.h puts what makes up for other flows' addresses and ports, it has
// the complement of that.
const (
	webPort    = 80
	firstPort  = 0x8000
	complement = firstPort ^ 0xffff
	frameSize4 = 64
	frameSize  = 80 // FRAME of bpf/wrap.h
)

var (
	vip       = netip.MustParseAddr("198.18.0.1") // RFC 2544: for benchmarks
	vip6      = netip.MustParseAddr("2001:db8::1")
	web       = netip.AddrPortFrom(vip, webPort)
	web6      = netip.AddrPortFrom(vip6, webPort)
	elsewhere = netip.MustParseAddr("198.18.0.2") // no service is there
	client    = netip.MustParseAddr("10.0.0.0")
	client6   = netip.MustParseAddr("2001:db8:1::7fff:0")
	routerMAC = net.HardwareAddr{2, 0, 0, 0, 0, 0xfe}
	ownMAC    = net.HardwareAddr{0, 0, 0, 0, 0, 0} // lo's, by which a test run says that packets come in
)

// frame is flow 0's packet.
func frame(protocol lvs.Protocol, to netip.AddrPort, change func(*layers.TCP)) []byte {
	eth := &layers.Ethernet{SrcMAC: routerMAC, DstMAC: ownMAC, EthernetType: layers.EthernetTypeIPv4}
	tcp := &layers.TCP{SrcPort: firstPort, DstPort: layers.TCPPort(to.Port()), Window: 1000}
	udp := &layers.UDP{SrcPort: firstPort, DstPort: layers.UDPPort(to.Port())}
	var ip interface {
		gopacket.NetworkLayer
		gopacket.SerializableLayer
	}
	size := frameSize4
	if to.Addr().Is6() {
		size, eth.EthernetType = frameSize, layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocol(protocol), SrcIP: client6.AsSlice(), DstIP: to.Addr().AsSlice()}
	} else {
		ip = &layers.IPv4{Version: 4, TTL: 64, Id: 0xffff, Protocol: layers.IPProtocol(protocol), SrcIP: client.AsSlice(), DstIP: to.Addr().AsSlice()}
		tcp.Urgent = complement
	}
	var transport gopacket.SerializableLayer = udp
	if protocol == lvs.TCP {
		transport = tcp
		change(tcp)
	}
	must(tcp.SetNetworkLayerForChecksum(ip))
	must(udp.SetNetworkLayerForChecksum(ip))
	b := gopacket.NewSerializeBuffer()
	must(gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, transport))
	out := make([]byte, size) // what Ethernet pads
	copy(out, b.Bytes())
	if protocol == lvs.UDP && size == frameSize4 {
		out[40], out[41] = 0, 0 // none: it would depend on the flow
	}
	return out
}

func opening(t *layers.TCP)       { t.SYN = true }
func acknowledging(t *layers.TCP) { t.ACK = true }

func syn(to netip.AddrPort) []byte      { return frame(lvs.TCP, to, opening) }
func ack(to netip.AddrPort) []byte      { return frame(lvs.TCP, to, acknowledging) }
func datagram(to netip.AddrPort) []byte { return frame(lvs.UDP, to, nil) }

// arp is somebody's question for the VIP.
func arp() []byte {
	eth := &layers.Ethernet{SrcMAC: routerMAC, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP}
	question := &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, Operation: layers.ARPRequest,
		SourceHwAddress: routerMAC, SourceProtAddress: client.AsSlice(), DstHwAddress: ownMAC, DstProtAddress: vip.AsSlice()}
	b := gopacket.NewSerializeBuffer()
	must(gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, eth, question))
	out := make([]byte, frameSize4)
	copy(out, b.Bytes())
	return out
}

// must is for what can only fail by a mistake in this package.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("bench: %v", err))
	}
}
