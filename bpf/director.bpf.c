// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The director's packet path: what comes in for a virtual service goes to a
 * real server, with another destination MAC and nothing else changed.
 *
 *   parse -> service (ours?) -> connection (known?) -> schedule (choose)
 *         -> forward (MACs, TTL, out) -> verdict (count)
 *
 * docs/design.md says why it is as it is.
 */
#include "kernel.h"
#include "types.h"
#include "verdict.h"
#include "maps.h"
#include "parse.h"
#include "service.h"
#include "connection.h"
#include "schedule.h"
#include "forward.h"
#include "reply.h"
#include "sweep.h"
#include "control.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* For bpf2go: an enum is exported only if something is declared with it. */
enum verdict unused_verdict __attribute__((unused));
enum scheduler unused_scheduler __attribute__((unused));
enum stray unused_stray __attribute__((unused));
enum state unused_state __attribute__((unused));
enum rank unused_rank __attribute__((unused));
enum word unused_word __attribute__((unused));
enum server_flags unused_server_flags __attribute__((unused));
enum service_flags unused_service_flags __attribute__((unused));
enum load_flags unused_load_flags __attribute__((unused));

/* What one packet's way through the steps has found out. */
struct route {
	struct parameters *settings;
	struct service *service;
	struct place place;
	__u64 hash;
	__u32 now;
	__u32 server;
};

static __always_inline struct server *server_at(__u32 id)
{
	return bpf_map_lookup_elem(&servers, &id);
}

/*
 * A SYN on a connection that the client has ended opens another one
 * (ip_vs_core.c, conn_reuse_mode). Direct routing leaves every connection that
 * the client closes in FIN_WAIT, hence the flag.
 */
static __always_inline int reopens(struct packet *p, struct service *s, __u64 w)
{
	__u32 ended = 1u << STATE_TIME_WAIT | 1u << STATE_CLOSE;

	if (s->flags & SERVICE_REOPENS_FIN_WAIT)
		ended |= 1u << STATE_FIN_WAIT;
	return p->to.protocol == IPPROTO_TCP && p->tcp_flags & TCP_SYN &&
	       (1u << word_state(w)) & ended;
}

/* Known: the packet goes where the connection's others went. */
static __always_inline enum verdict known(struct packet *p, struct route *r)
{
	struct connection *c = connection_find(&r->place, p->key, r->service->id);
	struct server *to;
	__u64 w;

	if (!c)
		return VERDICT_CONTINUE;
	w = *(volatile __u64 *)&c->word;
	if (!w || word_service(w) != r->service->id)
		return VERDICT_CONTINUE;
	if (word_expired(w, r->now) || reopens(p, r->service, w)) {
		connection_release(c, w);
		return VERDICT_CONTINUE;
	}
	to = server_at(word_server(w));
	if (!to || !(to->flags & SERVER_EXISTS)) {
		if (!(r->service->flags & SERVICE_LEAVES_REMOVED))
			return VERDICT_DROP_REMOVED;
		connection_release(c, w);
		return VERDICT_CONTINUE;
	}
	connection_touch(p, c, w, r->settings, r->now);
	r->server = word_server(w);
	return VERDICT_FORWARD_CONNECTION;
}

/* Remember the choice in r->server; where there is no room the hash decides. */
static __always_inline enum verdict remember(struct packet *p, struct route *r, enum rank rank,
					     enum verdict verdict)
{
	enum state state = state_after(p, STATE_NONE);
	__u64 word = word_make(r->service->id, r->server, rank, state,
			       r->now + r->settings->timeouts[state & 0xf]);
	__u64 standing = connection_insert(&r->place, p->key, word, r->now);

	if (standing) {
		r->server = word_server(standing);
		return standing == word ? verdict : VERDICT_FORWARD_CONNECTION;
	}
	r->server = schedule_by_hash(r->service, r->hash);
	return r->server == NO_SERVER ? VERDICT_REPLY_NO_SERVER : VERDICT_FORWARD_UNTRACKED;
}

