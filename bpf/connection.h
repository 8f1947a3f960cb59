/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Step 3: the connection table. A bucket of 16 in an array; found without a
 * lock, claimed under the bucket's lock, changed by compare-and-swap of the one
 * word that says everything but the key. Whoever wins the swap counts, so the
 * counters are exact whatever happens at the same time on other CPUs.
 */
#pragma once

volatile const __u32 bucket_mask = 1023;
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

/* ip_vs_proto_tcp.c, tcp_state_active_table: what wlc and the rest count as active. */
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

/* A connection's state changed. */
static __always_inline void load_change(__u32 server, __u64 delta)
{
	struct load *l = load_at(server);

	if (l)
		__sync_fetch_and_add(&l->connections, delta);
}

static __always_inline __u32 load_total(struct load *l)
{
	__u64 n = *(volatile __u64 *)&l->connections;

	return (__u32)n + (__u32)(n >> 32);
}

/* ip_vs_conn.c, ip_vs_bind_dest: a connection came, and may be one too many for more. */
static __always_inline void load_enter(__u32 server, __u64 w)
{
	struct load *l = load_at(server);
	struct limit *limit;

	if (!l)
		return;
	__sync_fetch_and_add(&l->connections, load_of(w));
	if (likely(!(l->flags & LOAD_LIMITED)))
		return;
	limit = bpf_map_lookup_elem(&limits, &server);
	if (limit && load_total(l) >= limit->upper)
		__sync_fetch_and_or(&l->flags, LOAD_OVERLOADED);
}

/* ip_vs_conn.c, ip_vs_unbind_dest: one went. */
static __always_inline void load_leave(__u32 server, __u64 w)
{
	struct load *l = load_at(server);
	struct limit *limit;

	if (!l)
		return;
	__sync_fetch_and_add(&l->connections, -load_of(w));
	if (likely(!(l->flags & LOAD_OVERLOADED)))
		return;
	limit = bpf_map_lookup_elem(&limits, &server);
	if (limit && load_total(l) < limit->lower)
		__sync_fetch_and_and(&l->flags, ~LOAD_OVERLOADED);
}

/*
 * TCP as seen from one side only, as direct routing sees it (ip_vs_proto_tcp.c,
 * the INPUT-ONLY rows of tcp_states). A packet counts by its first flag in the
 * order RST, SYN, FIN, ACK; one with none of them closes.
 */
enum { ROW_SYN, ROW_FIN, ROW_ACK, ROW_RST };

