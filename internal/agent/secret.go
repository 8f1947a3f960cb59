// SPDX-License-Identifier: MIT

package agent

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"syscall"
)

// The length of a secret, in bytes.
const (
	minSecret = 16
	maxSecret = 4 << 10
)

// Secret is what the director and its agents know. It is not printed.
type Secret struct{ key []byte }

// NewSecret takes a secret without the white space around it. It has 16 bytes to
// 4 KiB.
func NewSecret(text []byte) (Secret, error) {
	key := bytes.TrimSpace(text)
	switch {
	case len(key) < minSecret:
		return Secret{}, fmt.Errorf("a secret of %d bytes can be guessed: at least %d, for example: head -c 32 /dev/urandom | base64", len(key), minSecret)
	case len(key) > maxSecret:
		return Secret{}, fmt.Errorf("a secret of more than %d bytes: is this the right file?", maxSecret)
	}
	return Secret{bytes.Clone(key)}, nil
}

// ReadSecret reads a secret from a file, which must not be open to everybody.
func ReadSecret(file string) (Secret, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would keep us waiting
	if err != nil {
		return Secret{}, fmt.Errorf("secret: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Secret{}, fmt.Errorf("secret: %w", err)
	}
	if !info.Mode().IsRegular() {
		return Secret{}, fmt.Errorf("secret %s: it is no regular file (mode %v)", file, info.Mode())
	}
	if info.Mode().Perm()&0o007 != 0 {
		return Secret{}, fmt.Errorf("secret %s: everybody on this host may use it (mode %v): chmod 600 %s, and make a new secret if somebody could have read it", file, info.Mode(), file)
	}
	text, err := io.ReadAll(io.LimitReader(f, 2*maxSecret))
	if err != nil {
		return Secret{}, fmt.Errorf("secret: %w", err)
	}
	s, err := NewSecret(text)
	if err != nil {
		return Secret{}, fmt.Errorf("secret %s: %w", file, err)
	}
	return s, nil
}

// String and GoString say nothing.
func (Secret) String() string { return "secret" }

// GoString says nothing.
func (Secret) GoString() string { return "secret" }
