// SPDX-License-Identifier: MIT

package dataplane

import (
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"
)

// TestHZ: what is measured is what the kernel's configuration says.
func TestHZ(t *testing.T) {
	p := newPlane(t)
	measured, err := measureHZ(p.programs.ReadClock)
	if err != nil {
		t.Fatal(err)
	}
	if measured != p.parameters.Hz {
		t.Errorf("measured %d, found %d", measured, p.parameters.Hz)
	}
}

func TestConfiguredHZ(t *testing.T) {
	dir := t.TempDir()
	plain, zipped := filepath.Join(dir, "config"), filepath.Join(dir, "config.gz")
	const text = "# CONFIG_HZ_100 is not set\nCONFIG_HZ_300=y\nCONFIG_HZ=300\nCONFIG_SCHED_HRTICK=y\n"
	if err := os.WriteFile(plain, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(zipped)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	z.Write([]byte(text))
	z.Close()
	f.Close()
	for path, want := range map[string]uint32{plain: 300, zipped: 300, filepath.Join(dir, "none"): 0, dir: 0} {
		if got := configuredHZ(path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}
