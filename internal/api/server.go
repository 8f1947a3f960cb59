// SPDX-License-Identifier: MIT

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Handler is what a director answers with. All fields are required. A field is
// called from many goroutines at once.
type Handler struct {
	Table       func(context.Context) (*lvs.Table, error)
	Services    func(context.Context) ([]lvs.ServiceStatus, error)
	Connections func(context.Context) ([]lvs.Connection, error)
	// Change makes all changes or none; see lvs.ChangeError.
	Change func(context.Context, []lvs.Change) error
	// Zero zeroes the counters of one service, or of all for the zero value.
	Zero         func(context.Context, lvs.ServiceID) error
	Status       func(context.Context) (Status, error)
	Reload       func(context.Context) (Reloaded, error)
	Stop         func(context.Context) error // returns when all is undone
	Leave        func(context.Context) error // ends the director and undoes nothing
	AdvanceClock func(context.Context, time.Duration) error

	// Listed is Table with the weights that count now.
	Listed  func(context.Context) (*lvs.Table, error)
	Health  func(context.Context) ([]ServiceHealth, error)
	Operate func(context.Context, Operation) ([]Member, error)
	History func(context.Context, HistoryRequest) ([]health.Event, error)

	Apply    func(context.Context, ApplyRequest) (Applied, error)
	Confirm  func(context.Context) error
	Rollback func(context.Context) error
	Site     func(context.Context) (Site, error)
	// Merged is Site with the text as it is with what was changed at run time.
	Merged func(context.Context) (Site, error)
}

// maxBody bounds a request: room for some 100,000 changes.
const maxBody = 64 << 20

// Server serves the API on a Unix socket.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Listen makes the socket, for root only (mode 0600), in place of one that a
// dead predecessor left. The caller holds the instance's lock, so that a living
// one is never taken away.
func Listen(path string, h Handler, log *slog.Logger) (*Server, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old API socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the API socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("close the API socket to other users: %w", err), l.Close())
	}
	return &Server{
		listener: rootOnly{l}, // between listen and chmod, too
		http: &http.Server{
			Handler:           h.mux(),
			ReadHeaderTimeout: 5 * time.Second,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		},
	}, nil
}

// Serve answers until Close.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}

// Close lets requests that are being answered finish, until ctx ends, and
// removes the socket.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	return err
}

func (h Handler) mux() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/table", answer(h.Table))
	m.HandleFunc("GET /v1/services", answer(h.Services))
	m.HandleFunc("GET /v1/connections", answer(h.Connections))
	m.HandleFunc("GET /v1/director", answer(h.Status))
	m.HandleFunc("POST /v1/reload", answer(h.Reload))
	m.HandleFunc("POST /v1/stop", answer(func(ctx context.Context) (struct{}, error) {
		return struct{}{}, h.Stop(ctx)
	}))
	// Not a flag of stop: a director that does not know it must not undo all.
	m.HandleFunc("POST /v1/leave", answer(func(ctx context.Context) (struct{}, error) {
		return struct{}{}, h.Leave(ctx)
	}))
	m.HandleFunc("POST /v1/changes", acceptInto(roomForChanges, h.Change))
	m.HandleFunc("POST /v1/zero", accept(func(ctx context.Context, r zeroRequest) error {
		return h.Zero(ctx, r.Service)
	}))
	m.HandleFunc("GET /v1/listed", answer(h.Listed))
	m.HandleFunc("GET /v1/health", answer(h.Health))
	m.HandleFunc("POST /v1/operate", exchange(h.Operate))
	m.HandleFunc("POST /v1/history", exchange(h.History))
	m.HandleFunc("POST /v1/apply", exchange(h.Apply))
	m.HandleFunc("POST /v1/confirm", accept(func(ctx context.Context, _ struct{}) error { return h.Confirm(ctx) }))
	m.HandleFunc("POST /v1/rollback", accept(func(ctx context.Context, _ struct{}) error { return h.Rollback(ctx) }))
	m.HandleFunc("GET /v1/site", answer(h.Site))
	m.HandleFunc("GET /v1/merged", answer(h.Merged))
	m.HandleFunc("POST /v1/clock", accept(func(ctx context.Context, r clockRequest) error {
		return h.AdvanceClock(ctx, r.Advance)
	}))
	return m
}

// answer is a request without a body.
func answer[T any](f func(context.Context) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r.Context())
		if err != nil {
			refuse(w, http.StatusConflict, err)
			return
		}
		write(w, http.StatusOK, v)
	}
}

// roomForChanges spares that a long list is copied as it grows.
func roomForChanges(r *http.Request) []lvs.Change {
	const shortest = 128 // bytes of a change, or so
	return make([]lvs.Change, 0, min(max(r.ContentLength, 0), maxBody)/shortest)
}

// accept is a request with a body and without an answer.
func accept[T any](f func(context.Context, T) error) http.HandlerFunc {
	return acceptInto(func(*http.Request) (v T) { return v }, f)
}

// exchange is a request with a body and an answer.
func exchange[T, A any](f func(context.Context, T) (A, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var v T
		if !read(w, r, &v) {
			return
		}
		a, err := f(r.Context(), v)
		if err != nil {
			refuse(w, http.StatusConflict, err)
			return
		}
		write(w, http.StatusOK, a)
	}
}

// read reads a request's body. If it cannot, it has answered.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields() // a field that we do not know may be what matters
	if err := d.Decode(v); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("request: %w", err))
		return false
	}
	return true
}

// acceptInto is accept for what is read into something.
func acceptInto[T any](into func(*http.Request) T, f func(context.Context, T) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := into(r)
		if !read(w, r, &v) {
			return
		}
		if err := f(r.Context(), v); err != nil {
			refuse(w, http.StatusConflict, err)
			return
		}
		write(w, http.StatusOK, struct{}{})
	}
}

func refuse(w http.ResponseWriter, code int, err error) { write(w, code, problemOf(err)) }

func write(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		code = http.StatusInternalServerError
		b, _ = json.Marshal(problemOf(fmt.Errorf("answer: %w", err)))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n')) // the other side went away: its loss
}
