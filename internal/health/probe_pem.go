// SPDX-License-Identifier: MIT

package health

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// version tells one state of a file from a later one.
type version struct {
	inode uint64
	size  int64
	time  time.Time
}

type pool struct {
	version version
	roots   *x509.CertPool
}

type pair struct {
	cert, key version
	pair      *tls.Certificate
}

// roots are the authorities of a PEM file, which is read again once it changed.
func (p *Prober) roots(path string) (*x509.CertPool, error) {
	now, err := versionOf(path)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	known := p.pools[path]
	p.mu.Unlock()
	if known.roots != nil && known.version == now {
		return known.roots, nil
	}
	text, err := readFile(path, mostPEM)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate in it (PEM)", path)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pools[path] = pool{now, roots}
	return roots, nil
}

// pair is a client's certificate with its key, likewise.
func (p *Prober) pair(cert, key string) (*tls.Certificate, error) {
	now := pair{}
	var err error
	if now.cert, err = versionOf(cert); err != nil {
		return nil, err
	}
	if now.key, err = versionOf(key); err != nil {
		return nil, err
	}
	at := [2]string{cert, key}
	p.mu.Lock()
	known := p.pairs[at]
	p.mu.Unlock()
	if known.pair != nil && known.cert == now.cert && known.key == now.key {
		return known.pair, nil
	}
	certText, err := readFile(cert, mostPEM)
	if err != nil {
		return nil, err
	}
	keyText, err := readFile(key, mostPEM)
	if err != nil {
		return nil, err
	}
	own, err := tls.X509KeyPair(certText, keyText)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cert, err)
	}
	now.pair = &own
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pairs[at] = now
	return now.pair, nil
}

const mostPEM = 4 << 20 // a system's bundle has a quarter of a MiB

func versionOf(path string) (version, error) {
	info, err := os.Stat(path)
	if err != nil {
		return version{}, err
	}
	v := version{size: info.Size(), time: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		v.inode = st.Ino
	}
	return v, nil
}

// readFile reads a regular file that is no larger than limit.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would keep us waiting
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = errors.New("file too large")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}
