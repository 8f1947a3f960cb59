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
#include "vlan.h"
#include "context.h"
#include "sctp.h"
#include "parse.h"
#include "service.h"
#include "own.h"
#include "connection.h"
#include "persist.h"
#include "carry.h"
#include "route.h"
#include "fate.h"
#include "guard.h"
#include "allowance.h"
#include "fragment.h"
#include "schedule.h"
#include "locality.h"
#include "forward.h"
#include "related.h"
#include "reply.h"
#include "sweep.h"
#include "control.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* For bpf2go: an enum is exported only if something is declared with it. */
enum verdict unused_verdict __attribute__((unused));
enum scheduler unused_scheduler __attribute__((unused));
enum stray unused_stray __attribute__((unused));
enum state unused_state __attribute__((unused));
enum sctp_state unused_sctp_state __attribute__((unused));
enum timeouts unused_timeouts __attribute__((unused));
enum rank unused_rank __attribute__((unused));
enum word unused_word __attribute__((unused));
enum server_flags unused_server_flags __attribute__((unused));
enum service_flags unused_service_flags __attribute__((unused));
enum load_flags unused_load_flags __attribute__((unused));
enum grouping unused_grouping __attribute__((unused));
enum note unused_note __attribute__((unused));
enum arrival_kind unused_arrival_kind __attribute__((unused));
enum layout unused_layout __attribute__((unused));
enum kind unused_kind __attribute__((unused));
struct parked *unused_parked __attribute__((unused));
struct ended *unused_ended __attribute__((unused));

/*
 * A SYN on a known connection: is it to be scheduled anew (ip_vs_core.c,
 * ip_vs_in)? Yes if the connection's server is quiesced, and if the client has
 * ended it (conn_reuse_mode): direct routing leaves every connection that the
 * client closes in FIN_WAIT, hence the flag. One of a template keeps its server.
 * So is an INIT, on one that is CLOSED; in SCTP that is the only one of these states.
 */
static __always_inline int reopens(struct service *s, struct server *to, __u64 w, __u32 template)
{
	__u32 flags = s->flags, ended = 0;

	if (to && flags & SERVICE_LEAVES_REMOVED && to->flags & SERVER_QUIESCED)
		return 1;
	if (flags & (SERVICE_REOPENS | SERVICE_REOPENS_FIN_WAIT))
		ended = 1u << STATE_TIME_WAIT | 1u << STATE_CLOSE;
	if (flags & SERVICE_REOPENS_FIN_WAIT)
		ended |= 1u << STATE_FIN_WAIT;
	return !template && (1u << word_state(w)) & ended;
}

/* Known: the packet goes where the connection's others went. */
static __always_inline enum verdict known(struct packet *p, struct route *r, struct service *s,
					  struct parameters *set, struct place *at, void *c,
					  const int wide)
{
	__u32 template;
	struct server *to;
	__u64 w;

	if (!c)
		return VERDICT_CONTINUE;
	w = *(volatile __u64 *)entry_word(c, wide);
	if (!w || word_service(w) != p->key.service)
		return VERDICT_CONTINUE;
	template = wide ? ((struct wide_connection *)c)->template : 0;
	to = server_at(word_server(w));
	if (word_expired(w, r->now) || (p->tcp_flags & TCP_SYN && reopens(s, to, w, template))) {
		if (connection_release(c, way_of(at, c, wide), w, r->hash, wide))
			young_left(w);
		return VERDICT_CONTINUE;
	}
	if (unlikely(set->moving) && state_ended(word_state(w)) && may_be_moving(p, set, r->now))
		return VERDICT_DROP_MOVING;
	if (!to || (to->flags & (SERVER_EXISTS | SERVER_RESETS)) != SERVER_EXISTS) {
		if (to && to->flags & SERVER_RESETS) {
			r->server = word_server(w);
			return wide ? end_wide(p, r, way_of(at, c, wide)) : end_narrow(p, r, way_of(at, c, wide));
		}
		if (!(s->flags & SERVICE_LEAVES_REMOVED))
			return VERDICT_DROP_REMOVED;
		connection_release(c, way_of(at, c, wide), w, r->hash, wide);
		return VERDICT_CONTINUE;
	}
	if (connection_touch(p, s, entry_word(c, wide), w, set, r->now) && template)
		template_assure(template);
	r->server = word_server(w);
	return VERDICT_FORWARD_CONNECTION;
}

