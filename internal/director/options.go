// SPDX-License-Identifier: MIT

package director

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"

	"github.com/shunt-lvs/shunt/internal/api"
	"github.com/shunt-lvs/shunt/internal/dataplane"
	"github.com/shunt-lvs/shunt/internal/link"
)

// Options tells Run what to do.
type Options struct {
	api.Places
	Settings

	// Debug lets the data plane's clock be advanced.
	Debug bool
	// Force starts although another machine answers for a VIP.
	Force   bool
	Version string // of this program, for status
	Log     *slog.Logger
	// Hangup makes the director read its saved rules again; may be nil.
	Hangup <-chan os.Signal
}

// Settings are the part of Options that a successful start remembers, so that
// the next one needs no flags.
type Settings struct {
	// Config is the path of the configuration; empty: there is none. What it says
	// of the director counts instead of the other settings. It is remembered with
	// what was in force.
	Config string `json:"-"`
	// Interfaces are the names of those that packets to VIPs come in by. The
	// VIPs go on the first one.
	Interfaces []string `json:"interfaces"`
	// VIPs are the addresses to own, IPv4 or IPv6.
	VIPs []netip.Addr `json:"vips"`
	// VLANs are interfaces that stand for a VLAN of another without being a VLAN
	// device of the kernel's; those need no word.
	VLANs map[string]dataplane.VLAN `json:"vlans,omitempty"`
	// Mode is how to attach to the interfaces; empty: dataplane.Auto.
	Mode dataplane.Mode `json:"mode,omitempty"`
	// LocalClients makes connections of this host to its VIPs work, too.
	LocalClients bool `json:"local_clients,omitempty"`
	// Connections is the connection table's size; 0: the data plane's default.
	Connections uint32 `json:"connections,omitempty"`
}

var (
	// ErrSettings is wrapped by what is wrong with Settings.
	ErrSettings = errors.New("cannot start like this")
	// ErrNotRoot: addresses, sysctls, BPF and raw sockets are root's.
	ErrNotRoot = errors.New("a director needs root: it changes addresses and attaches BPF programs")
)

// LoadSettings reads what an earlier start remembered; the zero value if there
// was none.
func LoadSettings(p api.Places) (Settings, error) {
	var s Settings
	switch was, err := savedSite(p); {
	case err != nil:
		return s, err
	case was != nil:
		s.Config = was.Path
	}
	b, err := os.ReadFile(p.Settings())
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("remembered settings: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("remembered settings %s: %w; remove the file and give --interface and --vip", p.Settings(), err)
	}
	return s, nil
}

func (s Settings) save(p api.Places) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := link.WriteFile(p.Settings(), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("remember the settings: %w", err)
	}
	return nil
}

// validate checks what can be checked without looking at the system.
func (s Settings) validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrSettings}, args...)...)
	}
	switch {
	case len(s.Interfaces) == 0:
		return bad("no interface: name the one that packets to the VIP come in by (--interface eth0)")
	case len(s.VIPs) == 0:
		return bad("no VIP: say which address the clients use (--vip 172.16.16.172)")
	case s.Mode != "" && !slices.Contains(dataplane.Modes(), s.Mode):
		return bad("attach mode %q; there are auto, native, generic and tc", s.Mode)
	}
	for i, name := range s.Interfaces {
		if slices.Contains(s.Interfaces[:i], name) {
			return bad("interface %s is named twice", name)
		}
	}
	for name, v := range s.VLANs {
		if name == "" || v.Parent == "" || name == v.Parent || v.ID < 1 || v.ID > 4094 {
			return bad("--vlan %s=%s/%d: write it as --vlan v100=eth0/100; numbers of VLANs are 1 to 4094", name, v.Parent, v.ID)
		}
	}
	for i, vip := range s.VIPs {
		switch {
		case !vip.IsValid() || vip.IsUnspecified() || vip.IsMulticast() || vip.IsLoopback():
			return bad("VIP %v is not a unicast address", vip)
		case vip.Is4In6():
			return bad("VIP %v is an IPv4 address in IPv6 notation; write %v", vip, vip.Unmap())
		case vip.Is6() && (vip.IsLinkLocalUnicast() || vip.Zone() != ""):
			return bad("VIP %v: a link-local address means another machine on each link; use a global (or unique local) one", vip)
		case slices.Contains(s.VIPs[:i], vip):
			return bad("VIP %v is named twice", vip)
		}
	}
	return nil
}
