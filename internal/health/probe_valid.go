// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"slices"

	"golang.org/x/net/http/httpguts"
)

// Validate says why a check could never be asked, or never succeed, whatever the server
// says: what a request, a question or an expression cannot be. Nothing is asked and no
// file looked at. Whether its parts belong to its kind, and its times make sense, is
// for those to say who know where they come from.
func (c Check) Validate() error {
	for _, expr := range []string{c.HTTP.Pattern, c.Talk.Pattern} {
		if _, err := regexp.Compile(expr); err != nil {
			return err
		}
	}
	if len(c.Talk.Expect) > mostTalk {
		return fmt.Errorf("%d bytes are expected, and %d are looked at", len(c.Talk.Expect), mostTalk)
	}
	switch c.Kind {
	case HTTP, HTTPS, HTTP2:
		return c.HTTP.validate(c)
	case DNS:
		if _, err := question(c.DNS); err != nil {
			return err
		}
	case UDP:
		if len(c.Talk.Send) > mostDatagram {
			return fmt.Errorf("a datagram of %d bytes: %d are the most", len(c.Talk.Send), mostDatagram)
		}
	}
	if !slices.Contains(Kinds(), c.Kind) {
		return fmt.Errorf("no such kind of check: %q", c.Kind)
	}
	return nil
}

// mostDatagram is what UDP carries in IPv4.
const mostDatagram = 65535 - 20 - 8

func (h HTTPCheck) validate(c Check) error {
	anywhere := Endpoint{RIP: netip.IPv4Unspecified(), Port: 80}
	r, err := request(context.Background(), c, anywhere, true)
	if err != nil {
		return err
	}
	if !httpguts.ValidHostHeader(r.Host) {
		return fmt.Errorf("%q is not a host", r.Host)
	}
	for _, x := range slices.Concat(h.Headers, h.Answer) {
		if !httpguts.ValidHeaderFieldName(x.Name) || !httpguts.ValidHeaderFieldValue(x.Value) {
			return fmt.Errorf("%q: %q is not a header", x.Name, x.Value)
		}
	}
	if h.Digest != "" {
		if _, _, err := parseDigest(h.Digest); err != nil {
			return err
		}
	}
	if h.Method == http.MethodHead && (h.Expect != "" || h.Pattern != "" || h.Digest != "") {
		return errors.New("the answer to HEAD has no body, in which something could be")
	}
	return nil
}
