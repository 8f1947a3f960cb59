/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What a service may have against those who harm it: a deny list of prefixes, and
 * a limit of new connections by source. One that has neither pays a flag's test.
 */
#pragma once

/* Is the packet from one of the prefixes of that list? */
__attribute__((noinline)) int denied_client(struct packet *p, __u32 list)
{
	struct denied_key k = {
		.prefix = (sizeof(k) - sizeof(k.prefix)) * 8,
		.list = list,
	};

	if (!p)
		return 0;
	k.client[0] = p->key.client[0];
	k.client[1] = p->key.client[1];
	return bpf_map_lookup_elem(&denied, &k) != 0;
}

/* The same of an ICMP error, which is its sender's, whosever connection it is about. */
static __always_inline int denied_sender(struct frame *f, struct packet *p, __u32 list)
{
	__u64 high = p->key.client[0], low = p->key.client[1];
	struct ipv6hdr *six = f->ip;
	struct iphdr *four = f->ip;
	int found;

	if (p->six) {
		if ((void *)(six + 1) > f->end)
			return 1;
		p->key.client[0] = *(__u64 *)six->source;
		p->key.client[1] = *(__u64 *)(six->source + 2);
	} else {
		if ((void *)(four + 1) > f->end)
			return 1;
		p->key.client[1] = (__u64)four->source << 32;
	}
	found = denied_client(p, list);
	p->key.client[0] = high;
	p->key.client[1] = low;
	return found;
}

/*
 * The limit of new connections. A source is an IPv4 address or an IPv6 /64, with a
 * service. It is ahead of its rate by an interval (1/rate) for each connection that it
 * began, and catches up as time goes by (the generic cell rate algorithm: a bucket of
 * tokens in one number). It may begin one if it is ahead by less than its burst.
 *
 * Where that is noted has a fixed size. A place is free when its source has caught
 * up; if a set has none, who is least ahead loses his. So a flood from many sources
 * takes places from each other, and from clients who begin a connection now and
 * then, to whom that is a gift; a source that is far ahead keeps its place, and
 * nobody is refused for what another has done. Sets are chosen by a keyed hash.
 */
#define SOURCE_UNIT_SHIFT 10 /* time is in units of 1024 ns */
#define SOURCE_SECOND (1000000000 >> SOURCE_UNIT_SHIFT)
#define SOURCE_TIME_MASK ((1ULL << SOURCE_TIME_BITS) - 1)
#define SOURCE_AHEAD_MOST (1ULL << 34) /* nobody can be so far ahead: that is long past */

struct source {
	__u64 tag; /* in its place in the word */
	__u64 now;
	__u64 ahead;
	__u64 word; /* that stands in its place, or in the one that it may have */
	__u32 set;
	__u32 way;
};

static __always_inline __u64 source_ahead(__u64 word, __u64 now)
{
	__u64 ahead = (word - now) & SOURCE_TIME_MASK;

	return ahead < SOURCE_AHEAD_MOST ? ahead : 0;
}

static __always_inline int source_of(struct packet *p, struct service *s, struct source *from)
{
	struct parameters *set = parameters();
	__u64 hash;

	if (!set)
		return 0;
	hash = hash_mix(0, p->six ? p->key.client[0] : p->key.client[1], 0, s->id, ~set->seed);
	from->tag = hash & ~SOURCE_TIME_MASK;
	from->set = hash & (SOURCE_SETS - 1);
	from->now = (bpf_ktime_get_ns() + (set->clock_offset * seconds_per_jiffy >> 32) * 1000000000) >> SOURCE_UNIT_SHIFT;
	return 1;
}

/* Find a source's place, or the one that it may have. A function of its own: the verifier looks at it once. */
__attribute__((noinline)) int source_find(struct source *from)
{
	struct source_set *at;
	__u64 least = ~0ULL;
	__u32 i;

	if (!from)
		return 0;
	i = from->set;
	at = bpf_map_lookup_elem(&sources, &i);
	if (!at)
		return 0;
	from->ahead = 0;
	for (i = 0; i < SOURCE_WAYS; i++) {
		__u64 word = *(volatile __u64 *)&at->way[i];
		__u64 ahead = source_ahead(word, from->now);

		if ((word & ~SOURCE_TIME_MASK) == from->tag && ahead) {
			from->word = word;
			from->ahead = ahead;
			from->way = i;
			return 1;
		}
		if (ahead < least) {
			least = ahead;
			from->word = word;
			from->way = i;
		}
	}
	return 1;
}

static __always_inline __u64 source_interval(struct service *s)
{
	return s->source_rate ? SOURCE_SECOND / s->source_rate : 0;
}

/*
 * Would it begin a connection that its source may not? What is in no table may also
 * belong to a connection for which there was no place; it waits with the others
 * of its source then.
 */
__attribute__((noinline)) int source_used_up(struct packet *p, struct route *r)
{
	struct source from = {};
	struct service *s;

	if (!p || !r)
		return 0;
	s = bpf_map_lookup_elem(&services, &r->slot);
	if (!s || (is_stray(p) && (s->stray != STRAY_ADOPT || p->tcp_flags & TCP_RST)))
		return 0; /* begins nothing */
	if (!source_of(p, s, &from) || !source_find(&from))
		return 0;
	return from.ahead + source_interval(s) > s->source_burst * source_interval(s);
}

/*
 * A connection has begun, or might have. What found no place and may be of a
 * connection that is under way is not counted: such a connection would be slowed
 * down to the rate, as long as the table is full.
 */
static __always_inline int source_began(struct packet *p, __u32 verdict)
{
	switch (verdict) {
	case VERDICT_FORWARD_NEW:
	case VERDICT_FORWARD_ADOPTED:
	case VERDICT_FORWARD_ONE_PACKET:
		return 1;
	case VERDICT_FORWARD_UNTRACKED:
		return p->protocol != IPPROTO_UDP && !is_stray(p);
	}
	return 0;
}

/* Count what has begun. Whose place is changed by others at each try is let off. */
__attribute__((noinline)) int source_charge(struct packet *p, struct route *r, __u32 verdict)
{
	struct source from = {};
	struct source_set *at;
	struct service *s;
	int tries;

	if (!p || !r || !source_began(p, verdict))
		return 0;
	s = bpf_map_lookup_elem(&services, &r->slot);
	if (!s || !source_of(p, s, &from))
		return 0;
	at = bpf_map_lookup_elem(&sources, &from.set);
	for (tries = 0; at && tries < 4; tries++) {
		__u64 until;

		if (!source_find(&from))
			return 0;
		until = (from.now + from.ahead + source_interval(s)) & SOURCE_TIME_MASK;
		if (__sync_val_compare_and_swap(&at->way[from.way & (SOURCE_WAYS - 1)], from.word, from.tag | until) == from.word)
			return 1;
	}
	return 0;
}
