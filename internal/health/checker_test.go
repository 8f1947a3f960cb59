// SPDX-License-Identifier: MIT

package health

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

var vip = netip.MustParseAddr("172.16.16.172")

// rip gives the nth address of many.
func rip(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}) }

func web(n int) lvs.ServiceID { return lvs.ServiceID{Protocol: lvs.TCP, Addr: vip, Port: uint16(n)} }

// subject is server n of the service with that port.
func subjectOf(port, n int, checks ...Check) Subject {
	return Subject{
		Service: web(port), Server: lvs.ServerID{Addr: rip(n), Port: uint16(port)},
		Endpoint: Endpoint{Protocol: lvs.TCP, VIP: vip, RIP: rip(n), Port: uint16(port), Mark: uint32(n + 1)},
		Checks:   checks,
	}
}

func every(interval time.Duration) Check {
	return Check{Kind: TCP, Interval: interval, Timeout: interval / 2, Rise: 2, Fall: 3, Jitter: 0.1}
}

// run is one of a probe.
type run struct {
	at       time.Time
	check    Check
	endpoint Endpoint
}

// world answers probes, and notes them and what is reported.
type world struct {
	*Checker
	answer func(context.Context, Check, Endpoint) error // called without the lock

	mu      sync.Mutex
	runs    []run
	reports []Transition
	most    int // at once
	atOnce  int
	per     map[Endpoint]int
	overlap bool
}

var errRefused = errors.New("connection refused")

func newWorld(o Options, answer func(context.Context, Check, Endpoint) error) *world {
	w := &world{answer: answer, per: map[Endpoint]int{}}
	o.Probe = w.probe
	if o.Report == nil {
		o.Report = func(t Transition) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.reports = append(w.reports, t)
		}
	}
	w.Checker = NewChecker(o)
	return w
}

func (w *world) probe(ctx context.Context, c Check, e Endpoint) error {
	w.mu.Lock()
	w.runs = append(w.runs, run{time.Now(), c, e})
	w.atOnce++
	w.most = max(w.most, w.atOnce)
	w.per[e]++
	w.overlap = w.overlap || w.per[e] > 1
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.atOnce--
		w.per[e]--
	}()
	if w.answer == nil {
		return nil
	}
	return w.answer(ctx, c, e)
}

// start runs the checker until the test (in a bubble) ends it or is over; that
// nothing survives is what the bubble finds out.
func (w *world) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// take gives what was reported since.
func (w *world) take() []Transition {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.reports
	w.reports = nil
	return r
}

func (w *world) count() int {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.runs)
}

// asked gives all runs so far.
func (w *world) asked() []run {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.runs)
}

// busy tells how many ran at once, and whether one ran twice at once.
func (w *world) busy() (most int, overlap bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.most, w.overlap
}

// told is reports as one line each.
func told(reports []Transition) []string {
	var all []string
	for _, r := range reports {
		how := "down"
		if r.Up {
			how = "up"
		}
		if r.Flapping {
			how += " flapping"
		}
		all = append(all, fmt.Sprintf("%d %v %s %s: %s", r.Service.Port, r.Server.Addr, how, r.Check, r.Reason))
	}
	return all
}

