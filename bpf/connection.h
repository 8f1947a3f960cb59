/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Step 3: the connection tables. Buckets of 32 in an array; a connection is found
 * without a lock, claimed under its bucket's lock, changed by compare-and-swap
 * of the one word that says everything but the key. Whoever wins the swap
 * counts, so the counters are exact whatever happens on other CPUs.
 *
 * There are three tables of this kind: connections (IPv4), wide_connections
 * (IPv6, and those that have a template) and templates (persistence). In what
 * follows "wide" is a constant that tells an entry of 32 bytes from one of 16.
 */
#pragma once

volatile const __u32 bucket_mask = 1023;
volatile const __u32 wide_mask = 1023;
volatile const __u32 template_mask = 1023;
/* 2^32 / HZ, rounded up: a multiplication is cheaper than a division. */
volatile const __u32 seconds_per_jiffy = 17179870;

#define DEADLINE_MASK ((1u << WORD_DEADLINE_BITS) - 1)

static __always_inline __u32 clock_seconds(struct parameters *set)
{
	return ((bpf_jiffies64() + set->clock_offset) * seconds_per_jiffy >> 32) & DEADLINE_MASK;
}

static __always_inline enum state word_state(__u64 w)
{
	return w >> WORD_STATE_SHIFT & 0xf;
}

static __always_inline enum rank word_rank(__u64 w)
{
	return w >> WORD_RANK_SHIFT & 3;
}

static __always_inline __u32 word_server(__u64 w)
{
	return w >> WORD_SERVER_SHIFT & ((1u << WORD_SERVER_BITS) - 1);
}

static __always_inline __u32 word_service(__u64 w)
{
	return w >> WORD_SERVICE_SHIFT;
}

static __always_inline __u64 word_make(__u32 service, __u32 server, enum rank rank,
				       enum state state, __u32 deadline)
{
	return (__u64)service << WORD_SERVICE_SHIFT | (__u64)server << WORD_SERVER_SHIFT |
	       (__u64)rank << WORD_RANK_SHIFT | (__u64)state << WORD_STATE_SHIFT |
	       (deadline & DEADLINE_MASK);
}

/* Deadlines wrap, so "past" is the last DEADLINE_SLACK seconds and "to come" the rest. */
static __always_inline int word_expired(__u64 w, __u32 now)
{
	return (((__u32)w - now) & DEADLINE_MASK) > DEADLINE_MASK - DEADLINE_SLACK;
}

#include "young.h"

/* ip_vs_proto_tcp.c, tcp_state_active_table: what wlc and the rest count as active. SCTP: see enum sctp_state. */
static __always_inline int state_active(enum state s)
{
	return (1u << s) & (1u << STATE_ESTABLISHED | 1u << STATE_SYN_SENT |
			    1u << STATE_SYN_RECV | 1u << STATE_SYNACK);
}

static __always_inline __u64 load_of(__u64 w)
{
	return state_active(word_state(w)) ? 1 : 1ULL << 32;
}

static __always_inline struct load *load_at(__u32 server)
{
	return bpf_map_lookup_elem(&loads, &server);
}

static __always_inline __u32 load_total(struct load *l)
{
	__u64 n = *(volatile __u64 *)&l->connections;

	return (__u32)n + (__u32)(n >> 32);
}

/* What the least one of a group of servers is has to be found out again: schedule.h. */
static __always_inline void group_changed(__u32 flags)
{
	__u32 i = (flags >> LOAD_GROUP_SHIFT) - 1;
	struct group *g;

	if (i == (__u32)-1)
		return;
	g = bpf_map_lookup_elem(&groups, &i);
	if (g)
		__sync_fetch_and_add(&g->changes, 1);
}

/* A connection's state changed. */
static __always_inline void load_change(__u32 server, __u64 delta)
{
	struct load *l = load_at(server);

	if (!l)
		return;
	__sync_fetch_and_add(&l->connections, delta);
	if (unlikely(l->flags))
		group_changed(l->flags);
}

