/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Step 4: choose a real server for a new connection, as IPVS does: in the order
 * of the list, newest server first, the first of equals wins. Servers of weight
 * 0 are quiesced, overloaded ones have reached their upper threshold: neither
 * is chosen. Where loads are compared, a server's seed counts as active
 * connections: so one that is new, and idle, does not get all that comes.
 */
#pragma once

#define NO_SERVER 0xffffffff

static __always_inline struct member *member_at(struct service *s, __u32 i)
{
	i += s->members;
	return bpf_map_lookup_elem(&members, &i);
}

static __always_inline int member_available(struct member *m, struct load *l)
{
	return m->weight > 0 && !(l->flags & LOAD_OVERLOADED);
}

static __always_inline __u64 load_active(struct load *l, __u32 seed)
{
	return (l->connections & 0xffffffff) + seed;
}

/* ip_vs.h, ip_vs_dest_conn_overhead: an active connection costs 257 inactive ones. */
static __always_inline __u64 load_overhead(struct load *l, __u32 seed)
{
	__u64 n = l->connections;

	return ((n & 0xffffffff) + seed) * 257 + (n >> 32);
}

/*
 * --- lc, wlc, sed, nq, fo, ovf: the least cost by weight. They differ in what
 * costs, and ovf also in whom it takes. Without branches: the verifier would
 * follow every combination of those of 16 servers.
 */

static __always_inline void least_nobody(struct least *l)
{
	l->cost = 1;
	l->weight = l->place = 0;
	l->server = NO_SERVER;
}

static __always_inline void least_begin(struct least *l, enum scheduler scheduler)
{
	__builtin_memset(l, 0, sizeof(*l));
	least_nobody(l);
	switch (scheduler) {
	case SCHEDULER_NQ:
		l->idle_first = ~0;
	case SCHEDULER_SED:
		l->active = l->each = 1;
		break;
	case SCHEDULER_OVF:
		l->bounded = ~0;
	case SCHEDULER_FO:
		l->each = 1; /* the greatest weight it is, then */
		break;
	case SCHEDULER_LC:
		l->unweighted = ~0;
	default: /* ip_vs.h, ip_vs_dest_conn_overhead: an active connection costs 257 inactive ones */
		l->active = 257;
		l->inactive = 1;
	}
}

/* All bits if a < b, which are below 2^63; else none. */
static __always_inline __u64 below(__u64 a, __u64 b)
{
	__u64 d = a - b;

	opaque(d);
	return (__s64)d >> 63;
}

/* Is the i-th member the least so far? The first of equals is. */
static __always_inline int least_of(struct service *s, struct least *l, __u32 i)
{
	struct member *m = member_at(s, i);
	__u64 n, active, cost, weight, yes;
	struct load *load;

	if (!m)
		return 1;
	load = load_at(m->server);
	if (!load)
		return 1;
	n = *(volatile __u64 *)&load->connections;
	active = (__u64)(__u32)n + m->seed;
	cost = active * l->active + (n >> 32) * l->inactive + l->each;
	cost &= ~(below(active, 1) & l->idle_first);
	weight = (__u32)m->weight;
	yes = below(0, weight) & ~-(__u64)(load->flags >> LOAD_OVERLOADED_BIT & 1);
	yes &= ~(below(weight, active) & l->bounded);
	weight = (weight & ~l->unweighted) | (l->unweighted & 1);
	yes &= below(cost * l->weight, l->cost * weight);
	opaque(yes);
	l->cost ^= (l->cost ^ cost) & yes;
	l->weight ^= (l->weight ^ weight) & yes;
	l->server ^= (l->server ^ m->server) & yes;
	l->place ^= (l->place ^ (i + 1)) & yes;
	return 0;
}

static __always_inline void least_of_group(struct service *s, struct least *l, __u32 from)
{
	__u32 i;

	for (i = 0; i < GROUP; i++)
		if (from + i >= s->count || least_of(s, l, from + i))
			break;
}

