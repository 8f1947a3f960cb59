/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Step 1: read the frame, once. What later steps need is in struct packet;
 * what is none of our business leaves here.
 */
#pragma once

struct packet {
	struct key key;	  /* the client's address; its port and the virtual one; the listener, when it is found */
	__be32 vip[4];	  /* of IPv4 only the last */
	__u16 header;	  /* length of the IP header, with extensions */
	__u8 protocol;
	__u8 tcp_flags;	  /* of SCTP what sctp.h has in their place */
	__u8 six;	  /* it is IPv6 */
	__u8 related;	  /* it is an ICMP error; all above but header is of what it is about */
	__u8 fragment;	  /* enum fragment */
	__be32 datagram;  /* of a fragment: the identification that it shares with the others */
};

enum fragment {
	FRAGMENT_NONE,	/* a whole packet, or a fragment of what is not ours by its protocol */
	FRAGMENT_FIRST, /* the one that has the ports */
	FRAGMENT_LATER,
};

static __always_inline __be16 client_port(struct packet *p)
{
	return p->key.ports;
}

static __always_inline __be16 virtual_port(struct packet *p)
{
	return p->key.ports >> 16;
}

/*
 * GSO: the kernel has put packets of one connection together, or not yet made
 * them of one. What is sent is checked, and counted, by what is on the wire.
 */
static __always_inline void parse_segments(struct frame *f, struct packet *p, __u32 transport)
{
	__u32 headers = p->header + transport;

	if (likely(!f->segment || f->length <= headers + f->segment))
		return;
	f->longest = headers + f->segment;
	f->segments = (f->length - headers + f->segment - 1) / f->segment;
}

/*
 * The packets of a GSO packet of SCTP are not equally long, and each has the
 * headers; how long, nobody says. Their sender knows the way's MTU.
 */
static __always_inline enum verdict parse_sctp(struct context *ctx, struct frame *f, struct packet *p,
					       struct sctphdr *sctp, void *end)
{
	__u32 at = (long)f->ip - (long)f->eth;
	int flags;

	if ((void *)(sctp + 1) > end)
		return VERDICT_PASS_MALFORMED;
	flags = sctp_flags_at(ctx, at + p->header + sizeof(*sctp), at + f->length);
	if (flags < 0)
		return VERDICT_PASS_MALFORMED;
	p->tcp_flags = flags;
	p->key.ports = *(__u32 *)&sctp->source;
	if (ctx->tc && f->segment) {
		f->longest = 0;
		f->segments = ctx->skb->gso_segs ? ctx->skb->gso_segs : 1;
	}
	return VERDICT_CONTINUE;
}

static __always_inline enum verdict parse_transport(struct context *ctx, struct frame *f, struct packet *p,
						    void *transport, void *end)
{
	struct tcphdr *tcp = transport;
	struct udphdr *udp = transport;

	if (p->protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > end || f->length < p->header + sizeof(*tcp))
			return VERDICT_PASS_MALFORMED;
		p->tcp_flags = tcp->flags;
		parse_segments(f, p, tcp->offset >> 4 << 2);
	} else if (p->protocol == IPPROTO_UDP) {
		if ((void *)(udp + 1) > end || f->length < p->header + sizeof(*udp))
			return VERDICT_PASS_MALFORMED;
		parse_segments(f, p, sizeof(*udp));
	} else if (p->protocol == IPPROTO_SCTP) {
		return parse_sctp(ctx, f, p, transport, end);
	} else {
		return VERDICT_PASS_PROTOCOL;
	}
	p->key.ports = *(__u32 *)&udp->source;
	return VERDICT_CONTINUE;
}

/*
 * An ICMP error that came to the VIP is about a packet that a real server sent
 * from it: of that one the source is the VIP and the destination the client. 8
 * bytes of it, the ports among them, are all that can be counted on.
 */