#define ES STATE_ESTABLISHED
#define SS STATE_SYN_SENT
#define SR STATE_SYN_RECV
#define FW STATE_FIN_WAIT
#define TW STATE_TIME_WAIT
#define CL STATE_CLOSE
#define CW STATE_CLOSE_WAIT
#define LA STATE_LAST_ACK
#define LI STATE_LISTEN
static const __u8 tcp_next[4][16] = {
	/*            NONE ES  SS  SR  FW  TW  CL  CW  LA  LI  SYNACK */
	[ROW_SYN] = { SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR },
	[ROW_FIN] = { CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW },
	[ROW_ACK] = { ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES },
	[ROW_RST] = { CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL },
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

static __always_inline enum state state_after(struct packet *p, enum state old)
{
	__u32 row;

	if (p->to.protocol == IPPROTO_UDP)
		return STATE_UDP;
	if (p->tcp_flags & TCP_RST)
		row = ROW_RST;
	else if (p->tcp_flags & TCP_SYN)
		row = ROW_SYN;
	else if (p->tcp_flags & TCP_FIN)
		row = ROW_FIN;
	else if (p->tcp_flags & TCP_ACK)
		row = ROW_ACK;
	else
		return STATE_CLOSE;
	return tcp_next[row][old & 0xf];
}

/* Keyed by a secret, or a client could choose ports that all share a bucket. */
static __always_inline __u64 connection_hash(__u64 key, __u32 service, __u64 seed)
{
	__u64 h = (key ^ seed) * 0x9E3779B97F4A7C15ULL;

	h ^= h >> 32;
	h = (h + service + (seed >> 17)) * 0xD6E8FEB86659FD93ULL;
	return h ^ h >> 29;
}

/* Where a connection is, or could be. */
struct place {
	struct bucket *bucket;
	__u32 line; /* that is searched and filled first: most packets touch no other */
	__u32 lock;
};

static __always_inline int connection_place(struct place *at, __u64 hash)
{
	__u32 i = (hash >> 16) & bucket_mask;

	at->bucket = bpf_map_lookup_elem(&connections, &i);
	at->line = (hash >> 12) & (WAYS / LINE - 1);
	at->lock = i & (LOCKS - 1);
	return at->bucket != 0;
}

static __always_inline struct connection *connection_at(struct place *at, __u32 i)
{
	return &at->bucket->way[(at->line * LINE ^ i) & (WAYS - 1)];
}

static __always_inline struct connection *connection_find(struct place *at, __u64 key, __u32 service)
{
	__u32 i;

#pragma unroll
	for (i = 0; i < WAYS; i++) {
		struct connection *c = connection_at(at, i);

		if (c->key == key && c->word && word_service(c->word) == service)
			return c;
	}
	return 0;
}

/* Free a place if its word still is w, and give back what it counted. */
static __always_inline int connection_release(struct connection *c, __u64 w)
{
	if (__sync_val_compare_and_swap(&c->word, w, 0) != w)
		return 0;
	load_leave(word_server(w), w);
	return 1;
}

/*
 * A packet of a known connection: next state, new deadline. The word is written
 * only if it changes, for an established connection once a second.
 */
static __always_inline void connection_touch(struct packet *p, struct connection *c, __u64 w,
					     struct parameters *set, __u32 now)
{
	int tries;

	for (tries = 0; tries < 4; tries++) {
		enum state state = state_after(p, word_state(w));
		enum rank rank = word_rank(w);
		__u64 new, seen;

		if (rank == RANK_EMBRYONIC && !(p->tcp_flags & (TCP_SYN | TCP_RST)))
			rank = RANK_ESTABLISHED;
		new = word_make(word_service(w), word_server(w), rank, state,
				now + set->timeouts[state & 0xf]);
		if (new == w)
			return;
		seen = __sync_val_compare_and_swap(&c->word, w, new);
		if (seen == w) {
			if (load_of(new) != load_of(w))
				load_change(word_server(w), load_of(new) - load_of(w));
			return;
		}
		if (!seen || word_service(seen) != word_service(w))
			return; /* expired at this very moment */
		w = seen;
	}
}

/*
 * How willingly a place is given to a newcomer of a rank; 0: never. Free before
 * expired before embryonic before adopted. Without branches: the verifier would
 * follow every combination of 16 places.
 */
static const __u8 rank_yields[4][4] = {
	/*                     by place:   EMBRYONIC ADOPTED ESTABLISHED */
	[RANK_EMBRYONIC] =   { 0, 0, 0 },
	[RANK_ADOPTED] =     { 2, 0, 0 },
	[RANK_ESTABLISHED] = { 2, 1, 0 },
};

/* Keeps the compiler from turning arithmetic back into a branch. */
#define opaque(x) asm volatile("" : "+r"(x))

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

/*
 * Remember a connection. Returns the word that stands in the table now (another
 * CPU may have been faster: then its server counts), or 0 if nothing gave way.
 */
static __always_inline __u64 connection_insert(struct place *at, __u64 key, __u64 word, __u32 now)
{
	struct lock *lock = bpf_map_lookup_elem(&locks, &at->lock);
	__u64 standing = 0, old = 0;
	__u32 i, best = 0;

	if (!lock)
		return 0;
	bpf_spin_lock(&lock->lock);
	for (i = 0; i < WAYS; i++) {
		struct connection *c = connection_at(at, i);
		__u64 w = *(volatile __u64 *)&c->word;
		__u32 yields, less;

		if (c->key == key && w && word_service(w) == word_service(word) &&
		    !word_expired(w, now)) {
			standing = w;
			break;
		}
		yields = place_yields(w, word_rank(word), now) << 8 | (WAYS - 1 - i);
		less = (__s32)(yields - best) >> 31;
		opaque(less);
		best += (yields - best) & ~less;
	}
	if (!standing && best >= 1 << 8) {
		struct connection *c = connection_at(at, WAYS - 1 - (best & 0xff));

		old = *(volatile __u64 *)&c->word;
		/* What was here may have changed or gone since: taken only if it still yields. */
		if (place_yields(old, word_rank(word), now) &&
		    __sync_val_compare_and_swap(&c->word, old, 0) == old) {
			c->key = key;
			/* A full barrier: the key is there before the word says so. */
			__sync_lock_test_and_set(&c->word, word);
			standing = word;
		} else {
			old = 0;
		}
	}
	bpf_spin_unlock(&lock->lock);

	if (old)
		load_leave(word_server(old), old);
	if (standing == word)
		load_enter(word_server(word), word);
	return standing;
}
