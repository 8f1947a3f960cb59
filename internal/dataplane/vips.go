// SPDX-License-Identifier: MIT

package dataplane

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
)

// vipOf is an address as the program's map of VIPs has it.
func vipOf(a netip.Addr) (v bpfVip) {
	if a.Is4() {
		b := a.As4()
		v.Addr[3] = binary.NativeEndian.Uint32(b[:])
		return v
	}
	v.Addr, v.Six = wireWords(a), 1
	return v
}

func addrOfVIP(v bpfVip) netip.Addr {
	if v.Six == 0 {
		return addrOf(v.Addr[3])
	}
	return addrOfWords(v.Addr)
}

// addVIPs makes the addresses of new versions known, before those are. Fragments
// to other addresses are left alone.
func (tx *transaction) addVIPs() error {
	p := tx.p
	for _, c := range tx.prepared {
		for _, l := range c.new.listeners {
			if p.vips[l.Addr] {
				continue
			}
			if err := p.maps.Vips.Put(vipOf(l.Addr), uint32(0)); err != nil {
				return fmt.Errorf("writing VIP %v: %w", l.Addr, err)
			}
			p.vips[l.Addr] = true
		}
	}
	return nil
}

// trimVIPs forgets addresses that nobody listens on any more.
func (p *Plane) trimVIPs() error {
	unused := maps.Clone(p.vips)
	for id := range p.listening {
		delete(unused, id.Addr)
	}
	for addr := range unused {
		if err := p.maps.Vips.Delete(vipOf(addr)); err != nil {
			return fmt.Errorf("removing VIP %v: %w", addr, err)
		}
		delete(p.vips, addr)
	}
	return nil
}

// recoverVIPs reads what a predecessor wrote.
func (p *Plane) recoverVIPs() error {
	p.vips = map[netip.Addr]bool{}
	var v bpfVip
	var unused uint32
	each := p.maps.Vips.Iterate()
	for each.Next(&v, &unused) {
		p.vips[addrOfVIP(v)] = true
	}
	if err := each.Err(); err != nil {
		return fmt.Errorf("reading the VIPs: %w", err)
	}
	return nil
}
