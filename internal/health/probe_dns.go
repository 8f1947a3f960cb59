// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// datagram is what is offered to take (EDNS0), small enough not to be fragmented.
const datagram = 1232

func probeDNS(ctx context.Context, d DNSCheck, e Endpoint) error {
	asked, err := question(d)
	if err != nil {
		return notAsked(err)
	}
	packet, err := asked.Pack()
	if err != nil {
		return notAsked(err)
	}
	network := "udp"
	if d.TCP {
		network = "tcp"
		packet = append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)
	}
	c, err := dial(ctx, network, e)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(packet); err != nil {
		return unreachable(err)
	}
	for range mostStray {
		if packet, err = readDNS(c, d.TCP); err != nil {
			return unreachable(err)
		}
		answer := new(dns.Msg)
		switch err := answer.Unpack(packet); {
		case err != nil:
			return fmt.Errorf("not DNS: %s", quote(packet))
		case answer.Id == asked.Id && answer.Response:
			return judgeDNS(d, asked, answer)
		case d.TCP:
			return errStray
		}
	}
	return errStray
}

// mostStray is how many datagrams may be something else than the answer.
const mostStray = 16

var errStray = errors.New("DNS: not an answer to the question")

// readDNS reads a message, which has its length before it in TCP.
func readDNS(c net.Conn, tcp bool) ([]byte, error) {
	packet := make([]byte, datagram)
	if !tcp {
		n, err := c.Read(packet)
		return packet[:n], err
	}
	if _, err := io.ReadFull(c, packet[:2]); err != nil {
		return nil, err
	}
	packet = make([]byte, binary.BigEndian.Uint16(packet))
	_, err := io.ReadFull(c, packet)
	return packet, err
}

func question(d DNSCheck) (*dns.Msg, error) {
	name := dns.Fqdn(firstOf(d.Name, "."))
	if _, ok := dns.IsDomainName(name); !ok {
		return nil, fmt.Errorf("%q is not a name", d.Name)
	}
	kind := dns.TypeA
	if name == "." {
		kind = dns.TypeSOA
	}
	if d.Type != "" {
		var ok bool
		if kind, ok = dns.StringToType[strings.ToUpper(d.Type)]; !ok {
			return nil, fmt.Errorf("%q is not a type of records", d.Type)
		}
	}
	return new(dns.Msg).SetQuestion(name, kind).SetEdns0(datagram, false), nil
}

func judgeDNS(d DNSCheck, question, answer *dns.Msg) error {
	allowed := d.RCode
	if len(allowed) == 0 {
		allowed = []string{"NOERROR"}
	}
	code, ok := dns.RcodeToString[answer.Rcode]
	if !ok {
		code = fmt.Sprint(answer.Rcode)
	}
	if !slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, code) }) {
		return fmt.Errorf("DNS: %s, expected %s", code, strings.Join(allowed, " or "))
	}
	// A server that does not understand a question need not repeat it.
	if len(answer.Question) > 0 && !sameQuestion(answer.Question[0], question.Question[0]) {
		return fmt.Errorf("DNS: answers another question: %s", quote(answer.Question[0].Name))
	}
	if len(d.Answer) == 0 {
		return nil
	}
	var got []string
	for _, rr := range answer.Answer {
		data := strings.TrimPrefix(rr.String(), rr.Header().String())
		if slices.ContainsFunc(d.Answer, func(want string) bool { return sameData(data, want) }) {
			return nil
		}
		got = append(got, data)
	}
	what := quote(strings.Join(got, ", "))
	switch {
	case answer.Truncated:
		what += " (cut off: ask by TCP)"
	case len(got) == 0:
		what = "no records"
	}
	return fmt.Errorf("DNS: %s, expected %s", what, quote(strings.Join(d.Answer, " or ")))
}

func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && strings.EqualFold(a.Name, b.Name)
}

// sameData compares the data of records as people write them: without the dot
// after a name and the quotes around a text, if they like.
func sameData(got, want string) bool {
	plain := func(s string) string {
		return strings.TrimSuffix(strings.Join(strings.Fields(strings.ReplaceAll(s, `"`, "")), " "), ".")
	}
	return strings.EqualFold(plain(got), plain(want))
}
