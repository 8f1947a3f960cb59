// SPDX-License-Identifier: MIT

package health

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// right is a check of a kind as the configuration makes it.
func right(k Kind) Check {
	c := Check{Kind: k, Interval: 2 * time.Second, Timeout: time.Second, Rise: 2, Fall: 3, Jitter: 0.1}
	switch k {
	case Script:
		c.Script.Command = []string{"/bin/true"}
	case File:
		c.File.Path = "/run/state"
	}
	return c
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, k := range Kinds() {
		if err := right(k).Validate(); err != nil {
			t.Errorf("%s: %v", k, err)
		}
	}
	for _, test := range []struct {
		field string // empty: nothing is wrong
		kind  Kind
		with  func(*Check)
	}{
		{"Kind", "https2", func(c *Check) {}},
		{"Interval", TCP, func(c *Check) { c.Interval = 0 }},
		{"Timeout", TCP, func(c *Check) { c.Timeout = -1 }},
		{"Rise", TCP, func(c *Check) { c.Rise = 0 }},
		{"Fall", TCP, func(c *Check) { c.Fall = 0 }},
		{"Jitter", TCP, func(c *Check) { c.Jitter = 0.6 }},
		{"HTTP", TCP, func(c *Check) { c.HTTP.Path = "/" }},
		{"TLS", HTTP, func(c *Check) { c.TLS.Verify = true }},
		{"TLS", SMTP, func(c *Check) { c.TLS.Verify = true }},
		{"", SMTP, func(c *Check) { c.TLS.Verify, c.SMTP.StartTLS = true, true }},
		{"TLS", GRPC, func(c *Check) { c.TLS.ServerName, c.GRPC.Plain = "a", true }},
		{"TLS", HTTP2, func(c *Check) { c.TLS.ServerName, c.HTTP.Plain = "a", true }},
		{"Talk", DNS, func(c *Check) { c.Talk.Send = "x" }},
		{"Port", ICMP, func(c *Check) { c.Port = 80 }},
		{"Port", File, func(c *Check) { c.Port = 80 }},
		{"HTTP.Plain", HTTPS, func(c *Check) { c.HTTP.Plain = true }},
		{"", HTTP2, func(c *Check) { c.HTTP.Plain = true }},
		{"HTTP.Method", HTTP, func(c *Check) { c.HTTP.Method = "GET /" }},
		{"HTTP.Method", HTTP, func(c *Check) { c.HTTP.Method, c.HTTP.Expect = "HEAD", "x" }},
		{"HTTP.Path", HTTP, func(c *Check) { c.HTTP.Path = "healthz" }},
		{"HTTP.Path", HTTP, func(c *Check) { c.HTTP.Path = "/a b\r\n" }},
		{"HTTP.Path", HTTP, func(c *Check) { c.HTTP.Path = "http://other/" }},
		{"", HTTP, func(c *Check) { c.HTTP.Path = "//a?b=c%20d" }},
		{"HTTP.Host", HTTP, func(c *Check) { c.HTTP.Host = "a\r\nX: y" }},
		{"HTTP.Headers", HTTP, func(c *Check) { c.HTTP.Headers = []Header{{"X Y", "z"}} }},
		{"HTTP.Headers", HTTP, func(c *Check) { c.HTTP.Headers = []Header{{"X", "a\r\nY: b"}} }},
		{"HTTP.Status", HTTP, func(c *Check) { c.HTTP.Status = []StatusRange{{399, 200}} }},
		{"HTTP.Pattern", HTTP, func(c *Check) { c.HTTP.Pattern = "(" }},
		{"HTTP.Digest", HTTP, func(c *Check) { c.HTTP.Digest = "sha256:abcd" }},
		{"", HTTP, func(c *Check) { c.HTTP.Digest = "md5:D41D8CD98F00B204E9800998ECF8427E" }},
		{"HTTP.MaxBody", HTTP, func(c *Check) { c.HTTP.MaxBody = -1 }},
		{"TLS.CAFile", TLS, func(c *Check) { c.TLS.CAFile = "a" }},
		{"TLS.KeyFile", TLS, func(c *Check) { c.TLS.CertFile = "a" }},
		{"TLS.ValidFor", TLS, func(c *Check) { c.TLS.ValidFor = -1 }},
		{"TLS.ALPN", HTTPS, func(c *Check) { c.TLS.ALPN = []string{"h2"} }},
		{"TLS.ALPN", TLS, func(c *Check) { c.TLS.ALPN = []string{""} }},
		{"TLS.ServerName", TLS, func(c *Check) { c.TLS.ServerName = "a b" }},
		{"Talk.Pattern", TCP, func(c *Check) { c.Talk.Pattern = "(" }},
		{"Talk.Send", UDP, func(c *Check) { c.Talk.Send = strings.Repeat("x", 1<<16) }},
		{"DNS.Name", DNS, func(c *Check) { c.DNS.Name = "a..b" }},
		{"DNS.Type", DNS, func(c *Check) { c.DNS.Type = "AAAAA" }},
		{"DNS.RCode", DNS, func(c *Check) { c.DNS.RCode = []string{"NOERRROR"} }},
		{"", DNS, func(c *Check) { c.DNS = DNSCheck{Name: "a", Type: "soa", RCode: []string{"nxdomain"}} }},
		{"SMTP.Hello", SMTP, func(c *Check) { c.SMTP.Hello = "a\r\nMAIL" }},
		{"SQL.User", MySQL, func(c *Check) { c.SQL.User = "a\x00b" }},
		{"Redis.Role", Redis, func(c *Check) { c.Redis.Role = "primary" }},
		{"Script.Command", Script, func(c *Check) { c.Script.Command = []string{"true"} }},
		{"Script.MaxOutput", Script, func(c *Check) { c.Script.MaxOutput = 1 << 30 }},
		{"File.Path", File, func(c *Check) { c.File.Path = "" }},
		{"File.Missing", File, func(c *Check) { c.File.Missing = "left" }},
	} {
		c := right(test.kind)
		test.with(&c)
		err := c.Validate()
		var wrong *FieldError
		switch {
		case test.field == "" && err != nil:
			t.Errorf("%+v: %v", c, err)
		case test.field != "" && (!errors.As(err, &wrong) || wrong.Field != test.field):
			t.Errorf("%s: %v", test.field, err)
		}
	}
	c := right(TCP)
	c.Rise, c.Fall = 0, 0
	if err := c.Validate(); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("two are wrong: %v", err)
	}
}
