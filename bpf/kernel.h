/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What the kernel gives us, by the numbers of its ABI: types, packet headers,
 * map types and helpers (include/uapi/linux/bpf.h). Only what is used, so that
 * the object depends on no header of the machine that builds it.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed int __s32;
typedef signed long long __s64;
typedef __u16 __be16; /* big endian, as on the wire */
typedef __u32 __be32;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __uint(name, val) int (*name)[val]
#define __type(name, val) typeof(val) *name
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Keeps the compiler from working out where a value comes from, and doing it another way. */
#define opaque(x) asm volatile("" : "+r"(x))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define htons(x) ((__be16)__builtin_bswap16(x))
#define ntohs(x) ((__u16)__builtin_bswap16(x))
#define htonl(x) ((__be32)__builtin_bswap32(x))
#define ntohl(x) ((__u32)__builtin_bswap32(x))
#else
#define htons(x) ((__be16)(x))
#define ntohs(x) ((__u16)(x))
#define htonl(x) ((__be32)(x))
#define ntohl(x) ((__u32)(x))
#endif

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_RINGBUF = 27,
};

#define BPF_F_NO_PREALLOC (1U << 0)
#define BPF_F_MMAPABLE (1U << 10)
#define BPF_NOEXIST 1
#define CLOCK_MONOTONIC 1
#define BPF_ADJ_ROOM_MAC 1
#define BPF_F_RECOMPUTE_CSUM 1
#define BPF_F_PSEUDO_HDR (1U << 4)
#define BPF_F_MARK_MANGLED_0 (1U << 5)
#define BPF_F_CURRENT_NETNS (-1L)

enum {
	XDP_ABORTED,
	XDP_DROP,
	XDP_PASS,
	XDP_TX,
	XDP_REDIRECT,
};

/* What a tc program answers (enum tcx_action_base). */
enum {
	TCX_NEXT = -1,
	TCX_DROP = 2,
};

struct xdp_md {
	__u32 data;
	__u32 data_end;
	__u32 data_meta;
	__u32 ingress_ifindex;
	__u32 rx_queue_index;
	__u32 egress_ifindex;
};

/* A packet as tc sees it; lengths from the Ethernet header on. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 others[19];
	__u32 wire_len;
	__u32 gso_segs;
	__u64 sk;
	__u32 gso_size;
};

/* A socket, as far as it is looked at. */
struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__u32 src_ip4;
	__u32 src_ip6[4];
	__u32 src_port; /* host byte order */
	__be16 dst_port;
	__u16 pad;
	__be32 dst_ip4;
	__be32 dst_ip6[4];
};

/* As packets that come in name the two ends. */
struct bpf_sock_tuple {
	union {
		struct {
			__be32 saddr;
			__be32 daddr;
			__be16 sport;
			__be16 dport;
		} ipv4;
		struct {
			__be32 saddr[4];
			__be32 daddr[4];
			__be16 sport;
			__be16 dport;
		} ipv6;
	};
};

struct bpf_spin_lock {
	__u32 val;
};

