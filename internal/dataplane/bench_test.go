// SPDX-License-Identifier: MIT

package dataplane

import (
	"net"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// BenchmarkPacket measures what a packet costs inside the kernel: nanoseconds,
// and as a ratio to the cheapest packet there is (one that is not IPv4),
// measured in turn with it. A test run hands the program the packet that it has
// already changed, so the real server's MAC is the director's own and the TTL
// is large: each repetition is a packet like the first.
func BenchmarkPacket(b *testing.B) {
	p := newPlane(b)
	install(b, p, table(lvs.TCP, lvs.WeightedLeastConnection, server(0, 1), server(1, 1), server(2, 1), server(3, 1)))
	for n := range 4 {
		if err := p.SetNeighbour(Neighbour{Addr: rip(n), Interface: loopback, MAC: net.HardwareAddr(ownMAC), Source: ownMAC}); err != nil {
			b.Fatal(err)
		}
	}
	far := func(frame []byte) []byte {
		frame[22] = 255
		ipSum(frame)
		return frame
	}
	floor := edit(tcpFrame("10.0.0.1:1000", "A"), func(f []byte) { f[12], f[13] = 8, 6 })
	cases := []struct {
		name  string
		frame []byte
	}{
		{"not served", far(edit(tcpFrame("10.0.0.1:1000", "A"), func(f []byte) { f[37]++ }))},
		{"established", far(tcpFrame("10.0.0.1:1000", "A"))},
	}
	run(b, p, tcpFrame("10.0.0.1:1000", "S"))
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			var base, cost time.Duration
			for b.Loop() {
				base += repeat(b, p, floor)
				cost += repeat(b, p, c.frame)
			}
			b.ReportMetric(0, "ns/op") // a round of ours says nothing
			b.ReportMetric(float64(cost.Nanoseconds())/float64(b.N), "ns/packet")
			b.ReportMetric(float64(cost)/float64(base), "x/floor")
		})
	}
}

// repeat returns what one of many runs of the program on a frame took.
func repeat(b *testing.B, p *Plane, frame []byte) time.Duration {
	const times = 200 // fewer than the TTL
	_, took, err := p.programs.Director.Benchmark(frame, times, nil)
	if err != nil {
		b.Fatal(err)
	}
	return took
}
