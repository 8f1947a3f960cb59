// SPDX-License-Identifier: MIT

package config

import (
	"unicode/utf8"

	"github.com/goccy/go-yaml/token"
)

// rejoined is the tokens with addresses as one text each. Inside of braces the
// library takes every colon for the end of a key, also that of {match: [tcp
// 172.16.16.172:21]}; by YAML 1.2.2 (7.3.3) it is one only if a blank, a comma or
// a bracket follows. After a { or a comma of a mapping it may stay a key's:
// {interval:2s} is clear enough.
func rejoined(tokens token.Tokens) token.Tokens {
	var open []token.Type // brackets and braces that we are in
	out := make(token.Tokens, 0, len(tokens))
	for i := 0; i < len(tokens); {
		t := tokens[i]
		n := 1
		if len(open) > 0 && !(open[len(open)-1] == token.MappingStartType && atKey(out)) {
			n = adjacent(tokens[i:])
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			open = append(open, t.Type)
		case token.MappingEndType, token.SequenceEndType:
			open = open[:max(0, len(open)-1)]
		}
		if n > 1 {
			t = joined(tokens[i : i+n])
		}
		if last := len(out) - 1; last >= 0 {
			out[last].Next, t.Prev = t, out[last]
		}
		out = append(out, t)
		i += n
	}
	if len(out) > 0 {
		out[len(out)-1].Next = nil
	}
	return out
}

// atKey tells whether the next token begins a key of a mapping in braces.
func atKey(before token.Tokens) bool {
	for i := len(before) - 1; i >= 0; i-- {
		switch before[i].Type {
		case token.CommentType:
		case token.MappingStartType, token.CollectEntryType:
			return true
		default:
			return false
		}
	}
	return true
}

// adjacent is how many tokens are one text: plain ones and colons without a blank
// between them, the last no colon.
func adjacent(tokens token.Tokens) int {
	n := 0
	if first := tokens[0]; first.Type == token.MappingValueType && first.Prev != nil && first.Position.Line == first.Prev.Position.Line &&
		(plain(first.Prev) || first.Prev.Type == token.DoubleQuoteType || first.Prev.Type == token.SingleQuoteType) {
		return 1 // a key's
	}
	for i, t := range tokens {
		colon := t.Type == token.MappingValueType
		if !colon && !plain(t) || i > 0 && (t.Position.Line != tokens[i-1].Position.Line || t.Position.Column != end(tokens[i-1])) {
			break
		}
		if !colon {
			n = i + 1
		}
	}
	return max(1, n)
}

func plain(t *token.Token) bool {
	switch t.Type {
	case token.StringType, token.IntegerType, token.FloatType, token.BoolType, token.NullType, token.HexIntegerType,
		token.OctetIntegerType, token.BinaryIntegerType, token.InfinityType, token.NanType:
		return true
	}
	return false
}

// end is the column behind a token.
func end(t *token.Token) int { return t.Position.Column + utf8.RuneCountInString(t.Value) }

func joined(tokens token.Tokens) *token.Token {
	value, origin := "", ""
	for _, t := range tokens {
		value += t.Value
		origin += t.Origin
	}
	return token.String(value, origin, tokens[0].Position)
}