static __always_inline enum verdict parse_related4(struct packet *p, struct icmphdr *icmp, void *end)
{
	struct iphdr *inner = (void *)(icmp + 1);
	__be16 *ports;

	if ((void *)(inner + 1) > end)
		return VERDICT_PASS_PROTOCOL;
	if (icmp->type != ICMP_UNREACHABLE && icmp->type != ICMP_SOURCE_QUENCH &&
	    icmp->type != ICMP_TIME_EXCEEDED)
		return VERDICT_PASS_PROTOCOL;
	ports = (void *)inner + (inner->version_length & 0xf) * 4;
	if ((void *)(ports + 2) > end || inner->version_length >> 4 != 4 ||
	    inner->fragment & htons(IP_OFFSET) || inner->source != p->vip[3] || !has_ports(inner->protocol))
		return VERDICT_PASS_PROTOCOL;
	p->key.client[1] = (__u64)inner->destination << 32;
	p->protocol = inner->protocol;
	p->key.ports = ports[1] | (__u32)ports[0] << 16;
	p->related = 1;
	return VERDICT_CONTINUE;
}

/* A header says how long the packet is, unless GSO made it too long to be said. */
static __always_inline __u32 length_of(struct frame *f, __u16 said, __u32 besides)
{
	return unlikely(!said && f->segment) ? f->whole : said + besides;
}

static __always_inline enum verdict parse_ipv4(struct context *ctx, struct frame *f, struct packet *p, void *end)
{
	struct iphdr *ip = f->ip;

	if ((void *)(ip + 1) > end)
		return VERDICT_PASS_MALFORMED;
	p->header = (ip->version_length & 0xf) * 4;
	f->length = f->longest = length_of(f, ntohs(ip->total_length), 0);
	if (ip->version_length >> 4 != 4 || p->header < sizeof(*ip) || f->length < p->header ||
	    f->length > f->whole)
		return VERDICT_PASS_MALFORMED;
	p->key.client[1] = (__u64)ip->source << 32;
	p->vip[3] = ip->destination;
	p->protocol = ip->protocol;
	if (unlikely(ip->fragment & htons(IP_MORE_FRAGMENTS | IP_OFFSET))) {
		if (ip->protocol == IPPROTO_ICMP)
			return VERDICT_PASS_FRAGMENT;
		p->datagram = ip->id;
		p->fragment = ip->fragment & htons(IP_OFFSET) ? FRAGMENT_LATER : FRAGMENT_FIRST;
		if (p->fragment == FRAGMENT_LATER)
			return VERDICT_PASS_FRAGMENT; /* so far: see fragment.h */
	}
	if (unlikely(ip->protocol == IPPROTO_ICMP))
		return parse_related4(p, (void *)ip + p->header, end);
	return parse_transport(ctx, f, p, (void *)ip + p->header, end);
}

#define EXTENSIONS 8 /* headers that are skipped; more than a sane packet has */
#define NOT_FOUND  0xffffffff

/*
 * RFC 8200, 4: go over the extension headers to what they are in front of.
 * Returns how far that is from the IPv6 header, and its protocol in *next.
 */
static __always_inline __u32 skip_extensions(struct ipv6hdr *ip, __u8 *next, void *end)
{
	__u32 at = sizeof(*ip);
	int i;

	*next = ip->next_header;
	for (i = 0; i < EXTENSIONS; i++) {
		struct ipv6_opt_hdr *opt = (void *)ip + at;

		if (*next != IPPROTO_HOPOPTS && *next != IPPROTO_ROUTING &&
		    *next != IPPROTO_DSTOPTS && *next != IPPROTO_AH)
			break;
		if ((void *)(opt + 1) > end)
			return NOT_FOUND;
		at += *next == IPPROTO_AH ? (opt->length + 2) * 4 : (opt->length + 1) * 8;
		*next = opt->next_header;
	}
	return at > 2048 ? NOT_FOUND : at; /* the bound tells the verifier, too */
}

static __always_inline enum verdict parse_related6(struct packet *p, struct icmphdr *icmp, void *end)
{
	struct ipv6hdr *inner = (void *)(icmp + 1);
	__be16 *ports;
	__u32 at;
	__u8 next;

	if ((void *)(inner + 1) > end || icmp->type & ICMPV6_INFORMATIONAL)
		return VERDICT_PASS_PROTOCOL;
	if (inner->source[0] != p->vip[0] || inner->source[1] != p->vip[1] ||
	    inner->source[2] != p->vip[2] || inner->source[3] != p->vip[3])
		return VERDICT_PASS_PROTOCOL;
	at = skip_extensions(inner, &next, end);
	if (at == NOT_FOUND || !has_ports(next))
		return VERDICT_PASS_PROTOCOL;
	ports = (void *)inner + at;
	if ((void *)(ports + 2) > end)
		return VERDICT_PASS_PROTOCOL;
	p->key.client[0] = *(__u64 *)inner->destination;
	p->key.client[1] = *(__u64 *)(inner->destination + 2);
	p->protocol = next;
	p->key.ports = ports[1] | (__u32)ports[0] << 16;
	p->related = 1;
	return VERDICT_CONTINUE;
}

