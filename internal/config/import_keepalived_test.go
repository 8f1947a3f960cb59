// SPDX-License-Identifier: MIT

package config

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// keepalivedGrumbles are what the real keepalived says of the corpus although it
// takes it: what it fills in or leaves out, and what this host has not.
var keepalivedGrumbles = regexp.MustCompile(`no protocol set - defaulting|no scheduler set, setting default|no forwarding method set, setting default` +
	`|zero port only valid for persistent services - setting|ports don't match|has port specified - clearing` +
	`|SECURITY VIOLATION|doesn't exist|Non-existent interface|Unable to set default user|reducing quorum to|setting hysteresis to` +
	`|Unknown keyword '(ping_check_all|frobnicate)'|is duplicated - removing second rs`)

// TestKeepalivedTakesTheCorpus: the files that imports are tested by are real ones.
func TestKeepalivedTakesTheCorpus(t *testing.T) {
	program, err := exec.LookPath("keepalived")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/keepalived"); err != nil {
			t.Fatalf("this test needs Debian's keepalived ('make peers' installs it): %v", err)
		}
	}
	for _, path := range corpus(t, Keepalived) {
		absolute, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), program, "-t", "-i", "main", "-f", absolute).CombinedOutput()
		if _, ended := err.(*exec.ExitError); err != nil && !ended {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if !keepalivedGrumbles.MatchString(line) {
				t.Errorf("keepalived says of %s: %s", path, line)
			}
		}
		if err != nil && len(out) == 0 {
			t.Errorf("keepalived refuses %s: %v", path, err)
		}
	}
}