/* ip_vs_conn.c, ip_vs_bind_dest: a connection came, and may be one too many for more. */
static __always_inline void load_enter(__u32 server, __u64 w)
{
	struct load *l = load_at(server);
	struct limit *limit;

	if (!l)
		return;
	__sync_fetch_and_add(&l->connections, load_of(w));
	if (likely(!l->flags))
		return;
	if (l->flags & LOAD_LIMITED) {
		limit = bpf_map_lookup_elem(&limits, &server);
		if (limit && load_total(l) >= limit->upper)
			__sync_fetch_and_or(&l->flags, LOAD_OVERLOADED);
	}
	group_changed(l->flags);
}

/* ip_vs_conn.c, ip_vs_unbind_dest: one went. */
static __always_inline void load_leave(__u32 server, __u64 w)
{
	struct load *l = load_at(server);
	struct limit *limit;

	if (!l)
		return;
	__sync_fetch_and_add(&l->connections, -load_of(w));
	if (likely(!l->flags))
		return;
	if (l->flags & LOAD_OVERLOADED) {
		limit = bpf_map_lookup_elem(&limits, &server);
		if (limit && load_total(l) < limit->lower)
			__sync_fetch_and_and(&l->flags, ~LOAD_OVERLOADED);
	}
	group_changed(l->flags);
}

/*
 * TCP as seen from one side only, as direct routing sees it (ip_vs_proto_tcp.c,
 * the INPUT-ONLY rows of tcp_states). A packet counts by its first flag in the
 * order RST, SYN, FIN, ACK; one with none of them closes.
 */
enum { ROW_SYN, ROW_FIN, ROW_ACK, ROW_RST, ROW_SYN_SECURE };

#define ES STATE_ESTABLISHED
#define SS STATE_SYN_SENT
#define SR STATE_SYN_RECV
#define FW STATE_FIN_WAIT
#define TW STATE_TIME_WAIT
#define CL STATE_CLOSE
#define CW STATE_CLOSE_WAIT
#define LA STATE_LAST_ACK
#define LI STATE_LISTEN
#define SA STATE_SYNACK
static const __u8 tcp_next[5][16] = {
	/*            NONE ES  SS  SR  FW  TW  CL  CW  LA  LI  SYNACK */
	[ROW_SYN] = { SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR },
	[ROW_FIN] = { CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW },
	[ROW_ACK] = { ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES },
	[ROW_RST] = { CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL },
	/* secure_tcp: tcp_states_dos, which has the same other rows */
	[ROW_SYN_SECURE] = { SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA },
};
#undef ES
#undef SS
#undef SR
#undef FW
#undef TW
#undef CL
#undef CW
#undef LA
#undef LI
#undef SA

/*
 * What belongs to a connection, if it is in no table: without SYN, or with a RST;
 * of SCTP what is no INIT. UDP has no such thing.
 */
static __always_inline int is_stray(struct packet *p)
{
	return p->protocol != IPPROTO_UDP && (p->tcp_flags & (TCP_SYN | TCP_RST)) != TCP_SYN;
}

/* A connection's next state; of SCTP with TIMEOUTS_SCTP, which is not for the word. */
static __always_inline __u32 state_after(struct packet *p, struct service *s, __u32 old)
{
	__u32 row;

	if (p->protocol != IPPROTO_TCP)
		return p->protocol == IPPROTO_UDP ? STATE_UDP : TIMEOUTS_SCTP | sctp_after(p->tcp_flags, old);
	if (p->tcp_flags & TCP_RST)
		row = ROW_RST;
	else if (p->tcp_flags & TCP_SYN)
		row = s->flags & SERVICE_SECURE_TCP ? ROW_SYN_SECURE : ROW_SYN;
	else if (p->tcp_flags & TCP_FIN)
		row = ROW_FIN;
	else if (p->tcp_flags & TCP_ACK)
		row = ROW_ACK;
	else
		return STATE_CLOSE;
	return tcp_next[row][old & 0xf];
}

