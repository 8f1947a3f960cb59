// SPDX-License-Identifier: MIT

package config

import (
	"slices"

	"github.com/shunt-lvs/shunt/internal/health"
	"github.com/shunt-lvs/shunt/internal/ipvsadm"
	"github.com/shunt-lvs/shunt/internal/lvs"
)

// The structs of this file are the file's keys: what is read, what the schema
// says, and what docs/configuration.md has to name. Of their tags:
//
//	key       the key's name
//	doc       one sentence for people
//	default   what counts if it is left out, for people
//	required  "yes": it may not be left out
//	kinds     of a check: the kinds that have it
//
// The others belong to the type of the value (values.go). A struct with a method
// short may be written as one value, too. The tags of place are about the mapping
// as a whole: one of these keys, and no more, has to be there (either).

// fileKeys is a whole file.
type fileKeys struct {
	place
	Director   *directorKeys     `key:"director" doc:"How the director is started. Left out, the file is not about a director, unless it has services."`
	RealServer *realServerKeys   `key:"realserver" doc:"How a real server is started, on a host that is one."`
	Notify     list[notifyKeys]  `key:"notify" doc:"Who is told when a server, a service or a VIP goes up or down."`
	Checks     named[checkKeys]  `key:"checks" form:"name" doc:"Checks by name, for services to use."`
	Defaults   *defaultsKeys     `key:"defaults" doc:"What counts for every service that does not say otherwise."`
	Services   list[serviceKeys] `key:"services" doc:"The virtual services. Their order is kept."`
}

type directorKeys struct {
	place
	Interfaces   list[text]    `key:"interfaces" form:"device" doc:"The interfaces by which packets to the VIPs come in. The VIPs go on the first."`
	VIPs         list[address] `key:"vips" doc:"Addresses to own. Those of services need not be named."`
	Mode         word          `key:"mode" words:"mode" default:"auto" doc:"How the data plane is attached to the interfaces. auto tries native XDP, then generic."`
	LocalClients flag          `key:"local_clients" default:"false" doc:"Programs on the director may be clients of the VIPs, too."`
	Connections  number        `key:"connections" min:"1" max:"4294967295" default:"1048576" doc:"How many IPv4 connections to have room for, and half as many of IPv6 and persistent ones."`
	VLANs        named[vlan]   `key:"vlans" form:"device" doc:"Interfaces that are VLANs of others without being VLAN devices of the kernel."`
	Timeouts     *timeoutKeys  `key:"timeouts" doc:"How long an idle connection stays."`
}

// vlan is "eth0/100".
type vlan struct{ text }

type timeoutKeys struct {
	place
	TCP    duration `key:"tcp" min:"1s" max:"31d" whole:"yes" default:"15m" doc:"An established TCP connection."`
	TCPFin duration `key:"tcpfin" min:"1s" max:"31d" whole:"yes" default:"2m" doc:"A TCP connection after a FIN."`
	UDP    duration `key:"udp" min:"1s" max:"31d" whole:"yes" default:"5m" doc:"A UDP flow."`
}

type realServerKeys struct {
	place
	VIPs   list[address] `key:"vips" required:"yes" doc:"The VIPs whose requests this host accepts."`
	Method word          `key:"method" words:"method" default:"loopback" doc:"loopback puts the VIPs on lo, silent in ARP. redirect has nftables redirect their ports to local ones."`
	Ports  list[text]    `key:"ports" form:"port" doc:"With method redirect: which ports, as 80/tcp, or 80/tcp:8080 to another local one."`
	Agent  *reportKeys   `key:"agent" doc:"What this host tells directors of its load."`
}

type reportKeys struct {
	place
	Listen     text       `key:"listen" form:"listen" required:"yes" doc:"Where directors ask, as 172.16.16.177:9292."`
	SecretFile text       `key:"secret_file" form:"path" required:"yes" doc:"A file with what both sides know."`
	Report     word       `key:"report" words:"report" default:"cpu" doc:"What the load is measured by."`
	Command    list[text] `key:"command" doc:"With report script: a program, by its absolute path, and its arguments. It prints the load in percent."`
	User       text       `key:"user" form:"name" default:"nobody" doc:"Whose rights the program has."`
	Full       number     `key:"full" min:"1" max:"10000000" default:"1000" doc:"With report connections: how many of them are a load of 100 percent."`
	Interval   duration   `key:"interval" min:"100ms" max:"1h" default:"1s" doc:"How often it measures."`
}

