/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Step 2: is it for a virtual service, and is the frame for this host? */
#pragma once

/* What a lookup finds. */
struct found {
	__u32 slot; /* of the service */
	__u32 id;   /* of the listener */
};

static __always_inline int listening_at4(struct listener *to, struct found *f)
{
	struct listening *l = bpf_map_lookup_elem(&listeners, to);

	if (!l)
		return 0;
	if (unlikely(*(__u64 *)&l->listener != *(__u64 *)to)) { /* replaced: the new one is there */
		l = bpf_map_lookup_elem(&listeners, to);
		if (!l)
			return 0;
	}
	f->slot = l->slot;
	f->id = l->id;
	return 1;
}

static __always_inline int same_listener6(struct listener6 *a, struct listener6 *b)
{
	return a->addr[3] == b->addr[3] && a->addr[2] == b->addr[2] && a->addr[1] == b->addr[1] &&
	       a->addr[0] == b->addr[0] && a->port == b->port && a->protocol == b->protocol;
}

static __always_inline int listening_at6(struct listener6 *to, struct found *f)
{
	struct listening6 *l = bpf_map_lookup_elem(&listeners6, to);

	if (!l)
		return 0;
	if (unlikely(!same_listener6(&l->listener, to))) {
		l = bpf_map_lookup_elem(&listeners6, to);
		if (!l)
			return 0;
	}
	f->slot = l->slot;
	f->id = l->id;
	return 1;
}

static __always_inline struct service *service_at(struct packet *p, __be16 port, struct found *f)
{
	if (p->six) {
		struct listener6 to = {
			.addr = { p->vip[0], p->vip[1], p->vip[2], p->vip[3] },
			.port = port,
			.protocol = p->protocol,
		};

		if (!listening_at6(&to, f))
			return 0;
	} else {
		struct listener to __attribute__((aligned(8))) = {
			.addr = p->vip[3],
			.port = port,
			.protocol = p->protocol,
		};

		if (!listening_at4(&to, f))
			return 0;
	}
	return bpf_map_lookup_elem(&services, &f->slot);
}

#define FTP	 21
#define FTP_DATA 20
#define UNPRIVILEGED 1024

/*
 * ip_vs_ctl.c, ip_vs_service_find: address and port, else the persistent FTP
 * service whose data connection it may be, else the service for every port.
 */
static __always_inline struct service *service_find(struct packet *p, struct parameters *set,
						    struct found *f)
{
	struct service *s = service_at(p, virtual_port(p), f);
	__u16 port = ntohs(virtual_port(p));

	if (s)
		return s;
	if (unlikely(set->ftp) && p->protocol == IPPROTO_TCP &&
	    (port == FTP_DATA || port >= UNPRIVILEGED)) {
		s = service_at(p, htons(FTP), f);
		if (s && s->flags & SERVICE_PERSISTENT)
			return s;
	}
	if (unlikely(set->every_port))
		return service_at(p, 0, f);
	return 0;
}

/*
 * IPVS sees only frames that are addressed to the host. So do we: a frame that
 * a hub or a promiscuous interface shows us is another host's to forward.
 */
static __always_inline int for_this_host(struct frame *f, struct parameters *set, __u32 ifindex)
{
	__u64 to = *(__u32 *)f->eth->destination | (__u64)*(__u16 *)(f->eth->destination + 4) << 32 |
		   (__u64)(f->tag & TAG_VLAN) << 48;
	int i;

	for (i = 0; i < INTERFACES; i++) {
		struct interface *own = &set->interfaces[i];

		if (own->index == ifindex && *(__u64 *)own->mac == to)
			return 1;
	}
	return 0;
}