static __always_inline __u32 timeout_of(struct parameters *set, __u32 state)
{
	return set->timeouts[state & (TIMEOUTS - 1)];
}

/*
 * After an upgrade that carries connections over (carry.h): this program gets the
 * packets, and the last entries of the old tables are still to come. What belongs to
 * a connection that is not here, or has ended here, waits for them, a moment,
 * instead of being adopted or going to a server of before: it is sent again.
 */
static __always_inline int may_be_moving(struct packet *p, struct parameters *set, __u32 now)
{
	return is_stray(p) && !word_expired(set->moving, now);
}

/*
 * A moment before an upgrade and in it: packets of one new connection may come by
 * both programs, so both choose by what they have in common.
 */
static __always_inline int chosen_by_hash(struct parameters *set, __u32 now)
{
	return unlikely(set->by_hash) && !word_expired(set->by_hash, now);
}

static __always_inline int state_ended(enum state s)
{
	return (1u << s) & (1u << STATE_FIN_WAIT | 1u << STATE_TIME_WAIT | 1u << STATE_CLOSE);
}

/*
 * A connection's hold on its template: while any has one, the template does not
 * end (ip_vs_conn.c, n_control). A place in the templates map that was given to
 * another template since has another generation, and is left alone.
 */
#define TEMPLATE_INDEX ((1u << TEMPLATE_BITS) - 1)

static __always_inline struct wide_connection *template_at(__u32 template)
{
	__u32 bucket = (template & TEMPLATE_INDEX) / WAYS;
	struct wide_bucket *b = bpf_map_lookup_elem(&templates, &bucket);

	return b ? &b->way[template & (WAYS - 1)] : 0;
}

static __always_inline int template_count(__u32 template, __u32 delta)
{
	struct wide_connection *t = template_at(template);
	int tries;

	for (tries = 0; t && tries < 8; tries++) {
		__u32 was = *(volatile __u32 *)&t->template;

		if (was >> TEMPLATE_BITS != template >> TEMPLATE_BITS)
			return 0;
		if (__sync_val_compare_and_swap(&t->template, was, was + delta) == was)
			return 1;
	}
	return 0;
}

static __always_inline int template_hold(__u32 template)
{
	return template_count(template, 1);
}

static __always_inline void template_let_go(__u32 template)
{
	template_count(template, -1);
}

/*
 * Keyed by a secret, or a client could choose ports that all share a bucket. The
 * ports go in after the address has been mixed with the secret: joined by an
 * exclusive or before, a client who chooses both could have them cancel out.
 */
static __always_inline __u64 hash_mix(__u64 high, __u64 low, __u32 ports, __u32 service, __u64 seed)
{
	__u64 h = (low ^ seed) * 0x9E3779B97F4A7C15ULL;

	h ^= h >> 32;
	h = (h + ((__u64)ports << 32 | service) + (seed >> 17)) * 0xD6E8FEB86659FD93ULL;
	if (high) {
		h ^= (high ^ h >> 31) * 0xC2B2AE3D27D4EB4FULL;
		h *= 0x9E3779B97F4A7C15ULL;
	}
	return h ^ h >> 29;
}

static __always_inline __u64 key_hash(struct key *k, __u64 seed)
{
	return hash_mix(k->client[0], k->client[1], k->ports, k->service, seed);
}

/* What kind of entry; all but the first are wide. */
enum kind { NARROW, WIDE, TEMPLATE, KIND_END };

static __always_inline __u32 line_size(const int wide)
{
	return wide ? LINE_WIDE : LINE;
}

static __always_inline __u32 home_line(__u64 hash, const int wide)
{
	return (hash >> 12) & (WAYS / line_size(wide) - 1);
}

