/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Datagrams in fragments. Kernel IPVS puts them together first; we do not. Only
 * the first fragment has the ports; it goes the way of any packet, and where it
 * went is noted under what all fragments of the datagram share. The others go
 * by that note. One that comes before the first is given to the daemon, which
 * puts it in again when the first is there.
 *
 * A note is one word, as a connection's: service, server, deadline, and which
 * kind of note it is in place of the state. Notes are hints: one that is lost, or
 * that an evicted one's last reader overwrote, costs a datagram.
 */
#pragma once

#define NOTE_SECONDS 5 /* the director's part of the way: less than an identification takes to come again */
#define PARKED_PER_SECOND 10000 /* on each CPU: the daemon has other things to do */

static __always_inline __u64 note_make(__u32 service, __u32 server, enum note kind, __u32 now)
{
	return word_make(service, server & ((1u << WORD_SERVER_BITS) - 1), 0, (__u32)kind, now + NOTE_SECONDS);
}

static __always_inline enum note note_kind(__u64 note)
{
	return (__u32)word_state(note);
}

static __always_inline void fragment_key_of(struct packet *p, struct fragment_key *k)
{
	k->client[0] = p->key.client[0];
	k->client[1] = p->key.client[1];
	k->vip[0] = p->vip[0];
	k->vip[1] = p->vip[1];
	k->vip[2] = p->vip[2];
	k->vip[3] = p->vip[3];
	k->datagram = p->datagram;
	k->protocol = p->six ? 0 : p->protocol;
	k->six = p->six;
}

/* A fragment to an address without services is none of our business. */
static __always_inline int vip_served(struct packet *p)
{
	struct vip v = { .addr = { p->vip[0], p->vip[1], p->vip[2], p->vip[3] }, .six = p->six };

	return bpf_map_lookup_elem(&vips, &v) != 0;
}

static __always_inline enum note note_of(__u32 verdict)
{
	switch (verdict) {
	case VERDICT_FORWARD_CONNECTION:
	case VERDICT_FORWARD_NEW:
	case VERDICT_FORWARD_ADOPTED:
	case VERDICT_FORWARD_UNTRACKED:
	case VERDICT_FORWARD_ONE_PACKET:
		return NOTE_SERVER;
	case VERDICT_PASS_NOT_SERVED:
	case VERDICT_PASS_PROTOCOL:
	case VERDICT_PASS_FRAGMENT:
	case VERDICT_PASS_MALFORMED:
	case VERDICT_PASS_STRAY:
	case VERDICT_PASS_OWN_SOURCE:
		return NOTE_PASSED;
	default:
		return NOTE_DROPPED;
	}
}

/* The daemon has fragments of a datagram whose first one came now. */
static __always_inline void tell_first(struct fragment_key *k)
{
	struct arrival *a = bpf_ringbuf_reserve(&arrivals, sizeof(*a), 0);

	if (!a)
		return; /* it looks once more before it gives up */
	__builtin_memset(a, 0, sizeof(*a));
	a->key = *k;
	a->kind = ARRIVAL_FIRST;
	bpf_ringbuf_submit(a, 0);
}

/*
 * Note where a datagram goes, by its first fragment's verdict. A note that was
 * there is replaced in one step, so that of this one and of one that parks, one
 * sees the other.
 */
__attribute__((noinline)) int fragment_note(struct packet *p, __u32 service, __u32 server, __u32 verdict, __u32 now)
{
	struct fragment_key k = {};
	__u64 word, old, *note;

	if (!p)
		return -1;
	fragment_key_of(p, &k);
	word = note_make(service, server, note_of(verdict), now);
	note = bpf_map_lookup_elem(&fragments, &k);
	if (!note) {
		if (!bpf_map_update_elem(&fragments, &k, &word, BPF_NOEXIST))
			return 0;
		note = bpf_map_lookup_elem(&fragments, &k);
		if (!note)
			return 0;
	}
	old = __sync_lock_test_and_set(note, word);
	if (note_kind(old) == NOTE_PARKED)
		tell_first(&k);
	return 0;
}

/* What a note that counts says; VERDICT_CONTINUE: nothing. */
static __always_inline enum verdict obey(__u64 word, __u32 *server, __u32 now)
{
	struct server *to;
	__u32 id;

	if (word_expired(word, now))
		return VERDICT_CONTINUE;
	switch (note_kind(word)) {
	case NOTE_PASSED:
		return VERDICT_PASS_FRAGMENT;
	case NOTE_DROPPED:
		return VERDICT_DROP_FRAGMENT;
	case NOTE_PARKED:
		return VERDICT_CONTINUE;
	case NOTE_SERVER:
		break;
	}
	id = word_server(word);
	to = bpf_map_lookup_elem(&servers, &id);
	if (!to || !(to->flags & SERVER_EXISTS) || to->service != word_service(word))
		return VERDICT_DROP_REMOVED;
	*server = id;
	return VERDICT_FORWARD_FRAGMENT;
}

