/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * A test run hands a program the packet that it has just changed, over and over.
 * So the wrapper is run instead: it writes the packet anew, of the flow whose
 * turn it is, and goes on to the program by a tail call. What the wrapper itself
 * costs is measured with a program that does nothing, and taken off.
 */
#pragma once

#define FRAME	   80 /* room for the headers of IPv6 and TCP */
#define FRAME4	   64
#define ORDER_BITS 20

/* Set before loading: the verifier removes what a kind of packet does not need. */
volatile const __u64 frame[FRAME / 8] = {}; /* of flow 0, source port FIRST_PORT */
volatile const __u32 varies = 0;	    /* the IP version if flows differ in address and port; else 0 */
volatile const __u32 tcp = 0;
volatile const __u64 last_flow = 0;	    /* flows, a power of two, less one */
volatile const __u64 stride = 1;	    /* odd: in which order they come, before they come again */
volatile const __u32 by_order = 0;	    /* flows come in the order below instead */
volatile const __u32 services = 1;	    /* to so many destination ports in a row, by turns */
volatile const __u32 first_service = 0;	    /* the lowest of them */

__u64 turn = 0;			  /* the packet's number */
__u64 first_turn = 0, last_turn = 0; /* at which the clock is read */
__u64 began = 0, ended = 0;
__u32 order[1 << ORDER_BITS] = {};

/* The program that is measured: one array for each type, as the kernel wants it. */
struct program_array {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
	__uint(max_entries, 1);
} measured SEC(".maps"), measured_tc SEC(".maps");

#define FIRST_PORT 0x8000
#define PORT_BITS  12

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return sum + (sum >> 16);
}

static __always_inline __u64 flow_of(__u64 n)
{
	if (by_order)
		return order[n & ((1 << ORDER_BITS) - 1)];
	return n * stride & last_flow;
}

/*
 * The flow's client address and port. What they add to the checksums is taken
 * off again in a field that does not matter, so all sums stay right: 24 bits of
 * an IPv4 address in the IP id, those and the port in the TCP urgent pointer (UDP
 * has no sum there); an IPv6 address has room for both in itself.
 */
static __always_inline void set_client(void *packet, __u64 flow)
{
	__be16 port = htons(FIRST_PORT | (flow & ((1 << PORT_BITS) - 1)));
	__be32 host = htonl((flow >> PORT_BITS) & 0xffffff);
	__u16 sum = fold((host & 0xffff) + (host >> 16));

	if (varies == 4) {
		struct iphdr *ip = packet + sizeof(struct ethhdr);
		struct tcphdr *to = (void *)(ip + 1);

		ip->source |= host;
		ip->id = ~sum;
		to->source = port;
		if (tcp)
			to->urgent = ~fold(sum + port);
	} else {
		struct ipv6hdr *ip = packet + sizeof(struct ethhdr);
		struct udphdr *to = (void *)(ip + 1);

		ip->source[2] = host;
		ip->source[3] = (__u16)~fold(sum + port);
		to->source = port;
	}
}

/* The service's port. Here checksums go wrong: nobody on the way checks them. */
static __always_inline void set_service(void *packet, __u64 flow)
{
	struct udphdr *to = packet + sizeof(struct ethhdr) +
			    (varies == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));

	to->destination = htons(first_service + flow % services);
}

static __always_inline int restore(void *packet, void *end, __u64 n)
{
	__u64 *words = packet;
	int i, size = varies == 6 ? FRAME : FRAME4;
	__u64 flow;

	if (packet + size > end)
		return -1;
#pragma unroll
	for (i = 0; i < FRAME / 8; i++)
		if (i * 8 < size)
			words[i] = frame[i];
	if (!varies)
		return 0;
	flow = flow_of(n);
	set_client(packet, flow);
	if (services > 1)
		set_service(packet, flow);
	return 0;
}

/*
 * The clock is read here, at the first and the last packet: the set-up of a test
 * run takes longer than all of them. The atomic addition waits for all stores,
 * so that the program is not held up by those of the wrapper.
 */
static __always_inline int prepare(void *packet, void *end)
{
	__u64 n = turn;

	if (n == first_turn)
		began = bpf_ktime_get_ns();
	else if (n == last_turn)
		ended = bpf_ktime_get_ns();
	if (restore(packet, end, n))
		return -1;
	__sync_fetch_and_add(&turn, 1);
	return 0;
}

SEC("xdp")
int wrap(struct xdp_md *xdp)
{
	if (!prepare((void *)(long)xdp->data, (void *)(long)xdp->data_end))
		bpf_tail_call(xdp, &measured, 0);
	return XDP_ABORTED;
}

SEC("tc")
int wrap_tc(struct __sk_buff *skb)
{
	if (!prepare((void *)(long)skb->data, (void *)(long)skb->data_end))
		bpf_tail_call(skb, &measured_tc, 0);
	return TCX_DROP;
}

/* What is left of a program when it does nothing. */
SEC("xdp")
int nothing(struct xdp_md *xdp)
{
	return XDP_TX;
}

SEC("tc")
int nothing_tc(struct __sk_buff *skb)
{
	return TCX_NEXT;
}