/* Remember the choice in r->server; where there is no room the hash decides. */
static __always_inline enum verdict remember(struct packet *p, struct route *r, struct service *s,
					     struct parameters *set, struct place *at, __u32 template,
					     const int wide)
{
	__u32 state = state_after(p, s, STATE_NONE);
	enum rank rank = is_stray(p) ? RANK_ADOPTED : RANK_EMBRYONIC;
	__u64 word = word_make(p->key.service, r->server, rank, state & 0xf, r->now + timeout_of(set, state));
	__u32 claimed = 0;
	__u64 standing = connection_insert(at, &p->key, word, template, r->now,
					   set->seed, &claimed, wide);

	if (standing) {
		if (wide && template && claimed && word_state(word) == STATE_ESTABLISHED)
			template_assure(template);
		r->server = word_server(standing);
		if (!claimed)
			return VERDICT_FORWARD_CONNECTION;
		if (rank != RANK_ADOPTED)
			return VERDICT_FORWARD_NEW;
		if (p->protocol == IPPROTO_TCP)
			young_adopted(r->server);
		return VERDICT_FORWARD_ADOPTED;
	}
	if (!template)
		r->server = schedule_by_hash(s, r->hash);
	return r->server == NO_SERVER ? VERDICT_REPLY_NO_SERVER : VERDICT_FORWARD_UNTRACKED;
}

/* Schedulers by what they need of the stack: all together it is more than there is. */
enum family { LEAST, LOCALITY, OTHER };

static __always_inline enum family family_of(struct service *s)
{
	switch (s->scheduler) {
	case SCHEDULER_LC:
	case SCHEDULER_WLC:
	case SCHEDULER_SED:
	case SCHEDULER_NQ:
	case SCHEDULER_FO:
	case SCHEDULER_OVF:
		return LEAST;
	case SCHEDULER_LBLC:
	case SCHEDULER_LBLCR:
		return LOCALITY;
	}
	return OTHER;
}

static __always_inline __u32 schedule(struct service *s, struct packet *p, __u32 now, const enum family family)
{
	if (family == LEAST)
		return schedule_least(s);
	if (family == LOCALITY)
		return schedule_locality(s, p, now);
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
	}
	return NO_SERVER;
}

/* The hash of all that has to go to one server: a connection, or a template's. */
static __always_inline __u64 common_hash(struct packet *p, struct route *r, struct service *s, __u64 seed)
{
	struct scratch *x = scratch_here();

	if (!(s->flags & SERVICE_PERSISTENT) || !x)
		return r->hash;
	template_key(p, s, &x->template);
	return key_hash(&x->template, seed);
}

/* Schedule what opens a connection; what belongs to one goes by the hash. */
static __always_inline __u32 choose(struct packet *p, struct route *r, struct service *s, const enum family family)
{
	struct parameters *set;

	if (is_stray(p))
		return schedule_by_hash(s, r->hash);
	if (client_port(p) == htons(FTP_DATA))
		return NO_SERVER; /* ip_vs_schedule: a real server's own active FTP */
	set = parameters();
	if (set && chosen_by_hash(set, r->now) && !s->table_size) /* sh, dh and mh choose alike anyway */
		return schedule_by_hash(s, common_hash(p, r, s, set->seed));
	return schedule(s, p, r->now, family);
}

static __always_inline enum verdict stray_refused(struct packet *p, struct service *s)
{
	if (s->stray == STRAY_ADOPT || !is_stray(p))
		return VERDICT_CONTINUE;
	if (s->stray == STRAY_PASS)
		return VERDICT_PASS_STRAY;
	/*
	 * RFC 9293, 3.10.7.1: a RST is not answered. Nor is a fragment: it does not
	 * tell the datagram's length. SCTP has no such reset.
	 */
	if (s->stray == STRAY_RESET && p->protocol == IPPROTO_TCP && !(p->tcp_flags & TCP_RST) && !p->fragment)
		return VERDICT_REPLY_RESET;
	return VERDICT_DROP_STRAY;
}

/*
 * Unknown: functions of their own, which the verifier looks at apart; so they
 * look up again what they need. They are several because one would need more
 * stack than there is. CONTINUE: the next one. Packets of known connections
 * never come here.
 */

/* There is a server: is that all? */
static __always_inline enum verdict chosen(struct packet *p, struct service *s)
{
	if (p->tcp_flags & TCP_RST)
		return VERDICT_FORWARD_UNTRACKED; /* it ends what we do not know: nothing to remember */
	if (p->protocol == IPPROTO_UDP && s->flags & SERVICE_ONE_PACKET)
		return VERDICT_FORWARD_ONE_PACKET;
	return VERDICT_CONTINUE;
}