/* Where a later fragment goes; VERDICT_CONTINUE if the first one has not come. */
__attribute__((noinline)) int fragment_follow(struct packet *p, __u32 *server, __u32 now)
{
	struct fragment_key k = {};
	__u64 *note;

	if (!p || !server)
		return VERDICT_ABORTED;
	fragment_key_of(p, &k);
	note = bpf_map_lookup_elem(&fragments, &k);
	return note ? obey(*(volatile __u64 *)note, server, now) : VERDICT_CONTINUE;
}

/* Mark that there is a fragment in want of its first. If that came meanwhile, its word is returned. */
static __always_inline __u64 mark_parked(struct fragment_key *k, __u32 now)
{
	__u64 word = note_make(0, 0, NOTE_PARKED, now), old, *note;

	note = bpf_map_lookup_elem(&fragments, k);
	if (!note) {
		if (!bpf_map_update_elem(&fragments, k, &word, BPF_NOEXIST))
			return word;
		note = bpf_map_lookup_elem(&fragments, k);
		if (!note)
			return word;
	}
	old = *(volatile __u64 *)note;
	if (note_kind(old) != NOTE_PARKED && !word_expired(old, now))
		return old;
	return __sync_val_compare_and_swap(note, old, word) == old ? word : *(volatile __u64 *)note;
}

/* Room for a frame in the ring to the daemon; nothing if there is none, or if it has enough to do. */
static __always_inline struct parked *park_open(struct packet *p, __u32 interface, __u32 length, __u32 now, __u32 tag)
{
	struct parked *to;

	if (length > FRAME_MAX || !allowed(ALLOWANCE_PARK, now, PARKED_PER_SECOND))
		return 0;
	to = bpf_ringbuf_reserve(&arrivals, sizeof(*to), 0);
	if (!to)
		return 0;
	fragment_key_of(p, &to->arrival.key);
	to->arrival.kind = ARRIVAL_EARLY;
	to->arrival.interface = interface;
	to->arrival.length = length;
	to->arrival.tag = tag;
	return to;
}

/* The frame is there: give it to the daemon, unless its first fragment has come meanwhile. */
static __always_inline enum verdict park_close(struct packet *p, struct parked *to, long missed,
					       __u32 *server, __u32 now)
{
	struct fragment_key k = {};
	enum verdict v;

	if (missed) {
		bpf_ringbuf_discard(to, 0);
		return VERDICT_ABORTED;
	}
	fragment_key_of(p, &k);
	v = obey(mark_parked(&k, now), server, now);
	if (v != VERDICT_CONTINUE) {
		bpf_ringbuf_discard(to, 0);
		return v;
	}
	bpf_ringbuf_submit(to, 0);
	return VERDICT_DROP_PARKED;
}

__attribute__((noinline)) int fragment_park(struct xdp_md *ctx, struct packet *p, __u32 *server, __u32 now, __u32 tag)
{
	__u32 length = (long)ctx->data_end - (long)ctx->data;
	struct parked *to;
	long missed = -1;

	if (!p || !server)
		return VERDICT_ABORTED;
	to = park_open(p, ctx->ingress_ifindex, length, now, tag);
	if (!to)
		return VERDICT_DROP_PARK_FULL;
	if (length > FRAME_MAX)
		return park_close(p, to, -1, server, now);
	opaque(length); /* or two comparisons become one that the verifier makes nothing of */
	if (length)
		missed = bpf_xdp_load_bytes(ctx, 0, to->frame, length);
	return park_close(p, to, missed, server, now);
}

__attribute__((noinline)) int fragment_park_skb(struct __sk_buff *skb, struct packet *p, __u32 *server, __u32 now, __u32 tag)
{
	__u32 length = skb->len;
	struct parked *to;
	long missed = -1;

	if (!p || !server)
		return VERDICT_ABORTED;
	to = park_open(p, skb->ifindex, length, now, tag);
	if (!to)
		return VERDICT_DROP_PARK_FULL;
	if (length > FRAME_MAX)
		return park_close(p, to, -1, server, now);
	opaque(length);
	if (length)
		missed = bpf_skb_load_bytes(skb, 0, to->frame, length);
	return park_close(p, to, missed, server, now);
}
