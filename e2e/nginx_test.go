// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// nginx is a running web server. At / it answers with its node's name and a
// line end. Files put in its www directory are at /files/. At /upload it takes
// what is POSTed, keeps it, and answers with the file's name.
type nginx struct {
	dir string
	cmd *lab.Cmd
}

const nginxConfig = `daemon off;
user root;
worker_processes 1;
pid DIR/pid;
error_log DIR/error.log;
events { worker_connections 2048; }
http {
	access_log off;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	client_max_body_size 100m;
	client_header_timeout 30s;
	keepalive_requests 1000000;
	default_type application/octet-stream;
	server {
		LISTEN
		add_header X-Real-Server NAME always;
		location = / { default_type text/plain; return 200 "NAME\n"; }
		location /files/ { alias DIR/www/; }
		location = /upload {
			client_body_in_file_only on;
			proxy_pass_request_body off;
			proxy_set_header Content-Length "";
			proxy_set_header X-Body-File $request_body_file;
			proxy_pass http://unix:DIR/kept.sock:/;
		}
	}
	server {
		listen unix:DIR/kept.sock;
		location / { return 200 "$http_x_body_file"; }
	}
}
`

// startNginx starts nginx in a node, listening on these ports of all addresses,
// and waits until it answers.
func startNginx(t testing.TB, n *lab.Node, ports ...int) *nginx {
	t.Helper()
	listen := ""
	for _, p := range ports {
		listen += fmt.Sprintf("listen 0.0.0.0:%[1]d backlog=4096; listen [::]:%[1]d backlog=4096; ", p)
	}
	dir, err := os.MkdirTemp("", "e2e-nginx-") // t.TempDir's paths are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := strings.NewReplacer("DIR", dir, "NAME", n.Name(), "LISTEN", listen).Replace(nginxConfig)
	err = errors.Join(os.Mkdir(filepath.Join(dir, "www"), 0o755), os.WriteFile(filepath.Join(dir, "conf"), []byte(config), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	s := &nginx{dir, n.Command(context.WithoutCancel(t.Context()), "nginx", "-e", filepath.Join(dir, "error.log"), "-c", filepath.Join(dir, "conf"))}
	var said bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &said, &said
	if err := s.cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			t.Fatal("nginx is not installed: apt-get install nginx-light")
		}
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { s.cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		s.cmd.Process.Signal(os.Interrupt) // nginx leaves at once
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Errorf("nginx of %s does not end", n.Name())
			s.cmd.Process.Kill()
		}
	})
	for _, p := range ports {
		eventually(t, "nginx of "+n.Name(), func() bool {
			select {
			case <-ended:
				log, _ := os.ReadFile(filepath.Join(dir, "error.log"))
				t.Fatalf("nginx of %s ended: %s%s", n.Name(), said.String(), log)
			default:
			}
			conn, err := n.Dial(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	return s
}

// put makes a file of that size for /files/ on all servers, the same on all,
// and returns its content. It is random, so that a piece which is missing, twice
// or in the wrong place is noticed.
func put(t testing.TB, servers []*nginx, name string, size int) []byte {
	t.Helper()
	b := random(size)
	for _, s := range servers {
		if err := os.WriteFile(filepath.Join(s.dir, "www", name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func random(size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte([]byte("the same bytes in each run of it")))
	r.Read(b)
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// kept returns what was POSTed and kept as this file, by whichever server.
func kept(t testing.TB, servers []*nginx, path string) []byte {
	t.Helper()
	for _, s := range servers {
		if strings.HasPrefix(path, s.dir) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	t.Fatalf("%q is the file of no server", path)
	return nil
}

const slowest = "20" // seconds that a request may take before it counts as failed

// curl runs curl in the client; it has to succeed, and each answer to be 200.
func (c *cluster) curl(args ...string) string {
	c.t.Helper()
	return c.run(c.Client, "curl", append([]string{"-sS", "-f", "--max-time", slowest}, args...)...).want(c.t, 0).stdout
}

// url is a page of the reference web service.
func url(path string) string { return "http://" + lab.VIP().String() + path }

// get makes n requests one after the other, each on a connection of its own, and
// returns how many each real server answered. All have to be answered with 200.
func (c *cluster) get(n int) map[string]int {
	c.t.Helper()
	return c.getFrom(url("/"), n)
}

func (c *cluster) getFrom(url string, n int) map[string]int {
	c.t.Helper()
	out := c.curl("-H", "Connection: close", fmt.Sprintf("%s?[1-%d]", url, n))
	answered, total := map[string]int{}, 0
	for name := range strings.FieldsSeq(out) {
		answered[name]++
		total++
	}
	if total != n {
		c.t.Fatalf("%d answers to %d requests: %v", total, n, answered)
	}
	return answered
}

// tally is how a number of requests fared.
type tally struct {
	answered map[string]int // by the real server's name
	failed   []string       // what curl said of each
}

func (t tally) total() int {
	n := len(t.failed)
	for _, a := range t.answered {
		n += a
	}
	return n
}

// parallel makes n requests, 16 at a time, each on a connection of its own.
func (c *cluster) parallel(ctx context.Context, n int) (tally, error) {
	return c.parallelTo(ctx, url("/"), n)
}

func (c *cluster) parallelTo(ctx context.Context, url string, n int) (t tally, err error) {
	cmd := c.Client.Command(ctx, "curl", "-sS", "--max-time", slowest, "--parallel", "--parallel-immediate", "--parallel-max", "16",
		"-H", "Connection: close", "-o", "/dev/null", "-w", `%{http_code} %header{x-real-server} %{errormsg}\n`, fmt.Sprintf("%s?[1-%d]", url, n))
	out, err := cmd.Output()
	var ended *exec.ExitError
	if err != nil && (ctx.Err() != nil || !errors.As(err, &ended)) {
		return t, err
	}
	t.answered = map[string]int{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "200" {
			t.failed = append(t.failed, strings.TrimSpace(line))
			continue
		}
		t.answered[f[1]]++
	}
	if t.total() != n {
		return t, fmt.Errorf("curl reported %d of %d requests: %w", t.total(), n, err)
	}
	return t, nil
}

// load makes requests all the time, in batches, until it is stopped.
type load struct {
	t      testing.TB
	cancel context.CancelFunc
	done   sync.WaitGroup
	enough atomic.Bool

	mu      sync.Mutex
	changed chan struct{} // closed and replaced with each batch
	started int           // batches
	batches []tally
	err     error
}

const batch = 160 // requests

func (c *cluster) load() *load {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	l := &load{t: c.t, cancel: cancel, changed: make(chan struct{})}
	l.done.Go(func() {
		for ctx.Err() == nil && !l.enough.Load() {
			l.mu.Lock()
			l.started++
			l.mu.Unlock()
			b, err := c.parallel(ctx, batch)
			l.mu.Lock()
			if ctx.Err() == nil {
				l.batches, l.err = append(l.batches, b), err
			}
			close(l.changed)
			l.changed = make(chan struct{})
			l.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	c.t.Cleanup(func() { l.stop() })
	return l
}

// next waits for a batch that begins after the call, and returns how it fared.
func (l *load) next() tally {
	l.t.Helper()
	late := time.After(commandLimit)
	l.mu.Lock()
	want := l.started // the index of the first that is not begun
	for len(l.batches) <= want && l.err == nil {
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-late:
			l.t.Fatalf("the load makes no progress: %d batches, waiting for number %d", len(l.batches), want)
		}
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	if l.err != nil {
		l.t.Fatal(l.err)
	}
	return l.batches[want]
}

// finish ends the load after the present batch and returns how all fared.
func (l *load) finish() tally {
	l.enough.Store(true)
	l.done.Wait()
	return l.stop()
}

// stop ends the load at once and returns how all complete batches fared.
func (l *load) stop() (all tally) {
	l.cancel()
	l.done.Wait()
	all.answered = map[string]int{}
	for _, b := range l.batches {
		all.failed = append(all.failed, b.failed...)
		for name, n := range b.answered {
			all.answered[name] += n
		}
	}
	return all
}

// download is a curl whose output is read only as the test wants: the rest waits
// in the servers, so that the connection lives as long as the test needs it.
type download struct {
	t    testing.TB
	cmd  *lab.Cmd
	out  *os.File
	diag bytes.Buffer
	from string // the client's end of the connection
	got  []byte
}

// longFile is so long that it does not fit into the buffers on its way.
const longFile = 48 << 20

// download begins to download a path.
func (c *cluster) download(path string) *download {
	c.t.Helper()
	c.downloads++
	port := 20000 + c.downloads // below those that the kernel gives
	r, w, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	d := &download{t: c.t, out: r, from: fmt.Sprintf("%v:%d", c.Client.Addr(), port)}
	d.cmd = c.Client.Command(context.WithoutCancel(c.t.Context()), "curl", "-sS", "-f", "--max-time", "120", "-N", "--local-port", strconv.Itoa(port), url(path))
	d.cmd.Stdout, d.cmd.Stderr = w, &d.diag
	if err := d.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	w.Close()
	c.t.Cleanup(d.abandon)
	return d
}

// downloadFrom begins to download a path from that real server.
func (c *cluster) downloadFrom(path, server string) *download {
	c.t.Helper()
	for range 20 {
		d := c.download(path)
		d.read(1 << 20)
		if c.servedBy(d) == server {
			return d
		}
		d.abandon()
	}
	c.t.Fatalf("%s got none of 20 connections", server)
	return nil
}

// servedBy tells which real server a download comes from, as ipvsadm lists it.
func (c *cluster) servedBy(d *download) string {
	c.t.Helper()
	for _, conn := range c.connections() {
		f := strings.Fields(conn)
		for _, rs := range c.RealServers {
			if f[1] == d.from && f[3] == rs.Addr().String()+":80" {
				return rs.Name()
			}
		}
	}
	c.t.Fatalf("the connection from %s is not listed", d.from)
	return ""
}

// abandon ends it.
func (d *download) abandon() {
	d.out.Close()
	if d.cmd.ProcessState == nil {
		d.cmd.Process.Kill()
		d.cmd.Wait()
	}
}

// read reads n bytes more.
func (d *download) read(n int) {
	d.t.Helper()
	d.out.SetReadDeadline(time.Now().Add(commandLimit))
	b := make([]byte, n)
	for got := 0; got < n; {
		m, err := d.out.Read(b[got:])
		d.got = append(d.got, b[got:got+m]...)
		got += m
		if err != nil {
			d.t.Fatalf("the download ended after %d bytes: %v %s", len(d.got), err, d.diag.String())
		}
	}
}

// finish reads the rest and checks that all is as it should be.
func (d *download) finish(want []byte) {
	d.t.Helper()
	d.read(len(want) - len(d.got))
	if n, err := d.out.Read(make([]byte, 1)); n != 0 {
		d.t.Errorf("the download is too long (%v)", err)
	}
	if err := d.cmd.Wait(); err != nil {
		d.t.Errorf("curl: %v: %s", err, d.diag.String())
	}
	if !bytes.Equal(d.got, want) {
		d.t.Errorf("%d bytes came, with sum %s; want %d with %s", len(d.got), sum(d.got), len(want), sum(want))
	}
}