static __always_inline enum verdict choose_in(struct packet *p, struct route *r, const enum family family)
{
	struct service *s;
	enum verdict v;

	if (!p || !r)
		return VERDICT_ABORTED;
	s = bpf_map_lookup_elem(&services, &r->slot);
	if (!s)
		return VERDICT_ABORTED;
	v = stray_refused(p, s);
	if (v != VERDICT_CONTINUE)
		return v;
	r->server = choose(p, r, s, family);
	if (r->server == NO_SERVER)
		return VERDICT_REPLY_NO_SERVER;
	return s->flags & SERVICE_PERSISTENT ? VERDICT_CONTINUE : chosen(p, s);
}

__attribute__((noinline)) int choose_least(struct packet *p, struct route *r)
{
	return choose_in(p, r, LEAST);
}

__attribute__((noinline)) int choose_by_locality(struct packet *p, struct route *r)
{
	return choose_in(p, r, LOCALITY);
}

__attribute__((noinline)) int choose_otherwise(struct packet *p, struct route *r)
{
	return choose_in(p, r, OTHER);
}

static __always_inline enum verdict unknown(struct packet *p, struct route *r, struct service *s)
{
	enum family family = family_of(s);

	if (likely(family == LEAST))
		return choose_least(p, r);
	return family == LOCALITY ? choose_by_locality(p, r) : choose_otherwise(p, r);
}

/* The connection that is to be remembered has that template, and keeps it alive. */
static __always_inline void hold(struct route *r, struct place *at, struct wide_connection *t)
{
	r->template = template_name(at, t);
	if (!template_hold(r->template))
		r->template = 0;
}

/* The server of the client's template, if it has one. */
__attribute__((noinline)) int follow_template(struct packet *p, struct route *r)
{
	struct parameters *set = parameters();
	struct scratch *x = scratch_here();
	struct wide_connection *t;
	struct place at = {};
	struct service *s;
	enum verdict v;

	if (!p || !r || !set || !x)
		return VERDICT_ABORTED;
	s = bpf_map_lookup_elem(&services, &r->slot);
	if (!s || !template_place(p, s, set->seed, &x->template, &at))
		return VERDICT_ABORTED;
	v = stray_refused(p, s);
	if (v != VERDICT_CONTINUE)
		return v;
	t = template_find(&at, &x->template, s, r->now, &r->server);
	if (!t)
		return VERDICT_CONTINUE;
	if (!(p->tcp_flags & TCP_RST)) {
		template_renew(t, s, r->now);
		if (!(s->flags & SERVICE_ONE_PACKET))
			hold(r, &at, t);
	}
	return chosen(p, s);
}

/* A template for the server that was chosen. */
__attribute__((noinline)) int stick(struct packet *p, struct route *r)
{
	struct parameters *set = parameters();
	struct scratch *x = scratch_here();
	struct wide_connection *t;
	struct place at = {};
	struct service *s;

	if (!p || !r || !set || !x)
		return VERDICT_ABORTED;
	s = bpf_map_lookup_elem(&services, &r->slot);
	if (!s || !template_place(p, s, set->seed, &x->template, &at))
		return VERDICT_ABORTED;
	if (!(p->tcp_flags & TCP_RST)) {
		t = template_insert(&at, &x->template, s, &r->server, r->now);
		if (t && !(s->flags & SERVICE_ONE_PACKET))
			hold(r, &at, t);
	}
	return chosen(p, s);
}

static __always_inline enum verdict remember_in(struct packet *p, struct route *r, const int wide)
{
	struct parameters *set = parameters();
	struct place at = {};
	struct service *s;

	if (!set)
		return VERDICT_ABORTED;
	s = bpf_map_lookup_elem(&services, &r->slot);
	if (!s || !connection_place(&at, r->hash, wide))
		return VERDICT_ABORTED;
	return remember(p, r, s, set, &at, wide ? r->template : 0, wide);
}

__attribute__((noinline)) int remember_narrow(struct packet *p, struct route *r)
{
	return p && r ? remember_in(p, r, 0) : VERDICT_ABORTED;
}

__attribute__((noinline)) int remember_wide(struct packet *p, struct route *r)
{
	return p && r ? remember_in(p, r, 1) : VERDICT_ABORTED;
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
	return known(p, r, s, set, &at, entry_find(&at, &p->key, 1), 1);
}

