/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Expiry. One kernel timer goes round the table, a slice at a time, so that
 * connections end and counters return to zero also when nobody sends and no
 * daemon lives. (A place that is needed earlier is taken earlier.)
 */
#pragma once

#define SWEEP_PERIOD 15625000 /* ns: 64 slices are a second */

volatile const __u32 sweep_slice = 512; /* buckets at a time, of each table */

struct sweeping {
	__u64 seed;
	__u32 first;
	__u32 now;
};

static __always_inline void sweep_entry(void *entry, __u32 way, __u64 w, __u64 seed, const int wide)
{
	struct key k = {};

	entry_key(entry, w, &k, wide);
	if (connection_release(entry, way, w, key_hash(&k, seed), wide))
		young_left(w);
}

static long sweep_bucket(__u32 i, struct sweeping *s)
{
	struct bucket *b;
	__u32 w;

	i = (i + s->first) & bucket_mask;
	b = bpf_map_lookup_elem(&connections, &i);
	if (!b)
		return 1;
	for (w = 0; w < WAYS; w++) {
		__u64 word = *(volatile __u64 *)&b->way[w].word;

		if (word && word_expired(word, s->now))
			sweep_entry(&b->way[w], w, word, s->seed, 0);
	}
	return 0;
}

static long sweep_wide_bucket(__u32 i, struct sweeping *s)
{
	struct wide_bucket *b;
	__u32 w;

	i = (i + s->first) & wide_mask;
	b = bpf_map_lookup_elem(&wide_connections, &i);
	if (!b)
		return 1;
	for (w = 0; w < WAYS; w++) {
		__u64 word = *(volatile __u64 *)&b->way[w].word;

		if (word && word_expired(word, s->now))
			sweep_entry(&b->way[w], w, word, s->seed, 1);
	}
	return 0;
}

static long sweep_template_bucket(__u32 i, struct sweeping *s)
{
	struct wide_bucket *b;
	__u32 w;

	i = (i + s->first) & template_mask;
	b = bpf_map_lookup_elem(&templates, &i);
	if (!b)
		return 1;
	for (w = 0; w < WAYS; w++) {
		struct wide_connection *t = &b->way[w];
		__u64 word = *(volatile __u64 *)&t->word;

		if (!word || !word_expired(word, s->now))
			continue;
		if (t->template & TEMPLATE_INDEX)
			__sync_val_compare_and_swap(&t->word, word, template_again(word, s->now));
		else
			template_release(t, word);
	}
	return 0;
}

static __always_inline __u32 slice_of(__u32 mask)
{
	return sweep_slice <= mask ? sweep_slice : mask + 1;
}

static int sweep_tick(void *map, __u32 *key, struct sweep *sweep)
{
	__u32 zero = 0;
	struct parameters *set = bpf_map_lookup_elem(&settings, &zero);
	struct sweeping s = { .first = sweep->next };

	if (set) {
		s.now = clock_seconds(set);
		s.seed = set->seed;
		bpf_loop(slice_of(bucket_mask), sweep_bucket, &s, 0);
		bpf_loop(slice_of(wide_mask), sweep_wide_bucket, &s, 0);
		bpf_loop(slice_of(template_mask), sweep_template_bucket, &s, 0);
		sweep->next = sweep->next + sweep_slice;
		if (!(sweep->next & (bucket_mask | wide_mask | template_mask)))
			sweep->rounds++;
	}
	bpf_timer_start(&sweep->timer, SWEEP_PERIOD, 0);
	return 0;
}

/* Run by the daemon at each start: the first starts the timer, a later one brings new code. */
SEC("syscall")
int start_sweep(void *ctx)
{
	__u32 zero = 0;
	struct sweep *sweep = bpf_map_lookup_elem(&sweeper, &zero);
	long err;

	if (!sweep)
		return 1;
	bpf_timer_init(&sweep->timer, &sweeper, CLOCK_MONOTONIC); /* fails if it is there: fine */
	err = bpf_timer_set_callback(&sweep->timer, sweep_tick);
	if (err)
		return -err;
	return -bpf_timer_start(&sweep->timer, SWEEP_PERIOD, 0);
}