func diff(t *testing.T, what string, got, want any) {
	t.Helper()
	addresses := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if d := cmp.Diff(want, got, addresses); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// untilLate waits for the end of its time.
func untilLate(ctx context.Context) error {
	<-ctx.Done()
	return fmt.Errorf("no answer: %w", ctx.Err())
}

func TestCheckerFindsOutAndSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ill atomic.Bool
		w := newWorld(Options{}, func(_ context.Context, c Check, e Endpoint) error {
			time.Sleep(3 * time.Millisecond)
			if ill.Load() && e.RIP == rip(1) {
				return errRefused
			}
			return nil
		})
		c := every(2 * time.Second)
		c.Jitter = 0
		w.Set([]Subject{subjectOf(80, 1, c), subjectOf(80, 2, c), subjectOf(80, 3)})
		defer w.start(t)()
		time.Sleep(10 * time.Second)
		diff(t, "reports while all is well", told(w.take()), []string(nil))
		if j, _ := w.Subject(web(80), lvs.ServerID{Addr: rip(1), Port: 80}); !j.Up || !j.Known || j.Failure != nil || j.Checks[0].Successes < 4 || j.Checks[0].Took != 3*time.Millisecond {
			t.Errorf("well: %+v", j)
		}

		ill.Store(true)
		died := time.Now()
		time.Sleep(6100 * time.Millisecond)
		reports := w.take()
		diff(t, "reports of its death", told(reports), []string{"80 10.0.0.1 down tcp: connection refused"})
		if at := reports[0].At.Sub(died); at < 3*time.Second || at > 6*time.Second+3*time.Millisecond {
			t.Errorf("found out after %v", at)
		}
		j, _ := w.Subject(web(80), lvs.ServerID{Addr: rip(1), Port: 80})
		if j.Up || j.Reason != "connection refused" || j.Since != reports[0].At || j.Checks[0].Up || j.Checks[0].Failures < 3 || j.Checks[0].Reason != "connection refused" {
			t.Errorf("dead: %+v", j)
		}

		ill.Store(false)
		time.Sleep(10 * time.Second)
		diff(t, "reports of its recovery", told(w.take()), []string{"80 10.0.0.1 up tcp: 2 of tcp in a row succeeded"})
		j, _ = w.Subject(web(80), lvs.ServerID{Addr: rip(1), Port: 80})
		if !j.Up || j.Failure == nil || j.Failure.Reason != "connection refused" || j.Failure.Check != "tcp" || j.Checks[0].Failed < 3 || !j.Checks[0].Next.After(time.Now()) {
			t.Errorf("well again: %+v, failure %+v", j, j.Failure)
		}
		all := w.Subjects()
		if len(all) != 3 || all[2].Server.Addr != rip(3) || !all[2].Up || !all[2].Known {
			t.Errorf("all: %+v", all)
		}
		if l := w.Load(); l.Checks != 2 || l.Running != 0 || l.Waiting != 0 || l.Failed < 3 || l.Ran < 20 || l.Late > time.Millisecond {
			t.Errorf("load: %+v", l)
		}
	})
}

// TestCheckerKeepsItsPromise: from death to the report it takes Fall × Interval
// and the time that the last check takes to fail, whatever the pace is and
// whenever it dies; with a Fall of 1 or a long timeout as much more as jitter makes.
func TestCheckerKeepsItsPromise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const servers = 2000
		lax := func(n int) bool { return n%4 == 0 }
		r := rand.New(rand.NewPCG(1, 2))
		var subjects []Subject
		dies, silently := map[netip.Addr]time.Time{}, map[netip.Addr]bool{}
		begin := time.Now()
		for n := range servers {
			interval, jitter := time.Duration(200+r.IntN(3000))*time.Millisecond, 0.375*r.Float64()
			c := Check{Kind: TCP, Interval: interval, Rise: 1 + r.IntN(3), Fall: 2 + r.IntN(4), Jitter: jitter}
			c.Timeout = time.Duration(r.Float64() * (1 - 2*jitter) * float64(interval))
			if lax(n) {
				c.Timeout, c.Fall = time.Duration(r.Float64()*float64(interval))+1, 1+r.IntN(3)
			}
			subjects = append(subjects, subjectOf(80, n, c))
			dies[rip(n)] = begin.Add(time.Duration(r.IntN(10000)) * time.Millisecond)
			silently[rip(n)] = r.IntN(2) == 0
		}
		w := newWorld(Options{MaxAtOnce: servers}, func(ctx context.Context, c Check, e Endpoint) error {
			switch {
			case time.Now().Before(dies[e.RIP]):
				return nil
			case silently[e.RIP]:
				return untilLate(ctx)
			}
			return errRefused
		})
		w.Set(subjects)
		defer w.start(t)()
		time.Sleep(40 * time.Second)
		found := map[netip.Addr]Transition{}
		for _, report := range w.take() {
			if _, ok := found[report.Server.Addr]; ok {
				t.Errorf("%v: reported twice", report.Server)
			}
			found[report.Server.Addr] = report
		}
		var latest float64
		for n, s := range subjects {
			report, ok := found[s.Server.Addr]
			c := s.Checks[0]
			promised := time.Duration(c.Fall) * c.Interval
			if silently[s.Server.Addr] {
				promised += c.Timeout
			}
			if lax(n) {
				promised += time.Duration(2 * c.Jitter * float64(c.Interval))
			}
			took := report.At.Sub(dies[s.Server.Addr])
			latest = max(latest, float64(took)/float64(promised))
			if !ok || report.Up || took > promised || took < 0 {
				t.Errorf("interval %v, timeout %v, fall %d, jitter %.3f, silent %v: %v, promised %v; %+v", c.Interval, c.Timeout, c.Fall, c.Jitter, silently[s.Server.Addr], took, promised, report)
			}
		}
		if latest < 0.9 {
			t.Errorf("the latest took %.2f of what was promised: one can promise more", latest)
		}
	})
}

func TestCheckerAsksOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ill atomic.Bool
		w := newWorld(Options{}, func(context.Context, Check, Endpoint) error {
			if ill.Load() {
				return errRefused
			}
			return nil
		})
		onRIP := every(time.Second)
		onRIP.ToRIP, onRIP.Port = true, 8080
		lax := onRIP
		lax.Fall = 5
		echo := every(time.Second)
		echo.Kind = ICMP
		var subjects []Subject
		for port := range 10 {
			subjects = append(subjects, subjectOf(8000+port, 1, onRIP, echo))
		}
		other := subjectOf(8000, 1, onRIP)
		other.Service.Addr = netip.MustParseAddr("172.16.16.171")
		other.Endpoint.VIP = other.Service.Addr
		subjects = append(subjects, other, subjectOf(9000, 1, lax), subjectOf(9000, 2, onRIP))
		w.Set(subjects)
		defer w.start(t)()
		time.Sleep(20*time.Second - time.Millisecond)
		synctest.Wait()
		if n := w.Load().Checks; n != 4 { // RIP, echo to the VIP, lax, the second server
			t.Errorf("%d checks", n)
		}
		if n := w.count(); n < 76 || n > 86 {
			t.Errorf("asked %d times", n)
		}
		for _, r := range w.asked() {
			if r.check.Kind == ICMP && r.endpoint != (Endpoint{VIP: vip, RIP: rip(1), Mark: 2}) || r.check.Kind == TCP && r.endpoint.RIP == rip(1) && r.endpoint != (Endpoint{RIP: rip(1), Port: 8080}) {
				t.Fatalf("asked %+v", r.endpoint)
			}
		}
		ill.Store(true)
		time.Sleep(6 * time.Second)
		got := map[lvs.ServiceID]int{}
		for _, r := range w.take() {
			if r.Up {
				t.Errorf("%+v", r)
			}
			got[r.Service]++
		}
		if len(got) != 12 || got[web(9000)] != 2 {
			t.Errorf("reported of %v", got)
		}

		// Who comes later is judged by what is known, and is told why.
		late := subjectOf(7000, 1, onRIP)
		w.Set(append(subjects, late))
		diff(t, "reports of a late comer", told(w.take()), []string{"7000 10.0.0.1 down tcp: connection refused"})
		if n := w.Load().Checks; n != 4 {
			t.Errorf("%d checks", n)
		}

		// The last one to leave ends it.
		w.Set(subjects[:1])
		w.Set(nil)
		n := w.count()
		time.Sleep(5 * time.Second)
		if w.count() != n || w.Load().Checks != 0 || len(w.texts) != 0 || len(w.Subjects()) != 0 {
			t.Errorf("asked %d times more; %d texts", w.count()-n, len(w.texts))
		}
	})
}

func TestCheckerAllAndAny(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ill sync.Map // of errors by Kind
		w := newWorld(Options{}, func(_ context.Context, c Check, _ Endpoint) error {
			err, _ := ill.Load(c.Kind)
			if err == nil {
				return nil
			}
			return err.(error)
		})
		a, b := every(time.Second), every(time.Second)
		b.Kind, b.Name = HTTP, "healthz"
		all, any := subjectOf(80, 1, a, b), subjectOf(81, 1, a, b)
		any.Any = true
		w.Set([]Subject{all, any})
		defer w.start(t)()
		time.Sleep(5 * time.Second)
		ill.Store(HTTP, errors.New("status 503"))
		time.Sleep(5 * time.Second)
		diff(t, "one is ill", told(w.take()), []string{"80 10.0.0.1 down healthz: status 503"})
		ill.Store(TCP, errRefused)
		time.Sleep(5 * time.Second)
		diff(t, "both are ill", told(w.take()), []string{"81 10.0.0.1 down tcp: none of 2 checks succeeds; tcp: connection refused"})
		ill.Delete(HTTP)
		time.Sleep(5 * time.Second)
		diff(t, "one is well", told(w.take()), []string{"81 10.0.0.1 up healthz: 2 of healthz in a row succeeded"})
		ill.Delete(TCP)
		time.Sleep(5 * time.Second)
		diff(t, "both are well", told(w.take()), []string{"80 10.0.0.1 up tcp: all 2 checks succeed"})
	})
}

