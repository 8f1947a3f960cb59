// SPDX-License-Identifier: MIT

package dataplane

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// What became of a packet, in VerdictCount.Action.
const (
	actionForward = "forward"
	actionPass    = "pass"
	actionReply   = "reply"
	actionDrop    = "drop"
)

type verdictText struct{ name, action, help string }

// verdictTexts has an entry for each value of enum verdict (bpf/verdict.h),
// in its order; a test holds the two together.
func verdictTexts() [bpfVerdictVERDICT_MAX]verdictText {
	return [bpfVerdictVERDICT_MAX]verdictText{
		bpfVerdictVERDICT_CONTINUE:                {"continue", actionDrop, "a bug: a packet was let go without a verdict"},
		bpfVerdictVERDICT_FORWARD_CONNECTION:      {"forward_connection", actionForward, "sent to the real server of its connection"},
		bpfVerdictVERDICT_FORWARD_NEW:             {"forward_new", actionForward, "a new connection, sent to the real server that the scheduler chose"},
		bpfVerdictVERDICT_FORWARD_ADOPTED:         {"forward_adopted", actionForward, "in the middle of a connection that is not in the table; sent where the hash says, and remembered"},
		bpfVerdictVERDICT_FORWARD_UNTRACKED:       {"forward_untracked", actionForward, "sent where the hash says and not remembered: its bucket of the table was full, or it was a stray RST or ABORT"},
		bpfVerdictVERDICT_FORWARD_ONE_PACKET:      {"forward_one_packet", actionForward, "scheduled by itself and not remembered: one-packet scheduling"},
		bpfVerdictVERDICT_FORWARD_FRAGMENT:        {"forward_fragment", actionForward, "an IP fragment, sent where the first of its datagram went"},
		bpfVerdictVERDICT_FORWARD_RELATED:         {"forward_related", actionForward, "an ICMP error, sent to the real server of the connection that it is about"},
		bpfVerdictVERDICT_FORWARD_RELATED_TO_ALL:  {"forward_related_to_all", actionForward, "an ICMP error about a connection that is not in the table; sent where the hash says, and by the daemon to the service's other real servers"},
		bpfVerdictVERDICT_FORWARD_RELATED_ONLY:    {"forward_related_only", actionForward, "an ICMP error about a connection that is not in the table; sent to the only real server of its service"},
		bpfVerdictVERDICT_FORWARD_RELATED_BY_HASH: {"forward_related_by_hash", actionForward, "an ICMP error about a connection that is not in the table; sent only where the hash says: enough copies made this second, more than 1001 real servers, or a frame longer than 2048 bytes"},
		bpfVerdictVERDICT_FORWARD_RELATED_UNHEARD: {"forward_related_unheard", actionForward, "an ICMP error about a connection that is not in the table; sent only where the hash says: the daemon is dead, or has too much to do"},
		bpfVerdictVERDICT_FORWARD_RELATED_COPY:    {"forward_related_copy", actionForward, "a copy of an ICMP error about a connection that is not in the table, sent to another real server of its service"},
		bpfVerdictVERDICT_FORWARD_LOCAL:           {"forward_local", actionPass, "scheduled and counted like any; the real server is the director itself, so left to its own stack"},
		bpfVerdictVERDICT_PASS_NOT_IP:             {"pass_not_ip", actionPass, "neither IPv4 nor IPv6: left to the director's own stack"},
		bpfVerdictVERDICT_PASS_VLAN:               {"pass_vlan", actionPass, "of a VLAN that no service side is on, or with several VLAN tags: left to the director's own stack"},
		bpfVerdictVERDICT_PASS_NOT_HOST:           {"pass_not_host", actionPass, "for a virtual service, but the frame is addressed to another MAC, or has no tag where service sides are on VLANs only"},
		bpfVerdictVERDICT_PASS_NOT_SERVED:         {"pass_not_served", actionPass, "no virtual service at its address, port and protocol"},
		bpfVerdictVERDICT_PASS_PROTOCOL:           {"pass_protocol", actionPass, "neither TCP, UDP nor SCTP, nor an ICMP error about those"},
		bpfVerdictVERDICT_PASS_FRAGMENT:           {"pass_fragment", actionPass, "an IP fragment of what is left to the director's own stack"},
		bpfVerdictVERDICT_PASS_MALFORMED:          {"pass_malformed", actionPass, "lengths in its headers that cannot be, or SCTP without a chunk"},
		bpfVerdictVERDICT_PASS_STRAY:              {"pass_stray", actionPass, "TCP without SYN, or SCTP without INIT, and without a connection, left to the director's own stack"},
		bpfVerdictVERDICT_PASS_OWN_SOURCE:         {"pass_own_source", actionPass, "from this host, by a socket bound to the VIP or to a loopback address, to which no other machine can answer: left to the own stack"},
		bpfVerdictVERDICT_REPLY_NO_SERVER:         {"reply_no_server", actionReply, "no real server available: ICMP port unreachable sent"},
		bpfVerdictVERDICT_REPLY_TTL:               {"reply_ttl", actionReply, "TTL used up: ICMP time exceeded sent"},
		bpfVerdictVERDICT_REPLY_TOO_BIG:           {"reply_too_big", actionReply, "longer than the way to the real server takes: ICMP fragmentation needed, or packet too big, sent"},
		bpfVerdictVERDICT_REPLY_RESET:             {"reply_reset", actionReply, "TCP without SYN and without a connection: reset sent"},
		bpfVerdictVERDICT_DROP_TOO_BIG:            {"drop_too_big", actionDrop, "longer than the way to the real server takes, and enough ICMP errors sent this second"},
		bpfVerdictVERDICT_DROP_NO_SERVER:          {"drop_no_server", actionDrop, "no real server available, and enough ICMP errors sent this second"},
		bpfVerdictVERDICT_DROP_TTL:                {"drop_ttl", actionDrop, "TTL used up, and enough ICMP errors sent this second"},
		bpfVerdictVERDICT_DROP_STRAY:              {"drop_stray", actionDrop, "TCP without SYN, or SCTP without INIT, and without a connection; or one with RST, in fragments, or of SCTP, which is not reset"},
		bpfVerdictVERDICT_DROP_COPY:               {"drop_copy", actionDrop, "a copy of an ICMP error about a connection that is not in the table, which the kernel did not send"},
		bpfVerdictVERDICT_DROP_UNRESOLVED:         {"drop_unresolved", actionDrop, "the real server's MAC address is not known: it does not answer ARP or neighbour discovery"},
		bpfVerdictVERDICT_DROP_MOVING:             {"drop_moving", actionDrop, "TCP without SYN, or SCTP without INIT, whose connection may still be on the way from another version's table: a moment of an upgrade"},
		bpfVerdictVERDICT_DROP_REMOVED:            {"drop_removed", actionDrop, "of a connection whose real server was removed"},
		bpfVerdictVERDICT_DROP_DENIED:             {"drop_denied", actionDrop, "from a prefix that is on its service's deny list"},
		bpfVerdictVERDICT_DROP_SOURCE_LIMIT:       {"drop_source_limit", actionDrop, "it would begin a connection, and its source (an IPv4 address, an IPv6 /64) has begun as many as its service's source-limit lets it"},
		bpfVerdictVERDICT_DROP_FRAGMENT:           {"drop_fragment", actionDrop, "an IP fragment, of whose datagram the first was not forwarded either"},
		bpfVerdictVERDICT_DROP_PARKED:             {"drop_parked", actionDrop, "an IP fragment ahead of the first of its datagram: kept by the daemon for up to a second, and put in again when that has come"},
		bpfVerdictVERDICT_DROP_PARK_FULL:          {"drop_park_full", actionDrop, "an IP fragment ahead of the first of its datagram, which the daemon could not take: it is dead or there are too many, or the frame is longer than 2048 bytes"},
		bpfVerdictVERDICT_DROP_PARK_LOST:          {"drop_park_lost", actionDrop, "of the fragments kept: given up, because the first of the datagram did not come, or for want of room"},
		bpfVerdictVERDICT_REPLY_ENDED:             {"reply_ended", actionReply, "TCP of a connection whose real server failed or was drained, and whose clients are to be told: reset sent"},
		bpfVerdictVERDICT_ABORTED:                 {"aborted", actionDrop, "a bug: something that must be in a map was not there"},
	}
}

// Verdicts tells, for every way out of the program, how many packets took it
// since the maps were made.
func (p *Plane) Verdicts() ([]VerdictCount, error) {
	var out []VerdictCount
	for v, text := range verdictTexts() {
		n, err := sumVerdict(p.maps.Verdicts, uint32(v))
		if err != nil {
			return nil, err
		}
		out = append(out, VerdictCount{Name: text.name, Action: text.action, Help: text.help, Packets: n})
	}
	return out, nil
}

func sumVerdict(m *ebpf.Map, v uint32) (uint64, error) {
	var perCPU []uint64
	if err := m.Lookup(v, &perCPU); err != nil {
		return 0, fmt.Errorf("reading the counter of verdict %d: %w", v, err)
	}
	var sum uint64
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}
