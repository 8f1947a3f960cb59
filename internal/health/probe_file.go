// SPDX-License-Identifier: MIT

package health

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const mostFile = 4 << 10 // bytes of it that are read

// probeFile asks a file, as of now. A file on another machine's disk can keep it
// longer than any deadline.
func probeFile(f FileCheck, now time.Time) error {
	file, err := os.OpenFile(f.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if f.Missing == "up" {
			return nil
		}
		return fmt.Errorf("%s: no such file", f.Path)
	}
	if err != nil {
		return notAsked(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return notAsked(err)
	}
	if !info.Mode().IsRegular() {
		return notAsked(fmt.Errorf("%s: not a regular file", f.Path))
	}
	if age := now.Sub(info.ModTime()); f.MaxAge > 0 && age > f.MaxAge {
		return fmt.Errorf("%s: %v old, at most %v allowed", f.Path, age.Round(time.Second), f.MaxAge)
	}
	text, err := io.ReadAll(io.LimitReader(file, mostFile))
	if err != nil {
		return notAsked(err)
	}
	if err := judgeFile(string(text)); err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	return nil
}

// judgeFile reads the first word.
func judgeFile(text string) error {
	words := strings.Fields(text)
	if len(words) == 0 {
		return errors.New("empty")
	}
	word := words[0]
	switch strings.ToLower(word) {
	case "up":
		return nil
	case "down":
		return fmt.Errorf("says %s", quote(text))
	}
	switch n, err := strconv.ParseFloat(word, 64); {
	case err != nil || math.IsNaN(n):
		return fmt.Errorf(`neither "up", "down" nor a number: %s`, quote(text))
	case n <= 0:
		return fmt.Errorf("says %s", quote(text))
	}
	return nil
}