type notifyKeys struct {
	place   `either:"command url log"`
	Command list[text] `key:"command" doc:"A program, by its absolute path, and its arguments. What happened is in its environment, as SHUNT_…."`
	URL     text       `key:"url" form:"url" doc:"Where a JSON document is posted to."`
	Log     word       `key:"log" words:"level" doc:"The level at which it is logged."`
	Timeout duration   `key:"timeout" min:"100ms" max:"1h" default:"10s" doc:"How long the program or the request may take."`
	User    text       `key:"user" form:"name" default:"nobody" doc:"Whose rights the program has."`
	On      list[word] `key:"on" words:"event" default:"all of them" doc:"What it is told of."`
}

// careKeys are what defaults and services have in common.
type careKeys struct {
	Scheduler   word           `key:"scheduler" words:"scheduler" default:"wlc" doc:"How a real server is chosen."`
	Policy      *policyKeys    `key:"policy" doc:"What IPVS has switches of the whole host for."`
	SourceLimit rate           `key:"source_limit" default:"none" doc:"How many new connections one source may make: a second, and at once. What is more is dropped."`
	Checks      list[checkUse] `key:"checks" doc:"What every server is asked: names of checks, kinds, or checks. [] is none."`
	Check       *timingKeys    `key:"check" doc:"What counts for checks that do not say otherwise."`
	Require     word           `key:"require" words:"require" default:"all" doc:"Whether all checks of a server have to succeed, or any."`
	OnFailure   word           `key:"on_failure" words:"failure" default:"quiesce" doc:"A failed server is quiesced (weight 0) or removed."`
	Connections word           `key:"connections" words:"fate" default:"keep" doc:"What becomes of a failed server's connections: they go on, are forgotten, or their clients get a TCP reset."`
	Quorum      *quorumKeys    `key:"quorum" doc:"How many servers make a service usable."`
	Withdraw    flag           `key:"withdraw_vip" default:"false" doc:"The VIP leaves the wire when no service of it is usable."`
	Alpha       flag           `key:"alpha" default:"false" doc:"A new server is down until its checks succeed."`
	SlowStart   duration       `key:"slow_start" max:"1d" default:"0" doc:"How long a server that comes up takes to its full weight."`
	Flap        *flapKeys      `key:"flap" doc:"A server that goes up and down all the time is kept down. false is off."`
	Passive     *passiveKeys   `key:"passive" doc:"A server whose connections die young is taken out before a check finds it. true has the defaults, false is off."`
	Agent       *weighKeys     `key:"agent" doc:"Weights follow from what servers say of their load. false is off."`
}

type defaultsKeys struct {
	place
	careKeys
}

type serviceKeys struct {
	place          `either:"address mark"`
	Name           text             `key:"name" form:"name" default:"the address" doc:"What it is called, once in a file."`
	Address        endpoint         `key:"address" doc:"The VIP and the port, as 172.16.16.172:80. Port 0 is every port and needs persistence."`
	Protocol       word             `key:"protocol" words:"protocol" default:"tcp" doc:"The transport protocol."`
	Mark           number           `key:"mark" min:"1" max:"4294967295" doc:"A firewall mark in place of an address: one service for what match lists."`
	Family         word             `key:"family" words:"family" default:"ipv4" doc:"With mark: of which packets."`
	Match          list[match]      `key:"match" doc:"With mark: which packets have it, as tcp 172.16.16.172:21 or tcp 172.16.16.172:30000-30100."`
	SchedulerFlags list[word]       `key:"scheduler_flags" words:"schedulerflag" what:"scheduler flag" doc:"What ipvsadm has -b for."`
	Persistence    *persistenceKeys `key:"persistence" doc:"A client comes back to its server for so long; or a mapping."`
	OnePacket      flag             `key:"one_packet" default:"false" doc:"Each datagram is scheduled by itself (UDP)."`
	Deny           list[prefix]     `key:"deny" doc:"Whose packets are dropped."`
	Servers        list[serverKeys] `key:"servers" doc:"The real servers. Their order is kept: it decides ties."`
	Sorry          endpoint         `key:"sorry_server" port:"optional" doc:"A server that answers while no other can."`
	careKeys
}

