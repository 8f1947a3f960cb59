// SPDX-License-Identifier: MIT

package health

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/miekg/dns"
	"golang.org/x/net/http/httpguts"
)

// FieldError says what is wrong with a field of a Check.
type FieldError struct {
	Field  string // "Timeout", "HTTP.Digest": its name in Check
	Reason string
}

// Error gives "HTTP.Digest: a digest is …".
func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// Validate says what cannot be meant, each as a *FieldError, joined: fields that do not
// belong to the kind, values out of range, expressions that do not compile.
// Files are not looked at.
func (c Check) Validate() error {
	if !slices.Contains(Kinds(), c.Kind) {
		return &FieldError{"Kind", fmt.Sprintf("no such kind of check: %q", c.Kind)}
	}
	v := &validator{}
	v.pace(c)
	v.belongs(c)
	switch c.Kind {
	case HTTP, HTTPS, HTTP2:
		v.http(c.Kind, c.HTTP)
	case TCP, TLS, UDP:
		v.pattern("Talk.Pattern", c.Talk.Pattern)
		v.less("Talk.Send", int64(len(c.Talk.Send)), 60000)
		v.less("Talk.Expect", int64(len(c.Talk.Expect)), mostTalk)
	case DNS:
		v.dns(c.DNS)
	case SMTP:
		v.word("SMTP.Hello", c.SMTP.Hello)
	case MySQL, PostgreSQL:
		v.word("SQL.User", c.SQL.User)
		v.word("SQL.Database", c.SQL.Database)
	case Redis:
		v.oneOf("Redis.Role", c.Redis.Role, "", "master", "slave")
	case Script:
		v.need("Script.Command", len(c.Script.Command) > 0 && filepath.IsAbs(c.Script.Command[0]), "needs a program, as an absolute path")
		v.less("Script.MaxOutput", int64(c.Script.MaxOutput), 1<<20)
	case File:
		v.need("File.Path", c.File.Path != "", "needs a path")
		v.oneOf("File.Missing", c.File.Missing, "", "up", "down")
		v.need("File.MaxAge", c.File.MaxAge >= 0, "is negative")
	}
	v.tls(c.Kind, c.TLS)
	return errors.Join(v.wrong...)
}

type validator struct{ wrong []error }

func (v *validator) need(field string, ok bool, reason string) {
	if !ok {
		v.wrong = append(v.wrong, &FieldError{field, reason})
	}
}

func (v *validator) less(field string, n, limit int64) {
	v.need(field, 0 <= n && n <= limit, fmt.Sprintf("is %d, and can be 0 to %d", n, limit))
}

func (v *validator) pattern(field, expr string) {
	if _, err := regexp.Compile(expr); err != nil {
		v.need(field, false, err.Error())
	}
}

func (v *validator) oneOf(field, value string, allowed ...string) {
	v.need(field, slices.Contains(allowed, value), fmt.Sprintf("%q is none of %s", value, strings.Join(allowed[1:], ", ")))
}

// word is what goes into a line or a text that others end.
func (v *validator) word(field, value string) {
	bad := strings.ContainsFunc(value, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) })
	v.need(field, !bad && len(value) <= 255, "is one word of at most 255 bytes")
}

func (v *validator) pace(c Check) {
	v.need("Interval", c.Interval > 0, "has to be more than 0")
	v.need("Timeout", c.Timeout > 0, "has to be more than 0")
	v.need("Rise", c.Rise >= 1, "is 1 or more")
	v.need("Fall", c.Fall >= 1, "is 1 or more")
	v.need("Jitter", c.Jitter >= 0 && c.Jitter <= 0.5, "is 0 to 0.5")
}

