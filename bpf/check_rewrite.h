/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Another address in a packet, with the checksums that cover it. Those may be
 * still to fill in (CHECKSUM_PARTIAL), or the driver may have given the sum of
 * the whole packet (CHECKSUM_COMPLETE): the helpers know, if they are told the
 * truth about pseudo headers.
 */
#pragma once

/* Where a checksum is that has the IP addresses in it, and how it is to be changed; 0: there is none. */
static __always_inline __u32 check_sum(struct check_packet *p, __u64 *flags)
{
	*flags = BPF_F_PSEUDO_HDR;
	if (p->kind == CHECK_LATER)
		return 0;
	switch (p->protocol) {
	case IPPROTO_TCP:
		return p->transport + offset_of(struct tcphdr, checksum);
	case IPPROTO_UDP:
		*flags |= BPF_F_MARK_MANGLED_0; /* 0 says that there is none */
		return p->transport + offset_of(struct udphdr, checksum);
	case IPPROTO_ICMPV6:
		return p->transport + offset_of(struct icmphdr, checksum);
	}
	return 0; /* ICMP covers itself only */
}

static __always_inline __u32 check_source(struct check_packet *p)
{
	return p->ip + (p->six ? offset_of(struct ipv6hdr, source) : offset_of(struct iphdr, source));
}

static __always_inline __u32 check_destination(struct check_packet *p)
{
	return p->ip + (p->six ? offset_of(struct ipv6hdr, destination) : offset_of(struct iphdr, destination));
}

/*
 * Write one address over another one, at one of the two places above. 0: done.
 *
 * In IPv4 the header's own checksum makes up for the address in the sum of the
 * whole, so what changes that is the transport's. In IPv6 those two make up for
 * each other. But bpf_l4_csum_replace corrects the sum of the whole as if it were
 * IPv4; the store corrects it once more, which together is nothing. (BPF_F_IPV6
 * says so at once, in kernels that have it.) A later fragment has the address only.
 */
static __always_inline int check_rewrite(struct __sk_buff *skb, struct check_packet *p, __u32 at,
					 const __be32 *from, const __be32 *to)
{
	__u64 flags;
	__u32 sum = check_sum(p, &flags);

	if (p->six) {
		__s64 diff = bpf_csum_diff(from, 16, to, 16, 0);

		if (diff < 0 || (sum && bpf_l4_csum_replace(skb, sum, 0, diff, flags)))
			return -1;
		return bpf_skb_store_bytes(skb, at, to, 16, BPF_F_RECOMPUTE_CSUM) ? -1 : 0;
	}
	if ((sum && bpf_l4_csum_replace(skb, sum, from[3], to[3], flags | sizeof(*to))) ||
	    bpf_l3_csum_replace(skb, p->ip + offset_of(struct iphdr, checksum), from[3], to[3], sizeof(*to)))
		return -1;
	return bpf_skb_store_bytes(skb, at, &to[3], sizeof(*to), 0) ? -1 : 0;
}

/*
 * The same for the destination of a packet that an ICMP error quotes. It is the
 * error's payload. In IPv4 the quoted header's checksum makes up for the change;
 * in IPv6 nothing there does, so ICMPv6's does. Nobody looks at the quoted
 * transport's.
 */
static __always_inline int check_rewrite_quoted(struct __sk_buff *skb, struct check_packet *error,
						struct check_packet *q, const __be32 *to)
{
	__u32 at = check_destination(q);

	if (q->six) {
		__s64 diff = bpf_csum_diff(q->destination, 16, to, 16, 0);

		if (diff < 0 ||
		    bpf_l4_csum_replace(skb, error->transport + offset_of(struct icmphdr, checksum), 0, diff, 0))
			return -1;
		return bpf_skb_store_bytes(skb, at, to, 16, 0) ? -1 : 0;
	}
	if (bpf_l3_csum_replace(skb, q->ip + offset_of(struct iphdr, checksum), q->destination[3], to[3], sizeof(*to)))
		return -1;
	return bpf_skb_store_bytes(skb, at, &to[3], sizeof(*to), 0) ? -1 : 0;
}

/*
 * A real server that lost the VIP and forwards packets (ip_forward is on where
 * containers are) sends them on to who has the VIP: to this director, whose data
 * plane would have another server answer, and the one without the VIP would seem
 * well. With two hops to go it can pass a packet on to a container of its own, but
 * here it comes in with one, and goes no further.
 */
#define CHECK_HOPS 2

static __always_inline int check_hops(struct __sk_buff *skb, struct check_packet *p)
{
	__u32 at = p->ip + (p->six ? offset_of(struct ipv6hdr, hop_limit) : offset_of(struct iphdr, ttl));
	__u8 word[2], few = CHECK_HOPS; /* IPv4: TTL and protocol, by two as checksums have it */
	__be16 from, to;

	if (bpf_skb_load_bytes(skb, at, word, sizeof(word)))
		return -1;
	if (word[0] <= CHECK_HOPS)
		return 0;
	if (p->six)
		return bpf_skb_store_bytes(skb, at, &few, sizeof(few), BPF_F_RECOMPUTE_CSUM) ? -1 : 0;
	from = htons(word[0] << 8 | word[1]);
	to = htons(CHECK_HOPS << 8 | word[1]);
	if (bpf_l3_csum_replace(skb, p->ip + offset_of(struct iphdr, checksum), from, to, sizeof(to)))
		return -1;
	return bpf_skb_store_bytes(skb, at, &few, sizeof(few), 0) ? -1 : 0;
}
