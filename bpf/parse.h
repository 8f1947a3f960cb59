/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Step 1: read the frame, once. What later steps need is in struct packet;
 * what is none of our business leaves here.
 */
#pragma once

struct packet {
	struct ethhdr *eth;
	struct iphdr *ip;
	__u64 key;	 /* client address, client port, virtual port: see struct connection */
	struct listener to;
	__u16 length;	 /* from the IP header on */
	__u8 tcp_flags;
	__u8 header;	 /* length of the IP header */
};

static __always_inline enum verdict parse_transport(struct packet *p, void *end)
{
	void *transport = (void *)p->ip + p->header;
	struct udphdr *udp = transport;
	struct tcphdr *tcp = transport;

	if (p->ip->protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > end || p->length < p->header + sizeof(*tcp))
			return VERDICT_PASS_MALFORMED;
		p->tcp_flags = tcp->flags;
	} else if (p->ip->protocol == IPPROTO_UDP) {
		if ((void *)(udp + 1) > end || p->length < p->header + sizeof(*udp))
			return VERDICT_PASS_MALFORMED;
		p->tcp_flags = 0;
	} else {
		return VERDICT_PASS_PROTOCOL;
	}
	p->key = (__u64)p->ip->source | (__u64)udp->source << 32 | (__u64)udp->destination << 48;
	p->to.addr = p->ip->destination;
	p->to.port = udp->destination;
	p->to.protocol = p->ip->protocol;
	p->to.pad = 0;
	return VERDICT_CONTINUE;
}

static __always_inline enum verdict parse(struct packet *p, void *data, void *end)
{
	p->eth = data;
	p->ip = data + sizeof(struct ethhdr);
	if ((void *)(p->ip + 1) > end || p->eth->proto != htons(ETH_P_IP))
		return VERDICT_PASS_NOT_IPV4;

	p->header = (p->ip->version_length & 0xf) * 4;
	p->length = ntohs(p->ip->total_length);
	if (p->ip->version_length >> 4 != 4 || p->header < sizeof(struct iphdr) ||
	    p->length < p->header || (void *)p->ip + p->length > end)
		return VERDICT_PASS_MALFORMED;
	if (p->ip->fragment & htons(IP_MORE_FRAGMENTS | IP_OFFSET))
		return VERDICT_PASS_FRAGMENT;
	return parse_transport(p, end);
}
