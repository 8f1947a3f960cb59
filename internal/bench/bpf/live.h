/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Packets on a wire: the generator is run with live frames, on one CPU or on
 * several at once, and its frames go out by the device that the test run names.
 * What comes back there is the sink's.
 */
#pragma once

#define LANES 256 /* a power of two */

/* What one CPU does; apart from the others' by as much as processors fetch at once. */
struct lane {
	__u64 turn; /* the number of its next packet */
	__u64 step; /* and how much further the one after it is */
	__u64 first_turn, last_turn;
	__u64 arrived; /* while all lanes were sending */
	__u64 sunk;    /* in all */
	__u64 servers; /* a bit for each that anything came for */
	__u64 pad[9];
};

struct lane lanes[LANES] __attribute__((aligned(128))) = {};

__u64 lanes_wanted = 0;
__u64 sending = 0; /* lanes between their first and their last packet */

static __always_inline struct lane *own_lane(void)
{
	return &lanes[bpf_get_smp_processor_id() & (LANES - 1)];
}

/* The clock runs while all are sending: from the last one's start to the first one's end. */
static __always_inline int send_next(struct xdp_md *xdp)
{
	struct lane *l = own_lane();
	__u64 n = l->turn;

	if (n == l->first_turn && __sync_fetch_and_add(&sending, 1) + 1 == lanes_wanted)
		began = bpf_ktime_get_ns();
	if (restore((void *)(long)xdp->data, (void *)(long)xdp->data_end, n))
		return -1;
	l->turn = n + l->step;
	if (n == l->last_turn && __sync_fetch_and_add(&sending, -1) == lanes_wanted)
		ended = bpf_ktime_get_ns();
	return 0;
}

SEC("xdp")
int generate(struct xdp_md *xdp)
{
	return send_next(xdp) ? XDP_ABORTED : XDP_TX;
}

/* What the generator costs without a wire: the packet has arrived at once. */
SEC("xdp")
int generate_nothing(struct xdp_md *xdp)
{
	struct lane *l = own_lane();

	if (send_next(xdp))
		return XDP_ABORTED;
	l->sunk++;
	if (sending == lanes_wanted)
		l->arrived++;
	return XDP_DROP;
}

/* All servers' MAC addresses, and nobody else's, begin with 02:00:00. */
SEC("xdp")
int sink(struct xdp_md *xdp)
{
	struct ethhdr *eth = (void *)(long)xdp->data;
	struct lane *l = own_lane();

	if ((void *)(eth + 1) > (void *)(long)xdp->data_end)
		return XDP_DROP;
	if (eth->destination[0] != 2 || eth->destination[1] || eth->destination[2])
		return XDP_PASS;
	l->sunk++;
	l->servers |= 1ULL << (eth->destination[5] & 63);
	if (*(volatile __u64 *)&sending == lanes_wanted)
		l->arrived++;
	return XDP_DROP;
}

/* The kernel gets all packets: a veth takes live frames only where a native program is. */
SEC("xdp")
int leave(struct xdp_md *xdp)
{
	return XDP_PASS;
}
