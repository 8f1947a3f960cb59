/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What XDP and tc do differently: where the packet is, how it goes out, how room
 * for a reply is made. All else is the same code for both.
 */
#pragma once

/* One of the two; which one is a constant in each program, so each is only its own half. */
struct context {
	struct xdp_md *xdp;
	struct __sk_buff *skb;
	int tc;
};

/*
 * Where the headers are, and how long all is; lengths from the IP header on.
 * Apart from struct packet, because the verifier lets no function see pointers in
 * memory, and because of what is constant in XDP: that needs no stack then.
 */
struct frame {
	struct ethhdr *eth;
	void *ip;	/* struct iphdr or ipv6hdr */
	void *end;	/* of what can be read: of an skb perhaps no more than the headers */
	__u32 whole;	/* what is there, padding included */
	__u32 length;	/* what the header says */
	__u32 longest;	/* of the packets on the wire: with GSO they are several */
	__u32 segments;	/* how many they are */
	__u32 segment;	/* GSO: the payload of each of them; else 0 */
	__u32 tag;	/* that it came with: see vlan.h */
};

static __always_inline void *frame_begin(struct context *ctx)
{
	return (void *)(long)(ctx->tc ? ctx->skb->data : ctx->xdp->data);
}

static __always_inline void *frame_end(struct context *ctx)
{
	return (void *)(long)(ctx->tc ? ctx->skb->data_end : ctx->xdp->data_end);
}

/* The interface that the packet came in by. */
static __always_inline __u32 arrived_by(struct context *ctx)
{
	return ctx->tc ? ctx->skb->ifindex : ctx->xdp->ingress_ifindex;
}

/* All headers of what is not plain; few bytes more than parse.h looks at. */
#define LONG_HEADERS 2200

/* The protocols that a service can have. All begin with the ports. */
static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* How much of an skb has to be in reach: of plain packets of those no more than their header. */
static __always_inline __u32 headers_wanted(void *data, void *end)
{
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct ipv6hdr *ip6 = (void *)ip;

	if ((void *)(ip + 1) <= end && ip->version_length == 0x45 && has_ports(ip->protocol))
		return sizeof(struct ethhdr) + sizeof(*ip) + sizeof(struct tcphdr);
	if ((void *)(ip6 + 1) <= end && *(__u8 *)ip6 >> 4 == 6 && has_ports(ip6->next_header))
		return sizeof(struct ethhdr) + sizeof(*ip6) + sizeof(struct tcphdr);
	return LONG_HEADERS;
}

/*
 * The kernel keeps as much of an skb in one piece as the driver liked, the rest in
 * fragments. Of GSO_BY_FRAGS, which is SCTP from a sender on this machine, the
 * headers are in one piece; each fragment is a packet, and has to stay whole.
 */
static __always_inline void reach_headers(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 length = skb->len, here, wanted;

	here = end - data;
	if (likely(here >= length) || skb->gso_size == GSO_BY_FRAGS)
		return;
	wanted = headers_wanted(data, end);
	if (wanted > length)
		wanted = length;
	if (here < wanted)
		bpf_skb_pull_data(skb, wanted); /* if there is no memory, the packet is left to the stack */
}

static __always_inline void frame_open(struct context *ctx, struct frame *f)
{
	if (ctx->tc) {
		reach_headers(ctx->skb);
		if (unlikely(ctx->skb->vlan_present))
			f->tag = tag_of_skb(ctx->skb);
	}
	f->eth = frame_begin(ctx);
	f->end = frame_end(ctx);
	if (!ctx->tc && (void *)(f->eth + 1) <= f->end && unlikely(f->eth->proto != htons(ETH_P_IP)) &&
	    is_tag(f->eth->proto)) {
		f->tag = untag_xdp(ctx->xdp);
		f->eth = frame_begin(ctx);
		f->end = frame_end(ctx);
	}
	f->ip = (void *)(f->eth + 1);
	if (ctx->tc) {
		f->whole = ctx->skb->len - sizeof(*f->eth);
		f->segment = ctx->skb->gso_size;
	} else {
		f->whole = (long)f->end - (long)f->ip;
	}
}