/* Where an entry is, or could be. */
struct place {
	void *bucket;
	__u32 line; /* that is searched and filled first: most packets touch no other */
	__u32 lock;
	__u32 index; /* of the bucket */
};

static __always_inline void place_at(struct place *at, __u32 index, __u64 hash, const int wide)
{
	at->index = index;
	at->line = home_line(hash, wide);
	at->lock = index & (LOCKS - 1);
}

static __always_inline int connection_place(struct place *at, __u64 hash, const int wide)
{
	__u32 i = (hash >> 16) & (wide ? wide_mask : bucket_mask);

	place_at(at, i, hash, wide);
	at->bucket = wide ? bpf_map_lookup_elem(&wide_connections, &i)
			  : bpf_map_lookup_elem(&connections, &i);
	return at->bucket != 0;
}

/* The i-th entry to look at. */
static __always_inline __u32 place_way(struct place *at, __u32 i, const int wide)
{
	return (at->line * (wide ? LINE_WIDE : LINE) ^ i) & (WAYS - 1);
}

static __always_inline void *entry_at(struct place *at, __u32 way, const int wide)
{
	if (wide)
		return &((struct wide_bucket *)at->bucket)->way[way & (WAYS - 1)];
	return &((struct bucket *)at->bucket)->way[way & (WAYS - 1)];
}

static __always_inline __u64 *entry_word(void *entry, const int wide)
{
	return wide ? &((struct wide_connection *)entry)->word : &((struct connection *)entry)->word;
}

static __always_inline __u64 narrow_key(struct key *k)
{
	return k->client[1] >> 32 | (__u64)k->ports << 32;
}

static __always_inline int entry_is(void *entry, struct key *k, __u64 w, const int wide)
{
	struct wide_connection *c = entry;

	if (!w || word_service(w) != k->service)
		return 0;
	if (!wide)
		return ((struct connection *)entry)->key == narrow_key(k);
	return c->client[1] == k->client[1] && c->client[0] == k->client[0] && c->ports == k->ports;
}

/* All bits if an entry is of that key, else none: entry_is without branches. */
static __always_inline __u64 entry_same(void *entry, struct key *k, __u64 w, const int wide)
{
	struct wide_connection *c = entry;
	__u64 differ = word_service(w) ^ k->service;

	if (wide)
		differ |= (c->client[1] ^ k->client[1]) | (c->client[0] ^ k->client[0]) | (c->ports ^ k->ports);
	else
		differ |= ((struct connection *)entry)->key ^ narrow_key(k);
	differ |= -differ;
	w |= -w;
	opaque(differ);
	opaque(w);
	return (__s64)(~differ & w) >> 63;
}

static __always_inline void entry_set(void *entry, struct key *k, const int wide)
{
	struct wide_connection *c = entry;

	if (!wide) {
		((struct connection *)entry)->key = narrow_key(k);
		return;
	}
	c->client[0] = k->client[0];
	c->client[1] = k->client[1];
	c->ports = k->ports;
}

/*
 * How many of a line's entries had to go to other lines of its bucket. While
 * that is none, who is not in the line is not in the table: a new connection
 * touches one cache line, as a known one does. Four counts are a word.
 */
static __always_inline __u32 *spill_word(__u32 bucket, __u32 line, const int wide)
{
	__u32 n = bucket * (WAYS / line_size(wide) / 4) + (line >> 2);
	__u32 i = n >> 4;
	struct spill_counts *s = wide ? bpf_map_lookup_elem(&wide_spills, &i)
				: bpf_map_lookup_elem(&spills, &i);

	return s ? &s->word[n & 15] : 0;
}

static __always_inline __u32 spill_one(__u32 line)
{
	return 1u << (line & 3) * 8;
}

static __always_inline int spilled(__u32 *word, __u32 line)
{
	return !word || *(volatile __u32 *)word & spill_one(line) * 0xff;
}