type persistenceKeys struct {
	place
	Timeout duration `key:"timeout" min:"1s" max:"31d" whole:"yes" default:"6m" doc:"How long a client comes back to its server."`
	Mask    mask     `key:"mask" default:"32, or 128 for IPv6" doc:"Which clients count as one: a prefix length, or for IPv4 a mask."`
}

type policyKeys struct {
	place
	Stray           word   `key:"stray" words:"stray" default:"adopt" doc:"What becomes of packets of no known connection (TCP and SCTP)."`
	ConnReuse       number `key:"conn_reuse_mode" min:"0" max:"3" default:"2" doc:"On which known connections a SYN opens another one (TCP and SCTP)."`
	ExpireNodest    flag   `key:"expire_nodest_conn" default:"true" doc:"Connections of a removed server are scheduled anew."`
	ExpireQuiescent flag   `key:"expire_quiescent_template" default:"true" doc:"A persistent client of a quiesced server gets another one with its next connection."`
	SecureTCP       flag   `key:"secure_tcp" default:"false" doc:"A SYN leads to state SYNACK in place of SYN_RECV (TCP)."`
}

type serverKeys struct {
	place
	Address endpoint       `key:"address" port:"optional" required:"yes" doc:"The RIP. Its port is the service's: direct routing changes none."`
	Name    text           `key:"name" form:"name" default:"the address" doc:"What it is called, once in a service."`
	Weight  number         `key:"weight" min:"0" max:"2147483647" default:"1" doc:"Its capacity. 0: no new connections."`
	Upper   number         `key:"upper" min:"0" max:"2147483647" default:"0, no limit" doc:"With so many connections it gets no new ones."`
	Lower   number         `key:"lower" min:"0" max:"2147483647" default:"three quarters of upper" doc:"With less than so many it gets new ones again."`
	Checks  list[checkUse] `key:"checks" doc:"What this server is asked, in place of the service's checks."`
	Check   *timingKeys    `key:"check" doc:"What counts for this server's checks that do not say otherwise."`
	Require word           `key:"require" words:"require" doc:"Whether all of its checks have to succeed, or any."`
	Agent   *weighKeys     `key:"agent" doc:"Its own agent, in place of the service's."`
}

type quorumKeys struct {
	place
	Up   number `key:"up" min:"1" max:"100000" default:"1" doc:"So many servers make a service usable that was not."`
	Down number `key:"down" min:"1" max:"100000" default:"up" doc:"With less than so many it is not usable any more."`
}

type flapKeys struct {
	place
	off     bool
	Changes number   `key:"changes" min:"2" max:"1000" default:"5" doc:"After so many changes"`
	Within  duration `key:"within" min:"1s" max:"7d" default:"1m" doc:"in so short a time"`
	Hold    duration `key:"hold" min:"1s" max:"7d" default:"5m" doc:"it is kept down for so long."`
}

type passiveKeys struct {
	place
	off        bool
	Window     duration `key:"window" min:"1s" max:"1h" default:"5s" doc:"What is looked at."`
	Minimum    number   `key:"minimum" min:"1" max:"1000000" default:"10" doc:"With less connections in it nothing is concluded."`
	Unanswered share    `key:"unanswered" max:"100" default:"50%" doc:"The share of connections that were not answered. 0% does not look at it."`
	Resets     share    `key:"resets" max:"100" default:"50%" doc:"The share of connections that the client reset. 0% does not look at it."`
	Hold       duration `key:"hold" min:"1s" max:"7d" default:"10s" doc:"How long the server is out, twice as long each time."`
	MostOut    share    `key:"most_out" max:"100" default:"50%" doc:"The share of a service's servers that may be out because of this."`
}

type weighKeys struct {
	place
	off        bool
	Protocol   word     `key:"protocol" words:"agentprotocol" default:"shunt" doc:"shunt's own agent (realserver.agent), or HAProxy's agent-check, which has no authentication."`
	Port       number   `key:"port" min:"1" max:"65535" default:"9292" doc:"The agent's port on the server. HAProxy's has no default."`
	SecretFile text     `key:"secret_file" form:"path" doc:"With protocol shunt: a file with what both sides know."`
	Interval   duration `key:"interval" min:"100ms" max:"1h" default:"2s" doc:"How often it is asked."`
	Weight     bounds   `key:"weight" default:"10%-200%" doc:"Between which shares of the configured weight the weight moves."`
}

