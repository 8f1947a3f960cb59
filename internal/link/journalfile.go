// SPDX-License-Identifier: MIT

package link

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
)

// A journal file is lines of "CRC JSON": the first says what it is and where it
// belongs, each other one that a change will be made or that one was undone.
// Lines are only ever appended. A last line without its end was cut off while
// it was written, so what it announces was not done yet.

const journalVersion = 1

type record struct {
	Version int    `json:"version,omitempty"` // first line only
	Place   *Place `json:"place,omitempty"`   // first line only
	Do      *Entry `json:"do,omitempty"`
	Undone  int    `json:"undone,omitempty"` // an entry's ID
}

type content struct {
	place  Place
	active []Entry
	next   int   // the ID for the next entry
	size   int64 // bytes that are whole lines
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (r record) line() ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(b, castagnoli), b), nil
}

func parseLine(b []byte) (record, error) {
	var r record
	sum, body, ok := bytes.Cut(b, []byte(" "))
	var crc [4]byte
	if n, err := hex.Decode(crc[:], sum[:min(len(sum), 8)]); !ok || err != nil || n != 4 || len(sum) != 8 {
		return r, fmt.Errorf("%w: no checksum", ErrJournal)
	}
	if want := crc32.Checksum(body, castagnoli); !bytes.Equal(crc[:], []byte{byte(want >> 24), byte(want >> 16), byte(want >> 8), byte(want)}) {
		return r, fmt.Errorf("%w: wrong checksum", ErrJournal)
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("%w: %w", ErrJournal, err)
	}
	return r, nil
}

// parseJournal reads a journal's bytes. With an error, the place is still set
// if the first line was good.
func parseJournal(data []byte) (content, error) {
	c := content{next: 1}
	for n := 1; ; n++ {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole {
			return c, nil // empty, or cut off
		}
		r, err := parseLine(line)
		if err == nil {
			err = c.add(n, r)
		}
		if err != nil {
			return c, fmt.Errorf("line %d: %w", n, err)
		}
		c.size += int64(len(line)) + 1
		data = rest
	}
}

func (c *content) add(n int, r record) error {
	switch {
	case n == 1:
		if r.Place == nil || r.Place.Boot == "" {
			return fmt.Errorf("%w: not a journal", ErrJournal)
		}
		if r.Version != journalVersion {
			return fmt.Errorf("%w: its version is %d, this shunt knows %d; undo with the shunt that wrote it",
				ErrJournal, r.Version, journalVersion)
		}
		c.place = *r.Place
	case r.Do != nil:
		if r.Do.ID != c.next || !r.Do.valid() {
			return fmt.Errorf("%w: entry %d makes no sense", ErrJournal, r.Do.ID)
		}
		c.active = append(c.active, *r.Do)
		c.next++
	case r.Undone != 0:
		i := slices.IndexFunc(c.active, func(e Entry) bool { return e.ID == r.Undone })
		if i < 0 {
			return fmt.Errorf("%w: entry %d is undone but was not done", ErrJournal, r.Undone)
		}
		c.active = slices.Delete(c.active, i, i+1)
	default:
		return fmt.Errorf("%w: an empty record", ErrJournal)
	}
	return nil
}

// append writes a record durably, and before the first one the file.
func (j *Journal) append(r record) error {
	if j.file == nil {
		head, err := record{Version: journalVersion, Place: &j.place}.line()
		if err != nil {
			return err
		}
		if err := WriteFile(j.path, head, 0o644); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		if j.file, err = os.OpenFile(j.path, os.O_WRONLY, 0); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		if err := seekEnd(j.file); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	line, err := r.line()
	if err != nil {
		return err
	}
	if _, err := j.file.Write(line); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("journal %s: %w", j.path, err)
	}
	return nil
}

func (j *Journal) discard() error {
	if j.file != nil {
		j.file.Close()
		j.file = nil
	}
	j.active, j.next = nil, 1
	return RemoveFile(j.path)
}

func seekEnd(f *os.File) error {
	_, err := f.Seek(0, io.SeekEnd)
	return err
}
