// SPDX-License-Identifier: MIT

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/shunt-lvs/shunt/internal/lab"
)

// serverHeader names the real server in its replies.
const serverHeader = "X-Real-Server"

// pageSize is roughly how long a reply's body is, in bytes: some full frames.
const pageSize = 4096

// Serve is the demo's web server: it answers every request with its name. It
// runs until ctx ends.
func Serve(ctx context.Context, address, name string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("demo server %s: %w", name, err)
	}
	page := name + "\n" + strings.Repeat(strings.Repeat(".", 63)+"\n", pageSize/64)
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(serverHeader, name)
			w.Header().Set("Content-Type", "text/plain")
			if r.URL.Path != "/page" {
				fmt.Fprintln(w, name)
				return
			}
			io.WriteString(w, page)
		}),
	}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// serve starts Serve in a process of its own, which outlives this one, and
// waits until it answers.
func (s *show) serve(ctx context.Context, n *lab.Node, port int) error {
	args := []string{"demo", "serve", "--listen", ":" + strconv.Itoa(port), "--name", n.Name()}
	s.report.command(s.typed(n, args) + " &")
	cmd := n.Command(context.WithoutCancel(ctx), s.Executable, args...)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the web server of %s: %w", n.Name(), err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		conn, err := n.Dial(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return conn.Close()
		}
		select {
		case err := <-gone:
			return fmt.Errorf("the web server of %s ended: %v", n.Name(), err)
		case <-ctx.Done():
			return fmt.Errorf("the web server of %s does not answer: %w", n.Name(), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
