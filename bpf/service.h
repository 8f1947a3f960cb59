/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Step 2: is it for a virtual service (and in which slot is that), is the frame for this host? */
#pragma once

static __always_inline struct service *service_at4(struct listener *to, __u32 *at)
{
	__u32 *slot = bpf_map_lookup_elem(&listeners, to);
	struct service *s;

	if (!slot)
		return 0;
	*at = *slot;
	s = bpf_map_lookup_elem(&services, at);
	if (likely(s && *(__u64 *)&s->listener == *(__u64 *)to))
		return s;
	/*
	 * A map element that was replaced under us may already hold another
	 * listener's slot. A second look sees the new element.
	 */
	slot = bpf_map_lookup_elem(&listeners, to);
	if (!slot)
		return 0;
	*at = *slot;
	s = bpf_map_lookup_elem(&services, at);
	return s && *(__u64 *)&s->listener == *(__u64 *)to ? s : 0;
}

static __always_inline int same_address(__be32 *a, __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline int listens6(struct service *s, struct listener6 *to)
{
	return s && s->listener.port == to->port && s->listener.protocol == to->protocol &&
	       same_address(s->addr6, to->addr);
}

static __always_inline struct service *service_at6(struct listener6 *to, __u32 *at)
{
	__u32 *slot = bpf_map_lookup_elem(&listeners6, to);
	struct service *s;

	if (!slot)
		return 0;
	*at = *slot;
	s = bpf_map_lookup_elem(&services, at);
	if (likely(listens6(s, to)))
		return s;
	slot = bpf_map_lookup_elem(&listeners6, to); /* as above */
	if (!slot)
		return 0;
	*at = *slot;
	s = bpf_map_lookup_elem(&services, at);
	return listens6(s, to) ? s : 0;
}

static __always_inline struct service *service_at(struct packet *p, __be16 port, __u32 *slot)
{
	if (p->six) {
		struct listener6 to = {
			.addr = { p->vip[0], p->vip[1], p->vip[2], p->vip[3] },
			.port = port,
			.protocol = p->protocol,
		};

		return service_at6(&to, slot);
	} else {
		struct listener to = { .addr = p->vip[3], .port = port, .protocol = p->protocol };

		return service_at4(&to, slot);
	}
}

#define FTP	 21
#define FTP_DATA 20
#define UNPRIVILEGED 1024

/*
 * ip_vs_ctl.c, ip_vs_service_find: address and port, else the persistent FTP
 * service whose data connection it may be, else the service for every port.
 */
static __always_inline struct service *service_find(struct packet *p, struct parameters *set,
						    __u32 *slot)
{
	struct service *s = service_at(p, virtual_port(p), slot);
	__u16 port = ntohs(virtual_port(p));

	if (s)
		return s;
	if (unlikely(set->ftp) && p->protocol == IPPROTO_TCP &&
	    (port == FTP_DATA || port >= UNPRIVILEGED)) {
		s = service_at(p, htons(FTP), slot);
		if (s && s->flags & SERVICE_PERSISTENT)
			return s;
	}
	if (unlikely(set->every_port))
		return service_at(p, 0, slot);
	return 0;
}

/*
 * IPVS sees only frames that are addressed to the host. So do we: a frame that
 * a hub or a promiscuous interface shows us is another host's to forward.
 */
static __always_inline int for_this_host(struct frame *f, struct parameters *set, __u32 ifindex)
{
	__u64 mac = *(__u32 *)f->eth->destination | (__u64)*(__u16 *)(f->eth->destination + 4) << 32;
	int i;

	for (i = 0; i < INTERFACES; i++) {
		struct interface *own = &set->interfaces[i];

		if (own->index == ifindex)
			return mac == (*(__u32 *)own->mac | (__u64)*(__u16 *)(own->mac + 4) << 32);
	}
	return 0;
}
