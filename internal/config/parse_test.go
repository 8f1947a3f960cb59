// SPDX-License-Identifier: MIT

package config

import (
	"os"
	"testing"
)

func TestScratch(t *testing.T) {
	b, _ := os.ReadFile(os.Getenv("F"))
	c, err := Parse("site.yaml", b)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", c)
	for _, x := range c.Changes() {
		t.Logf("%+v", x)
	}
}
