/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What becomes of the connections of a real server that failed, was drained or
 * removed, if they are not to go on. Either the daemon takes them out of the
 * tables (end_connections), or the server's record says that they end with their
 * next packet, which is answered by a RST. Only in that packet is what makes a RST
 * right: what the client expects next. The daemon has idle clients send one
 * (provoke.go).
 */
#pragma once

/*
 * A packet of a connection whose server has SERVER_RESETS; that server is
 * r->server. Whoever takes the entry out counts; also who comes second answers,
 * unless the connection is by now another one.
 */
static __always_inline enum verdict end_known(struct packet *p, struct route *r, __u32 way, const int wide)
{
	struct place at = {};
	struct server *to = server_at(r->server);
	int tries;

	if (!to || !connection_place(&at, r->hash, wide))
		return VERDICT_ABORTED;
	for (tries = 0; tries < 4; tries++) {
		void *entry = entry_at(&at, way, wide);
		__u64 w = *(volatile __u64 *)entry_word(entry, wide);

		if (!entry_is(entry, &p->key, w, wide))
			break;
		if (word_server(w) != r->server)
			return VERDICT_CONTINUE;
		if (connection_release(entry, way & (WAYS - 1), w, r->hash, wide))
			break;
	}
	/* What opens a connection does that. Of what cannot be answered by a RST the service says what becomes. */
	if (p->protocol != IPPROTO_TCP || p->fragment || (p->tcp_flags & (TCP_SYN | TCP_RST)) == TCP_SYN)
		return VERDICT_CONTINUE;
	if (p->tcp_flags & TCP_RST) /* the server may live, and want to know */
		return to->flags & SERVER_EXISTS ? VERDICT_FORWARD_CONNECTION : VERDICT_DROP_REMOVED;
	return VERDICT_REPLY_ENDED;
}

__attribute__((noinline)) int end_narrow(struct packet *p, struct route *r, __u32 way)
{
	return p && r ? end_known(p, r, way, 0) : VERDICT_ABORTED;
}

__attribute__((noinline)) int end_wide(struct packet *p, struct route *r, __u32 way)
{
	return p && r ? end_known(p, r, way, 1) : VERDICT_ABORTED;
}

/*
 * A frame cannot become two, so the client gets its RST from here, and the daemon has
 * the server get one, which may live: it was drained, perhaps. If the daemon does not
 * hear of it, the server finds out by itself.
 */
__attribute__((noinline)) int end_told(struct packet *p, struct route *r, __be32 seq)
{
	struct ended *to;

	if (!p || !r)
		return 0;
	to = bpf_ringbuf_reserve(&arrivals, sizeof(*to), 0);
	if (!to)
		return 0;
	__builtin_memset(to, 0, sizeof(*to));
	to->arrival.key.client[0] = p->key.client[0];
	to->arrival.key.client[1] = p->key.client[1];
	to->arrival.key.vip[0] = p->vip[0];
	to->arrival.key.vip[1] = p->vip[1];
	to->arrival.key.vip[2] = p->vip[2];
	to->arrival.key.vip[3] = p->vip[3];
	to->arrival.key.six = p->six;
	to->arrival.key.protocol = p->protocol;
	to->arrival.kind = ARRIVAL_ENDED;
	to->arrival.server = r->server;
	to->arrival.second = r->now;
	to->ports = p->key.ports;
	to->seq = seq;
	bpf_ringbuf_submit(to, 0);
	return 1;
}

static __always_inline void end_tell(struct frame *f, struct packet *p, struct route *r)
{
	struct server *of = server_at(r->server);
	__u32 header = p->header;
	struct tcphdr *tcp;

	if (!of || (of->flags & (SERVER_RESOLVED | SERVER_LOCAL)) != SERVER_RESOLVED || header > LONG_HEADERS)
		return;
	tcp = f->ip + header;
	if ((void *)(tcp + 1) <= f->end)
		end_told(p, r, tcp->seq);
}

struct ending_run {
	__u64 seed;
	__u32 server;
	__u32 listener;
	__u32 first;
	__u32 ended;
};

static __always_inline int end_entry(void *entry, struct ending_run *e, __u32 way, const int kind)
{
	const int wide = kind != NARROW;
	int tries;

	for (tries = 0; tries < 4; tries++) {
		__u64 w = *(volatile __u64 *)entry_word(entry, wide);
		struct key k = {};
		int released;

		if (!w || word_server(w) != e->server || (e->listener != ANY_LISTENER && word_service(w) != e->listener))
			return 0;
		if (kind == TEMPLATE) {
			released = template_release(entry, w);
		} else {
			entry_key(entry, w, &k, wide);
			released = connection_release(entry, way & (WAYS - 1), w, key_hash(&k, e->seed), wide);
		}
		if (released)
			return 1;
	}
	return 0;
}

/* Functions of their own: the verifier looks at each once. */
__attribute__((noinline)) int end_narrow_entry(struct connection *c, struct ending_run *e, __u32 way)
{
	return c && e ? end_entry(c, e, way, NARROW) : 0;
}

__attribute__((noinline)) int end_wide_entry(struct wide_connection *c, struct ending_run *e, __u32 way)
{
	return c && e ? end_entry(c, e, way, WIDE) : 0;
}

__attribute__((noinline)) int end_template(struct wide_connection *t, struct ending_run *e)
{
	return t && e ? end_entry(t, e, 0, TEMPLATE) : 0;
}

static long end_bucket(__u32 i, struct ending_run *e)
{
	struct bucket *b;
	__u32 w;

	i = (i + e->first) & bucket_mask;
	b = bpf_map_lookup_elem(&connections, &i);
	if (!b)
		return 1;
	for (w = 0; w < WAYS; w++)
		e->ended += end_narrow_entry(&b->way[w], e, w);
	return 0;
}

static long end_wide_bucket(__u32 i, struct ending_run *e)
{
	struct wide_bucket *b;
	__u32 w;

	i = (i + e->first) & wide_mask;
	b = bpf_map_lookup_elem(&wide_connections, &i);
	if (!b)
		return 1;
	for (w = 0; w < WAYS; w++)
		e->ended += end_wide_entry(&b->way[w], e, w);
	return 0;
}

static long end_template_bucket(__u32 i, struct ending_run *e)
{
	struct wide_bucket *b;
	__u32 w;

	i = (i + e->first) & template_mask;
	b = bpf_map_lookup_elem(&templates, &i);
	if (!b)
		return 1;
	for (w = 0; w < WAYS; w++)
		e->ended += end_template(&b->way[w], e);
	return 0;
}

/* Take a server's entries out of some buckets of a table. They count as neither expired nor unanswered. */
SEC("syscall")
int end_connections(struct ending *u)
{
	struct parameters *set = parameters();
	struct ending_run e = { .server = u->server, .listener = u->listener, .first = u->first };
	__u32 count = u->count;

	if (!set)
		return 1;
	e.seed = set->seed;
	switch (u->kind) {
	case NARROW:
		bpf_loop(count, end_bucket, &e, 0);
		break;
	case WIDE:
		bpf_loop(count, end_wide_bucket, &e, 0);
		break;
	case TEMPLATE:
		bpf_loop(count, end_template_bucket, &e, 0);
		break;
	default:
		return 1;
	}
	u->ended = e.ended;
	return 0;
}