func TestCheckerBegins(t *testing.T) {
	up, down := true, false
	for _, test := range []struct {
		name  string
		alpha bool
		was   *bool
		fails bool
		first bool // up when it begins
		known time.Duration
		want  []string
	}{
		{"well", false, nil, false, true, 0, nil},
		{"ill", false, nil, true, true, 0, []string{"80 10.0.0.1 down tcp: connection refused"}},
		{"alpha well", true, nil, false, false, 0, []string{"80 10.0.0.1 up tcp: its checks succeeded for the first time"}},
		{"alpha ill", true, nil, true, false, 0, nil},
		{"alpha was up", true, &up, false, true, 0, nil},
		{"alpha was up and is ill", true, &up, true, true, 0, []string{"80 10.0.0.1 down tcp: connection refused"}},
		{"was down", false, &down, false, false, 0, []string{"80 10.0.0.1 up tcp: 2 of tcp in a row succeeded"}},
		{"was down and is ill", false, &down, true, false, 0, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(Options{}, func(context.Context, Check, Endpoint) error {
					if test.fails {
						return errRefused
					}
					return nil
				})
				s := subjectOf(80, 1, every(2*time.Second))
				s.Alpha, s.Up = test.alpha, test.was
				w.Set([]Subject{s})
				if j := w.Subjects()[0]; j.Up != test.first || j.Known || !j.Up && j.Reason == "" {
					t.Errorf("begins as %+v", j)
				}
				begun := time.Now()
				defer w.start(t)()
				time.Sleep(500 * time.Millisecond)
				if n := w.count(); n != 1 {
					t.Errorf("asked %d times in the first half second", n)
				}
				time.Sleep(6 * time.Second)
				reports := w.take()
				diff(t, "reports", told(reports), test.want)
				if len(reports) > 0 {
					limit := map[bool]time.Duration{true: 3 * time.Second, false: 6 * time.Second}[reports[0].Up]
					if took := reports[0].At.Sub(begun); took > limit {
						t.Errorf("after %v", took)
					}
				}
			})
		})
	}
}

func TestCheckerHoldsWhoFlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		w := newWorld(Options{}, func(context.Context, Check, Endpoint) error {
			since := time.Since(begun)
			if flaps := since < 30*time.Second || since > 4*time.Minute; flaps && since/(3*time.Second)%2 == 1 {
				return errRefused
			}
			return nil
		})
		c := every(time.Second)
		c.Rise, c.Fall = 1, 1
		s := subjectOf(80, 1, c)
		s.Flap = Flap{Changes: 4, Within: time.Minute, Hold: 2 * time.Minute}
		w.Set([]Subject{s})
		defer w.start(t)()
		time.Sleep(time.Minute)
		reports := told(w.take())
		if len(reports) != 3 {
			t.Fatalf("%q", reports)
		}
		if j := w.Subjects()[0]; j.Up || !strings.HasPrefix(j.Reason, "it changed 4 times within 1m0s and is held down until ") || j.Held.IsZero() || !j.Checks[0].Up {
			t.Errorf("held: %+v", j)
		}
		time.Sleep(2 * time.Minute)
		reports = told(w.take())
		if len(reports) != 1 || !strings.HasPrefix(reports[0], "80 10.0.0.1 up tcp: ") {
			t.Errorf("afterwards: %q", reports)
		}
		if j := w.Subjects()[0]; !j.Up || !j.Held.IsZero() {
			t.Errorf("afterwards: %+v", j)
		}

		// The change that is one too many may be the one that takes it down.
		s.Flap.Changes = 3
		w.Set([]Subject{s})
		time.Sleep(80 * time.Second)
		reports = told(w.take())
		if n := len(reports); n != 3 || !strings.HasPrefix(reports[2], "80 10.0.0.1 down flapping tcp: it changed 3 times within 1m0s and is held down until ") || !strings.HasSuffix(reports[2], "; connection refused") {
			t.Errorf("%q", reports)
		}
	})
}

func TestCheckerSetKeepsWhatItKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(Options{}, func(_ context.Context, c Check, e Endpoint) error {
			if e.RIP == rip(1) && c.HTTP.Path != "/new" {
				return errRefused
			}
			return nil
		})
		c := every(time.Second)
		one, two := subjectOf(80, 1, c), subjectOf(80, 2, c)
		w.Set([]Subject{one, two})
		defer w.start(t)()
		time.Sleep(10 * time.Second)
		diff(t, "reports", told(w.take()), []string{"80 10.0.0.1 down tcp: connection refused"})
		before := w.Subjects()

		// Nothing changed, but where it is in the list.
		w.Set([]Subject{two, one})
		after := w.Subjects()
		diff(t, "the same set", []Judgement{after[1], after[0]}, before)

		// Another pace: as before, and asked soon.
		slower := c
		slower.Interval, slower.Rise, slower.Name = time.Minute, 1, "port"
		one.Checks, one.Alpha = []Check{slower}, true
		w.Set([]Subject{one, two})
		if j := w.Subjects()[0]; j.Up || j.Checks[0].Failures != before[0].Checks[0].Failures || j.Checks[0].Check != "port" || j.Failure == nil || j.Since != before[0].Since {
			t.Errorf("another pace: %+v", j)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if j := w.Subjects()[0]; j.Checks[0].Failures != before[0].Checks[0].Failures+1 {
			t.Errorf("another pace, a second later: %+v", j)
		}

		// Another question: it stays down until that has its answers.
		asks := every(time.Second)
		asks.Kind, asks.HTTP.Path = HTTP, "/new"
		one.Checks = []Check{asks}
		w.Set([]Subject{one, two})
		diff(t, "reports of another question", told(w.take()), []string(nil))
		if j := w.Subjects()[0]; j.Up || j.Checks[0].Runs != 0 || j.Checks[0].Up {
			t.Errorf("another question: %+v", j)
		}
		time.Sleep(3 * time.Second)
		diff(t, "reports of its answers", told(w.take()), []string{"80 10.0.0.1 up http: 2 of http in a row succeeded"})

		// A second one that fails has to do so often enough; without it all is well again.
		one.Checks = []Check{asks, c}
		w.Set([]Subject{one, two})
		diff(t, "reports of a second question", told(w.take()), []string(nil))
		time.Sleep(5 * time.Second)
		diff(t, "reports of its answers", told(w.take()), []string{"80 10.0.0.1 down tcp: connection refused"})
		one.Any = true
		w.Set([]Subject{one, two})
		diff(t, "reports of any", told(w.take()), []string{"80 10.0.0.1 up : of the checks that there are now, enough succeed"})
		one.Any = false
		w.Set([]Subject{one, two})
		diff(t, "reports of all", told(w.take()), []string{"80 10.0.0.1 down tcp: connection refused"})
		one.Checks = nil
		w.Set([]Subject{one, two, one})
		if n := len(w.Subjects()); n != 2 {
			t.Errorf("%d subjects, one was named twice", n)
		}
		diff(t, "reports of none", told(w.take()), []string{"80 10.0.0.1 up : it has no checks any more"})

		// Who comes back is new.
		w.Set([]Subject{two})
		one.Checks, one.Alpha = []Check{c}, false
		w.Set([]Subject{one, two})
		if j := w.Subjects()[0]; !j.Up || j.Known || j.Failure != nil {
			t.Errorf("back: %+v", j)
		}
		if n := w.Load().Checks; n != 2 {
			t.Errorf("%d checks", n)
		}
	})
}

func TestCheckerRemovesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cancelled atomic.Int32
		w := newWorld(Options{}, func(ctx context.Context, _ Check, e Endpoint) error {
			if e.RIP == rip(2) {
				return nil
			}
			<-ctx.Done()
			if errors.Is(ctx.Err(), context.Canceled) {
				cancelled.Add(1)
			}
			return ctx.Err()
		})
		c := every(10 * time.Second)
		c.Fall, c.Jitter = 1, 0
		s, other := subjectOf(80, 1, c), subjectOf(80, 2, c)
		w.Set([]Subject{s, other})
		defer w.start(t)()
		time.Sleep(2 * time.Second)
		if n := w.count(); n != 2 {
			t.Fatalf("asked %d times", n)
		}
		w.Set([]Subject{other})
		synctest.Wait()
		if cancelled.Load() != 1 || w.Load().Running != 0 {
			t.Errorf("%d cancelled, %+v", cancelled.Load(), w.Load())
		}
		if w.Ask(s.Service, s.Server) || !w.Ask(other.Service, other.Server) {
			t.Error("asks who is gone, or not who is there")
		}
		time.Sleep(time.Minute)
		diff(t, "reports", told(w.take()), []string(nil))
		if n := len(slices.DeleteFunc(w.asked(), func(r run) bool { return r.endpoint.RIP != rip(1) })); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// TestCheckerReportsInOrder has reports that take long, and call the checker; a
// server that goes meanwhile is not reported.
func TestCheckerReportsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w *world
		var got []netip.Addr
		c := every(time.Second)
		all := []Subject{subjectOf(80, 1, c), subjectOf(80, 2, c), subjectOf(80, 3, c)}
		w = newWorld(Options{Report: func(r Transition) {
			time.Sleep(20 * time.Second)
			w.Subjects()
			w.Ask(r.Service, r.Server)
			got = append(got, r.Server.Addr)
			if len(got) == 1 { // now all are down
				w.Set(slices.DeleteFunc(slices.Clone(all), func(s Subject) bool { return s.Server.Addr != r.Server.Addr }))
			}
		}}, func(context.Context, Check, Endpoint) error { return errRefused })
		w.Set(all)
		stop := w.start(t)
		time.Sleep(15 * time.Second)
		for _, j := range w.Subjects() {
			if j.Up {
				t.Errorf("%+v: a report held up the checks", j)
			}
		}
		time.Sleep(time.Minute)
		stop()
		if len(got) != 1 {
			t.Errorf("reported of %v", got)
		}
	})
}

func TestCheckerAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var takes atomic.Int64
		w := newWorld(Options{}, func(context.Context, Check, Endpoint) error {
			time.Sleep(time.Duration(takes.Load()))
			return nil
		})
		s := subjectOf(80, 1, every(time.Minute))
		w.Set([]Subject{s})
		if !w.Ask(s.Service, s.Server) {
			t.Error("it does not know the server before it runs")
		}
		defer w.start(t)()
		time.Sleep(5 * time.Second)
		if n := w.count(); n != 1 {
			t.Fatalf("asked %d times", n)
		}
		takes.Store(int64(10 * time.Second))
		w.Ask(s.Service, s.Server)
		if n := w.count(); n != 2 {
			t.Errorf("asked %d times, once because it was told to", n-1)
		}
		time.Sleep(time.Second)
		w.Ask(s.Service, s.Server)
		w.Ask(s.Service, s.Server)
		if n := w.count(); n != 2 {
			t.Errorf("asked %d times while it was asked", n-2)
		}
		time.Sleep(9 * time.Second)
		if n := w.count(); n != 3 {
			t.Errorf("asked %d times after it was asked", n-2)
		}
		time.Sleep(11 * time.Second)
		next := w.Subjects()[0].Checks[0].Next
		if in := time.Until(next); in < 4*time.Second || in > time.Minute+6*time.Second {
			t.Errorf("next in %v", in)
		}
	})
}

func TestCheckerSilentServersDoNotDelayOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each, most = 400, 40
		w := newWorld(Options{MaxAtOnce: most}, func(ctx context.Context, _ Check, e Endpoint) error {
			if e.RIP.Compare(rip(each)) < 0 {
				return untilLate(ctx)
			}
			time.Sleep(5 * time.Millisecond)
			return nil
		})
		var subjects []Subject
		for n := range 2 * each {
			subjects = append(subjects, subjectOf(80, n, every(2*time.Second)))
		}
		w.Set(subjects)
		defer w.start(t)()
		time.Sleep(30 * time.Second) // the silent ones are known by now
		from := time.Now()
		time.Sleep(60 * time.Second)
		synctest.Wait()
		per := map[netip.Addr]int{}
		for _, r := range w.asked() {
			if r.at.After(from) {
				per[r.endpoint.RIP]++
			}
		}
		var well, ill []int
		for n := range 2 * each {
			if n < each {
				ill = append(ill, per[rip(n)])
			} else {
				well = append(well, per[rip(n)])
			}
		}
		if slices.Min(well) < 29 {
			t.Errorf("servers that answer were asked %d to %d times in 30 intervals", slices.Min(well), slices.Max(well))
		}
		// 30 places, a second each, for 400: one every 13 seconds, and each in its turn.
		if slices.Min(ill) < 4 || slices.Max(ill) > 5 {
			t.Errorf("silent servers were asked %d to %d times", slices.Min(ill), slices.Max(ill))
		}
		if got, overlap := w.busy(); got != most || overlap {
			t.Errorf("%d at once, overlap %v", got, overlap)
		}
		if l := w.Load(); l.Late < 10*time.Second || l.Waiting < 300 {
			t.Errorf("load %+v", l)
		}
		if down := len(slices.DeleteFunc(w.Subjects(), func(j Judgement) bool { return j.Up })); down != each {
			t.Errorf("%d are down", down)
		}
	})
}

// TestCheckerStuckProbe has one that ends when it likes.
func TestCheckerStuckProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		w := newWorld(Options{MaxAtOnce: 1}, func(_ context.Context, _ Check, e Endpoint) error {
			if e.RIP == rip(1) {
				<-release
			}
			return nil
		})
		w.Set([]Subject{subjectOf(80, 1, every(2*time.Second)), subjectOf(80, 2, every(2*time.Second))})
		defer w.start(t)()
		time.Sleep(20 * time.Second)
		diff(t, "reports", told(w.take()), []string{"80 10.0.0.1 down tcp: it did not end in its time, and does not end at all"})
		if _, overlap := w.busy(); overlap {
			t.Error("it was begun twice")
		}
		if l := w.Load(); l.Stuck != 1 || l.Running != 1 || w.Subjects()[1].Checks[0].Runs < 8 {
			t.Errorf("%+v", l)
		}
		close(release)
		synctest.Wait()
		if c := w.Subjects()[0].Checks[0]; c.Successes != 0 || c.Running {
			t.Errorf("an answer that came much later: %+v", c)
		}
		time.Sleep(6 * time.Second)
		diff(t, "reports", told(w.take()), []string{"80 10.0.0.1 up tcp: 2 of tcp in a row succeeded"})
		if l := w.Load(); l.Stuck != 0 || l.Running != 0 {
			t.Errorf("%+v", l)
		}
	})
}

