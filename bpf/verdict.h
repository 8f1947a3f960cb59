/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Why a packet left the program: every way out has a reason, and every reason
 * is counted. Go has a sentence for each (verdict.go); a test compares the two.
 */
#pragma once

enum verdict {
	VERDICT_CONTINUE, /* not a verdict: the packet goes on to the next step */

	/* Sent to a real server, or left to the own stack because it is one. */
	VERDICT_FORWARD_CONNECTION, /* of a known connection */
	VERDICT_FORWARD_NEW,	    /* scheduled */
	VERDICT_FORWARD_ADOPTED,    /* a connection that began before our time, by the hash */
	VERDICT_FORWARD_UNTRACKED,  /* by the hash and not remembered */
	VERDICT_FORWARD_ONE_PACKET, /* scheduled and not remembered: one-packet scheduling */
	VERDICT_FORWARD_FRAGMENT,   /* not the first of its datagram; goes where that went */
	VERDICT_FORWARD_RELATED,    /* an ICMP error about a known connection */
	/* One about a connection that is in no table: by the hash, and */
	VERDICT_FORWARD_RELATED_TO_ALL,	 /* its daemon gives a copy to each other server */
	VERDICT_FORWARD_RELATED_ONLY,	 /* there is no other server */
	VERDICT_FORWARD_RELATED_BY_HASH, /* enough copies in this second, or too many servers */
	VERDICT_FORWARD_RELATED_UNHEARD, /* the daemon takes no more */
	VERDICT_FORWARD_RELATED_COPY,	 /* such a copy */
	VERDICT_FORWARD_LOCAL,	    /* any of these, and the real server is the director itself */

	/* Left to the director's own stack. */
	VERDICT_PASS_NOT_IP,
	VERDICT_PASS_VLAN,	    /* of a VLAN that no service side is on, or with several tags */
	VERDICT_PASS_NOT_HOST,	    /* the frame is not addressed to this interface */
	VERDICT_PASS_NOT_SERVED,    /* no virtual service there */
	VERDICT_PASS_PROTOCOL,	    /* neither TCP, UDP nor SCTP */
	VERDICT_PASS_FRAGMENT,	    /* of what is not ours */
	VERDICT_PASS_MALFORMED,	    /* lengths that cannot be */
	VERDICT_PASS_STRAY,	    /* TCP without SYN, SCTP without INIT, and without a connection */
	VERDICT_PASS_OWN_SOURCE,    /* from this host, and no real server could answer to where it is from */

	/* Answered by ourselves. */
	VERDICT_REPLY_NO_SERVER,    /* ICMP port unreachable */
	VERDICT_REPLY_TTL,	    /* ICMP time exceeded */
	VERDICT_REPLY_TOO_BIG,	    /* ICMP fragmentation needed, packet too big */
	VERDICT_REPLY_RESET,	    /* TCP RST: no SYN and no connection */

	/* Dropped. */
	VERDICT_DROP_NO_SERVER,	    /* like the reply, but enough of those were sent this second */
	VERDICT_DROP_TTL,
	VERDICT_DROP_TOO_BIG,
	VERDICT_DROP_STRAY,	    /* TCP without a connection, as the service has it */
	VERDICT_DROP_COPY,	    /* of an ICMP error: the kernel did not send it */
	VERDICT_DROP_UNRESOLVED,    /* the real server's MAC is unknown */
	VERDICT_DROP_MOVING,	    /* TCP without SYN: its connection may be on the way from a predecessor's table */
	VERDICT_DROP_REMOVED,	    /* its connection's real server was removed */
	VERDICT_DROP_DENIED,	    /* from a prefix that is on the service's deny list */
	VERDICT_DROP_SOURCE_LIMIT,  /* it would begin a connection, and its source has begun as many as it may */
	VERDICT_DROP_FRAGMENT,	    /* its datagram's first fragment was dropped or answered */
	VERDICT_DROP_PARKED,	    /* an early fragment: the daemon keeps it until the first one is there */
	VERDICT_DROP_PARK_FULL,	    /* it could not take it */
	VERDICT_DROP_PARK_LOST,	    /* of those parked: the first did not come in time */

	/* Bugs of ours: something is missing that must be there. */
	VERDICT_ABORTED,

	/* Since then; numbers above stay as they are. */
	VERDICT_REPLY_ENDED,	    /* TCP RST: the connection's server failed or was drained, and its clients are told */

	VERDICT_MAX,
};
