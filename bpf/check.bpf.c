// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The way of health checks: what a socket with a mark sends to a RIP goes to the
 * VIP on that real server.
 *
 * The director has the VIP itself, so it cannot connect to it elsewhere. A check
 * connects to the RIP; when its packets are on the way out, with the RIP's MAC
 * address already, their destination becomes the VIP. Who was meant is noted, and
 * what comes back from the VIP becomes the RIP's again before this host's stack
 * sees that it is from one of its own addresses. The check is an ordinary client.
 *
 *   check_out: mark (which VIP?) -> parse -> note (who is asked?) -> rewrite
 *   check_in:  parse -> note (asked?) -> rewrite
 *
 * Both are programs of tc, on the interface by which the real servers are
 * reached. What is not a check's pays for a look at its mark on the way out, and
 * in this host's own stack for one look-up on the way in; what the data plane
 * forwards never comes by check_in.
 */
#include "kernel.h"
#include "check_types.h"
#include "check_parse.h"
#include "check_rewrite.h"

char _license[] SEC("license") = "Dual MIT/GPL";

enum check_mark unused_check_mark __attribute__((unused));
enum check_count unused_check_count __attribute__((unused));

#define ECHO_NS 3000000000ULL /* for how long an answer to an ICMP echo is waited for */

static __always_inline int same(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline int is_mark(__u32 mark)
{
	return (mark & CHECK_MARK_MASK) == CHECK_MARK;
}

/*
 * The mark of a check, or 0. A firewall may have given the packet another one, so
 * the socket is asked too; of TIME_WAIT only the packet has it.
 */
static __always_inline __u32 mark_of(struct __sk_buff *skb)
{
	struct bpf_sock *sk;

	if (unlikely(is_mark(skb->mark)))
		return skb->mark;
	sk = (struct bpf_sock *)skb->sk;
	if (!sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	return sk && unlikely(is_mark(sk->mark)) ? sk->mark : 0;
}

static __always_inline void key_fill(struct check_key *k, const __be32 *vip, const __be32 *local,
				     __be16 vip_port, __be16 local_port, __u8 protocol)
{
	__builtin_memcpy(k->vip, vip, sizeof(k->vip));
	__builtin_memcpy(k->local, local, sizeof(k->local));
	k->vip_port = vip_port;
	k->local_port = local_port;
	k->protocol = protocol;
}

/* Of an answer: what its fragments have in common. */
static __always_inline void key_fill_fragment(struct check_key *k, struct check_packet *p)
{
	key_fill(k, p->source, p->destination, p->datagram >> 16, p->datagram, p->six ? 0 : p->protocol);
	k->fragment = 1;
}

/*
 * Two sockets with the same port, for the same port of one VIP on two servers,
 * cannot be told apart by their answers. Bound sockets have ports of their own, so
 * the one of the note is gone, as a rule: is it? Of an ICMP echo only the time tells.
 */
static __always_inline int taken(struct __sk_buff *skb, struct check_packet *p, struct check_note *n)
{
	struct bpf_sock_tuple t = {};
	__u32 size = p->six ? sizeof(t.ipv6) : sizeof(t.ipv4);
	struct bpf_sock *sk;
	int is;

	if (p->kind == CHECK_ECHO)
		return n->asked && bpf_ktime_get_coarse_ns() - n->asked < ECHO_NS;
	if (p->six) {
		__builtin_memcpy(t.ipv6.saddr, n->rip, sizeof(n->rip));
		__builtin_memcpy(t.ipv6.daddr, p->source, sizeof(p->source));
		t.ipv6.sport = p->destination_port;
		t.ipv6.dport = p->source_port;
	} else {
		t.ipv4.saddr = n->rip[3];
		t.ipv4.daddr = p->source[3];
		t.ipv4.sport = p->destination_port;
		t.ipv4.dport = p->source_port;
	}
	if (p->protocol == IPPROTO_TCP)
		sk = bpf_sk_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_sk_lookup_udp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	is = p->six ? same(sk->dst_ip6, n->rip) : sk->dst_ip4 == n->rip[3]; /* one that is connected there */
	bpf_sk_release(sk);
	return is;
}

/* Note who is asked. Returns SENT, or why not. */
static __always_inline enum check_count note(struct __sk_buff *skb, struct check_packet *p, const __be32 *vip)
{
	struct check_note new = {}, *n;
	struct check_key key = {};

	key_fill(&key, vip, p->source, p->destination_port, p->source_port, p->protocol);
	n = bpf_map_lookup_elem(&check_notes, &key);
	if (n && same(n->rip, p->destination)) {
		if (p->kind == CHECK_ECHO)
			n->asked = bpf_ktime_get_coarse_ns();
		return CHECK_SENT;
	}
	if (n && taken(skb, p, n))
		return CHECK_DROP_TAKEN;
	__builtin_memcpy(new.rip, p->destination, sizeof(new.rip));
	if (p->kind == CHECK_ECHO)
		new.asked = bpf_ktime_get_coarse_ns();
	return bpf_map_update_elem(&check_notes, &key, &new, 0) ? CHECK_DROP_FAILED : CHECK_SENT;
}

/*
 * With a mark, a packet goes to the VIP or nowhere: at the RIP it would find a
 * server well whose VIP was not asked for. Its later fragments need no note.
 */
static __always_inline enum check_count out(struct __sk_buff *skb, __u32 mark)
{
	struct check_vip *vip = bpf_map_lookup_elem(&check_vips, &mark);
	struct check_packet p = {};
	enum check_count c = CHECK_SENT;
	__be32 to[4];
	int kind;

	if (!vip)
		return CHECK_DROP_UNKNOWN;
	kind = check_frame(skb, &p);
	if ((kind != CHECK_PORTS && kind != CHECK_ECHO && kind != CHECK_LATER) || p.six != vip->six)
		return CHECK_DROP_UNSUPPORTED;
	__builtin_memcpy(to, vip->addr, sizeof(to));
	if (same(p.destination, to))
		return CHECK_PASS; /* done on a device above this one: a VLAN, a bridge, a bond */
	if (same(p.source, to))
		return CHECK_DROP_UNSUPPORTED; /* the server has the VIP, too, and would answer itself */
	if (kind != CHECK_LATER)
		c = note(skb, &p, to);
	if (c != CHECK_SENT)
		return c;
	if (check_hops(skb, &p) || check_rewrite(skb, &p, check_destination(&p), p.destination, to))
		return CHECK_DROP_FAILED;
	return CHECK_SENT;
}

/* An answer in fragments: only the first has ports, and the others have to come from the same address. */
static __always_inline int note_fragment(struct check_packet *p, struct check_note *n)
{
	struct check_note new = {};
	struct check_key key = {};

	key_fill_fragment(&key, p);
	__builtin_memcpy(new.rip, n->rip, sizeof(new.rip));
	return bpf_map_update_elem(&check_notes, &key, &new, 0) ? -1 : 0;
}

static __always_inline enum check_count answer(struct __sk_buff *skb, struct check_packet *p)
{
	struct check_key key = {};
	struct check_note *n;
	__be32 to[4];

	if (p->kind == CHECK_LATER)
		key_fill_fragment(&key, p);
	else
		key_fill(&key, p->source, p->destination, p->source_port, p->destination_port, p->protocol);
	n = bpf_map_lookup_elem(&check_notes, &key);
	if (!n)
		return CHECK_PASS;
	if (p->kind == CHECK_ECHO_REPLY)
		n->asked = 0;
	if (p->first && note_fragment(p, n))
		return CHECK_DROP_FAILED;
	__builtin_memcpy(to, n->rip, sizeof(to));
	return check_rewrite(skb, p, check_source(p), p->source, to) ? CHECK_DROP_FAILED : CHECK_ANSWER;
}

/*
 * An ICMP error about a check, whoever it is from: the socket that it is meant for
 * is connected to the RIP.
 */
static __always_inline enum check_count error(struct __sk_buff *skb, struct check_packet *p)
{
	struct check_packet q = { .ip = p->transport + sizeof(struct icmphdr), .six = p->six };
	int kind = check_parse(skb, &q);
	struct check_key key = {};
	struct check_note *n;
	__be32 to[4];

	if (kind != CHECK_PORTS && kind != CHECK_ECHO)
		return CHECK_PASS;
	key_fill(&key, q.destination, q.source, q.destination_port, q.source_port, q.protocol);
	n = bpf_map_lookup_elem(&check_notes, &key);
	if (!n)
		return CHECK_PASS;
	__builtin_memcpy(to, n->rip, sizeof(to));
	if (check_rewrite_quoted(skb, p, &q, to) ||
	    (same(p->source, q.destination) && check_rewrite(skb, p, check_source(p), p->source, to)))
		return CHECK_DROP_FAILED;
	return CHECK_ERROR;
}

static __always_inline enum check_count in(struct __sk_buff *skb)
{
	struct check_packet p = {};

	switch (check_frame(skb, &p)) {
	case CHECK_PORTS:
	case CHECK_ECHO_REPLY:
	case CHECK_LATER:
		return answer(skb, &p);
	case CHECK_ICMP_ERROR:
		return error(skb, &p);
	}
	return CHECK_PASS;
}

static __always_inline int leave(enum check_count c)
{
	__u32 index = c;
	__u64 *count;

	if (likely(c == CHECK_PASS))
		return TCX_NEXT;
	count = bpf_map_lookup_elem(&check_counts, &index);
	if (count)
		*count += 1;
	return c >= CHECK_DROP_UNKNOWN ? TCX_DROP : TCX_NEXT;
}

SEC("tc")
int check_out(struct __sk_buff *skb)
{
	__u32 mark = mark_of(skb);

	return mark ? leave(out(skb, mark)) : TCX_NEXT;
}

SEC("tc")
int check_in(struct __sk_buff *skb)
{
	return leave(in(skb));
}
