// SPDX-License-Identifier: MIT

package health

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const mostRedis = 64 << 10 // bytes of an answer

// probeRedis asks for what is wanted and takes leave (RESP 2).
func probeRedis(ctx context.Context, r RedisCheck, e Endpoint) error {
	var password string
	if r.PasswordFile != "" {
		text, err := readFile(r.PasswordFile, 4<<10)
		if err != nil {
			return notAsked(err)
		}
		password = strings.TrimRight(string(text), "\r\n")
	}
	c, err := dial(ctx, "tcp", e)
	if err != nil {
		return err
	}
	defer c.Close()
	answers := bufio.NewReaderSize(c, longestLine)
	ask := func(words ...string) (string, error) {
		if _, err := io.WriteString(c, resp(words)); err != nil {
			return "", err
		}
		return readRESP(answers)
	}
	if password != "" {
		if _, err := ask("AUTH", password); err != nil {
			return err
		}
	}
	if got, err := ask("PING"); err != nil {
		return err
	} else if got != "PONG" {
		return fmt.Errorf("redis: %s, expected PONG", quote(got))
	}
	if r.Role != "" {
		info, err := ask("INFO", "replication")
		if err != nil {
			return err
		}
		if role := field(info, "role"); role != r.Role {
			return fmt.Errorf("redis: role %s, expected %s", quote(role), r.Role)
		}
	}
	_, _ = io.WriteString(c, resp([]string{"QUIT"}))
	return nil
}

// resp is a command as an array of texts.
func resp(words []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	return b.String()
}

// readRESP reads a text, short ("+") or long ("$"). An error of the server ("-") is one.
func readRESP(r *bufio.Reader) (string, error) {
	raw, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("not redis: %s", quote(raw))
	case errors.Is(err, io.EOF) && len(raw) > 0:
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	}
	line, ok := strings.CutSuffix(string(raw), "\r\n")
	if !ok || line == "" {
		return "", fmt.Errorf("not redis: %s", quote(raw))
	}
	switch line[0] {
	case '+':
		return line[1:], nil
	case '-':
		return "", fmt.Errorf("redis: %s", quote(line[1:]))
	case '$':
		return readLong(r, line[1:])
	}
	return "", fmt.Errorf("not redis: %s", quote(line))
}

func readLong(r *bufio.Reader, length string) (string, error) {
	n, err := strconv.ParseUint(length, 10, 31)
	if err != nil || n > mostRedis {
		return "", fmt.Errorf("redis: a text of %s bytes", quote(length))
	}
	text := make([]byte, n+2)
	if _, err := io.ReadFull(r, text); err != nil {
		return "", unexpected(err)
	}
	if string(text[n:]) != "\r\n" {
		return "", errors.New("not redis: a text does not end where it should")
	}
	return string(text[:n]), nil
}

// field finds a line "name:value".
func field(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
