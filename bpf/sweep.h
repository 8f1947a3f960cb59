/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Expiry. One kernel timer goes round the table, a slice at a time, so that
 * connections end and counters return to zero also when nobody sends and no
 * daemon lives. (A place that is needed earlier is taken earlier.)
 */
#pragma once

#define SWEEP_PERIOD 15625000 /* ns: 64 slices are a second */

volatile const __u32 sweep_slice = 1024; /* buckets at a time */

struct sweeping {
	struct parameters *settings;
	__u32 first;
	__u32 now;
};

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
			connection_release(&b->way[w], word);
	}
	return 0;
}

static int sweep_tick(void *map, __u32 *key, struct sweep *sweep)
{
	__u32 zero = 0;
	struct parameters *set = bpf_map_lookup_elem(&settings, &zero);
	struct sweeping s = { .settings = set, .first = sweep->next };

	if (set) {
		s.now = clock_seconds(set);
		bpf_loop(sweep_slice, sweep_bucket, &s, 0);
		sweep->next = (sweep->next + sweep_slice) & bucket_mask;
		if (!sweep->next)
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
