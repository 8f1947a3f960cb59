// SPDX-License-Identifier: MIT

package health

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"sync"
)

// History keeps events in a file, one line of JSON each, and the file within a
// size: when it is full it becomes the old one (its name and ".old"), and the old
// one goes. So at least the last half of what may be kept is there.
//
// A line is written at once or not at all. One that was cut off, because the host
// went down, is taken off when the file is opened again; one that is not an event
// is skipped. What was written last may be lost with the host, but not with the
// daemon. Its methods may be called by several goroutines.
type History struct {
	path string
	half int64 // of each of the two files, in bytes

	mu   sync.Mutex
	file *os.File
	size int64
}

// DefaultHistory is how many bytes a history has if nobody says otherwise: some
// 30,000 events.
const DefaultHistory = 8 << 20

const minHistory = 32 << 10 // an event is at most 14 KiB

// OpenHistory opens a history of at most so many bytes (0: DefaultHistory) and
// makes its file if there is none; the directory has to be there.
func OpenHistory(path string, bytes int64) (*History, error) {
	if bytes == 0 {
		bytes = DefaultHistory
	}
	h := &History{path: path, half: max(bytes, minHistory) / 2}
	if err := h.open(); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return h, nil
}

func (h *History) old() string { return h.path + ".old" }

func (h *History) open() error {
	f, err := os.OpenFile(h.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	size, err := wholeLines(f)
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	h.file, h.size = f, size
	return nil
}

// wholeLines gives how many bytes of a file are lines that have an end.
func wholeLines(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	block := make([]byte, 4<<10)
	for end := info.Size(); end > 0; {
		n := min(end, int64(len(block)))
		if _, err := f.ReadAt(block[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(block[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}

// Append adds an event. With an error the file is as it was before.
func (h *History) Append(e Event) error {
	line, err := json.Marshal(e.bounded())
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	line = append(line, '\n')

	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file == nil {
		return fmt.Errorf("history %s: %w", h.path, fs.ErrClosed)
	}
	if h.size > 0 && h.size+int64(len(line)) > h.half {
		if err := h.rotate(); err != nil {
			return fmt.Errorf("history: %w", err)
		}
	}
	if _, err := h.file.Write(line); err != nil {
		return fmt.Errorf("history: %w", errors.Join(err, h.file.Truncate(h.size)))
	}
	h.size += int64(len(line))
	return nil
}

// rotate begins a new file. If that fails the present one goes on.
func (h *History) rotate() error {
	if err := os.Rename(h.path, h.old()); err != nil {
		return err
	}
	before := h.file
	if err := h.open(); err != nil {
		return errors.Join(err, os.Rename(h.old(), h.path))
	}
	return before.Close()
}

// Query gives the events that f asks for, in the order in which they came.
func (h *History) Query(f Filter) ([]Event, error) {
	now, old, err := h.files()
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	var found []Event
	for e := range backwards(now, old) {
		if !f.Match(e) {
			continue
		}
		if found = append(found, e); len(found) == f.Limit {
			break
		}
	}
	slices.Reverse(found)
	return found, nil
}

// files gives what the present file and the old one say.
func (h *History) files() (now, old []byte, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file == nil {
		return nil, nil, fmt.Errorf("%s: %w", h.path, fs.ErrClosed)
	}
	now = make([]byte, h.size)
	if n, err := h.file.ReadAt(now, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	} else {
		now = now[:n] // somebody may have cut it
	}
	old, err = os.ReadFile(h.old())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return now, old, err
}

// backwards gives the events of files, the last one of each first. What follows
// the last end of a line is not looked at.
func backwards(files ...[]byte) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for _, data := range files {
			for end := bytes.LastIndexByte(data, '\n'); end >= 0; {
				begin := bytes.LastIndexByte(data[:end], '\n') + 1
				if e, ok := readEvent(data[begin:end]); ok && !yield(e) {
					return
				}
				end = begin - 1
			}
		}
	}
}

func readEvent(line []byte) (Event, bool) {
	var e Event
	if err := json.Unmarshal(line, &e); err != nil || !slices.Contains(Subjects(), e.Subject) {
		return Event{}, false
	}
	e = e.bounded()
	y := e.At.Year()
	return e, 0 <= y && y <= 9999 // what JSON has no form for cannot be handed on
}

// Close closes the file.
func (h *History) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file == nil {
		return nil
	}
	err := h.file.Close()
	h.file = nil
	return err
}
