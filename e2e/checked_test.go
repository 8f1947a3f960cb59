// SPDX-License-Identifier: MIT

package e2e

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// checked are clients of each kind, at work all the time until finish. Each looks
// at every byte that it gets: short requests and downloads from nginx, connections
// that last and on which both sides talk, and datagrams. Nothing of it is tried
// twice, so whatever does not work is a failure.
type checked struct {
	c          *cluster
	web, talks []string // addresses
	page, file []byte
	quit       chan struct{}
	working    sync.WaitGroup
	ports      atomic.Int64
	lasting    []*conversation // open from the beginning to the end

	mu       sync.Mutex
	failed   []string
	done     map[string]int           // by kind: what worked
	longest  map[string]time.Duration // by kind
	opened   map[string]int           // connections, by service as ipvsadm lists it
	answered map[string]int           // requests, by real server
}

// The ports that real servers talk at, over TCP, and the one for datagrams. What
// comes is what goes back; who is asked says its name first.
const (
	talkPort       = 7
	persistentPort = 9
	datagramPort   = 53
)

// everyKind sets up services of each kind: TCP over IPv4, persistent, over IPv6,
// and UDP; with nginx and servers that talk behind them. nginx listens on further
// ports, too.
func (c *cluster) everyKind(ports ...int) (pages []*nginx) {
	c.t.Helper()
	vip6 := lab.VIP6().String()
	for _, rs := range c.RealServers {
		pages = append(pages, startNginx(c.t, rs, append([]int{80, 81}, ports...)...))
		c.shunt(rs, "realserver", "start", "--vip", lab.VIP().String(), "--vip", vip6).want(c.t, 0)
		c.talks(rs, talkPort)
		c.talks(rs, persistentPort)
		c.answersDatagrams(rs)
	}
	c.start("--vip", vip6)
	for _, line := range c.everyService() {
		c.rules(line)
	}
	return pages
}

// everyService are the rules of everyKind.
func (c *cluster) everyService() (lines []string) {
	vip6 := "[" + lab.VIP6().String() + "]"
	for _, s := range []string{"-t VIP:80 -s wlc", "-t VIP:81 -s rr -p 300", "-t " + vip6 + ":80 -s rr",
		"-t VIP:7 -s wlc", "-t VIP:9 -s rr -p 300", "-t " + vip6 + ":7 -s lc", "-u VIP:53 -s rr"} {
		lines = append(lines, c.spell("-A "+s))
		at := strings.Fields(s)[:2]
		port := at[1][strings.LastIndex(at[1], ":"):]
		for _, rs := range c.RealServers {
			rip := rs.Addr().String()
			if strings.HasPrefix(at[1], "[") {
				rip = "[" + rs.Addr6().String() + "]"
			}
			lines = append(lines, c.spell(fmt.Sprintf("-a %s %s -r %s%s -g -w 1", at[0], at[1], rip, port)))
		}
	}
	return lines
}

// talks has a machine say its name to who connects to a port, and then what it is
// told.
func (c *cluster) talks(n *lab.Node, port int) {
	c.t.Helper()
	l, err := n.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fmt.Fprintln(conn, n.Name())
				io.Copy(conn, conn)
			}()
		}
	}()
}

// answersDatagrams has a machine answer each datagram with its name, a space and
// what it said.
func (c *cluster) answersDatagrams(n *lab.Node) {
	c.t.Helper()
	s, err := n.ListenPacket("udp", fmt.Sprintf("%v:%d", lab.VIP(), datagramPort))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { s.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			size, from, err := s.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				s.WriteTo(append([]byte(n.Name()+" "), b[:size]...), from)
			}
		}
	}()
}

// check lets the clients begin. All is moderate: several clusters are at work at
// the same time. Requests go to further ports of the VIP, too.
func (c *cluster) check(pages []*nginx, ports ...int) *checked {
	c.t.Helper()
	v4, v6 := lab.VIP().String(), lab.VIP6().String()
	l := &checked{
		c: c, quit: make(chan struct{}),
		web:   []string{address(v4, 80), address(v4, 81), address(v6, 80)},
		talks: []string{address(v4, talkPort), address(v4, persistentPort), address(v6, talkPort)},
		page:  put(c.t, pages, "page", 9001), file: put(c.t, pages, "file", 3<<20),
		done: map[string]int{}, longest: map[string]time.Duration{}, opened: map[string]int{}, answered: map[string]int{},
	}
	for _, p := range ports {
		l.web = append(l.web, address(v4, p))
	}
	for i := range 18 {
		w := l.talk(l.talks[i%len(l.talks)])
		if w == nil {
			c.t.Fatalf("clients: %q", l.failed)
		}
		l.lasting = append(l.lasting, w)
		l.working.Go(func() {
			for l.pause(100*time.Millisecond) && l.exchange(w) {
			}
			l.end(w)
		})
	}
	for range 3 {
		l.always(25*time.Millisecond, func() { l.request(l.one(l.web)) })
		l.always(50*time.Millisecond, l.short)
		l.always(50*time.Millisecond, l.ask)
	}
	for _, to := range l.web[:3] {
		l.always(100*time.Millisecond, func() { l.download(to) })
	}
	c.t.Cleanup(l.stop)
	l.goOn("at first")
	return l
}

