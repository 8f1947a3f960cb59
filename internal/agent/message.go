// SPDX-License-Identifier: MIT

package agent

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The words of the protocol.
const (
	greeting      = "shunt-agent 1"
	directorLabel = greeting + " director"
	agentLabel    = greeting + " agent"
	refused       = "refused secret"

	maxMessage = 4 << 10 // bytes of a line
)

type nonce [32]byte

func newNonce() nonce {
	var n nonce
	_, _ = rand.Read(n[:]) // does not fail (crypto/rand)
	return n
}

type mac [sha256.Size]byte

// sign gives the MAC of one side in a connection with these nonces.
func (s Secret) sign(label string, director, agent nonce, report []byte) mac {
	h := hmac.New(sha256.New, s.key)
	h.Write(append([]byte(label), 0))
	h.Write(director[:])
	h.Write(agent[:])
	h.Write(report)
	return mac(h.Sum(nil))
}

func (m mac) equal(o mac) bool { return hmac.Equal(m[:], o[:]) }

// errMessage is a line that the protocol does not have at its place.
var errMessage = errors.New("this is not shunt's agent protocol")

// readMessage reads a line without its end.
func readMessage(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n') // r's buffer is the limit
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("a line of more than %d bytes: %w", r.Size(), errMessage)
	case errors.Is(err, io.EOF) && len(line) > 0:
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	}
	return string(bytes.TrimSuffix(line, []byte("\n"))), nil
}

// word takes "WORD HEX" apart, for a HEX of 32 bytes.
func word(line, word string) (value [32]byte, err error) {
	text, ok := strings.CutPrefix(line, word+" ")
	if !ok || len(text) != 2*len(value) {
		return value, errMessage
	}
	if _, err := hex.Decode(value[:], []byte(text)); err != nil {
		return value, errMessage
	}
	return value, nil
}

// splitReport takes "report MAC JSON" apart.
func splitReport(line string) (m mac, text []byte, err error) {
	const at = len("report ") + 2*sha256.Size
	if len(line) <= at || line[at] != ' ' {
		return m, nil, errMessage
	}
	m, err = word(line[:at], "report")
	return m, []byte(line[at+1:]), err
}