/* An entry with that hash left a place. */
static __always_inline void spill_forget(__u64 hash, __u32 way, const int wide)
{
	__u32 line = home_line(hash, wide), *word;

	if (likely(way / line_size(wide) == line))
		return;
	word = spill_word((hash >> 16) & (wide ? wide_mask : bucket_mask), line, wide);
	if (word)
		__sync_fetch_and_add(word, -spill_one(line));
}

/* Look at some of the bucket's entries, its own line's first. */
static __always_inline void *entry_among(struct place *at, struct key *k, __u32 from, __u32 to, const int wide)
{
	__u32 i;

#pragma unroll
	for (i = from; i < to; i++) {
		void *entry = entry_at(at, place_way(at, i, wide), wide);

		if (entry_is(entry, k, *entry_word(entry, wide), wide))
			return entry;
	}
	return 0;
}

static __always_inline void *entry_find(struct place *at, struct key *k, const int wide)
{
	void *entry = entry_among(at, k, 0, line_size(wide), wide);

	if (entry || likely(!spilled(spill_word(at->index, at->line, wide), at->line)))
		return entry;
	return entry_among(at, k, line_size(wide), WAYS, wide);
}

static __always_inline __u32 way_of(struct place *at, void *entry, const int wide)
{
	return (__u32)(entry - at->bucket) /
	       (wide ? sizeof(struct wide_connection) : sizeof(struct connection));
}

/* Free a place if its word still is w, and give back what it counted. The hash is its key's. */
static __always_inline int connection_release(void *entry, __u32 way, __u64 w, __u64 hash, const int wide)
{
	__u32 template = wide ? ((struct wide_connection *)entry)->template : 0;

	if (__sync_val_compare_and_swap(entry_word(entry, wide), w, 0) != w)
		return 0;
	load_leave(word_server(w), w);
	spill_forget(hash, way, wide);
	if (wide && template)
		template_let_go(template);
	return 1;
}

static __always_inline void entry_key(void *entry, __u64 w, struct key *k, const int wide)
{
	struct wide_connection *c = entry;
	__u64 narrow;

	k->service = word_service(w);
	if (wide) {
		k->client[0] = c->client[0];
		k->client[1] = c->client[1];
		k->ports = c->ports;
		return;
	}
	narrow = ((struct connection *)entry)->key;
	k->client[0] = 0;
	k->client[1] = narrow << 32;
	k->ports = narrow >> 32;
}

/*
 * A packet of a known connection: next state, new deadline. The word is written
 * only if it changes, for an established connection once a second. Returns
 * whether the packet established it.
 */
static __always_inline int connection_touch(struct packet *p, struct service *s, __u64 *word, __u64 w,
					    struct parameters *set, __u32 now)
{
	int tries;

	for (tries = 0; tries < 4; tries++) {
		__u32 state = state_after(p, s, word_state(w));
		__u32 deadline = now + timeout_of(set, state);
		__u64 new = word_make(word_service(w), word_server(w), word_rank(w), state & 0xf, deadline), seen;

		if (unlikely(word_early(w)))
			new = opens(p, w) ? new | opened(p) : young_word(p, w, new);
		if (new == w)
			return 0;
		seen = __sync_val_compare_and_swap(word, w, new);
		if (seen == w) {
			if (load_of(new) != load_of(w))
				load_change(word_server(w), load_of(new) - load_of(w));
			if (unlikely(p->tcp_flags & (TCP_SYN | TCP_RST)) && word_early(w))
				young_changed(p, w, new);
			return word_state(new) == STATE_ESTABLISHED && word_state(w) != STATE_ESTABLISHED;
		}
		if (!seen || word_service(seen) != word_service(w))
			return 0; /* expired at this very moment */
		w = seen;
	}
	return 0;
}

/*
 * How willingly a place is given to a newcomer of a rank; 0: never. Free before
 * expired before embryonic before adopted. Without branches: the verifier would
 * follow every combination of 32 places.
 */
