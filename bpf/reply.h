/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What the director itself answers to the client: ICMP errors, as IPVS sends them
 * (no server available, TTL used up), and TCP resets. The VIP is the director's
 * own address, so its kernel would not send the errors.
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

/* An error quotes the IP header and 8 bytes (RFC 792; RFC 4443 would like more). */
static __always_inline long reply_quotes(struct packet *p)
{
	return p->header + 8;
}

/*
 * Make room in front of the packet for headers of that size, and cut it after what
 * is quoted. Returns where the frame begins now, with its MAC addresses turned
 * round, or nothing.
 */
static __always_inline struct ethhdr *reply_frame(struct context *ctx, struct frame *f, long quoted, int room)
{
	struct ethhdr from = *f->eth, *eth;

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

static __always_inline void reply_ipv4(struct iphdr *ip, void *end, __u8 protocol, __u16 length, __be32 vip, __be32 client)
{
	ip->version_length = 0x45;
	ip->tos = protocol == IPPROTO_ICMP ? 0xc0 : 0; /* internetwork control, as the kernel marks its errors */
	ip->total_length = htons(length);
	ip->id = 0;
	ip->fragment = protocol == IPPROTO_ICMP ? 0 : htons(IP_DONT_FRAGMENT);
	ip->ttl = 64;
	ip->protocol = protocol;
	ip->checksum = 0;
	ip->source = vip;
	ip->destination = client;
	ip->checksum = checksum((__u32 *)ip, end, 0);
}

static __always_inline void reply_ipv6(struct ipv6hdr *ip, __u8 protocol, __u16 length, __be32 *vip, __u64 *client)
{
	ip->version_class_flow = htonl(0x60000000);
	ip->payload_length = htons(length);
	ip->next_header = protocol;
	ip->hop_limit = 64;
	__builtin_memcpy(ip->source, vip, 16);
	*(__u64 *)ip->destination = client[0];
	*(__u64 *)(ip->destination + 2) = client[1];
}

/*
 * RFC 8200, 8.1: both addresses, the length and the protocol. With IPv4 addresses
 * as ::a.b.c.d it is also that of RFC 9293, 3.1.
 */
static __always_inline __u64 pseudo_header(__be32 *vip, __u64 *client, __u16 length, __u8 protocol)
{
	return (__u64)vip[0] + vip[1] + vip[2] + vip[3] + (__u32)client[0] + (client[0] >> 32) +
	       (__u32)client[1] + (client[1] >> 32) + htonl(length) + htonl(protocol);
}

static __always_inline int reply_icmp(struct context *ctx, struct frame *f, struct packet *p, __u8 type, __u8 code, __u32 mtu)
{
	const int room = sizeof(struct iphdr) + sizeof(struct icmphdr);
	__be32 client = p->key.client[1] >> 32, vip = p->vip[3];
	__u16 quoted = p->header + 8;
	struct icmphdr *icmp;
	struct iphdr *ip;
	struct ethhdr *eth = reply_frame(ctx, f, reply_quotes(p), room);
	void *end = frame_end(ctx);

	if (!eth)
		return -1;
	ip = (void *)(eth + 1);
	icmp = (void *)(ip + 1);
	if ((void *)(icmp + 1) > end)
		return -1;
	reply_ipv4(ip, icmp, IPPROTO_ICMP, room + quoted, vip, client);

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
	__u64 client[2] = { p->key.client[0], p->key.client[1] };
	__be32 vip[4] = { p->vip[0], p->vip[1], p->vip[2], p->vip[3] };
	struct icmphdr *icmp;
	struct ipv6hdr *ip;
	struct ethhdr *eth = reply_frame(ctx, f, reply_quotes(p), room);
	void *end = frame_end(ctx);

	if (!eth)
		return -1;
	ip = (void *)(eth + 1);
	icmp = (void *)(ip + 1);
	if ((void *)(icmp + 1) > end)
		return -1;
	reply_ipv6(ip, IPPROTO_ICMPV6, length, vip, client);

	icmp->type = type;
	icmp->code = code;
	icmp->checksum = 0;
	icmp->mtu = mtu;
	icmp->checksum = checksum((__u32 *)icmp, end, pseudo_header(vip, client, length, IPPROTO_ICMPV6));
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

/*
 * What answers a TCP packet of no connection (RFC 9293, 3.10.7.1): it takes up
 * what the packet acknowledges, or acknowledges what the packet has. Returns 0 if
 * lengths cannot be, or what is not there.
 */
static __always_inline int reset_of(struct frame *f, struct packet *p, struct tcphdr *reset)
{
	struct tcphdr *tcp;
	__u32 header = p->header, headers;

	if (header > LONG_HEADERS)
		return 0;
	tcp = f->ip + header;
	if ((void *)(tcp + 1) > f->end)
		return 0;
	headers = header + (tcp->offset >> 4 << 2);
	if (tcp->offset >> 4 < sizeof(*tcp) / 4 || f->length < headers)
		return 0;
	reset->source = tcp->destination;
	reset->destination = tcp->source;
	reset->offset = sizeof(*tcp) / 4 << 4;
	reset->flags = TCP_RST;
	if (tcp->flags & TCP_ACK) {
		reset->seq = tcp->ack_seq;
		return 1;
	}
	reset->flags |= TCP_ACK;
	reset->ack_seq = htonl(ntohl(tcp->seq) + f->length - headers + !!(tcp->flags & TCP_FIN));
	return 1;
}

static __always_inline int reset(struct context *ctx, struct packet *p, __u32 length)
{
	const int network = p->six ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct frame f = { .eth = frame_begin(ctx), .end = frame_end(ctx), .length = length };
	__be32 vip[4] = { p->vip[0], p->vip[1], p->vip[2], p->vip[3] };
	__u64 client[2] = { p->key.client[0], p->key.client[1] };
	struct tcphdr reset = {}, *tcp;
	struct ethhdr *eth;
	void *end;

	f.ip = f.eth + 1;
	if (f.ip > f.end || !reset_of(&f, p, &reset))
		return -1;
	eth = reply_frame(ctx, &f, 0, network + sizeof(reset));
	end = frame_end(ctx);
	if (!eth)
		return -1;
	tcp = (void *)(eth + 1) + network;
	if ((void *)(tcp + 1) > end)
		return -1;
	if (p->six)
		reply_ipv6((void *)(eth + 1), IPPROTO_TCP, sizeof(reset), vip, client);
	else
		reply_ipv4((void *)(eth + 1), tcp, IPPROTO_TCP, network + sizeof(reset), vip[3], client[1] >> 32);
	*tcp = reset;
	tcp->checksum = checksum((__u32 *)tcp, end, pseudo_header(vip, client, sizeof(reset), IPPROTO_TCP));
	return 0;
}

/* Functions of their own for their stack. */
__attribute__((noinline)) int reset_xdp(struct xdp_md *xdp, struct packet *p, __u32 length)
{
	struct context ctx = { .xdp = xdp };

	return p ? reset(&ctx, p, length) : -1;
}

__attribute__((noinline)) int reset_skb(struct __sk_buff *skb, struct packet *p, __u32 length)
{
	struct context ctx = { .skb = skb, .tc = 1 };

	return p ? reset(&ctx, p, length) : -1;
}

/*
 * Turn the frame into the reset that answers it. As many as packets ask for: they
 * are not longer than those, and the kernel does not limit its own either.
 */
static __always_inline int reply_reset(struct context *ctx, struct frame *f, struct packet *p)
{
	return ctx->tc ? reset_skb(ctx->skb, p, f->length) : reset_xdp(ctx->xdp, p, f->length);
}
