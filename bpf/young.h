/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What clients show of a real server before anybody checks it: SYNs that come
 * again, connections that nothing follows, resets soon after the beginning. It is
 * counted when it happens, which is seldom; packets of established connections
 * and new ones touch nothing for it.
 */
#pragma once

static __always_inline struct young *young_at(__u32 server)
{
	return bpf_map_lookup_elem(&youngs, &server);
}

/* Embryonic, or established in this second. All others are known longer, or for long. */
static __always_inline int word_early(__u64 w)
{
	return word_rank(w) != RANK_ESTABLISHED && word_rank(w) != RANK_ADOPTED;
}

/* The client has sent nothing but SYNs. SCTP has neither of these states: see enum sctp_state. */
static __always_inline int word_unanswered(__u64 w)
{
	return word_rank(w) == RANK_EMBRYONIC &&
	       (1u << word_state(w)) & (1u << STATE_SYN_RECV | 1u << STATE_SYNACK);
}

/* An entry expired or gave way; who took its place counts. */
__attribute__((noinline)) int young_left(__u64 w)
{
	struct young *y;

	if (!word_unanswered(w))
		return 0;
	y = young_at(word_server(w));
	if (y)
		__sync_fetch_and_add(&y->unanswered, 1);
	return 0;
}

/* What the word of an embryonic connection says from its second SYN on. */
static __always_inline __u64 syn_again(struct packet *p, __u64 w)
{
	if (p->protocol != IPPROTO_TCP || (p->tcp_flags & (TCP_SYN | TCP_RST)) != TCP_SYN)
		return 0;
	return word_unanswered(w) ? 1ull << WORD_AGAIN_SHIFT : 0;
}

/* A packet changed the word of a connection that was embryonic or young. */
__attribute__((noinline)) int young_changed(struct packet *p, __u64 was, __u64 is)
{
	struct young *y;

	if (!p || p->protocol != IPPROTO_TCP)
		return 0;
	if (!(p->tcp_flags & TCP_RST) && !((is & ~was) >> WORD_AGAIN_SHIFT & 1))
		return 0;
	y = young_at(word_server(was));
	if (!y)
		return 0;
	if (p->tcp_flags & TCP_RST)
		__sync_fetch_and_add(&y->resets, 1);
	else
		__sync_fetch_and_add(&y->retransmitted, 1);
	return 0;
}

/* The packet is the first of an embryonic connection that has no SYN. Here, since every client sends one. */
static __always_inline int opens(struct packet *p, __u64 w)
{
	return !(p->tcp_flags & (TCP_SYN | TCP_RST)) && word_rank(w) == RANK_EMBRYONIC;
}

static __always_inline __u64 opened(struct packet *p)
{
	return (__u64)(p->protocol == IPPROTO_TCP ? RANK_YOUNG : RANK_ESTABLISHED) << WORD_RANK_SHIFT;
}

/*
 * What a packet makes of the rank of a connection that is embryonic or young; and
 * whether it is its second SYN. The rest of the word is as in new, which has the old
 * rank.
 */
__attribute__((noinline)) __u64 young_word(struct packet *p, __u64 w, __u64 new)
{
	const __u64 rank = 3ull << WORD_RANK_SHIFT;

	if (!p)
		return new;
	if (word_rank(w) == RANK_YOUNG)
		return (new ^ w) & DEADLINE_MASK ? (new & ~rank) | (__u64)RANK_ESTABLISHED << WORD_RANK_SHIFT : new;
	if (p->tcp_flags & TCP_RST) /* as good as made by a stray: its SYN is not one without an answer */
		return p->protocol == IPPROTO_TCP ? new | (__u64)RANK_ADOPTED << WORD_RANK_SHIFT : new;
	if (p->tcp_flags & TCP_SYN)
		return new | syn_again(p, w);
	return new | opened(p);
}

/* A stray made a connection. */
static __always_inline void young_adopted(__u32 server)
{
	struct young *y = young_at(server);

	if (y)
		__sync_fetch_and_add(&y->adopted, 1);
}
