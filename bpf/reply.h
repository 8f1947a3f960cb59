/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * ICMP errors that IPVS sends to the client: no server available, TTL used up.
 * The VIP is the director's own address, so its kernel would send neither.
 */
#pragma once

#define REPLIES_PER_SECOND 1000 /* on each CPU; the kernel's icmp_msgs_per_sec */

static __always_inline int reply_allowed(__u32 now)
{
	__u32 zero = 0;
	struct allowance *a = bpf_map_lookup_elem(&allowances, &zero);

	if (!a)
		return 0;
	if (a->second != now) {
		a->second = now;
		a->used = 0;
	}
	return a->used++ < REPLIES_PER_SECOND;
}

/* RFC 1071, from a header to the frame's end: at most 76 bytes, always whole words. */
static __always_inline __u16 checksum(__u32 *word, void *end)
{
	__u64 sum = 0;
	int i;

	for (i = 0; i < 19; i++, word++) {
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
 * Turn the frame into an ICMP error about itself: Ethernet, IP and ICMP headers
 * in front, of the packet its IP header and 8 bytes (RFC 792). Returns 0 if the
 * frame is ready to be sent back by the way it came.
 */
static __always_inline int reply_icmp(struct xdp_md *ctx, struct packet *p, __u8 type, __u8 code)
{
	const int room = sizeof(struct iphdr) + sizeof(struct icmphdr);
	struct ethhdr from = *p->eth;
	__be32 client = p->ip->source, vip = p->ip->destination;
	long frame = (long)ctx->data_end - (long)ctx->data;
	__u32 quoted = p->header + 8;
	void *data, *end;
	struct ethhdr *eth;
	struct iphdr *ip;
	struct icmphdr *icmp;

	if (bpf_xdp_adjust_tail(ctx, (long)(sizeof(*eth) + quoted) - frame))
		return -1;
	if (bpf_xdp_adjust_head(ctx, -room))
		return -1;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	eth = data;
	ip = data + sizeof(*eth);
	icmp = (void *)(ip + 1);
	if ((void *)(icmp + 1) > end)
		return -1;

	__builtin_memcpy(eth->destination, from.source, 6);
	__builtin_memcpy(eth->source, from.destination, 6);
	eth->proto = htons(ETH_P_IP);

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
	ip->checksum = checksum((__u32 *)ip, icmp);

	icmp->type = type;
	icmp->code = code;
	icmp->checksum = 0;
	icmp->unused = 0;
	icmp->checksum = checksum((__u32 *)icmp, end);
	return 0;
}