func address(ip string, port int) string { return net.JoinHostPort(ip, fmt.Sprint(port)) }

// always does something again and again.
func (l *checked) always(every time.Duration, do func()) {
	l.working.Go(func() {
		for l.pause(every) {
			do()
		}
	})
}

// pause waits about that long; false: it is over.
func (l *checked) pause(about time.Duration) bool {
	select {
	case <-l.quit:
		return false
	case <-time.After(about/2 + rand.N(about)):
		return true
	}
}

func (l *checked) one(of []string) string { return of[rand.IntN(len(of))] }

// worked notes that something of that kind is done, or why not.
func (l *checked) worked(kind string, began time.Time, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed = append(l.failed, fmt.Sprintf("%s: %s, after %v: %v", time.Now().Format("05.000"), kind, time.Since(began).Round(time.Millisecond), err))
		return false
	}
	l.done[kind]++
	l.longest[kind] = max(l.longest[kind], time.Since(began))
	return true
}

// dial opens a connection to a service, and counts it. Each has a port of its own:
// in a persistent service one that is used again is the old connection.
func (l *checked) dial(network, to string) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: commandLimit}
	if port := 1024 + int(l.ports.Add(1)); network == "tcp" {
		d.LocalAddr = &net.TCPAddr{Port: port}
	} else {
		d.LocalAddr = &net.UDPAddr{Port: port}
	}
	err = l.c.Client.Do(func() (err error) { conn, err = d.Dial(network, to); return err })
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.opened[strings.ToUpper(network)+" "+to]++
	l.mu.Unlock()
	return conn, conn.SetDeadline(time.Now().Add(commandLimit))
}

// get asks nginx for a file and looks at all of the answer, up to its end.
func (l *checked) get(to, path string, want []byte, read func(net.Conn) io.Reader) error {
	conn, err := l.dial("tcp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET /files/%s HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n\r\n", path); err != nil {
		return err
	}
	in := bufio.NewReader(read(conn))
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		return fmt.Errorf("%v: %w", conn.LocalAddr(), err)
	}
	got, err := io.ReadAll(r.Body)
	if err == nil {
		_, err = in.ReadByte()
	}
	server := r.Header.Get("X-Real-Server")
	if r.StatusCode != http.StatusOK || err != io.EOF || !bytes.Equal(got, want) {
		return fmt.Errorf("%v, of %s: %s, %d bytes with sum %s, then %v; want %d with %s", conn.LocalAddr(), server, r.Status, len(got), sum(got), err, len(want), sum(want))
	}
	l.mu.Lock()
	l.answered[server]++
	l.mu.Unlock()
	return nil
}

func (l *checked) request(to string) {
	began := time.Now()
	l.worked("request", began, l.get(to, "page", l.page, func(c net.Conn) io.Reader { return c }))
}

// download reads so slowly, and takes so little in advance, that it lasts some
// seconds, with the client's acknowledgements all the time.
func (l *checked) download(to string) {
	began := time.Now()
	l.worked("download", began, l.get(to, "file", l.file, func(c net.Conn) io.Reader {
		c.(*net.TCPConn).SetReadBuffer(64 << 10)
		return &slow{c, l}
	}))
}

type slow struct {
	net.Conn
	l *checked
}

func (s *slow) Read(b []byte) (int, error) {
	s.l.pause(60 * time.Millisecond)
	s.SetDeadline(time.Now().Add(commandLimit))
	n, err := io.ReadAtLeast(s.Conn, b[:min(len(b), 48<<10)], 1)
	return n, err
}

// conversation is a connection on which both sides talk.
type conversation struct {
	net.Conn
	to, server string
	in         *bufio.Reader
	said       *rand.ChaCha8
	exchanges  atomic.Int64
}

var talkSeed atomic.Uint64

// talk begins a conversation.
func (l *checked) talk(to string) *conversation {
	began := time.Now()
	conn, err := l.dial("tcp", to)
	w := &conversation{Conn: conn, to: to}
	if err == nil {
		w.in = bufio.NewReader(conn)
		w.server, err = w.in.ReadString('\n')
	}
	if !l.worked("connect", began, err) {
		return nil
	}
	var seed [32]byte // other bytes on each
	binary.NativeEndian.PutUint64(seed[:], talkSeed.Add(1))
	w.said = rand.NewChaCha8(seed)
	return w
}

// exchange says something; the same has to come back.
func (l *checked) exchange(w *conversation) bool {
	began := time.Now()
	out := make([]byte, 1+rand.IntN(8<<10))
	w.said.Read(out)
	w.SetDeadline(began.Add(commandLimit))
	_, err := w.Write(out)
	got := make([]byte, len(out))
	if err == nil {
		_, err = io.ReadFull(w.in, got)
	}
	if err == nil && !bytes.Equal(got, out) {
		err = errors.New("other bytes came back")
	}
	if err != nil {
		err = fmt.Errorf("%v to %s at %s: %w", w.LocalAddr(), w.to, strings.TrimSpace(w.server), err)
	}
	w.exchanges.Add(1)
	return l.worked("exchange", began, err)
}

