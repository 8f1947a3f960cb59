// SPDX-License-Identifier: MIT

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crypto "crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// nginx is a web server. At / it answers with its node's name and a line end.
// Files put in its www directory are at /files/. At /upload it takes what is
// POSTed, keeps it, and answers with the file's name.
type nginx struct {
	node  *lab.Node
	dir   string
	cmd   *lab.Cmd
	said  *bytes.Buffer
	ended chan struct{} // closed when cmd has ended; nil: there is none
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
		location = /healthz { alias DIR/www/healthz; }
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
	s := newNginx(t, n)
	s.configure(t, listen)
	s.start(t, "127.0.0.1", ports...)
	return s
}

// newNginx is one that has no configuration yet and does not run. It ends with the
// test.
func newNginx(t testing.TB, n *lab.Node) *nginx {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-nginx-") // t.TempDir's paths are too long for sockets
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "www"), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &nginx{node: n, dir: dir}
	t.Cleanup(func() { s.stop(t); os.RemoveAll(dir) })
	return s
}

// configure writes the configuration; listen are lines of its server. DIR and NAME
// stand for nginx's directory and the node's name.
func (s *nginx) configure(t testing.TB, listen string) {
	t.Helper()
	text := strings.Replace(nginxConfig, "LISTEN", listen, 1)
	text = strings.NewReplacer("DIR", s.dir, "NAME", s.node.Name()).Replace(text)
	if err := os.WriteFile(filepath.Join(s.dir, "conf"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// start starts it, and waits until it takes connections to these ports of an
// address.
func (s *nginx) start(t testing.TB, addr string, ports ...int) {
	t.Helper()
	s.cmd = s.node.Command(context.WithoutCancel(t.Context()), "nginx", "-e", filepath.Join(s.dir, "error.log"), "-c", filepath.Join(s.dir, "conf"))
	s.said = new(bytes.Buffer)
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	if err := s.cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			t.Fatal("nginx is not installed: apt-get install nginx-light")
		}
		t.Fatal(err)
	}
	cmd, ended := s.cmd, make(chan struct{})
	s.ended = ended
	go func() { cmd.Wait(); close(ended) }()
	for _, p := range ports {
		eventually(t, "nginx of "+s.node.Name(), func() bool {
			select {
			case <-ended:
				log, _ := os.ReadFile(filepath.Join(s.dir, "error.log"))
				t.Fatalf("nginx of %s ended: %s%s", s.node.Name(), s.said.String(), log)
			default:
			}
			conn, err := s.node.Dial(t.Context(), "tcp", net.JoinHostPort(addr, strconv.Itoa(p)))
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
}

// stop ends it, if it runs.
func (s *nginx) stop(t testing.TB) {
	t.Helper()
	if s.ended == nil {
		return
	}
	s.signal(syscall.SIGCONT)          // a test may have stopped it
	s.cmd.Process.Signal(os.Interrupt) // nginx leaves at once
	select {
	case <-s.ended:
	case <-time.After(commandLimit):
		t.Errorf("nginx of %s does not end", s.node.Name())
		s.signal(syscall.SIGKILL)
	}
	s.ended = nil
}

// signal sends a signal to all its processes.
func (s *nginx) signal(what syscall.Signal) {
	select {
	case <-s.ended:
	default:
		syscall.Kill(-s.cmd.Process.Pid, what)
	}
}

// securePort is where the servers of listen speak TLS.
const securePort = 443

// listen starts it, listening on these ports of one address (empty: of all), and
// with TLS (and HTTP/2), for which certify has to have been called, on securePort. All drips
// while there is a file named slow.
func (s *nginx) listen(t testing.TB, addr string, ports ...int) {
	t.Helper()
	text, where, reached := "", []string{addr}, addr
	if addr == "" {
		where, reached = []string{"0.0.0.0", "[::]"}, "127.0.0.1"
	}
	for _, a := range where {
		text += fmt.Sprintf("listen %s:%d ssl http2; ", a, securePort)
		for _, p := range ports {
			text += fmt.Sprintf("listen %s:%d backlog=4096; ", a, p)
		}
	}
	s.configure(t, text+"ssl_certificate DIR/certificate; ssl_certificate_key DIR/certificate; if (-f DIR/slow) { set $limit_rate 1k; }")
	s.start(t, reached, ports...)
}

// certify gives it a certificate that is valid until then.
func (s *nginx) certify(t testing.TB, until time.Time) {
	t.Helper()
	s.write(t, "certificate", certificate(t, until))
	if s.ended == nil {
		return
	}
	s.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "the new certificate", func() bool {
		conn, err := s.node.Dial(t.Context(), "tcp", address("127.0.0.1", securePort))
		if err != nil {
			return false
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(commandLimit))
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		return c.Handshake() == nil && c.ConnectionState().PeerCertificates[0].NotAfter.Equal(until.Truncate(time.Second))
	})
}

// certificate makes one that nobody else signed, and its key, as PEM.
func certificate(t testing.TB, until time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crypto.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: until.Add(-1000 * time.Hour), NotAfter: until, DNSNames: []string{"www.example.org"}}
	cert, err := x509.CreateCertificate(crypto.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// write makes a file in its directory, all of it at once.
func (s *nginx) write(t testing.TB, name, text string) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	err := os.WriteFile(path+".new", []byte(text), 0o644)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s *nginx) remove(t testing.TB, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
		t.Fatal(err)
	}
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