// TestCheckerEndsWithoutAProbe that does not.
func TestCheckerEndsWithoutAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		w := newWorld(Options{}, func(context.Context, Check, Endpoint) error {
			<-release
			return nil
		})
		w.Set([]Subject{subjectOf(80, 1, every(2*time.Second))})
		for range 2 { // the second time it hangs already
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			begun := time.Now()
			err := w.Run(ctx)
			cancel()
			if took := time.Since(begun); err == nil || !strings.Contains(err.Error(), "10.0.0.1") || took < 5*time.Second || took > 6*time.Second {
				t.Errorf("%v after %v", err, took)
			}
			if _, overlap := w.busy(); overlap || w.Load().Running != 1 {
				t.Errorf("overlap %v, %+v", overlap, w.Load())
			}
		}
		close(release)
		synctest.Wait()
		if l := w.Load(); l.Running != 0 || l.Stuck != 0 {
			t.Errorf("%+v", l)
		}
		n := w.count()
		defer w.start(t)()
		time.Sleep(5 * time.Second)
		if w.count() < n+2 {
			t.Errorf("asked %d times", w.count()-n)
		}
	})
}

func TestCheckerDoesNotBlameServersForThisHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer atomic.Value
		w := newWorld(Options{}, func(context.Context, Check, Endpoint) error {
			err, _ := answer.Load().(error)
			return err
		})
		w.Set([]Subject{subjectOf(80, 1, every(time.Second))})
		defer w.start(t)()
		time.Sleep(5 * time.Second)
		for _, err := range []error{fmt.Errorf("no such script: %w", ErrNotAsked)} {
			answer.Store(err)
			time.Sleep(10 * time.Second)
			diff(t, "reports", told(w.take()), []string(nil))
			if j := w.Subjects()[0]; !j.Up || j.Checks[0].OK || j.Checks[0].Reason != err.Error() || j.Checks[0].Failures != 0 {
				t.Errorf("%+v", j)
			}
		}
	})
}

// TestCheckerEnds in the midst of probes, of which nothing is concluded, and
// runs again with what it knows.
func TestCheckerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(Options{}, func(ctx context.Context, _ Check, _ Endpoint) error { return untilLate(ctx) })
		c := every(10 * time.Second)
		c.Fall = 1
		w.Set([]Subject{subjectOf(80, 1, c)})
		stop := w.start(t)
		time.Sleep(3 * time.Second)
		if err := w.Run(t.Context()); err == nil {
			t.Error("runs twice")
		}
		stop()
		if j := w.Subjects()[0]; !j.Up || j.Checks[0].Runs != 0 || j.Checks[0].Running || !j.Checks[0].Next.IsZero() {
			t.Errorf("%+v", j)
		}
		w.Ask(web(80), lvs.ServerID{Addr: rip(1), Port: 80})
		time.Sleep(time.Hour)
		if n := w.count(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		stop = w.start(t)
		time.Sleep(7 * time.Second)
		stop()
		if n := len(w.take()); n != 1 {
			t.Errorf("%d reports", n)
		}
	})
}