// end closes a connection; the other side has to, too.
func (l *checked) end(w *conversation) {
	began := time.Now()
	defer w.Close()
	w.SetDeadline(began.Add(commandLimit))
	err := w.Conn.(*net.TCPConn).CloseWrite()
	if err == nil {
		if _, err = w.in.ReadByte(); err == io.EOF {
			err = nil
		} else {
			err = fmt.Errorf("%v to %s: at its end %v", w.LocalAddr(), w.to, err)
		}
	}
	l.worked("end", began, err)
}

// short is a talk of a few seconds.
func (l *checked) short() {
	w := l.talk(l.one(l.talks))
	if w == nil {
		return
	}
	for range rand.IntN(20) {
		if !l.pause(50*time.Millisecond) || !l.exchange(w) {
			break
		}
	}
	l.end(w)
}

// ask asks some times from one port. One real server has to answer all.
func (l *checked) ask() {
	began, to := time.Now(), address(lab.VIP().String(), datagramPort)
	conn, err := l.dial("udp", to)
	if err != nil {
		l.worked("datagram", began, err)
		return
	}
	defer conn.Close()
	server := ""
	for n := range 1 + rand.IntN(40) {
		began = time.Now()
		conn.SetDeadline(began.Add(commandLimit))
		out, in := random(1+rand.IntN(1000)), make([]byte, 1500)
		_, err := conn.Write(out)
		size := 0
		if err == nil {
			size, err = conn.Read(in)
		}
		name, said, _ := bytes.Cut(in[:size], []byte(" "))
		switch {
		case err != nil:
		case !bytes.Equal(said, out):
			err = fmt.Errorf("%s answers other bytes", name)
		case server != "" && string(name) != server:
			err = fmt.Errorf("%s answers after %s", name, server)
		}
		if err != nil {
			err = fmt.Errorf("the %d. from %v: %w", n+1, conn.LocalAddr(), err)
		}
		server = string(name)
		if !l.worked("datagram", began, err) || !l.pause(50*time.Millisecond) {
			return
		}
	}
}

// goOn waits until clients of each kind have got somewhere.
func (l *checked) goOn(when string) {
	l.c.t.Helper()
	exchanges := make([]int64, len(l.lasting))
	for i, w := range l.lasting {
		exchanges[i] = w.exchanges.Load()
	}
	l.mu.Lock()
	before := maps.Clone(l.done)
	l.mu.Unlock()
	eventually(l.c.t, "progress of each client "+when, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.failed) > 0 {
			l.c.t.Fatalf("%s: %d failures, the first: %s; %v", when, len(l.failed), l.failed[0], lost(l.c))
		}
		for i, w := range l.lasting {
			if w.exchanges.Load() < exchanges[i]+2 {
				return false
			}
		}
		return l.done["request"] >= before["request"]+10 && l.done["datagram"] >= before["datagram"]+10 && l.done["connect"] > before["connect"]
	})
}

// stop lets all come to their end.
func (l *checked) stop() {
	select {
	case <-l.quit:
	default:
		close(l.quit)
	}
	l.working.Wait()
}

// finish lets all come to their end and tells how they fared. Then all
// connections expire, and none may be counted any more.
func (l *checked) finish() {
	l.c.t.Helper()
	l.stop()
	l.c.t.Logf("done %v, longest %v, answered by %v", l.done, l.longest, l.answered)
	if len(l.failed) > 0 {
		l.c.t.Errorf("%d failures, the first:\n%s", len(l.failed), strings.Join(l.failed[:min(len(l.failed), 5)], "\n"))
	}
	for _, rs := range l.c.RealServers {
		if l.answered[rs.Name()] == 0 {
			l.c.t.Errorf("%s answered no request", rs.Name())
		}
	}
	l.c.settleAll()
}

// counted compares the director's counters of connections with those of the clients.
func (l *checked) counted() {
	l.c.t.Helper()
	stats := l.c.table("--stats")
	for service, n := range l.opened {
		if got := stats[service][""]; len(got) == 0 || got[0] != uint64(n) {
			l.c.t.Errorf("%s: %d connections were opened; ipvsadm counts %v", service, n, got)
		}
	}
}

// only says which packets were not simply forwarded, and complains if some of them
// are not of these kinds.
func (l *checked) only(allowed ...string) {
	l.c.t.Helper()
	for _, v := range lost(l.c) {
		if name, _, _ := strings.Cut(v, ":"); !slices.Contains(allowed, name) {
			l.c.t.Errorf("packets were not forwarded: %s", v)
		} else {
			l.c.t.Log(v)
		}
	}
}

// settleAll is settle where there are templates: one that runs out while it has
// connections gets another minute.
func (c *cluster) settleAll() {
	c.t.Helper()
	eventually(c.t, "ActiveConn and InActConn to be 0, and no templates", func() bool {
		c.shunt(c.Director, "debug", "advance-clock", "1000s").want(c.t, 0)
		return c.idle()
	})
}
