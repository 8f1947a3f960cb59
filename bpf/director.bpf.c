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
#include "context.h"
#include "parse.h"
#include "service.h"
#include "connection.h"
#include "persist.h"
#include "carry.h"
#include "allowance.h"
#include "fragment.h"
#include "schedule.h"
#include "locality.h"
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
enum note unused_note __attribute__((unused));
enum layout unused_layout __attribute__((unused));
enum kind unused_kind __attribute__((unused));
struct parked *unused_parked __attribute__((unused));

/* What one packet's way through the steps has found out. */
struct route {
	struct key key;
	__u64 hash;
	__u32 now;
	__u32 slot; /* of its service */
	__u32 server;
};

static __always_inline struct server *server_at(__u32 id)
{
	return bpf_map_lookup_elem(&servers, &id);
}

static __always_inline struct parameters *parameters(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
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
	return p->protocol == IPPROTO_TCP && p->tcp_flags & TCP_SYN &&
	       (1u << word_state(w)) & ended;
}

/* Known: the packet goes where the connection's others went. */
static __always_inline enum verdict known(struct packet *p, struct route *r, struct service *s,
					  struct parameters *set, struct place *at, const int wide)
{
	void *c = entry_find(at, &r->key, wide);
	__u32 template;
	struct server *to;
	__u64 w;

	if (!c)
		return VERDICT_CONTINUE;
	w = *(volatile __u64 *)entry_word(c, wide);
	if (!w || word_service(w) != r->key.service)
		return VERDICT_CONTINUE;
	template = wide ? ((struct wide_connection *)c)->template : 0;
	if (word_expired(w, r->now) || (!template && reopens(p, s, w))) {
		connection_release(c, w, wide);
		return VERDICT_CONTINUE;
	}
	if (unlikely(set->moving) && state_ended(word_state(w)) && may_be_moving(p, set, r->now))
		return VERDICT_DROP_MOVING;
	to = server_at(word_server(w));
	if (!to || !(to->flags & SERVER_EXISTS)) {
		if (!(s->flags & SERVICE_LEAVES_REMOVED))
			return VERDICT_DROP_REMOVED;
		connection_release(c, w, wide);
		return VERDICT_CONTINUE;
	}
	if (connection_touch(p, entry_word(c, wide), w, set, r->now) && template)
		template_assure(template);
	r->server = word_server(w);
	return VERDICT_FORWARD_CONNECTION;
}

/* Remember the choice in r->server; where there is no room the hash decides. */
static __always_inline enum verdict remember(struct packet *p, struct route *r, struct service *s,
					     struct parameters *set, struct place *at, __u32 template,
					     const int wide)
{
	enum state state = state_after(p, STATE_NONE);
	enum rank rank = is_stray(p) ? RANK_ADOPTED : RANK_EMBRYONIC;
	__u64 word = word_make(r->key.service, r->server, rank, state, r->now + set->timeouts[state & 0xf]);
	__u32 claimed = 0;
	__u64 standing = connection_insert(at, &r->key, word, template, r->now, &claimed, wide);

	if (standing) {
		if (wide && template && claimed && state == STATE_ESTABLISHED)
			template_assure(template);
		r->server = word_server(standing);
		if (!claimed)
			return VERDICT_FORWARD_CONNECTION;
		return rank == RANK_ADOPTED ? VERDICT_FORWARD_ADOPTED : VERDICT_FORWARD_NEW;
	}
	if (!template)
		r->server = schedule_by_hash(s, r->hash);
	return r->server == NO_SERVER ? VERDICT_REPLY_NO_SERVER : VERDICT_FORWARD_UNTRACKED;
}

static __always_inline __u32 schedule(struct service *s, struct packet *p, __u32 now)
{
	switch (s->scheduler) {
	case SCHEDULER_RR:
	case SCHEDULER_WRR:
		return schedule_turn(s);
	case SCHEDULER_SH:
	case SCHEDULER_DH:
	case SCHEDULER_MH:
		return schedule_table(s, p);
	case SCHEDULER_TWOS:
		return schedule_two(s);
	case SCHEDULER_LBLC:
	case SCHEDULER_LBLCR:
		return schedule_locality(s, p, now);
	case SCHEDULER_NONE:
		return NO_SERVER;
	}
	return schedule_least(s);
}

