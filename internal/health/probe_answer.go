// SPDX-License-Identifier: MIT

package health

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
)

const defaultBody = 1 << 20

// judgeHTTP says what in an answer is not as it has to be.
func judgeHTTP(h HTTPCheck, want expected, answer *http.Response) error {
	allowed := h.Status
	if len(allowed) == 0 {
		allowed = []StatusRange{{200, 399}}
	}
	if !inRanges(answer.StatusCode, allowed) {
		return fmt.Errorf("status %d, expected %s", answer.StatusCode, ranges(allowed))
	}
	for _, x := range h.Answer {
		if err := hasHeader(answer.Header, x); err != nil {
			return err
		}
	}
	return judgeBody(h, want, answer.Body)
}

func inRanges(status int, allowed []StatusRange) bool {
	for _, r := range allowed {
		if r.First <= status && status <= r.Last {
			return true
		}
	}
	return false
}

func ranges(all []StatusRange) string {
	var texts []string
	for _, r := range all {
		text := strconv.Itoa(r.First)
		if r.Last != r.First {
			text += "-" + strconv.Itoa(r.Last)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

func hasHeader(answer http.Header, x Header) error {
	got := answer.Values(x.Name)
	if len(got) == 0 {
		return fmt.Errorf("no header %s in the answer", x.Name)
	}
	for _, value := range got {
		if x.Value == "" || value == x.Value {
			return nil
		}
	}
	return fmt.Errorf("header %s is %s, expected %s", x.Name, quote(got[0]), quote(x.Value))
}

// judgeBody reads the body to its end, or to its limit. One that is longer is
// judged by its beginning; only a digest needs all of it.
func judgeBody(h HTTPCheck, want expected, body io.Reader) error {
	limit := h.MaxBody
	if limit <= 0 {
		limit = defaultBody
	}
	body = io.LimitReader(body, limit)
	var sum hash.Hash
	var digest []byte
	if h.Digest != "" {
		var err error
		if sum, digest, err = parseDigest(h.Digest); err != nil {
			return notAsked(err)
		}
		body = io.TeeReader(body, sum)
	}
	var text []byte
	var n int64
	var err error
	if want.anything() {
		n, err = io.Copy(io.Discard, body)
	} else {
		text, err = io.ReadAll(body)
		n = int64(len(text))
	}
	if err != nil {
		return &unfinished{n, err}
	}
	if !want.anything() {
		if err := want.in(text, "the body"); err != nil {
			return err
		}
	}
	if sum == nil {
		return nil
	}
	if got := sum.Sum(nil); !bytes.Equal(got, digest) {
		if n == limit {
			return fmt.Errorf("another digest: the first %d bytes, which is as much as is read, have %s", n, short(got))
		}
		return fmt.Errorf("another digest: the body's %d bytes have %s, expected %s", n, short(got), short(digest))
	}
	return nil
}

// unfinished is a body that did not come to its end.
type unfinished struct {
	bytes int64
	cause error
}

func (u *unfinished) Error() string { return fmt.Sprintf("body after %d bytes: %v", u.bytes, u.cause) }
func (u *unfinished) Unwrap() error { return u.cause }

// short is as much of a digest as people compare.
func short(sum []byte) string { return hex.EncodeToString(sum[:8]) + "…" }

// parseDigest reads "sha256:HEX" or "md5:HEX".
func parseDigest(text string) (hash.Hash, []byte, error) {
	name, value, _ := strings.Cut(text, ":")
	var sum hash.Hash
	switch name {
	case "sha256":
		sum = sha256.New()
	case "md5":
		sum = md5.New()
	default:
		return nil, nil, errors.New(`a digest is "sha256:" or "md5:" and hexadecimal digits`)
	}
	digest, err := hex.DecodeString(value)
	if err != nil || len(digest) != sum.Size() {
		return nil, nil, fmt.Errorf("the digest of %s has %d hexadecimal digits", name, 2*sum.Size())
	}
	return sum, digest, nil
}