// timingKeys are how often a check asks, and what it asks for.
type timingKeys struct {
	place
	timing
}

type timing struct {
	Interval duration `key:"interval" min:"10ms" max:"1d" default:"2s" doc:"From the begin of one to the begin of the next."`
	Timeout  duration `key:"timeout" min:"1ms" max:"1d" default:"1s" doc:"How long one may take."`
	Rise     number   `key:"rise" min:"1" max:"1000" default:"2" doc:"So many successes in a row make a server well."`
	Fall     number   `key:"fall" min:"1" max:"1000" default:"3" doc:"So many failures in a row make it ill."`
	Jitter   share    `key:"jitter" max:"50" default:"10%" doc:"By which share of the interval one comes earlier or later, so that not all come at once."`
	Target   word     `key:"target" words:"target" default:"vip; rip for a service by mark" doc:"vip: the server is asked as a client does, at the VIP. rip: at its own address."`
}

// checkUse is a check in a list of checks: the name of one, a kind, or a check.
type checkUse struct {
	ref string // not empty: what is written, which is no mapping
	checkKeys
}

type checkKeys struct {
	place
	Type word   `key:"type" words:"kind" what:"kind of check" required:"yes" doc:"What is asked."`
	Name text   `key:"name" form:"name" default:"the name under checks, or the kind" doc:"What it is called."`
	Port number `key:"port" min:"1" max:"65535" kinds:"tcp http https http2 tls grpc dns udp smtp mysql postgres redis script" default:"the service's; the first of match for a service by mark" doc:"Another port."`
	timing

	Method      text         `key:"method" form:"name" kinds:"http https http2" default:"GET" doc:"The request's method."`
	Path        text         `key:"path" form:"path" kinds:"http https http2 file" default:"/" doc:"http: the path, with query, that is asked for. file: the file."`
	Host        text         `key:"host" form:"name" kinds:"http https http2" default:"server_name, or the VIP" doc:"The request's Host."`
	Headers     named[value] `key:"headers" form:"name" kinds:"http https http2" doc:"Headers of the request."`
	Body        text         `key:"body" empty:"yes" kinds:"http https http2" doc:"The request's body."`
	Plain       flag         `key:"plain" kinds:"http2 grpc" default:"false" doc:"Without TLS."`
	Status      statuses     `key:"status" kinds:"http https http2" default:"200-399" doc:"Which statuses are right. A redirection is not followed."`
	Digest      text         `key:"digest" form:"digest" kinds:"http https http2" doc:"The body's digest, as sha256:HEX or md5:HEX."`
	Answer      named[value] `key:"answer_headers" form:"name" kinds:"http https http2" doc:"Headers that the answer has to have. An empty value: whatever it says."`
	MaxBody     number       `key:"max_body" min:"1" max:"1073741824" kinds:"http https http2" default:"1048576" doc:"How many bytes of the body are read."`
	Send        text         `key:"send" kinds:"tcp tls udp" doc:"What is sent once connected."`
	SendHex     text         `key:"send_hex" form:"hex" kinds:"tcp tls udp" doc:"The same in hexadecimal, for what is no text."`
	Contains    text         `key:"contains" kinds:"http https http2 tcp tls udp" doc:"What the answer (of http, its body) has to contain."`
	ContainsHex text         `key:"contains_hex" form:"hex" kinds:"tcp tls udp" doc:"The same in hexadecimal, for what is no text."`
	Regex       text         `key:"regex" form:"regex" kinds:"http https http2 tcp tls udp" doc:"A regular expression (RE2) that the answer (of http, its body) has to match."`

	ServerName text       `key:"server_name" form:"name" kinds:"https http2 tls grpc smtp" doc:"The name for SNI, which is also verified. Left out, none is sent."`
	Verify     flag       `key:"verify" kinds:"https http2 tls grpc smtp" default:"false" doc:"The certificate's chain is verified, and server_name if there is one."`
	CAFile     text       `key:"ca_file" form:"path" kinds:"https http2 tls grpc smtp" default:"the system's" doc:"Certificates (PEM) that are trusted."`
	CertFile   text       `key:"cert_file" form:"path" kinds:"https http2 tls grpc smtp" doc:"A client's certificate (PEM)."`
	KeyFile    text       `key:"key_file" form:"path" kinds:"https http2 tls grpc smtp" doc:"Its key (PEM)."`
	ValidFor   duration   `key:"valid_for" max:"3650d" kinds:"https http2 tls grpc smtp" default:"0" doc:"The certificate has to be valid for so long yet."`
	ALPN       list[text] `key:"alpn" form:"name" kinds:"tls" doc:"Protocols, one of which has to be agreed on."`

	Service text `key:"service" form:"name" kinds:"grpc" default:"the server as a whole" doc:"The service that is asked for."`

	Query   text       `key:"query" form:"name" kinds:"dns" default:"." doc:"The name that is asked for."`
	Record  word       `key:"record" words:"record" what:"type of record" kinds:"dns" default:"A; SOA for ." doc:"The type of record that is asked for."`
	TCP     flag       `key:"tcp" kinds:"dns" default:"as the service" doc:"Ask by TCP."`
	RCode   list[word] `key:"rcode" words:"rcode" kinds:"dns" default:"[NOERROR]" doc:"Which answers are right."`
	Records list[text] `key:"answer" kinds:"dns" doc:"Data of records, one of which has to be there."`

	Hello    text `key:"hello" form:"name" kinds:"smtp" default:"localhost" doc:"The name that is said with EHLO."`
	StartTLS flag `key:"starttls" kinds:"smtp" default:"false" doc:"STARTTLS has to work."`

	User     text `key:"user" form:"name" kinds:"mysql postgres script" default:"shunt; script: nobody" doc:"postgres, mysql: the user of the login (no password is sent). script: whose rights it has."`
	Database text `key:"database" form:"name" kinds:"mysql postgres" doc:"A database that has to be there."`

	PasswordFile text `key:"password_file" form:"path" kinds:"redis" doc:"A file with the password for AUTH."`
	Role         word `key:"role" words:"role" kinds:"redis" default:"either" doc:"The role that the server has to have."`

	Command   list[text] `key:"command" kinds:"script" doc:"A program, by its absolute path, and its arguments. Exit code 0 is success."`
	MaxOutput number     `key:"max_output" min:"1" max:"1048576" kinds:"script" default:"4096" doc:"How many bytes of its output are kept."`

	Missing word     `key:"missing" words:"updown" kinds:"file" default:"down" doc:"What it means that there is no file."`
	MaxAge  duration `key:"max_age" kinds:"file" default:"any" doc:"An older file means down."`
}

