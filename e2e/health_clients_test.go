// SPDX-License-Identifier: MIT

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// asking are clients of one web service: a request begins every askEvery, on a
// connection of its own, whatever became of those before.
type asking struct {
	c    *cluster
	to   string
	quit chan struct{}
	all  sync.WaitGroup

	mu    sync.Mutex
	asked []asked
	fails []span // in which requests may fail
	outs  []span // in which the broken server may get no new ones
}

const (
	askEvery = 150 * time.Millisecond
	askLimit = 15 * time.Second // for one request
)

// asked is a request that came to its end.
type asked struct {
	began, ended time.Time
	server       string // that answered
	err          error
}

// span is a time; a zero end is open.
type span struct{ from, to time.Time }

func (s span) meets(began, ended time.Time) bool {
	return !ended.Before(s.from) && (s.to.IsZero() || !began.After(s.to))
}

// ask begins to ask a port of the VIP.
func (c *cluster) ask(port int) *asking {
	a := &asking{c: c, to: address(lab.VIP().String(), port), quit: make(chan struct{})}
	a.all.Go(func() {
		tick := time.NewTicker(askEvery)
		defer tick.Stop()
		for {
			select {
			case <-a.quit:
				return
			case <-tick.C:
				a.all.Go(a.one)
			}
		}
	})
	c.t.Cleanup(a.stop)
	return a
}

func (a *asking) stop() {
	select {
	case <-a.quit:
	default:
		close(a.quit)
	}
	a.all.Wait()
}

func (a *asking) one() {
	r := asked{began: time.Now()}
	r.server, r.err = a.request(r.began.Add(askLimit))
	r.ended = time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, r)
}

func (a *asking) request(until time.Time) (server string, err error) {
	d := net.Dialer{Deadline: until}
	var conn net.Conn
	if err := a.c.Client.Do(func() (err error) { conn, err = d.Dial("tcp", a.to); return err }); err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(until)
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(answer.Body)
	server = strings.TrimSpace(string(body))
	if err == nil && (answer.StatusCode != http.StatusOK || server != answer.Header.Get("X-Real-Server")) {
		err = fmt.Errorf("%s: %q", answer.Status, body)
	}
	return server, err
}

// mayFail begins a time in which requests may fail, until the function is called
// that it returns: also those that were under way when it began.
func (a *asking) mayFail() (end func()) { return a.during(&a.fails) }

// mayNotReach likewise begins a time in which the broken server gets no new
// requests.
func (a *asking) mayNotReach() (end func()) { return a.during(&a.outs) }

func (a *asking) during(all *[]span) (end func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := len(*all)
	*all = append(*all, span{from: time.Now()})
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		(*all)[i].to = time.Now()
	}
}

// goOn waits until some requests that began after the call are answered; one of
// them by this server, if it has a name.
func (a *asking) goOn(when, server string) {
	a.c.t.Helper()
	from := time.Now()
	eventually(a.c.t, "progress of the clients "+when, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		answered, by := 0, server == ""
		for _, r := range a.asked {
			if r.err == nil && r.began.After(from) {
				answered++
				by = by || r.server == server
			}
		}
		return answered > 8 && by
	})
}

// judge waits until the last request has come to its end, and tells of those that
// failed or were answered by a server that was out. If the broken server served
// all the time, none may have failed.
func (a *asking) judge(broken string, serves bool) {
	a.c.t.Helper()
	a.stop()
	failed, longest := 0, time.Duration(0)
	for _, r := range a.asked {
		longest = max(longest, r.ended.Sub(r.began))
		allowed := false
		for _, s := range a.fails {
			allowed = allowed || !serves && s.meets(r.began, r.ended)
		}
		if r.err != nil {
			failed++
			if !allowed {
				a.c.t.Errorf("a request from %s to %s failed: %v", r.began.Format(clock), r.ended.Format(clock), r.err)
			}
		}
		for _, s := range a.outs {
			if r.err == nil && r.server == broken && r.began.After(s.from) && r.began.Before(s.to) {
				a.c.t.Errorf("a request from %s to %s was answered by the server that was out", r.began.Format(clock), r.ended.Format(clock))
			}
		}
	}
	a.c.t.Logf("%d requests, %d of them failed, all when the server broke; the longest took %v", len(a.asked), failed, longest.Round(time.Millisecond))
}

const clock = "15:04:05.000"