/* A connection of IPv4 that is not in its own line; apart, as it is rare. */
__attribute__((noinline)) int known_spilled(struct packet *p, struct route *r)
{
	struct parameters *set = parameters();
	struct place at = {};
	struct service *s;

	if (!p || !r || !set)
		return VERDICT_ABORTED;
	s = bpf_map_lookup_elem(&services, &r->slot);
	if (!s || !connection_place(&at, r->hash, 0))
		return VERDICT_ABORTED;
	return known(p, r, s, set, &at, entry_among(&at, &p->key, LINE, WAYS, 0), 0);
}

/* The server of a connection that is only asked about, not used. */
static __always_inline __u32 owner(struct packet *p, struct route *r, const int wide)
{
	struct place at = {};
	void *c;
	__u64 w;

	if (!connection_place(&at, r->hash, wide))
		return NO_SERVER;
	c = entry_find(&at, &p->key, wide);
	if (!c)
		return NO_SERVER;
	w = *(volatile __u64 *)entry_word(c, wide);
	if (!w || word_service(w) != p->key.service || word_expired(w, r->now))
		return NO_SERVER;
	return word_server(w);
}

/*
 * An ICMP error goes to the server whose packet it is about (ip_vs_core.c,
 * ip_vs_in_icmp): it alone can make its packets smaller, or stop sending. One
 * that is about a connection in no table goes to all: see related.h.
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
		r->server = owner(p, r, 0);
	if (r->server == NO_SERVER && s->flags & (SERVICE_WIDE | SERVICE_MOVED))
		r->server = owner(p, r, 1);
	to = server_at(r->server);
	if (to && to->flags & SERVER_EXISTS)
		return VERDICT_FORWARD_RELATED;
	r->server = related_first(s, r->hash);
	return r->server == NO_SERVER ? VERDICT_PASS_PROTOCOL : VERDICT_FORWARD_RELATED_TO_ALL;
}

static __always_inline enum verdict to_all(struct context *ctx, struct route *r)
{
	if (ctx->tc)
		return related_to_all_skb(ctx->skb, r->slot, r->server, r->now);
	return related_to_all(ctx->xdp, r->slot, r->server, r->now);
}

static __always_inline enum verdict known_narrow(struct packet *p, struct route *r,
						 struct service *s, struct parameters *set)
{
	struct place at = {};
	enum verdict v;

	if (!connection_place(&at, r->hash, 0))
		return VERDICT_ABORTED;
	v = known(p, r, s, set, &at, entry_among(&at, &p->key, 0, LINE, 0), 0);
	if (v != VERDICT_CONTINUE || likely(!spilled(spill_word(at.index, at.line, 0), at.line)))
		return v;
	return known_spilled(p, r);
}

/* What belongs to no connection that is known, and may begin one. */
static __always_inline enum verdict begin(struct packet *p, struct route *r, struct service *s, __u32 flags)
{
	enum verdict v = VERDICT_CONTINUE;

	r->server = NO_SERVER;
	r->template = 0;
	if (unlikely(flags & SERVICE_PERSISTENT))
		v = follow_template(p, r);
	if (v == VERDICT_CONTINUE && r->server == NO_SERVER) {
		v = unknown(p, r, s);
		if (v == VERDICT_CONTINUE && unlikely(flags & SERVICE_PERSISTENT))
			v = stick(p, r);
	}
	if (v != VERDICT_CONTINUE)
		return v;
	return flags & SERVICE_WIDE ? remember_wide(p, r) : remember_narrow(p, r);
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
	if (unlikely(flags & SERVICE_LIMITS_SOURCES) && source_used_up(p, r))
		return VERDICT_DROP_SOURCE_LIMIT;
	v = begin(p, r, s, flags);
	if (unlikely(flags & SERVICE_LIMITS_SOURCES))
		source_charge(p, r, v);
	return v;
}

static __always_inline enum verdict direct(struct context *ctx, struct frame *f, struct packet *p,
					   struct route *r)
{
	struct parameters *set = parameters();
	struct found found = {};
	struct service *s;
	enum verdict v;

	v = parse_ip(ctx, f, p);
	if (v != VERDICT_CONTINUE)
		return v;
	if (!set)
		return VERDICT_ABORTED;
	s = service_find(p, set, &found);
	if (!s)
		return VERDICT_PASS_NOT_SERVED;
	if (!for_this_host(f, set, arrived_by(ctx)))
		return VERDICT_PASS_NOT_HOST;
	if (ctx->tc && unlikely(arrived_by(ctx) == LOOPBACK) && !p->related && own_source(p))
		return VERDICT_PASS_OWN_SOURCE;

	if (unlikely(s->flags & SERVICE_DENIES) && !p->related && denied_client(p, s->denied))
		return VERDICT_DROP_DENIED;

