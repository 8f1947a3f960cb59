/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* What the daemon has the kernel do that writing a map cannot. */
#pragma once

/* ip_vs_ctl.c, __ip_vs_update_dest: thresholds changed, and count at once. */
SEC("syscall")
int set_limit(struct limit_update *u)
{
	__u32 id = u->id;
	struct load *l = bpf_map_lookup_elem(&loads, &id);
	struct limit *limit = bpf_map_lookup_elem(&limits, &id);

	if (!l || !limit)
		return 1;
	limit->upper = u->upper;
	limit->lower = u->lower;
	if (!u->upper) {
		__sync_fetch_and_and(&l->flags, ~(LOAD_LIMITED | LOAD_OVERLOADED));
		return 0;
	}
	__sync_fetch_and_or(&l->flags, LOAD_LIMITED);
	if (load_total(l) >= limit->upper)
		__sync_fetch_and_or(&l->flags, LOAD_OVERLOADED);
	else if (load_total(l) < limit->lower)
		__sync_fetch_and_and(&l->flags, ~LOAD_OVERLOADED);
	return 0;
}

/* Which group a server's load counts for. */
SEC("syscall")
int set_group(struct group_update *u)
{
	__u32 id = u->id, group = u->group;
	struct load *l = bpf_map_lookup_elem(&loads, &id);
	int tries;

	for (tries = 0; l && tries < 64; tries++) {
		__u32 was = *(volatile __u32 *)&l->flags;
		__u32 now = (was & ((1u << LOAD_GROUP_SHIFT) - 1)) | group << LOAD_GROUP_SHIFT;

		if (__sync_val_compare_and_swap(&l->flags, was, now) != was)
			continue;
		group_changed(now); /* what its load did before counted for another one */
		return 0;
	}
	return 1;
}

/* The kernel tells its jiffies to nobody else. */
SEC("syscall")
int read_clock(struct clock *out)
{
	out->jiffies = bpf_jiffies64();
	return 0;
}

/* Count a verdict that the daemon came to. On this CPU a packet may interrupt us; hence the atomic step. */
SEC("syscall")
int count_verdict(struct verdict_count *c)
{
	__u32 verdict = c->verdict;
	__u64 *count = bpf_map_lookup_elem(&verdicts, &verdict);

	if (!count)
		return 1;
	__sync_fetch_and_add(count, c->packets);
	return 0;
}
