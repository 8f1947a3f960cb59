/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What the way of health checks shares with Go: marks of sockets, notes of who
 * was asked, and counts. Nothing here outlives the daemon, and nothing is shared
 * with the packet path.
 */
#pragma once

/*
 * A socket's mark (SO_MARK): these 16 bits say that it is a check's ("SH"), the
 * others which VIP is meant. The two highest of those stay 0: kube-proxy takes
 * them for its own in whatever mark it finds.
 */
enum check_mark {
	CHECK_MARK = 0x53480000,
	CHECK_MARK_MASK = 0xffff0000,
	CHECK_MARK_LAST = CHECK_MARK + 0x3fff,
};

/* Which VIP a mark means. Addresses are as on the wire; IPv4 is ::a.b.c.d. */
struct check_vip {
	__be32 addr[4];
	__u32 six;
};

/*
 * What is on the wire between a check's socket and a real server: its own port
 * is enough to tell checks apart, since it is bound to one.
 */
struct check_key {
	__be32 vip[4];
	__be32 local[4];
	__be16 vip_port;   /* of an ICMP echo: its sequence number */
	__be16 local_port; /* of an ICMP echo: its identifier */
	__u8 protocol;
	__u8 fragment; /* an answer in fragments: the ports are the datagram's id */
	__u16 pad;
};

/* Who was asked. */
struct check_note {
	__be32 rip[4];
	__u64 asked; /* an ICMP echo: when (coarse, ns), while there is no answer; else 0 */
};

/* What became of packets. */
enum check_count {
	CHECK_PASS, /* not a check's: not counted */
	CHECK_SENT,
	CHECK_ANSWER,
	CHECK_ERROR,
	CHECK_DROP_UNKNOWN,
	CHECK_DROP_UNSUPPORTED,
	CHECK_DROP_TAKEN,
	CHECK_DROP_FAILED,
	CHECK_MAX,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct check_vip);
	__uint(max_entries, 0x3fff);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} check_vips SEC(".maps");

/* Who asks and who answers use a note, so it is the forgotten ones that go. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct check_key);
	__type(value, struct check_note);
	__uint(max_entries, 1 << 16);
} check_notes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, CHECK_MAX);
} check_counts SEC(".maps");
