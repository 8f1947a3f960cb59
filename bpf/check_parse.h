/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Where the headers of a check's packet are, and of a packet that an ICMP error
 * quotes. Everything is read by a helper: an skb has it wherever it likes, and
 * these packets are few.
 */
#pragma once

#define offset_of(type, member) __builtin_offsetof(type, member)

enum check_kind {
	CHECK_OTHER,
	CHECK_PORTS,	   /* TCP, UDP */
	CHECK_ECHO,
	CHECK_ECHO_REPLY,
	CHECK_ICMP_ERROR,
	CHECK_LATER,	   /* a fragment that is not the first */
};

struct check_packet {
	__be32 source[4]; /* IPv4 is ::a.b.c.d */
	__be32 destination[4];
	__be16 source_port; /* of an ICMP echo: the identifier at the side that asks, the sequence number at the other */
	__be16 destination_port;
	__u32 datagram;	 /* a fragment: its id */
	__u32 ip;	 /* where its header is in the skb */
	__u32 transport; /* and the next one */
	__u8 protocol;
	__u8 six;
	__u8 kind;  /* enum check_kind */
	__u8 first; /* it is the first of several fragments */
};

static __always_inline int check_icmp(struct __sk_buff *skb, struct check_packet *p)
{
	__u8 ask = p->six ? ICMPV6_ECHO : ICMP_ECHO, answer = p->six ? ICMPV6_ECHO_REPLY : ICMP_ECHO_REPLY;
	struct icmphdr icmp;
	__be16 *echo = (void *)&icmp.mtu; /* identifier, sequence number */

	if (bpf_skb_load_bytes(skb, p->transport, &icmp, sizeof(icmp)))
		return CHECK_OTHER;
	if (icmp.type == ask) {
		p->source_port = echo[0];
		p->destination_port = echo[1];
		return CHECK_ECHO;
	}
	if (icmp.type == answer) {
		p->source_port = echo[1];
		p->destination_port = echo[0];
		return CHECK_ECHO_REPLY;
	}
	if (p->six ? icmp.type && icmp.type <= ICMPV6_PARAMETER_PROBLEM :
		     icmp.type == ICMP_UNREACHABLE || icmp.type == ICMP_SOURCE_QUENCH ||
		     icmp.type == ICMP_TIME_EXCEEDED || icmp.type == ICMP_PARAMETER_PROBLEM)
		return CHECK_ICMP_ERROR; /* not a redirect: it is about the VIP, not about the RIP */
	return CHECK_OTHER;
}

/* RFC 8200, 4: go over the extension headers. Returns enum check_kind: OTHER, LATER, or PORTS for "go on". */
static __always_inline int check_extensions(struct __sk_buff *skb, struct check_packet *p)
{
	int i;

	for (i = 0; i < 8; i++) {
		struct ipv6_opt_hdr opt;

		if (p->protocol == IPPROTO_FRAGMENT) {
			struct ipv6_fragment f;

			if (bpf_skb_load_bytes(skb, p->transport, &f, sizeof(f)))
				return CHECK_OTHER;
			p->datagram = f.id;
			p->transport += sizeof(f);
			p->protocol = f.next_header;
			if (f.offset & htons(IPV6_OFFSET))
				return CHECK_LATER;
			p->first = !!(f.offset & htons(IPV6_MORE_FRAGMENTS));
			continue;
		}
		if (p->protocol != IPPROTO_HOPOPTS && p->protocol != IPPROTO_ROUTING &&
		    p->protocol != IPPROTO_DSTOPTS)
			return CHECK_PORTS;
		if (bpf_skb_load_bytes(skb, p->transport, &opt, sizeof(opt)))
			return CHECK_OTHER;
		p->transport += (opt.length + 1) * 8;
		p->protocol = opt.next_header;
	}
	return CHECK_OTHER;
}

static __always_inline int check_ipv6(struct __sk_buff *skb, struct check_packet *p)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, p->ip, &ip, sizeof(ip)) ||
	    (ip.version_class_flow & htonl(0xf0000000)) != htonl(0x60000000))
		return CHECK_OTHER;
	__builtin_memcpy(p->source, ip.source, sizeof(ip.source));
	__builtin_memcpy(p->destination, ip.destination, sizeof(ip.destination));
	p->protocol = ip.next_header;
	p->transport = p->ip + sizeof(ip);
	return check_extensions(skb, p);
}

static __always_inline int check_ipv4(struct __sk_buff *skb, struct check_packet *p)
{
	struct iphdr ip;
	__u32 length;

	if (bpf_skb_load_bytes(skb, p->ip, &ip, sizeof(ip)))
		return CHECK_OTHER;
	length = (ip.version_length & 0xf) * 4;
	if (ip.version_length >> 4 != 4 || length < sizeof(ip))
		return CHECK_OTHER;
	p->source[3] = ip.source;
	p->destination[3] = ip.destination;
	p->protocol = ip.protocol;
	p->transport = p->ip + length;
	p->datagram = ip.id;
	p->first = !!(ip.fragment & htons(IP_MORE_FRAGMENTS));
	return ip.fragment & htons(IP_OFFSET) ? CHECK_LATER : CHECK_PORTS;
}

/*
 * From the IP header on. *p is zeros but for ip and six. Returns its kind. A
 * function of its own, which the verifier looks at once and not at each call.
 */
__attribute__((noinline)) int check_parse(struct __sk_buff *skb, struct check_packet *p)
{
	__be16 ports[2];

	if (!p)
		return CHECK_OTHER;
	p->kind = p->six ? check_ipv6(skb, p) : check_ipv4(skb, p);
	if (p->kind != CHECK_PORTS)
		return p->kind;
	switch (p->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		if (bpf_skb_load_bytes(skb, p->transport, ports, sizeof(ports)))
			break;
		p->source_port = ports[0];
		p->destination_port = ports[1];
		return p->kind;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if ((p->protocol == IPPROTO_ICMPV6) != p->six)
			break;
		p->kind = check_icmp(skb, p);
		return p->kind;
	}
	p->kind = CHECK_OTHER;
	return p->kind;
}

/* The packet itself: behind the Ethernet header, and behind tags that stand in the frame. */
static __always_inline int check_frame(struct __sk_buff *skb, struct check_packet *p)
{
	__be16 proto;
	int i;

	p->ip = offset_of(struct ethhdr, proto);
	for (i = 0; i < 3; i++) {
		if (bpf_skb_load_bytes(skb, p->ip, &proto, sizeof(proto)))
			return CHECK_OTHER;
		p->ip += sizeof(proto);
		if (proto != htons(ETH_P_8021Q) && proto != htons(ETH_P_8021AD))
			break;
		p->ip += sizeof(__be16); /* the tag */
	}
	if (proto != htons(ETH_P_IP) && proto != htons(ETH_P_IPV6))
		return CHECK_OTHER;
	p->six = proto == htons(ETH_P_IPV6);
	return check_parse(skb, p);
}
