// SPDX-License-Identifier: MIT

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// settle brings an instance's pins in order after a start that was killed while
// it carried connections over to maps of another layout (carry.go). If a link has
// the new program already, it is too late to go back: the others get it too, and
// the new maps become the instance's. Else what there is of the new ones goes.
func settle(path, instance string) error {
	home, next, last := filepath.Join(path, instance), successor(path, instance), superseded(path, instance)
	if !exists(next) {
		return nil
	}
	if exists(home) {
		program, err := switched(home, next)
		if err != nil {
			return fmt.Errorf("looking what an upgrade that was killed has left: %w", err)
		}
		if program == nil {
			return removePins(next)
		}
		defer program.Close()
		if err := finishLinks(program, home, next); err != nil {
			return err
		}
		if err := errors.Join(removePins(last), os.Rename(home, last)); err != nil {
			return fmt.Errorf("finishing an upgrade that was killed: %w", err)
		}
	}
	if err := os.Rename(next, home); err != nil {
		return fmt.Errorf("finishing an upgrade that was killed: %w", err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// switched returns the program that links have got which uses the maps in next;
// nil if none has.
func switched(home, next string) (*ebpf.Program, error) {
	ours, err := newMaps(home, next)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{next, home} {
		pins, err := os.ReadDir(filepath.Join(dir, linksDir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range pins {
			program, err := programOf(filepath.Join(dir, linksDir, e.Name()), ours)
			if err != nil || program != nil {
				return program, err
			}
		}
	}
	return nil, nil
}

// newMaps are those of next that home has not.
func newMaps(home, next string) (map[ebpf.MapID]bool, error) {
	ids := map[ebpf.MapID]bool{}
	for _, dir := range []string{next, home} {
		pins, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range pins {
			if e.IsDir() {
				continue
			}
			m, err := ebpf.LoadPinnedMap(filepath.Join(dir, e.Name()), nil)
			if err != nil {
				return nil, err
			}
			info, err := m.Info()
			m.Close()
			if err != nil {
				return nil, err
			}
			id, _ := info.ID()
			if dir == next {
				ids[id] = true
			} else {
				delete(ids, id)
			}
		}
	}
	return ids, nil
}

// programOf returns a pinned link's program if it uses any of the maps.
func programOf(pin string, maps map[ebpf.MapID]bool) (*ebpf.Program, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return nil, err
	}
	program, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return nil, err
	}
	about, err := program.Info()
	if err == nil {
		used, _ := about.MapIDs()
		for _, id := range used {
			if maps[id] {
				return program, nil
			}
		}
	}
	return nil, errors.Join(err, program.Close())
}

// finishLinks gives a program to the links that have it not, and moves their pins. A
// link that is for programs of another kind (tc, for the director's own clients) has
// its old one until the start that follows, which carries over what that does.
func finishLinks(program *ebpf.Program, home, next string) error {
	pins, err := os.ReadDir(filepath.Join(home, linksDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range pins {
		at := filepath.Join(home, linksDir, e.Name())
		l, err := link.LoadPinnedLink(at, nil)
		if err != nil {
			return err
		}
		err = l.Update(program)
		if err != nil {
			_, err = attachedTo(l)
		}
		if err == nil {
			err = l.Pin(filepath.Join(next, linksDir, e.Name()))
		} else { // its interface is gone
			err = l.Unpin()
		}
		if err := errors.Join(err, l.Close()); err != nil {
			return err
		}
	}
	return nil
}
