/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * lblc and lblcr: a destination address keeps its server, or its few servers, as
 * long as they are not overloaded (ip_vs_lblc.c, ip_vs_lblcr.c). That is for
 * caches, with a service that listens on many addresses.
 */
#pragma once

#define SET_AGE 86400 /* seconds after which an unchanged set of lblcr gives up a server */

/* A server's weight: what it was last, unless it is quiesced now. */
static __always_inline __u32 server_weight(struct server *s)
{
	return s->flags & SERVER_QUIESCED ? 0 : s->last_weight;
}

static __always_inline struct server *server_in_service(__u32 id)
{
	struct server *s = bpf_map_lookup_elem(&servers, &id);

	return s && s->flags & SERVER_EXISTS ? s : 0;
}

static __always_inline __u32 seed_of(__u32 id)
{
	struct seed *s = bpf_map_lookup_elem(&seeds, &id);

	return s ? s->active : 0;
}

struct idle_search {
	struct service *service;
	__u32 found;
};

static long idle_step(__u32 i, struct idle_search *f)
{
	struct member *m = member_at(f->service, i);
	struct load *l;

	if (!m)
		return 1;
	l = load_at(m->server);
	if (l && m->weight > 0 && load_active(l, m->seed) * 2 < (__u32)m->weight)
		f->found = 1;
	return f->found;
}

/* More active connections than weight, while another has less than half of its. */
static __always_inline int server_overloaded(struct service *s, __u32 id, __u32 weight)
{
	struct idle_search f = { .service = s };
	struct load *l = load_at(id);

	if (!l || load_active(l, seed_of(id)) <= weight)
		return 0;
	bpf_loop(s->count, idle_step, &f, 0);
	return f.found;
}

struct set_search {
	struct destination_set *set;
	struct locality_scratch *found;
};

static long set_step(__u32 i, struct set_search *f)
{
	struct locality_scratch *x = f->found;
	__u32 id = f->set->server[i & (SET - 1)];
	struct server *s = server_in_service(id);
	struct load *l = load_at(id);
	__u32 weight;
	__u64 cost;

	if (!s || !l)
		return 0;
	weight = server_weight(s);
	cost = load_overhead(l, seed_of(id));
	if (!weight)
		return 0;
	if (!(l->flags & LOAD_OVERLOADED) &&
	    (x->least == NO_SERVER || x->least_cost * weight > cost * x->least_weight)) {
		x->least = id;
		x->least_cost = cost;
		x->least_weight = weight;
	}
	if (x->most == NO_SERVER || x->most_cost * weight < cost * x->most_weight) {
		x->most = id;
		x->most_cost = cost;
		x->most_weight = weight;
	}
	return 0;
}

static __always_inline void set_add(struct destination_set *set, __u32 server, __u32 now)
{
	int i;

	for (i = 0; i < SET; i++)
		if (i < set->count && set->server[i] == server)
			return;
	for (i = SET - 1; i > 0; i--)
		set->server[i] = set->server[i - 1];
	set->server[0] = server;
	if (set->count < SET)
		set->count++;
	set->changed = now;
}

static __always_inline void set_remove(struct destination_set *set, __u32 server, __u32 now)
{
	int i, gone = 0;

	for (i = 0; i < SET; i++) {
		if (i < set->count && set->server[i] == server)
			gone = 1;
		if (gone && i < SET - 1)
			set->server[i] = set->server[i + 1];
	}
	if (gone) {
		set->count--;
		set->changed = now;
	}
}

/* Who of its set a destination may have now; NO_SERVER: it needs another. */
static __always_inline __u32 set_choose(struct service *s, struct destination_set *set,
					struct locality_scratch *x, __u32 now)
{
	struct set_search f = { .set = set, .found = x };
	__u32 count = set->count;

	x->least = x->most = NO_SERVER;
	bpf_loop(count <= SET ? count : SET, set_step, &f, 0);
	if (s->scheduler == SCHEDULER_LBLCR && count > 1 &&
	    ((now - set->changed) & DEADLINE_MASK) > SET_AGE && x->most != NO_SERVER)
		set_remove(set, x->most, now);
	if (x->least == NO_SERVER || server_overloaded(s, x->least, x->least_weight))
		return NO_SERVER;
	return x->least;
}

static __always_inline __u32 schedule_locality(struct service *s, struct packet *p, __u32 now)
{
	__u32 server, zero = 0;
	struct locality_scratch *x = bpf_map_lookup_elem(&locality, &zero);
	struct destination_set *set;

	if (!x)
		return NO_SERVER;
	__builtin_memcpy(x->to.addr, p->vip, sizeof(x->to.addr));
	x->to.service = s->id;
	x->to.epoch = s->epoch;
	set = bpf_map_lookup_elem(&destinations, &x->to);
	if (set) {
		server = set_choose(s, set, x, now);
		if (server != NO_SERVER)
			return server;
	}
	server = schedule_least(s);
	if (server == NO_SERVER)
		return NO_SERVER;
	if (set && s->scheduler == SCHEDULER_LBLCR) {
		set_add(set, server, now);
		return server;
	}
	x->fresh.count = 1;
	x->fresh.changed = now;
	x->fresh.server[0] = server;
	bpf_map_update_elem(&destinations, &x->to, &x->fresh, 0);
	return server;
}