// TestCheckerMany has 20,000 servers, two seconds apart: none is left out, asked
// twice at a time or too often, and they come evenly.
func TestCheckerMany(t *testing.T) {
	const servers, interval, bin = 20000, 2 * time.Second, 10 * time.Millisecond
	var subjects []Subject
	for n := range servers {
		subjects = append(subjects, subjectOf(80+n%50, n, every(interval)))
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(Options{MaxAtOnce: 4096}, func(context.Context, Check, Endpoint) error {
			time.Sleep(time.Millisecond)
			return nil
		})
		w.Set(subjects)
		begun := time.Now()
		stop := w.start(t)
		const intervals = 5
		time.Sleep(intervals * interval)
		synctest.Wait()
		idle := runtime.NumGoroutine()
		stop()

		per := map[netip.Addr]int{}
		bins := make([]int, intervals*int(interval/bin)+1)
		for _, r := range w.asked() {
			per[r.endpoint.RIP]++
			bins[r.at.Sub(begun)/bin]++
		}
		for n := range servers {
			if got := per[rip(n)]; got < intervals-1 || got > intervals+1 {
				t.Fatalf("server %d was asked %d times", n, got)
			}
		}
		if _, overlap := w.busy(); overlap || w.Load().Late > time.Millisecond {
			t.Errorf("overlap %v, load %+v", overlap, w.Load())
		}
		// Many new ones are spread over the interval; by chance the sum would be about
		// the number of bins, and what jitter moves is less than that.
		for i := range intervals {
			chi, most := 0.0, 0
			mean := float64(servers) / float64(interval/bin)
			of := bins[i*int(interval/bin):][:interval/bin]
			if i == 0 {
				of = of[:len(of)*9/10] // then the first ones come again
			}
			for _, n := range of {
				chi += (float64(n) - mean) * (float64(n) - mean) / mean
				most = max(most, n)
			}
			limit := 1.5 * float64(len(of))
			if i == 0 {
				limit = 0.05 * float64(len(of)) // no jitter yet
			}
			t.Logf("interval %d: chi-square %.0f of %d bins, at most %d in one, %.0f on average", i, chi, len(of), most, mean)
			if chi > limit && i != 1 { // its begin is the seam between those without and those with jitter
				t.Errorf("interval %d: chi-square %.0f of %d bins", i, chi, len(of))
			}
		}
		if idle > 1000 {
			t.Errorf("%d goroutines", idle)
		}
	})
}

// TestCheckerAtOnce has everything called at the same time, for the race
// detector, and ends with a set of which everyone is asked.
func TestCheckerAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(Options{MaxAtOnce: 50}, func(ctx context.Context, _ Check, _ Endpoint) error {
			switch rand.IntN(4) {
			case 0:
				return errRefused
			case 1:
				return untilLate(ctx)
			}
			time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
			return nil
		})
		defer w.start(t)()
		var all sync.WaitGroup
		for seed := range 4 {
			all.Go(func() {
				r := rand.New(rand.NewPCG(uint64(seed), 1))
				for range 100 {
					time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
					var subjects []Subject
					for n := range 100 {
						if r.IntN(3) > 0 {
							c := every(time.Duration(1+r.IntN(2)) * 500 * time.Millisecond)
							c.ToRIP, c.Port = r.IntN(2) == 0, 80
							subjects = append(subjects, subjectOf(80+n%3, n/3, c))
						}
					}
					w.Set(subjects)
					w.Subjects()
					w.Load()
					w.Ask(web(80), lvs.ServerID{Addr: rip(r.IntN(30)), Port: 80})
				}
			})
		}
		all.Wait()
		var subjects []Subject
		for n := range 90 {
			subjects = append(subjects, subjectOf(80+n%3, n/3, every(time.Second)))
		}
		w.Set(subjects)
		time.Sleep(10 * time.Second)
		for _, j := range w.Subjects() {
			if !j.Known || j.Checks[0].Runs < 5 {
				t.Errorf("%+v", j)
			}
		}
		if most, _ := w.busy(); most > 50 {
			t.Errorf("%d at once", most)
		}
		w.Set(nil)
		time.Sleep(50 * time.Millisecond) // some do not look at their context
		synctest.Wait()
		if l := w.Load(); l.Running != 0 || l.Checks != 0 || l.Stuck != 0 || l.Waiting != 0 || w.schedule.slowRunning != 0 {
			t.Errorf("%+v, %d slow", l, w.schedule.slowRunning)
		}
	})
}

func BenchmarkSet(b *testing.B) {
	for _, changed := range []int{-1, 0, 100} { // -1: the same slices
		b.Run(fmt.Sprintf("%d changed", changed), func(b *testing.B) {
			make := func(interval time.Duration) []Subject {
				var all []Subject
				for n := range 20000 {
					c := every(2 * time.Second)
					c.HTTP.Headers = []Header{{"Accept", "text/plain"}}
					if n < changed {
						c.Interval = interval
					}
					all = append(all, subjectOf(80+n%50, n, c))
				}
				return all
			}
			one, two := make(2*time.Second), make(3*time.Second)
			if changed < 0 {
				two = one
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			c := NewChecker(Options{})
			c.Set(one)
			runtime.GC()
			runtime.ReadMemStats(&after)
			n := 0
			for b.Loop() {
				if n++; n%2 == 0 {
					c.Set(one)
				} else {
					c.Set(two)
				}
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/20000, "B/subject")
		})
	}
}
