/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* How often what costs more than a packet may be done in a second, on each CPU. */
#pragma once

static __always_inline int allowed_many(__u32 what, __u32 now, __u32 many, __u32 per_second)
{
	struct allowance *a = bpf_map_lookup_elem(&allowances, &what);

	if (!a)
		return 0;
	if (a->second != now) {
		a->second = now;
		a->used = 0;
	}
	if (a->used + many > per_second)
		return 0;
	a->used += many;
	return 1;
}

static __always_inline int allowed(__u32 what, __u32 now, __u32 per_second)
{
	return allowed_many(what, now, 1, per_second);
}
