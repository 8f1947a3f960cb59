// SPDX-License-Identifier: MIT

package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// linksDir is where, within an instance's pins, the links are. One of interface
// number 2 is called "2:native": names of interfaces may have dots, and those of
// pins may not.
const linksDir = "links"

// attachment is one interface with the program on it.
type attachment struct {
	Attachment
	link link.Link
}

// loopbackIndex is the loopback interface's index in every network namespace
// (include/net/net_namespace.h, LOOPBACK_IFINDEX).
const loopbackIndex = 1

const localReason = "for connections of this host to its VIPs"

// place is an interface that the program is to be on, how, and which of the
// programs.
type place struct {
	name    string
	mode    Mode
	program *ebpf.Program
	reason  string // for a mode that is not the user's choice
}

func (p *Plane) places(interfaces []string, mode Mode) (all []place, err error) {
	for _, name := range interfaces {
		all = append(all, place{name, mode, p.programs.Director, ""})
	}
	if p.local {
		lo, err := net.InterfaceByIndex(loopbackIndex)
		if err != nil {
			return nil, fmt.Errorf("the loopback interface: %w", err)
		}
		all = append(all, place{lo.Name, TC, p.onLoopback.DirectorTC, localReason})
	}
	return all, nil
}

// attach puts the program on every interface that is asked for, and takes it
// off the others that a predecessor had. A pinned link gets the new program in
// place: not one packet passes it by.
func (p *Plane) attach(interfaces []string, mode Mode) error {
	places, err := p.places(interfaces, mode)
	if err != nil {
		return err
	}
	dir := filepath.Join(p.dir, linksDir)
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.MkdirAll(filepath.Join(p.home(), linksDir), 0o700)); err != nil {
		return err
	}
	pinned, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var others []link.Link // that end when theirs is done by what is asked for now
	for _, e := range pinned {
		other, err := p.takeOverLink(filepath.Join(dir, e.Name()), places)
		if err != nil {
			return errors.Join(append(closeAll(others), err)...)
		}
		if other != nil {
			others = append(others, other)
		}
	}
	for _, at := range places {
		if slices.ContainsFunc(p.attachments, func(a attachment) bool { return a.Interface == at.name }) {
			continue
		}
		a, err := p.attachInterface(at)
		if err != nil {
			return errors.Join(append(closeAll(others), err)...)
		}
		p.attachments = append(p.attachments, a)
	}
	var errs []error
	for _, l := range others {
		errs = append(errs, l.Unpin())
	}
	return errors.Join(append(errs, closeAll(others)...)...)
}

func closeAll(links []link.Link) (errs []error) {
	for _, l := range links {
		errs = append(errs, l.Close())
	}
	return errs
}

// takeOverLink gives a predecessor's link the new program, or ends it. One from
// XDP to tc or back cannot change its program for the other kind of it: it is
// returned, and has to stay until there is another.
func (p *Plane) takeOverLink(pin string, places []place) (other link.Link, err error) {
	number, m, _ := strings.Cut(filepath.Base(pin), ":")
	mode := Mode(m)
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return nil, fmt.Errorf("opening the pinned link of interface number %s: %w", number, err)
	}
	i, err := attachedTo(l)
	n := -1
	if err == nil {
		n = slices.IndexFunc(places, func(at place) bool { return at.name == i.Name })
	}
	if n >= 0 {
		at := places[n]
		if (mode == TC) != (at.mode == TC) {
			return l, nil
		}
		if err = l.Update(at.program); err == nil {
			p.step("link", pin)
			if err := l.Pin(filepath.Join(p.home(), linksDir, filepath.Base(pin))); err != nil {
				return nil, errors.Join(fmt.Errorf("moving the pinned link of %s: %w", i.Name, err), l.Close())
			}
			p.step("pin of a link", pin)
			p.attachments = append(p.attachments, attachment{
				Attachment{Interface: i.Name, Mode: mode, Reason: cmp.Or(at.reason, takeOverReason(mode))}, l})
			return nil, nil
		}
	}
	// Not asked for any more, or the interface was made anew since.
	return nil, errors.Join(l.Unpin(), l.Close())
}

func takeOverReason(m Mode) string {
	switch m {
	case Native:
		return ""
	case TC:
		return tcReason
	}
	return "as it was attached before this start"
}