// value is what a header has: one line, perhaps empty.
type value struct{ text }

// vocabulary is the words that a key can have.
func vocabulary(name string) []string {
	switch name {
	case "scheduler":
		return stringsOf(lvs.Schedulers())
	case "kind":
		return stringsOf(health.Kinds())
	case "stray":
		return lvs.Strays()
	case "fate":
		return lvs.Fates()
	case "schedulerflag":
		return ipvsadm.SchedulerFlags()
	}
	return map[string][]string{
		"mode":          {"auto", "native", "generic", "tc"},
		"method":        {"loopback", "redirect"},
		"report":        {"cpu", "connections", "script"},
		"level":         {"info", "warn", "error"},
		"event":         {"server", "service", "vip"},
		"require":       {"all", "any"},
		"failure":       {"quiesce", "remove"},
		"protocol":      {"tcp", "udp", "sctp"},
		"family":        {"ipv4", "ipv6"},
		"agentprotocol": {"shunt", "haproxy"},
		"target":        {"vip", "rip"},
		"updown":        {"up", "down"},
		"role":          {"master", "slave"},
		"record":        {"A", "AAAA", "CAA", "CNAME", "HTTPS", "MX", "NAPTR", "NS", "PTR", "SOA", "SRV", "SVCB", "TXT"},
		"rcode":         {"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"},
	}[name]
}

func stringsOf[T ~string](all []T) []string {
	words := make([]string, len(all))
	for i, w := range all {
		words[i] = string(w)
	}
	return slices.Clip(words)
}
