// SPDX-License-Identifier: MIT

package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
)

// loginName is who the checks of databases are if they are not told otherwise.
const loginName = "shunt"

// Of the protocol of MySQL and MariaDB (dev.mysql.com/doc/dev/mysql-server,
// "Protocol Basics"; mariadb.com/kb, "Clientserver protocol"). Numbers are little-endian.
const (
	mostMySQL = 16 << 10 // bytes of a packet

	myOK     = 0x00
	myMore   = 0x01 // a method of authentication goes on
	myQuit   = 0x01 // a command
	mySwitch = 0xfe // another method of authentication
	myErr    = 0xff

	myLongPassword = 1 << 0
	myWithDatabase = 1 << 3
	myProtocol41   = 1 << 9
	mySecure       = 1 << 15
	myPluginAuth   = 1 << 19
)

// myDenials are errors that a server has for a login that it looked at: it works.
var myDenials = []uint16{
	1044, // no access to the database
	1045, // wrong password
	1251, // the client is too old
	1698, // no password
	1862, // password expired
	3118, // account locked
	3159, // only by TLS
	3955, // account locked for a while
	4151, // account locked (MariaDB)
}

// probeMySQL reads the greeting and logs in, without a password. A server counts those
// who leave without that, and refuses a host with too many (max_connect_errors).
func probeMySQL(ctx context.Context, s SQLCheck, e Endpoint) error {
	c, err := dial(ctx, "tcp", e)
	if err != nil {
		return err
	}
	defer c.Close()
	packet, err := readMySQL(c)
	if err != nil {
		return err
	}
	offers, err := parseGreeting(packet)
	if err != nil || offers&myProtocol41 == 0 || offers&mySecure == 0 {
		return err // one so old is not talked to
	}
	if err := writeMySQL(c, 1, loginMySQL(s, offers)); err != nil {
		return err
	}
	for number := byte(3); number < 9; number += 2 {
		if packet, err = readMySQL(c); err != nil {
			return err
		}
		switch packet[0] {
		case myOK:
			_ = writeMySQL(c, 0, []byte{myQuit})
			return nil
		case myErr:
			code, text := parseMyError(packet)
			if slices.Contains(myDenials, code) && (code != 1044 || s.Database == "") {
				return nil
			}
			return fmt.Errorf("MySQL: error %d: %s", code, quote(text))
		case mySwitch: // no password by this method either
			if err := writeMySQL(c, number, nil); err != nil {
				return err
			}
		case myMore:
			return nil
		default:
			return fmt.Errorf("not MySQL: %s", quote(packet))
		}
	}
	return errors.New("MySQL: the login does not end")
}

// parseGreeting returns what the server says that it can.
func parseGreeting(packet []byte) (offers uint32, err error) {
	if packet[0] == myErr {
		code, text := parseMyError(packet)
		return 0, fmt.Errorf("MySQL: error %d: %s", code, quote(text))
	}
	_, rest, ok := bytes.Cut(packet[1:], []byte{0}) // the version
	if packet[0] != 10 || !ok || len(rest) < 4+8+1+2 {
		return 0, fmt.Errorf("not MySQL: %s", quote(packet))
	}
	rest = rest[4+8+1:] // number of the connection, a challenge, 0
	offers = uint32(binary.LittleEndian.Uint16(rest))
	if len(rest) >= 2+1+2+2 { // charset, status
		offers |= uint32(binary.LittleEndian.Uint16(rest[2+1+2:])) << 16
	}
	return offers, nil
}

// parseMyError returns the number and the text of an error. There is "#" and five
// characters of SQLSTATE in between, except before the greeting.
func parseMyError(packet []byte) (code uint16, text []byte) {
	if len(packet) < 3 {
		return 0, nil
	}
	code, text = binary.LittleEndian.Uint16(packet[1:]), packet[3:]
	if len(text) >= 6 && text[0] == '#' {
		text = text[6:]
	}
	return code, text
}

func loginMySQL(s SQLCheck, offers uint32) []byte {
	can := uint32(myLongPassword | myProtocol41 | mySecure)
	if s.Database != "" {
		can |= myWithDatabase
	}
	can |= offers & myPluginAuth
	b := binary.LittleEndian.AppendUint32(nil, can)
	b = binary.LittleEndian.AppendUint32(b, mostMySQL)
	b = append(b, 33)                  // utf8
	b = append(b, make([]byte, 23)...) // reserved
	b = append(b, firstOf(s.User, loginName)...)
	b = append(b, 0, 0) // end of the name; the length of the password
	if s.Database != "" {
		b = append(append(b, s.Database...), 0)
	}
	if can&myPluginAuth != 0 {
		b = append(append(b, "mysql_native_password"...), 0)
	}
	return b
}

// readMySQL reads a packet: three bytes of length, a number, at least one byte.
func readMySQL(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(head[0]) | int(head[1])<<8 | int(head[2])<<16
	if n == 0 || n > mostMySQL {
		return nil, fmt.Errorf("not MySQL: %s", quote(head[:]))
	}
	packet := make([]byte, n)
	if _, err := io.ReadFull(r, packet); err != nil {
		return nil, unexpected(err)
	}
	return packet, nil
}

func writeMySQL(c net.Conn, number byte, packet []byte) error {
	n := len(packet)
	_, err := c.Write(append([]byte{byte(n), byte(n >> 8), byte(n >> 16), number}, packet...))
	return err
}

// unexpected is an end where more was announced.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