// belongs finds what is set and means nothing for the kind.
func (v *validator) belongs(c Check) {
	web := []Kind{HTTP, HTTPS, HTTP2}
	for _, part := range []struct {
		field string
		value any
		kinds []Kind
	}{
		{"HTTP", c.HTTP, web},
		{"TLS", c.TLS, []Kind{TLS, HTTPS, HTTP2, GRPC, SMTP}},
		{"GRPC", c.GRPC, []Kind{GRPC}},
		{"Talk", c.Talk, []Kind{TCP, TLS, UDP}},
		{"DNS", c.DNS, []Kind{DNS}},
		{"SMTP", c.SMTP, []Kind{SMTP}},
		{"SQL", c.SQL, []Kind{MySQL, PostgreSQL}},
		{"Redis", c.Redis, []Kind{Redis}},
		{"Script", c.Script, []Kind{Script}},
		{"File", c.File, []Kind{File}},
	} {
		v.need(part.field, slices.Contains(part.kinds, c.Kind) || reflect.ValueOf(part.value).IsZero(),
			fmt.Sprintf("means nothing in a check of the kind %s", c.Kind))
	}
	v.need("Port", c.Port == 0 || c.Kind != ICMP && c.Kind != File, fmt.Sprintf("means nothing in a check of the kind %s", c.Kind))
	plain := c.HTTP.Plain || c.GRPC.Plain || c.Kind == SMTP && !c.SMTP.StartTLS
	v.need("TLS", !plain || reflect.ValueOf(c.TLS).IsZero(), "means nothing without TLS")
}

func (v *validator) http(kind Kind, h HTTPCheck) {
	v.need("HTTP.Plain", !h.Plain || kind == HTTP2, "is for http2: http is always plain, https never")
	v.need("HTTP.Method", h.Method == "" || httpguts.ValidHeaderFieldName(h.Method), "is not a method")
	if h.Path != "" {
		_, err := url.ParseRequestURI(h.Path)
		v.need("HTTP.Path", err == nil && strings.HasPrefix(h.Path, "/"), "begins with /, and has no space")
	}
	v.need("HTTP.Host", httpguts.ValidHostHeader(h.Host), "is not a host")
	for _, x := range slices.Concat(h.Headers, h.Answer) {
		v.need("HTTP.Headers", httpguts.ValidHeaderFieldName(x.Name) && httpguts.ValidHeaderFieldValue(x.Value), fmt.Sprintf("%q is not a header", x.Name))
	}
	for _, r := range h.Status {
		v.need("HTTP.Status", 100 <= r.First && r.First <= r.Last && r.Last <= 599, fmt.Sprintf("%d-%d is not a range within 100-599", r.First, r.Last))
	}
	v.pattern("HTTP.Pattern", h.Pattern)
	if h.Digest != "" {
		if _, _, err := parseDigest(h.Digest); err != nil {
			v.need("HTTP.Digest", false, err.Error())
		}
	}
	v.less("HTTP.MaxBody", h.MaxBody, 1<<30)
	v.need("HTTP.Method", h.Method != "HEAD" || h.Expect == "" && h.Pattern == "" && h.Digest == "", "HEAD has no body in which something could be")
}

func (v *validator) tls(kind Kind, t TLSCheck) {
	v.word("TLS.ServerName", t.ServerName)
	v.need("TLS.CAFile", t.CAFile == "" || t.Verify, "means nothing if nothing is verified")
	v.need("TLS.KeyFile", (t.CertFile == "") == (t.KeyFile == ""), "a certificate and its key belong together")
	v.need("TLS.ValidFor", t.ValidFor >= 0, "is negative")
	v.need("TLS.ALPN", len(t.ALPN) == 0 || kind == TLS, "is for checks of the kind tls")
	for _, p := range t.ALPN {
		v.need("TLS.ALPN", p != "" && len(p) <= 255, "a protocol has 1 to 255 bytes")
	}
}

func (v *validator) dns(d DNSCheck) {
	_, ok := dns.IsDomainName(firstOf(d.Name, "."))
	v.need("DNS.Name", ok, "is not a name")
	_, ok = dns.StringToType[strings.ToUpper(d.Type)]
	v.need("DNS.Type", ok || d.Type == "", "is not a type of records")
	for _, code := range d.RCode {
		_, ok := dns.StringToRcode[strings.ToUpper(code)]
		v.need("DNS.RCode", ok, fmt.Sprintf("%q is not a result, as NOERROR or NXDOMAIN", code))
	}
}
