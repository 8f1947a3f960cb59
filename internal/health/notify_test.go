// SPDX-License-Identifier: MIT

package health

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// seenLog is a log that can be read while it is written.
type seenLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *seenLog) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *seenLog) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func newNotifier(t *testing.T, targets ...Target) (*Notifier, *seenLog) {
	t.Helper()
	j := &seenLog{}
	n := NewNotifier(targets, slog.New(slog.NewTextHandler(j, nil)))
	n.pause = 5 * time.Millisecond
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = n.Close(ctx)
	})
	return n, j
}

// allTold closes a notifier once it has told all.
func allTold(t *testing.T, n *Notifier) []Told {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := n.Close(ctx); err != nil {
		t.Fatal(err)
	}
	return n.Told()
}

// notedBy gives a program that adds what its shell text prints to a file.
func notedBy(t *testing.T, text string) (program, file string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it runs programs as other users")
	}
	dir := t.TempDir()
	program, file = filepath.Join(dir, "tell"), filepath.Join(dir, "told")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n{ "+text+"\n} >>"+file+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return program, file
}

func TestNotifyProgram(t *testing.T) {
	program, file := notedBy(t, `env | grep ^SHUNT_ | sort; echo "$#:$1"`)
	n, _ := newNotifier(t, Target{Command: []string{program, "a b"}, User: "root"})
	e := downAt(0)
	e.Reason = "quote \" dollar $(id) `id`\nsecond\x00 line"
	n.Tell(e)
	n.Tell(Event{At: historyTime, Subject: OfVIP, VIP: historyVIP, To: "withdrawn"})
	if diff := cmp.Diff([]Told{{Target: "program tell", Sent: 2}}, allTold(t, n)); diff != "" {
		t.Error(diff)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		`SHUNT_AT=2026-11-26T12:00:00.123456789Z`, `SHUNT_BY=check`, `SHUNT_CHECK=tcp`,
		`SHUNT_EVENT={"at":"2026-11-26T12:00:00.123456789Z","subject":"server","service":{"protocol":6,"addr":"172.16.16.172","port":80},"name":"web","server":{"addr":"172.16.16.177","port":80},"vip":"172.16.16.172","from":"up","to":"down","reason":"quote \" dollar $(id) ` + "`id`" + `\nsecond\u0000 line","check":"tcp","by":"check"}`,
		`SHUNT_FROM=up`, `SHUNT_NAME=web`, `SHUNT_REASON=quote " dollar $(id) ` + "`id`", `SHUNT_SERVER=172.16.16.177:80`, `SHUNT_SERVICE=TCP 172.16.16.172:80`,
		`SHUNT_SUBJECT=server`, `SHUNT_TO=down`, `SHUNT_VIP=172.16.16.172`, `1:a b`,
		`SHUNT_AT=2026-11-26T12:00:00.123456789Z`, `SHUNT_BY=`, `SHUNT_CHECK=`,
		`SHUNT_EVENT={"at":"2026-11-26T12:00:00.123456789Z","subject":"vip","vip":"172.16.16.172","from":"","to":"withdrawn"}`,
		`SHUNT_FROM=`, `SHUNT_NAME=`, `SHUNT_REASON=`, `SHUNT_SERVER=`, `SHUNT_SERVICE=`, `SHUNT_SUBJECT=vip`, `SHUNT_TO=withdrawn`, `SHUNT_VIP=172.16.16.172`, `1:a b`, "",
	}, "\n")
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The order of events is kept, whatever comes while a program runs.
func TestNotifyOrder(t *testing.T) {
	program, file := notedBy(t, `echo $SHUNT_REASON`)
	n, _ := newNotifier(t, Target{Command: []string{program}, User: "root", On: []string{OfServer}})
	want := ""
	for i := range 30 {
		e := downAt(i)
		e.Reason = fmt.Sprint("event ", i)
		want += e.Reason + "\n"
		n.Tell(e)
		n.Tell(Event{At: historyTime, Subject: OfService, Service: historyWeb, To: "down", Reason: "not wanted"})
	}
	allTold(t, n)
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestNotifyProgramFails(t *testing.T) {
	fails, _ := notedBy(t, `echo no such mailbox >&2; exit 4`)
	hangs, _ := notedBy(t, `exec sleep 600`)
	n, log := newNotifier(t,
		Target{Command: []string{fails}, User: "root"},
		Target{Command: []string{hangs}, User: "root", Timeout: 100 * time.Millisecond},
		Target{Command: []string{"/nonexistent"}})
	n.Tell(downAt(0))
	if diff := cmp.Diff([]Told{{Target: "program tell", Failed: 1}, {Target: "program tell", Failed: 1}, {Target: "program nonexistent", Failed: 1}}, allTold(t, n)); diff != "" {
		t.Error(diff)
	}
	for _, want := range []string{"exit code 4: no such mailbox", "timed out", "/nonexistent: .*no such file", "event=.server 172.16.16.177:80 of web: up → down"} {
		if !regexp.MustCompile(want).MatchString(log.String()) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
}

func TestNotifyLog(t *testing.T) {
	n, log := newNotifier(t, Target{Log: "warn"}, Target{Log: "error", On: []string{OfVIP}})
	n.Tell(downAt(0))
	if diff := cmp.Diff([]Told{{Target: "log warn", Sent: 1}, {Target: "log error"}}, allTold(t, n)); diff != "" {
		t.Error(diff)
	}
	const want = `level=WARN msg="server 172.16.16.177:80 of web: up → down: connection refused (check tcp)" subject=server service="TCP 172.16.16.172:80" name=web server=172.16.16.177:80 vip=172.16.16.172 from=up to=down reason="connection refused" check=tcp by=check`
	if got := log.String(); !strings.Contains(got, want) || strings.Count(got, "\n") != 1 {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// hook is a real HTTP server that notes what it is sent and answers as it is told.
type hook struct {
	*httptest.Server
	mu      sync.Mutex
	answers []int // the next ones; then 204
	keys    []string
	bodies  []string
	hold    chan struct{} // not nil: answers wait for it
}

func newHook(t *testing.T, answers ...int) *hook {
	t.Helper()
	h := &hook{answers: answers}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %v", r.Method, r.Header, err)
		}
		h.mu.Lock()
		status := http.StatusNoContent
		if len(h.answers) > 0 {
			status, h.answers = h.answers[0], h.answers[1:]
		}
		h.keys, h.bodies = append(h.keys, r.Header.Get("Idempotency-Key")), append(h.bodies, string(body))
		h.mu.Unlock()
		if h.hold != nil {
			select {
			case <-h.hold:
			case <-r.Context().Done():
			}
		}
		if status == http.StatusFound {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) sent() (keys, bodies []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.keys, h.bodies
}

func TestNotifyHook(t *testing.T) {
	for _, c := range []struct {
		name     string
		answers  []int
		requests int
		want     Told
		log      string
	}{
		{"taken", nil, 1, Told{Sent: 1}, ""},
		{"with 200", []int{200}, 1, Told{Sent: 1}, ""},
		{"again after 5xx, 408 and 429", []int{503, 408, 429, 500}, 5, Told{Sent: 1}, ""},
		{"given up", []int{500, 500, 500, 500, 502, 200}, 5, Told{Failed: 1}, "given up at attempt 5: status 502"},
		{"refused", []int{404, 200}, 1, Told{Failed: 1}, "status 404: not taken"},
		{"elsewhere", []int{302, 200}, 1, Told{Failed: 1}, "status 302: not taken"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHook(t, c.answers...)
			n, log := newNotifier(t, Target{URL: h.URL + "/hook?token=geheim"})
			n.Tell(downAt(0))
			c.want.Target = "webhook " + h.URL
			if diff := cmp.Diff([]Told{c.want}, allTold(t, n)); diff != "" {
				t.Error(diff)
			}
			keys, bodies := h.sent()
			if len(keys) != c.requests || len(keys[0]) < 20 {
				t.Fatalf("%d requests, want %d; keys %q", len(keys), c.requests, keys)
			}
			want, err := json.Marshal(downAt(0))
			if err != nil {
				t.Fatal(err)
			}
			for i := range keys {
				if keys[i] != keys[0] || bodies[i] != string(want) {
					t.Errorf("attempt %d: key %s, want %s; %s", i+1, keys[i], keys[0], bodies[i])
				}
			}
			if got := log.String(); c.log == "" && got != "" || !strings.Contains(got, c.log) || strings.Contains(got, "geheim") {
				t.Errorf("the log says %s, want %q", got, c.log)
			}
		})
	}
}

// Each event has a key of its own, and two targets get the same one.
func TestNotifyHookKeys(t *testing.T) {
	a, b := newHook(t), newHook(t)
	n, _ := newNotifier(t, Target{URL: a.URL}, Target{URL: b.URL})
	n.Tell(downAt(0))
	n.Tell(downAt(0))
	allTold(t, n)
	keys, _ := a.sent()
	others, _ := b.sent()
	if len(keys) != 2 || keys[0] == keys[1] || !cmp.Equal(keys, others) {
		t.Errorf("keys %q and %q", keys, others)
	}
}

func TestNotifyHookAway(t *testing.T) {
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	silent := newHook(t)
	silent.hold = make(chan struct{})
	n, log := newNotifier(t, Target{URL: away.URL + "/?token=geheim"}, Target{URL: silent.URL, Timeout: 20 * time.Millisecond})
	n.Tell(downAt(0))
	got := allTold(t, n)
	if got[0].Failed != 1 || got[1].Failed != 1 {
		t.Errorf("got %+v", got)
	}
	if text := log.String(); !strings.Contains(text, "connection refused") || !strings.Contains(text, "deadline exceeded") || strings.Contains(text, "geheim") {
		t.Error(text)
	}
}

// A target that does not keep up loses the oldest; its caller and the other targets do
// not notice.
func TestNotifySlowTarget(t *testing.T) {
	slow, quick := newHook(t), newHook(t)
	slow.hold = make(chan struct{})
	n, log := newNotifier(t, Target{URL: slow.URL}, Target{URL: quick.URL})
	tell := func(i int) {
		e := downAt(i)
		e.Reason = fmt.Sprint("event ", i)
		n.Tell(e)
	}
	tell(0)
	untilSeen(t, func() bool { keys, _ := slow.sent(); return len(keys) == 1 })
	for i := range maxWaiting + 5 {
		tell(i + 1)
		if i%100 == 0 {
			untilSeen(t, func() bool { return n.Told()[1].Waiting == 0 })
		}
	}
	untilSeen(t, func() bool { return n.Told()[1].Sent == maxWaiting+6 })
	if got := n.Told()[0]; got.Dropped != 5 || got.Waiting != maxWaiting {
		t.Errorf("got %+v", got)
	}
	close(slow.hold)
	if got := allTold(t, n); got[0].Sent != maxWaiting+1 || got[0].Dropped != 5 {
		t.Errorf("in the end %+v", got[0])
	}
	_, bodies := slow.sent()
	if !strings.Contains(bodies[0], `"event 0"`) || !strings.Contains(bodies[1], `"event 6"`) || !strings.Contains(bodies[len(bodies)-1], fmt.Sprintf(`"event %d"`, maxWaiting+5)) {
		t.Errorf("the first are %s, %s", bodies[0], bodies[1])
	}
	if text := log.String(); strings.Count(text, "too slow") != 1 || !strings.Contains(text, "caught up") {
		t.Error(text)
	}
}

func untilSeen(t *testing.T, done func() bool) {
	t.Helper()
	for range 1000 {
		if done() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("it did not come")
}

// A reload keeps what waits for a target that stays, and ends one that goes.
func TestNotifySet(t *testing.T) {
	stays, goes, comes := newHook(t), newHook(t), newHook(t)
	stays.hold = make(chan struct{})
	goes.answers = []int{500, 500, 500, 500, 500}
	goes.hold = make(chan struct{})
	n, log := newNotifier(t, Target{URL: stays.URL}, Target{URL: goes.URL})
	n.Tell(downAt(0))
	n.Tell(downAt(1))
	untilSeen(t, func() bool { a, _ := stays.sent(); b, _ := goes.sent(); return len(a) == 1 && len(b) == 1 })
	n.Set([]Target{{URL: comes.URL}, {URL: stays.URL}})
	n.Tell(downAt(2))
	close(stays.hold)
	close(goes.hold)
	if diff := cmp.Diff([]Told{{Target: "webhook " + comes.URL, Sent: 1}, {Target: "webhook " + stays.URL, Sent: 3}}, allTold(t, n)); diff != "" {
		t.Error(diff)
	}
	if keys, _ := goes.sent(); len(keys) != 1 {
		t.Errorf("%d requests to the one that is gone, want only the one on its way", len(keys))
	}
	if !strings.Contains(log.String(), "events=1") {
		t.Error(log)
	}
}

// Close has an end, ends what is on its way, and says what was not told.
func TestNotifyClose(t *testing.T) {
	silent := newHook(t)
	silent.hold = make(chan struct{})
	program, file := notedBy(t, `echo began; exec sleep 600`)
	n, _ := newNotifier(t, Target{URL: silent.URL}, Target{Command: []string{program}, User: "root", Timeout: time.Hour})
	for i := range 3 {
		n.Tell(downAt(i))
	}
	untilSeen(t, func() bool {
		text, _ := os.ReadFile(file)
		keys, _ := silent.sent()
		return len(text) > 0 && len(keys) == 1
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := n.Close(ctx)
	want := "webhook " + silent.URL + ": 2 notifications were not told\nprogram tell: 2 notifications were not told"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	n.Tell(downAt(4))
	if got := n.Told(); got[0].Failed != 1 || got[0].Waiting != 2 || got[1].Failed != 1 {
		t.Errorf("got %+v", got)
	}
}
