/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Persistence: a client, or all clients of a network, stick to a real server
 * (ip_vs_core.c, ip_vs_sched_persist). A template remembers which; its deadline
 * is set by each new connection, and it does not end while it has any.
 */
#pragma once

static __always_inline int template_ended(struct wide_connection *t, __u64 w, __u32 now)
{
	return word_expired(w, now) && !(t->template & TEMPLATE_INDEX);
}

static __always_inline int template_release(struct wide_connection *t, __u64 w)
{
	__u32 server = word_server(w);
	struct load *l;

	if (__sync_val_compare_and_swap(&t->word, w, 0) != w)
		return 0;
	l = load_at(server);
	if (l)
		__sync_fetch_and_add(&l->templates, -1);
	return 1;
}

/* ip_vs_conn.c, ip_vs_check_template: is it still good? */
static __always_inline int template_valid(struct service *s, __u64 w)
{
	__u32 id = word_server(w);
	struct server *to = bpf_map_lookup_elem(&servers, &id);

	if (!to || !(to->flags & SERVER_EXISTS))
		return 0;
	return !(to->flags & SERVER_QUIESCED && s->flags & SERVICE_LEAVES_QUIESCED);
}

static __always_inline int template_place_of(struct key *k, __u64 seed, struct place *at)
{
	__u64 hash = key_hash(k, seed);

	place_at(at, (hash >> 16) & template_mask, hash, 1);
	at->bucket = bpf_map_lookup_elem(&templates, &at->index);
	return at->bucket != 0;
}

static __always_inline void template_key(struct packet *p, struct service *s, struct key *k)
{
	k->client[0] = p->key.client[0] & s->mask[0];
	k->client[1] = p->key.client[1] & s->mask[1];
	k->ports = s->flags & SERVICE_EVERY_PORT ? 0 : p->key.ports & 0xffff0000;
	k->service = s->id;
}

/* Where a packet's template is, or would be. */
static __always_inline int template_place(struct packet *p, struct service *s, __u64 seed,
					  struct key *k, struct place *at)
{
	template_key(p, s, k);
	return template_place_of(k, seed, at);
}

static __always_inline __u32 template_name(struct place *at, struct wide_connection *t)
{
	__u32 way = ((void *)t - at->bucket) / sizeof(*t);

	return (at->index * WAYS + (way & (WAYS - 1))) | (t->template & ~TEMPLATE_INDEX);
}

/* The packet's template, if it has a good one; its server goes to *server. */
static __always_inline struct wide_connection *template_find(struct place *at, struct key *k,
							     struct service *s, __u32 now,
							     __u32 *server)
{
	struct wide_connection *t = entry_among(at, k, 0, WAYS, 1);
	__u64 w;

	if (!t)
		return 0;
	w = *(volatile __u64 *)&t->word;
	if (!w || word_service(w) != k->service)
		return 0;
	if (template_ended(t, w, now) || !template_valid(s, w)) {
		template_release(t, w);
		return 0;
	}
	*server = word_server(w);
	return t;
}

/* What a template gets that runs out while it has connections, and then each time (ip_vs_conn_expire). */
#define TEMPLATE_AGAIN 60 /* seconds */

static __always_inline __u64 template_again(__u64 w, __u32 now)
{
	return word_make(word_service(w), word_server(w), word_rank(w), word_state(w), now + TEMPLATE_AGAIN) |
	       1ull << WORD_AGAIN_SHIFT;
}

/* Each new connection gives its template its time again. */
static __always_inline void template_renew(struct wide_connection *t, struct service *s, __u32 now)
{
	__u64 w = *(volatile __u64 *)&t->word, new;

	if (w >> WORD_AGAIN_SHIFT & 1 || word_expired(w, now))
		new = template_again(w, now);
	else
		new = word_make(word_service(w), word_server(w), RANK_ESTABLISHED, word_state(w),
				now + s->timeout);
	if (w)
		__sync_val_compare_and_swap(&t->word, w, new);
}

/* What an insertion changed in the books. */
static __always_inline void inserted_templates(struct inserted *in)
{
	struct load *l = in->displaced ? load_at(word_server(in->displaced)) : 0;

	if (l)
		__sync_fetch_and_add(&l->templates, -1);
	l = in->claimed ? load_at(word_server(in->standing)) : 0;
	if (l)
		__sync_fetch_and_add(&l->templates, 1);
}

static __always_inline struct wide_connection *template_insert(struct place *at, struct key *k,
							       struct service *s, __u32 *server,
							       __u32 now)
{
	__u64 word = word_make(k->service, *server, RANK_ESTABLISHED, STATE_NONE, now + s->timeout);
	struct scratch *x = scratch_here();
	struct inserted *in;

	if (!x)
		return 0;
	in = &x->inserted;
	entry_insert(at, k, word, 0, now, in, TEMPLATE);
	if (!in->standing)
		return 0;
	inserted_templates(in);
	*server = word_server(in->standing);
	return entry_at(at, in->way, 1);
}

/* One of its connections was established. */
static __always_inline void template_assure(__u32 template)
{
	struct wide_connection *t = template_at(template);
	__u64 w;

	if (!t || t->template >> TEMPLATE_BITS != template >> TEMPLATE_BITS)
		return;
	w = *(volatile __u64 *)&t->word;
	if (w && word_state(w) == STATE_NONE)
		__sync_val_compare_and_swap(&t->word, w, w | (__u64)STATE_ASSURED << WORD_STATE_SHIFT);
}
