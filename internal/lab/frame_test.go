// SPDX-License-Identifier: MIT

package lab

import (
	"encoding/hex"
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	for _, tt := range []struct{ name, frame, want string }{
		{"ARP request", "ffffffffffff 020000000001 0806 0001080006040001 020000000001 0a000001 000000000000 0a000002",
			"to   p         02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff ARP who-has 10.0.0.2 tell 10.0.0.1"},
		{"ARP reply", "020000000001 020000000002 0806 0001080006040002 020000000002 0a000002 020000000001 0a000001",
			"to   p         02:00:00:00:00:02 > 02:00:00:00:00:01 ARP 10.0.0.2 is-at 02:00:00:00:00:02"},
		{"TCP SYN with options", "020000000001 020000000002 0800 4500002c 12340000 4006 0000 0a000001 0a000002 04d2 0050 00000001 00000000 6002 ffff 0000 0000 020405b4",
			"to   p         02:00:00:00:00:02 > 02:00:00:00:00:01 IP 10.0.0.1:1234 > 10.0.0.2:80 ttl 64 TCP [S] payload 0"},
		{"UDP", "020000000001 020000000002 0800 4500001e 00000000 0111 0000 0a000001 0a000002 04d2 0035 000a 0000 6869",
			"to   p         02:00:00:00:00:02 > 02:00:00:00:00:01 IP 10.0.0.1:1234 > 10.0.0.2:53 ttl 1 UDP payload 2"},
		{"a later fragment has no ports", "020000000001 020000000002 0800 4500001e 00000001 4011 0000 0a000001 0a000002 04d2 0035 000a 0000 6869",
			"to   p         02:00:00:00:00:02 > 02:00:00:00:00:01 IP 10.0.0.1:0 > 10.0.0.2:0 ttl 64 UDP payload 0"},
		{"UDP over IPv6", "020000000001 020000000002 86dd 60000000 000a 11 40 fd000000000000000000000000000001 fd000000000000000000000000000002 04d2 0035 000a 0000 6869",
			"to   p         02:00:00:00:00:02 > 02:00:00:00:00:01 IP [fd00::1]:1234 > [fd00::2]:53 ttl 64 UDP payload 2"},
		{"cut off", "020000000001 020000000002 0800 4500001e",
			"to   p         02:00:00:00:00:02 > 02:00:00:00:00:01 type 0x0800 length 18"},
	} {
		f := decode(unhex(t, tt.frame))
		f.Port = "p"
		if got := f.String(); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzDecode(f *testing.F) {
	f.Add(unhex(f, "ffffffffffff0200000000010806000108000604000102000000000102000001000000000000020000ff"))
	f.Add(unhex(f, "02000000000102000000000208004500002c123400004006000002000001020000ff04d2005000000001000000006002ffff00000000020405b4"))
	f.Add(unhex(f, "02000000000102000000000286dd60000000000a1140fd000000000000000000000000000001fd00000000000000000000000000000204d20035000a00006869"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := decode(b)
		_ = d.String()
		if d.Length != len(b) || d.ARP != nil && d.IP != nil {
			t.Errorf("%+v", d)
		}
		if d.IP != nil && (d.IP.Payload < 0 || d.IP.Payload > d.IP.Length || !d.IP.Src.Addr().IsValid()) {
			t.Errorf("%+v", d.IP)
		}
	})
}