/*
 * RFC 8200, 4.5. A datagram in one piece may have a fragment header, too. Behind
 * that there may be destination options, in the first fragment.
 */
static __always_inline __u32 parse_fragment6(struct packet *p, void *ip, __u32 at, void *end)
{
	struct ipv6_fragment *f = ip + at;
	struct ipv6_opt_hdr *opt = (void *)(f + 1);

	if ((void *)(f + 1) > end)
		return NOT_FOUND;
	if (f->offset & htons(IPV6_OFFSET))
		p->fragment = FRAGMENT_LATER;
	else if (f->offset & htons(IPV6_MORE_FRAGMENTS))
		p->fragment = FRAGMENT_FIRST;
	p->datagram = f->id;
	p->protocol = f->next_header;
	at += sizeof(*f);
	if (p->fragment == FRAGMENT_LATER || p->protocol != IPPROTO_DSTOPTS)
		return at;
	if ((void *)(opt + 1) > end)
		return NOT_FOUND;
	p->protocol = opt->next_header;
	return at + (opt->length + 1) * 8;
}

static __always_inline enum verdict parse_ipv6(struct context *ctx, struct frame *f, struct packet *p, void *end)
{
	struct ipv6hdr *ip = f->ip;
	__u32 at;

	if ((void *)(ip + 1) > end)
		return VERDICT_PASS_MALFORMED;
	p->six = 1;
	f->length = f->longest = length_of(f, ntohs(ip->payload_length), sizeof(*ip));
	if ((ip->version_class_flow & htonl(0xf0000000)) != htonl(0x60000000) ||
	    f->length > f->whole)
		return VERDICT_PASS_MALFORMED;
	p->key.client[0] = *(__u64 *)ip->source;
	p->key.client[1] = *(__u64 *)(ip->source + 2);
	p->vip[0] = ip->destination[0];
	p->vip[1] = ip->destination[1];
	p->vip[2] = ip->destination[2];
	p->vip[3] = ip->destination[3];
	at = skip_extensions(ip, &p->protocol, end);
	if (at == NOT_FOUND)
		return VERDICT_PASS_MALFORMED;
	if (unlikely(p->protocol == IPPROTO_FRAGMENT)) {
		at = parse_fragment6(p, f->ip, at, end);
		if (at == NOT_FOUND)
			return VERDICT_PASS_MALFORMED;
	}
	p->header = at;
	if (unlikely(p->fragment)) {
		if (p->protocol == IPPROTO_ICMPV6 && p->fragment == FRAGMENT_LATER)
			p->fragment = FRAGMENT_NONE;
		if (p->protocol == IPPROTO_ICMPV6 || p->fragment == FRAGMENT_LATER)
			return VERDICT_PASS_FRAGMENT; /* so far: see fragment.h */
	}
	if (unlikely(p->protocol == IPPROTO_ICMPV6))
		return parse_related6(p, f->ip + at, end);
	return parse_transport(ctx, f, p, f->ip + at, end);
}

/* Is it IP at all? Other frames leave before there is a struct packet to fill in. */
static __always_inline enum verdict parse_ethernet(struct frame *f)
{
	f->segments = 1;
	if (f->ip > f->end)
		return VERDICT_PASS_NOT_IP;
	if (unlikely(f->tag & TAG_FOREIGN))
		return VERDICT_PASS_VLAN;
	if (f->eth->proto == htons(ETH_P_IP) || f->eth->proto == htons(ETH_P_IPV6))
		return VERDICT_CONTINUE;
	return is_tag(f->eth->proto) ? VERDICT_PASS_VLAN : VERDICT_PASS_NOT_IP;
}

static __always_inline enum verdict parse_ip(struct context *ctx, struct frame *f, struct packet *p)
{
	if (f->eth->proto == htons(ETH_P_IPV6))
		return parse_ipv6(ctx, f, p, f->end);
	return parse_ipv4(ctx, f, p, f->end);
}