static const __u8 rank_yields[4][4] = {
	/*                     by place:   EMBRYONIC ADOPTED ESTABLISHED YOUNG */
	[RANK_EMBRYONIC] =   { 0, 0, 0, 0 },
	[RANK_ADOPTED] =     { 2, 0, 0, 0 },
	[RANK_ESTABLISHED] = { 2, 1, 0, 0 },
	[RANK_YOUNG] =	     { 2, 1, 0, 0 }, /* carried over */
};

static __always_inline __u32 place_yields(__u64 w, enum rank newcomer, __u32 now)
{
	__u32 past = ((__u32)w - now) & DEADLINE_MASK;
	__u32 expired = DEADLINE_MASK - DEADLINE_SLACK - past;
	__u64 free = w | -w;

	opaque(expired);
	opaque(free);
	expired >>= 31;
	free = ~free >> 63;
	return rank_yields[newcomer & 3][word_rank(w)] | expired << 2 | free << 3;
}

static __always_inline struct scratch *scratch_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

/* 1 if a template has connections: then it does not end. Without branches, as above. */
static __always_inline __u32 template_held(void *entry)
{
	__u32 n = ((struct wide_connection *)entry)->template & TEMPLATE_INDEX;

	n |= -n;
	opaque(n);
	return n >> 31;
}

/*
 * An entry's key is there before its word says so. Processors that keep the order
 * of stores need no barrier for it.
 */
volatile const __u32 stores_in_order = 0;

static __always_inline void entry_publish(void *entry, struct key *k, __u64 word, __u32 template, const int wide)
{
	__u64 *place = entry_word(entry, wide);

	entry_set(entry, k, wide);
	if (wide)
		((struct wide_connection *)entry)->template = template;
	if (!stores_in_order) {
		__sync_lock_test_and_set(place, word);
		return;
	}
	asm volatile("" ::: "memory");
	*(volatile __u64 *)place = word;
}

/*
 * What is usual: the key is nowhere, and its own line has a free place. Returns 1
 * if that was so and the place is claimed; else entry_insert looks closer.
 */
static __always_inline int entry_claim(struct place *at, struct key *k, __u64 word, __u32 template, const int wide)
{
	struct lock *lock = bpf_map_lookup_elem(&locks, &at->lock);
	__u32 *spill = spill_word(at->index, at->line, wide);
	__u32 i, free = WAYS;
	__u64 same = 0;

	if (!lock)
		return 0;
	bpf_spin_lock(&lock->lock);
#pragma unroll
	for (i = line_size(wide); i--;) { /* the first free one is the last that is seen */
		__u32 way = place_way(at, i, wide);
		void *entry = entry_at(at, way, wide);
		__u64 w = *(volatile __u64 *)entry_word(entry, wide), taken = w | -w;

		same |= entry_same(entry, k, w, wide);
		opaque(taken);
		free ^= (free ^ way) & (__u32)~((__s64)taken >> 63);
	}
	same |= -(__u64)(free / WAYS) | -(__u64)(spilled(spill, at->line) != 0);
	if (!same)
		entry_publish(entry_at(at, free, wide), k, word, template, wide);
	bpf_spin_unlock(&lock->lock);
	return !same;
}

/*
 * Claim a place for a key. If another CPU was faster, its entry stands. Counting
 * is the caller's: no function may be called under the lock.
 */