/* Schedule what opens a connection; what belongs to one goes by the hash. */
static __always_inline __u32 choose(struct packet *p, struct route *r, struct service *s)
{
	if (is_stray(p))
		return schedule_by_hash(s, r->hash);
	if (client_port(p) == htons(FTP_DATA))
		return NO_SERVER; /* ip_vs_schedule: a real server's own active FTP */
	return schedule(s, p, r->now);
}

static __always_inline enum verdict stray_refused(struct packet *p, struct service *s)
{
	if (s->stray == STRAY_ADOPT || !is_stray(p))
		return VERDICT_CONTINUE;
	return s->stray == STRAY_PASS ? VERDICT_PASS_STRAY : VERDICT_DROP_STRAY;
}

/*
 * Unknown: a function of its own, which the verifier looks at apart; so it looks
 * up again what it needs. Packets of known connections never come here.
 */
__attribute__((noinline)) int unknown(struct packet *p, struct route *r)
{
	struct parameters *set = parameters();
	struct place at = {};
	struct service *s;
	enum verdict v;

	if (!p || !r || !set)
		return VERDICT_ABORTED;
	s = bpf_map_lookup_elem(&services, &r->slot);
	if (!s || !connection_place(&at, r->hash, 0))
		return VERDICT_ABORTED;
	v = stray_refused(p, s);
	if (v != VERDICT_CONTINUE)
		return v;
	r->server = choose(p, r, s);
	if (r->server == NO_SERVER)
		return VERDICT_REPLY_NO_SERVER;
	if (p->tcp_flags & TCP_RST)
		return VERDICT_FORWARD_UNTRACKED; /* it ends what we do not know: nothing to remember */
	if (p->protocol == IPPROTO_UDP && s->flags & SERVICE_ONE_PACKET)
		return VERDICT_FORWARD_ONE_PACKET;
	return remember(p, r, s, set, &at, 0, 0);
}

/*
 * The same for a service whose connections are in the wide table. *template is
 * held for the connection that is to be remembered.
 */
static __always_inline enum verdict stick(struct packet *p, struct route *r, struct service *s,
					  struct parameters *set, __u32 *template)
{
	struct wide_connection *t;
	struct scratch *x = scratch_here();
	struct place at = {};

	if (!x || !template_place(p, s, set->seed, &x->template, &at))
		return VERDICT_ABORTED;
	t = template_find(&at, &x->template, s, r->now, &r->server);
	if (!t)
		r->server = choose(p, r, s);
	if (r->server == NO_SERVER)
		return VERDICT_REPLY_NO_SERVER;
	if (p->tcp_flags & TCP_RST)
		return VERDICT_FORWARD_UNTRACKED;
	if (t)
		template_renew(t, s, r->now);
	else
		t = template_insert(&at, &x->template, s, &r->server, r->now);
	if (!t || s->flags & SERVICE_ONE_PACKET)
		return VERDICT_CONTINUE;
	*template = template_name(&at, t);
	if (!template_hold(*template))
		*template = 0;
	return VERDICT_CONTINUE;
}

__attribute__((noinline)) int unknown_wide(struct packet *p, struct route *r)
{
	struct parameters *set = parameters();
	struct place at = {};
	__u32 template = 0;
	struct service *s;
	enum verdict v;

	if (!p || !r || !set)
		return VERDICT_ABORTED;
	s = bpf_map_lookup_elem(&services, &r->slot);
	if (!s || !connection_place(&at, r->hash, 1))
		return VERDICT_ABORTED;
	v = stray_refused(p, s);
	if (v != VERDICT_CONTINUE)
		return v;
	if (s->flags & SERVICE_PERSISTENT) {
		v = stick(p, r, s, set, &template);
		if (v != VERDICT_CONTINUE)
			return v;
	} else {
		r->server = choose(p, r, s);
		if (r->server == NO_SERVER)
			return VERDICT_REPLY_NO_SERVER;
		if (p->tcp_flags & TCP_RST)
			return VERDICT_FORWARD_UNTRACKED;
	}
	if (p->protocol == IPPROTO_UDP && s->flags & SERVICE_ONE_PACKET)
		return VERDICT_FORWARD_ONE_PACKET;
	return remember(p, r, s, set, &at, template, 1);
}

__attribute__((noinline)) int known_wide(struct packet *p, struct route *r)
{
	struct parameters *set = parameters();
	struct place at = {};
	struct service *s;

	if (!p || !r || !set)
		return VERDICT_ABORTED;
	s = bpf_map_lookup_elem(&services, &r->slot);
	if (!s || !connection_place(&at, r->hash, 1))
		return VERDICT_ABORTED;
	return known(p, r, s, set, &at, 1);
}

