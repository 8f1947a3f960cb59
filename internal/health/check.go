// SPDX-License-Identifier: MIT

package health

import (
	"net/netip"
	"time"

	"github.com/shunt-lvs/shunt/internal/lvs"
)

// Kind is a way to ask a real server whether it is well.
type Kind string

// The kinds of checks.
const (
	TCP        Kind = "tcp"   // it takes a connection, and says what is expected
	HTTP       Kind = "http"  // HTTP/1.1
	HTTPS      Kind = "https" // HTTP/1.1 by TLS
	HTTP2      Kind = "http2" // HTTP/2, by TLS unless Check.HTTP.Plain
	TLS        Kind = "tls"   // a handshake
	GRPC       Kind = "grpc"  // grpc.health.v1.Health/Check
	DNS        Kind = "dns"
	UDP        Kind = "udp" // a datagram; without an expected answer: no ICMP error
	SMTP       Kind = "smtp"
	ICMP       Kind = "icmp" // an echo
	MySQL      Kind = "mysql"
	PostgreSQL Kind = "postgres"
	Redis      Kind = "redis"
	Script     Kind = "script" // a program's exit code
	File       Kind = "file"   // what a file says
)

// Kinds lists all kinds.
func Kinds() []Kind {
	return []Kind{TCP, HTTP, HTTPS, HTTP2, TLS, GRPC, DNS, UDP, SMTP, ICMP, MySQL, PostgreSQL, Redis, Script, File}
}

// Check is what is asked of a real server, and how often. What does not belong
// to its kind is zero.
type Check struct {
	Name string // for people; empty: the kind
	Kind Kind
	// ToRIP asks the server at its own address. Otherwise what is asked goes to
	// the VIP, on that server, and finds out whether the VIP works there.
	ToRIP bool
	Port  uint16 // host byte order; 0: the service's

	Interval time.Duration // from the begin of one to the begin of the next
	Timeout  time.Duration // of one
	Rise     int           // successes in a row that make a server well, from 1
	Fall     int           // failures in a row that make it ill, from 1
	Jitter   float64       // share of Interval by which one comes earlier or later, 0 to 0.5

	HTTP   HTTPCheck   // http, https, http2
	TLS    TLSCheck    // tls, https, http2, grpc; smtp with STARTTLS
	GRPC   GRPCCheck   // grpc
	Talk   TalkCheck   // tcp, tls, udp
	DNS    DNSCheck    // dns
	SMTP   SMTPCheck   // smtp
	SQL    SQLCheck    // mysql, postgres
	Redis  RedisCheck  // redis
	Script ScriptCheck // script
	File   FileCheck   // file
}

// HTTPCheck is a request and what its answer has to be. Redirects are not
// followed: one is an answer with its status.
type HTTPCheck struct {
	Method  string // empty: GET
	Path    string // with query; empty: /
	Host    string // empty: the VIP (or TLS.ServerName)
	Headers []Header
	Body    string // of the request
	Plain   bool   // http2 without TLS

	Status  []StatusRange // empty: 200 to 399
	Expect  string        // a text that the body contains
	Pattern string        // a regular expression (RE2) that the body matches
	Digest  string        // the body's: "sha256:HEX" or "md5:HEX", as keepalived's genhash has it
	Answer  []Header      // headers of the answer; an empty value: that it is there
	MaxBody int64         // bytes that are read, by which a longer body is judged; 0: 1 MiB
}

// Header is one header of HTTP.
type Header struct{ Name, Value string }

// StatusRange are HTTP statuses, both ends included.
type StatusRange struct{ First, Last int }

// TLSCheck is how a TLS connection is made and what is asked of its certificate.
type TLSCheck struct {
	ServerName string        // SNI, and the name that is verified; empty: none is sent
	Verify     bool          // the chain, and ServerName if there is one
	CAFile     string        // PEM; empty: the system's
	CertFile   string        // PEM, a client's certificate; empty: none
	KeyFile    string        // its key
	ValidFor   time.Duration // the certificate must be valid at least so long; 0: only now, which always counts
	ALPN       []string      // tls: one of them has to be agreed on
}

// GRPCCheck names the service that is asked for; empty: the server as a whole.
type GRPCCheck struct {
	Service string
	Plain   bool // without TLS
}

// TalkCheck is what is sent once connected, and what has to come back.
type TalkCheck struct {
	Send    string // raw bytes; empty: nothing
	Expect  string // raw bytes that the answer contains; empty: anything
	Pattern string // a regular expression (RE2) for the answer
}

// DNSCheck is a question.
type DNSCheck struct {
	Name   string   // empty: "."
	Type   string   // "A", "SOA", …; empty: SOA for ".", else A
	TCP    bool     // ask by TCP
	RCode  []string // allowed; empty: NOERROR
	Answer []string // texts of records (the data part), one of which has to be there; empty: any
}

// SMTPCheck is a session: greeting, EHLO, STARTTLS if asked for, QUIT.
type SMTPCheck struct {
	Hello    string // the name given with EHLO; empty: localhost
	StartTLS bool
}

// SQLCheck is a login without a password. A server that asks for one, or refuses
// this user, is well; one that takes no logins at all (starting, full) is not.
type SQLCheck struct {
	User     string // who logs in, and whom the server's log shows; empty: shunt
	Database string // one that has to be there; empty: none in particular
}

// RedisCheck is a PING, after AUTH if there is a password.
type RedisCheck struct {
	PasswordFile string
	Role         string // "master" or "slave": what INFO replication must say; empty: either
}

// ScriptCheck is a program. It gets the server in its environment: SHUNT_VIP,
// SHUNT_RIP, SHUNT_PORT, SHUNT_PROTOCOL, SHUNT_CHECK. Exit code 0 is success; the
// first line of its output is the reason otherwise. Its time is Check.Timeout.
// SHUNT_PROTOCOL is "tcp", "udp", "sctp" or, of a service by mark, "fwm".
type ScriptCheck struct {
	Command   []string // path and arguments
	User      string   // whose rights it has; empty: nobody
	MaxOutput int      // bytes that are kept, the rest is thrown away; 0: 4 KiB
}

// FileCheck is a file whose first word says how the server is: "up", "down", or
// a number, of which 0 and less is down. A file that is not there is down, unless
// Missing says "up".
type FileCheck struct {
	Path    string
	Missing string        // "up" or "down"; empty: down
	MaxAge  time.Duration // an older file is down; 0: any age
}

// Endpoint is where a check goes.
type Endpoint struct {
	Protocol lvs.Protocol // of the service
	VIP      netip.Addr   // not valid: of a service by mark, whose checks go to the RIP
	RIP      netip.Addr
	Port     uint16 // host byte order; of the check, else of the service
	// Mark has the host's kernel send what goes to the RIP to the VIP there
	// (SO_MARK); 0: it goes to the RIP.
	Mark uint32
	// Device is the interface that a socket with a mark is bound to: by another one
	// it would reach the RIP itself. Empty: none.
	Device string
	// NoWay is why this host cannot send anything to the VIP there; empty: it can.
	NoWay string
	// Local: the RIP is this host's own, and so is the VIP: what would go to the
	// VIP there goes to the VIP as it is.
	Local bool
}
