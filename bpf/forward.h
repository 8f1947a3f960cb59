/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Step 5: send the frame on. Both MAC addresses, the TTL, the header checksum
 * that covers it, and the VLAN if it is another one, change; nothing else.
 */
#pragma once

static __always_inline void count_server(__u32 id, struct frame *f, int new)
{
	struct counters *c = bpf_map_lookup_elem(&server_counters, &id);

	if (!c)
		return;
	c->connections += new;
	c->packets += f->segments;
	c->bytes += f->length; /* of GSO packets with the headers once, as IPVS counts them */
}

static __always_inline __u8 *ttl_of(struct frame *f, struct packet *p)
{
	return p->six ? &((struct ipv6hdr *)f->ip)->hop_limit : &((struct iphdr *)f->ip)->ttl;
}

static __always_inline void decrement_ttl(struct context *ctx, struct frame *f, struct packet *p)
{
	struct iphdr *ip = f->ip;
	__u32 sum;

	if (p->six) {
		hop_limit_fell(ctx);
	} else { /* RFC 1624: the sum grows by what the TTL's 16-bit word lost */
		sum = ip->checksum + htons(0x0100);
		ip->checksum = sum + (sum >> 16);
	}
	(*ttl_of(f, p))--;
}

/* Returns the VLAN that goes with the addresses. */
static __always_inline __u32 set_macs(struct ethhdr *eth, struct server *to)
{
	/* Read whole: Go writes it whole, so a packet never sees half of a new MAC. */
	__u64 mac = *(volatile __u64 *)to->mac;
	__u64 source = *(volatile __u64 *)to->source;

	*(__u32 *)eth->destination = mac;
	*(__u16 *)(eth->destination + 4) = mac >> 32;
	*(__u32 *)eth->source = source;
	*(__u16 *)(eth->source + 4) = source >> 32;
	return source >> 48;
}