/* The server of a connection that is only asked about, not used. */
static __always_inline __u32 owner(struct route *r, const int wide)
{
	struct place at = {};
	void *c;
	__u64 w;

	if (!connection_place(&at, r->hash, wide))
		return NO_SERVER;
	c = entry_find(&at, &r->key, wide);
	if (!c)
		return NO_SERVER;
	w = *(volatile __u64 *)entry_word(c, wide);
	if (!w || word_service(w) != r->key.service || word_expired(w, r->now))
		return NO_SERVER;
	return word_server(w);
}

/*
 * An ICMP error goes to the server whose packet it is about (ip_vs_core.c,
 * ip_vs_in_icmp): it alone can make its packets smaller, or stop sending. One
 * that is about a connection in no table goes where the hash sends such.
 */
__attribute__((noinline)) int related(struct packet *p, struct route *r)
{
	struct server *to;
	struct service *s;

	if (!p || !r)
		return VERDICT_ABORTED;
	s = bpf_map_lookup_elem(&services, &r->slot);
	if (!s)
		return VERDICT_ABORTED;
	r->server = NO_SERVER;
	if (!(s->flags & SERVICE_WIDE) || s->flags & SERVICE_MOVED)
		r->server = owner(r, 0);
	if (r->server == NO_SERVER && s->flags & (SERVICE_WIDE | SERVICE_MOVED))
		r->server = owner(r, 1);
	to = server_at(r->server);
	if (to && to->flags & SERVER_EXISTS)
		return VERDICT_FORWARD_RELATED;
	r->server = schedule_by_hash(s, r->hash);
	return r->server == NO_SERVER ? VERDICT_PASS_PROTOCOL : VERDICT_FORWARD_RELATED_BY_HASH;
}

static __always_inline enum verdict known_narrow(struct packet *p, struct route *r,
						 struct service *s, struct parameters *set)
{
	struct place at = {};

	if (!connection_place(&at, r->hash, 0))
		return VERDICT_ABORTED;
	return known(p, r, s, set, &at, 0);
}

static __always_inline enum verdict track(struct packet *p, struct route *r, struct service *s,
					  struct parameters *set)
{
	__u32 flags = s->flags;
	enum verdict v = VERDICT_CONTINUE;

	if (likely(!(flags & SERVICE_WIDE)) || flags & SERVICE_MOVED)
		v = known_narrow(p, r, s, set);
	if (v == VERDICT_CONTINUE && flags & (SERVICE_WIDE | SERVICE_MOVED))
		v = known_wide(p, r);
	if (v != VERDICT_CONTINUE)
		return v;
	if (unlikely(set->moving) && may_be_moving(p, set, r->now))
		return VERDICT_DROP_MOVING;
	return flags & SERVICE_WIDE ? unknown_wide(p, r) : unknown(p, r);
}

static __always_inline enum verdict direct(struct context *ctx, struct frame *f, struct packet *p,
					   struct route *r)
{
	struct parameters *set = parameters();
	struct found found = {};
	struct service *s;
	enum verdict v;

	frame_open(ctx, f);
	v = parse(f, p);
	if (v != VERDICT_CONTINUE)
		return v;
	if (!set)
		return VERDICT_ABORTED;
	s = service_find(p, set, &found);
	if (!s)
		return VERDICT_PASS_NOT_SERVED;
	if (!for_this_host(f, set, arrived_by(ctx)))
		return VERDICT_PASS_NOT_HOST;

	r->slot = found.slot;
	r->now = clock_seconds(set);
	r->key.client[0] = p->client[0];
	r->key.client[1] = p->client[1];
	r->key.ports = p->ports;
	r->key.service = found.id;
	r->hash = connection_hash(p, found.id, set->seed);
	if (unlikely(p->related))
		return related(p, r);
	return track(p, r, s, set);
}

/*
 * A fragment: the first is noted by what direct has made of it, the others go
 * by that note.
 */
static __always_inline enum verdict in_pieces(struct context *ctx, struct frame *f, struct packet *p,
					      struct route *r, enum verdict v)
{
	struct parameters *set = parameters();

