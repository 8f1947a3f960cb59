// SPDX-License-Identifier: MIT

package config

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// expand writes out the aliases (*name) whose anchor (&name) is in a service that
// goes, or comes behind them.
func (e *editor) expand(want *lvs.Table) {
	place := map[lvs.ServiceID]int{}
	for i, s := range want.Services {
		place[s.ServiceID] = i + 1
	}
	items := e.file.Services.Items
	of := func(line int) int { // the service that a line is in; -1 if none
		for i := range items {
			if first := items[i].node.line; line >= first && (i+1 == len(items) || line < items[i+1].node.line) {
				return i
			}
		}
		return -1
	}
	for i := range items {
		here := place[e.config.Services[i].Service.ServiceID]
		if here == 0 {
			continue
		}
		e.aliasesIn(items[i].node, func(n *node) {
			from := of(n.line)
			if from < 0 || from == i {
				return
			}
			if there := place[e.config.Services[from].Service.ServiceID]; there == 0 || there > here {
				begin, end := e.item(n)
				e.replace(begin, end, flowText(n))
			}
		})
	}
}

// aliasesIn calls back for the aliases that a node has in it.
func (e *editor) aliasesIn(n *node, found func(*node)) {
	if n.alias != nil {
		found(n)
		return
	}
	for _, v := range n.entries {
		if !v.key.repeated {
			e.aliasesIn(v.value, found)
		}
	}
	for _, v := range n.items {
		e.aliasesIn(v, found)
	}
}

// flowText is a node in brackets and braces.
func flowText(n *node) string {
	var all []string
	switch n.kind {
	case mapKind:
		for _, v := range n.entries {
			all = append(all, flowText(v.key)+": "+flowText(v.value))
		}
		return "{" + strings.Join(all, ", ") + "}"
	case listKind:
		for _, v := range n.items {
			all = append(all, flowText(v))
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	if n.scalar == stringType && !safe(n.text) {
		return strconv.Quote(n.text)
	}
	return n.text
}

// safe tells whether a text is one without quotes, too.
func safe(s string) bool {
	return safeText.MatchString(s) && !slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off"}, strings.ToLower(s))
}

var safeText = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./-]*$|^[0-9]+(\.[0-9]+){3}(:[0-9]+)?$`)