/*
 * The ways out. What is passed goes to the next tc program if there is one, as
 * from XDP it does anyway.
 */

static __always_inline int drop(struct context *ctx)
{
	return ctx->tc ? TCX_DROP : XDP_DROP;
}

static __always_inline int abort(struct context *ctx)
{
	return ctx->tc ? TCX_DROP : XDP_ABORTED; /* the latter can be traced */
}

/* As it came, with its tag. */
static __always_inline int pass(struct context *ctx, struct frame *f)
{
	if (ctx->tc)
		return TCX_NEXT;
	if (unlikely(f->tag & TAG_PRESENT) && tag_xdp(ctx->xdp, f->tag))
		return abort(ctx);
	return XDP_PASS;
}

/*
 * Make a frame one of a VLAN, or of none: with the priority that it came with, if
 * it stays tagged. The last thing that is done to it: where it is changes. 0: done.
 */
static __always_inline int frame_vlan(struct context *ctx, struct frame *f, __u32 vlan)
{
	__u32 tag = vlan ? TAG_PRESENT | (f->tag & TAG_REST) | vlan : 0;

	if (ctx->tc)
		return tag == f->tag ? 0 : retag_skb(ctx->skb, f->tag, tag);
	return tag ? tag_xdp(ctx->xdp, tag) : 0;
}

static __always_inline int send_by(struct context *ctx, __u32 interface)
{
	if (!ctx->tc && interface == arrived_by(ctx))
		return XDP_TX;
	return bpf_redirect(interface, 0);
}

/* By the way it came, in the VLAN that it came by. */
static __always_inline int send_back(struct context *ctx, struct frame *f)
{
	if (!ctx->tc && unlikely(f->tag) && tag_xdp(ctx->xdp, f->tag))
		return abort(ctx);
	return send_by(ctx, arrived_by(ctx));
}

/* The driver may have given the sum of the whole packet: an IPv6 header has none that makes up for a change. */
static __always_inline void hop_limit_fell(struct context *ctx)
{
	if (ctx->tc)
		bpf_csum_update(ctx->skb, ~(__u32)htons(1));
}

#define QUOTED 100 /* bytes of a packet that an error quotes, at most: whole words, see checksum */

/* An skb's length while it is made a reply, and what is cut off its front: more than all headers. */
#define WORKSHOP 300
#define CUT 120

/*
 * reply_room for an skb. Only for its bytes would be easy. But the kernel or the
 * hardware may still have to fill in a TCP checksum, which would then be written
 * into the quotation. bpf_skb_adjust_room has that forgotten, if it removes the
 * place where the sum begins; bpf_skb_change_tail everything else: GSO, the sum
 * that the driver gave. A function of its own for its 100 bytes of stack.
 */
__attribute__((noinline)) int reply_room_skb(struct __sk_buff *skb, __u32 quoted, __u32 room)
{
	__u8 quotation[QUOTED];

	if (quoted > QUOTED || room > CUT ||
	    bpf_skb_change_tail(skb, WORKSHOP, 0) ||
	    bpf_skb_load_bytes(skb, sizeof(struct ethhdr), quotation, QUOTED) ||
	    bpf_skb_adjust_room(skb, -CUT, BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(skb, sizeof(struct ethhdr) + room, quotation, QUOTED, 0) ||
	    bpf_skb_change_tail(skb, sizeof(struct ethhdr) + room + quoted, 0))
		return -1;
	return 0;
}

/*
 * Make the packet one of an Ethernet header, room, and as much of the packet as
 * is quoted, from the IP header on.
 */
static __always_inline int reply_room(struct context *ctx, struct frame *f, long quoted, int room)
{
	long frame = (long)f->end - (long)f->eth;

	if (ctx->tc)
		return reply_room_skb(ctx->skb, quoted, room);
	opaque(frame); /* pointers are subtracted in 64 bits or not at all */
	return bpf_xdp_adjust_tail(ctx->xdp, (long)sizeof(*f->eth) + quoted - frame) ||
	       bpf_xdp_adjust_head(ctx->xdp, -room);
}