static __always_inline void entry_insert(struct place *at, struct key *k, __u64 word, __u32 template,
					 __u32 now, struct inserted *in, const int kind)
{
	struct lock *lock = bpf_map_lookup_elem(&locks, &at->lock);
	const int wide = kind != NARROW;
	__u32 *spill = kind == TEMPLATE ? 0 : spill_word(at->index, at->line, wide);
	__u64 standing = 0, old = 0;
	__u32 i, best = 0, stands = 0, claimed = 0, displaced_template = 0;

	in->standing = in->displaced = in->claimed = 0;
	if (!lock)
		return;
	bpf_spin_lock(&lock->lock);
	for (i = 0; i < WAYS; i++) {
		void *entry = entry_at(at, place_way(at, i, wide), wide);
		__u64 w = *(volatile __u64 *)entry_word(entry, wide);
		__u32 held = kind == TEMPLATE ? template_held(entry) : 0;
		__u32 yields, less;
		__u64 same;

		/* There is room in its own line, and it is in no other. */
		if (i == line_size(wide) && best >= 4 << 8 && !spilled(spill, at->line))
			break;
		yields = place_yields(w, word_rank(word), now) & ~(held << 2);
		same = entry_same(entry, k, w, wide) & -(__u64)(~yields >> 2 & 1);
		standing |= w & same;
		stands |= place_way(at, i, wide) & same;
		yields = yields << 8 | (WAYS - 1 - i);
		less = (__s32)(yields - best) >> 31;
		opaque(less);
		best += (yields - best) & ~less; /* the greater */
	}
	if (!standing && best >= 1 << 8) {
		void *entry;
		__u64 *place;

		stands = place_way(at, WAYS - 1 - (best & 0xff), wide);
		entry = entry_at(at, stands, wide);
		place = entry_word(entry, wide);
		old = *(volatile __u64 *)place;
		if (wide)
			displaced_template = ((struct wide_connection *)entry)->template;
		/* What was here may have changed or gone since: taken only if it still yields. */
		if (place_yields(old, word_rank(word), now) &&
		    __sync_val_compare_and_swap(place, old, 0) == old) {
			if (kind != TEMPLATE) {
				entry_key(entry, old, &in->old, wide);
				if (spill && stands / line_size(wide) != at->line)
					__sync_fetch_and_add(spill, spill_one(at->line));
			}
			if (kind == TEMPLATE) { /* another generation, which controls nothing yet */
				template = (displaced_template & ~TEMPLATE_INDEX) + TEMPLATE_INDEX + 1;
				if (!template)
					template = TEMPLATE_INDEX + 1;
			}
			entry_publish(entry, k, word, template, wide);
			standing = word;
			claimed = 1;
		} else {
			old = 0;
		}
	}
	bpf_spin_unlock(&lock->lock);
	in->standing = standing;
	in->displaced = old;
	in->template = displaced_template;
	in->way = stands;
	in->claimed = claimed;
}

/* What an insertion changed in the books. */
static __always_inline void connection_count(struct inserted *in, __u64 word, __u32 template, __u64 seed,
					     const int wide)
{
	if (in->displaced) {
		young_left(in->displaced);
		load_leave(word_server(in->displaced), in->displaced);
		spill_forget(key_hash(&in->old, seed), in->way, wide);
		if (wide && in->template)
			template_let_go(in->template);
	}
	if (in->claimed)
		load_enter(word_server(word), word);
	else if (template)
		template_let_go(template);
}

/*
 * Remember a connection, and count it. Returns the word that stands in the table
 * now (another CPU may have been faster: then it is not claimed, and that one's
 * server counts), or 0 if nothing gave way.
 */
static __always_inline __u64 connection_insert(struct place *at, struct key *k, __u64 word,
					       __u32 template, __u32 now, __u64 seed,
					       __u32 *claimed, const int wide)
{
	struct scratch *x;
	struct inserted *in;

	if (likely(entry_claim(at, k, word, template, wide))) {
		*claimed = 1;
		load_enter(word_server(word), word);
		return word;
	}
	x = scratch_here();
	if (!x)
		return 0;
	in = &x->inserted;
	entry_insert(at, k, word, template, now, in, wide ? WIDE : NARROW);
	connection_count(in, word, template, seed, wide);
	*claimed = in->claimed;
	return in->standing;
}