	if (!set || !vip_served(p))
		return v;
	r->now = clock_seconds(set);
	if (p->fragment == FRAGMENT_FIRST) {
		if (v != VERDICT_PASS_NOT_HOST)
			fragment_note(p, r->key.service, r->server, v, r->now);
		return v;
	}
	if (!for_this_host(f, set, arrived_by(ctx)))
		return VERDICT_PASS_NOT_HOST;
	v = fragment_follow(p, &r->server, r->now);
	if (v != VERDICT_CONTINUE)
		return v;
	if (ctx->tc)
		return fragment_park_skb(ctx->skb, p, &r->server, r->now);
	return fragment_park(ctx->xdp, p, &r->server, r->now);
}

/* Carry out a verdict: the last step. It may change for want of a MAC or of hops. */
static __always_inline int send(struct context *ctx, struct frame *f, struct packet *p, struct route *r,
				enum verdict *v)
{
	struct server *to = server_at(r->server);

	if (!to) {
		*v = VERDICT_ABORTED;
		return abort(ctx);
	}
	count_server(r->server, f, *v == VERDICT_FORWARD_NEW || *v == VERDICT_FORWARD_ADOPTED ||
				   *v == VERDICT_FORWARD_ONE_PACKET);
	if (*ttl_of(f, p) <= 1) {
		*v = VERDICT_DROP_TTL;
		if (!reply_allowed(p, r->now) || reply_ttl(ctx, f, p))
			return drop(ctx);
		*v = VERDICT_REPLY_TTL;
		return send_back(ctx);
	}
	if (!(to->flags & SERVER_RESOLVED)) {
		*v = VERDICT_DROP_UNRESOLVED;
		return drop(ctx);
	}
	if (unlikely(to->mtu && f->longest > to->mtu)) {
		*v = VERDICT_DROP_TOO_BIG;
		if (!reply_allowed(p, r->now) || reply_too_big(ctx, f, p, to->mtu))
			return drop(ctx);
		*v = VERDICT_REPLY_TOO_BIG;
		return send_back(ctx);
	}
	decrement_ttl(ctx, f, p);
	set_macs(f->eth, to);
	return send_by(ctx, to->interface);
}

static __always_inline int act(struct context *ctx, struct frame *f, struct packet *p, struct route *r,
			       enum verdict *v)
{
	switch (*v) {
	case VERDICT_FORWARD_CONNECTION:
	case VERDICT_FORWARD_NEW:
	case VERDICT_FORWARD_ADOPTED:
	case VERDICT_FORWARD_UNTRACKED:
	case VERDICT_FORWARD_ONE_PACKET:
	case VERDICT_FORWARD_RELATED:
	case VERDICT_FORWARD_RELATED_BY_HASH:
	case VERDICT_FORWARD_FRAGMENT:
		return send(ctx, f, p, r, v);
	case VERDICT_REPLY_NO_SERVER:
		if (reply_allowed(p, r->now) && !reply_no_server(ctx, f, p))
			return send_back(ctx);
		*v = VERDICT_DROP_NO_SERVER;
		return drop(ctx);
	case VERDICT_DROP_STRAY:
	case VERDICT_DROP_MOVING:
	case VERDICT_DROP_REMOVED:
	case VERDICT_DROP_FRAGMENT:
	case VERDICT_DROP_PARKED:
	case VERDICT_DROP_PARK_FULL:
		return drop(ctx);
	case VERDICT_CONTINUE:
	case VERDICT_ABORTED:
		return abort(ctx);
	default:
		return pass(ctx);
	}
}

/*
 * By what the daemon puts a parked frame back where it came in, where the
 * director is not a native XDP program: that is still to come then.
 */
SEC("xdp")
int enter(struct xdp_md *ctx)
{
	return XDP_PASS;
}

static __always_inline int take(struct context *ctx)
{
	struct frame f = {};
	struct packet p = {};
	struct route r = {};
	enum verdict v = direct(ctx, &f, &p, &r);
	__u64 *count;
	__u32 reason;
	int action;

	if (unlikely(p.fragment))
		v = in_pieces(ctx, &f, &p, &r, v);
	action = act(ctx, &f, &p, &r, &v);
	reason = v;
	count = bpf_map_lookup_elem(&verdicts, &reason);
	if (count)
		*count += f.segments;
	return action;
}

SEC("xdp")
int director(struct xdp_md *xdp)
{
	struct context ctx = { .xdp = xdp };

	return take(&ctx);
}

SEC("tc")
int director_tc(struct __sk_buff *skb)
{
	struct context ctx = { .skb = skb, .tc = 1 };

	return take(&ctx);
}
