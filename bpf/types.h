/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The structures that the program shares with Go (through bpf2go; nothing is
 * mirrored by hand) and what their bits mean.
 *
 * Maps outlive the program that made them. A successor whose structures are
 * others carries the maps' contents over by the names of members, which it finds
 * in the maps' BTF (carry.go). So: a member that comes to mean something else
 * gets another name; numbers of enums that stand in maps are never given to
 * something else, a new one gets a new number (enum word, enum verdict and enum
 * layout are free: the map layouts has them); one whose meaning BTF cannot tell, because
 * several things are packed into it, keeps its packing.
 */
#pragma once

#include "verdict.h"

/* Tests carry over between this layout and another one, and back. */
#ifdef OTHER_LAYOUT
#define IN_ORDER(a, b) b; a
#define OTHER(member) member;
#else
#define IN_ORDER(a, b) a; b
#define OTHER(member)
#endif

/* What a virtual service listens on. Read as one 64-bit number. */
struct listener {
	__be32 addr; /* VIP */
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

/* The same for IPv6. */
struct listener6 {
	OTHER(__u32 other)
	__be32 addr[4];
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

/*
 * Who listens there. The key once more: a map element that was replaced under a
 * packet may hold another listener by the time it is read.
 */
struct listening {
	struct listener listener;
	IN_ORDER(__u32 slot /* of its service */,
		 __u32 id /* in connections: address, port and protocol in one number */);
};

struct listening6 {
	struct listener6 listener;
	__u32 slot;
	__u32 id;
	__u32 pad;
};

enum scheduler {
	SCHEDULER_NONE,
	SCHEDULER_RR,
	SCHEDULER_WRR,
	SCHEDULER_LC,
	SCHEDULER_WLC,
	SCHEDULER_SED,
	SCHEDULER_NQ,
	SCHEDULER_FO,
	SCHEDULER_OVF,
	SCHEDULER_SH,
	SCHEDULER_DH,
	SCHEDULER_MH,
	SCHEDULER_TWOS,
	SCHEDULER_LBLC,
	SCHEDULER_LBLCR,
	SCHEDULER_MAX,
};

/* What becomes of TCP without SYN, and SCTP without INIT, that belongs to no connection. */
enum stray {
	STRAY_ADOPT, /* to the server that the hash names, and remembered */
	STRAY_PASS,  /* to the director's own stack, which resets: kernel IPVS's way */
	STRAY_DROP,
	STRAY_RESET, /* answered with a RST */
};

/*
 * One version of a virtual service. Never changed once published: a change
 * writes another slot and then switches the slot in the listeners map, so that
 * a packet sees all of a change or nothing of it.
 */
struct service {
	OTHER(__u64 other)
	__u32 id;	   /* the same in all versions; in templates, turns. Its listener's, if it has one only */
	__u32 mark;	   /* for Go: what its listeners have in common; 0: it has one only */
	__u32 members;	   /* where its servers are in the members map, newest first */
	__u32 count;	   /* how many they are */
	__u32 hash;	   /* where its consistent-hash table is in hash_slots */
	__u32 hash_size;   /* prime; 0: no server is available */
	__u8 scheduler;	   /* enum scheduler */
	__u8 stray;	   /* enum stray */
	__u16 generation;  /* of the turn below: tells a turn that an older version left */
	__u32 place;	   /* rr, wrr: where the turn starts: 0 is the head, n the n-th member */
	__s32 current;	   /* wrr: current weight */
	__s32 greatest;	   /* wrr: the weight a round starts with */
	__s32 step;	   /* wrr: by which it goes down: the weights' gcd */
	__u32 flags;	   /* enum service_flags */
	__u32 table;	   /* sh, dh, mh: where the scheduler's table is in hash_slots */
	__u32 table_size;
	__u32 timeout;	   /* persistence: life of a template in seconds */
	__u64 mask[2];	   /* persistence: which bits of a client's address count */
	__u32 epoch;	   /* another one when it begins anew: what lblc remembers is of an epoch */
	__u32 groups;	   /* where the groups of its servers are, if they are more than one */
	__u32 denied;	   /* whom it serves not: the list of this number in the map denied */
	__u32 source_rate; /* new connections a second that one source may make */
	__u32 source_burst; /* and at once */
	__u32 pad[7];
};

enum service_flags {
	/* IPVS's switches (net.ipv4.vs), in which shunt's defaults are others. */
	SERVICE_REOPENS_FIN_WAIT = 1, /* a SYN in TIME_WAIT, CLOSE, FIN_WAIT is scheduled anew: conn_reuse_mode's bit 1 */
	SERVICE_LEAVES_REMOVED = 2,   /* so is what belongs to a removed server: expire_nodest_conn 1 */
	/* What ipvsadm says. */
	SERVICE_ONE_PACKET = 4,	 /* -o */
	SERVICE_FALLBACK = 8,	 /* -b sh-fallback, mh-fallback */
	SERVICE_SOURCE_PORT = 16, /* -b sh-port, mh-port */
	SERVICE_PERSISTENT = 32, /* -p */
	SERVICE_EVERY_PORT = 64, /* one template for all ports: port 0, FTP */
	SERVICE_LEAVES_QUIESCED = 128, /* templates of a quiesced server: expire_quiescent_template 1 */
	SERVICE_WIDE = 256,	 /* its connections are in the wide table: IPv6, persistent */
	SERVICE_MOVED = 512,	 /* it was the other way before: look in both tables */
	SERVICE_SIX = 1024,	 /* for Go: it is IPv6 */
	SERVICE_REOPENS = 2048,	 /* a SYN in TIME_WAIT, CLOSE is scheduled anew: conn_reuse_mode's bit 0 */
	SERVICE_SECURE_TCP = 4096, /* secure_tcp's table of states */
	/* Guards (guard.h). */
	SERVICE_DENIES = 8192,	 /* it has a deny list */
	SERVICE_LIMITS_SOURCES = 16384, /* it has a limit of new connections by source */
};

/* A prefix of a deny list, as a trie has it: the first bits of what follows prefix. */
struct denied_key {
	__u32 prefix; /* how many bits: of the list all, and of the address the prefix's */
	__u32 list;
	__u64 client[2]; /* as on the wire; IPv4 is ::a.b.c.d */
};

struct denial {
	OTHER(__u32 other)
	__u32 unused;
};

/*
 * How far sources are ahead of the rate that they may make new connections at. A
 * word says of which source it is, above the time when it will have made up for
 * what it made (SOURCE_TIME_BITS). When that is past, the place is free.
 */
#define SOURCE_WAYS 8
#define SOURCE_TIME_BITS 40
#define SOURCE_SETS 16384

struct source_set {
	__u64 way[SOURCE_WAYS]; /* a cache line */
};

/* Indices in servers. By twos, since the kernel makes an element of 8 bytes at least. */
struct hash_pair {
	__u32 server[2];
};

/* A server in a service's list, in the order of the kernel's list. */
struct member {
	IN_ORDER(__u32 server /* index in servers and loads */,
		 __s32 weight);
	__u32 seed; /* active connections that it counts as having beyond those that it has */
	__u32 pad;
};

/* How to reach a real server. */
struct server {
	OTHER(__u64 other)
	__u8 mac[6]; /* with the flags one 64-bit word, written and read whole */
	__u16 flags; /* SERVER_* */
	__u8 source[6]; /* the sending interface's own MAC; read and written whole with the next */
	__u16 vlan; /* that it is sent to; 0: untagged */
	__u32 interface; /* to send by: ifindex */
	__u32 service;	 /* id of its virtual service */
	__s32 last_weight; /* for Go: the last that was not 0, by which mh's table is built */
	__u32 mtu;	 /* of the way to it, bytes from the IP header on; 0: unknown */
} __attribute__((aligned(8)));

enum server_flags {
	SERVER_EXISTS = 1,   /* not: it was removed, and connections may still point to it */
	SERVER_RESOLVED = 2, /* mac, source and interface are known; never with SERVER_LOCAL */
	SERVER_QUIESCED = 4, /* weight 0 */
	SERVER_LOCAL = 8,    /* it is this host: its packets are its own stack's */
	SERVER_RESETS = 16,  /* its connections end with their next packet: fate.h. It gets no new ones */
};

/*
 * How busy a server is. ActiveConn is the low half of connections, InActConn the
 * high half: both change in one atomic step.
 */
struct load {
	__u64 connections;
	IN_ORDER(__u32 templates /* PersistConn */,
		 __u32 flags	 /* enum load_flags */);
};

enum load_flags {
	LOAD_LIMITED = 1,    /* it has thresholds: see limits */
	LOAD_OVERLOADED_BIT = 1,
	LOAD_OVERLOADED = 1 << LOAD_OVERLOADED_BIT, /* it reached the upper one, and has not come below the lower one since */
	LOAD_GROUP_SHIFT = 8, /* from here on: its group, counted from 1; 0: it is in none */
};

enum grouping { GROUP = 16 }; /* servers */

/* Servers that follow each other in a long list, and the least loaded of them: schedule.h. */
struct group {
	__u32 changes; /* of their loads, so far */
	__u32 pad;
	__u64 least;   /* which, counted from 1 (0: none is available), below the changes of when it was found out */
};

/* What Go tells the program set_group. */
struct group_update {
	__u32 id;    /* server */
	__u32 group; /* counted from 1; 0: none */
};

/* A server's thresholds. */
struct limit {
	__u32 upper; /* connections at which it is overloaded */
	__u32 lower; /* below which it is so no more; never 0 */
};

/* What Go tells the program set_limit. */
struct limit_update {
	__u32 id;
	__u32 upper; /* 0: no thresholds */
	__u32 lower;
};

/* The same as in a server's members, for who finds the server otherwise. */
struct seed {
	__u32 active;
	__u32 pad;
};

/* What became of a server's TCP connections that never got far: young.h. */
struct young {
	IN_ORDER(__u64 unanswered /* they expired or gave way, and the client had sent nothing but SYNs */,
		 __u64 retransmitted /* their SYN came again */);
	__u64 resets;  /* the client reset them, before they were established or soon after */
	__u64 adopted; /* made by strays: counted as connections, and not begun here */
};

/* Per CPU and real server. Bytes from the IP header on. */
struct counters {
	IN_ORDER(__u64 connections, __u64 packets);
	__u64 bytes;
};

/* Of a server; only for Go. */
struct server_base {
	struct counters counters; /* what they were when they were last zeroed */
	__u8 addr[16];		  /* RIP; IPv4 in the last four bytes behind ::ffff */
};

/* Of the id of a service or a listener; only for Go, which finds in it what a predecessor had installed. */
struct service_base {
	OTHER(__u64 other)
	struct listener6 listener; /* IPv4 as ::ffff:a.b.c.d; of a mark only the family: :: or ::ffff:0.0.0.0 */
	__u32 mark;
	__u32 used; /* 0: the id is free */
	__u32 pad;
	struct counters counters; /* to add: of servers since removed, less what was zeroed */
};

/*
 * A connection: 16 bytes. The key is the client's address, its port and the
 * virtual port as they are on the wire. Who and when is in the other word, so
 * that any change is one compare-and-swap, and whoever wins it does the
 * counting. A word of 0: the place is free.
 */
struct connection {
	IN_ORDER(__u64 key, __u64 word);
};

/* Where things are in the word. The service's id has the bits that are left: 18. */
enum word {
	WORD_DEADLINE_BITS = 20, /* seconds; wraps after 12 days */
#ifndef OTHER_LAYOUT
	WORD_STATE_SHIFT = 20,
	WORD_RANK_SHIFT = 24,
	WORD_AGAIN_SHIFT = 26, /* of a template: it ran out once while it had connections; of an embryonic connection: its SYN came again */
#else
	WORD_AGAIN_SHIFT = 20,
	WORD_RANK_SHIFT = 21,
	WORD_STATE_SHIFT = 23,
#endif
	WORD_SERVER_SHIFT = 27,
	WORD_SERVER_BITS = 19,
	WORD_SERVICE_SHIFT = 46,
};

/* lblc, lblcr: which servers a destination address has. */
struct destination {
	__be32 addr[4]; /* as in struct packet */
	__u32 service;	/* id */
	__u32 epoch;	/* of the service */
};

#define SET 16 /* servers that a destination has at most; lblc has one */

struct destination_set {
	__u32 count;
	__u32 changed;	   /* seconds, as deadlines are */
	__u32 server[SET]; /* the last that came is first */
};

/* What an entry is compared with. Addresses and ports are as on the wire, IPv4 is ::a.b.c.d. */
struct key {
	__u64 client[2];
	__u32 ports; /* the client's, and the virtual one */
	__u32 service;
};

/* What became of an insertion. */
struct inserted {
	__u64 standing;	 /* the word that stands in the table now; 0: nothing gave way */
	__u64 displaced; /* the word that was there before */
	__u32 template;	 /* wide: that of the displaced one */
	__u32 way;	 /* where it stands */
	__u32 claimed;	 /* it is ours: an equal word may be another CPU's */
	__u32 pad;
	struct key old;	 /* of the displaced one */
};

/* While lc, wlc, sed, nq, fo and ovf look for the least cost by weight. */
struct least {
	__u64 cost;
	__u32 weight; /* with cost: 1/0, more than any */
	__u32 server;
	__u32 place; /* in the list, counted from 1; 0: nobody yet */
	/* What costs: an active connection, an inactive one, being there. */
	__u32 active, inactive, each;
	__u32 unweighted; /* lc: ~0, or 0 */
	__u32 idle_first; /* nq: so that an idle one costs nothing */
	__u32 bounded;	  /* ovf: who has more active connections than weight is out */
};

/* What has no room on the stack while a connection is made. */
struct scratch {
	struct least least;
	struct least in_group; /* of a long list */
	struct key template;
	struct inserted inserted;
};

/* The same for lblc and lblcr. */
struct locality_scratch {
	struct destination to;
	struct destination_set fresh;
	__u64 least_cost, most_cost;
	__u32 least_weight, most_weight;
	__u32 least, most; /* server */
};

/* A connection outlives its deadline by at most this, in seconds, before the sweep finds it. */
#define DEADLINE_SLACK 65536

/* Whose place a connection may take when a bucket is full: that of a lower rank. */
enum rank {
	RANK_EMBRYONIC,	  /* only SYNs or INITs seen; of UDP: one datagram */
	RANK_ADOPTED,	  /* made by a stray */
	RANK_ESTABLISHED, /* the client came back */
	RANK_YOUNG,	  /* the same, in this second (TCP only): no less than established */
};

#define WAYS	  32 /* connections in a bucket */
#define LINE	  4  /* of them in a cache line */
#define LINE_WIDE 2

struct bucket {
	struct connection way[WAYS];
};

/*
 * The same with room for an IPv6 address and for a template: 32 bytes. IPv4
 * addresses are ::a.b.c.d here. In the templates map an entry is a template.
 */
struct wide_connection {
#ifdef OTHER_LAYOUT
	__u64 word;
#endif
	__u64 client[2]; /* as on the wire */
	__u32 ports;	 /* client's and virtual, as on the wire; of a template only the virtual one */
	/*
	 * A connection's template: its place in the templates map in the low 24
	 * bits and that place's generation in the high 8; generation 0: none. A
	 * template's: how many connections it controls, and its generation.
	 */
	__u32 template;
#ifndef OTHER_LAYOUT
	__u64 word;
#endif
};

struct wide_bucket {
	struct wide_connection way[WAYS];
};

/* If one of these changes, the connection tables are filled anew by a successor. */
enum layout {
	LAYOUT_HASH = 2, /* of hash_mix, and of where an entry is put by it: counted up by hand */
	TEMPLATE_BITS = 24,
};

/* In a map of its own, so that a successor finds in its BTF what numbers mean. */
struct layouts {
	enum word word;
	enum verdict verdict;
	enum layout layout;
};

/* What Go tells the program carry: something that a predecessor's table has, or had. */
struct carried {
	__u64 client[2]; /* as in struct key; of a template masked */
	__u32 ports;
	__u32 kind;	/* enum kind; KIND_END: that was all */
	__u64 was;	/* the word that it has had here; 0: it was not here */
	__u64 word;	/* that it has now; 0: it is gone */
	__u32 template; /* of a wide connection: its template, as here; a template's own name comes back */
	__u32 stands;	/* comes back: it is here, or what is newer */
	__u32 counted;	/* by both programs, if packets have made it here already */
	__u32 pad;
};

/* What Go tells the program end_connections: which entries of some buckets are to go. */
struct ending {
	__u32 server;
	__u32 listener; /* ANY_LISTENER: whichever */
	__u32 kind;	/* enum kind: of the table */
	__u32 first;	/* bucket */
	__u32 count;
	__u32 ended;	/* comes back */
};

#define ANY_LISTENER 0xffffffff

/* How many entries of 64 lines are in other lines of their buckets: connection.h. */
struct spill_counts {
	__u32 word[16];
};

struct lock {
	struct bpf_spin_lock lock;
	__u32 pad[15]; /* a cache line each */
};

/* TCP states by IPVS's numbers (include/net/ip_vs.h, IP_VS_TCP_S_*). */
enum state {
	STATE_NONE,
	STATE_ESTABLISHED,
	STATE_SYN_SENT,
	STATE_SYN_RECV,
	STATE_FIN_WAIT,
	STATE_TIME_WAIT,
	STATE_CLOSE,
	STATE_CLOSE_WAIT,
	STATE_LAST_ACK,
	STATE_LISTEN,
	STATE_SYNACK,
	STATE_UDP, /* the only one UDP has */
	STATE_ASSURED, /* of a template one of whose connections was established; before: NONE */
	STATE_MAX,
};

/*
 * SCTP's states, those of IPVS that a connection seen from one side only comes
 * to (IP_VS_SCTP_S_*). What their numbers are in the kernel says nothing here:
 * ESTABLISHED alone has the number of a state that is active in TCP, and CLOSED
 * that of the one after which a connection may begin anew.
 */
enum sctp_state {
	SCTP_NONE = STATE_NONE,
	SCTP_ESTABLISHED = STATE_ESTABLISHED,
	SCTP_CLOSED = STATE_CLOSE,
	SCTP_INIT1 = STATE_CLOSE_WAIT,
	SCTP_INIT = STATE_LAST_ACK,
	SCTP_COOKIE_ECHOED = STATE_LISTEN,
	SCTP_SHUTDOWN_RECEIVED = STATE_UDP,
};

/* Beside a state: which row of timeouts is its own. */
enum timeouts {
	TIMEOUTS_SCTP = 16,
	TIMEOUTS = 32,
};

#ifndef OTHER_LAYOUT
#define INTERFACES 8
#else
#define INTERFACES 9
#endif

/* Where packets to VIPs come in. */
struct interface {
	__u8 mac[6]; /* that they are addressed to; compared whole with the next */
	__u16 vlan;  /* 0: untagged */
	__u32 index; /* that the program is on; 0: none */
	__u32 pad;
} __attribute__((aligned(8)));

/* What the daemon can change while packets flow. */
struct parameters {
	__u64 seed;	      /* of the connection table's hash; never changes while the table lives */
	__u64 clock_offset;   /* jiffies that tests put the clock forward */
	__u32 moving;	      /* until this second connections may be in a predecessor's table; 0: no */
	__u32 timeouts[TIMEOUTS]; /* seconds, by enum state; then by enum sctp_state */
	struct interface interfaces[INTERFACES];
	__u32 every_port; /* there are services for every port: look for them */
	__u32 ftp;	  /* there are persistent services on port 21: data connections are theirs */
	__u32 by_hash;	  /* until this second new connections go by the hash; 0: they are scheduled */
	OTHER(__u32 other)
};

/* The sweeper's place; the kernel's timer lives in it. */
struct sweep {
	struct bpf_timer timer;
	__u32 next; /* bucket, in each of the tables */
	__u32 rounds; /* times that all was swept: the daemon sees that the timer lives */
};

/* A virtual service's address. IPv4 is ::a.b.c.d. */
struct vip {
	OTHER(__u32 other)
	__be32 addr[4];
	__u32 six; /* it is IPv6 */
};

/* What the fragments of a datagram have in common (RFC 791, 3.2; RFC 8200, 4.5). */
struct fragment_key {
	__u64 client[2];
	__be32 vip[4];
	__be32 datagram;
	__u8 protocol; /* of IPv4; in IPv6 it does not count */
	__u8 six;
	__u16 pad;
};

/* What is known about a datagram: where the state is in a note's word (enum word). */
enum note {
	NOTE_SERVER,  /* its first fragment went to that server */
	NOTE_PASSED,  /* to the director's own stack */
	NOTE_DROPPED, /* to nobody */
	NOTE_PARKED,  /* it has not come, and others were given to the daemon */
};

#define FRAME_MAX 2048

/* What the daemon is told. */
enum arrival_kind {
	ARRIVAL_FIRST,	 /* the first fragment of a datagram came, and others are parked */
	ARRIVAL_EARLY,	 /* one came before the first: to be parked */
	ARRIVAL_RELATED, /* an ICMP error came that more than one server has to get */
	ARRIVAL_ENDED,	 /* a client was told that its connection ended; its server was not */
};

struct arrival {
	struct fragment_key key; /* of a fragment */
	__u32 kind;	 /* enum arrival_kind */
	__u32 interface; /* by which the frame came in; if any came with this, of */
	__u32 length;	 /* bytes */
	__u32 server;	 /* of an error: who has it already; of an end: whose connection it was */
	__u32 second;	 /* of an error, and an end: when it came */
	__u32 tag;	 /* of a fragment: that it had, see vlan.h */
};

struct parked {
	struct arrival arrival;
	__u8 frame[FRAME_MAX];
};

/* A connection that a client was told the end of: of the arrival all but the datagram counts. */
struct ended {
	struct arrival arrival;
	__u32 ports;  /* as in struct key */
	__be32 seq;   /* that the client's packet had */
};

/* What Go tells the program carry_counters. */
struct counters_update {
	__u32 id;
	__u32 pad;
	struct counters counters;
};

/* What Go tells the program count_verdict. */
struct verdict_count {
	__u32 verdict;
	__u32 packets;
};

/* What the program read_clock tells. */
struct clock {
	__u64 jiffies;
};
