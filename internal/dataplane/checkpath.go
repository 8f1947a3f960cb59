// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// ErrCheckPath is wrapped when health checks cannot go through the VIP.
var ErrCheckPath = errors.New("cannot send health checks through the VIP")

// CheckPath sends what sockets with a mark (SO_MARK) send to a RIP to the VIP on
// that real server, and has its answers come from the RIP. So an ordinary client
// that connects to the RIP finds out whether the VIP works there. It takes TCP,
// UDP and ICMP echoes, of IPv4 and IPv6; whatever else has such a mark is dropped.
//
// A socket has to be bound before it connects (port 0 will do: the kernel finds
// one), so that its port is its own. Its packets have to leave by one of the
// interfaces that Interfaces was given, or they reach the RIP itself:
// SO_BINDTODEVICE rules that out. Answers may come in by any of those.
//
// Questions may be in fragments, and answers whose fragments come in order. A
// question is sent with two hops to go: the server may pass it on to a container
// of its own, and no server that lost the VIP passes it on to another one.
//
// All of it goes when the process ends, however it does. Its methods may be called
// from any goroutine.
type CheckPath struct {
	log     *slog.Logger
	objects checkPathObjects

	mu       sync.Mutex // guards all below
	closed   bool
	marks    marks
	attached map[int]checkLinks // by index of the interface
}

// checkLinks are the two programs on an interface.
type checkLinks struct{ in, out link.Link }

// OpenCheckPath loads the programs, and attaches them to nothing yet. It returns
// ErrCheckPath if the kernel does not have what they need.
func OpenCheckPath(log *slog.Logger) (*CheckPath, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("%w: raising the limit of locked memory: %w", ErrCheckPath, err)
	}
	c := &CheckPath{log: log, attached: map[int]checkLinks{}, marks: newMarks()}
	if err := loadCheckPathObjects(&c.objects, nil); err != nil {
		return nil, fmt.Errorf("%w: loading the BPF programs (is this root, and Linux 6.6 or newer, with BTF?): %w;"+
			" checks with `target: rip` need none", ErrCheckPath, err)
	}
	// No interface has this number, so nothing is attached; but a kernel that cannot says so first.
	_, err := link.AttachTCX(link.TCXOptions{Program: c.objects.CheckOut, Interface: math.MaxInt32, Attach: ebpf.AttachTCXEgress})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return nil, errors.Join(unsupportedCheckPath(err), c.objects.Close())
	}
	return c, nil
}

func unsupportedCheckPath(err error) error {
	return fmt.Errorf("%w: this needs Linux 6.6 or newer (tcx), and this is %s: give the checks `target: rip`,"+
		" which asks the real servers at their own addresses: %w", ErrCheckPath, kernelRelease(), err)
}

// Mark returns the mark of the sockets that ask for this VIP. It stays the same
// until Forget. There are marks for 16,383 VIPs.
func (c *CheckPath) Mark(vip netip.Addr) (uint32, error) {
	vip = vip.Unmap().WithZone("")
	if !vip.IsValid() || vip.IsUnspecified() || vip.IsMulticast() {
		return 0, fmt.Errorf("%w: %v is no address of a host", ErrCheckPath, vip)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, fmt.Errorf("%w: it is closed", ErrCheckPath)
	}
	if mark, ok := c.marks.of[vip]; ok {
		return mark, nil
	}
	mark, err := c.marks.take(time.Now())
	if err != nil {
		return 0, fmt.Errorf("%w %v: %w", ErrCheckPath, vip, err)
	}
	v := vipOf(vip)
	if err := c.objects.CheckVips.Put(mark, checkPathCheckVip{Addr: v.Addr, Six: v.Six}); err != nil {
		c.marks.giveBack(mark, time.Now())
		return 0, fmt.Errorf("%w %v: writing its mark: %w", ErrCheckPath, vip, err)
	}
	c.marks.of[vip] = mark
	return mark, nil
}

// Forget ends the mark of a VIP: what sockets with it still send is dropped. It
// may be another VIP's some minutes later.
func (c *CheckPath) Forget(vip netip.Addr) {
	vip = vip.Unmap().WithZone("")
	c.mu.Lock()
	defer c.mu.Unlock()
	mark, ok := c.marks.of[vip]
	if !ok || c.closed {
		return
	}
	delete(c.marks.of, vip)
	if err := c.objects.CheckVips.Delete(mark); err != nil {
		// It would still mean the old VIP: nobody gets it again.
		c.log.Error("cannot remove the mark of a VIP for health checks", "vip", vip, "mark", mark, "error", err)
		return
	}
	c.marks.giveBack(mark, time.Now())
}

