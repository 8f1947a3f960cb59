/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * ICMP errors that IPVS sends to the client: no server available, TTL used up.
 * The VIP is the director's own address, so its kernel would send neither.
 */
#pragma once

#define REPLIES_PER_SECOND 1000 /* on each CPU; the kernel's icmp_msgs_per_sec */

/* RFC 1122, 3.2.2: no error is sent about an error, nor about a fragment other than the first. */
static __always_inline int reply_allowed(struct packet *p, __u32 now)
{
	return !p->related && p->fragment != FRAGMENT_LATER &&
	       allowed(ALLOWANCE_REPLY, now, REPLIES_PER_SECOND);
}

/* RFC 1071, from a header to the frame's end: at most 27 whole words, and what was summed before. */
static __always_inline __u16 checksum(__u32 *word, void *end, __u64 sum)
{
	int i;

	for (i = 0; i < 27; i++, word++) {
		if ((void *)(word + 1) > end)
			break;
		sum += *word;
	}
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/*
 * Make room in front of the packet for headers of that size, and cut it after its
 * IP header and 8 bytes (RFC 792; RFC 4443 would like more). Returns where the
 * frame begins now, with its MAC addresses turned round, or nothing.
 */
static __always_inline struct ethhdr *reply_frame(struct context *ctx, struct frame *f, struct packet *p, int room)
{
	struct ethhdr from = *f->eth, *eth;
	long quoted = p->header + 8;

	if (quoted > QUOTED || reply_room(ctx, f, quoted, room))
		return 0;
	eth = frame_begin(ctx);
	if ((void *)(eth + 1) > frame_end(ctx))
		return 0;
	__builtin_memcpy(eth->destination, from.source, 6);
	__builtin_memcpy(eth->source, from.destination, 6);
	eth->proto = from.proto;
	return eth;
}

static __always_inline int reply_icmp(struct context *ctx, struct frame *f, struct packet *p, __u8 type, __u8 code, __u32 mtu)
{
	const int room = sizeof(struct iphdr) + sizeof(struct icmphdr);
	__be32 client = p->client[1] >> 32, vip = p->vip[3];
	__u16 quoted = p->header + 8;
	struct icmphdr *icmp;
	struct iphdr *ip;
	struct ethhdr *eth = reply_frame(ctx, f, p, room);
	void *end = frame_end(ctx);

	if (!eth)
		return -1;
	ip = (void *)(eth + 1);
	icmp = (void *)(ip + 1);
	if ((void *)(icmp + 1) > end)
		return -1;
	ip->version_length = 0x45;
	ip->tos = 0xc0; /* internetwork control, as the kernel marks its errors */
	ip->total_length = htons(room + quoted);
	ip->id = 0;
	ip->fragment = 0;
	ip->ttl = 64;
	ip->protocol = IPPROTO_ICMP;
	ip->checksum = 0;
	ip->source = vip;
	ip->destination = client;
	ip->checksum = checksum((__u32 *)ip, icmp, 0);

	icmp->type = type;
	icmp->code = code;
	icmp->checksum = 0;
	icmp->mtu = mtu;
	icmp->checksum = checksum((__u32 *)icmp, end, 0);
	return 0;
}

static __always_inline int reply_icmpv6(struct context *ctx, struct frame *f, struct packet *p, __u8 type, __u8 code, __u32 mtu)
{
	const int room = sizeof(struct ipv6hdr) + sizeof(struct icmphdr);
	__u16 length = sizeof(struct icmphdr) + p->header + 8;
	__u64 client[2] = { p->client[0], p->client[1] };
	__be32 vip[4] = { p->vip[0], p->vip[1], p->vip[2], p->vip[3] };
	struct icmphdr *icmp;
	struct ipv6hdr *ip;
	struct ethhdr *eth = reply_frame(ctx, f, p, room);
	void *end = frame_end(ctx);

	if (!eth)
		return -1;
	ip = (void *)(eth + 1);
	icmp = (void *)(ip + 1);
	if ((void *)(icmp + 1) > end)
		return -1;
	ip->version_class_flow = htonl(0x60000000);
	ip->payload_length = htons(length);
	ip->next_header = IPPROTO_ICMPV6;
	ip->hop_limit = 64;
	__builtin_memcpy(ip->source, vip, 16);
	*(__u64 *)ip->destination = client[0];
	*(__u64 *)(ip->destination + 2) = client[1];

	icmp->type = type;
	icmp->code = code;
	icmp->checksum = 0;
	icmp->mtu = mtu;
	/* RFC 8200, 8.1: the pseudo header is both addresses, the length and the protocol. */
	icmp->checksum = checksum((__u32 *)icmp, end,
				  (__u64)vip[0] + vip[1] + vip[2] + vip[3] + (__u32)client[0] +
				  (client[0] >> 32) + (__u32)client[1] + (client[1] >> 32) +
				  htonl(length) + htonl(IPPROTO_ICMPV6));
	return 0;
}

/*
 * Turn the frame into an ICMP error about itself. Returns 0 if it is ready to be
 * sent back by the way it came.
 */
static __always_inline int reply_no_server(struct context *ctx, struct frame *f, struct packet *p)
{
	if (p->six)
		return reply_icmpv6(ctx, f, p, ICMPV6_UNREACHABLE, ICMPV6_PORT_UNREACHABLE, 0);
	return reply_icmp(ctx, f, p, ICMP_UNREACHABLE, ICMP_PORT_UNREACHABLE, 0);
}

static __always_inline int reply_ttl(struct context *ctx, struct frame *f, struct packet *p)
{
	if (p->six)
		return reply_icmpv6(ctx, f, p, ICMPV6_TIME_EXCEEDED, ICMPV6_HOP_LIMIT_EXCEEDED, 0);
	return reply_icmp(ctx, f, p, ICMP_TIME_EXCEEDED, ICMP_TTL_EXCEEDED, 0);
}

/* RFC 1191, RFC 4443 3.2: what would pass. */
static __always_inline int reply_too_big(struct context *ctx, struct frame *f, struct packet *p, __u32 mtu)
{
	if (p->six)
		return reply_icmpv6(ctx, f, p, ICMPV6_TOO_BIG, 0, htonl(mtu));
	return reply_icmp(ctx, f, p, ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, htonl(mtu & 0xffff));
}
