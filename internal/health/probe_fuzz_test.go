// SPDX-License-Identifier: MIT

package health

import (
	"bufio"
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/miekg/dns"
)

// fit fails if a reason is not one that can be shown to people.
func fit(t *testing.T, reason string) {
	t.Helper()
	if len(reason) > longest {
		t.Errorf("%d bytes: %q", len(reason), reason)
	}
	if !utf8.ValidString(reason) || strings.ContainsFunc(reason, func(r rune) bool { return !unicode.IsGraphic(r) }) {
		t.Errorf("cannot be shown: %q", reason)
	}
}

func FuzzReason(f *testing.F) {
	f.Add("status 503, expected 200-399")
	f.Add("\x1b[31mred\r\n\x00\xff\u202e\u2028" + strings.Repeat("ä", 300))
	f.Fuzz(func(t *testing.T, text string) {
		fit(t, shown(text))
		if q := quote(text); len(q) > 82 {
			t.Errorf("quoted in %d bytes: %s", len(q), q)
		}
	})
}

func shown(text string) string {
	return clean(reason(errors.New(text), Endpoint{}, 0), longest)
}

func FuzzMySQL(f *testing.F) {
	f.Add([]byte("\x4a\x00\x00\x00\x0a8.0.31\x00\x01\x00\x00\x00abcdefgh\x00\xff\xf7\x21\x02\x00\xff\xdf\x15\x00\x00"))
	f.Add([]byte("\x17\x00\x00\x00\xff\x10\x04Too many connections"))
	f.Add([]byte("\x1c\x00\x00\x02\xff\x15\x04#28000Access denied for x"))
	f.Add([]byte("\x01\x00\x00\x00\xff"))
	f.Add([]byte("\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bytes.NewReader(stream)
		for {
			packet, err := readMySQL(r)
			if err != nil {
				return
			}
			if len(packet) == 0 || len(packet) > mostMySQL {
				t.Fatalf("a packet of %d bytes", len(packet))
			}
			if _, err := parseGreeting(packet); err != nil {
				fit(t, shown(err.Error()))
			}
			parseMyError(packet)
		}
	})
}

func FuzzPostgreSQL(f *testing.F) {
	f.Add([]byte("R\x00\x00\x00\x08\x00\x00\x00\x0a"))
	f.Add([]byte("E\x00\x00\x00\x2dSFATAL\x00C57P03\x00Mstarting up\x00\x00"))
	f.Add([]byte("E\x00\x00\x00\x06CX"))
	f.Add([]byte("Z\x00\x00\x00\x05I"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bytes.NewReader(stream)
		for {
			kind, body, err := readPg(r)
			if err != nil {
				return
			}
			if len(body) > mostPg {
				t.Fatalf("a message of %d bytes", len(body))
			}
			if _, err := judgePg(SQLCheck{}, kind, body); err != nil {
				fit(t, shown(err.Error()))
			}
		}
	})
}

func FuzzRedis(f *testing.F) {
	f.Add("+PONG\r\n")
	f.Add("-LOADING Redis is loading the dataset in memory\r\n")
	f.Add("$31\r\n# Replication\r\nrole:master\r\nx:y\r\n")
	f.Add("$-1\r\n")
	f.Add("$99999999999999999999\r\n")
	f.Fuzz(func(t *testing.T, stream string) {
		r := bufio.NewReaderSize(strings.NewReader(stream), longestLine)
		for {
			text, err := readRESP(r)
			if err != nil {
				fit(t, shown(err.Error()))
				return
			}
			if len(text) > mostRedis {
				t.Fatalf("a text of %d bytes", len(text))
			}
			field(text, "role")
		}
	})
}

func FuzzSMTP(f *testing.F) {
	f.Add("220 mail.example.org ESMTP\r\n")
	f.Add("250-mail\r\n250-STARTTLS\r\n250 SIZE 100\r\n")
	f.Add("250-mail\r\n251 other\r\n")
	f.Add("250\n")
	f.Add(strings.Repeat("250-a\r\n", 200))
	f.Fuzz(func(t *testing.T, stream string) {
		r := bufio.NewReaderSize(strings.NewReader(stream), longestLine)
		for {
			code, texts, err := readReply(r)
			if err != nil {
				fit(t, shown(err.Error()))
				return
			}
			if code < 200 || code > 599 || len(texts) == 0 || len(texts) > mostLines {
				t.Fatalf("code %d, %d lines", code, len(texts))
			}
		}
	})
}

func FuzzDNS(f *testing.F) {
	asked, err := question(DNSCheck{Name: "www.example"})
	if err != nil {
		f.Fatal(err)
	}
	for _, rr := range []string{"www.example. 60 IN A 192.0.2.1", "www.example. 60 IN TXT \"a\\200\" b"} {
		m := new(dns.Msg).SetReply(asked)
		record, err := dns.NewRR(rr)
		if err != nil {
			f.Fatal(err)
		}
		m.Answer = append(m.Answer, record)
		packet, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packet)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		answer := new(dns.Msg)
		if answer.Unpack(packet) != nil {
			return
		}
		if err := judgeDNS(DNSCheck{Answer: []string{"192.0.2.2"}}, asked, answer); err != nil {
			fit(t, shown(err.Error()))
		}
	})
}

func FuzzDigest(f *testing.F) {
	f.Add("md5:d41d8cd98f00b204e9800998ecf8427e")
	f.Add("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	f.Add("sha256:")
	f.Add(":")
	f.Fuzz(func(t *testing.T, text string) {
		sum, digest, err := parseDigest(text)
		if err == nil && len(digest) != sum.Size() {
			t.Errorf("%q: %d bytes for a digest of %d", text, len(digest), sum.Size())
		}
	})
}

func FuzzFile(f *testing.F) {
	for _, text := range []string{"up", "down", "", "12", "-1", "0.5\n", "NaN", "inf", "up\x00"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := judgeFile(text); err != nil {
			fit(t, shown(err.Error()))
		}
	})
}
