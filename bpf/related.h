/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * ICMP errors about connections that are in no table: another director made
 * them, or this one before its table was lost. Only one server knows such a
 * connection, and we do not know which. So all servers of the service get the
 * error; to those that it does not concern it means nothing.
 *
 * XDP cannot copy a frame. The one that came goes to the server that the hash
 * names; the daemon gets it too, and has the program below send the others
 * theirs. What becomes of the frame that came does not depend on the daemon.
 */
#pragma once

#define COPIES_PER_SECOND 4000 /* on each CPU: one small packet of anybody's costs that many */
#define COPIES_MAX	  1000 /* of one error */
#define COPY_SECONDS	  2    /* how old an error may be that the daemon found late */

/* Who gets the frame itself: without weights the hash has nobody, and there still may be connections. */
static __always_inline __u32 related_first(struct service *s, __u64 hash)
{
	__u32 server = schedule_by_hash(s, hash);
	struct member *m;

	if (server != NO_SERVER || !s->count)
		return server;
	m = member_at(s, 0);
	return m ? m->server : NO_SERVER;
}

/* Room for an error in the ring to the daemon, or nothing, and in *v why. */
static __always_inline struct parked *related_open(__u32 slot, __u32 server, __u32 now, __u32 interface,
						   __u32 length, enum verdict *v)
{
	struct service *s = bpf_map_lookup_elem(&services, &slot);
	struct parked *to;

	*v = VERDICT_ABORTED;
	if (!s)
		return 0;
	*v = VERDICT_FORWARD_RELATED_ONLY;
	if (s->count <= 1)
		return 0;
	*v = VERDICT_FORWARD_RELATED_BY_HASH;
	if (s->count - 1 > COPIES_MAX || length > FRAME_MAX ||
	    !allowed_many(ALLOWANCE_COPY, now, s->count - 1, COPIES_PER_SECOND))
		return 0;
	*v = VERDICT_FORWARD_RELATED_UNHEARD;
	to = bpf_ringbuf_reserve(&arrivals, sizeof(*to), 0);
	if (!to)
		return 0;
	__builtin_memset(&to->arrival, 0, sizeof(to->arrival));
	to->arrival.kind = ARRIVAL_RELATED;
	to->arrival.interface = interface;
	to->arrival.length = length;
	to->arrival.server = server;
	to->arrival.second = now;
	return to;
}

static __always_inline enum verdict related_close(struct parked *to, long missed)
{
	if (missed) {
		bpf_ringbuf_discard(to, 0);
		return VERDICT_ABORTED;
	}
	bpf_ringbuf_submit(to, 0);
	return VERDICT_FORWARD_RELATED_TO_ALL;
}

__attribute__((noinline)) int related_to_all(struct xdp_md *ctx, __u32 slot, __u32 server, __u32 now)
{
	long frame = (long)ctx->data_end - (long)ctx->data, missed = -1;
	struct parked *to;
	enum verdict v;
	__u32 length;

	opaque(frame); /* as in reply_room */
	length = frame;
	to = related_open(slot, server, now, ctx->ingress_ifindex, length, &v);
	if (!to)
		return v;
	if (length > FRAME_MAX)
		return related_close(to, -1);
	opaque(length); /* as in fragment_park */
	if (length)
		missed = bpf_xdp_load_bytes(ctx, 0, to->frame, length);
	return related_close(to, missed);
}

__attribute__((noinline)) int related_to_all_skb(struct __sk_buff *skb, __u32 slot, __u32 server, __u32 now)
{
	__u32 length = skb->len;
	struct parked *to;
	long missed = -1;
	enum verdict v;

	to = related_open(slot, server, now, skb->ifindex, length, &v);
	if (!to)
		return v;
	if (length > FRAME_MAX)
		return related_close(to, -1);
	opaque(length);
	if (length)
		missed = bpf_skb_load_bytes(skb, 0, to->frame, length);
	return related_close(to, missed);
}

struct copying {
	struct __sk_buff *skb;
	struct service *service;
	__u32 had; /* the server that has it */
	__u32 length; /* from the IP header on */
	__u32 tag;    /* of the VLAN that it was last sent to */
};

/* The daemon's program may be interrupted by packets on its CPU: hence the atomic steps. */
static __always_inline void count_copy(__u32 server, __u32 length, __u32 verdict)
{
	__u64 *count = bpf_map_lookup_elem(&verdicts, &verdict);
	struct counters *c = bpf_map_lookup_elem(&server_counters, &server);

	if (count)
		__sync_fetch_and_add(count, 1);
	if (!c)
		return;
	__sync_fetch_and_add(&c->packets, 1);
	__sync_fetch_and_add(&c->bytes, length);
}

static __always_inline enum verdict copy_to(struct copying *c, struct server *to)
{
	__u32 tag = to->vlan ? TAG_PRESENT | to->vlan : 0;
	struct ethhdr *eth;

	if (!(to->flags & SERVER_RESOLVED))
		return VERDICT_DROP_UNRESOLVED;
	if (to->mtu && c->length > to->mtu)
		return VERDICT_DROP_TOO_BIG;
	if (tag != c->tag && retag_skb(c->skb, c->tag, tag))
		return VERDICT_DROP_COPY;
	c->tag = tag;
	eth = (void *)(long)c->skb->data;
	if ((void *)(eth + 1) > (void *)(long)c->skb->data_end)
		return VERDICT_ABORTED;
	set_macs(eth, to);
	return bpf_clone_redirect(c->skb, to->interface, 0) ? VERDICT_DROP_COPY : VERDICT_FORWARD_RELATED_COPY;
}

static long copy_step(__u32 i, struct copying *c)
{
	struct member *m = member_at(c->service, i);
	struct server *to;

	if (!m)
		return 1;
	if (m->server == c->had)
		return 0;
	to = bpf_map_lookup_elem(&servers, &m->server);
	/* A local node's packets are not sent: it gets only what comes, if the hash names it. */
	if (to && !(to->flags & SERVER_LOCAL))
		count_copy(m->server, c->length, copy_to(c, to));
	return 0;
}

/*
 * What the daemon runs with an error: cb[0] is the server that has it, cb[1] the
 * second when it came. It is sent out, never received, so it does not come by here
 * again. A program for tc wherever the director is one for XDP, because of
 * bpf_clone_redirect, which sends by every driver.
 */
SEC("tc")
int copy(struct __sk_buff *skb)
{
	struct context ctx = { .skb = skb, .tc = 1 };
	struct copying c = { .skb = skb, .had = skb->cb[0] };
	struct parameters *set;
	struct found found = {};
	struct packet p = {};
	struct frame f = {};
	__u32 zero = 0;

	set = bpf_map_lookup_elem(&settings, &zero);
	if (!set || ((clock_seconds(set) - skb->cb[1]) & DEADLINE_MASK) > COPY_SECONDS)
		return TCX_DROP;
	frame_open(&ctx, &f);
	if (parse_ethernet(&f) != VERDICT_CONTINUE || parse_ip(&ctx, &f, &p) != VERDICT_CONTINUE || !p.related)
		return TCX_DROP;
	c.service = service_find(&p, set, &found);
	if (!c.service || *ttl_of(&f, &p) <= 1)
		return TCX_DROP; /* of the latter the frame that came has been dropped, too */
	c.length = f.length;
	decrement_ttl(&ctx, &f, &p);
	bpf_loop(c.service->count <= COPIES_MAX ? c.service->count : COPIES_MAX + 1, copy_step, &c, 0);
	return TCX_DROP;
}
