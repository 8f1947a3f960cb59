// SPDX-License-Identifier: MIT

package ipvsadm

import (
	"slices"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// policyOptions are the options for what IPVS has switches of the whole host,
// named after those (net.ipv4.vs.…), and the limit of new connections by source.
// ipvsadm has none of them.
func policyOptions() optionSet {
	return setOf(optStray, optConnReuse, optExpireNodest, optExpireTemplate, optSecureTCP, optSourceLimit)
}

func (p *parser) policyOption(got scanned) error {
	policy := &p.line.service.Policy
	switch got.tag {
	case tagStray:
		if err := p.set(optStray); err != nil {
			return err
		}
		if policy.Stray.UnmarshalText([]byte(got.value)) != nil {
			return fail("illegal stray specified: it is one of %s", strings.Join(lvs.Strays(), "|"))
		}
	case tagConnReuse:
		mode, err := p.number(optConnReuse, got.value, 0, 3, "illegal conn-reuse-mode specified: it is a number from 0 to 3")
		policy.ConnReuse, _ = lvs.ConnReuseOf(uint8(mode))
		return err
	case tagExpireNodest:
		on, err := p.toggle(optExpireNodest, got.value)
		policy.KeepNodest = !on
		return err
	case tagExpireTemplate:
		on, err := p.toggle(optExpireTemplate, got.value)
		policy.KeepTemplate = !on
		return err
	case tagSecureTCP:
		on, err := p.toggle(optSecureTCP, got.value)
		policy.SecureTCP = on
		return err
	case tagSourceLimit:
		if err := p.set(optSourceLimit); err != nil {
			return err
		}
		if policy.SourceLimit.UnmarshalText([]byte(got.value)) != nil {
			return fail("illegal source-limit specified: it is rate[:burst], connections a second and at once, each from 1 to %d", lvs.MaxSourceLimit)
		}
	}
	return nil
}

// toggle reads the value of a switch: 0 or 1.
func (p *parser) toggle(o option, text string) (on bool, err error) {
	n, err := p.number(o, text, 0, 1, "illegal "+o.String()+" specified: it is 0 or 1")
	return n == 1, err
}

// checkPolicy refuses options that would change nothing, whatever their value.
func (p *parser) checkPolicy() error {
	s, given := &p.line.service, p.line.options
	are := func(protocols ...lvs.Protocol) bool { return s.Mark != 0 || slices.Contains(protocols, s.Protocol) }
	switch {
	case given.has(optStray) && !are(lvs.TCP, lvs.SCTP):
		return fail("The stray option is only for TCP and SCTP virtual services")
	case given.has(optConnReuse) && !are(lvs.TCP, lvs.SCTP):
		return fail("The conn-reuse-mode option is only for TCP and SCTP virtual services")
	case given.has(optSecureTCP) && !are(lvs.TCP):
		return fail("The secure-tcp option is only for TCP virtual services")
	case given.has(optExpireTemplate) && !s.Persistent():
		return fail("The expire-quiescent-template option is only for persistent virtual services")
	}
	return nil
}