/*
 * A long list is looked at by groups. Each remembers its least one, until a load
 * in it changes; so of a thousand servers few are looked at for a connection. A
 * change is counted after it was made, and the count read before the loads are:
 * what is remembered is looked at once more than needed, at most, never wrong.
 */
static long least_group(__u32 i, struct service **s)
{
	__u32 n = (*s)->groups + i, changes;
	struct group *g = bpf_map_lookup_elem(&groups, &n);
	struct scratch *x = scratch_here();
	__u64 known;

	if (!g || !x)
		return 1;
	changes = *(volatile __u32 *)&g->changes;
	known = *(volatile __u64 *)&g->least;
	if (known >> 32 != changes) {
		x->in_group = x->least;
		least_nobody(&x->in_group);
		least_of_group(*s, &x->in_group, i * GROUP);
		known = (__u64)changes << 32 | x->in_group.place;
		*(volatile __u64 *)&g->least = known;
	}
	if ((__u32)known)
		least_of(*s, &x->least, (__u32)known - 1);
	return 0;
}

static __always_inline __u32 schedule_least(struct service *s)
{
	struct scratch *x = scratch_here();

	if (!x)
		return NO_SERVER;
	least_begin(&x->least, s->scheduler);
	if (s->count <= GROUP)
		least_of_group(s, &x->least, 0);
	else
		bpf_loop((s->count + GROUP - 1) / GROUP, least_group, &s, 0);
	return x->least.server;
}

/* --- twos: the better of two that are drawn by weight */

struct draw {
	struct service *service;
	__u32 total; /* of the weights that were passed */
	__u32 want[2];
	__u64 cost[2];
	__u32 weight[2];
	__u32 server[2];
};

static long weigh_step(__u32 i, struct draw *d)
{
	struct member *m = member_at(d->service, i);
	struct load *load;

	if (!m)
		return 1;
	load = load_at(m->server);
	if (load && member_available(m, load))
		d->total += m->weight;
	return 0;
}

static long draw_step(__u32 i, struct draw *d)
{
	struct member *m = member_at(d->service, i);
	struct load *load;
	int n;

	if (!m)
		return 1;
	load = load_at(m->server);
	if (!load || !member_available(m, load))
		return 0;
	d->total += m->weight;
	for (n = 0; n < 2; n++) {
		if (d->server[n] != NO_SERVER || d->want[n] > d->total)
			continue;
		d->server[n] = m->server;
		d->weight[n] = m->weight;
		d->cost[n] = load_overhead(load, m->seed);
	}
	return d->server[0] != NO_SERVER && d->server[1] != NO_SERVER;
}

static __always_inline __u32 schedule_two(struct service *s)
{
	struct draw d = { .service = s, .server = { NO_SERVER, NO_SERVER } };

	bpf_loop(s->count, weigh_step, &d, 0);
	if (!d.total)
		return NO_SERVER;
	d.want[0] = bpf_get_prandom_u32() % (d.total + 1);
	d.want[1] = bpf_get_prandom_u32() % (d.total + 1);
	d.total = 0;
	bpf_loop(s->count, draw_step, &d, 0);
	if (d.server[1] != NO_SERVER && d.weight[1] * d.cost[0] > d.weight[0] * d.cost[1])
		return d.server[1];
	return d.server[0];
}

/*
 * --- sh, dh, mh: a table that Go fills as the kernel does, and the kernel's own
 * hash into it, so that both directors of a mixed pair agree. A server that is
 * not available refuses, unless the fallback flag has the next ones tried.
 */

/* linux/hash.h, hash_32 with 8 bits */
static __always_inline __u32 hash_32_8(__u32 v)
{
	return v * 0x61C88647u >> 24;
}

static __always_inline __u64 rotate(__u64 v, int bits)
{
	return v << bits | v >> (64 - bits);
}

#define SIP_ROUND					\
	do {						\
		a += b; b = rotate(b, 13) ^ a;		\
		a = rotate(a, 32);			\
		c += d; d = rotate(d, 16) ^ c;		\
		a += d; d = rotate(d, 21) ^ a;		\
		c += b; b = rotate(b, 17) ^ c;		\
		c = rotate(c, 32);			\
	} while (0)

