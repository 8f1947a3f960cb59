/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Step 4: choose a real server for a new connection, as IPVS does: in the order
 * of the list, newest server first, the first of equals wins. Servers of weight
 * 0 are quiesced and never chosen.
 */
#pragma once

#define NO_SERVER 0xffffffff

static __always_inline struct member *member_at(struct service *s, __u32 i)
{
	i += s->members;
	return bpf_map_lookup_elem(&members, &i);
}

/* --- lc, wlc: least overhead (by weight), where an active connection costs 257 inactive ones */

struct least {
	struct service *service;
	__u64 overhead;
	__u32 weight;
	__u32 server;
};

static long least_step(__u32 i, struct least *l)
{
	struct member *m = member_at(l->service, i);
	struct load *load;
	__u64 n, overhead;
	__u32 weight, server;

	if (!m)
		return 1;
	if (m->weight <= 0)
		return 0;
	server = m->server;
	load = bpf_map_lookup_elem(&loads, &server);
	if (!load)
		return 1;
	n = load->connections;
	overhead = (n & 0xffffffff) * 257 + (n >> 32);
	weight = l->service->scheduler == SCHEDULER_LC ? 1 : m->weight;
	if (l->server == NO_SERVER || l->overhead * weight > overhead * l->weight) {
		l->server = server;
		l->overhead = overhead;
		l->weight = weight;
	}
	return 0;
}

static __always_inline __u32 schedule_least(struct service *s)
{
	struct least l = { .service = s, .server = NO_SERVER };

	bpf_loop(s->count, least_step, &l, 0);
	return l.server;
}

/*
 * --- rr, wrr: whose turn it is. One word, changed by compare-and-swap:
 * generation (of the list it is about), place (0: head, n: the n-th member was
 * the last one chosen), wrr's current weight.
 */

static __always_inline __u64 turn_make(__u16 generation, __u32 place, __s32 current)
{
	return (__u64)generation << 48 | (__u64)(place & 0xffff) << 32 | (__u32)current;
}

struct search {
	struct service *service;
	__u32 from;	/* first member to look at; wraps */
	__s32 least;	/* weight that is wanted */
	__s32 greatest; /* weight that was seen */
	__u32 found;	/* member, counted from 1; 0: none */
	__u32 server;
};

static long search_step(__u32 i, struct search *f)
{
	struct member *m;

	i += f->from;
	if (i >= f->service->count)
		i -= f->service->count;
	m = member_at(f->service, i);
	if (!m)
		return 1;
	if (m->weight > f->greatest)
		f->greatest = m->weight;
	if (m->weight < f->least)
		return 0;
	f->found = i + 1;
	f->server = m->server;
	return 1;
}

static __always_inline void search_members(struct search *f, __u32 from, __u32 count, __s32 least)
{
	f->from = from;
	f->least = least;
	bpf_loop(count, search_step, f, 0);
}

/*
 * The next of a round: from the place on, the first with weight >= current; at
 * the list's end current goes down by a step, and from the step's end back to
 * the greatest. Levels that no server reaches are skipped at once.
 */
static __always_inline __s32 wrr_next(struct service *s, struct search *f, __u32 place, __s32 current)
{
	__s32 level, reached;

	if (s->greatest <= 0 || s->step <= 0)
		return current;
	if (place < s->count)
		search_members(f, place, s->count - place, current);
	if (f->found)
		return current;
	f->greatest = 0;
	search_members(f, 0, s->count, 0x7fffffff);
	if (f->greatest <= 0 || f->found)
		return s->greatest;
	reached = (f->greatest - 1) / (__u32)s->step * s->step + 1;
	level = current - s->step;
	if (level <= 0)
		level = s->greatest;
	if (level > reached)
		level = reached;
	search_members(f, 0, s->count, level);
	return level;
}

static __always_inline __u32 schedule_turn(struct service *s)
{
	__u32 id = s->id;
	__u64 *turn = bpf_map_lookup_elem(&turns, &id);
	int tries;

	if (!turn || !s->count)
		return NO_SERVER;
	for (tries = 0; tries < 4; tries++) {
		struct search f = { .service = s, .server = NO_SERVER };
		__u64 old = *(volatile __u64 *)turn;
		__u32 place = old >> 32 & 0xffff;
		__s32 current = old;

		if (old >> 48 != s->generation) {
			place = s->place;
			current = s->current;
		}
		if (s->scheduler == SCHEDULER_WRR)
			current = wrr_next(s, &f, place, current);
		else
			search_members(&f, place < s->count ? place : 0, s->count, 1);
		if (f.found)
			place = f.found;
		if (__sync_val_compare_and_swap(turn, old,
						turn_make(s->generation, place, current)) == old ||
		    tries == 3)
			return f.server;
	}
	return NO_SERVER;
}

static __always_inline __u32 schedule(struct service *s)
{
	switch (s->scheduler) {
	case SCHEDULER_RR:
	case SCHEDULER_WRR:
		return schedule_turn(s);
	case SCHEDULER_LC:
	case SCHEDULER_WLC:
		return schedule_least(s);
	}
	return NO_SERVER;
}

/*
 * Without state: the same client and port always get the same server, as long
 * as the list stays; and most do when it changes (Maglev, NSDI 2016).
 */
static __always_inline __u32 schedule_by_hash(struct service *s, __u64 hash)
{
	__u32 i, *server;

	if (!s->hash_size)
		return NO_SERVER;
	i = s->hash + (__u32)(hash >> 32) % s->hash_size;
	server = bpf_map_lookup_elem(&hash_slots, &i);
	return server ? *server : NO_SERVER;
}
