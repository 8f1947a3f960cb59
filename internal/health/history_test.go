// SPDX-License-Identifier: MIT

package health

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

var (
	historyVIP  = netip.MustParseAddr("172.16.16.172")
	historyWeb  = lvs.ServiceID{Protocol: lvs.TCP, Addr: historyVIP, Port: 80}
	historyFTP  = lvs.ServiceID{Mark: 7}
	historyRS1  = lvs.ServerID{Addr: netip.MustParseAddr("172.16.16.177"), Port: 80}
	historyRS2  = lvs.ServerID{Addr: netip.MustParseAddr("172.16.16.178"), Port: 80}
	historyTime = time.Date(2026, 11, 26, 12, 0, 0, 123456789, time.UTC)
)

// downAt is an event at a second.
func downAt(second int) Event {
	return Event{At: historyTime.Add(time.Duration(second) * time.Second), Subject: OfServer, Service: historyWeb, Name: "web",
		Server: historyRS1, VIP: historyVIP, From: "up", To: "down", Reason: "connection refused", Check: "tcp", By: "check"}
}

func openHistory(t *testing.T, path string, size int64) *History {
	t.Helper()
	h, err := OpenHistory(path, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func addTo(t *testing.T, h *History, events ...Event) {
	t.Helper()
	for _, e := range events {
		if err := h.Append(e); err != nil {
			t.Fatal(err)
		}
	}
}

func allOf(t *testing.T, h *History, f Filter) []Event {
	t.Helper()
	found, err := h.Query(f)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

var sameEvents = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestEventJSON(t *testing.T) {
	got, err := json.Marshal([]Event{downAt(0), {At: historyTime, Subject: OfVIP, VIP: historyVIP, To: "withdrawn"}})
	want := `[{"at":"2026-11-26T12:00:00.123456789Z","subject":"server","service":{"protocol":6,"addr":"172.16.16.172","port":80},"name":"web",` +
		`"server":{"addr":"172.16.16.177","port":80},"vip":"172.16.16.172","from":"up","to":"down","reason":"connection refused","check":"tcp","by":"check"},` +
		`{"at":"2026-11-26T12:00:00.123456789Z","subject":"vip","vip":"172.16.16.172","from":"","to":"withdrawn"}]`
	if err != nil || string(got) != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
}

func TestEventString(t *testing.T) {
	unnamed := downAt(0)
	unnamed.Name, unnamed.Check, unnamed.From = "", "", ""
	for _, c := range []struct {
		e    Event
		want string
	}{
		{downAt(0), "server 172.16.16.177:80 of web: up → down: connection refused (check tcp)"},
		{unnamed, "server 172.16.16.177:80 of TCP 172.16.16.172:80: down: connection refused"},
		{Event{Subject: OfService, Service: historyFTP, From: "up", To: "down", Reason: "1 of 3 servers"}, "service FWM 7: up → down: 1 of 3 servers"},
		{Event{Subject: OfVIP, VIP: historyVIP, To: "withdrawn"}, "vip 172.16.16.172: withdrawn"},
	} {
		if got := c.e.String(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	h := openHistory(t, path, 0)
	if got := allOf(t, h, Filter{}); len(got) != 0 {
		t.Errorf("a new history has %v", got)
	}
	other := downAt(1)
	other.Server, other.Reason = historyRS2, "a \"line\"\nand\x00 \xff more"
	service := Event{At: downAt(2).At, Subject: OfService, Service: historyFTP, From: "up", To: "down", By: "quorum"}
	vip := Event{At: downAt(3).At, Subject: OfVIP, VIP: historyVIP, From: "announced", To: "withdrawn", By: "quorum"}
	want := []Event{downAt(0), other, service, vip}
	addTo(t, h, want...)
	want[1].Reason = "a \"line\"\nand\x00  more"

	for _, c := range []struct {
		name string
		f    Filter
		want []Event
	}{
		{"all", Filter{}, want},
		{"the last two", Filter{Limit: 2}, want[2:]},
		{"more than there are", Filter{Limit: 9}, want},
		{"since", Filter{Since: want[1].At}, want[1:]},
		{"until", Filter{Until: want[1].At}, want[:1]},
		{"between", Filter{Since: want[1].At, Until: want[3].At}, want[1:3]},
		{"of a service", Filter{Service: historyWeb}, want[:2]},
		{"of a service by mark", Filter{Service: historyFTP}, want[2:3]},
		{"of a service by name", Filter{Name: "web"}, want[:2]},
		{"of a server", Filter{Server: historyRS2}, want[1:2]},
		{"of a server, any port", Filter{Server: lvs.ServerID{Addr: historyRS1.Addr}}, want[:1]},
		{"of another port", Filter{Server: lvs.ServerID{Addr: historyRS1.Addr, Port: 81}}, nil},
		{"of a VIP", Filter{VIP: historyVIP, Subjects: []string{OfVIP}}, want[3:]},
		{"of services and VIPs", Filter{Subjects: []string{OfVIP, OfService}}, want[2:]},
		{"the last of a server", Filter{Subjects: []string{OfServer}, Limit: 1}, want[1:2]},
	} {
		if diff := cmp.Diff(c.want, allOf(t, h, c.f), sameEvents); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Query(Filter{}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("query after close: %v", err)
	}
	if err := h.Append(downAt(4)); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if diff := cmp.Diff(want, allOf(t, openHistory(t, path, 0), Filter{}), sameEvents); diff != "" {
		t.Errorf("opened again (-want +got):\n%s", diff)
	}
}

// The file keeps its size, and what is lost is the oldest.
func TestHistoryBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	const size = 32 << 10
	h := openHistory(t, path, size)
	for i := range 1000 {
		addTo(t, h, downAt(i))
		if i == 500 {
			_ = h.Close()
			h = openHistory(t, path, size)
		}
	}
	total := int64(0)
	for _, p := range []string{path, path + ".old"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > size {
		t.Errorf("%d bytes, want at most %d", total, size)
	}
	got := allOf(t, h, Filter{})
	if len(got) < 40 || !got[len(got)-1].At.Equal(downAt(999).At) {
		t.Fatalf("%d events, the last %v", len(got), got[len(got)-1])
	}
	for i, e := range got {
		if want := downAt(1000 - len(got) + i); !e.At.Equal(want.At) {
			t.Fatalf("event %d is of %v, want %v", i, e.At, want.At)
		}
	}
}

// An event is never so long that it does not fit.
func TestHistoryLongEvent(t *testing.T) {
	h := openHistory(t, filepath.Join(t.TempDir(), "history"), minHistory)
	long := downAt(0)
	long.Reason = strings.Repeat("\x01", 1<<20)
	for _, s := range []*string{&long.Name, &long.From, &long.To, &long.Check, &long.By} {
		*s = strings.Repeat("\x01", 1<<20)
	}
	addTo(t, h, long, long)
	if got := allOf(t, h, Filter{}); len(got) != 2 || len(got[0].Reason) != maxReason || len(got[0].Name) != maxName {
		t.Errorf("%d events", len(got))
	}
	for _, p := range []string{h.path, h.old()} {
		if info, err := os.Stat(p); err == nil && info.Size() > minHistory/2 {
			t.Errorf("%s: %d bytes", p, info.Size())
		}
	}
}

// Wherever the last line was cut off, what is whole is there and new lines follow.
func TestHistoryCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	h := openHistory(t, path, 0)
	addTo(t, h, downAt(0))
	one := h.size
	addTo(t, h, downAt(1))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := int64(len(whole)); cut >= 0; cut-- {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		h := openHistory(t, path, 0)
		addTo(t, h, downAt(2))
		want := []Event{downAt(0), downAt(1), downAt(2)}
		switch {
		case cut < one:
			want = want[2:]
		case cut < int64(len(whole)):
			want = slices.Delete(want, 1, 2)
		}
		if diff := cmp.Diff(want, allOf(t, h, Filter{}), sameEvents); diff != "" {
			t.Fatalf("cut at %d (-want +got):\n%s", cut, diff)
		}
		_ = h.Close()
	}
}

// Lines that are no events are skipped; those before and after them are not.
func TestHistoryBrokenLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	h := openHistory(t, path, 0)
	addTo(t, h, downAt(0))
	if _, err := h.file.WriteString("\n\x00\x00\x00\nnull\n{}\n{\"subject\":\"weather\"}\n[]\n{\"at\":\n"); err != nil {
		t.Fatal(err)
	}
	_ = h.Close()
	h = openHistory(t, path, 0)
	addTo(t, h, downAt(1))
	if diff := cmp.Diff([]Event{downAt(0), downAt(1)}, allOf(t, h, Filter{}), sameEvents); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A full disk costs the event that does not fit and no other.
func TestHistoryDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a small file system")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	h := openHistory(t, filepath.Join(dir, "history"), 0)
	t.Cleanup(func() { _ = h.Close() })
	n := 0
	for ; n < 1000; n++ {
		if err := h.Append(downAt(n)); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n < 10 || n == 1000 {
		t.Fatalf("the disk was full after %d events", n)
	}
	if got := allOf(t, h, Filter{}); len(got) != n {
		t.Errorf("%d events, want %d", len(got), n)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64k"); err != nil {
		t.Fatal(err)
	}
	addTo(t, h, downAt(n))
	if got := allOf(t, h, Filter{}); len(got) != n+1 {
		t.Errorf("%d events once there is room, want %d", len(got), n+1)
	}
}

// A writer that is killed at any moment has lost at most what it was writing.
func TestHistoryKilled(t *testing.T) {
	if path := os.Getenv("HEALTH_TEST_HISTORY"); path != "" {
		h := openHistory(t, path, minHistory)
		for i := 0; ; i++ {
			addTo(t, h, downAt(i))
			fmt.Printf("%d\n", i)
		}
	}
	for range 3 {
		path := filepath.Join(t.TempDir(), "history")
		writer := exec.Command(os.Args[0], "-test.run=^TestHistoryKilled$")
		writer.Env = append(os.Environ(), "HEALTH_TEST_HISTORY="+path)
		var out bytes.Buffer
		writer.Stdout = &out
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(150 * time.Millisecond)
		_ = writer.Process.Kill()
		_ = writer.Wait()
		told := strings.Split(out.String(), "\n")
		last, err := strconv.Atoi(told[max(0, len(told)-2)])
		if err != nil {
			t.Fatal(err)
		}
		h := openHistory(t, path, minHistory)
		got := allOf(t, h, Filter{})
		if len(got) == 0 {
			t.Fatalf("nothing of %d events", last)
		}
		end := got[len(got)-1].At
		if end.Before(downAt(last).At) || end.After(downAt(last+1).At) {
			t.Errorf("the last event is of %v, want %v or the one after", end, downAt(last).At)
		}
		addTo(t, h, downAt(1<<20))
		if got := allOf(t, h, Filter{Limit: 1}); len(got) != 1 || !got[0].At.Equal(downAt(1<<20).At) {
			t.Errorf("after it: %v", got)
		}
	}
}

func TestHistoryConcurrent(t *testing.T) {
	h := openHistory(t, filepath.Join(t.TempDir(), "history"), 64<<10)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 100 {
				if err := h.Append(downAt(i)); err != nil {
					t.Error(err)
				}
				if _, err := h.Query(Filter{Limit: 3}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := allOf(t, h, Filter{}); len(got) < 100 {
		t.Errorf("%d events", len(got))
	}
}

// Whatever is in the file, what is read from it can be kept and read again, and an
// event after it is found.
func FuzzHistory(f *testing.F) {
	line, err := json.Marshal(downAt(0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(line, '\n'))
	f.Add(line)
	f.Add([]byte("\n\n{}\n"))
	f.Add([]byte(`{"subject":"vip","at":"0000-01-01T00:00:00+01:00"}` + "\n" + `{"subject":"vip","at":"9999-12-31T23:59:59-01:00"}` + "\n"))
	f.Add([]byte(`{"subject":"vip","vip":"::1%eth0","at":"2026-01-01T00:00:00+23:59"}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		before := slices.Collect(backwards(data))
		var again []byte
		for _, e := range slices.Backward(before) {
			b, err := json.Marshal(e)
			if err != nil {
				t.Fatalf("%+v: %v", e, err)
			}
			again = append(append(again, b...), '\n')
		}
		if diff := cmp.Diff(before, slices.Collect(backwards(again)), sameEvents); diff != "" {
			t.Fatalf("read again (-want +got):\n%s", diff)
		}
		data = slices.Concat(data[:bytes.LastIndexByte(data, '\n')+1], line, []byte{'\n'})
		after := slices.Collect(backwards(data))
		if len(after) != len(before)+1 || after[0] != downAt(0) {
			t.Fatalf("%d events and one more are %d", len(before), len(after))
		}
	})
}