struct bpf_timer {
	__u64 __opaque[2];
} __attribute__((aligned(8)));

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*bpf_get_prandom_u32)(void) = (void *)7;
static long (*bpf_skb_store_bytes)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 len, __u64 flags) = (void *)9;
static long (*bpf_l3_csum_replace)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to, __u64 size) = (void *)10;
static long (*bpf_l4_csum_replace)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to, __u64 flags) = (void *)11;
static long (*bpf_clone_redirect)(struct __sk_buff *skb, __u32 ifindex, __u64 flags) = (void *)13;
static long (*bpf_skb_vlan_push)(struct __sk_buff *skb, __be16 proto, __u16 tci) = (void *)18;
static long (*bpf_skb_vlan_pop)(struct __sk_buff *skb) = (void *)19;
static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*bpf_skb_load_bytes)(const struct __sk_buff *skb, __u32 offset, void *to, __u32 len) = (void *)26;
static __s64 (*bpf_csum_diff)(const __be32 *from, __u32 from_size, const __be32 *to, __u32 to_size, __u32 seed) = (void *)28;
static long (*bpf_skb_change_tail)(struct __sk_buff *skb, __u32 len, __u64 flags) = (void *)38;
static long (*bpf_skb_pull_data)(struct __sk_buff *skb, __u32 len) = (void *)39;
static __s64 (*bpf_csum_update)(struct __sk_buff *skb, __u32 sum) = (void *)40;
static long (*bpf_xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)44;
static long (*bpf_skb_adjust_room)(struct __sk_buff *skb, __s32 len_diff, __u32 mode, __u64 flags) = (void *)50;
static long (*bpf_xdp_adjust_tail)(struct xdp_md *ctx, int delta) = (void *)65;
static struct bpf_sock *(*bpf_sk_lookup_tcp)(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns, __u64 flags) = (void *)84;
static struct bpf_sock *(*bpf_sk_lookup_udp)(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns, __u64 flags) = (void *)85;
static long (*bpf_sk_release)(struct bpf_sock *sk) = (void *)86;
static long (*bpf_spin_lock)(struct bpf_spin_lock *lock) = (void *)93;
static long (*bpf_spin_unlock)(struct bpf_spin_lock *lock) = (void *)94;
static struct bpf_sock *(*bpf_sk_fullsock)(struct bpf_sock *sk) = (void *)95;
static __u64 (*bpf_jiffies64)(void) = (void *)118;
static void *(*bpf_ringbuf_reserve)(void *ringbuf, __u64 size, __u64 flags) = (void *)131;
static void (*bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static void (*bpf_ringbuf_discard)(void *data, __u64 flags) = (void *)133;
static __u64 (*bpf_ktime_get_coarse_ns)(void) = (void *)160;
static long (*bpf_timer_init)(struct bpf_timer *timer, void *map, __u64 flags) = (void *)169;
static long (*bpf_timer_set_callback)(struct bpf_timer *timer, void *callback) = (void *)170;
static long (*bpf_timer_start)(struct bpf_timer *timer, __u64 nsecs, __u64 flags) = (void *)171;
static long (*bpf_loop)(__u32 iterations, void *callback, void *ctx, __u64 flags) = (void *)181;
static long (*bpf_xdp_load_bytes)(struct xdp_md *ctx, __u32 offset, void *buf, __u32 len) = (void *)189;

/* In the place of gso_size: the packets are as long as they are, one for each part of the skb. */
#define GSO_BY_FRAGS 0xffff

#define ETH_P_IP 0x0800
#define ETH_P_8021Q 0x8100
#define ETH_P_IPV6 0x86dd
#define ETH_P_8021AD 0x88a8
#define IPPROTO_HOPOPTS 0
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_AH 51
#define IPPROTO_ICMPV6 58
#define IPPROTO_DSTOPTS 60
#define IPPROTO_SCTP 132

struct ethhdr {
	__u8 destination[6];
	__u8 source[6];
	__be16 proto;
};

/* RFC 791, 3.1 */
struct iphdr {
	__u8 version_length; /* version in the high half, length in 32-bit words in the low one */
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment; /* flags in the high 3 bits, offset in units of 8 bytes */
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	__be32 source;
	__be32 destination;
};

#define IP_DONT_FRAGMENT 0x4000
#define IP_MORE_FRAGMENTS 0x2000
#define IP_OFFSET 0x1fff

/* RFC 8200, 3 */
struct ipv6hdr {
	__be32 version_class_flow;
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	__be32 source[4];
	__be32 destination[4];
};

/* RFC 8200, 4.3; the length is in units of 8 bytes beyond the first (AH: 4 bytes beyond 2) */
struct ipv6_opt_hdr {
	__u8 next_header;
	__u8 length;
};

/* RFC 8200, 4.5 */
struct ipv6_fragment {
	__u8 next_header;
	__u8 reserved;
	__be16 offset; /* in units of 8 bytes in the high 13 bits, "more" in the lowest */
	__be32 id;
};

#define IPV6_MORE_FRAGMENTS 0x0001
#define IPV6_OFFSET 0xfff8

/* RFC 9293, 3.1 */
struct tcphdr {
	__be16 source;
	__be16 destination;
	__be32 seq;
	__be32 ack_seq;
	__u8 offset; /* in the high half, 32-bit words */
	__u8 flags;
	__be16 window;
	__u16 checksum;
	__be16 urgent;
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct udphdr {
	__be16 source;
	__be16 destination;
	__be16 length;
	__u16 checksum;
};

/* RFC 9260, 3.1 */
struct sctphdr {
	__be16 source;
	__be16 destination;
	__be32 tag;
	__u32 checksum;
};

/* RFC 9260, 3.2 */
struct sctp_chunk {
	__u8 type;
	__u8 flags;
	__be16 length; /* this header included, padding not */
};

enum {
	SCTP_CHUNK_DATA,
	SCTP_CHUNK_INIT,
	SCTP_CHUNK_INIT_ACK,
	SCTP_CHUNK_SACK,
	SCTP_CHUNK_HEARTBEAT,
	SCTP_CHUNK_HEARTBEAT_ACK,
	SCTP_CHUNK_ABORT,
	SCTP_CHUNK_SHUTDOWN,
	SCTP_CHUNK_SHUTDOWN_ACK,
	SCTP_CHUNK_ERROR,
	SCTP_CHUNK_COOKIE_ECHO,
	SCTP_CHUNK_COOKIE_ACK,
	SCTP_CHUNK_SHUTDOWN_COMPLETE = 14,
};

/* RFC 792 */
struct icmphdr {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__u32 mtu; /* of "too big": in IPv4 the last two bytes only; else unused */
};

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_PORT_UNREACHABLE 3
#define ICMP_FRAGMENTATION_NEEDED 4
#define ICMP_SOURCE_QUENCH 4
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_TTL_EXCEEDED 0
#define ICMP_PARAMETER_PROBLEM 12
/* RFC 4443 */
#define ICMPV6_UNREACHABLE 1
#define ICMPV6_PORT_UNREACHABLE 4
#define ICMPV6_TOO_BIG 2
#define ICMPV6_INFORMATIONAL 0x80
#define ICMPV6_TIME_EXCEEDED 3
#define ICMPV6_HOP_LIMIT_EXCEEDED 0
#define ICMPV6_PARAMETER_PROBLEM 4
#define ICMPV6_ECHO 128
#define ICMPV6_ECHO_REPLY 129
