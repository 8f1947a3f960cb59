/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The yardsticks: forwarding programs that do much less than a director must.
 * Each is for XDP and for tc.
 *
 *   floor_tx     every TCP and UDP packet goes to one server: what the hook costs
 *   floor_full   one lookup of the service, one in an LRU hash of connections, a
 *                hash ring for new ones, a counter: how it is usually done
 *   floor_assoc  the same with a table of our own, a part of it for each CPU: the
 *                best that is known. No TCP states, no schedulers, no exact
 *                counts; it forgets connections when it is full.
 */
#pragma once

struct flow {
	__be32 client;
	__be32 vip;
	__be16 client_port;
	__be16 port;
	__u8 protocol;
	__u8 pad[3];
};

struct virtual {
	__be32 vip;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

struct virtual_value {
	__u32 ring; /* its first place in rings */
	__u32 id;
};

struct real {
	__u8 mac[6];
	__u16 id;
};

struct tally {
	__u64 packets;
	__u64 bytes;
};

/* What is read of a packet. */
struct seen {
	struct flow flow;
	__u32 length;
	int syn;
};

#define RING 65536

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct virtual);
	__type(value, struct virtual_value);
	__uint(max_entries, 1024);
} virtuals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, RING);
} rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct real);
	__uint(max_entries, 4096);
} reals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct tally);
	__uint(max_entries, 4096);
} tallies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow);
	__type(value, struct real);
	__uint(max_entries, 1 << 20);
} flows SEC(".maps");

struct way {
	__be32 client;
	__u32 ports;
	__u16 virtual; /* its id, and one: 0 is a free place */
	__u16 real;
	__u32 used; /* jiffies */
};

#define SET_WAYS 4

/* A cache line. */
struct set {
	struct way way[SET_WAYS];
};

volatile const __u32 sets = 1 << 18; /* of each CPU */
volatile const __u32 last_cpu = 0;   /* CPUs, a power of two, less one */

/* Mappable, because then elements begin on a page, and so on a cache line. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct set);
	__uint(max_entries, 1 << 18);
	__uint(map_flags, BPF_F_MMAPABLE);
} cache SEC(".maps");

/* TCP and UDP in IPv4 without options, in one piece. */
static __always_inline int see(void *packet, void *end, struct seen *s)
{
	struct ethhdr *eth = packet;
	struct iphdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp = (void *)(ip + 1);
	struct udphdr *udp = (void *)tcp;

	if ((void *)(ip + 1) > end || eth->proto != htons(ETH_P_IP) || ip->version_length != 0x45 ||
	    ip->fragment & htons(IP_MORE_FRAGMENTS | IP_OFFSET))
		return 0;
	if (ip->protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > end)
			return 0;
		s->syn = tcp->flags & TCP_SYN;
	} else if (ip->protocol == IPPROTO_UDP) {
		if ((void *)(udp + 1) > end)
			return 0;
		s->syn = 0;
	} else {
		return 0;
	}
	s->flow = (struct flow){
		.client = ip->source,
		.vip = ip->destination,
		.client_port = udp->source,
		.port = udp->destination,
		.protocol = ip->protocol,
	};
	s->length = ntohs(ip->total_length);
	return 1;
}

static __always_inline void readdress(void *packet, void *end, const __u8 *mac)
{
	struct ethhdr *eth = packet;

	if ((void *)(eth + 1) > end)
		return;
	*(__u32 *)eth->source = *(__u32 *)eth->destination;
	*(__u16 *)(eth->source + 4) = *(__u16 *)(eth->destination + 4);
	*(__u32 *)eth->destination = *(__u32 *)mac;
	*(__u16 *)(eth->destination + 4) = *(__u16 *)(mac + 4);
}

static __always_inline struct virtual_value *served(struct seen *s)
{
	struct virtual at = { .vip = s->flow.vip, .port = s->flow.port, .protocol = s->flow.protocol };

	return bpf_map_lookup_elem(&virtuals, &at);
}

static __always_inline __u32 mixed(struct flow *f)
{
	__u64 addresses = ((__u64)f->client << 32 | f->vip) * 0x9E3779B97F4A7C15ULL;
	__u64 rest = ((__u64)f->client_port << 32 | (__u64)f->port << 16 | f->protocol) * 0xD6E8FEB86659FD93ULL;

	return ((addresses ^ addresses >> 32) + (rest ^ rest >> 29)) * 0x9E3779B97F4A7C15ULL >> 32;
}