	r->slot = found.slot;
	r->now = clock_seconds(set);
	p->key.service = found.id;
	r->hash = key_hash(&p->key, set->seed);
	if (unlikely(p->related)) {
		if (s->flags & SERVICE_DENIES && denied_sender(f, p, s->denied))
			return VERDICT_DROP_DENIED;
		v = related(p, r);
		return v == VERDICT_FORWARD_RELATED_TO_ALL ? to_all(ctx, r) : v;
	}
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
			fragment_note(p, p->key.service, r->server, v, r->now);
		return v;
	}
	if (!for_this_host(f, set, arrived_by(ctx)))
		return VERDICT_PASS_NOT_HOST;
	v = fragment_follow(p, &r->server, r->now);
	if (v != VERDICT_CONTINUE)
		return v;
	if (ctx->tc)
		return fragment_park_skb(ctx->skb, p, &r->server, r->now, f->tag);
	return fragment_park(ctx->xdp, p, &r->server, r->now, f->tag);
}

/* Carry out a verdict: the last step. It may change for want of a MAC or of hops. */
static __always_inline int send(struct context *ctx, struct frame *f, struct packet *p, struct route *r,
				enum verdict *v)
{
	struct server *to = server_at(r->server);
	__u32 vlan;

	if (!to) {
		*v = VERDICT_ABORTED;
		return abort(ctx);
	}
	count_server(r->server, f, *v == VERDICT_FORWARD_NEW || *v == VERDICT_FORWARD_ADOPTED ||
				   *v == VERDICT_FORWARD_ONE_PACKET);
	if (unlikely(to->flags & SERVER_LOCAL)) { /* ip_vs_xmit.c: no hop, so no TTL, MTU or MAC */
		*v = VERDICT_FORWARD_LOCAL;
		return pass(ctx, f);
	}
	if (*ttl_of(f, p) <= 1) {
		*v = VERDICT_DROP_TTL;
		if (!reply_allowed(p, r->now) || reply_ttl(ctx, f, p))
			return drop(ctx);
		*v = VERDICT_REPLY_TTL;
		return send_back(ctx, f);
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
		return send_back(ctx, f);
	}
	decrement_ttl(ctx, f, p);
	vlan = set_macs(f->eth, to);
	if (unlikely(vlan | f->tag) && frame_vlan(ctx, f, vlan)) {
		*v = VERDICT_ABORTED;
		return abort(ctx);
	}
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
	case VERDICT_FORWARD_RELATED_TO_ALL:
	case VERDICT_FORWARD_RELATED_ONLY:
	case VERDICT_FORWARD_RELATED_BY_HASH:
	case VERDICT_FORWARD_RELATED_UNHEARD:
	case VERDICT_FORWARD_FRAGMENT:
		return send(ctx, f, p, r, v);
	case VERDICT_REPLY_NO_SERVER:
		if (reply_allowed(p, r->now) && !reply_no_server(ctx, f, p))
			return send_back(ctx, f);
		*v = VERDICT_DROP_NO_SERVER;
		return drop(ctx);
	case VERDICT_REPLY_ENDED:
		end_tell(f, p, r);
	case VERDICT_REPLY_RESET:
		if (!reply_reset(ctx, f, p))
			return send_back(ctx, f);
		*v = VERDICT_DROP_STRAY;
		return drop(ctx);
	case VERDICT_DROP_STRAY:
	case VERDICT_DROP_MOVING:
	case VERDICT_DROP_REMOVED:
	case VERDICT_DROP_DENIED:
	case VERDICT_DROP_SOURCE_LIMIT:
	case VERDICT_DROP_FRAGMENT:
	case VERDICT_DROP_PARKED:
	case VERDICT_DROP_PARK_FULL:
		return drop(ctx);
	case VERDICT_CONTINUE:
	case VERDICT_ABORTED:
		return abort(ctx);
	default:
		return pass(ctx, f);
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

static __always_inline int take_ip(struct context *ctx, struct frame *f, enum verdict *v)
{
	struct packet p = {};
	struct route r = {};

	*v = direct(ctx, f, &p, &r);
	if (unlikely(p.fragment))
		*v = in_pieces(ctx, f, &p, &r, *v);
	return act(ctx, f, &p, &r, v);
}

static __always_inline int take(struct context *ctx)
{
	struct frame f = {};
	enum verdict v;
	__u64 *count;
	__u32 reason;
	int action;

	frame_open(ctx, &f);
	v = parse_ethernet(&f);
	action = likely(v == VERDICT_CONTINUE) ? take_ip(ctx, &f, &v) : pass(ctx, &f);
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
