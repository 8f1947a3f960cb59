/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What a predecessor of another layout had in its connection tables goes into
 * these (carry.go): by our hash, and counted as any entry is. Go goes through the
 * old tables again and again while their packets flow, and tells what is
 * different from the time before; so an entry comes, changes, or goes. Whatever
 * packets have made of it here meanwhile is newer, and stands.
 */
#pragma once

/* The entry that has the key and this word, but for the deadline: *word is what it has. */
static __always_inline void *carried_find(struct place *at, struct key *k, __u64 *word, const int wide)
{
	__u32 i;

	for (i = 0; i < WAYS; i++) {
		void *entry = entry_at(at, i, wide);
		__u64 w = *(volatile __u64 *)entry_word(entry, wide);

		if (!((w ^ *word) & ~(__u64)DEADLINE_MASK) && entry_is(entry, k, w, wide)) {
			*word = w;
			return entry;
		}
	}
	return 0;
}

static __always_inline void carried_release(void *entry, __u64 word, const int kind)
{
	if (kind == TEMPLATE)
		template_release(entry, word);
	else
		connection_release(entry, word, kind == WIDE);
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

static __always_inline void carried_insert(struct place *at, struct key *k, struct carried *c, __u32 now,
					   const int kind)
{
	struct inserted in = {};
	__u32 template = 0;

	if (kind == WIDE && c->template && template_hold(c->template))
		template = c->template;
	entry_insert(at, k, c->word, template, now, &in, kind);
	if (kind == TEMPLATE)
		inserted_templates(&in);
	else
		connection_count(&in, c->word, template, kind == WIDE);
	c->stands = in.standing != 0;
	if (kind == TEMPLATE && in.standing)
		c->template = template_name(at, entry_at(at, in.way, 1));
}

static __always_inline void carry_entry(struct carried *c, struct place *at, struct key *k, __u32 now,
					const int kind)
{
	void *entry = c->was ? carried_find(at, k, &c->was, kind != NARROW) : 0;

	c->stands = 1;
	if (!c->word) {
		if (entry)
			carried_release(entry, c->was, kind);
		return;
	}
	if (!entry || !carried_change(entry, c, kind))
		carried_insert(at, k, c, now, kind);
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
	if (!connection_place(&at, key_hash(k.client, k.ports, k.service, seed), 0))
		return 1;
	carry_entry(c, &at, &k, now, NARROW);
	return 0;
}

__attribute__((noinline)) int carry_wide(struct carried *c, __u64 seed, __u32 now)
{
	struct place at = {};
	struct key k;

	if (!c)
		return 1;
	carried_key(c, &k);
	if (!connection_place(&at, key_hash(k.client, k.ports, k.service, seed), 1))
		return 1;
	carry_entry(c, &at, &k, now, WIDE);
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
	carry_entry(c, &at, &k, now, TEMPLATE);
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