static __always_inline struct real *on_ring(struct virtual_value *v, __u32 hash)
{
	__u32 at = v->ring + (hash & (RING - 1));
	__u32 *id = bpf_map_lookup_elem(&rings, &at);

	return id ? bpf_map_lookup_elem(&reals, id) : 0;
}

static __always_inline void tally(__u32 id, __u32 length)
{
	struct tally *t = bpf_map_lookup_elem(&tallies, &id);

	if (!t)
		return;
	t->packets++;
	t->bytes += length;
}

static __always_inline int forward_tx(void *packet, void *end)
{
	static const __u8 mac[6] = { 2, 0, 0, 0, 1, 1 };
	struct seen s;

	if (!see(packet, end, &s))
		return 0;
	readdress(packet, end, mac);
	return 1;
}

static __always_inline int forward_full(void *packet, void *end)
{
	struct virtual_value *v;
	struct real *to = 0;
	struct seen s;

	if (!see(packet, end, &s))
		return 0;
	v = served(&s);
	if (!v)
		return 0;
	if (!s.syn)
		to = bpf_map_lookup_elem(&flows, &s.flow);
	if (!to) {
		to = on_ring(v, mixed(&s.flow));
		if (!to)
			return 0;
		bpf_map_update_elem(&flows, &s.flow, to, BPF_ANY);
	}
	tally(to->id, s.length);
	readdress(packet, end, to->mac);
	return 1;
}

static __always_inline int way_is(struct way *w, struct flow *f, __u32 ports, __u16 virtual)
{
	return w->client == f->client && w->ports == ports && w->virtual == virtual;
}

static __always_inline struct way *least_recent(struct set *s)
{
	struct way *w = &s->way[0];
	int i;

#pragma unroll
	for (i = 1; i < SET_WAYS; i++)
		if ((__s32)(s->way[i].used - w->used) < 0)
			w = &s->way[i];
	return w;
}

static __always_inline int forward_assoc(void *packet, void *end)
{
	struct virtual_value *v;
	struct way *w = 0;
	struct real *to;
	struct set *set;
	struct seen s;
	__u32 hash, at, now, ports, id;
	__u16 virtual;

	if (!see(packet, end, &s))
		return 0;
	v = served(&s);
	if (!v)
		return 0;
	hash = mixed(&s.flow);
	at = (bpf_get_smp_processor_id() & last_cpu) * sets + (hash & (sets - 1));
	set = bpf_map_lookup_elem(&cache, &at);
	if (!set)
		return 0;
	now = bpf_jiffies64();
	ports = (__u32)s.flow.client_port << 16 | s.flow.port;
	virtual = v->id + 1;
	if (way_is(&set->way[0], &s.flow, ports, virtual))
		w = &set->way[0];
	else if (way_is(&set->way[1], &s.flow, ports, virtual))
		w = &set->way[1];
	else if (way_is(&set->way[2], &s.flow, ports, virtual))
		w = &set->way[2];
	else if (way_is(&set->way[3], &s.flow, ports, virtual))
		w = &set->way[3];
	if (w) {
		if (w->used != now)
			w->used = now;
		id = w->real;
		to = bpf_map_lookup_elem(&reals, &id);
	} else {
		to = on_ring(v, hash);
		if (!to)
			return 0;
		w = least_recent(set);
		w->client = s.flow.client;
		w->ports = ports;
		w->virtual = virtual;
		w->real = to->id;
		w->used = now;
	}
	if (!to)
		return 0;
	tally(to->id, s.length);
	readdress(packet, end, to->mac);
	return 1;
}

#define YARDSTICK(name)                                                                        \
	SEC("xdp")                                                                             \
	int floor_##name(struct xdp_md *xdp)                                                   \
	{                                                                                      \
		return forward_##name((void *)(long)xdp->data, (void *)(long)xdp->data_end) ?  \
			       XDP_TX : XDP_PASS;                                              \
	}                                                                                      \
	SEC("tc")                                                                              \
	int floor_##name##_tc(struct __sk_buff *skb)                                           \
	{                                                                                      \
		return forward_##name((void *)(long)skb->data, (void *)(long)skb->data_end) ?  \
			       bpf_redirect(skb->ifindex, 0) : TCX_NEXT;                       \
	}

YARDSTICK(tx)
YARDSTICK(full)
YARDSTICK(assoc)