const tcReason = "tc was asked for"

func attachedTo(l link.Link) (*net.Interface, error) {
	info, err := l.Info()
	if err != nil {
		return nil, err
	}
	switch {
	case info.XDP() != nil:
		return net.InterfaceByIndex(int(info.XDP().Ifindex))
	case info.TCX() != nil:
		return net.InterfaceByIndex(int(info.TCX().Ifindex))
	}
	return nil, fmt.Errorf("a link of type %v", info.Type)
}

func (p *Plane) attachInterface(at place) (attachment, error) {
	name, mode, program := at.name, at.mode, at.program
	i, err := net.InterfaceByName(name)
	if err != nil {
		return attachment{}, fmt.Errorf("interface %s: %w", name, err)
	}
	a := attachment{Attachment: Attachment{Interface: name, Mode: TC, Reason: cmp.Or(at.reason, tcReason)}}
	if mode == TC {
		a.link, err = attachTC(program, i.Index)
	} else {
		a, err = p.attachXDP(program, i, mode)
	}
	if errors.Is(err, ebpf.ErrNotSupported) && at.reason == localReason {
		return a, fmt.Errorf("%w to %s: %w (clients on the director itself need Linux 6.6 or newer (tcx), and this is %s:"+
			" start without --local-clients)", ErrAttach, name, err, kernelRelease())
	}
	if err != nil {
		return a, attachError(name, a.Mode, err)
	}
	if err := a.link.Pin(filepath.Join(p.home(), linksDir, fmt.Sprintf("%d:%s", i.Index, a.Mode))); err != nil {
		return a, errors.Join(fmt.Errorf("pinning the link of %s: %w", name, err), a.link.Close())
	}
	return a, nil
}

// attachTC puts the program in front of all others of tc: there it sees what
// XDP would.
func attachTC(program *ebpf.Program, index int) (link.Link, error) {
	return link.AttachTCX(link.TCXOptions{Program: program, Interface: index, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
}

func (p *Plane) attachXDP(program *ebpf.Program, i *net.Interface, mode Mode) (attachment, error) {
	try := func(flags link.XDPAttachFlags) (link.Link, error) {
		return link.AttachXDP(link.XDPOptions{Program: program, Interface: i.Index, Flags: flags})
	}
	var err error
	a := attachment{Attachment: Attachment{Interface: i.Name, Mode: Native}}
	if mode != Generic {
		a.link, err = try(link.XDPDriverMode)
		if err != nil && mode == Native {
			return a, err
		}
		if err != nil {
			a.Reason = fmt.Sprintf("native XDP is not possible here: %v", err)
			p.log.Warn("falling back to generic XDP, which is slower", "interface", i.Name, "reason", err)
		}
	} else {
		a.Reason = "generic XDP was asked for"
	}
	if a.link == nil {
		a.Mode = Generic
		a.link, err = try(link.XDPGenericMode)
	}
	return a, err
}

func attachError(name string, mode Mode, err error) error {
	hint := "see dmesg for the driver's reason"
	switch {
	case mode == TC && errors.Is(err, ebpf.ErrNotSupported):
		hint = fmt.Sprintf("tc mode needs Linux 6.6 or newer (tcx), and this is %s: try --mode auto", kernelRelease())
	case errors.Is(err, os.ErrExist) || strings.Contains(err.Error(), "busy"):
		hint = "another XDP program is on it: detach that first (bpftool net; ip link show)"
	case errors.Is(err, os.ErrPermission):
		hint = "shunt must be root, with CAP_NET_ADMIN and CAP_BPF"
	case mode == Native:
		hint = "the driver has no native XDP, or the MTU is too large for it: try --mode auto"
	}
	return fmt.Errorf("%w to %s in %s mode: %w (%s)", ErrAttach, name, mode, err, hint)
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "another"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// Attachments tells which interfaces the program is on, and how.
func (p *Plane) Attachments() []Attachment {
	var out []Attachment
	for _, a := range p.attachments {
		for _, name := range p.interfaces {
			if p.device(name) == a.Interface {
				a.Arrivals = append(a.Arrivals, Arrival{Interface: name, VLAN: p.vlans[name].ID})
			}
		}
		out = append(out, a.Attachment)
	}
	return out
}
