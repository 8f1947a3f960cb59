/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What a predecessor of another layout had in its connection tables goes into
 * these (carry.go): by our hash, and counted as any entry is. Go goes through the
 * old tables again and again while their packets flow, and tells what is
 * different from the time before; so an entry comes, changes, or goes. Whatever
 * packets have made of it here meanwhile is newer, and stands.
 */
#pragma once

/*
 * The entry that has the key and this word, but for the deadline: *word is what it
 * has. Without branches until it is found: connection.h.
 */
static __always_inline void *carried_find(struct place *at, struct key *k, __u64 *word, __u32 *way, const int wide)
{
	__u32 i, found = 0;
	void *entry;
	__u64 w;

	for (i = 0; i < WAYS; i++) {
		__u64 differ, same;

		entry = entry_at(at, i, wide);
		w = *(volatile __u64 *)entry_word(entry, wide);
		same = entry_same(entry, k, w, wide);
		differ = (w ^ *word) & ~(__u64)DEADLINE_MASK;
		differ |= -differ;
		opaque(differ);
		same &= ~(__s64)differ >> 63;
		opaque(same);
		found |= (i + 1) & same;
	}
	if (!found)
		return 0;
	*way = (found - 1) & (WAYS - 1);
	entry = entry_at(at, *way, wide);
	w = *(volatile __u64 *)entry_word(entry, wide);
	if ((w ^ *word) & ~(__u64)DEADLINE_MASK || !entry_is(entry, k, w, wide))
		return 0;
	*word = w;
	return entry;
}

static __always_inline void carried_release(void *entry, __u32 way, __u64 word, __u64 hash, const int kind)
{
	if (kind == TEMPLATE)
		template_release(entry, word);
	else
		connection_release(entry, way, word, hash, kind == WIDE);
}

/*
 * It came to the old program first and then to this one, each of which counted a
 * new connection.
 */
static __always_inline void carried_twice(struct inserted *in, struct carried *c)
{
	__u32 id = word_server(c->word);
	struct counters *n;

	if (!c->counted || !in->standing || in->claimed || word_server(in->standing) != id)
		return;
	n = bpf_map_lookup_elem(&server_counters, &id);
	if (n)
		n->connections -= 1; /* of this CPU: what counts is the sum */
}

/* Go changes no server this way: that is another entry. */
static __always_inline int carried_change(void *entry, struct carried *c, const int kind)
{
	if (__sync_val_compare_and_swap(entry_word(entry, kind != NARROW), c->was, c->word) != c->was)
		return 0;
	if (kind != TEMPLATE && load_of(c->word) != load_of(c->was))
		load_change(word_server(c->word), load_of(c->word) - load_of(c->was));
	return 1;
}

static __always_inline void carried_insert(struct place *at, struct key *k, struct carried *c, __u64 seed,
					   __u32 now, const int kind)
{
	struct inserted in = {};
	__u32 template = 0;

	if (kind == WIDE && c->template && template_hold(c->template))
		template = c->template;
	entry_insert(at, k, c->word, template, now, &in, kind);
	if (kind == TEMPLATE) {
		inserted_templates(&in);
	} else {
		connection_count(&in, c->word, template, seed, kind == WIDE);
		carried_twice(&in, c);
	}
	c->stands = in.standing != 0;
	if (kind == TEMPLATE && in.standing)
		c->template = template_name(at, entry_at(at, in.way, 1));
}

static __always_inline void carry_entry(struct carried *c, struct place *at, struct key *k, __u64 seed,
					__u32 now, const int kind)
{
	__u32 way = 0;
	void *entry = c->was ? carried_find(at, k, &c->was, &way, kind != NARROW) : 0;

	c->stands = 1;
	if (!c->word) {
		if (entry)
			carried_release(entry, way, c->was, key_hash(k, seed), kind);
		return;
	}
	if (!entry || !carried_change(entry, c, kind))
		carried_insert(at, k, c, seed, now, kind);
}

static __always_inline void carried_key(struct carried *c, struct key *k)
{
	k->client[0] = c->client[0];
	k->client[1] = c->client[1];
	k->ports = c->ports;
	k->service = word_service(c->word ? c->word : c->was);
}

__attribute__((noinline)) int carry_narrow(struct carried *c, __u64 seed, __u32 now)
{
	struct place at = {};
	struct key k;

	if (!c)
		return 1;
	carried_key(c, &k);
	if (!connection_place(&at, key_hash(&k, seed), 0))
		return 1;
	carry_entry(c, &at, &k, seed, now, NARROW);
	return 0;
}

__attribute__((noinline)) int carry_wide(struct carried *c, __u64 seed, __u32 now)
{
	struct place at = {};
	struct key k;

	if (!c)
		return 1;
	carried_key(c, &k);
	if (!connection_place(&at, key_hash(&k, seed), 1))
		return 1;
	carry_entry(c, &at, &k, seed, now, WIDE);
	return 0;
}

__attribute__((noinline)) int carry_template(struct carried *c, __u64 seed, __u32 now)
{
	struct place at = {};
	struct key k;

	if (!c)
		return 1;
	carried_key(c, &k);
	if (!template_place_of(&k, seed, &at))
		return 1;
	carry_entry(c, &at, &k, seed, now, TEMPLATE);
	return 0;
}

static long carry_step(__u32 i, __u32 *done)
{
	__u32 zero = 0;
	struct parameters *set = bpf_map_lookup_elem(&settings, &zero);
	struct carried *c = bpf_map_lookup_elem(&mailbox, &i);
	__u32 now;

	if (!set || !c)
		return 1;
	now = clock_seconds(set);
	switch (c->kind) {
	case NARROW:
		carry_narrow(c, set->seed, now);
		break;
	case WIDE:
		carry_wide(c, set->seed, now);
		break;
	case TEMPLATE:
		carry_template(c, set->seed, now);
		break;
	default:
		return 1;
	}
	*done += 1;
	return 0;
}

/*
 * Returns how many it did. XDP by type only: a program of type syscall may sleep,
 * and those have had spin locks only since Linux 6.7.
 */
SEC("xdp")
int carry(struct xdp_md *ctx)
{
	__u32 done = 0;

	bpf_loop(CARRIED, carry_step, &done, 0);
	return done;
}

/* Add what a predecessor's programs counted when these counted already. */
SEC("syscall")
int carry_counters(struct counters_update *u)
{
	__u32 id = u->id;
	struct counters *c = bpf_map_lookup_elem(&server_counters, &id);

	if (!c)
		return 1;
	__sync_fetch_and_add(&c->connections, u->counters.connections);
	__sync_fetch_and_add(&c->packets, u->counters.packets);
	__sync_fetch_and_add(&c->bytes, u->counters.bytes);
	return 0;
}