/* linux/siphash.h, hsiphash_1u32 on 64 bits: SipHash-1-3, here of both key words alike */
static __always_inline __u32 hsiphash(__u32 v, __u64 key)
{
	__u64 a = 0x736f6d6570736575ULL ^ key, b = 0x646f72616e646f6dULL ^ key;
	__u64 c = 0x6c7967656e657261ULL ^ key, d = 0x7465646279746573ULL ^ key;
	__u64 m = 4ULL << 56 | v;

	d ^= m;
	SIP_ROUND;
	a ^= m;
	c ^= 0xff;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	return a ^ b ^ c ^ d;
}

#define MH_KEY 2654435761ULL

struct probe {
	struct service *service;
	__u32 client; /* address, and port if that counts */
	__u32 start;  /* where the fallback begins */
	__u32 server;
};

static __always_inline __u32 table_place(struct service *s, __u32 client, __u32 offset)
{
	if (s->scheduler == SCHEDULER_MH)
		return hsiphash(offset + client, MH_KEY) % s->table_size;
	return (offset + hash_32_8(client)) % s->table_size;
}

static __always_inline __u32 *hash_slot(__u32 i)
{
	__u32 at = i / 2;
	struct hash_pair *two = bpf_map_lookup_elem(&hash_slots, &at);

	return two ? &two->server[i % 2] : 0;
}

/* Who has a place: NO_SERVER if nobody, or one that takes no new connections. */
static __always_inline __u32 table_server(struct service *s, __u32 place)
{
	__u32 *id = hash_slot(s->table + place), i;
	struct server *server;
	struct load *load;

	if (!id)
		return NO_SERVER;
	i = *id;
	server = bpf_map_lookup_elem(&servers, &i);
	load = load_at(i);
	if (!server || !load || load->flags & LOAD_OVERLOADED ||
	    (server->flags & (SERVER_EXISTS | SERVER_QUIESCED)) != SERVER_EXISTS)
		return NO_SERVER;
	return i;
}

static long probe_step(__u32 i, struct probe *p)
{
	__u32 offset = (p->start + i) % p->service->table_size;

	p->server = table_server(p->service, table_place(p->service, p->client, offset));
	return p->server != NO_SERVER;
}

/* The scheduler's number for an address is all its words together. */
static __always_inline __be32 fold(__u64 words)
{
	return words ^ words >> 32;
}

static __always_inline __u32 schedule_table(struct service *s, struct packet *p)
{
	struct probe probe = { .service = s };

	if (!s->table_size)
		return NO_SERVER;
	if (s->scheduler == SCHEDULER_DH)
		probe.client = ntohl(p->vip[0] ^ p->vip[1] ^ p->vip[2] ^ p->vip[3]);
	else
		probe.client = ntohl(fold(p->key.client[0]) ^ fold(p->key.client[1]));
	if (s->flags & SERVICE_SOURCE_PORT)
		probe.client += ntohs(client_port(p));
	probe.start = table_place(s, probe.client, 0);
	probe.server = table_server(s, probe.start);
	if (probe.server == NO_SERVER && s->flags & SERVICE_FALLBACK)
		bpf_loop(s->table_size, probe_step, &probe, 0);
	return probe.server;
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
	struct load *load;

	i += f->from;
	if (i >= f->service->count)
		i -= f->service->count;
	m = member_at(f->service, i);
	if (!m)
		return 1;
	load = load_at(m->server);
	if (!load || !member_available(m, load))
		return 0;
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

/*
 * Without state: the same client and port always get the same server, as long
 * as the list stays; and most do when it changes (Maglev, NSDI 2016).
 */
static __always_inline __u32 schedule_by_hash(struct service *s, __u64 hash)
{
	__u32 *server;

	if (!s->hash_size)
		return NO_SERVER;
	server = hash_slot(s->hash + (__u32)(hash >> 32) % s->hash_size);
	return server ? *server : NO_SERVER;
}
