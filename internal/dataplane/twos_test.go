// SPDX-License-Identifier: MIT

package dataplane

import (
	"testing"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// TestTwos: the choice is random, so only shares can be compared: those that the
// recording of the kernel has (testdata/golden/twos.json), within what chance
// does to 300 connections.
func TestTwos(t *testing.T) { eachMode(t, testTwos) }

func testTwos(t *testing.T, mode Mode) {
	for _, c := range []struct {
		weights []int32
		kernel  []int // of 600
	}{
		{[]int32{1, 1}, []int{299, 301}},
		{[]int32{1, 0}, []int{600, 0}},
		{[]int32{1, 1, 1, 1}, []int{148, 150, 151, 151}},
		{[]int32{5, 3, 1}, []int{333, 198, 69}},
	} {
		p := newPlane(t, inMode(mode))
		var servers []lvs.RealServer
		for n, w := range c.weights {
			servers = append(servers, server(n, w))
		}
		install(t, p, table(lvs.TCP, lvs.TwoChoices, servers...))
		got := make([]int, len(servers))
		for n := range 300 {
			addr, ok := run(t, p, tcpFrame(client(n), "S")).chosen()
			if !ok {
				t.Fatalf("weights %v: connection %d went nowhere", c.weights, n)
			}
			got[addr.As4()[3]-177]++
		}
		for n := range got {
			if off := got[n]*2 - c.kernel[n]; off < -40 || off > 40 || (c.kernel[n] == 0 && got[n] > 0) {
				t.Errorf("weights %v: shares %v of 300, the kernel's %v of 600", c.weights, got, c.kernel)
				break
			}
		}
	}
}
