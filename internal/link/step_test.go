// SPDX-License-Identifier: MIT

package link

import (
	"context"
	"log/slog"
)

// stepHandler calls step for each record: the journal logs one for each step.
type stepHandler struct {
	slog.Handler
	step func()
}

func (h stepHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h stepHandler) Handle(context.Context, slog.Record) error {
	h.step()
	return nil
}
func (h stepHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h stepHandler) WithGroup(string) slog.Handler      { return h }