// Interfaces says by which interfaces (by index, in the network namespace of the
// caller) the real servers are reached, those that routes name: of a VLAN the
// VLAN's own, of a bridge the bridge. The programs are attached there and nowhere
// else. On failure everything is as before.
func (c *CheckPath) Interfaces(indexes []int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return fmt.Errorf("%w: it is closed", ErrCheckPath)
	}
	added := map[int]checkLinks{}
	for _, index := range indexes {
		if _, twice := added[index]; twice || c.attached[index].lives(index) {
			continue
		}
		l, err := c.attach(index)
		if err != nil {
			for _, l := range added {
				err = errors.Join(err, l.close())
			}
			return err
		}
		added[index] = l
	}
	var errs []error
	for index, l := range c.attached {
		if _, again := added[index]; again || !slices.Contains(indexes, index) {
			delete(c.attached, index)
			if err := l.close(); err != nil {
				errs = append(errs, fmt.Errorf("taking the programs for health checks off interface number %d: %w", index, err))
			}
		}
	}
	for index, l := range added {
		c.attached[index] = l
		c.log.Debug("health checks go through the VIP by this interface", "index", index)
	}
	return errors.Join(errs...)
}

// Attached tells whether the programs are on the interface of that index. What
// sockets with a mark send by any other reaches the RIP itself, and would find a
// server well whose VIP was not asked for.
func (c *CheckPath) Attached(index int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.attached[index].lives(index)
}

// attach puts the programs behind all others of tc: they see what the data plane
// passes on, and what leaves.
func (c *CheckPath) attach(index int) (l checkLinks, err error) {
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		return l, fmt.Errorf("%w by interface number %d: %w", ErrCheckPath, index, err)
	}
	if len(i.HardwareAddr) != 6 && i.Flags&net.FlagLoopback == 0 {
		return l, fmt.Errorf("%w by %s: it has no MAC addresses, and direct routing needs an Ethernet", ErrCheckPath, i.Name)
	}
	// Answers first: a question must not go before they can come.
	l.in, err = link.AttachTCX(link.TCXOptions{Program: c.objects.CheckIn, Interface: index, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		l.out, err = link.AttachTCX(link.TCXOptions{Program: c.objects.CheckOut, Interface: index, Attach: ebpf.AttachTCXEgress})
	}
	if errors.Is(err, ebpf.ErrNotSupported) {
		err = unsupportedCheckPath(err)
	} else if err != nil {
		err = fmt.Errorf("%w by %s: attaching the BPF programs: %w", ErrCheckPath, i.Name, err)
	}
	if err != nil {
		return checkLinks{}, errors.Join(err, l.close())
	}
	return l, nil
}

// lives tells whether both programs are on that interface. The kernel takes them
// off one that is removed, or moved to another namespace.
func (l checkLinks) lives(index int) bool {
	for _, l := range []link.Link{l.in, l.out} {
		if l == nil {
			return false
		}
		info, err := l.Info()
		if err != nil || info.TCX() == nil || int(info.TCX().Ifindex) != index {
			return false
		}
	}
	return true
}

func (l checkLinks) close() error {
	var errs []error
	for _, l := range []link.Link{l.out, l.in} { // questions end first
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// Close takes the programs off all interfaces. Sockets with a mark must be closed
// by then: what they send would go to the RIP.
func (c *CheckPath) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	var errs []error
	for _, l := range c.attached {
		errs = append(errs, l.close())
	}
	clear(c.attached)
	return errors.Join(append(errs, c.objects.Close())...)
}

// checkCountTexts has an entry for each value of enum check_count
// (bpf/check_types.h), in its order, but for the packets that are no check's.
func checkCountTexts() [checkPathCheckCountCHECK_MAX]verdictText {
	return [checkPathCheckCountCHECK_MAX]verdictText{
		checkPathCheckCountCHECK_SENT:             {"check_sent", actionForward, "of a health check, sent to the VIP on its real server"},
		checkPathCheckCountCHECK_ANSWER:           {"check_answer", actionPass, "an answer from the VIP to a health check"},
		checkPathCheckCountCHECK_ERROR:            {"check_error", actionPass, "an ICMP error about a health check"},
		checkPathCheckCountCHECK_DROP_UNKNOWN:     {"check_drop_unknown", actionDrop, "with a mark for health checks that is no VIP's: one that was just removed, or somebody else's mark"},
		checkPathCheckCountCHECK_DROP_UNSUPPORTED: {"check_drop_unsupported", actionDrop, "of a health check, but neither TCP, UDP nor an ICMP echo, or of the other address family than its VIP, or from the VIP, to which no other machine can answer"},
		checkPathCheckCountCHECK_DROP_TAKEN:       {"check_drop_taken", actionDrop, "of a health check, from the same port (of an echo, with the same numbers) as one of the same VIP on another real server: a socket that was not bound"},
		checkPathCheckCountCHECK_DROP_FAILED:      {"check_drop_failed", actionDrop, "of a health check; the kernel had no memory"},
	}
}

// Counts tells what became of the packets of health checks since OpenCheckPath.
func (c *CheckPath) Counts() ([]VerdictCount, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("%w: it is closed", ErrCheckPath)
	}
	var out []VerdictCount
	for i, text := range checkCountTexts() {
		if i == int(checkPathCheckCountCHECK_PASS) {
			continue
		}
		n, err := sumVerdict(c.objects.CheckCounts, uint32(i))
		if err != nil {
			return nil, err
		}
		out = append(out, VerdictCount{Name: text.name, Action: text.action, Help: text.help, Packets: n})
	}
	return out, nil
}
