// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * What the benchmarks need in the kernel: a wrapper that gives a program one
 * fresh packet after the other (wrap.h), the yardsticks that the director is
 * measured against (floor.h), and the ends of a wire (live.h). Nothing of this is
 * in the product.
 */
#include "../../../bpf/kernel.h"

/* What the director has no use for, by the numbers of include/uapi/linux/bpf.h. */
enum { BPF_MAP_TYPE_PROG_ARRAY = 3 };
#define BPF_ANY 0
static __u32 (*bpf_get_smp_processor_id)(void) = (void *)8;
static long (*bpf_tail_call)(void *ctx, void *programs, __u32 index) = (void *)12;

#include "wrap.h"
#include "floor.h"
#include "live.h"

char _license[] SEC("license") = "Dual MIT/GPL";
