// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
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

// attach puts the program on every interface that is asked for, and takes it
// off the others that a predecessor had. A pinned link gets the new program in
// place: not one packet passes it by.
func (p *Plane) attach(program *ebpf.Program, interfaces []string, mode Mode) error {
	dir := filepath.Join(p.dir, linksDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	pinned, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range pinned {
		if err := p.takeOverLink(program, filepath.Join(dir, e.Name()), interfaces); err != nil {
			return err
		}
	}
	for _, name := range interfaces {
		if slices.ContainsFunc(p.attachments, func(a attachment) bool { return a.Interface == name }) {
			continue
		}
		a, err := p.attachInterface(program, name, mode)
		if err != nil {
			return err
		}
		p.attachments = append(p.attachments, a)
	}
	return nil
}

func (p *Plane) takeOverLink(program *ebpf.Program, pin string, interfaces []string) error {
	number, mode, _ := strings.Cut(filepath.Base(pin), ":")
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return fmt.Errorf("opening the pinned link of interface number %s: %w", number, err)
	}
	i, err := attachedTo(l)
	if err == nil && slices.Contains(interfaces, i.Name) {
		if err = l.Update(program); err == nil {
			p.attachments = append(p.attachments, attachment{
				Attachment{Interface: i.Name, Mode: Mode(mode), Reason: takeOverReason(Mode(mode))}, l})
			return nil
		}
	}
	// Not asked for any more, or the interface was made anew since.
	return errors.Join(l.Unpin(), l.Close())
}

func takeOverReason(m Mode) string {
	if m == Native {
		return ""
	}
	return "as it was attached before this start"
}

func attachedTo(l link.Link) (*net.Interface, error) {
	info, err := l.Info()
	if err != nil {
		return nil, err
	}
	if info.XDP() == nil {
		return nil, fmt.Errorf("a link of type %v", info.Type)
	}
	return net.InterfaceByIndex(int(info.XDP().Ifindex))
}

func (p *Plane) attachInterface(program *ebpf.Program, name string, mode Mode) (attachment, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return attachment{}, fmt.Errorf("interface %s: %w", name, err)
	}
	try := func(flags link.XDPAttachFlags) (link.Link, error) {
		return link.AttachXDP(link.XDPOptions{Program: program, Interface: i.Index, Flags: flags})
	}
	a := attachment{Attachment: Attachment{Interface: name, Mode: Native}}
	if mode != Generic {
		a.link, err = try(link.XDPDriverMode)
		if err != nil && mode == Native {
			return a, attachError(name, mode, err)
		}
		if err != nil {
			a.Reason = fmt.Sprintf("native XDP is not possible here: %v", err)
			p.log.Warn("falling back to generic XDP, which is slower", "interface", name, "reason", err)
		}
	} else {
		a.Reason = "generic XDP was asked for"
	}
	if a.link == nil {
		a.Mode = Generic
		if a.link, err = try(link.XDPGenericMode); err != nil {
			return a, attachError(name, Generic, err)
		}
	}
	if err := a.link.Pin(filepath.Join(p.dir, linksDir, fmt.Sprintf("%d:%s", i.Index, a.Mode))); err != nil {
		return a, errors.Join(fmt.Errorf("pinning the link of %s: %w", name, err), a.link.Close())
	}
	return a, nil
}

func attachError(name string, mode Mode, err error) error {
	hint := "see dmesg for the driver's reason"
	switch {
	case errors.Is(err, os.ErrExist) || strings.Contains(err.Error(), "busy"):
		hint = "another XDP program is on it: detach that first (bpftool net; ip link show)"
	case errors.Is(err, os.ErrPermission):
		hint = "shunt must be root, with CAP_NET_ADMIN and CAP_BPF"
	case mode == Native:
		hint = "the driver has no native XDP, or the MTU is too large for it: try --mode auto"
	}
	return fmt.Errorf("%w to %s in %s mode: %w (%s)", ErrAttach, name, mode, err, hint)
}

// Attachments tells which interfaces the program is on, and how.
func (p *Plane) Attachments() []Attachment {
	var out []Attachment
	for _, a := range p.attachments {
		out = append(out, a.Attachment)
	}
	return out
}
