// SPDX-License-Identifier: MIT

package health

import (
	"fmt"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, k := range Kinds() {
		if err := (Check{Kind: k}).Validate(); err != nil {
			t.Errorf("%s: %v", k, err)
		}
	}
	for _, c := range []Check{
		{Kind: HTTP, HTTP: HTTPCheck{Path: "//a?b=c%20d"}},
		{Kind: HTTP, HTTP: HTTPCheck{Digest: "md5:D41D8CD98F00B204E9800998ECF8427E"}},
		{Kind: HTTP, HTTP: HTTPCheck{Method: "HEAD", Headers: []Header{{"Host", "a:80"}, {"X-A", ""}}}},
		{Kind: DNS, DNS: DNSCheck{Name: "a", Type: "soa"}},
	} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, c := range []Check{
		{Kind: "https2"},
		{Kind: HTTP, HTTP: HTTPCheck{Method: "GE(T"}},
		{Kind: HTTP, HTTP: HTTPCheck{Method: "HEAD", Expect: "x"}},
		{Kind: HTTP, HTTP: HTTPCheck{Path: "/a b"}},
		{Kind: HTTP, HTTP: HTTPCheck{Path: "/%zz"}},
		{Kind: HTTP, HTTP: HTTPCheck{Path: "healthz"}},
		{Kind: HTTP, HTTP: HTTPCheck{Path: "http://other/"}},
		{Kind: HTTP, HTTP: HTTPCheck{Host: "a\r\nX: y"}},
		{Kind: HTTP, HTTP: HTTPCheck{Headers: []Header{{"X(Y", "z"}}}},
		{Kind: HTTP, HTTP: HTTPCheck{Answer: []Header{{"X", "a\r\nY: b"}}}},
		{Kind: HTTP, HTTP: HTTPCheck{Pattern: "("}},
		{Kind: HTTP, HTTP: HTTPCheck{Digest: "sha256:abcd"}},
		{Kind: TCP, Talk: TalkCheck{Pattern: "("}},
		{Kind: TCP, Talk: TalkCheck{Expect: strings.Repeat("x", mostTalk+1)}},
		{Kind: UDP, Talk: TalkCheck{Send: strings.Repeat("x", 1<<16)}},
		{Kind: DNS, DNS: DNSCheck{Name: "a..b"}},
		{Kind: DNS, DNS: DNSCheck{Name: strings.Repeat("a", 64)}},
		{Kind: DNS, DNS: DNSCheck{Type: "AAAAA"}},
	} {
		if err := c.Validate(); err == nil {
			t.Errorf("%s: nothing is wrong: %.200s", c.Kind, fmt.Sprintf("%+v", c))
		}
	}
}
