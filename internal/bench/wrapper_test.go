// SPDX-License-Identifier: MIT

package main

import (
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// TestWrapperVariesFlows: each flow has an address and port of its own, and
// checksums that are right.
func TestWrapperVariesFlows(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it loads a BPF program")
	}
	for name, frame := range map[string][]byte{
		"IPv4 SYN": syn(web), "IPv4 ACK": ack(web), "IPv4 UDP": datagram(web),
		"IPv6 SYN": syn(web6), "IPv6 UDP": datagram(web6),
	} {
		t.Run(name, func(t *testing.T) {
			w, err := newWrapper(traffic{frame: frame, fresh: true})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			must(w.target.Put(uint32(0), w.nothing))
			seen := map[string]bool{}
			for turn := range uint64(1000) {
				must(w.all.Variables[benchVarTurn].Set(turn))
				o := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
				if action, err := w.program.Run(&o); err != nil || action != xdpTX {
					t.Fatalf("answer %d: %v", action, err)
				}
				p := gopacket.NewPacket(o.DataOut, layers.LayerTypeEthernet, gopacket.Default)
				transport := p.TransportLayer().(interface {
					SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
				})
				must(transport.SetNetworkLayerForChecksum(p.NetworkLayer()))
				if wrong, bad := p.VerifyChecksums(); wrong != nil || len(bad) > 0 {
					t.Fatalf("flow of turn %d: %v %v", turn, wrong, bad)
				}
				seen[p.NetworkLayer().NetworkFlow().String()+p.TransportLayer().TransportFlow().String()] = true
			}
			if len(seen) != 1000 {
				t.Errorf("%d flows in 1000 packets", len(seen))
			}
		})
	}
}
