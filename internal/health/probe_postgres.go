// SPDX-License-Identifier: MIT

package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Of PostgreSQL's protocol 3 (its manual, "Frontend/Backend Protocol"). Numbers are
// big-endian.
const (
	pgVersion  = 3 << 16
	mostPg     = 16 << 10 // bytes of a message
	mostPgMsgs = 64
)

// probePostgreSQL begins a session, without a password. A server that asks for one, or
// that refuses this user, is well: only then it has looked whether it takes
// sessions at all. It answers an SSLRequest also when it does not.
func probePostgreSQL(ctx context.Context, s SQLCheck, e Endpoint) error {
	c, err := dial(ctx, "tcp", e)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(startup(s)); err != nil {
		return err
	}
	for range mostPgMsgs {
		kind, body, err := readPg(c)
		if err != nil {
			return err
		}
		done, err := judgePg(s, kind, body)
		if err != nil {
			return err
		}
		if done {
			_, _ = c.Write([]byte{'X', 0, 0, 0, 4}) // Terminate
			return nil
		}
	}
	return errors.New("PostgreSQL: the session does not begin")
}

// judgePg reports whether a message shows that the server is well.
func judgePg(s SQLCheck, kind byte, body []byte) (done bool, err error) {
	switch kind {
	case 'R': // Authentication…
		if len(body) < 4 {
			return false, fmt.Errorf("not PostgreSQL: %s", quote(body))
		}
		return binary.BigEndian.Uint32(body) != 0, nil // 0: no password needed, so there is more to come
	case 'Z': // ReadyForQuery
		return true, nil
	case 'S', 'K', 'N', 'v': // ParameterStatus, BackendKeyData, NoticeResponse, NegotiateProtocolVersion
		return false, nil
	case 'E':
		state, text := parsePgError(body)
		refused := strings.HasPrefix(state, "28") // of this user, or from this address
		missing := state == "3D000" && s.Database == ""
		if refused || missing {
			return true, nil
		}
		return false, fmt.Errorf("PostgreSQL: %s (%s)", quote(text), clean(state, 10))
	}
	return false, fmt.Errorf("not PostgreSQL: %s", quote(append([]byte{kind}, body...)))
}

// parsePgError returns SQLSTATE and text of an ErrorResponse: fields of a letter and a
// text that ends with 0.
func parsePgError(body []byte) (state, text string) {
	for len(body) > 0 && body[0] != 0 {
		field, rest, ok := bytes.Cut(body[1:], []byte{0})
		if !ok {
			break
		}
		switch body[0] {
		case 'C':
			state = string(field)
		case 'M':
			text = string(field)
		}
		body = rest
	}
	return state, text
}

func startup(s SQLCheck) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), pgVersion)
	user := firstOf(s.User, loginName)
	for _, text := range []string{"user", user, "database", firstOf(s.Database, user), "application_name", "shunt"} {
		b = append(append(b, text...), 0)
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

// readPg reads a message: a letter, and a length that counts itself.
func readPg(r io.Reader) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n < 4 || n > mostPg {
		return 0, nil, fmt.Errorf("not PostgreSQL: %s", quote(head[:]))
	}
	body = make([]byte, n-4)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, unexpected(err)
	}
	return head[0], body, nil
}