/* Unknown: schedule what opens a connection; what belongs to one goes by the hash. */
static __always_inline enum verdict unknown(struct packet *p, struct route *r)
{
	int tcp = p->to.protocol == IPPROTO_TCP;

	if (tcp && (p->tcp_flags & (TCP_SYN | TCP_RST)) != TCP_SYN) {
		if (r->service->stray == STRAY_PASS)
			return VERDICT_PASS_STRAY;
		if (r->service->stray == STRAY_DROP)
			return VERDICT_DROP_STRAY;
		r->server = schedule_by_hash(r->service, r->hash);
		if (r->server == NO_SERVER)
			return VERDICT_REPLY_NO_SERVER;
		if (p->tcp_flags & TCP_RST)
			return VERDICT_FORWARD_UNTRACKED; /* it ends what we do not know: nothing to remember */
		return remember(p, r, RANK_ADOPTED, VERDICT_FORWARD_ADOPTED);
	}
	r->server = schedule(r->service, p);
	if (r->server == NO_SERVER)
		return VERDICT_REPLY_NO_SERVER;
	if (!tcp && r->service->flags & SERVICE_ONE_PACKET)
		return VERDICT_FORWARD_ONE_PACKET;
	return remember(p, r, RANK_EMBRYONIC, VERDICT_FORWARD_NEW);
}

static __always_inline enum verdict direct(struct xdp_md *ctx, struct packet *p, struct route *r)
{
	__u32 zero = 0;
	enum verdict v;

	v = parse(p, (void *)(long)ctx->data, (void *)(long)ctx->data_end);
	if (v != VERDICT_CONTINUE)
		return v;
	r->service = service_find(p);
	if (!r->service)
		return VERDICT_PASS_NOT_SERVED;
	r->settings = bpf_map_lookup_elem(&settings, &zero);
	if (!r->settings)
		return VERDICT_ABORTED;
	if (!for_this_host(p, r->settings, ctx->ingress_ifindex))
		return VERDICT_PASS_NOT_HOST;

	r->now = clock_seconds(r->settings);
	r->hash = connection_hash(p->key, r->service->id, r->settings->seed);
	if (!connection_place(&r->place, r->hash))
		return VERDICT_ABORTED;
	v = known(p, r);
	if (v == VERDICT_CONTINUE)
		v = unknown(p, r);
	return v;
}

/* Carry out a verdict: the last step. It may change for want of a MAC or of hops. */
static __always_inline int send(struct xdp_md *ctx, struct packet *p, struct route *r,
				enum verdict *v)
{
	struct server *to = server_at(r->server);
	__u32 interface;

	if (!to) {
		*v = VERDICT_ABORTED;
		return XDP_ABORTED;
	}
	count_server(r->server, p, *v == VERDICT_FORWARD_NEW || *v == VERDICT_FORWARD_ADOPTED ||
				   *v == VERDICT_FORWARD_ONE_PACKET);
	if (p->ip->ttl <= 1) {
		*v = VERDICT_DROP_TTL;
		if (!reply_allowed(r->now) || reply_icmp(ctx, p, ICMP_TIME_EXCEEDED, ICMP_TTL_EXCEEDED))
			return XDP_DROP;
		*v = VERDICT_REPLY_TTL;
		return XDP_TX;
	}
	if (!(to->flags & SERVER_RESOLVED)) {
		*v = VERDICT_DROP_UNRESOLVED;
		return XDP_DROP;
	}
	decrement_ttl(p->ip);
	set_macs(p->eth, to);
	interface = to->interface;
	return interface == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(interface, 0);
}

static __always_inline int act(struct xdp_md *ctx, struct packet *p, struct route *r,
			       enum verdict *v)
{
	switch (*v) {
	case VERDICT_FORWARD_CONNECTION:
	case VERDICT_FORWARD_NEW:
	case VERDICT_FORWARD_ADOPTED:
	case VERDICT_FORWARD_UNTRACKED:
	case VERDICT_FORWARD_ONE_PACKET:
		return send(ctx, p, r, v);
	case VERDICT_REPLY_NO_SERVER:
		if (reply_allowed(r->now) &&
		    !reply_icmp(ctx, p, ICMP_UNREACHABLE, ICMP_PORT_UNREACHABLE))
			return XDP_TX;
		*v = VERDICT_DROP_NO_SERVER;
		return XDP_DROP;
	case VERDICT_DROP_STRAY:
	case VERDICT_DROP_REMOVED:
		return XDP_DROP;
	case VERDICT_CONTINUE:
	case VERDICT_ABORTED:
		return XDP_ABORTED;
	default:
		return XDP_PASS;
	}
}

SEC("xdp")
int director(struct xdp_md *ctx)
{
	struct packet p = {};
	struct route r = {};
	enum verdict v = direct(ctx, &p, &r);
	int action = act(ctx, &p, &r, &v);
	__u32 reason = v;
	__u64 *count = bpf_map_lookup_elem(&verdicts, &reason);

	if (count)
		(*count)++;
	return action;
}
