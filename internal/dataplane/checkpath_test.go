// SPDX-License-Identifier: MIT

package dataplane

import (
	"testing"

	"github.com/shunt-lvs/shunt/internal/lab/labtest"
)

func TestCheckPathOpens(t *testing.T) {
	labtest.InNamespace(t)
	c, err := OpenCheckPath(nil)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	if err := c.Interfaces([]int{loopback}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
